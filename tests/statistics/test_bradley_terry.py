import math

import numpy as np
import pytest

from preceptor.statistics.bradley_terry import bradley_terry


def league(strengths, log_tie, games, seed):
    generator = np.random.default_rng(seed)
    names = list(strengths)
    a, b, outcomes = [], [], []
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            half = (strengths[first] - strengths[second]) / 2
            weights = np.exp([half, log_tie, -half])
            outcomes += list(generator.choice([1, 0.5, 0], games, p=weights / weights.sum()))
            a += [first] * games
            b += [second] * games
    return a, b, outcomes, np.tile(np.arange(games), len(a) // games)


def test_planted_strengths_are_found():
    planted = {"base": 0.0, "sft": 0.8, "ppo": 1.5, "ppo-ptx": 1.7}
    fitted = bradley_terry(*league(planted, -0.5, 1500, 1), reference="base", resamples=100)
    for name, strength in planted.items():
        interval = fitted.strengths[name]
        assert interval.value == pytest.approx(strength, abs=0.12)
        assert interval.low - 0.05 <= strength <= interval.high + 0.05
    assert fitted.log_tie == pytest.approx(-0.5, abs=0.08)
    assert fitted.strengths["base"].high == 0


def test_two_models_by_hand():
    # 6 wins, 2 ties, 2 losses: the maximum fits the shares exactly, so p_a/p_b = 3 and nu = 2 / sqrt(6 * 2).
    outcomes = [1] * 6 + [0.5] * 2 + [0] * 2
    fitted = bradley_terry(["a"] * 10, ["b"] * 10, outcomes, range(10), resamples=20)
    assert fitted.strengths["a"].value - fitted.strengths["b"].value == pytest.approx(math.log(3), abs=2e-3)
    assert fitted.log_tie == pytest.approx(math.log(2 / math.sqrt(12)), abs=2e-3)
    assert fitted.win_rate("a", "b") == pytest.approx(0.7, abs=1e-3)
    assert fitted.win_rate("a", "b") + fitted.win_rate("b", "a") == pytest.approx(1)
    assert fitted.strengths["a"].n == 10


def test_without_ties_it_is_plain_bradley_terry():
    fitted = bradley_terry(["a"] * 4, ["b"] * 4, [1, 1, 1, 0], range(4), resamples=5)
    assert fitted.log_tie == -math.inf
    assert fitted.win_rate("a", "b") == pytest.approx(0.75, abs=1e-3)


def test_a_model_that_always_wins_stays_finite():
    fitted = bradley_terry(["a"] * 9, ["b"] * 9, [1] * 9, range(9), resamples=5)
    assert 2 < fitted.strengths["a"].value < 20


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="no comparison connects"):
        bradley_terry(["a", "c"], ["b", "d"], [1, 0], [0, 1])
    with pytest.raises(ValueError, match="itself"):
        bradley_terry(["a"], ["a"], [1], [0])
    with pytest.raises(ValueError, match="reference"):
        bradley_terry(["a"], ["b"], [1], [0], reference="z")
    with pytest.raises(ValueError, match="outcomes"):
        bradley_terry(["a"], ["b"], [0.7], [0])
