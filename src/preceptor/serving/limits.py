"""How much one key may use per minute: a bucket that fills evenly and holds one minute's worth."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from preceptor.config import ServeConfig
from preceptor.serving.errors import ApiError, whole_seconds
from preceptor.store.keys import ApiKey


@dataclass(slots=True)
class Bucket:
    """`rate` per minute; starts full."""

    rate: float
    level: float
    at: float

    def take(self, amount: float, now: float) -> float:
        """Take `amount`, at most a full bucket; returns 0, or the seconds until there is enough and takes nothing."""
        self.level = min(self.rate, self.level + (now - self.at) * self.rate / 60)
        self.at = now
        amount = min(amount, self.rate)
        if amount <= self.level:
            self.level -= amount
            return 0.0
        return (amount - self.level) * 60 / self.rate

    def give_back(self, amount: float) -> None:
        self.level = min(self.rate, self.level + amount)


class Limits:
    """The buckets of all keys, in this process's memory."""

    def __init__(self, config: ServeConfig, now: Callable[[], float] = time.monotonic):
        self.config, self.now = config, now
        self.lock = threading.Lock()
        self.buckets: dict[tuple[str, str], Bucket] = {}

    def take_request(self, key: ApiKey) -> None:
        """Count a request. Raises ApiError 429."""
        self._take(key, "requests", key.requests_per_minute or self.config.requests_per_minute, 1)

    def take_tokens(self, key: ApiKey, tokens: int) -> None:
        """Reserve the most tokens a request may use. Raises ApiError 429."""
        self._take(key, "tokens", key.tokens_per_minute or self.config.tokens_per_minute, tokens)

    def give_back_tokens(self, key: ApiKey, tokens: int) -> None:
        """Return what was reserved and not used."""
        with self.lock:
            bucket = self.buckets.get((key.id, "tokens"))
            if bucket is not None:
                bucket.give_back(tokens)

    def _take(self, key: ApiKey, unit: str, rate: int | None, amount: int) -> None:
        if rate is None:
            return
        with self.lock:
            now = self.now()
            bucket = self.buckets.setdefault((key.id, unit), Bucket(rate, rate, now))
            seconds = bucket.take(amount, now)
        if seconds:
            raise ApiError(
                429,
                f"the key {key.name!r} may use {rate} {unit} per minute; try again in {whole_seconds(seconds)} s",
                code="rate_limit_exceeded",
                seconds=seconds,
            )
