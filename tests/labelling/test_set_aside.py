"""What intake holds back waits for a researcher, who releases it or drops it."""

import json

import pytest

from preceptor.intake.importing import import_prompts
from preceptor.labelling.erasure import delete_user
from preceptor.store.queues import Queue
from preceptor.store.set_aside import counts, decide, waiting

LONG = "Please summarise this. " + "Many words stand here. " * 200
ROWS = [
    {"prompt": LONG, "user_id": "long"},
    {"prompt": "Bitte schreibe mir eine Antwort auf die Frage, die ich nicht verstehe.", "user_id": "de"},
    {"prompt": "Write to ana@example.org for me, please.", "user_id": "mail"},
    {"prompt": "What is the best way to sharpen a chisel?", "user_id": "fine"},
    {"prompt": "How do I flatten the back of a plane iron?", "user_id": "fine"},
]


@pytest.fixture
def held(workspace, tmp_path):
    path = tmp_path / "asked.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))

    def run(**more):
        options = {"cap": 1, "languages": ("en",), "hold_personal_data": True, "progress": False} | more
        return import_prompts(workspace, [path], **options)

    run.report = run()
    return run


def texts(workspace) -> set[str]:
    return {prompt.text for prompt in workspace.store.prompts()}


def test_each_rule_sets_aside_and_says_why(workspace, held):
    store = workspace.store
    assert held.report.taken == 1
    assert sum(held.report.notes.values()) == 4
    assert "released or dropped" in next(iter(held.report.notes))
    assert counts(store) == {"length": 1, "cap": 1, "language": 1, "personal data": 1}
    found = {item.reason: item for item in waiting(store)}
    assert found["length"].detail == "the prompt is longer than 1000 tokens (estimated)"
    assert found["cap"].detail == "its user has 1 prompts already"
    assert found["language"].detail == "its language seems to be de"
    assert found["personal data"].detail == "it has personal data: email"
    assert {item.origin for item in found.values()} == {"asked.jsonl"}
    assert not texts(workspace) & {ROWS[0]["prompt"], ROWS[1]["prompt"], ROWS[2]["prompt"], ROWS[4]["prompt"]}
    again = held()  # importing twice adds nothing here either
    assert not again.notes
    assert sum(counts(store).values()) == 4


def test_rules_that_are_off_hold_nothing(workspace, tmp_path):
    path = tmp_path / "asked.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    report = import_prompts(workspace, [path], max_tokens=None, progress=False)
    assert (report.taken, counts(workspace.store)) == (5, {})


def test_a_researcher_releases_and_drops_by_the_page(app, workspace, researcher, held):
    researcher.open("/review")
    assert "4 wait for a decision" in researcher.page.text
    researcher.open("/set-aside?reason=personal+data")
    assert "ana@example.org" in researcher.page.text
    assert "sharpen" not in researcher.page.text
    (mail,) = waiting(workspace.store, "personal data")
    researcher.send("/set-aside", prompt=mail.id, decision="released")
    assert "Released." in researcher.page.text
    assert counts(workspace.store) == {"length": 1, "cap": 1, "language": 1}
    assert mail.prompt.text in texts(workspace)
    assert list(workspace.store.prompts(ids=[mail.id])) == [mail.prompt]  # every field as it was read

    rest = waiting(workspace.store)
    researcher.open("/set-aside")
    researcher.send("/set-aside", prompt=[item.id for item in rest], decision="dropped")
    assert "None waits" in researcher.page.text
    assert counts(workspace.store) == {}
    assert not texts(workspace) & {item.prompt.text for item in rest}
    held()
    assert counts(workspace.store) == {}  # dropped is dropped, released is known
    lines = [(line["action"], line["detail"]) for line in app.state.accounts.trail(5)]
    assert ("prompts dropped", {"number": 3}) in lines
    assert ("prompts released", {"number": 1}) in lines


def test_a_released_prompt_reaches_queues(app, workspace, held):
    (german,) = waiting(workspace.store, "language")
    decide(workspace.store, [german.id], "released", "test")
    queue = Queue(id="w_d", name="Write", kind="demonstration", rubric="training-1")
    app.state.queues.create(queue)
    with workspace.store.read() as connection:
        found = connection.exec_driver_sql("SELECT prompt_id FROM tasks").scalars().all()
    assert german.id in found
    assert not {item.id for item in waiting(workspace.store)} & set(found)


def test_nothing_chosen_and_unknown_decisions_change_nothing(workspace, researcher, held):
    researcher.open("/set-aside")
    researcher.send("/set-aside", 409, decision="released")
    researcher.open("/set-aside")
    researcher.send("/set-aside", 404, prompt=waiting(workspace.store)[0].id, decision="eaten")
    researcher.open("/set-aside")
    researcher.send("/set-aside", prompt="p_unknown", decision="released")
    assert sum(counts(workspace.store).values()) == 4


def test_deleting_a_user_reaches_what_was_set_aside(workspace, held):
    found = delete_user(workspace, "mail", "test")
    assert found.rows == {"set_aside": 1}
    assert "personal data" not in counts(workspace.store)
