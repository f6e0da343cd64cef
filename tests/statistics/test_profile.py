"""Labeler profiles: hand-counted cases, simulated labelers with a known bias, honest ones without."""

import math

import numpy as np
import pytest

from preceptor.statistics.profile import profiles
from preceptor.types import Ranking

FIELDS = ("shown_first", "longer", "length_bias", "formatting_bias", "seconds", "too_fast", "drift", "others", "gold")


def rank(prompt, labeler, seconds=None, **ranks):
    return Ranking.of(prompt, labeler, tuple(ranks), tuple(ranks.values()), seconds=seconds)


def test_profile_counted_by_hand():
    texts = {"a": "one two three four", "b": "- one\n- two", "c": "one"}
    rankings = [
        rank("p", "ann", seconds=10.0, a=1, b=2, c=3),
        rank("p", "bob", seconds=0.5, a=2, b=1, c=2),
    ]
    shown = {rankings[0].id: ("c", "b", "a")}
    gold = [rank("p", "gold", a=1, b=1, c=2)]
    found = profiles(rankings, texts=texts, shown=shown, gold=gold)
    ann, bob = found["ann"], found["bob"]
    assert (ann.rankings, bob.rankings) == (1, 1)
    # Shown c, b, a and ranked a, b, c: each pair is won by the answer shown later.
    assert (ann.shown_first.value, ann.shown_first.n) == (0, 3)
    assert (bob.shown_first.n, ann.gold.n, bob.gold.n) == (0, 2, 1)
    # Words 4, 4 ("-" is a word between blanks), 1: ab is a draw, ac and bc are won by the longer.
    assert (ann.longer.value, ann.longer.n) == (1, 2)
    # Shared pairs that both ordered: ab (ann a, bob b) and bc (both b).
    assert (ann.others.value, ann.others.n) == (0.5, 2)
    assert (ann.length_bias.value, ann.length_bias.n) == (0, 1)
    # b has the marks: ann took it in bc only, bob in both.
    assert (ann.formatting_bias.value, bob.formatting_bias.value, bob.formatting_bias.n) == (-0.5, 0.5, 2)
    assert (ann.gold.value, bob.gold.value) == (1, 1)
    # 9 words at 10 a second take 0.9 s.
    assert (ann.too_fast.value, bob.too_fast.value) == (0, 1)
    assert (ann.seconds.value, bob.seconds.value) == (10.0, 0.5)


def test_nothing_known_is_said_so():
    found = profiles([rank("p", "ann", a=1, b=2)], texts={}, shown={})["ann"]
    for name in FIELDS:
        interval = getattr(found, name)
        assert interval.n == 0
        assert math.isnan(interval.value)
        assert interval.low in (0, -math.inf)
        assert interval.high in (1, math.inf)


def test_a_shown_list_that_lacks_a_ranked_answer_is_an_error():
    ranking = rank("p", "ann", a=1, b=2)
    with pytest.raises(ValueError, match="b is ranked but not among those shown"):
        profiles([ranking], texts={}, shown={ranking.id: ("a",)})


def world(seed, *, taste=None, labelers=8, prompts=300, size=4, per_prompt=3, link=0.2):
    """Answers with a quality, a length and a formatting; `taste(labeler, time) -> dict of weights`."""
    rng = np.random.default_rng(seed)
    texts, rankings, shown, gold = {}, [], {}, []
    for p in range(prompts):
        quality = rng.normal(size=size)
        length = np.exp(rng.normal(3 + link * quality, 0.5)).astype(int) + 2
        marks = rng.integers(0, 4, size=size)
        ids = [f"p{p}c{j}" for j in range(size)]
        for j, name in enumerate(ids):
            texts[name] = "\n".join(["- word"] * marks[j] + ["word " * length[j]])
        gold.append(Ranking.of(f"p{p}", "gold", tuple(ids), tuple(int(r) + 1 for r in (-quality).argsort().argsort())))
        for labeler in rng.permutation(labelers)[:per_prompt]:
            page = rng.permutation(size)
            weights = {"quality": 1.5, "length": 0.0, "marks": 0.0, "first": 0.0}
            weights |= taste(labeler, p / prompts) if taste else {}
            value = (
                weights["quality"] * quality
                + weights["length"] * np.log(length)
                + weights["marks"] * marks
                + weights["first"] * -page.argsort()
                + rng.gumbel(size=size)
            )
            ranks = tuple(int(r) + 1 for r in (-value).argsort().argsort())
            ranking = Ranking.of(f"p{p}", f"l{labeler}", tuple(ids), ranks, seconds=float(rng.gamma(4, 20)))
            shown[ranking.id] = [ids[k] for k in page]
            rankings.append(ranking)
    return rankings, {"texts": texts, "shown": shown, "gold": gold}


@pytest.mark.parametrize(
    ("weights", "field", "neutral", "sign"),
    [
        ({"first": 1.0}, "shown_first", 0.5, 1),
        ({"length": 2.0}, "length_bias", 0.0, 1),
        ({"length": -2.0}, "length_bias", 0.0, -1),
        ({"marks": 0.8}, "formatting_bias", 0.0, 1),
        ({"quality": -1.0}, "gold", 0.5, -1),
    ],
)
def test_a_planted_bias_shows_in_its_own_field(weights, field, neutral, sign):
    rankings, rest = world(0, taste=lambda labeler, time: weights if labeler == 0 else {})
    found = getattr(profiles(rankings, **rest)["l0"], field)
    assert (found.low > neutral) if sign > 0 else (found.high < neutral)


def test_drift_shows_when_a_labeler_stops_caring_halfway():
    rankings, rest = world(1, taste=lambda labeler, time: {"quality": 0.0} if labeler == 0 and time > 0.5 else {})
    found = profiles(rankings, **rest)
    assert found["l0"].drift.high < 0
    assert found["l0"].drift.n == found["l0"].others.n


def test_honest_labelers_are_rarely_outside_the_interval():
    """Eight alike labelers in 25 worlds: about 5 % of each interval misses the neutral value."""
    missed = dict.fromkeys(("shown_first", "length_bias", "formatting_bias", "drift"), 0)
    for seed in range(25):
        rankings, rest = world(seed, prompts=150)
        for profile in profiles(rankings, **rest).values():
            for name in missed:
                interval, neutral = getattr(profile, name), 0.5 if name == "shown_first" else 0.0
                missed[name] += not interval.low <= neutral <= interval.high
    for name, count in missed.items():
        assert 1 <= count <= 0.1 * 200, name


def test_length_bias_is_measured_beside_the_others_not_by_itself():
    """Here longer answers are better, so everybody takes them; nobody is biased."""
    rankings, rest = world(2, link=0.7)
    for profile in profiles(rankings, **rest).values():
        assert profile.longer.value > 0.55
        assert abs(profile.length_bias.value) < 0.08


def test_the_interval_of_the_median_covers():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        rankings = [
            rank(f"p{i}", "ann", seconds=float(s), a=1, b=2) for i, s in enumerate(rng.exponential(30, size=41))
        ]
        found = profiles(rankings, texts={}, shown={})["ann"].seconds
        covered += found.low <= 30 * math.log(2) <= found.high
    assert covered >= 0.92 * 200
