"""The raw record: every submission ever made, out as plain rows and in again without loss."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, insert, select

from preceptor.errors import UserError
from preceptor.store import schema
from preceptor.store.schema_labelling import assignments, queues, submissions, tasks
from preceptor.store.schema_labelling import users as users_table
from preceptor.store.store import Added, Store
from preceptor.types import Labeler

QUEUE = ("id", "name", "kind", "screening_id")  # of the queue, told with every event
NEW_QUEUE = {"cohort": "any", "k_min": 1, "k_max": 9, "overlap_share": 0.0, "overlap_labels": 2, "seed": 0}
NEW_QUEUE |= {"models": [], "split": "any", "target": 0, "lease_minutes": 120.0, "state": "closed"}


def events(store: Store) -> Iterator[dict[str, Any]]:
    """Every submission in order of time, undone ones and old versions too, with pseudonyms and no names.

    `newest_version` is the version at which the item stands; `withdrawn_at` is set where it was undone.
    """
    query = (
        select(submissions, schema.labelers.c.name, schema.labelers.c.cohort, tasks.c.prompt_id)
        .add_columns(*[queues.c[name].label(f"queue_{name}") for name in QUEUE])
        .add_columns(assignments.c.version.label("newest_version"), assignments.c.shown, users_table.c.pseudonym)
        .join(assignments, submissions.c.assignment_id == assignments.c.id)
        .join(tasks, submissions.c.task_id == tasks.c.id)
        .join(queues, tasks.c.queue_id == queues.c.id)
        .join(schema.labelers, schema.labelers.c.id == submissions.c.labeler_id)
        .join(users_table, users_table.c.labeler_id == submissions.c.labeler_id, isouter=True)
        .order_by(submissions.c.at, submissions.c.id)
    )
    with store.engine.connect().execution_options(yield_per=500) as connection:
        for row in connection.execute(query).mappings():
            event = dict(row)
            event["pseudonym"] = event["pseudonym"] or event["name"]
            del event["name"]
            yield event


def add_events(store: Store, rows: Iterable[tuple[str, Mapping[str, Any]]], connection: Connection) -> Added:
    """Add events with what they hang on: labelers, closed queues, items. `rows`: (where it stands, event).

    An event that is there already is left alone. Raises UserError where one is there with other content, lacks a
    field, or names a prompt that the store does not have.
    """
    total = Added()
    for where, row in rows:
        try:
            total += _add(store, connection, row)
        except KeyError as error:
            raise UserError(f"{where}: has no {error.args[0]!r}; write it with export events") from error
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
    return total


def _add(store: Store, connection: Connection, row: Mapping[str, Any]) -> Added:
    own = {column.name: row[column.name] for column in submissions.c}
    found = connection.execute(select(submissions).where(submissions.c.id == own["id"])).mappings().first()
    if found is not None:
        if dict(found) != own:
            raise UserError(f"the event {own['id']!r} is there already with other content")
        return Added(known=1)
    if row["prompt_id"] is not None and not store.prompts_by_id([row["prompt_id"]], connection):
        raise UserError(f"the prompt {row['prompt_id']!r} is not in this workspace; import the prompts first")
    labeler = select(schema.labelers.c.id).where(schema.labelers.c.id == own["labeler_id"])
    if not connection.execute(labeler).first():
        made = Labeler(id=own["labeler_id"], name=row["pseudonym"], cohort=row["cohort"])
        store.add_labelers([made], within=connection)
    about = {name: row[f"queue_{name}"] for name in QUEUE}
    _once(connection, queues, NEW_QUEUE | about | {"rubric": own["rubric"], "created_at": own["at"]})
    task = {"id": own["task_id"], "queue_id": about["id"], "prompt_id": row["prompt_id"], "state": "done"}
    task |= {"completion_ids": sorted(row["shown"]), "wanted": 1, "position": 0.0, "created_at": own["at"]}
    _once(connection, tasks, task)
    item = {"id": own["assignment_id"], "task_id": own["task_id"], "labeler_id": own["labeler_id"]}
    item |= {"state": STATES.get(own["kind"], "submitted"), "shown": row["shown"], "opened_at": own["at"]}
    item |= {"expires_at": own["at"], "seconds": own["seconds"], "touched_at": own["at"], "revision": 0}
    _once(connection, assignments, item | {"version": row["newest_version"]})
    connection.execute(insert(submissions), own)
    return Added(new=1)


STATES = {"skip": "skipped", "report": "reported"}


def _once(connection: Connection, table, row: Mapping[str, Any]) -> None:
    if not connection.execute(select(table.c.id).where(table.c.id == row["id"])).first():
        connection.execute(insert(table), dict(row))
