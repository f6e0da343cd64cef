import itertools
import math

import numpy as np
import pytest

from preceptor.statistics.overoptimisation import (
    best_of_n_kl,
    best_of_n_law,
    best_of_n_rewards,
    fit_best_of_n_law,
    fit_rl_law,
    rl_law,
)


def test_kl_of_best_of_n_by_hand_and_by_simulation():
    assert best_of_n_kl(1) == 0
    assert best_of_n_kl(4) == pytest.approx(math.log(4) - 0.75)
    # The best of n uniform draws has density n u^(n-1): KL = E[ln(n u^(n-1))].
    draws = np.random.default_rng(0).random((200_000, 16)).max(axis=1)
    assert np.log(16 * draws**15).mean() == pytest.approx(best_of_n_kl(16), abs=0.01)


def test_planted_parameters_are_found():
    d = np.linspace(1, 7, 12)
    law = fit_rl_law(d, rl_law(d, 1.3, 0.6))
    assert (law.alpha, law.beta, law.residual) == pytest.approx((1.3, 0.6, 0), abs=1e-9)
    grid = np.linspace(0.01, 12, 200_001)
    values = rl_law(grid, 1.3, 0.6)
    assert law.peak == pytest.approx(grid[values.argmax()], abs=1e-3)
    assert law.peak_reward == pytest.approx(values.max(), abs=1e-6)
    assert rl_law(law.zero, 1.3, 0.6) == pytest.approx(0, abs=1e-9)

    bon = fit_best_of_n_law(d, best_of_n_law(d, 0.6, 0.1))
    assert (bon.alpha, bon.beta) == pytest.approx((0.6, 0.1))
    values = best_of_n_law(grid, 0.6, 0.1)
    assert bon.peak == pytest.approx(grid[values.argmax()], abs=1e-3)
    assert bon.peak_reward == pytest.approx(values.max(), abs=1e-6)
    assert bon.zero == pytest.approx(6)


def test_noise_moves_the_fit_only_a_little():
    d = np.linspace(1, 6, 30)
    noisy = rl_law(d, 1.0, 0.5) + 0.05 * np.random.default_rng(2).standard_normal(30)
    law = fit_rl_law(d, noisy)
    assert law.alpha == pytest.approx(1.0, abs=0.05)
    assert law.beta == pytest.approx(0.5, abs=0.05)
    assert law.residual == pytest.approx(0.05, abs=0.02)


def test_what_never_turns_over_has_no_peak():
    d = np.linspace(1, 5, 6)
    assert fit_rl_law(d, 0.5 * d + 0.1 * d * np.log(d)).peak is None
    assert fit_best_of_n_law(d, 0.5 * d + 0.1 * d**2).peak is None
    assert fit_best_of_n_law(d, -0.5 * d - 0.1 * d**2).peak == 0


def test_points_near_the_start_are_left_out():
    d = np.array([0.0, 0.1, 1, 2, 3, 4])
    reward = rl_law(d, 1.0, 0.4)
    reward[:2] = 99
    law = fit_rl_law(d, reward)
    assert law.n == 4
    assert law.alpha == pytest.approx(1.0)
    with pytest.raises(ValueError, match="at least 3"):
        fit_rl_law([0, 1, 2], [0, 1, 1])


def test_best_of_n_rewards_against_all_subsets():
    generator = np.random.default_rng(1)
    proxy = generator.integers(0, 4, (3, 6)).astype(float)  # ties on purpose
    gold = generator.standard_normal((3, 6))
    for n in (1, 3, 6):
        slow = []
        for row in range(3):
            picks = []
            for subset in itertools.combinations(range(6), n):
                top = max(proxy[row, i] for i in subset)
                picks.append(np.mean([gold[row, i] for i in subset if proxy[row, i] == top]))
            slow.append(np.mean(picks))
        assert best_of_n_rewards(proxy, gold, n) == pytest.approx(slow)
    with pytest.raises(ValueError, match="at least 7"):
        best_of_n_rewards(proxy, gold, 7)
