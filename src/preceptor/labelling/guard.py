"""The outermost layer of the web app: sizes, origins, headers, one log line for each request."""

import json
import logging
import secrets
import time
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("preceptor.web")

SAFE = ("GET", "HEAD", "OPTIONS")
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1", "[::1]"})
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


class TooLarge(Exception):
    """The body is over the cap."""


class Guard:
    """`max_bytes` caps every request body. `hosts` are the names this server answers to; none: any name.

    A request that changes something must come from a page of this server: `Sec-Fetch-Site` or `Origin` says so.
    Programs that send a bearer token and no cookie are not browsers and pass.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, hosts: Collection[str] = (), trusted: Collection[str] = ()):
        self.app = app
        self.max_bytes = max_bytes
        self.hosts = frozenset(hosts)
        self.trusted = frozenset(trusted)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status, request_id = time.perf_counter(), 500, secrets.token_hex(8)
        headers = Headers(scope=scope)

        async def answer(message: Message) -> None:
            nonlocal status, request_id
            if message["type"] == "http.response.start":
                status = message["status"]
                out = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    out.setdefault(name, value)
                if not scope["path"].startswith("/static/"):
                    out.setdefault("cache-control", "no-store")
                # The API numbers its own answers; the log names each by the number its client saw.
                request_id = out.setdefault("x-request-id", request_id)
            await send(message)

        refusal = self._refusal(scope, headers)
        try:
            if refusal is not None:
                await refusal(scope, receive, answer)
            else:
                await self.app(scope, self._capped(receive), answer)
        except TooLarge:
            status = 413
            await _too_large(self.max_bytes)(scope, receive, answer)
        finally:
            line = {
                "id": request_id,
                "method": scope["method"],
                "path": hide_token(scope["path"]),
                "status": status,
                "ms": round(1000 * (time.perf_counter() - started), 1),
                "user": scope.get("state", {}).get("user_id"),
            }
            log.info(json.dumps(line))

    def _refusal(self, scope: Scope, headers: Headers) -> PlainTextResponse | None:
        method = scope["method"]
        if "\x00" in scope["path"] or b"%00" in scope["query_string"]:
            return PlainTextResponse("There is no such page.\n", 404)
        host = headers.get("host", "")
        name = urlsplit(f"//{host}").hostname or ""
        if self.hosts and name not in self.hosts:
            return PlainTextResponse(f"This server does not answer to the name {name}.\n", 400)
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self.max_bytes:
            return _too_large(self.max_bytes)
        if method in SAFE or (headers.get("authorization", "").startswith("Bearer ") and "cookie" not in headers):
            return None
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        foreign = site is not None and site not in ("same-origin", "none")
        if origin is not None and origin not in self.trusted:
            foreign = foreign or urlsplit(origin).netloc != host
        elif origin in self.trusted:
            foreign = False
        if foreign:
            return PlainTextResponse("This form was sent from another site. Nothing was changed.\n", 403)
        return None

    def _capped(self, receive: Receive) -> Receive:
        seen = 0

        async def capped() -> Message:
            nonlocal seen
            message = await receive()
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > self.max_bytes:
                    raise TooLarge
            return message

        return capped


def _too_large(max_bytes: int) -> PlainTextResponse:
    limit = f"{max_bytes / 1_000_000:g} MB"
    text = f"That is too long: one page may send {limit} at most. Nothing was saved. Go back, shorten it, send again.\n"
    return PlainTextResponse(text, 413)


def hide_token(path: str) -> str:
    """Links that give access are not written into logs."""
    return "/invite/…" if path.startswith("/invite/") else path
