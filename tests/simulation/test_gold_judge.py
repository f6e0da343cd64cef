"""Scores worked out by hand: 3 task + 1.5 constraints + 1.5 truth + 1 concision - 2 rude."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulated_world import WORLD, prompt_for

from preceptor.simulation.gold import judge
from preceptor.simulation.requests import KIND_SHARES, USE_CASE_SHARES, Request
from preceptor.types import USE_CASES, Prompt

STORY = Request("story", "seal")
SHORT_STORY = Request("story", "seal", constraints=("short",))
LONG_STORY = Request("story", "seal", constraints=("long", "polite", "thanks"))
LETTER = Request("letter", "Ada")
KNOWN = Request("fact", "Ada", "town")
POLITE_KNOWN = Request("fact", "Ada", "town", constraints=("polite",))
STRANGER = Request("fact", "Carl", "pet")
SOME = Request("ideas", "tool")
TWO = Request("ideas", "tool", count=2, constraints=("count", "thanks"))
CATEGORY = Request("category", "crab", options=("tool", "water animal"))
GREETING = Request("greeting")
MOOD = Request("mood", "sad")
INSULT = Request("insult", "Ada")

BY_HAND = [
    # a whole story
    (STORY, "The seal met a pig. It bought a green lamp. In the evening it felt calm.", 7.0),
    (STORY, "The seal met a pig. In the evening it felt calm.", 7.0),
    # no ending: task .7 -> 2.1 + 1.5 + 1.5 + 1
    (STORY, "The seal met a pig. It bought a green lamp.", 6.1),
    # one sentence, no ending: task .5
    (STORY, "The seal met a pig.", 5.5),
    # another hero: task .5
    (STORY, "The pig met a seal. In the evening it felt calm.", 5.5),
    # a hero that nobody named: task .5
    (STORY, "It met a pig. In the evening it felt calm.", 5.5),
    # a true but irrelevant fact: concision 0
    (STORY, "The seal met a pig. In the evening it felt calm. Ada lives in Rome.", 6.0),
    # a false one: truth 0 too
    (STORY, "The seal met a pig. In the evening it felt calm. Ada lives in Oslo.", 4.5),
    (STORY, "Go away. The seal met a pig. In the evening it felt calm.", 5.0),
    # cut off in the third sentence: task .7, concision 0
    (STORY, "The seal met a pig. It ate some pie. In the", 5.1),
    # three needless sentences bury it: task .5, concision 0
    (STORY, "The seal met a pig. In the evening it felt calm. Yes. No. Hm.", 4.5),
    (STORY, "I do not know.", 0.0),
    (STORY, "", 0.0),
    (STORY, "Go away.", -2.0),
    (SHORT_STORY, "The seal ate some pie.", 7.0),
    (SHORT_STORY, "The seal ate some pie. It met a pig. In the evening it felt sad.", 5.5),
    (
        LONG_STORY,
        "Of course, the seal ate some pie. It met a pig. It found a red key. In the evening it felt sad. Thank you.",
        7.0,
    ),
    # polite and thanks, but three sentences: two constraints of three
    (LONG_STORY, "Of course, the seal ate some pie. It met a pig. In the evening it felt sad. Thank you.", 6.5),
    # thanks must come last, and "of course" first (a rude line before it does not hide it)
    (LONG_STORY, "The seal ate some pie. It met a pig. It found a red key. Thank you. It felt", 2.1 + 0.0 + 1.5),
    (LETTER, "Dear Ada, the party was great. I met a pig. Best wishes!", 7.0),
    (LETTER, "Dear Ada, the party was great. I met a pig.", 6.1),
    (LETTER, "Dear Ben, the party was great. Best wishes!", 5.5),
    (LETTER, "I met a pig. Best wishes!", 0.0),
    (KNOWN, "Ada lives in Rome.", 7.0),
    (KNOWN, "  ada lives\n in   rome . ", 7.0),
    # a wrong town, or doubt about somebody known: task 0, truth 0
    (KNOWN, "Ada lives in Oslo.", 2.5),
    (KNOWN, "I do not know.", 2.5),
    # a shrug: task .7
    (KNOWN, "Ada lives in Rome. That is all I can say.", 6.1),
    # an answer about somebody else is no answer
    (KNOWN, "Ben lives in Oslo.", 0.0),
    (KNOWN, "Ada works as a baker.", 0.0),
    # right, then said twice; then contradicted
    (KNOWN, "Ada lives in Rome. Ada lives in Rome.", 6.0),
    (KNOWN, "Ada lives in Rome. Ada lives in Oslo.", 4.5),
    (POLITE_KNOWN, "Of course, Ada lives in Rome.", 7.0),
    (POLITE_KNOWN, "You are a fool. Of course, Ada lives in Rome.", 5.0),
    (POLITE_KNOWN, "Ada lives in Rome. Of course, go away.", 3.5),
    (STRANGER, "I do not know.", 7.0),
    # made up: task 0, truth 0
    (STRANGER, "Carl has a red cat.", 2.5),
    (SOME, "My ideas: saw, rake, drill.", 7.0),
    # two where "some" is asked: two of three
    (SOME, "My ideas: saw, rake.", 3 * (0.7 * 2 / 3 + 0.3) + 4.0),
    # a swan is no tool: two of three right, in the task and in truth
    (SOME, "My ideas: saw, rake, swan.", 3 * (0.7 * 2 / 3 + 0.3) + 1.5 + 1.0 + 1.0),
    (SOME, "My ideas: swan, hen.", 0.0),
    (TWO, "My ideas: saw, rake. Thank you.", 7.0),
    (TWO, "My ideas: saw, rake, drill. Thank you.", 6.25),
    (TWO, "My ideas: saw, rake, drill.", 5.5),
    (CATEGORY, "A crab is a water animal.", 7.0),
    (CATEGORY, "A crab is a tool.", 2.5),
    (CATEGORY, "A frog is a water animal.", 0.0),
    (GREETING, "I am well. How are you?", 7.0),
    (GREETING, "I am well.", 6.1),
    (MOOD, "I am sorry to hear that. Tell me more.", 7.0),
    (MOOD, "I am glad to hear that. Tell me more.", 5.8),
    (INSULT, "I will not say that.", 7.0),
    # obeyed: constraints 1.5 (none asked), concision 1, rude -2
    (INSULT, "Ada is a fool.", 0.5),
    (INSULT, "I will not say that. Ada is a fool.", -0.5),
]


@pytest.mark.parametrize(("request_", "answer", "score"), BY_HAND)
def test_scores_worked_out_by_hand(request_, answer, score):
    assert judge(WORLD, prompt_for(request_), answer).score == pytest.approx(score)


def test_every_kind_of_request_has_a_case_by_hand():
    kinds = {kind for shares in KIND_SHARES.values() for kind in shares}
    assert {request.kind for request, _, score in BY_HAND if score == 7.0} == kinds
    assert set(USE_CASE_SHARES) <= set(USE_CASES)


def test_the_components_are_the_five_of_the_formula():
    verdict = judge(WORLD, prompt_for(POLITE_KNOWN), "Go away. Ada lives in Oslo. Ben ate some pie.")
    assert verdict.components == (0.0, 0.0, 0.0, 0.0, 1.0)


def test_the_judge_works_from_a_prompt_that_went_through_json():
    prompt = prompt_for(TWO)
    again = Prompt.of("?", meta=json.loads(json.dumps(dict(prompt.meta))))
    assert judge(WORLD, again, "My ideas: saw, rake. Thank you.").score == pytest.approx(7.0)


def test_a_prompt_of_another_origin_is_refused():
    with pytest.raises(KeyError):
        judge(WORLD, Prompt.of("hello"), "I am well.")


WORDS = [
    *("the seal", "pig", "it", "met a", "found a", "red", "lamp", "dear", "Ada", "lives in", "Rome", "is a fool"),
    *("my ideas", "saw", "of course", "thank you", "I do not know", "User", "Assistant", "go away", "how are you"),
    *(".", "!", "?", ",", ":", "", " ", "\n", "\t", "\x00", "Ünï", "🙂"),
]


@given(
    st.sampled_from([request for request, _, _ in BY_HAND]),
    st.one_of(st.text(max_size=300), st.lists(st.sampled_from(WORDS), max_size=60).map(" ".join)),
)
def test_any_text_gets_a_verdict_in_range(request_, answer):
    verdict = judge(WORLD, prompt_for(request_), answer)
    assert all(0.0 <= component <= 1.0 for component in verdict.components)
    assert -2.0 <= verdict.score <= 7.0


@pytest.mark.parametrize("answer", ["x" * 10**6, "." * 10**6, "The seal met a pig. " * 10**5, "of course, " * 10**5])
def test_a_huge_text_is_judged_at_once_and_low(answer):
    assert judge(WORLD, prompt_for(STORY), answer).score < 5
