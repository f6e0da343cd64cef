"""Settings of the server: the table `[serve]` of `preceptor.toml`, or options of `preceptor serve`."""

from dataclasses import dataclass

from preceptor.errors import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeConfig:
    """The OpenAI-compatible server."""

    host: str = "127.0.0.1"
    """Address to listen on; the default can be reached from this machine only."""

    port: int = 8000
    """TCP port; 0 takes a free one."""

    rows: int = 32
    """Answers of one model that decode together."""

    queue: int = 64
    """Answers that may wait for a row; a request beyond that gets status 429."""

    loaded: int = 4
    """Models kept in memory; the one that was used longest ago makes room."""

    context: int | None = None
    """Tokens of prompt and answer together; what the model's config says when absent."""

    requests_per_minute: int | None = None
    """Requests per minute of a key that has no limit of its own; no limit when absent."""

    tokens_per_minute: int | None = None
    """Tokens (prompt and answer) per minute of a key that has no limit of its own; no limit when absent."""

    max_body: int = 2_000_000
    """Bytes of a request body at most."""

    drain_seconds: int = 60
    """Seconds that running answers get to finish after SIGTERM."""

    def __post_init__(self) -> None:
        for name in ("rows", "queue", "loaded", "max_body", "drain_seconds"):
            if getattr(self, name) < 1:
                raise UserError(f"serve: {name} is {getattr(self, name)}; give 1 or more")
        for name in ("context", "requests_per_minute", "tokens_per_minute"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"serve: {name} is {value}; give 1 or more, or leave it out")
        if not 0 <= self.port <= 65535:
            raise UserError(f"serve: port is {self.port}; it lies between 0 and 65535")
