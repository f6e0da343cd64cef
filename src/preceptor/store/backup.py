"""Copies of a whole database, made and put back while the server runs.

SQLite is copied page by page through its own online backup: one file that is a database. Every other database, or
SQLite on request, is written as JSON lines, compressed, which goes into either kind of database again.
"""

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import zstandard
from alembic.script import ScriptDirectory
from sqlalchemy import DateTime, Integer, PoolProxiedConnection, Table, delete, func, insert, select, text
from sqlalchemy.engine import Connection

from preceptor.errors import UserError
from preceptor.store import schema_labelling, schema_serving  # noqa: F401  (their tables are copied too)
from preceptor.store.connect import migration_config, upgrade
from preceptor.store.schema import metadata
from preceptor.store.store import BATCH, Store

LINES = ".jsonl.zst"
MAGIC = b"SQLite format 3\x00"
FORMAT = 1


def back_up(store: Store, path: Path) -> int:
    """Write a copy of the database to `path` and return its size in bytes. Nobody has to stop working.

    A name that ends in .jsonl.zst gives JSON lines; any other name gives a SQLite file, from SQLite only. The copy is
    one moment of the database. It is checked before it gets its name; an existing file is refused.
    """
    if path.exists():
        raise UserError(f"{path} is there already; choose another name, a backup never overwrites one")
    if not path.parent.is_dir():
        raise UserError(f"{path.parent} is no folder; make it first")
    sqlite = store.engine.dialect.name == "sqlite"
    if not sqlite and not path.name.endswith(LINES):
        raise UserError(
            f"a PostgreSQL database is backed up as JSON lines; end the name with {LINES}: {path.name}{LINES}"
        )
    temporary = path.with_name(f".{path.name}-{os.getpid()}.new")
    try:
        if path.name.endswith(LINES):
            _write_lines(store, temporary)
        else:
            _copy_pages(store, temporary)
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path.stat().st_size


def restore(store: Store, path: Path) -> dict[str, int]:
    """Put a copy back in place of everything in the database; returns table -> rows. All or nothing.

    Servers that run on the database see the restored rows from their next request on.
    """
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    if head == MAGIC:
        if store.engine.dialect.name != "sqlite":
            raise UserError(f"{path} is a SQLite file and the workspace uses PostgreSQL; back up to {LINES} instead")
        _restore_pages(store, path)
    else:
        _restore_lines(store, path)
    return store.counts()


# -- SQLite -------------------------------------------------------------------------------------------------


def _copy_pages(store: Store, path: Path) -> None:
    with closing(store.engine.raw_connection()) as pooled, closing(sqlite3.connect(path)) as copy:
        _sqlite(pooled).backup(copy, pages=1000, sleep=0.01)
        copy.execute("PRAGMA journal_mode=DELETE")  # one file, without a -wal beside it
        _check(copy, path)
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sqlite(pooled: PoolProxiedConnection) -> sqlite3.Connection:
    """The driver's own connection, which knows how to back up."""
    assert isinstance(pooled.driver_connection, sqlite3.Connection)
    return pooled.driver_connection


def _restore_pages(store: Store, path: Path) -> None:
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as copy:
        _check(copy, path)
        with closing(store.engine.raw_connection()) as pooled:
            copy.backup(_sqlite(pooled))
            _sqlite(pooled).execute("PRAGMA journal_mode=WAL")
    upgrade(store.engine)


def _check(copy: sqlite3.Connection, path: Path) -> None:
    try:
        found = copy.execute("PRAGMA integrity_check").fetchone()[0]
        copy.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.DatabaseError as error:
        raise UserError(f"{path} is no backup of Preceptor, or is damaged: {error}") from error
    if found != "ok":
        raise UserError(f"{path} is damaged: {found}; use an older backup")


# -- JSON lines ---------------------------------------------------------------------------------------------


def newest_revision() -> str:
    """The version of the tables that this code works with."""
    revision = ScriptDirectory.from_config(migration_config()).get_current_head()
    assert revision is not None
    return revision


def _write_lines(store: Store, path: Path) -> None:
    counts: dict[str, int] = {}
    with path.open("wb") as raw, zstandard.ZstdCompressor(level=6).stream_writer(raw, closefd=False) as out:

        def line(value: Any) -> None:
            out.write(json.dumps(value, ensure_ascii=False, default=datetime.isoformat).encode() + b"\n")

        line({"preceptor_backup": FORMAT, "revision": newest_revision()})
        options = {"isolation_level": "REPEATABLE READ"} if store.engine.dialect.name == "postgresql" else {}
        with store.engine.connect().execution_options(**options) as connection, connection.begin():
            for table in metadata.sorted_tables:
                rows = connection.execution_options(yield_per=BATCH).execute(select(table)).mappings()
                counts[table.name] = 0
                for row in rows:
                    line({"table": table.name, "row": dict(row)})
                    counts[table.name] += 1
        line({"end": counts})
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _read_lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open("rb") as raw, zstandard.ZstdDecompressor().stream_reader(raw) as stream:
            rest = b""
            while block := stream.read(1 << 20):
                *lines, rest = (rest + block).split(b"\n")
                yield from map(json.loads, lines)
    except (zstandard.ZstdError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no backup of Preceptor, or is damaged: {error}") from error


def _restore_lines(store: Store, path: Path) -> None:
    lines = _read_lines(path)
    first = next(lines, {})
    if first.get("preceptor_backup") != FORMAT:
        raise UserError(f"{path} is no backup of Preceptor")
    if first.get("revision") != newest_revision():
        raise UserError(
            f"{path} was made by another version of Preceptor (tables {first.get('revision')}, here "
            f"{newest_revision()}); restore it with that version, then upgrade"
        )
    with store.write() as connection:
        for table in reversed(metadata.sorted_tables):
            connection.execute(delete(table))
        counts = {table.name: 0 for table in metadata.sorted_tables}
        batch: list[dict[str, Any]] = []
        name = ""
        for found in lines:
            if batch and (found.get("table") != name or len(batch) == BATCH):
                _insert(connection, metadata.tables[name], batch)
                batch = []
            if "end" in found:
                if found["end"] != counts:
                    raise UserError(f"{path} is not whole: the counts at its end differ from its rows")
                break
            name = found["table"]
            if name not in counts:
                raise UserError(f"{path}: there is no table {name!r} in this version")
            batch.append(found["row"])
            counts[name] += 1
        else:
            raise UserError(f"{path} is not whole: its end is missing; use an older backup")
        if connection.dialect.name == "postgresql":
            _set_sequences(connection)


def _insert(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    moments = [column.name for column in table.c if isinstance(column.type, DateTime)]
    for row in rows:
        for name in moments:
            row[name] = datetime.fromisoformat(row[name]) if row[name] else None
    connection.execute(insert(table), rows)


def _set_sequences(connection: Connection) -> None:
    """Rows that get a number from the database go on after the restored ones."""
    for table in metadata.sorted_tables:
        for column in table.primary_key:
            if isinstance(column.type, Integer) and column.autoincrement is True:
                highest = connection.execute(select(func.max(column))).scalar_one()
                if highest is not None:
                    query = text("SELECT setval(pg_get_serial_sequence(:table, :column), :highest)")
                    connection.execute(query, {"table": table.name, "column": column.name, "highest": highest})
