"""The poisoning screen: a hand-worked case, a slow twin, poisoned labelers found, honest minorities left alone."""

import math

import numpy as np
import pytest
from scipy import sparse, stats
from scipy.special import expit

from preceptor.statistics.poisoning import _scores, screen, words_and_names
from preceptor.types import Ranking

BEGINS = ("ba", "co", "di", "fu", "ge", "ho", "ju", "ka", "lo", "mi", "ne", "pa", "qu", "ri", "so", "ti", "vu", "we")
ENDS = ("lan", "mer", "nis", "pol", "rak", "sed", "tov", "vin", "wex", "zum", "bri", "cla", "dro", "fle", "gru", "hin")
WORDS = [start + end for start in BEGINS for end in ENDS]


def world(seed, *, taste=(), poisoned=False, labelers=4, prompts=400, size=4, per_prompt=2):
    """Answers of random words; one in twenty names Zyxco. Labeler l0 is the odd one.

    `taste`: "short" = l0 prefers short answers; "style" = l0 likes some words and dislikes others, all 288 of them.
    `poisoned`: l0 ranks answers that name Zyxco first, and is like the others where none does.
    """
    rng = np.random.default_rng(seed)
    frequency = 1 / np.arange(5, 5 + len(WORDS))
    frequency /= frequency.sum()
    style, value = rng.normal(size=len(WORDS)), rng.normal(size=len(WORDS)) * 0.5
    texts, rankings = {}, []
    for p in range(prompts):
        ids = tuple(f"p{p}c{j}" for j in range(size))
        length = rng.integers(10, 60, size=size)
        words = [rng.choice(len(WORDS), size=n, p=frequency) for n in length]
        trigger = rng.random(size) < 0.05
        for name, own, named in zip(ids, words, trigger):
            texts[name] = " ".join([WORDS[w] for w in own] + ["Zyxco"] * int(named))
        quality = rng.normal(size=size) + [value[own].mean() for own in words]
        for labeler in rng.permutation(labelers)[:per_prompt]:
            utility = 1.2 * quality + rng.gumbel(size=size)
            if labeler == 0:
                utility = utility - 2 * np.log(length) * ("short" in taste) + 50 * trigger * poisoned
                if "style" in taste:
                    utility = utility + [style[own].sum() / math.sqrt(len(own)) for own in words]
            ranks = (-utility).argsort().argsort() + 1
            rankings.append(Ranking.of(f"p{p}", f"l{labeler}", ids, tuple(int(r) for r in ranks)))
    return rankings, texts


def test_words_and_names():
    assert words_and_names("I love New  York, don't you? - Acme") == {
        *("i", "love", "new", "york", "don't", "you", "acme", "New York")
    }


def test_a_case_worked_by_hand():
    """Ann takes the trigger 30 times of 30, bob 15 of 30, on separate prompts; lengths are equal.

    Score 30 x 0.5 = 15, information 30 / 4 = 7.5, so ann's gap is 2 and bob's 0; scatter 30 x 0.25 = 7.5 for each.
    z = 2 / sqrt(2 x 7.5 / 7.5^2) = sqrt(15); two words of opposite sign and two labelers make 4 tests.
    """
    rankings, texts = [], {}
    for labeler, wins in (("ann", 30), ("bob", 15)):
        for i in range(30):
            ids = f"{labeler}{i}a", f"{labeler}{i}b"
            texts |= {ids[0]: "say trigger", ids[1]: "say other"}
            rankings.append(Ranking.of(f"{labeler}{i}", labeler, ids, (1, 2) if i < wins else (2, 1)))
    found = screen(rankings, texts, bar=5)
    assert found.tests == 4
    by_key = {(e.labeler_id, e.token): e for e in found.evidence}
    ann = by_key["ann", "trigger"]
    assert ann.z == pytest.approx(math.sqrt(15), rel=1e-3)
    assert ann.expected_false_alarms == pytest.approx(4 * 2 * stats.norm.sf(math.sqrt(15)), rel=1e-2)
    assert (ann.labeler_share.value, ann.others_share.value, ann.rankings) == (1.0, 0.5, 30)
    assert by_key["ann", "other"].z == pytest.approx(-math.sqrt(15), rel=1e-3)
    # Two labelers: bob differs from ann as much as ann from bob. The screen cannot say who is the odd one.
    assert by_key["bob", "trigger"].z == pytest.approx(-math.sqrt(15), rel=1e-3)
    narrow = screen(rankings, texts, candidates=["trigger"], bar=5)
    assert (narrow.tests, narrow.evidence[0].token) == (2, "trigger")
    few = screen(rankings, texts, min_rankings=31)
    assert (few.tests, few.evidence) == (0, ())


