"""The tables of the loop. Alembic's versions in `migrations/` must lead to exactly these (a test compares)."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    DateTime,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    func,
)
from sqlalchemy.types import JSON

Row = Mapping[Any, Any]  # a row of the database: column name -> value

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def created() -> Column:
    return Column("created", DateTime(timezone=True), nullable=False, server_default=func.now())


prompts = Table(
    "prompts",
    metadata,
    Column("id", String, primary_key=True),
    Column("messages", JSON, nullable=False),
    Column("user_id", String, index=True),
    Column("source", String, nullable=False),
    Column("split", String, nullable=False, index=True),
    Column("use_case", String),
    Column("consent", Boolean, nullable=False),
    Column("meta", JSON, nullable=False),
    created(),
)

labelers = Table(
    "labelers",
    metadata,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("cohort", String, nullable=False),
    Column("simulated", Boolean, nullable=False),
    Column("screening", JSON, nullable=False),
    created(),
)

rubrics = Table(
    "rubrics",
    metadata,
    Column("id", String, primary_key=True),
    Column("purpose", String, nullable=False),
    Column("version", Integer, nullable=False),
    Column("text", Text, nullable=False),
    created(),
)

demonstrations = Table(
    "demonstrations",
    metadata,
    Column("id", String, primary_key=True),
    Column("prompt_id", ForeignKey("prompts.id"), nullable=False, index=True),
    Column("labeler_id", ForeignKey("labelers.id"), nullable=False, index=True),
    Column("text", Text, nullable=False),
    Column("rubric", String, nullable=False),
    Column("seconds", Float),
    created(),
)

completions = Table(
    "completions",
    metadata,
    Column("id", String, primary_key=True),
    Column("prompt_id", ForeignKey("prompts.id"), nullable=False, index=True),
    Column("model_id", String, nullable=False, index=True),
    Column("text", Text, nullable=False),
    Column("temperature", Float, nullable=False),
    Column("top_p", Float, nullable=False),
    Column("max_new_tokens", Integer, nullable=False),
    Column("seed", Integer, nullable=False),
    Column("finish_reason", String, nullable=False),
    created(),
)

ratings = Table(
    "ratings",
    metadata,
    Column("id", String, primary_key=True),
    Column("completion_id", ForeignKey("completions.id"), nullable=False, index=True),
    Column("labeler_id", ForeignKey("labelers.id"), nullable=False, index=True),
    Column("quality", Integer, nullable=False),
    Column("flags", JSON, nullable=False),
    Column("notes", Text, nullable=False),
    Column("rubric", String, nullable=False),
    Column("seconds", Float),
    created(),
)

rankings = Table(
    "rankings",
    metadata,
    Column("id", String, primary_key=True),
    Column("prompt_id", ForeignKey("prompts.id"), nullable=False, index=True),
    Column("labeler_id", ForeignKey("labelers.id"), nullable=False, index=True),
    Column("completion_ids", JSON, nullable=False),
    Column("ranks", JSON, nullable=False),
    Column("rubric", String, nullable=False),
    Column("seconds", Float),
    created(),
)

corpora = Table(
    "corpora",
    metadata,
    Column("name", String, primary_key=True),
    Column("path", String, nullable=False),
    Column("sha256", String, nullable=False),
    Column("documents", Integer, nullable=False),
    Column("bytes", Integer, nullable=False),
    created(),
)

releases = Table(
    "releases",
    metadata,
    Column("name", String, primary_key=True),
    Column("kind", String, nullable=False),
    Column("path", String, nullable=False),
    Column("sha256", String, nullable=False),
    Column("rows", Integer, nullable=False),
    Column("filters", JSON, nullable=False),
    created(),
)

Index("ix_completions_prompt_model", completions.c.prompt_id, completions.c.model_id)
