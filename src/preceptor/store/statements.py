"""The statements of a labeler's pages, built once: building one takes SQLAlchemy longer than SQLite to answer it."""

from functools import cache

from sqlalchemy import Select, bindparam, delete, exists, func, insert, or_, select, update

from preceptor.store.schema import completions, labelers, prompts, rubrics
from preceptor.store.schema_labelling import (
    assignments,
    drafts,
    queues,
    screening_members,
    sessions,
    submissions,
    tasks,
    users,
)

ITEM, LABELER, NOW = bindparam("item"), bindparam("labeler"), bindparam("now")

# -- who is asking ----------------------------------------------------------------------------------------------

USERS = select(
    *[users.c[name] for name in ("id", "email", "name", "pseudonym", "role", "state")],
    *[users.c[name] for name in ("labeler_id", "password_hash", "settings", "created_at")],
    labelers.c.cohort,
).join(labelers, users.c.labeler_id == labelers.c.id)

SESSION = (
    USERS.add_columns(sessions.c.id.label("session_id"), sessions.c.seen_at)
    .join(sessions, sessions.c.user_id == users.c.id)
    .where(sessions.c.token_hash == bindparam("token_hash"), sessions.c.revoked_at.is_(None))
    .where(sessions.c.expires_at > NOW, users.c.state != "disabled")
)

# -- one item ---------------------------------------------------------------------------------------------------

ASSIGNMENT = (
    select(
        *[column.label(f"assignment.{column.name}") for column in assignments.c],
        *[column.label(f"queue.{column.name}") for column in queues.c],
        *[column.label(f"prompt.{column.name}") for column in prompts.c],
        *[tasks.c[name].label(f"task.{name}") for name in ("wanted", "state")],
    )
    .join(tasks, assignments.c.task_id == tasks.c.id)
    .join(queues, tasks.c.queue_id == queues.c.id)
    .join(prompts, tasks.c.prompt_id == prompts.c.id, isouter=True)
    .where(assignments.c.id == ITEM, assignments.c.labeler_id == LABELER)
)
COMPLETIONS = select(completions).where(completions.c.id.in_(bindparam("ids", expanding=True)))
RUBRIC = select(rubrics).where(rubrics.c.id == bindparam("rubric"))

DRAFTS = select(drafts).where(drafts.c.assignment_id == ITEM).order_by(drafts.c.revision)
DRAFTS_OF_PAGE = select(drafts).where(drafts.c.assignment_id == ITEM, drafts.c.page == bindparam("on_page"))
STANDING = (
    select(submissions)
    .where(submissions.c.assignment_id == ITEM, submissions.c.withdrawn_at.is_(None))
    .order_by(submissions.c.version.desc())
)
BY_KEY = select(submissions).where(submissions.c.assignment_id == ITEM, submissions.c.key == bindparam("of_key"))

OWN = (
    select(assignments, queues.c.lease_minutes)
    .join(tasks, assignments.c.task_id == tasks.c.id)
    .join(queues, tasks.c.queue_id == queues.c.id)
    .where(assignments.c.id == ITEM, assignments.c.labeler_id == LABELER)
    .with_for_update(of=assignments)
)
CHANGE = update(assignments).where(assignments.c.id == ITEM)
# NO KEY UPDATE: the foreign key of a submission already shares the key of its task; two at once would wait for ever
TASK = select(tasks.c.wanted, tasks.c.state).where(tasks.c.id == bindparam("task")).with_for_update(key_share=True)
CHANGE_TASK = update(tasks).where(tasks.c.id == bindparam("task"))
SUBMIT = insert(submissions)
SAVE = insert(drafts)
DROP_DRAFTS = delete(drafts).where(drafts.c.assignment_id == ITEM)
DROP_SEEN_DRAFTS = DROP_DRAFTS.where(
    drafts.c.page == bindparam("on_page"),
    or_(drafts.c.tab == bindparam("of_tab"), drafts.c.revision <= bindparam("seen")),
)
DONE = (
    select(func.count())
    .select_from(assignments)
    .where(assignments.c.task_id == bindparam("task"), assignments.c.state == "submitted")
)

# -- the next item ----------------------------------------------------------------------------------------------


@cache
def visible(trial: bool):
    """The queues a labeler may see: those of their cohort, or in a trial only those of their screening round."""
    own = select(screening_members.c.screening_id).where(screening_members.c.labeler_id == LABELER)
    if trial:
        return queues.c.screening_id.in_(own)
    of_cohort = or_(queues.c.cohort == "any", queues.c.cohort == bindparam("cohort"))
    return queues.c.screening_id.is_(None) & of_cohort


def _of_kind(statement: Select, trial: bool, anywhere: bool, one_queue: bool) -> Select:
    statement = statement.where(queues.c.kind == bindparam("kind"))
    if not anywhere:
        statement = statement.where(visible(trial))
    return statement.where(queues.c.id == bindparam("queue")) if one_queue else statement


@cache
def held_item(trial: bool, anywhere: bool, one_queue: bool) -> Select:
    """Ids of the items of a kind that the labeler holds, the first opened first."""
    query = (
        select(assignments.c.id)
        .join(tasks, assignments.c.task_id == tasks.c.id)
        .join(queues, tasks.c.queue_id == queues.c.id)
        .where(assignments.c.labeler_id == LABELER, assignments.c.state == "held")
        .where(tasks.c.state == "open", assignments.c.expires_at > NOW)
        .order_by(assignments.c.opened_at)
    )
    return _of_kind(query, trial, anywhere, one_queue)


@cache
def next_items(trial: bool, anywhere: bool, one_queue: bool) -> Select:
    """The items of a kind that wait for this labeler, in their order."""
    query = waiting().add_columns(tasks.c.id, tasks.c.completion_ids, queues.c.lease_minutes, prompts.c.meta)
    query = query.order_by(queues.c.created_at, tasks.c.position).limit(bindparam("most"))
    return _of_kind(query, trial, anywhere, one_queue)


@cache
def prompt_queue(trial: bool, anywhere: bool, one_queue: bool) -> Select:
    """The open queues that ask for prompts."""
    query = select(queues).where(queues.c.state == "open").order_by(queues.c.created_at)
    return _of_kind(query, trial, anywhere, one_queue)


@cache
def open_queues(trial: bool) -> Select:
    return select(queues).where(visible(trial), queues.c.state == "open").order_by(queues.c.created_at)


@cache
def waiting() -> Select:
    """Open items, not yet this labeler's, that still want a label which nobody holds."""
    others, own = assignments.alias("others"), assignments.alias("own")
    taken = (
        select(func.count())
        .where(others.c.task_id == tasks.c.id)
        .where(or_(others.c.state == "submitted", (others.c.state == "held") & (others.c.expires_at > NOW)))
        .correlate(tasks)
        .scalar_subquery()
    )
    mine = exists().where(own.c.task_id == tasks.c.id, own.c.labeler_id == LABELER).correlate(tasks)
    return (
        select(tasks.c.queue_id)
        .join(queues, tasks.c.queue_id == queues.c.id)
        .join(prompts, tasks.c.prompt_id == prompts.c.id)
        .where(queues.c.state == "open", tasks.c.state == "open", taken < tasks.c.wanted, ~mine)
    )


WAITING_PER_QUEUE = waiting().add_columns(func.count().label("waiting")).group_by(tasks.c.queue_id)
HOLD = insert(assignments)