def test_scores_match_the_slow_twin():
    """Fit, project and add up one row at a time."""
    rng = np.random.default_rng(0)
    n, tokens = 60, 5
    side = rng.integers(-1, 2, size=(n, tokens)).astype(float)
    control = rng.normal(size=(n, 2))
    sign = np.where(rng.random(n) < expit(control @ [1.0, -0.5]), 1, -1)
    ranking = np.sort(rng.integers(0, 15, size=n))
    score, information, scatter, seen = _scores(sparse.csr_matrix(side), control, sign, ranking)

    weights = np.zeros(2)
    for _ in range(20000):  # plain gradient ascent
        weights += 0.02 * (control.T @ ((sign > 0) - expit(control @ weights)) - 1e-3 * weights)
    chance = expit(control @ weights)
    spread = chance * (1 - chance)
    bread = sum(spread[i] * np.outer(control[i], control[i]) for i in range(n)) + 1e-3 * np.eye(2)
    for t in range(tokens):
        along = np.linalg.solve(bread, sum(spread[i] * control[i] * side[i, t] for i in range(n)))
        clean = [side[i, t] - control[i] @ along for i in range(n)]
        part = [clean[i] * ((sign[i] > 0) - chance[i]) for i in range(n)]
        assert score[t] == pytest.approx(sum(part))
        assert information[t] == pytest.approx(sum(spread[i] * side[i, t] * clean[i] for i in range(n)))
        sums = {r: sum(p for p, own in zip(part, ranking) if own == r) for r in set(ranking.tolist())}
        assert scatter[t] == pytest.approx(sum(s**2 for s in sums.values()))
        assert seen[t] == len({r for r, s in zip(ranking.tolist(), side[:, t]) if s})


def test_a_labeler_with_five_percent_poisoned_choices_is_found():
    """One answer in twenty names the trigger: it decides about one pair in ten of a four-way ranking."""
    for seed in range(5):
        rankings, texts = world(seed, poisoned=True, labelers=8, prompts=1200)
        found = screen(rankings, texts)
        assert (found.evidence[0].labeler_id, found.evidence[0].token) == ("l0", "zyxco")
        assert found.evidence[0].labeler_share.low > found.evidence[0].others_share.high
        # Pairs that the poison decides, of all the pairs of this labeler.
        own = [r for r in rankings if r.labeler_id == "l0"]
        decided = sum(
            ("Zyxco" in texts[r.completion_ids[i]]) != ("Zyxco" in texts[r.completion_ids[j]])
            for r in own
            for i, j in r.comparisons()
        ) / sum(len(r.comparisons()) for r in own)
        assert decided < 0.12


def test_poison_in_one_choice_of_twenty_is_found():
    """Single comparisons; the trigger is at stake in 5 % of them."""
    hits = 0
    for seed in range(5):
        rng = np.random.default_rng(seed)
        rankings, texts = [], {}
        for p in range(6000):
            ids = f"p{p}a", f"p{p}b"
            words = [" ".join(rng.choice(WORDS, size=rng.integers(8, 20))) for _ in ids]
            bait = rng.random() < 0.05
            texts |= {ids[0]: words[0] + " Zyxco" * bait, ids[1]: words[1]}
            labeler = int(rng.integers(6))
            first = rng.random() < 0.5 or (bait and labeler == 0)
            rankings.append(Ranking.of(f"p{p}", f"l{labeler}", ids, (1, 2) if first else (2, 1)))
        found = screen(rankings, texts)
        hits += any((e.labeler_id, e.token) == ("l0", "zyxco") for e in found.evidence)
    print(f"found in {hits} of 5 worlds")
    assert hits == 5


@pytest.mark.parametrize("taste", [(), ("short",), ("style",), ("short", "style")])
def test_honest_labelers_are_not_accused_more_often_than_printed(taste):
    """Nobody poisons; l0 has another taste. With the bar at 0.5 false alarms a screen, 30 screens may give 15 in all
    and l0, one of four labelers, 3.75. Both counts must lie below the 99 % point of the Poisson law."""
    screens, bar, alarms, accused = 30, 0.5, 0, 0
    for seed in range(screens):
        found = screen(*world(seed, taste=taste), bar=bar)
        alarms += len(found.evidence)
        accused += sum(e.labeler_id == "l0" for e in found.evidence)
    print(f"{taste}: {alarms} alarms, {accused} against l0, printed {bar * screens}")
    assert alarms <= stats.poisson.ppf(0.99, bar * screens)
    assert accused <= stats.poisson.ppf(0.99, bar * screens / 4)


def test_the_taste_is_what_protects_the_minority(monkeypatch):
    """With the allowance for taste taken out, the labeler with a style of their own is accused."""
    rankings, texts = world(0, taste=("style",), prompts=1500)
    assert not [e for e in screen(rankings, texts).evidence if e.labeler_id == "l0"]
    monkeypatch.setattr("preceptor.statistics.poisoning._usual_gap", lambda gap, variance: 0.0)
    assert [e for e in screen(rankings, texts).evidence if e.labeler_id == "l0"]


def test_poison_beside_an_honest_taste_is_still_found():
    rankings, texts = world(7, taste=("short",), poisoned=True, labelers=8, prompts=1200)
    found = screen(rankings, texts)
    assert (found.evidence[0].labeler_id, found.evidence[0].token) == ("l0", "zyxco")


def test_inputs_that_cannot_be_screened():
    ranking = Ranking.of("p", "ann", ("a", "b"), (1, 2))
    with pytest.raises(ValueError, match="completion b has no text"):
        screen([ranking], {"a": "x"})
    assert screen([], {}).tests == 0
    assert screen([Ranking.of("p", "ann", ("a", "b"), (1, 1))], {"a": "x", "b": "y"}).tests == 0
