"""Who is asking, may they, and did their own page ask: cookies, form tokens, roles, rate limits."""

import hashlib
import hmac
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Annotated, Any

from anyio import to_thread
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerifyMismatchError
from fastapi import Depends, Request
from fastapi.responses import Response
from starlette.datastructures import UploadFile

from preceptor.store.accounts import SESSION_SECONDS, Accounts, User

MAX_FIELDS = 400
PASSWORD_CHARACTERS = (12, 1000)


class NotSignedIn(Exception):
    """No session, or one that ended."""


class NotAllowed(Exception):
    """Signed in, but this is not for them."""


class StaleForm(Exception):
    """The form's token does not belong to this visitor."""


class TooMany(Exception):
    """Over a rate limit. `seconds` until it makes sense to try again."""

    def __init__(self, seconds: int):
        super().__init__(seconds)
        self.seconds = seconds


class Window:
    """At most `most` hits in any `seconds`, for each key. Counters live in memory and are dropped when they are empty.

    The clock is monotonic: setting the machine's clock neither frees nor blocks anybody. Not the `limits` package:
    its memory storage starts a thread for every hit.
    """

    def __init__(self, most: int, seconds: float, clock: Callable[[], float] = time.monotonic):
        self.most = most
        self.seconds = seconds
        self.clock = clock
        self._hits: dict[str, deque[float]] = {}
        self._lock = Lock()
        self._swept = clock()

    def hit(self, key: str) -> bool:
        """Count one. False, and nothing counted, where the window is full."""
        with self._lock:
            hits = self._recent(key)
            if len(hits) >= self.most:
                return False
            hits.append(self.clock())
            self._hits[key] = hits
            return True

    def left(self, key: str) -> int:
        """How many more the window takes now."""
        with self._lock:
            return self.most - len(self._recent(key))

    def wait(self, key: str) -> float:
        """Seconds until the window takes one more."""
        with self._lock:
            hits = self._recent(key)
            return hits[0] + self.seconds - self.clock() if len(hits) >= self.most else 0.0

    def clear(self, key: str) -> None:
        with self._lock:
            self._hits.pop(key, None)

    def _recent(self, key: str) -> deque[float]:
        since = self.clock() - self.seconds
        if self._swept < since:  # once a window: keys that nobody uses any more
            self._hits = {name: hits for name, hits in self._hits.items() if hits and hits[-1] > since}
            self._swept = self.clock()
        hits = self._hits.get(key, deque())
        while hits and hits[0] <= since:
            hits.popleft()
        return hits


class Gate:
    """Passwords (argon2id), cookies and the counters of tries. One of these per app; counters live in memory."""

    def __init__(self, accounts: Accounts, *, secure: bool, writes_per_minute: int, tries: int = 5, pause: int = 15):
        self.accounts = accounts
        self.secure = secure
        self.session_cookie = "__Host-session" if secure else "session"
        self.visit_cookie = "__Host-visit" if secure else "visit"
        self.tries = tries
        self.pause_minutes = pause
        self._hasher = PasswordHasher()
        self._nobody = self._hasher.hash(secrets.token_hex(16))
        self._writes = Window(writes_per_minute, 60.0)
        self._signin = Window(tries, 60.0 * pause)
        self._per_address = Window(20 * tries, 60.0 * pause)

    def hash(self, password: str) -> str:
        return self._hasher.hash(password)

    def verify(self, user: User | None, password: str) -> bool:
        """Takes the same time whether the user exists or not."""
        try:
            self._hasher.verify(user.password_hash if user else self._nobody, password)
        except (VerifyMismatchError, InvalidHashError):
            return False
        if user is not None and self._hasher.check_needs_rehash(user.password_hash):
            self.accounts.rehash(user.id, self._hasher.hash(password))
        return user is not None and user.state != "disabled"

    def tries_left(self, email: str, address: str) -> int:
        return min(self._signin.left(email), self._per_address.left(address))

    def count_failure(self, email: str, address: str) -> None:
        self._signin.hit(email)
        self._per_address.hit(address)

    def forget_failures(self, email: str) -> None:
        self._signin.clear(email)

    def count_write(self, who: str) -> None:
        if not self._writes.hit(who):
            raise TooMany(max(1, round(self._writes.wait(who))))

    def set_session(self, response: Response, token: str) -> None:
        self._set(response, self.session_cookie, token, int(SESSION_SECONDS))

    def set_visit(self, response: Response, token: str) -> None:
        self._set(response, self.visit_cookie, token, None)

    def _set(self, response: Response, name: str, token: str, age: int | None) -> None:
        response.set_cookie(name, token, max_age=age, path="/", httponly=True, secure=self.secure, samesite="lax")

    def drop_session(self, response: Response) -> None:
        response.delete_cookie(self.session_cookie, path="/", httponly=True, secure=self.secure, samesite="lax")


