"""The tables of the labelling app. Moments are seconds since 1970 in UTC, by the server's clock, never the browser's.

Nothing a person submitted is ever changed or deleted here: `submissions` only grows. A newer version points back by
its number, an undone one has `withdrawn_at`. The rows that training reads (`rankings`, `ratings`, `demonstrations`,
`prompts`) are written in the same transaction as the submission and follow its newest version.
"""

from sqlalchemy import Column, Float, ForeignKey, Index, Integer, String, Table, Text, UniqueConstraint
from sqlalchemy.types import JSON

from preceptor.store.schema import metadata

users = Table(
    "users",
    metadata,
    Column("id", String, primary_key=True),
    Column("email", String, nullable=False, unique=True),
    Column("name", String, nullable=False),
    Column("pseudonym", String, nullable=False, unique=True),
    Column("role", String, nullable=False),  # labeler, researcher, admin
    Column("state", String, nullable=False),  # trial, active, disabled
    Column("labeler_id", ForeignKey("labelers.id"), nullable=False, unique=True),
    Column("password_hash", String, nullable=False),
    Column("settings", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", String, primary_key=True),
    Column("token_hash", String, nullable=False, unique=True),
    Column("user_id", ForeignKey("users.id"), nullable=False, index=True),
    Column("agent", String, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("seen_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("revoked_at", Float),
)

invites = Table(
    "invites",
    metadata,
    Column("id", String, primary_key=True),
    Column("token_hash", String, nullable=False, unique=True),
    Column("role", String, nullable=False),
    Column("cohort", String, nullable=False),
    Column("email", String, nullable=False),
    Column("user_id", ForeignKey("users.id")),  # set: a new password for this user, not a new account
    Column("screening_id", String),
    Column("made_by", String, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("used_at", Float),
    Column("used_by", String),
    Column("revoked_at", Float),
)

audit = Table(
    "audit",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("at", Float, nullable=False, index=True),
    Column("actor", String, nullable=False),
    Column("action", String, nullable=False),
    Column("subject", String, nullable=False),
    Column("detail", JSON, nullable=False),
)

rubric_notes = Table(
    "rubric_notes",
    metadata,
    Column("rubric_id", ForeignKey("rubrics.id"), primary_key=True),
    Column("change", Text, nullable=False),
    Column("author", String, nullable=False),
    Column("at", Float, nullable=False),
)

queues = Table(
    "queues",
    metadata,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("kind", String, nullable=False),  # one of queues.KINDS
    Column("rubric", String, nullable=False),
    Column("cohort", String, nullable=False),  # training, held-out, any
    Column("k_min", Integer, nullable=False),
    Column("k_max", Integer, nullable=False),
    Column("overlap_share", Float, nullable=False),
    Column("overlap_labels", Integer, nullable=False),
    Column("seed", Integer, nullable=False),
    Column("models", JSON, nullable=False),  # names; empty: all models
    Column("split", String, nullable=False),  # train, valid, test, any
    Column("target", Integer, nullable=False),
    Column("lease_minutes", Float, nullable=False),
    Column("state", String, nullable=False),  # open, closed
    Column("screening_id", String, index=True),
    Column("created_at", Float, nullable=False),
)

tasks = Table(
    "tasks",
    metadata,
    Column("id", String, primary_key=True),
    Column("queue_id", ForeignKey("queues.id"), nullable=False),
    Column("prompt_id", ForeignKey("prompts.id"), index=True),  # none where the task is to write one
    Column("completion_ids", JSON, nullable=False),
    Column("wanted", Integer, nullable=False),  # labels
    Column("position", Float, nullable=False),
    Column("state", String, nullable=False),  # open, done, halted
    Column("created_at", Float, nullable=False),
)
Index("ix_tasks_next", tasks.c.queue_id, tasks.c.state, tasks.c.position)

assignments = Table(
    "assignments",
    metadata,
    Column("id", String, primary_key=True),
    Column("task_id", ForeignKey("tasks.id"), nullable=False),
    Column("labeler_id", ForeignKey("labelers.id"), nullable=False, index=True),
    Column("state", String, nullable=False),  # held, submitted, skipped, reported
    Column("shown", JSON, nullable=False),  # completion ids in this labeler's order: A, B, C, ...
    Column("opened_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("seconds", Float, nullable=False),  # active time so far
    Column("touched_at", Float, nullable=False),
    Column("version", Integer, nullable=False),
    Column("revision", Integer, nullable=False),
    UniqueConstraint("task_id", "labeler_id"),
)

drafts = Table(
    "drafts",
    metadata,
    Column("assignment_id", ForeignKey("assignments.id"), primary_key=True),
    Column("page", String, primary_key=True),
    Column("tab", String, primary_key=True),
    Column("revision", Integer, nullable=False),
    Column("sequence", Integer, nullable=False),  # the page's own count of its saves: they may arrive out of order
    Column("fields", JSON, nullable=False),
    Column("saved_at", Float, nullable=False),
)

submissions = Table(
    "submissions",
    metadata,
    Column("id", String, primary_key=True),
    Column("assignment_id", ForeignKey("assignments.id"), nullable=False),
    Column("key", String, nullable=False),
    Column("task_id", ForeignKey("tasks.id"), nullable=False, index=True),
    Column("labeler_id", ForeignKey("labelers.id"), nullable=False),
    Column("kind", String, nullable=False),  # the queue's kind, or skip, report, adjudicate
    Column("version", Integer, nullable=False),
    Column("rubric", String, nullable=False),
    Column("body", JSON, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("at", Float, nullable=False, index=True),
    Column("withdrawn_at", Float),
    UniqueConstraint("assignment_id", "key"),
)
Index("ix_submissions_labeler_at", submissions.c.labeler_id, submissions.c.at)

screenings = Table(
    "screenings",
    metadata,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("cut_flags", Float, nullable=False),
    Column("cut_rankings", Float, nullable=False),
    Column("cut_demonstrations", Float, nullable=False),
    Column("topics", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
)

screening_members = Table(
    "screening_members",
    metadata,
    Column("screening_id", ForeignKey("screenings.id"), primary_key=True),
    Column("labeler_id", ForeignKey("labelers.id"), primary_key=True),
    Column("topics", JSON),
    Column("decision", String),
    Column("decided_by", String),
    Column("decided_at", Float),
    Column("note", Text),
)

screening_scores = Table(
    "screening_scores",
    metadata,
    Column("submission_id", ForeignKey("submissions.id"), primary_key=True),
    Column("scorer", String, primary_key=True),
    Column("score", Integer, nullable=False),
    Column("at", Float, nullable=False),
)

set_aside = Table(
    "set_aside",
    metadata,
    Column("id", String, primary_key=True),  # the prompt's
    Column("prompt", JSON, nullable=False),  # every field of it
    Column("user_id", String, index=True),
    Column("reason", String, nullable=False),  # length, cap, language, personal data
    Column("detail", String, nullable=False),
    Column("origin", String, nullable=False),  # the file
    Column("at", Float, nullable=False),
    Column("decision", String),  # released, dropped; none while it waits
    Column("decided_by", String),
    Column("decided_at", Float),
)
