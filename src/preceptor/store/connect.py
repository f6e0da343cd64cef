"""Opening a database: SQLite in WAL mode by default, PostgreSQL by URL, both through one code path."""

import logging
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from preceptor.errors import UserError, need_extra

DatabaseFailure = SQLAlchemyError  # what a call of the store raises when the database does not answer


def connect(url: str) -> Engine:
    """An engine for `url` whose tables are at the newest version.

    Raises UserError where the URL is no database URL, its driver is not installed or the server cannot be reached.
    """
    try:
        parsed = make_url(url)
        if parsed.drivername in ("postgresql", "postgres"):
            parsed = parsed.set(drivername="postgresql+psycopg")
        engine = create_engine(parsed, pool_pre_ping=not parsed.drivername.startswith("sqlite"))
    except (ArgumentError, NoSuchModuleError) as error:
        raise UserError(f"database {url!r} is no database URL; write sqlite:///FILE or postgresql://...") from error
    except ModuleNotFoundError as error:
        raise need_extra("the PostgreSQL driver psycopg", "postgresql") from error
    if engine.dialect.name == "sqlite":
        _prepare_sqlite(engine)
    try:
        upgrade(engine)
    except DBAPIError as error:
        shown = parsed.render_as_string(hide_password=True)
        raise UserError(f"cannot open the database {shown}: {str(error.orig).strip().splitlines()[0]}") from error
    return engine


logging.getLogger("alembic").setLevel(logging.WARNING)  # it tells its own progress at every opening


def _prepare_sqlite(engine: Engine) -> None:
    """WAL, foreign keys, a full sync at every commit, and transactions that begin where SQLAlchemy says so.

    A transaction that means to write (execution option `write`) takes the write lock at its start, so that two
    writers queue for `busy_timeout` instead of failing half-way.
    """

    @event.listens_for(engine, "connect")
    def on_connect(connection, _record):
        connection.isolation_level = None  # the driver must not open transactions of its own
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=30000"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def on_begin(connection):
        write = connection.get_execution_options().get("write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def migration_config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Bring the tables to `revision`. Safe when several processes start at once: one migrates, the rest wait."""
    config = migration_config()
    with engine.connect().execution_options(write=True) as connection, connection.begin():
        config.attributes["connection"] = connection
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(727363)")
        command.upgrade(config, revision)


def downgrade(engine: Engine, revision: str) -> None:
    """Take the tables back to `revision`."""
    config = migration_config()
    with engine.connect().execution_options(write=True) as connection, connection.begin():
        config.attributes["connection"] = connection
        command.downgrade(config, revision)
