"""A number, what it rests on, and how far it may be off. Standard library only."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """An estimate with its 95 % interval.

    `n` counts what was judged (comparisons, answers, items); `clusters` counts what was drawn independently
    (prompts). An end that nothing is known about is infinite for a mean, and 0 or 1 for a share.
    """

    value: float
    low: float
    high: float
    n: int
    clusters: int

    def above(self, line: float) -> bool:
        """The whole interval lies above `line`."""
        return self.low > line

    def below(self, line: float) -> bool:
        return self.high < line

    def flipped(self) -> "Interval":
        """The same share seen from the other side: 1 - share."""
        return Interval(value=1 - self.value, low=1 - self.high, high=1 - self.low, n=self.n, clusters=self.clusters)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; an infinite end, and a value of nothing (n = 0), is written as null."""
        numbers = {"value": self.value, "low": self.low, "high": self.high}
        shown = {name: number if math.isfinite(number) else None for name, number in numbers.items()}
        return {**shown, "n": self.n, "clusters": self.clusters}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Interval":
        value, low, high = data["value"], data["low"], data["high"]
        return Interval(
            value=math.nan if value is None else value,
            low=-math.inf if low is None else low,
            high=math.inf if high is None else high,
            n=data["n"],
            clusters=data["clusters"],
        )
