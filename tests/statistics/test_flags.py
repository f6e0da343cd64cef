"""The reliability of flags: against counting with a known truth, and on simulated labelers."""

import numpy as np
import pytest
from scipy.stats import beta

from preceptor.statistics.flags import flag_reliability
from preceptor.types import Rating


def rating(completion, labeler, value, flag="fails_task"):
    return Rating(
        id=f"{completion}{labeler}", completion_id=completion, labeler_id=labeler, quality=4, flags={flag: value}
    )


def test_where_the_truth_is_plain_it_is_counting():
    """Nine of ten labelers say the same about 40 answers, 10 of them Yes; `odd` misses 4 of those and adds 3."""
    truth = [n < 10 for n in range(40)]
    ratings = [rating(f"c{n}", f"l{k}", truth[n]) for n in range(40) for k in range(9)]
    odd = [n >= 4 if n < 10 else n < 13 for n in range(40)]
    ratings += [rating(f"c{n}", "odd", value) for n, value in enumerate(odd)]
    found = flag_reliability(ratings)
    assert found["odd"].found.value == pytest.approx(6 / 10, abs=1e-6)
    assert found["odd"].cleared.value == pytest.approx(27 / 30, abs=1e-6)
    assert (found["odd"].found.n, found["odd"].cleared.n) == (10, 30)
    assert found["l0"].found.value == pytest.approx(1, abs=1e-6)
    low, high = beta.ppf([0.025, 0.975], 6.5, 4.5)  # Jeffreys
    assert (found["odd"].found.low, found["odd"].found.high) == pytest.approx((low, high), abs=1e-6)


def test_rare_flags_and_lone_answers_say_nothing():
    few = [rating(f"c{n}", labeler, n < 2) for n in range(30) for labeler in "ab"]  # four times Yes
    assert flag_reliability(few) == {}
    alone = [rating(f"c{n}", "a", n % 2 == 0) for n in range(30)]
    assert flag_reliability(alone) == {}
    assert flag_reliability([]) == {}


def test_simulated_labelers_are_recovered_within_their_intervals():
    """Three of 400 answers' judges each drawn from eight with known shares; over 10 worlds."""
    covered = seen = 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        sensitivity, specificity = rng.uniform(0.5, 0.95, 8), rng.uniform(0.8, 0.99, 8)
        ratings = []
        for n in range(400):
            truth = rng.random() < 0.3
            for k in rng.permutation(8)[:4]:
                says = rng.random() < (sensitivity[k] if truth else 1 - specificity[k])
                ratings.append(rating(f"c{n}", f"l{k}", bool(says)))
        found = flag_reliability(ratings)
        for k in range(8):
            for truth, got in ((sensitivity[k], found[f"l{k}"].found), (specificity[k], found[f"l{k}"].cleared)):
                covered += got.low <= truth <= got.high
                seen += 1
        order = np.argsort([found[f"l{k}"].found.value for k in range(8)])
        assert np.corrcoef(np.argsort(order), np.argsort(np.argsort(sensitivity)))[0, 1] > 0.5
    print("intervals cover", covered / seen, "of", seen)
    assert covered / seen > 0.8
