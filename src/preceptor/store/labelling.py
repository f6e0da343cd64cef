"""What labelers do: drafts, submissions, second thoughts. Nothing acknowledged is ever lost.

Each call is one transaction, committed before the answer goes out. A submission carries a key that the page made; the
same key twice is one submission. Newer versions and undone ones stay in `submissions`, while the rows that training
reads follow the newest version that stands.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Connection, delete, func, select, update

from preceptor.errors import UserError
from preceptor.store import schema
from preceptor.store.accounts import new_id
from preceptor.store.queues import Queue
from preceptor.store.schema import Row
from preceptor.store.schema_labelling import assignments, drafts, queues, submissions, tasks
from preceptor.store.statements import (
    ASSIGNMENT,
    BY_KEY,
    CHANGE,
    CHANGE_TASK,
    COMPLETIONS,
    DONE,
    DRAFTS,
    DRAFTS_OF_PAGE,
    DROP_DRAFTS,
    DROP_SEEN_DRAFTS,
    OWN,
    SAVE,
    STANDING,
    SUBMIT,
    TASK,
)
from preceptor.store.store import Store, completion_of, prompt_of
from preceptor.types import Completion, Demonstration, Prompt, Ranking, Rating

AWAY_SECONDS = 1800.0  # time without a sign of life that still counts as work, where the page could not tell


@dataclass(frozen=True, kw_only=True, slots=True)
class Assignment:
    """One item in one labeler's hands. `completions` are in the order shown to this labeler: A, B, C, ..."""

    id: str
    task_id: str
    labeler_id: str
    state: str
    task_state: str
    wanted: int
    opened_at: float
    expires_at: float
    seconds: float
    version: int
    revision: int
    queue: Queue
    prompt: Prompt | None
    completions: tuple[Completion, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """What was typed and not yet submitted. `rival` is the time another tab saved the same page, if one did later."""

    fields: Mapping[str, str]
    revision: int = 0
    saved_at: float | None = None
    rival: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """The rows of the ordinary tables that a submission writes."""

    prompts: Sequence[Prompt] = ()
    demonstrations: Sequence[Demonstration] = ()
    ratings: Sequence[Rating] = ()
    rankings: Sequence[Ranking] = ()

    def ids(self) -> dict[str, list[str]]:
        names = ("prompts", "demonstrations", "ratings", "rankings")
        return {name: [item.id for item in getattr(self, name)] for name in names if getattr(self, name)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Submitted:
    """`fresh` is false where this key was submitted before; `second` where others had finished the item meanwhile.

    `stands` is false where it was taken back.
    """

    id: str
    version: int
    at: float
    fresh: bool = True
    second: bool = False
    stands: bool = True
    kind: str = ""
    body: Mapping[str, Any] = field(default_factory=dict)


class Labelling:
    def __init__(self, store: Store, now: Callable[[], float] = time.time):
        self.store = store
        self.now = now

    # -- reading --------------------------------------------------------------------------------------------

    def assignment(self, assignment_id: str, labeler_id: str, within: Connection | None = None) -> Assignment:
        """The labeler's own item. Raises LookupError for an unknown id and for somebody else's alike."""
        with nullcontext(within) if within is not None else self.store.read() as connection:
            row = connection.execute(ASSIGNMENT, {"item": assignment_id, "labeler": labeler_id}).mappings().first()
            if row is None:
                raise LookupError(assignment_id)
            own = _part(row, "assignment")
            found = connection.execute(COMPLETIONS, {"ids": own["shown"]}).mappings() if own["shown"] else ()
            by_id = {item["id"]: completion_of(item) for item in found}
        kept = ("id", "task_id", "labeler_id", "state", "opened_at", "expires_at", "seconds", "version", "revision")
        return Assignment(
            **{name: own[name] for name in kept},
            task_state=row["task.state"],
            wanted=row["task.wanted"],
            queue=Queue(**_part(row, "queue")),
            prompt=prompt_of(_part(row, "prompt")) if row["prompt.id"] else None,
            completions=tuple(by_id[key] for key in own["shown"]),
        )

    def in_hand(self, labeler_id: str) -> list[Row]:
        """Items this labeler holds, the last touched first, with the queue's kind and the time of the last draft."""
        saved = select(func.max(drafts.c.saved_at)).where(drafts.c.assignment_id == assignments.c.id)
        query = (
            select(assignments, queues.c.kind, queues.c.name, saved.scalar_subquery().label("saved_at"))
            .add_columns(schema.prompts.c.messages, schema.prompts.c.use_case, tasks.c.state.label("task_state"))
            .join(tasks, assignments.c.task_id == tasks.c.id)
            .join(queues, tasks.c.queue_id == queues.c.id)
            .join(schema.prompts, tasks.c.prompt_id == schema.prompts.c.id, isouter=True)
            .where(assignments.c.labeler_id == labeler_id, assignments.c.state == "held")
            .order_by(assignments.c.touched_at.desc())
        )
        with self.store.read() as connection:
            return list(connection.execute(query).mappings())

    def draft(self, assignment_id: str, tab: str = "") -> Draft:
        """The newest draft of every page, merged. With `tab` that tab's own pages win over newer ones."""
        with self.store.read() as connection:
            return _filled(self._draft(connection, assignment_id, tab))

    def standing(self, assignment_id: str) -> Submitted | None:
        """The newest version of this item that was submitted and not undone."""
        with self.store.read() as connection:
            return self._standing(connection, assignment_id)

    def draft_on_top(self, assignment_id: str, tab: str = "") -> Draft:
        """The draft, on top of what was submitted before where this is a second version."""
        with self.store.read() as connection:
            draft = self._draft(connection, assignment_id, tab)
            before = self._standing(connection, assignment_id)
        fields = dict(before.body.get("fields", {})) if before else {}
        return _filled(replace(draft, fields=fields | dict(draft.fields)))  # what was emptied since stays empty

    def by_key(self, assignment_id: str, key: str) -> Submitted | None:
        """The submission that a form with this key made before."""
        with self.store.read() as connection:
            return self._by_key(connection, assignment_id, key)

    def history(self, labeler_id: str, limit: int = 50, before: float | None = None) -> list[Row]:
        """The labeler's own submissions, newest first, with the prompt's messages."""
        query = (
            select(submissions, schema.prompts.c.messages, assignments.c.version.label("current"))
            .add_columns(assignments.c.state.label("assignment_state"))
            .join(assignments, submissions.c.assignment_id == assignments.c.id)
            .join(tasks, submissions.c.task_id == tasks.c.id)
            .join(schema.prompts, tasks.c.prompt_id == schema.prompts.c.id, isouter=True)
            .where(submissions.c.labeler_id == labeler_id)
            .order_by(submissions.c.at.desc(), submissions.c.version.desc())
            .limit(limit)
        )
        if before is not None:
            query = query.where(submissions.c.at < before)
        with self.store.read() as connection:
            return list(connection.execute(query).mappings())

    def days(self, labeler_id: str, since: float) -> list[tuple[float, float, str]]:
        """(moment, seconds, kind) of the labeler's submissions that stand, from `since` on."""
        query = select(submissions.c.at, submissions.c.seconds, submissions.c.kind).where(
            submissions.c.labeler_id == labeler_id, submissions.c.at >= since, submissions.c.withdrawn_at.is_(None)
        )
        with self.store.read() as connection:
            return [tuple(row) for row in connection.execute(query)]

    # -- writing --------------------------------------------------------------------------------------------

    def save_draft(
        self,
        assignment_id: str,
        labeler_id: str,
        *,
        page: str,
        tab: str,
        revision: int,
        fields: Mapping[str, str],
        spent: float | None = None,
        sequence: int = 0,
        late: bool = False,
    ) -> Draft:
        """Keep what one page of an item holds now. `revision` is what the page was opened with or last told.

        Where another tab saved this page later than that, both drafts are kept and `rival` says when. `sequence` is
        the tab's own count of its saves: one that arrives after a later one changes nothing. With `late`, neither
        does one that arrives after the same tab submitted.
        """
        with self.store.write() as connection:
            row = self._own(connection, assignment_id, labeler_id)
            if row["state"] not in ("held", "submitted"):
                raise UserError("This item is closed: you skipped or reported it. Take that back under My history.")
            saved = connection.execute(DRAFTS_OF_PAGE, {"item": assignment_id, "on_page": page}).mappings().all()
            own_tab = next((found for found in saved if found["tab"] == tab), None)
            if own_tab and own_tab["sequence"] > sequence:
                return Draft(fields=own_tab["fields"], revision=own_tab["revision"], saved_at=own_tab["saved_at"])
            if late and row["state"] == "submitted" and (done := self._submitted_by(connection, assignment_id, tab)):
                return Draft(fields=done.body.get("fields", {}), revision=revision, saved_at=done.at)
            newer = [found["saved_at"] for found in saved if found["tab"] != tab and found["revision"] > revision]
            if len(newer) < len(saved):
                which = {"item": assignment_id, "on_page": page, "of_tab": tab, "seen": revision}
                connection.execute(DROP_SEEN_DRAFTS, which)
            number, now = row["revision"] + 1, self.now()
            values = {"assignment_id": assignment_id, "page": page, "tab": tab, "revision": number}
            values |= {"sequence": sequence, "fields": dict(fields), "saved_at": now}
            connection.execute(SAVE, values)
            changes = {"revision": number}
            if row["state"] == "held" and row["expires_at"] > now:  # work goes on, so the hold does; a lapsed one stays
                changes["expires_at"] = max(row["expires_at"], now + 60 * row["lease_minutes"])
            self._touch(connection, row, spent, **changes)
        rival = max(newer, default=None)
        return Draft(fields=dict(fields), revision=number, saved_at=now, rival=rival)

    def submit(
        self,
        assignment_id: str,
        labeler_id: str,
        *,
        key: str,
        kind: str,
        body: Mapping[str, Any],
        rows: Callable[[int, float], Rows],
        rubric: str,
        spent: float | None = None,
    ) -> Submitted:
        """Submit an item, or a new version of it. `rows(version, seconds)` gives the rows for training."""
        with self.store.write() as connection:
            own = self._own(connection, assignment_id, labeler_id)
            if known := self._by_key(connection, assignment_id, key):
                return known
            if own["state"] not in ("held", "submitted"):
                raise UserError("This item is closed: you skipped or reported it. Take that back under My history.")
            version, now = own["version"] + 1, self.now()
            seconds = self._touch(connection, own, spent, version=version, state="submitted")
            written = rows(version, seconds)
            if own["version"]:
                self._retire(connection, assignment_id)
            self._write(connection, written)
            row = {
                "id": new_id("e"),
                "assignment_id": assignment_id,
                "key": key,
                "task_id": own["task_id"],
                "labeler_id": labeler_id,
                "kind": kind,
                "version": version,
                "rubric": rubric,
                "body": dict(body) | {"shown": own["shown"], "records": written.ids()},
                "seconds": seconds,
                "at": now,
            }
            connection.execute(SUBMIT, row)
            connection.execute(DROP_DRAFTS, {"item": assignment_id})
            done, wanted = self._settle(connection, own["task_id"])
        return Submitted(id=row["id"], version=version, at=now, second=done > wanted and version == 1, kind=kind)

    def set_aside(
        self, assignment_id: str, labeler_id: str, *, key: str, kind: str, reason: str, text: str
    ) -> Submitted:
        """Skip an item, or report it (`kind`). A reported item goes to nobody else until a researcher has looked."""
        with self.store.write() as connection:
            own = self._own(connection, assignment_id, labeler_id)
            if known := self._by_key(connection, assignment_id, key):
                if not known.stands:
                    raise UserError("You took this back since. Nothing was changed; open the item again.")
                return known
            if own["state"] != "held":
                raise UserError("This item is closed already; see My history.")
            version, now = own["version"] + 1, self.now()
            state = "skipped" if kind == "skip" else "reported"
            seconds = self._touch(connection, own, None, version=version, state=state)
            row = {
                "id": new_id("e"),
                "assignment_id": assignment_id,
                "key": key,
                "task_id": own["task_id"],
                "labeler_id": labeler_id,
                "kind": kind,
                "version": version,
                "rubric": "",
                "body": {"reason": reason, "text": text},
                "seconds": seconds,
                "at": now,
            }
            connection.execute(SUBMIT, row)
            if kind == "report":
                connection.execute(CHANGE_TASK, {"task": own["task_id"], "state": "halted"})
        return Submitted(id=row["id"], version=version, at=now, kind=kind)

    def take_back(self, submission_id: str, labeler_id: str) -> str:
        """Undo one's own newest submission, skip or report. The item is in hand again, with a draft of what it said."""
        query = select(submissions).where(submissions.c.id == submission_id, submissions.c.labeler_id == labeler_id)
        with self.store.write() as connection:
            found = connection.execute(query).mappings().first()
            if found is None:
                raise LookupError(submission_id)
            own = self._own(connection, found["assignment_id"], labeler_id)
            if found["withdrawn_at"] is not None:
                return own["id"]
            if found["version"] != own["version"]:
                raise UserError("There is a newer version of this; take that one back instead.")
            now = self.now()
            if found["kind"] not in ("skip", "report"):
                self._retire(connection, own["id"])
            connection.execute(
                update(submissions).where(submissions.c.assignment_id == own["id"]).values(withdrawn_at=now)
            )
            connection.execute(CHANGE, {"item": own["id"], "state": "held"})
            self._reopen(connection, own, found, now)
        return own["id"]

    # -- inside a transaction -------------------------------------------------------------------------------

    def _reopen(self, connection: Connection, own: Row, found: Row, now: float) -> None:
        """After an undo: the lease runs again if the place is free, and what was said is a draft again."""
        if found["kind"] == "report":
            connection.execute(CHANGE_TASK, {"task": own["task_id"], "state": "open"})
        changes = {"item": own["id"], "expires_at": now + 60 * own["lease_minutes"]}
        if fields := found["body"].get("fields"):
            number = changes["revision"] = own["revision"] + 1
            draft = {"assignment_id": own["id"], "page": "", "tab": "", "revision": number, "sequence": 0}
            connection.execute(SAVE, draft | {"fields": fields, "saved_at": now})
        connection.execute(CHANGE, changes)
        self._settle(connection, own["task_id"])

    def _own(self, connection: Connection, assignment_id: str, labeler_id: str) -> Row:
        row = connection.execute(OWN, {"item": assignment_id, "labeler": labeler_id}).mappings().first()
        if row is None:
            raise LookupError(assignment_id)
        return row

    def _by_key(self, connection: Connection, assignment_id: str, key: str) -> Submitted | None:
        row = connection.execute(BY_KEY, {"item": assignment_id, "of_key": key}).mappings().first()
        return _submitted(row, fresh=False) if row else None

    def _draft(self, connection: Connection, assignment_id: str, tab: str) -> Draft:
        rows = connection.execute(DRAFTS, {"item": assignment_id}).mappings().all()
        fields: dict[str, str] = {}
        for row in sorted(rows, key=lambda row: (row["tab"] == tab, row["revision"])):
            fields |= row["fields"]
        return Draft(
            fields=fields,
            revision=max((row["revision"] for row in rows), default=0),
            saved_at=max((row["saved_at"] for row in rows), default=None),
        )

    def _standing(self, connection: Connection, assignment_id: str) -> Submitted | None:
        row = connection.execute(STANDING, {"item": assignment_id}).mappings().first()
        return _submitted(row) if row else None

    def _submitted_by(self, connection: Connection, assignment_id: str, tab: str) -> Submitted | None:
        done = self._standing(connection, assignment_id)
        return done if done and done.body.get("tab") == tab else None

    def _touch(self, connection: Connection, own: Row, spent: float | None, **values: Any) -> float:
        """Add to the time on task. What the page says is believed up to the time that passed on the server."""
        now = self.now()
        passed = max(0.0, now - own["touched_at"])
        seconds = own["seconds"] + (min(passed, AWAY_SECONDS) if spent is None else min(max(0.0, spent), passed))
        moment = max(now, own["touched_at"])
        connection.execute(CHANGE, {"item": own["id"], "seconds": seconds, "touched_at": moment, **values})
        return seconds

    def _write(self, connection: Connection, rows: Rows) -> None:
        if rows.prompts:  # the same prompt written again after it was taken back
            again = schema.prompts.c.id.in_([prompt.id for prompt in rows.prompts])
            connection.execute(update(schema.prompts).where(again).values(consent=True))
        self.store.add_prompts(rows.prompts, within=connection)
        self.store.add_demonstrations(rows.demonstrations, within=connection)
        self.store.add_ratings(rows.ratings, within=connection)
        self.store.add_rankings(rows.rankings, within=connection)

    def _retire(self, connection: Connection, assignment_id: str) -> None:
        """Take the rows of the version that stood so far out of the ordinary tables; `submissions` keeps it all."""
        query = select(submissions.c.body).where(
            submissions.c.assignment_id == assignment_id, submissions.c.withdrawn_at.is_(None)
        )
        for body in connection.execute(query).scalars().all():
            records = body.get("records", {})
            for name in ("rankings", "ratings", "demonstrations"):
                table = schema.metadata.tables[name]
                if records.get(name):
                    connection.execute(delete(table).where(table.c.id.in_(records[name])))
            if records.get("prompts"):  # answers may hang on them already: they stay, but leave every queue and release
                where = schema.prompts.c.id.in_(records["prompts"])
                connection.execute(update(schema.prompts).where(where).values(consent=False))

    def _settle(self, connection: Connection, task_id: str) -> tuple[int, int]:
        """Close an item that has its labels, open one that lost some. Returns (labels there, labels wanted)."""
        task = connection.execute(TASK, {"task": task_id}).one()  # locked, so that two at once count each other
        done = connection.execute(DONE, {"task": task_id}).scalar_one()
        state = "done" if done >= task.wanted else "open"
        if task.state != "halted" and task.state != state:
            connection.execute(CHANGE_TASK, {"task": task_id, "state": state})
        return done, task.wanted


def _filled(draft: Draft) -> Draft:
    return replace(draft, fields={name: value for name, value in draft.fields.items() if value != ""})


def _part(row: Row, name: str) -> dict[str, Any]:
    """The columns of one table in a row that joins several."""
    return {key[len(name) + 1 :]: value for key, value in row.items() if key.startswith(f"{name}.")}


def _submitted(row: Row, fresh: bool = True) -> Submitted:
    names = ("id", "version", "at", "kind", "body")
    return Submitted(**{name: row[name] for name in names}, fresh=fresh, stands=row["withdrawn_at"] is None)
