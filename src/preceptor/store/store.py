"""Reading and writing the nouns. Every `add_...` is one transaction and adding the same thing twice is nothing."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from itertools import islice
from threading import RLock
from typing import Any

from sqlalchemy import Connection, Table, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import OperationalError

from preceptor.errors import UserError
from preceptor.store import schema
from preceptor.store.connect import connect
from preceptor.store.schema import Row
from preceptor.types import (
    Completion,
    Demonstration,
    Labeler,
    Message,
    Prompt,
    Ranking,
    Rating,
    Release,
    Rubric,
    Sampling,
)

BATCH = 500  # rows per statement; SQLite allows 32,766 bound values


@dataclass(frozen=True, kw_only=True, slots=True)
class Added:
    """What an `add_...` did: rows that were new, rows that were there already."""

    new: int = 0
    known: int = 0

    def __add__(self, other: "Added") -> "Added":
        return Added(new=self.new + other.new, known=self.known + other.known)


class Store:
    """The database of a workspace. Cheap to share between threads; every call uses its own connection."""

    def __init__(self, url: str):
        self.url = url
        self.engine = connect(url)
        # SQLite has one writer; threads of one process queue here instead of polling its lock
        self._one_writer = RLock() if self.engine.dialect.name == "sqlite" else nullcontext()

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One consistent view: nothing another process commits meanwhile is seen."""
        with self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction: all of it is kept, or none. Pass the connection to several `add_...` to join them."""
        try:
            with (
                self._one_writer,
                self.engine.connect().execution_options(write=True) as connection,
                connection.begin(),
            ):
                yield connection
        except OperationalError as error:
            if not _disk_trouble(error):
                raise
            raise UserError(
                f"the database cannot be written: {error.orig}; nothing of this was kept. "
                "Free some space on its disk and try again"
            ) from error

    # -- adding ---------------------------------------------------------------------------------------------

    def add_prompts(self, items: Iterable[Prompt], within: Connection | None = None) -> Added:
        return self._add(schema.prompts, items, _prompt_row, within)

    def add_labelers(self, items: Iterable[Labeler], within: Connection | None = None) -> Added:
        return self._add(schema.labelers, items, asdict, within)

    def add_rubrics(self, items: Iterable[Rubric], within: Connection | None = None) -> Added:
        return self._add(schema.rubrics, items, asdict, within)

    def add_demonstrations(self, items: Iterable[Demonstration], within: Connection | None = None) -> Added:
        return self._add(schema.demonstrations, items, asdict, within)

    def add_completions(self, items: Iterable[Completion], within: Connection | None = None) -> Added:
        return self._add(schema.completions, items, _completion_row, within)

    def add_ratings(self, items: Iterable[Rating], within: Connection | None = None) -> Added:
        return self._add(schema.ratings, items, _plain_row, within)

    def add_rankings(self, items: Iterable[Ranking], within: Connection | None = None) -> Added:
        return self._add(schema.rankings, items, _plain_row, within)

    def add_release(self, release: Release, filters: Mapping[str, Any]) -> Added:
        row = asdict(release) | {"filters": dict(filters)}
        return self._add(schema.releases, [row], dict, None, key="name")

    def add_corpus(self, name: str, path: str, sha256: str, documents: int, size: int) -> Added:
        row = {"name": name, "path": path, "sha256": sha256, "documents": documents, "bytes": size}
        return self._add(schema.corpora, [row], dict, None, key="name")

    def _add(
        self,
        table: Table,
        items: Iterable[Any],
        to_row: Callable[[Any], dict[str, Any]],
        within: Connection | None,
        key: str = "id",
    ) -> Added:
        """Insert what is new, leave what is there. The same id with other content is the user's mistake."""
        if within is None:
            with self.write() as connection:
                return self._add(table, items, to_row, connection, key)
        insert = (sqlite if within.dialect.name == "sqlite" else postgresql).insert
        total = Added()
        rows = iter(items)
        while batch := [to_row(item) for item in islice(rows, BATCH)]:
            columns = [table.c[name] for name in batch[0]]
            there = {
                row[key]: row
                for row in within.execute(
                    select(*columns).where(table.c[key].in_([row[key] for row in batch]))
                ).mappings()
            }
            fresh: dict[str, dict[str, Any]] = {}
            for row in batch:
                known = there.get(row[key]) or fresh.get(row[key])
                if known is None:
                    fresh[row[key]] = row
                elif differing := [name for name, value in row.items() if known[name] != value]:
                    raise UserError(
                        f"{table.name}: the {key} {row[key]!r} is used twice with different {', '.join(differing)}; "
                        f"give each its own {key}"
                    )
            if fresh:
                within.execute(insert(table).on_conflict_do_nothing(), list(fresh.values()))
            total += Added(new=len(fresh), known=len(batch) - len(fresh))
        return total

    # -- reading --------------------------------------------------------------------------------------------

    def prompts(
        self,
        *,
        split: str | None = None,
        source: str | None = None,
        ids: Iterable[str] | None = None,
        consented: bool | None = None,
    ) -> Iterator[Prompt]:
        """Prompts in order of id."""
        table = schema.prompts
        query = select(table).order_by(table.c.id)
        if split is not None:
            query = query.where(table.c.split == split)
        if source is not None:
            query = query.where(table.c.source == source)
        if consented is not None:
            query = query.where(table.c.consent == consented)
        for row in self._rows(query, table.c.id, ids):
            yield prompt_of(row)

    def count_prompts_of(self, user_id: str, within: Connection) -> int:
        """Prompts of one user, as the transaction `within` sees them."""
        table = schema.prompts
        query = select(func.count()).select_from(table).where(table.c.user_id == user_id)
        return within.execute(query).scalar_one()

    def prompts_by_id(self, ids: Iterable[str], within: Connection) -> dict[str, Prompt]:
        """Those of `ids` that are there, as the transaction `within` sees them; at most a few thousand ids."""
        query = select(schema.prompts).where(schema.prompts.c.id.in_(list(ids)))
        return {row["id"]: prompt_of(row) for row in within.execute(query).mappings()}

    def labelers(self) -> list[Labeler]:
        return [Labeler(**_without(row, "created")) for row in self._rows(select(schema.labelers))]

    def rubrics(self) -> list[Rubric]:
        return [Rubric(**_without(row, "created")) for row in self._rows(select(schema.rubrics))]

    def demonstrations(self, *, split: str | None = None) -> Iterator[tuple[Demonstration, Prompt]]:
        """Demonstrations with their prompts, in order of id."""
        for row in self._joined(schema.demonstrations, split):
            yield Demonstration(**_own(row, schema.demonstrations)), prompt_of(_own(row, schema.prompts))

    def completions(
        self, *, model_id: str | None = None, prompt_id: str | None = None, ids: Iterable[str] | None = None
    ) -> Iterator[Completion]:
        table = schema.completions
        query = select(table).order_by(table.c.id)
        if model_id is not None:
            query = query.where(table.c.model_id == model_id)
        if prompt_id is not None:
            query = query.where(table.c.prompt_id == prompt_id)
        for row in self._rows(query, table.c.id, ids):
            yield completion_of(row)

    def rankings(self, *, split: str | None = None, cohort: str | None = None) -> Iterator[tuple[Ranking, Prompt]]:
        """Rankings with their prompts, in order of id."""
        for row in self._joined(schema.rankings, split, cohort):
            yield ranking_of(_own(row, schema.rankings)), prompt_of(_own(row, schema.prompts))

    def ratings(self) -> Iterator[Rating]:
        for row in self._rows(select(schema.ratings).order_by(schema.ratings.c.id)):
            yield Rating(**_without(row, "created"))

    def releases(self, kind: str | None = None) -> list[Release]:
        table = schema.releases
        query = select(table).order_by(table.c.created, table.c.name)
        if kind is not None:
            query = query.where(table.c.kind == kind)
        return [Release(**_without(row, "created", "filters")) for row in self._rows(query)]

    def corpora(self) -> list[Row]:
        return list(self._rows(select(schema.corpora).order_by(schema.corpora.c.name)))

    def counts(self) -> dict[str, int]:
        """Table name -> number of rows."""
        with self.read() as connection:
            return {
                table.name: connection.execute(select(func.count()).select_from(table)).scalar_one()
                for table in schema.metadata.sorted_tables
            }

    def _joined(self, table: Table, split: str | None, cohort: str | None = None) -> Iterator[Row]:
        own = [column.label(f"{table.name}.{column.name}") for column in table.c]
        prompt = [column.label(f"prompts.{column.name}") for column in schema.prompts.c]
        query = select(*own, *prompt).join_from(table, schema.prompts, table.c.prompt_id == schema.prompts.c.id)
        if split is not None:
            query = query.where(schema.prompts.c.split == split)
        if cohort is not None:
            query = query.join(schema.labelers, table.c.labeler_id == schema.labelers.c.id)
            query = query.where(schema.labelers.c.cohort == cohort)
        yield from self._rows(query.order_by(table.c.id))

    def _rows(self, query, column: Any = None, ids: Iterable[str] | None = None) -> Iterator[Row]:
        """Rows as they come, a few hundred in memory at a time; with `ids`, only rows whose `column` is in them."""
        with self.engine.connect().execution_options(yield_per=BATCH) as connection:
            if ids is None:
                yield from connection.execute(query).mappings()
                return
            wanted = iter(ids)
            while batch := list(islice(wanted, BATCH)):
                yield from connection.execute(query.where(column.in_(batch))).mappings()


