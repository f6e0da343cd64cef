"""What researchers look at: guides, throughput, who did what, items on which labelers differ."""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, insert, select

from preceptor.store import schema
from preceptor.store.accounts import Accounts
from preceptor.store.schema import Row
from preceptor.store.schema_labelling import assignments, queues, rubric_notes, screening_scores, submissions, tasks
from preceptor.store.schema_labelling import users as users_table
from preceptor.store.statements import RUBRIC
from preceptor.store.store import Store, prompt_of
from preceptor.types import Prompt, Purpose, Rubric

STANDING = submissions.c.withdrawn_at.is_(None) & (submissions.c.version == assignments.c.version)


@dataclass(frozen=True, kw_only=True, slots=True)
class Opinion:
    """One labeler's standing answer to an item. `shown` are completion ids in this labeler's order."""

    submission_id: str
    task_id: str
    labeler_id: str
    pseudonym: str
    role: str
    cohort: str
    kind: str
    body: Mapping[str, Any]
    seconds: float
    at: float

    @property
    def fields(self) -> Mapping[str, str]:
        return self.body.get("fields", {})

    @property
    def shown(self) -> list[str]:
        return self.body.get("shown", [])


class Oversight:
    def __init__(self, store: Store, now: Callable[[], float] = time.time):
        self.store = store
        self.now = now

    # -- guides ---------------------------------------------------------------------------------------------

    def rubric(self, rubric_id: str) -> Rubric | None:
        with self.store.read() as connection:
            row = connection.execute(RUBRIC, {"rubric": rubric_id}).mappings().first()
        return Rubric(**{name: row[name] for name in ("id", "purpose", "version", "text")}) if row else None

    def rubric_notes(self) -> list[Row]:
        """Every guide with what changed in it, by whom and when; the newest first."""
        columns = [schema.rubrics.c[name] for name in ("id", "purpose", "version", "text")]
        query = select(*columns, rubric_notes.c.change, rubric_notes.c.author, rubric_notes.c.at)
        query = query.join(rubric_notes, rubric_notes.c.rubric_id == schema.rubrics.c.id)
        with self.store.read() as connection:
            return list(connection.execute(query.order_by(rubric_notes.c.at.desc())).mappings())

    def new_rubric(self, purpose: Purpose, text: str, change: str, author: str) -> Rubric:
        """The next version of the guide for a purpose. Older versions stay: labels point at them."""
        newest = select(func.max(schema.rubrics.c.version)).where(schema.rubrics.c.purpose == purpose)
        with self.store.write() as connection:
            version = (connection.execute(newest).scalar_one() or 0) + 1
            rubric = Rubric(id=f"{purpose}-{version}", purpose=purpose, version=version, text=text)
            self.store.add_rubrics([rubric], within=connection)
            note = {"rubric_id": rubric.id, "change": change, "author": author, "at": self.now()}
            connection.execute(insert(rubric_notes).values(note))
            Accounts(self.store, self.now).record(connection, author, "guide changed", rubric.id)
        return rubric

    def models(self) -> list[tuple[str, int]]:
        """(model name, number of answers in the store), by name."""
        table = schema.completions
        query = select(table.c.model_id, func.count()).group_by(table.c.model_id).order_by(table.c.model_id)
        with self.store.read() as connection:
            return [(name, count) for name, count in connection.execute(query)]

    # -- work -----------------------------------------------------------------------------------------------

    def newest(self) -> tuple[int, float]:
        """(number of submissions, time of the newest): changes whenever a figure may have changed."""
        query = select(func.count(), func.max(submissions.c.at), func.max(submissions.c.withdrawn_at))
        with self.store.read() as connection:
            count, at, withdrawn = connection.execute(query).one()
        return count, max(at or 0.0, withdrawn or 0.0)

    def work(self, since: float = 0.0) -> list[tuple[str, str, float, float]]:
        """(labeler id, kind, seconds, moment) of what stands, skips and reports included."""
        columns = (submissions.c.labeler_id, submissions.c.kind, submissions.c.seconds, submissions.c.at)
        query = select(*columns).join(assignments, submissions.c.assignment_id == assignments.c.id)
        query = query.where(STANDING, submissions.c.at >= since).order_by(submissions.c.at)
        with self.store.read() as connection:
            return [tuple(row) for row in connection.execute(query)]

    def opinions(self, *, kinds: tuple[str, ...], screening_id: str | None = None, task_id: str = "") -> list[Opinion]:
        """Standing answers of these kinds, outside the screening rounds or inside the one named."""
        query = (
            select(submissions.c.id.label("submission_id"), submissions.c.task_id, submissions.c.labeler_id)
            .add_columns(submissions.c.kind, submissions.c.body, submissions.c.seconds, submissions.c.at)
            .add_columns(users_table.c.pseudonym, users_table.c.role, schema.labelers.c.cohort)
            .join(assignments, submissions.c.assignment_id == assignments.c.id)
            .join(tasks, submissions.c.task_id == tasks.c.id)
            .join(queues, tasks.c.queue_id == queues.c.id)
            .join(users_table, users_table.c.labeler_id == submissions.c.labeler_id)
            .join(schema.labelers, schema.labelers.c.id == submissions.c.labeler_id)
            .where(STANDING, submissions.c.kind.in_(kinds), queues.c.screening_id == screening_id)
            .order_by(submissions.c.at)
        )
        if task_id:
            query = query.where(submissions.c.task_id == task_id)
        with self.store.read() as connection:
            return [Opinion(**row) for row in connection.execute(query).mappings()]

    def several_opinions(self, limit: int = 200) -> dict[str, list[Opinion]]:
        """Task id -> answers, for items that two or more people ranked or compared; the newest first."""
        by_task: dict[str, list[Opinion]] = defaultdict(list)
        for opinion in self.opinions(kinds=("rank", "compare")):
            by_task[opinion.task_id].append(opinion)
        several = {task: opinions for task, opinions in by_task.items() if len(opinions) > 1}
        newest = sorted(several, key=lambda task: -several[task][-1].at)[:limit]
        return {task: several[task] for task in newest}

    def task_prompt(self, task_id: str) -> Prompt:
        query = select(schema.prompts).join(tasks, tasks.c.prompt_id == schema.prompts.c.id)
        with self.store.read() as connection:
            row = connection.execute(query.where(tasks.c.id == task_id)).mappings().first()
        if row is None:
            raise LookupError(task_id)
        return prompt_of(row)

    def labeler_names(self) -> dict[str, Row]:
        """Labeler id -> `pseudonym`, `cohort`, `role`, `state`; imported and simulated labelers have no role."""
        query = select(schema.labelers.c.id, schema.labelers.c.name, schema.labelers.c.cohort)
        query = query.add_columns(users_table.c.pseudonym, users_table.c.role, users_table.c.state)
        query = query.join(users_table, users_table.c.labeler_id == schema.labelers.c.id, isouter=True)
        with self.store.read() as connection:
            return {
                row["id"]: {
                    "pseudonym": row["pseudonym"] or row["name"] or row["id"],
                    "cohort": row["cohort"],
                    "role": row["role"],
                    "state": row["state"],
                }
                for row in connection.execute(query).mappings()
            }

    def scores(self, submission_ids: list[str]) -> dict[str, list[tuple[str, int]]]:
        """Submission id -> (scorer, 1-7) of demonstrations in a screening round."""
        query = select(screening_scores).where(screening_scores.c.submission_id.in_(submission_ids))
        found: dict[str, list[tuple[str, int]]] = defaultdict(list)
        with self.store.read() as connection:
            for row in connection.execute(query.order_by(screening_scores.c.at)):
                found[row.submission_id].append((row.scorer, row.score))
        return dict(found)
