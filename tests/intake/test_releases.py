"""Releases: frozen, hashed, idempotent, consented prompts only, checked before reading."""

import hashlib
import json
from dataclasses import replace

import pytest

from preceptor.errors import UserError
from preceptor.intake.releases import freeze, read_release, releases
from preceptor.store import Workspace
from preceptor.types import Completion, Demonstration, Labeler, Prompt, Ranking, Rubric


@pytest.fixture
def workspace(tmp_path, settings):
    workspace = Workspace.create(tmp_path / "w", settings)
    store = workspace.store
    prompts = [
        Prompt.of("Name a colour.", user_id="u1", use_case="open qa", meta={"k": 1}),
        Prompt.of("A secret.", user_id="u2", consent=False),
        Prompt.of("Held back.", user_id="u3", split="test"),
        Prompt.of("Write a line.", user_id="u4", source="plain"),
    ]
    store.add_prompts(prompts)
    store.add_labelers([Labeler(id="in"), Labeler(id="out", cohort="held-out")])
    for prompt in prompts:
        answers = [Completion.of(prompt.id, "m", text) for text in ("Blue.", "No.")]
        store.add_completions(answers)
        for labeler in ("in", "out"):
            store.add_demonstrations([Demonstration.of(prompt.id, labeler, f"by {labeler}")])
            store.add_rankings([Ranking.of(prompt.id, labeler, tuple(answer.id for answer in answers), (1, 2))])
    yield workspace
    store.close()


def test_prompts_of_one_split_with_consent(workspace):
    rows = list(read_release(freeze(workspace, "prompts")))
    assert [row["messages"][0]["content"] for row in sorted(rows, key=str)] != []
    assert {row["messages"][0]["content"] for row in rows} == {"Name a colour.", "Write a line."}
    assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)
    only = list(read_release(freeze(workspace, "prompts", source="customer")))
    assert [(row["use_case"], row["meta"], row["user_id"]) for row in only] == [("open qa", {"k": 1}, "u1")]


def test_rows_of_demonstrations_and_rankings(workspace):
    rows = list(read_release(freeze(workspace, "demonstrations", source="plain")))
    assert len(rows) == 1
    assert rows[0] | {"id": "", "prompt_id": ""} == {
        "id": "",
        "prompt_id": "",
        "messages": [{"role": "user", "content": "Write a line."}],
        "text": "by in",
        "user_id": "u4",
        "labeler_id": "in",
    }
    rows = list(read_release(freeze(workspace, "rankings", cohort="held-out", source="plain")))
    assert rows[0] | {"id": "", "prompt_id": ""} == {
        "id": "",
        "prompt_id": "",
        "messages": [{"role": "user", "content": "Write a line."}],
        "labeler_id": "out",
        "cohort": "held-out",
        "answers": ["Blue.", "No."],
        "models": ["m", "m"],
        "ranks": [1, 2],
    }
    assert freeze(workspace, "rankings", cohort=None).rows == 4


def test_evaluation_rankings_never_train_a_reward_model(workspace):
    """Under the rubric for evaluation truth and harm come first; the reward model learns from helpfulness first."""
    store = workspace.store
    store.add_rubrics([Rubric(id="r-7", purpose="evaluation", version=7, text="Truth first.")])
    (prompt,) = store.prompts(source="plain")
    answers = tuple(answer.id for answer in store.completions(prompt_id=prompt.id))
    for rubric in ("r-7", "evaluation-3"):  # the store knows the first, the second came with a file
        made = Ranking.of(prompt.id, "in", answers, (2, 1), rubric=rubric)
        store.add_rankings([replace(made, id=f"r_{rubric}")])
    assert [row["ranks"] for row in read_release(freeze(workspace, "rankings"))] == [[1, 2], [1, 2]]
    evaluation = freeze(workspace, "rankings", purpose="evaluation")
    assert [row["ranks"] for row in read_release(evaluation)] == [[2, 1], [2, 1]]
    assert freeze(workspace, "rankings", purpose=None).rows == 4
    manifest = json.loads((workspace.root / "releases" / f"{evaluation.name}.json").read_text())
    assert manifest["filters"]["purpose"] == "evaluation"


def test_the_same_content_is_the_same_release(workspace):
    first = freeze(workspace, "rankings")
    assert freeze(workspace, "rankings") == first
    assert releases(workspace, "rankings") == [first]
    files = sorted(path.name for path in (workspace.root / "releases").iterdir())
    assert files == [f"{first.name}.json", f"{first.name}.jsonl"]
    content = (workspace.root / "releases" / f"{first.name}.jsonl").read_bytes()
    assert hashlib.sha256(content).hexdigest() == first.sha256
    assert first.name == f"rankings-train-{first.sha256[:12]}"
    manifest = json.loads((workspace.root / "releases" / f"{first.name}.json").read_text())
    assert manifest["filters"]["cohort"] == "training"
    assert manifest["rows"] == 2


def test_a_new_row_is_a_new_release(workspace):
    first = freeze(workspace, "prompts")
    workspace.store.add_prompts([Prompt.of("One more.")])
    second = freeze(workspace, "prompts")
    assert second.rows == first.rows + 1
    assert len(releases(workspace)) == 2


def test_a_changed_file_is_named(workspace):
    release = freeze(workspace, "prompts")
    path = workspace.root / "releases" / f"{release.name}.jsonl"
    assert len(list(read_release(path))) == release.rows
    path.write_bytes(path.read_bytes().replace(b"colour", b"color!"))
    for given in (release, path):
        with pytest.raises(UserError, match=rf"{release.name}\.jsonl was changed"):
            read_release(given)
    path.unlink()
    with pytest.raises(UserError, match="missing"):
        read_release(release)


def test_a_lost_file_is_written_again(workspace):
    release = freeze(workspace, "prompts")
    (workspace.root / "releases" / f"{release.name}.jsonl").unlink()
    assert freeze(workspace, "prompts") == release
    assert len(list(read_release(release))) == release.rows


def test_nothing_to_freeze_and_taken_names(workspace):
    with pytest.raises(UserError, match="no demonstrations to freeze"):
        freeze(workspace, "demonstrations", split="valid")
    with pytest.raises(UserError, match="choose one of"):
        freeze(workspace, "answers")
    freeze(workspace, "prompts", name="mine")
    with pytest.raises(UserError, match="'mine' exists"):
        freeze(workspace, "rankings", name="mine")
    assert not list((workspace.root / "releases").glob(".*"))
