"""Copies made and put back while people work, and migrations up and down, on both databases."""

import threading
from dataclasses import replace

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from persons import join, make_workspace, rank_next, rank_queue
from sqlalchemy import inspect, select

import postgres
from preceptor.errors import UserError
from preceptor.labelling.app import create_app
from preceptor.labelling.records import rows_of
from preceptor.store.backup import back_up, restore
from preceptor.store.connect import downgrade, upgrade
from preceptor.store.events import events
from preceptor.store.queues import Queue
from preceptor.store.schema import metadata
from preceptor.store.schema_labelling import tasks


@pytest.fixture(params=postgres.BOTH)
def any_workspace(request, tmp_path):
    settings = ""
    if request.param == "postgresql":
        settings = f'database = "{request.getfixturevalue("postgres_url")}"\n'
    made = make_workspace(tmp_path / "ws", settings)
    yield made
    with made.store.write() as connection:
        for table in reversed(metadata.sorted_tables):
            connection.execute(table.delete())
    made.store.close()


def everything(store) -> dict[str, list]:
    with store.read() as connection:
        return {
            table.name: sorted(map(repr, connection.execute(table.select()).all())) for table in metadata.sorted_tables
        }


def test_work_on_either_database(any_workspace):
    app = create_app(any_workspace, writes_per_minute=100_000)
    rank_queue(app, overlap_share=1.0)
    for _ in range(2):
        person = join(app)
        rank_next(person, "12233")
        person.open("/history")
        person.open("/settings")
    researcher = join(app, "researcher")
    for path in ("/round", "/queues", "/labelers", "/agreement", "/review", "/screening", "/export"):
        researcher.open(path)
    events = researcher.open("/export/events.jsonl").text.splitlines()
    assert len(events) == 2
    assert len(list(any_workspace.store.rankings())) == 2


def test_people_who_submit_one_item_at_once_count_each_other(any_workspace):
    """On PostgreSQL their transactions run side by side: none may wait for ever, and the last one closes the item."""
    app = create_app(any_workspace)
    queue = Queue(id="w_c", name="c", kind="compare", rubric="training-1", models=("sft", "ppo"))
    app.state.queues.create(replace(queue, overlap_share=1.0, overlap_labels=6))
    people = [join(app).user for _ in range(6)]
    troubles = []

    def work(user):
        try:
            while item := app.state.queues.take(user.labeler_id, "compare", cohort="training", trial=False):
                found = app.state.labelling.assignment(item, user.labeler_id)
                fields = {"verdict": "A"}
                barrier.wait()
                app.state.labelling.submit(
                    item,
                    user.labeler_id,
                    key="k",
                    kind="compare",
                    body={"fields": fields},
                    rows=rows_of(found, user.labeler_id, fields),
                    rubric="training-1",
                )
        except Exception as error:
            troubles.append(repr(error))
            barrier.abort()

    barrier = threading.Barrier(len(people))
    threads = [threading.Thread(target=work, args=(user,)) for user in people]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert troubles == []
    assert app.state.queues.progress()["w_c"] | {"seen_twice": 6} == {
        "items": 6,
        "done": 36,
        "held": 0,
        "waiting": 0,
        "seen_twice": 6,
        "halted": 0,
    }
    with any_workspace.store.read() as connection:
        assert set(connection.execute(select(tasks.c.state)).scalars()) == {"done"}


@pytest.mark.parametrize("name", ["copy.db", "copy.jsonl.zst"])
def test_a_copy_made_during_work_is_one_moment_and_goes_back_whole(any_workspace, tmp_path, name):
    if name.endswith(".db") and any_workspace.store.engine.dialect.name != "sqlite":
        pytest.skip("page copies are for SQLite")
    app = create_app(any_workspace, writes_per_minute=100_000)
    rank_queue(app, overlap_share=1.0, overlap_labels=100)
    people = [join(app) for _ in range(3)]
    stop = threading.Event()

    def work(person):
        for _ in range(6):
            if not stop.is_set():
                rank_next(person, "12345")

    threads = [threading.Thread(target=work, args=(person,)) for person in people]
    for thread in threads:
        thread.start()
    back_up(any_workspace.store, tmp_path / name)
    stop.set()
    for thread in threads:
        thread.join()
    rank_queue(app, name="made after the copy")
    restore(any_workspace.store, tmp_path / name)
    names = [queue.name for queue in app.state.queues.queues()]
    assert names == ["Rank"]
    before = everything(any_workspace.store)
    rankings = len(list(any_workspace.store.rankings()))
    submitted = [row for row in events(app.state.workspace.store) if row["withdrawn_at"] is None]
    assert rankings == len(submitted)  # rows and submissions are of the same moment
    back_up(any_workspace.store, tmp_path / f"again-{name}")
    restore(any_workspace.store, tmp_path / f"again-{name}")
    assert everything(any_workspace.store) == before
    people[0].open("/home")
    app.state.accounts.note("somebody", "after the restore")


def test_a_damaged_or_foreign_file_changes_nothing(any_workspace, tmp_path):
    store = any_workspace.store
    good = tmp_path / "good.jsonl.zst"
    back_up(store, good)
    before = everything(store)
    (tmp_path / "cut.jsonl.zst").write_bytes(good.read_bytes()[:-200])
    (tmp_path / "text").write_text("hello")
    (tmp_path / "fake.db").write_bytes(b"SQLite format 3\x00" + b"x" * 5000)
    for name in ("cut.jsonl.zst", "text", "fake.db", "missing"):
        with pytest.raises(UserError):
            restore(store, tmp_path / name)
        assert everything(store) == before
    with pytest.raises(UserError, match="never overwrites"):
        back_up(store, good)


def test_migrations_go_up_and_down_and_give_the_tables_of_the_code(any_workspace):
    engine = any_workspace.store.engine
    downgrade(engine, "0001")
    tables = set(inspect(engine).get_table_names())
    assert "rankings" in tables
    assert "submissions" not in tables
    downgrade(engine, "base")
    assert set(inspect(engine).get_table_names()) <= {"alembic_version"}
    upgrade(engine)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
