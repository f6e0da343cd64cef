"""Queues of work: which prompts and answers are labelled, how often, by whom, and who holds which item now."""

import hashlib
import random
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, case, func, insert, select, text, update

from preceptor.errors import UserError
from preceptor.store.accounts import new_id
from preceptor.store.schema import Row, completions, demonstrations, prompts
from preceptor.store.schema_labelling import assignments, queues, submissions, tasks
from preceptor.store.statements import (
    HOLD,
    WAITING_PER_QUEUE,
    held_item,
    next_items,
    open_queues,
    prompt_queue,
)
from preceptor.store.store import Store
from preceptor.types import is_red_team

KINDS = ("rank", "demonstration", "compare", "prompt", "toxicity", "red-team")
CANDIDATES = 50  # items looked through for one whose subjects the labeler has not asked to avoid


@dataclass(frozen=True, kw_only=True, slots=True)
class Queue:
    """What to label. `overlap_share` of the prompts, drawn with `seed`, go to `overlap_labels` people, the rest to one.

    `models` empty: answers of every model; for `compare` exactly two names. `cohort` `any` is for both.
    """

    id: str
    name: str
    kind: str
    rubric: str
    cohort: str = "training"
    k_min: int = 4
    k_max: int = 9
    overlap_share: float = 0.2
    overlap_labels: int = 2
    seed: int = 0
    models: Sequence[str] = ()
    split: str = "any"
    target: int = 0
    lease_minutes: float = 120.0
    state: str = "open"
    screening_id: str | None = None
    created_at: float = 0.0