@dataclass(frozen=True)
class Form:
    """The fields of a posted form, text only, checked for its token."""

    fields: Mapping[str, str]
    lists: Mapping[str, list[str]]

    def get(self, name: str, default: str = "") -> str:
        return self.fields.get(name, default)

    def several(self, name: str) -> list[str]:
        return self.lists.get(name, [])


def gate_of(request: Request) -> Gate:
    return request.app.state.gate


def form_token(request: Request) -> str:
    """The token that every form of this visitor carries. It follows from what is there, so nothing more is stored.

    Of somebody signed in it follows from their password's salted hash: a page that was open when their session ended
    goes on working once they have signed in again. Of others it follows from a cookie.
    """
    if user := visitor(request):
        return hmac.new(user.password_hash.encode(), f"form {user.id}".encode(), hashlib.sha256).hexdigest()
    cookie = request.cookies.get(gate_of(request).visit_cookie) or getattr(request.state, "new_visit", None)
    if cookie is None:
        cookie = request.state.new_visit = secrets.token_urlsafe(24)
    return hmac.new(cookie.encode(), b"form", hashlib.sha256).hexdigest()


def visitor(request: Request) -> User | None:
    """The signed-in user, if any."""
    if not hasattr(request.state, "user"):
        token = request.cookies.get(gate_of(request).session_cookie)
        found = gate_of(request).accounts.find_session(token) if token else None
        request.state.user, request.state.session_id = found or (None, None)
        request.state.user_id = found[0].id if found else None
    return request.state.user


def signed_in(request: Request) -> User:
    user = visitor(request)
    if user is None:
        raise NotSignedIn
    return user


def researcher(user: Annotated[User, Depends(signed_in)]) -> User:
    if not user.researches:
        raise NotAllowed
    return user


def admin(user: Annotated[User, Depends(signed_in)]) -> User:
    if user.role != "admin":
        raise NotAllowed
    return user


async def posted(request: Request) -> Form:
    """The posted form. The rate limit comes first, then the token, so that a flood costs little.

    Counted by session where there is one, else by address: a cookie that somebody made up opens no window of its own.
    """
    await to_thread.run_sync(visitor, request)
    address = request.client.host if request.client else ""
    gate_of(request).count_write(request.state.session_id or address)
    form = await request.form(max_files=0, max_fields=MAX_FIELDS)
    fields: dict[str, str] = {}
    lists: dict[str, list[str]] = {}
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            continue
        text = value.replace("\r\n", "\n").replace("\x00", "").encode("utf-8", "replace").decode()
        fields[name] = text
        lists.setdefault(name, []).append(text)
    if not hmac.compare_digest(fields.get("token", "").encode(), form_token(request).encode()):
        raise StaleForm
    return Form(fields, lists)


Labeler = Annotated[User, Depends(signed_in)]
Researcher = Annotated[User, Depends(researcher)]
Admin = Annotated[User, Depends(admin)]
Posted = Annotated[Form, Depends(posted)]


def form_body(**fields: Any) -> dict[str, Any]:
    """The OpenAPI description of a posted form: name -> JSON schema, `str` for any text."""
    properties = {"token": {"type": "string"}}
    properties |= {name: {"type": "string"} if schema is str else schema for name, schema in fields.items()}
    schema = {"type": "object", "properties": properties, "required": ["token"]}
    return {"requestBody": {"content": {"application/x-www-form-urlencoded": {"schema": schema}}}}
