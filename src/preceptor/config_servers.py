"""Settings of the servers: the OpenAI-compatible one, and the web app. Their stages' siblings are in `config.py`."""

from dataclasses import dataclass

from preceptor.errors import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeConfig:
    """The OpenAI-compatible server: `preceptor serve`, and the API beside the pages of `preceptor web`."""

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


@dataclass(frozen=True, kw_only=True, slots=True)
class WebConfig:
    """The web app: `preceptor web`."""

    host: str = "127.0.0.1"
    """Address to listen on; the default can be reached from this machine only."""

    port: int = 8000
    """TCP port; 0 takes a free one."""

    hosts: tuple[str, ...] = ()
    """Names under which the server may be called, besides those of this machine."""

    trusted_origins: tuple[str, ...] = ()
    """Origins of a proxy in front of the server whose forms are accepted."""

    secure_cookies: bool | None = None
    """Cookies for HTTPS only; by default everywhere but on this machine's own addresses."""

    writes_per_minute: int = 240
    """Forms that one person may send in a minute."""

    def __post_init__(self) -> None:
        if self.writes_per_minute < 1:
            raise UserError(f"web: writes_per_minute is {self.writes_per_minute}; give 1 or more")
        if not 0 <= self.port <= 65535:
            raise UserError(f"web: port is {self.port}; it lies between 0 and 65535")