def draw(seed: int, *parts: str) -> float:
    """A number in [0, 1) that follows from the seed and the parts alone."""
    digest = hashlib.sha256("\n".join((str(seed), *parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


class Queues:
    def __init__(self, store: Store, now: Callable[[], float] = time.time):
        self.store = store
        self.now = now

    def create(self, queue: Queue, only: Collection[str] | None = None) -> Queue:
        """Make the queue and fill it, see `fill`."""
        _check(queue)
        row = asdict(queue) | {"created_at": self.now(), "models": list(queue.models)}
        with self.store.write() as connection:
            connection.execute(insert(queues).values(row))
        self.fill(queue.id, only)
        return self.queue(queue.id)

    def queue(self, queue_id: str) -> Queue:
        with self.store.read() as connection:
            row = connection.execute(select(queues).where(queues.c.id == queue_id)).mappings().first()
        if row is None:
            raise LookupError(queue_id)
        return Queue(**row)

    def queues(self, *, screening: bool | None = None) -> list[Queue]:
        query = select(queues).order_by(queues.c.created_at, queues.c.id)
        if screening is not None:
            query = query.where(queues.c.screening_id.is_not(None) if screening else queues.c.screening_id.is_(None))
        with self.store.read() as connection:
            return [Queue(**row) for row in connection.execute(query).mappings()]

    def set_state(self, queue_id: str, state: str) -> None:
        with self.store.write() as connection:
            connection.execute(update(queues).where(queues.c.id == queue_id).values(state=state))

    # -- filling --------------------------------------------------------------------------------------------

    def fill(self, queue_id: str, only: Collection[str] | None = None) -> int:
        """Add an item for every prompt that fits the queue and is not in it yet. Returns how many were added.

        `only`: prompts with these ids, whatever else fits.
        """
        queue = self.queue(queue_id)
        if queue.kind == "prompt":
            return 0
        wanted = None if only is None else set(only)
        with self.store.write() as connection:
            there = set(connection.execute(select(tasks.c.prompt_id).where(tasks.c.queue_id == queue.id)).scalars())
            rows = [
                self._task(queue, prompt_id, chosen)
                for prompt_id, chosen in self._material(connection, queue)
                if prompt_id not in there and (wanted is None or prompt_id in wanted)
            ]
            for start in range(0, len(rows), 500):
                connection.execute(insert(tasks), rows[start : start + 500])
        return len(rows)

    def _task(self, queue: Queue, prompt_id: str | None, chosen: Sequence[str]) -> dict[str, Any]:
        shared = prompt_id is not None and draw(queue.seed, "overlap", prompt_id) < queue.overlap_share
        return {
            "id": new_id("t"),
            "queue_id": queue.id,
            "prompt_id": prompt_id,
            "completion_ids": list(chosen),
            "wanted": queue.overlap_labels if shared else 1,
            "position": draw(queue.seed, "position", prompt_id or ""),
            "state": "open",
            "created_at": self.now(),
        }

    def _material(self, connection: Connection, queue: Queue) -> Iterator[tuple[str, list[str]]]:
        """(prompt id, completion ids) for each prompt that fits."""
        fits: list[ColumnElement[bool]] = [prompts.c.consent.is_(True)]
        if queue.split != "any":
            fits.append(prompts.c.split == queue.split)
        if queue.kind == "demonstration":
            written = select(demonstrations.c.id).where(demonstrations.c.prompt_id == prompts.c.id).exists()
            for prompt_id in connection.execute(select(prompts.c.id).where(~written, *fits)).scalars():
                yield prompt_id, []
            return
        answer = (completions.c.prompt_id, completions.c.id, completions.c.model_id, completions.c.text)
        query = select(*answer, prompts.c.meta)
        query = query.join(prompts, completions.c.prompt_id == prompts.c.id).where(*fits)
        if queue.models:
            query = query.where(completions.c.model_id.in_(list(queue.models)))
        rows = connection.execute(query.order_by(completions.c.prompt_id, completions.c.id))
        for prompt_id, group in groupby(rows, key=lambda row: row.prompt_id):
            shuffled = sorted(group, key=lambda row: draw(queue.seed, "answer", row.id))
            if queue.kind == "red-team" and not is_red_team(shuffled[0].meta):
                continue
            if queue.kind == "compare":
                firsts = {row.model_id: row.id for row in reversed(shuffled)}
                if all(name in firsts for name in queue.models):
                    yield prompt_id, [firsts[name] for name in queue.models]
                continue
            distinct = {row.text: row.id for row in reversed(shuffled)}  # two equal answers are shown as one
            chosen = [row.id for row in shuffled if distinct[row.text] == row.id][: queue.k_max]
            if len(chosen) >= queue.k_min:
                yield prompt_id, chosen

    # -- handing out ----------------------------------------------------------------------------------------

    def take(
        self,
        labeler_id: str,
        kind: str,
        *,
        cohort: str,
        trial: bool,
        avoid: Collection[str] = (),
        queue_id: str = "",
        anywhere: bool = False,
    ) -> str | None:
        """Give the labeler an item of this kind and hold it for them. Returns the assignment's id, none if all is done.

        Someone who holds an item of this kind gets that one again. Two calls at once never hand out a label twice.
        `anywhere` opens every queue, whatever its cohort: for researchers who answer a screening round themselves.
        """
        now = self.now()
        with self.store.write() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(727364)"))
            shape = (trial, anywhere, bool(queue_id))
            given = {"labeler": labeler_id, "cohort": cohort, "now": now, "kind": kind, "queue": queue_id}
            if found := connection.execute(held_item(*shape), given).scalars().first():
                return found
            if kind == "prompt":
                queue = connection.execute(prompt_queue(*shape), given).mappings().first()
                return self._take_prompt(connection, labeler_id, Queue(**queue)) if queue else None
            given["most"] = CANDIDATES if avoid else 1
            for row in connection.execute(next_items(*shape), given).mappings():
                if not set(avoid) & set(row["meta"].get("subjects", ())):
                    return self._hold(connection, row["id"], labeler_id, row["completion_ids"], row["lease_minutes"])
        return None

    def hold_task(self, task_id: str, labeler_id: str) -> str:
        """Give this very item to this labeler, besides those who have it: to settle a disagreement."""
        query = select(tasks.c.completion_ids, queues.c.lease_minutes).join(queues, tasks.c.queue_id == queues.c.id)
        own = select(assignments.c.id).where(assignments.c.task_id == task_id, assignments.c.labeler_id == labeler_id)
        with self.store.write() as connection:
            if found := connection.execute(own).scalars().first():
                return found
            row = connection.execute(query.where(tasks.c.id == task_id)).first()
            if row is None:
                raise LookupError(task_id)
            return self._hold(connection, task_id, labeler_id, row.completion_ids, row.lease_minutes)

    def _take_prompt(self, connection: Connection, labeler_id: str, queue: Queue) -> str:
        row = self._task(queue, None, [])
        connection.execute(insert(tasks).values(row))
        return self._hold(connection, row["id"], labeler_id, [], queue.lease_minutes)

    def _hold(
        self, connection: Connection, task_id: str, labeler_id: str, chosen: Sequence[str], minutes: float
    ) -> str:
        shown = sorted(chosen)
        random.Random(f"{task_id} {labeler_id}").shuffle(shown)
        now = self.now()
        row = {
            "id": new_id("a"),
            "task_id": task_id,
            "labeler_id": labeler_id,
            "state": "held",
            "shown": shown,
            "opened_at": now,
            "expires_at": now + 60 * minutes,
            "seconds": 0.0,
            "touched_at": now,
            "version": 0,
            "revision": 0,
        }
        connection.execute(HOLD, row)
        return row["id"]

    def open_to(self, labeler_id: str, *, cohort: str, trial: bool) -> list[Row]:
        """The open queues a labeler may work on, each with `waiting`, the number of items for them."""
        given = {"labeler": labeler_id, "cohort": cohort, "now": self.now()}
        with self.store.read() as connection:
            rows = connection.execute(open_queues(trial), given).mappings().all()
            counts = connection.execute(WAITING_PER_QUEUE, given).all() if rows else ()
        waits = {row.queue_id: row.waiting for row in counts}
        return [dict(row) | {"waiting": waits.get(row["id"], 0)} for row in rows]

    def progress(self) -> dict[str, dict[str, int]]:
        """Queue id -> labels `done`, `waiting` and `held` now, items `seen_twice` or more, `halted` and in all."""
        now = self.now()
        done = func.coalesce(func.sum(_one(assignments.c.state == "submitted")), 0).label("done")
        held = func.coalesce(
            func.sum(_one(and_(assignments.c.state == "held", assignments.c.expires_at > now))), 0
        ).label("held")
        per_task = (
            select(tasks.c.id, tasks.c.queue_id, tasks.c.wanted, tasks.c.state, done, held)
            .join(assignments, assignments.c.task_id == tasks.c.id, isouter=True)
            .group_by(tasks.c.id, tasks.c.queue_id, tasks.c.wanted, tasks.c.state)
        )
        empty = {"items": 0, "done": 0, "held": 0, "waiting": 0, "seen_twice": 0, "halted": 0}
        with self.store.read() as connection:
            result = {queue_id: dict(empty) for queue_id in connection.execute(select(queues.c.id)).scalars()}
            for row in connection.execute(per_task):
                counts = result[row.queue_id]
                counts["items"] += 1
                counts["done"] += row.done
                counts["held"] += row.held
                counts["halted"] += row.state == "halted"
                counts["seen_twice"] += row.done > 1
                if row.state == "open":
                    counts["waiting"] += max(0, row.wanted - row.done - row.held)
        return result

    def release_task(self, task_id: str, state: str) -> None:
        """A researcher's decision on a reported item: `open` again, or `done` without a label."""
        with self.store.write() as connection:
            connection.execute(update(tasks).where(tasks.c.id == task_id).values(state=state))

    def halted(self) -> list[Row]:
        """Reported items with the reasons, newest first."""
        query = (
            select(submissions.c.id, submissions.c.task_id, submissions.c.body, submissions.c.at, prompts.c.messages)
            .add_columns(queues.c.name.label("queue"))
            .join(tasks, submissions.c.task_id == tasks.c.id)
            .join(queues, tasks.c.queue_id == queues.c.id)
            .join(prompts, tasks.c.prompt_id == prompts.c.id, isouter=True)
            .where(submissions.c.kind == "report", submissions.c.withdrawn_at.is_(None), tasks.c.state == "halted")
            .order_by(submissions.c.at.desc())
        )
        with self.store.read() as connection:
            return list(connection.execute(query).mappings())


def _one(condition: Any):
    return case((condition, 1), else_=0)


def _check(queue: Queue) -> None:
    if queue.kind not in KINDS:
        raise UserError(f"a queue cannot be of kind {queue.kind!r}; choose one of {', '.join(KINDS)}")
    if not queue.name.strip():
        raise UserError("the queue has no name; labelers see it, so give it one")
    if queue.kind == "rank" and not 4 <= queue.k_min <= queue.k_max <= 9:
        raise UserError("K goes from 4 to 9. For two answers, make a comparison queue.")
    if queue.kind in ("toxicity", "red-team") and not 1 <= queue.k_min <= queue.k_max <= 9:
        raise UserError(f"A {queue.kind} queue shows 1 to 9 answers of a prompt.")
    if queue.kind == "compare" and len(set(queue.models)) != 2:
        raise UserError("A comparison queue needs two different models.")
    if not 0 <= queue.overlap_share <= 1:
        raise UserError("The share seen by several people goes from 0 to 100 %.")
    if not 2 <= queue.overlap_labels <= 100:
        raise UserError("An item that is shared goes to 2 people or more, at most 100.")
    if queue.cohort not in ("training", "held-out", "any"):
        raise UserError(f"there is no cohort {queue.cohort!r}; choose training, held-out or any")
    if not 1 <= queue.lease_minutes <= 10080:
        raise UserError("An item is held for 1 minute to 7 days.")
