"""One model against another, with judges and models whose words are known."""

import math

import pytest
from models import Scripted

from preceptor.evaluation.win_rates import TOO_LONG, compare_models
from preceptor.types import Prompt

PROMPTS = [Prompt.of(f"{word} {number}", user_id=f"user {number}") for number, word in enumerate(["short"] * 6)]
LONG = Prompt.of("long " * 20, user_id="user 0")


def by_length(prompts, answers):
    """The longer answer is better; what holds a question mark has no score."""
    return [math.nan if "?" in text else float(len(text)) for text in answers]


def test_what_has_no_verdict_is_counted_and_counts_for_nobody():
    ours = Scripted(reply=lambda talk: "?" if talk[-1].content == "short 5" else "a long answer", context=50)
    theirs = Scripted(reply=lambda talk: "short", name="b")
    found = compare_models(ours, theirs, [*PROMPTS, LONG], by_length, judge_name="length", samples=2)
    assert (found.win.value, found.win.n, found.win.clusters) == (1.0, 5 * 4, 5)
    assert found.failures == {"no score": 4, TOO_LONG: 4}
    assert {key: rest for key, *rest in found.tally} == {one.id: [4, 0, 0] for one in PROMPTS[:5]}
    with pytest.raises(ValueError, match=f"the length gave no verdict.*{TOO_LONG}"):
        compare_models(ours, theirs, [LONG], by_length, judge_name="length", samples=2)


def test_users_are_counted_and_sliced():
    ours, theirs = Scripted(reply=lambda talk: "long"), Scripted(reply=lambda talk: "s", name="b")
    more = [Prompt.of(f"more {number}", user_id=f"user {number}") for number in range(6)]
    some = {"user 0", "user 1", "user 2", "elsewhere"}
    found = compare_models(
        ours, theirs, [*PROMPTS, *more], by_length, judge_name="length", samples=1, training_users=some
    )
    assert (found.users, found.training_users) == (6, 3)
    assert {name: win.n for name, win in found.slices} == {"users: held-out users": 6, "users: training users": 6}
    assert found.worst[0] == ("short 0", "long", "s", "")
    attacks = [Prompt.of(f"attack {number}", meta={"wanted_for": "red team"}) for number in range(5)]
    found = compare_models(ours, theirs, [*PROMPTS, *attacks], by_length, judge_name="length", samples=1)
    assert {name: win.n for name, win in found.slices} == {"users: held-out users": 6, "written for: red team": 5}
    alone = compare_models(ours, theirs, PROMPTS, by_length, judge_name="length", samples=1)
    assert (alone.users, alone.training_users, alone.slices) == (6, 0, ())
