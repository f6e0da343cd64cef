"""Delete a user: their prompts and everything in the database that hangs on them, in one transaction."""

from collections.abc import Mapping

from sqlalchemy import Connection, delete, func, or_, select, update

from preceptor.store import schema
from preceptor.store.accounts import Accounts
from preceptor.store.schema_labelling import assignments, drafts, screening_scores, set_aside, submissions, tasks
from preceptor.store.schema_serving import consents, votes
from preceptor.store.store import Store


def belongings(store: Store, user_id: str) -> dict[str, int]:
    """Table -> rows that deleting this user would take away."""
    with store.read() as connection:
        counts = {
            name: connection.execute(select(func.count()).select_from(table).where(condition)).scalar_one()
            for name, (table, condition) in _conditions(connection, user_id).items()
        }
    return {name: count for name, count in counts.items() if count}


def prompt_ids(store: Store, user_id: str) -> set[str]:
    with store.read() as connection:
        return set(connection.execute(select(schema.prompts.c.id).where(schema.prompts.c.user_id == user_id)).scalars())


def erase(store: Store, user_id: str, actor: str, releases: Mapping[str, tuple[str, int]]) -> dict[str, int]:
    """Delete it all; returns table -> rows. `releases`: name -> new SHA-256 and rows of files that lost lines.

    The trail keeps that it was done and how much, not whose it was.
    """
    removed: dict[str, int] = {}
    with store.write() as connection:
        for name, (table, condition) in _conditions(connection, user_id).items():
            removed[name] = connection.execute(delete(table).where(condition)).rowcount
        _strike_attacks(connection, user_id)
        for name, (sha256, rows) in releases.items():
            _rename(connection, name, sha256, rows)
        counts = {name: count for name, count in removed.items() if count}
        Accounts(store).record(connection, actor, "user deleted", "", removed=counts, releases=sorted(releases))
    return counts


def _rename(connection: Connection, name: str, sha256: str, rows: int) -> None:
    table = schema.releases
    connection.execute(table.update().where(table.c.name == name).values(sha256=sha256, rows=rows))


def _strike_attacks(connection: Connection, user_id: str) -> None:
    """A labeler's next attack went out with verdicts on an answer to somebody else: the verdicts stay, the words go."""
    told = select(submissions.c.id, submissions.c.body)
    told = told.where(submissions.c.labeler_id == user_id, submissions.c.kind == "red-team")
    for key, body in connection.execute(told).all():
        kept = {name: value for name, value in body["fields"].items() if name != "attack"}
        rest = {"fields": kept, "records": {}}  # the one record of such a submission is the attack
        connection.execute(update(submissions).where(submissions.c.id == key).values(body=body | rest))
    own = select(assignments.c.id).where(assignments.c.labeler_id == user_id)
    typed = select(drafts).where(drafts.c.assignment_id.in_(own), drafts.c.page == "red-team")
    for row in connection.execute(typed).all():
        kept = {name: value for name, value in row.fields.items() if name != "attack"}
        where = drafts.c.assignment_id == row.assignment_id, drafts.c.page == row.page, drafts.c.tab == row.tab
        connection.execute(update(drafts).where(*where).values(fields=kept))


def _conditions(connection: Connection, user_id: str):
    """Table name -> (table, which rows), in an order in which they can be deleted.

    An item without a prompt is one to write a prompt: what its labeler wrote there, or began to, is theirs.
    """
    prompts = select(schema.prompts.c.id).where(schema.prompts.c.user_id == user_id)
    completions = select(schema.completions.c.id).where(schema.completions.c.prompt_id.in_(prompts))
    rankings = select(schema.rankings.c.id).where(schema.rankings.c.prompt_id.in_(prompts))
    writing = select(tasks.c.id).join(assignments, assignments.c.task_id == tasks.c.id)
    writing = writing.where(tasks.c.prompt_id.is_(None), assignments.c.labeler_id == user_id)
    theirs = or_(tasks.c.prompt_id.in_(prompts), tasks.c.id.in_(connection.execute(writing).scalars().all()))
    of_tasks = select(tasks.c.id).where(theirs)
    held = select(assignments.c.id).where(assignments.c.task_id.in_(of_tasks))
    sent = select(submissions.c.id).where(submissions.c.task_id.in_(of_tasks))
    return {
        "drafts": (drafts, drafts.c.assignment_id.in_(held)),
        "screening_scores": (screening_scores, screening_scores.c.submission_id.in_(sent)),
        "submissions": (submissions, submissions.c.task_id.in_(of_tasks)),
        "assignments": (assignments, assignments.c.task_id.in_(of_tasks)),
        "tasks": (tasks, theirs),
        "votes": (votes, votes.c.ranking_id.in_(rankings)),
        "rankings": (schema.rankings, schema.rankings.c.prompt_id.in_(prompts)),
        "ratings": (schema.ratings, schema.ratings.c.completion_id.in_(completions)),
        "demonstrations": (schema.demonstrations, schema.demonstrations.c.prompt_id.in_(prompts)),
        "completions": (schema.completions, schema.completions.c.prompt_id.in_(prompts)),
        "prompts": (schema.prompts, schema.prompts.c.user_id == user_id),
        "consents": (consents, consents.c.user_id == user_id),
        "set_aside": (set_aside, set_aside.c.user_id == user_id),
    }
