"""API keys: made, listed, revoked, looked up. A key is shown once; the store keeps its SHA-256 only."""

import hashlib
import secrets
import time
from dataclasses import dataclass

from sqlalchemy import insert, select, update

from preceptor.errors import UserError
from preceptor.store.schema import Row
from preceptor.store.schema_serving import api_keys
from preceptor.store.store import Store

PREFIX = "sk-preceptor-"


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiKey:
    """A key without its secret. `name` is its owner: the user id of prompts that come with consent."""

    id: str
    name: str
    hint: str
    requests_per_minute: int | None
    tokens_per_minute: int | None
    created_at: float
    revoked_at: float | None


def add_key(
    store: Store, name: str, *, requests_per_minute: int | None = None, tokens_per_minute: int | None = None
) -> tuple[ApiKey, str]:
    """A new key for the owner `name`, and its secret, which nobody can read again. None is no limit.

    Raises UserError for an empty name, one that has a key in use, or a limit below 1.
    """
    name = name.strip()
    if not name or not name.isprintable() or len(name) > 100:
        raise UserError(f"the name of a key is {name!r}; give it 1 to 100 printable characters")
    for limit, value in (("requests_per_minute", requests_per_minute), ("tokens_per_minute", tokens_per_minute)):
        if value is not None and value < 1:
            raise UserError(f"{limit} is {value}; give 1 or more, or leave it out for no limit")
    secret = PREFIX + secrets.token_urlsafe(32)
    row = {
        "id": f"k_{secrets.token_hex(10)}",
        "name": name,
        "key_hash": _hash(secret),
        "hint": secret[: len(PREFIX) + 4],
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "created_at": time.time(),
        "revoked_at": None,
    }
    with store.write() as connection:
        live = select(api_keys.c.id).where(api_keys.c.name == name, api_keys.c.revoked_at.is_(None))
        if connection.execute(live).first():
            raise UserError(f"{name!r} has a key already; revoke it first, or choose another name")
        connection.execute(insert(api_keys).values(row))
    return _key(row), secret


def list_keys(store: Store, *, revoked: bool = False) -> list[ApiKey]:
    """Keys in use, oldest first; with `revoked` those too that no longer work."""
    query = select(api_keys).order_by(api_keys.c.created_at)
    if not revoked:
        query = query.where(api_keys.c.revoked_at.is_(None))
    with store.read() as connection:
        return [_key(row) for row in connection.execute(query).mappings()]


def revoke_key(store: Store, name: str) -> ApiKey:
    """End the key in use with this name or id; at the next request it is refused. UserError where there is none."""
    with store.write() as connection:
        live = ((api_keys.c.name == name) | (api_keys.c.id == name)) & api_keys.c.revoked_at.is_(None)
        row = connection.execute(select(api_keys).where(live)).mappings().first()
        if row is None:
            raise UserError(f"no key {name!r} is in use; see: preceptor keys list")
        now = time.time()
        connection.execute(update(api_keys).where(api_keys.c.id == row["id"]).values(revoked_at=now))
    return _key(dict(row) | {"revoked_at": now})


def find_key(store: Store, secret: str) -> ApiKey | None:
    """The key in use with this secret."""
    query = select(api_keys).where(api_keys.c.key_hash == _hash(secret), api_keys.c.revoked_at.is_(None))
    with store.read() as connection:
        row = connection.execute(query).mappings().first()
    return _key(row) if row else None


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def _key(row: Row) -> ApiKey:
    return ApiKey(**{name: value for name, value in row.items() if name != "key_hash"})