def _disk_trouble(error: OperationalError) -> bool:
    """A full or failing disk, as SQLite (primary result codes 10 and 13) and PostgreSQL (class 53100) tell it."""
    code = getattr(error.orig, "sqlite_errorcode", None)
    return (code is not None and code & 0xFF in (10, 13)) or getattr(error.orig, "sqlstate", None) == "53100"


# -- rows and nouns -----------------------------------------------------------------------------------------


def _plain_row(item: Any) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(item).items()}


def _prompt_row(prompt: Prompt) -> dict[str, Any]:
    row = _plain_row(prompt)
    row["messages"] = [{"role": message.role, "content": message.content} for message in prompt.messages]
    row["meta"] = dict(prompt.meta)
    return row


def _completion_row(completion: Completion) -> dict[str, Any]:
    row = asdict(completion)
    return row | row.pop("sampling")


def _without(row: Row, *names: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}


def _own(row: Row, table: Table) -> dict[str, Any]:
    prefix = f"{table.name}."
    return {key[len(prefix) :]: row[key] for key in row if key.startswith(prefix) and key != f"{prefix}created"}


def prompt_of(row: Row) -> Prompt:
    values = _without(row, "created")
    values["messages"] = tuple(Message(**message) for message in values["messages"])
    return Prompt(**values)


def completion_of(row: Row) -> Completion:
    values = _without(row, "created")
    sampling = Sampling(**{name: values.pop(name) for name in ("temperature", "top_p", "max_new_tokens", "seed")})
    return Completion(sampling=sampling, **values)


def ranking_of(row: Row) -> Ranking:
    values = _without(row, "created")
    for name in ("completion_ids", "ranks"):
        values[name] = tuple(values[name])
    return Ranking(**values)
