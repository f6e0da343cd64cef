"""Prompts that people sent become answers of the current policy in a labelers' queue, once."""

import json
import os

import pytest
import server as servers

from preceptor.errors import UserError
from preceptor.pipeline.next_round import prepare
from preceptor.pipeline.workspace import status_lines, status_of
from preceptor.serving.pool import Pool
from preceptor.store.consent import add_vote
from preceptor.store.queues import Queues
from preceptor.store.waiting import waiting
from preceptor.training.sample import model_id
from preceptor.types import Completion, Labeler, Message, Prompt

QUESTIONS = ("How do I make tea from fresh mint leaves?", "Why is the sea salty?", "Name three birds that cannot fly.")
SETTINGS = {"model": None, "k": 5, "prompts": None, "seed": 3}


@pytest.fixture
def workspace(tmp_path):
    made = servers.make_workspace(tmp_path / "workspace", ("older", "newer"))
    for age, (name, stage) in enumerate((("newer", "ppo-ptx"), ("older", "ppo"))):
        card = made.model(name) / "preceptor.json"
        card.write_text(json.dumps(json.loads(card.read_text()) | {"stage": stage}))
        os.utime(made.model(name), (10**9 - age, 10**9 - age))  # by themselves they may be of the same tick
    (made.root / "preceptor.toml").write_text("[sample]\nmax_new_tokens = 12\n")
    return made


def ask(workspace, question, user="ana", source="api"):
    outcome, prompt = Pool(workspace).offer([Message(role="user", content=question)], user, {"from": source})
    assert outcome == "kept"
    return prompt


def test_without_prompts_there_is_nothing_to_prepare(workspace):
    done = prepare(workspace, dry_run=False, **SETTINGS)
    assert (done.prompts, done.queue) == (0, "")
    assert Queues(workspace.store).queues() == []
    assert any("nothing to prepare" in line for line in done.lines())


def test_a_round_is_prepared_once(workspace):
    first = [ask(workspace, question) for question in QUESTIONS[:2]]
    assert {prompt.split for prompt in first} == {"train"}
    plan = prepare(workspace, dry_run=True, **SETTINGS)
    assert (plan.prompts, plan.sources, plan.queue) == (2, {"api": 2}, "")
    assert list(workspace.store.completions()) == []
    assert status_of(workspace)["round"]["prompts"] == 2

    done = prepare(workspace, dry_run=False, **SETTINGS)
    assert (done.model, done.queued, done.alike) == ("newer", 2, 0)
    answers = list(workspace.store.completions())
    assert len(answers) == 2 * 5
    assert {answer.model_id for answer in answers} == {model_id(workspace, "newer")}
    assert {answer.prompt_id for answer in answers} == {prompt.id for prompt in first}
    (queue,) = Queues(workspace.store).queues()
    assert (queue.kind, queue.split, Queues(workspace.store).progress()[queue.id]["items"]) == ("rank", "any", 2)

    again = prepare(workspace, dry_run=False, **SETTINGS)
    assert again.prompts == 0
    assert len(list(workspace.store.completions())) == 10

    ask(workspace, QUESTIONS[2], source="playground")
    more = prepare(workspace, dry_run=False, **SETTINGS)
    assert (more.queued, more.sources) == (1, {"playground": 1})
    assert [queue.id for queue in Queues(workspace.store).queues()] == [queue.id]
    assert Queues(workspace.store).progress()[queue.id]["items"] == 3
    assert status_of(workspace)["round"]["items"] == 3


def test_an_interrupted_call_is_finished_by_the_next(workspace, monkeypatch):
    ask(workspace, QUESTIONS[0])

    def broken(*_args, **_more):
        raise RuntimeError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr("preceptor.pipeline.next_round.Queues.create", broken)
        with pytest.raises(RuntimeError):
            prepare(workspace, dry_run=False, **SETTINGS)
    drawn = sorted(answer.id for answer in workspace.store.completions())
    assert prepare(workspace, dry_run=False, **SETTINGS).queued == 1
    assert sorted(answer.id for answer in workspace.store.completions()) == drawn


def test_what_does_not_wait(workspace):
    """Held-out users' prompts, those without consent; but a vote in the playground is no ranking."""
    store = workspace.store
    store.add_prompts([Prompt.of("Held out?", user_id="h", split="valid"), Prompt.of("Secret?", consent=False)])
    kept = ask(workspace, QUESTIONS[0], source="playground")
    sides = [Completion.of(kept.id, "older", text) for text in ("a", "b")]
    store.add_completions(sides)
    store.add_labelers([Labeler(id="l", name="l")])
    add_vote(store, kept.id, "l", [side.id for side in sides], "left")
    assert waiting(store).prompts == {kept.id: "playground"}


def test_the_status_says_what_waits(workspace):
    ask(workspace, QUESTIONS[0])
    found = status_of(workspace)
    assert found["round"] == {"prompts": 1, "sources": {"api": 1}, "items": 0, "rankings": 0, "policy": "newer"}
    lines = status_lines(found)
    assert any("1  new prompts wait (1 from api)" in line for line in lines)
    assert any("answers are drawn from newer" in line for line in lines)


def test_mistakes_are_told(workspace):
    ask(workspace, QUESTIONS[0])
    with pytest.raises(UserError, match="rank 4 to 9"):
        prepare(workspace, dry_run=False, **SETTINGS | {"k": 3})
    with pytest.raises(UserError, match="no model 'gamma'"):
        prepare(workspace, dry_run=False, **SETTINGS | {"model": "gamma"})
