"""Eight people label while the server is killed again and again. What was acknowledged is there, once."""

import random
import threading
import time

import pytest
from hammer import Labeler, Server, comparison_queue, people
from persons import make_workspace
from sqlalchemy import select

import postgres
from preceptor.labelling.app import create_app
from preceptor.store.schema_labelling import assignments, drafts, submissions

SHORT, LONG = (4, 20), (10, 110)  # kills, submissions from one to the next


@pytest.mark.parametrize(
    ("database", "kills", "between"),
    [
        pytest.param("sqlite", *SHORT, id="sqlite-short"),
        pytest.param("sqlite", *LONG, id="sqlite", marks=pytest.mark.slow),
        pytest.param(
            "postgresql", *LONG, id="postgresql", marks=[pytest.mark.slow, pytest.mark.postgresql, postgres.needed]
        ),
    ],
)
def test_kill_nine_loses_nothing(tmp_path, database, kills, between, record_property, capsys):
    if database == "sqlite":
        report = hammer_and_kill(tmp_path, "", kills, between)
    else:
        with postgres.server() as url:
            report = hammer_and_kill(tmp_path, f'database = "{url}"\n', kills, between)
    with capsys.disabled():
        print(f"\n{database}: {report}")
    record_property("report", report)


def hammer_and_kill(folder, settings: str, kills: int, between: int) -> dict[str, int]:
    workspace = make_workspace(folder / "ws", settings, prompts=600)
    create_app(workspace)  # the guides
    comparison_queue(workspace)
    staff = people(workspace, 8)
    server = Server(workspace.root, folder / "log")
    rng = random.Random(3)
    server.start()
    labelers = [Labeler(server.port, cookie, rng=random.Random(n)) for n, (_, cookie) in enumerate(staff)]
    threads = [threading.Thread(target=labeler.run) for labeler in labelers]

    def acknowledged() -> int:
        return sum(len(labeler.acknowledged) for labeler in labelers)

    def work(more: int) -> None:
        wanted = acknowledged() + more
        while acknowledged() < wanted and not any(labeler.error for labeler in labelers):
            time.sleep(0.005)

    try:
        for thread in threads:
            thread.start()
        for _ in range(kills):
            work(rng.randrange(between // 2, 3 * between // 2))
            time.sleep(rng.uniform(0, 0.05))  # somewhere in the next requests
            server.kill()
            server.start()
        work(between)
        for labeler in labelers:
            labeler.stop.set()
        for thread in threads:
            thread.join()
    finally:
        for labeler in labelers:
            labeler.stop.set()
            labeler.given_up.set()
        server.stop()
        for thread in threads:
            thread.join()
    assert [labeler.error for labeler in labelers] == [""] * 8, (folder / "log").read_text()[-3000:]
    report = compare(workspace, labelers)
    workspace.store.close()
    assert report["acknowledged"] >= kills * (between // 2)
    return {"kills": kills} | report


def compare(workspace, labelers) -> dict[str, int]:
    with workspace.store.read() as connection:
        found = connection.execute(
            select(submissions.c.key, submissions.c.assignment_id, submissions.c.body, assignments.c.version).join(
                assignments, submissions.c.assignment_id == assignments.c.id
            )
        ).all()
        kept = {row.assignment_id: row.fields["note"] for row in connection.execute(select(drafts)).all()}
    by_key = {row.key: row for row in found}
    assert len(by_key) == len(found)
    acknowledged = {key: about for labeler in labelers for key, about in labeler.acknowledged.items()}
    for key, (item, note) in acknowledged.items():
        assert by_key[key].assignment_id == item
        assert by_key[key].body["fields"]["note"] == note
        assert by_key[key].version == 1
    assert set(by_key) == set(acknowledged)  # clients try until they hear, so nothing more is there either
    rankings = list(workspace.store.rankings())
    assert len(rankings) == len(found)
    assert len({ranking.id for ranking, _ in rankings}) == len(found)
    assert [text for labeler in labelers for text in labeler.lost_drafts] == []
    left = [labeler.last_draft for labeler in labelers if labeler.last_draft]
    for item, text in left:
        assert kept[item] == text
    return {
        "acknowledged": len(acknowledged),
        "found": len(found),
        "drafts acknowledged": sum(labeler.drafts for labeler in labelers) + len(left),
        "drafts lost": 0,
        "retries": sum(labeler.retries for labeler in labelers),
    }
