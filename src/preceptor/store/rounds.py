"""Screening rounds (Appendix B.1): who takes part, what they say they can judge, scores, decisions."""

import time
from collections.abc import Callable, Mapping, Sequence

from sqlalchemy import delete, func, insert, select, update

from preceptor.errors import UserError
from preceptor.store import schema
from preceptor.store.accounts import Accounts, new_id
from preceptor.store.schema import Row
from preceptor.store.schema_labelling import (
    queues,
    screening_members,
    screening_scores,
    screenings,
    submissions,
    tasks,
    users,
)
from preceptor.store.store import Store

DECISIONS = ("admitted", "declined")


class Screenings:
    def __init__(self, store: Store, now: Callable[[], float] = time.time):
        self.store = store
        self.now = now

    def create(
        self, name: str, *, topics: Sequence[str], cut_flags: float, cut_rankings: float, cut_demonstrations: float
    ) -> str:
        """A round with its soft cut-offs: shares of agreement from 0 to 1, and a mean score from 1 to 7."""
        if not name.strip():
            raise UserError("the screening round has no name; candidates see it, so give it one")
        if not (0 <= cut_flags <= 1 and 0 <= cut_rankings <= 1 and 1 <= cut_demonstrations <= 7):
            raise UserError("Cut-offs are 0 to 100 % for agreement and 1 to 7 for demonstrations.")
        row = {
            "id": new_id("k"),
            "name": name,
            "cut_flags": cut_flags,
            "cut_rankings": cut_rankings,
            "cut_demonstrations": cut_demonstrations,
            "topics": list(topics),
            "created_at": self.now(),
        }
        with self.store.write() as connection:
            connection.execute(insert(screenings).values(row))
        return row["id"]

    def screening(self, screening_id: str) -> Row:
        with self.store.read() as connection:
            row = connection.execute(select(screenings).where(screenings.c.id == screening_id)).mappings().first()
        if row is None:
            raise LookupError(screening_id)
        return row

    def screenings(self) -> list[Row]:
        members = select(func.count()).where(screening_members.c.screening_id == screenings.c.id).scalar_subquery()
        query = select(screenings, members.label("members")).order_by(screenings.c.created_at.desc())
        with self.store.read() as connection:
            return list(connection.execute(query).mappings())

    def size(self, screening_id: str) -> int:
        """Items of the round."""
        query = select(func.count()).select_from(tasks).join(queues, tasks.c.queue_id == queues.c.id)
        with self.store.read() as connection:
            return connection.execute(query.where(queues.c.screening_id == screening_id)).scalar_one()

    def members(self, screening_id: str) -> list[Row]:
        query = (
            select(screening_members, users.c.pseudonym, users.c.id.label("user_id"), users.c.state)
            .join(users, users.c.labeler_id == screening_members.c.labeler_id)
            .where(screening_members.c.screening_id == screening_id)
            .order_by(users.c.pseudonym)
        )
        with self.store.read() as connection:
            return list(connection.execute(query).mappings())

    def rounds_of(self, labeler_id: str) -> list[Row]:
        """The rounds this labeler takes part in, with their own topics in `chosen`."""
        query = (
            select(screenings, screening_members.c.topics.label("chosen"), screening_members.c.decision)
            .join(screening_members, screening_members.c.screening_id == screenings.c.id)
            .where(screening_members.c.labeler_id == labeler_id)
        )
        with self.store.read() as connection:
            return list(connection.execute(query).mappings())

    def set_topics(self, screening_id: str, labeler_id: str, topics: Sequence[str]) -> None:
        """Raises LookupError for a round the labeler is not in."""
        known = self.screening(screening_id)["topics"]
        chosen = [topic for topic in topics if topic in known]
        where = (screening_members.c.screening_id == screening_id) & (screening_members.c.labeler_id == labeler_id)
        with self.store.write() as connection:
            if not connection.execute(update(screening_members).where(where).values(topics=chosen)).rowcount:
                raise LookupError(screening_id)

    def score(self, submission_id: str, scorer: str, score: int) -> None:
        """A researcher's 1-7 for a demonstration of a round; scoring again replaces their own score."""
        if not 1 <= score <= 7:
            raise UserError("A score goes from 1 to 7.")
        query = (
            select(submissions.c.id)
            .join(tasks, submissions.c.task_id == tasks.c.id)
            .join(queues, tasks.c.queue_id == queues.c.id)
            .where(submissions.c.id == submission_id, queues.c.screening_id.is_not(None))
        )
        own = (screening_scores.c.submission_id == submission_id) & (screening_scores.c.scorer == scorer)
        with self.store.write() as connection:
            if connection.execute(query).first() is None:
                raise LookupError(submission_id)
            connection.execute(delete(screening_scores).where(own))
            row = {"submission_id": submission_id, "scorer": scorer, "score": score, "at": self.now()}
            connection.execute(insert(screening_scores).values(row))

    def decide(
        self, screening_id: str, labeler_id: str, decision: str, actor: str, note: str, scores: Mapping[str, float]
    ) -> None:
        """Admit or decline. The measured criteria are kept with the labeler, whatever the decision."""
        if decision not in DECISIONS:
            raise UserError("Choose to admit or to decline.")
        where = (screening_members.c.screening_id == screening_id) & (screening_members.c.labeler_id == labeler_id)
        values = {"decision": decision, "decided_by": actor, "decided_at": self.now(), "note": note}
        with self.store.write() as connection:
            if not connection.execute(update(screening_members).where(where).values(values)).rowcount:
                raise LookupError(labeler_id)
            labeler = schema.labelers.c.id == labeler_id
            connection.execute(update(schema.labelers).where(labeler).values(screening=dict(scores)))
            state = "active" if decision == "admitted" else "disabled"
            connection.execute(update(users).where(users.c.labeler_id == labeler_id).values(state=state))
            Accounts(self.store, self.now).record(connection, actor, f"candidate {decision}", labeler_id)
