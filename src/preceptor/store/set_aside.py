"""Prompts that intake held back: too long, over their user's cap, in another language, with personal data.

They stand in no queue and in no release until a researcher releases them. One who was dropped stays dropped when the
same file is imported again.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import Connection, func, insert, select, update

from preceptor.store.accounts import Accounts
from preceptor.store.schema import Row
from preceptor.store.schema_labelling import set_aside as table
from preceptor.store.store import BATCH, Store, prompt_of
from preceptor.types import Prompt

REASONS = ("length", "cap", "language", "personal data")
DECISIONS = ("released", "dropped")


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """`detail` says what was found, `origin` in which file; `id` is the prompt's."""

    prompt: Prompt
    reason: str
    detail: str
    origin: str
    at: float = 0.0

    @property
    def id(self) -> str:
        return self.prompt.id


def hold(connection: Connection, items: Sequence[Held], now: float | None = None) -> int:
    """Set prompts aside; those that were set aside before stay as they are. Returns how many are new."""
    there = select(table.c.id).where(table.c.id.in_([item.id for item in items]))
    known = set(connection.execute(there).scalars())
    fresh = {item.id: item for item in items if item.id not in known}
    moment = time.time() if now is None else now
    rows = [_row(item) | {"at": moment} for item in fresh.values()]
    if rows:
        connection.execute(insert(table), rows)
    return len(rows)


def waiting(store: Store, reason: str | None = None, limit: int = 50) -> list[Held]:
    """Prompts that nobody decided on yet, the oldest first."""
    query = select(table).where(table.c.decision.is_(None)).order_by(table.c.at, table.c.id).limit(limit)
    if reason is not None:
        query = query.where(table.c.reason == reason)
    with store.read() as connection:
        return [_held(row) for row in connection.execute(query).mappings()]


def counts(store: Store) -> dict[str, int]:
    """Reason -> how many wait."""
    query = select(table.c.reason, func.count().label("n")).where(table.c.decision.is_(None)).group_by(table.c.reason)
    with store.read() as connection:
        return {row.reason: row.n for row in connection.execute(query)}


def decide(store: Store, ids: Iterable[str], decision: str, actor: str, now: float | None = None) -> int:
    """Release prompts into the store, or drop them; one transaction. Those decided on before are left alone.

    Returns how many were decided on. Raises LookupError for an unknown decision.
    """
    if decision not in DECISIONS:
        raise LookupError(decision)
    moment = time.time() if now is None else now
    wanted = list(dict.fromkeys(ids))
    done = 0
    with store.write() as connection:
        for start in range(0, len(wanted), BATCH):
            open_ones = table.c.id.in_(wanted[start : start + BATCH]) & table.c.decision.is_(None)
            found = [_held(row) for row in connection.execute(select(table).where(open_ones)).mappings()]
            if decision == "released":
                there = store.prompts_by_id([item.id for item in found], connection)
                store.add_prompts([item.prompt for item in found if item.id not in there], within=connection)
            values = {"decision": decision, "decided_by": actor, "decided_at": moment}
            connection.execute(update(table).where(open_ones).values(values))
            done += len(found)
        Accounts(store, lambda: moment).record(connection, actor, f"prompts {decision}", "", number=done)
    return done


def _row(item: Held) -> dict:
    prompt = asdict(item.prompt)
    prompt["meta"] = dict(item.prompt.meta)
    return {
        "id": item.id,
        "prompt": prompt,
        "user_id": item.prompt.user_id,
        "reason": item.reason,
        "detail": item.detail,
        "origin": item.origin,
    }


def _held(row: Row) -> Held:
    return Held(prompt=prompt_of(row["prompt"]), **{name: row[name] for name in ("reason", "detail", "origin", "at")})
