import numpy as np
import pytest
from scipy import stats

from preceptor.statistics.interval import Interval
from preceptor.statistics.preference import (
    compare,
    compare_in_order,
    length_controlled,
    mean_interval,
    position_effect,
    random_order,
    rate_interval,
    smallest_detectable,
    win_rate,
)


def clustered(generator, groups, size, spread, centre=0.0):
    """Outcomes (0, 0.5, 1) whose chance of winning differs from prompt to prompt."""
    latent = centre + spread * generator.standard_normal(groups)[:, None] + generator.standard_normal((groups, size))
    outcomes = np.where(np.abs(latent) < 0.2, 0.5, latent > 0).astype(float)
    return outcomes.ravel(), np.repeat(np.arange(groups), size)


def test_win_rate_by_hand():
    # Two prompts with means 1 and 0: a resample has mean 1, 0.5 or 0 with chances 1/4, 1/2, 1/4.
    result = win_rate([1, 1, 0, 0], ["p", "p", "q", "q"])
    assert (result.value, result.n, result.clusters) == (0.5, 4, 2)
    assert (result.low, result.high) == (0.0, 1.0)
    assert win_rate([1, 0.5, 0, 1], [0, 1, 2, 3]).value == 0.625


def test_bootstrap_agrees_with_a_slow_twin():
    generator = np.random.default_rng(3)
    outcomes, prompts = clustered(generator, 40, 5, 0.8, 0.3)
    keep = generator.random(len(outcomes)) < 0.7  # clusters of unequal size
    outcomes, prompts = outcomes[keep], prompts[keep]
    groups = [outcomes[prompts == prompt] for prompt in np.unique(prompts)]
    twin = np.random.default_rng(9)
    means = []
    for _ in range(4000):
        chosen = [groups[i] for i in twin.integers(0, len(groups), len(groups))]
        means.append(np.concatenate(chosen).mean())
    value = outcomes.mean()
    stretch = np.sqrt(40 / 39) * stats.t.ppf(0.975, 39) / stats.norm.ppf(0.975)
    low, high = (value + stretch * (np.quantile(means, q) - value) for q in (0.025, 0.975))
    result = win_rate(outcomes, prompts, resamples=4000)
    assert result.value == pytest.approx(value)
    assert result.low == pytest.approx(low, abs=0.006)
    assert result.high == pytest.approx(high, abs=0.006)


def test_win_rate_is_antisymmetric_and_seeded():
    generator = np.random.default_rng(0)
    outcomes, prompts = clustered(generator, 30, 4, 1.0, 0.5)
    ours, theirs = win_rate(outcomes, prompts, seed=5), win_rate(1 - outcomes, prompts, seed=5)
    assert ours.value + theirs.value == pytest.approx(1)
    assert ours.low == pytest.approx(1 - theirs.high)
    assert ours.flipped().high == pytest.approx(theirs.high)
    assert win_rate(outcomes, prompts, seed=5) == ours
    assert win_rate(outcomes, prompts, seed=6) != ours


def test_cases_a_bootstrap_cannot_answer():
    one = win_rate([1, 0, 1], ["p", "p", "p"])
    assert (one.low, one.high, one.clusters) == (0, 1, 1)
    every = win_rate(np.ones(20), np.arange(20))
    assert every.high == 1
    assert every.low == pytest.approx(0.025 ** (1 / 20))  # Clopper-Pearson for 20 of 20
    ties = win_rate(np.full(20, 0.5), np.arange(20))
    assert ties.low < 0.5 < ties.high
    assert ties.high - 0.5 == pytest.approx(0.5 - ties.low)
    with pytest.raises(ValueError, match="no outcomes"):
        win_rate([], [])
    with pytest.raises(ValueError, match="outside"):
        win_rate([2.0], [0])
    with pytest.raises(ValueError, match="shape"):
        win_rate([1, 0], [0])
    with pytest.raises(ValueError, match="NaN"):
        win_rate([1, np.nan], [0, 1])


def coverage(runs, interval, truth):
    hits = sum(made.low <= truth <= made.high for made in (interval(seed) for seed in range(runs)))
    return hits / runs


def test_coverage_on_clustered_outcomes():
    """1,000 runs: the simulation's own error is 0.7 points, so 93 to 97 % leaves three of them on each side."""

    def one(seed):
        outcomes, prompts = clustered(np.random.default_rng(1000 + seed), 40, 6, 1.0)
        return win_rate(outcomes, prompts, seed=seed, resamples=500)

    assert 0.93 <= coverage(1000, one, 0.5) <= 0.97

    def naive(seed):
        outcomes, prompts = clustered(np.random.default_rng(1000 + seed), 40, 6, 1.0)
        return win_rate(outcomes, np.arange(len(prompts)), seed=seed, resamples=500)

    assert coverage(300, naive, 0.5) < 0.85  # what ignoring the prompts would do: the test can fail


def test_coverage_with_few_prompts():
    def one(seed):
        outcomes, prompts = clustered(np.random.default_rng(5000 + seed), 12, 5, 1.0)
        return win_rate(outcomes, prompts, seed=seed, resamples=500)

    assert 0.93 <= coverage(1000, one, 0.5) <= 0.97


def test_coverage_when_labelers_differ():
    def data(seed):
        generator = np.random.default_rng(9000 + seed)
        prompts, labelers = np.divmod(np.arange(60 * 8), 8)
        latent = 0.7 * generator.standard_normal(60)[prompts] + 0.5 * generator.standard_normal(8)[labelers]
        return (latent + generator.standard_normal(480) > 0).astype(float), prompts, labelers

    def crossed(seed):
        outcomes, prompts, labelers = data(seed)
        return win_rate(outcomes, prompts, labelers, seed=seed, resamples=300)

    def prompts_only(seed):
        outcomes, prompts, _ = data(seed)
        return win_rate(outcomes, prompts, seed=seed, resamples=300)

    assert 0.93 <= coverage(1000, crossed, 0.5) <= 0.97
    assert coverage(300, prompts_only, 0.5) < 0.85


def test_labelers_never_narrow_the_interval():
    generator = np.random.default_rng(2)
    outcomes, prompts = clustered(generator, 30, 4, 0.5)
    alone = win_rate(outcomes, prompts)
    same = win_rate(outcomes, prompts, np.zeros(len(outcomes)))
    assert same == alone
    assert win_rate(outcomes, prompts, np.arange(len(outcomes)) % 4).low <= alone.low


def test_compare_by_hand():
    # Prompt x: a scored 1 and 3, b scored 2. Prompt y: a 5, b 5 and 4.
    result = compare([1, 3, 5], [2, 5, 4], ["x", "x", "y"], ["x", "y", "y"])
    assert result.outcomes.tolist() == [0, 1, 0.5, 1]
    assert result.prompts.tolist() == ["x", "x", "y", "y"]
    assert result.index_a.tolist() == [0, 1, 2, 2]
    assert result.index_b.tolist() == [0, 0, 1, 2]
    assert compare([1.0, 2.0], [1.3, 1.0], [0, 1], tie=0.5).outcomes.tolist() == [0.5, 1]
    assert compare_in_order([1, 3], [2, 2], ["x", "x"]).outcomes.tolist() == [0, 1]


def test_compare_against_a_slow_twin_and_the_other_way_round():
    generator = np.random.default_rng(1)
    a, b = generator.integers(0, 5, 50), generator.integers(0, 5, 40)
    prompts_a, prompts_b = generator.integers(0, 9, 50), generator.integers(2, 11, 40)
    result = compare(a, b, prompts_a, prompts_b)
    slow = [
        0.5 if a[i] == b[j] else float(a[i] > b[j])
        for i in range(50)
        for j in range(40)
        if prompts_a[i] == prompts_b[j]
    ]
    assert sorted(result.outcomes) == sorted(slow)
    back = compare(b, a, prompts_b, prompts_a)
    assert win_rate(result.outcomes, result.prompts).value + win_rate(back.outcomes, back.prompts).value == 1


def test_a_failed_score_is_missing_not_a_loss():
    result = compare([np.nan, 2.0], [1.0, 1.0], [0, 1])
    assert result.outcomes.tolist() == [1]
    assert result.missing == 1


def test_all_pairs_vary_less_than_pairs_in_order():
    generator = np.random.default_rng(4)
    prompts = np.repeat(np.arange(20), 4)
    every, in_order = [], []
    for _ in range(200):
        a, b = generator.standard_normal((2, 80))
        every.append(compare(a, b, prompts).outcomes.mean())
        in_order.append(compare_in_order(a, b, prompts).outcomes.mean())
    assert np.var(every) < 0.8 * np.var(in_order)


def test_order_and_position_effect():
    order = random_order(1001, seed=3)
    assert abs(order.sum() - 500.5) <= 0.5
    assert (order == random_order(1001, seed=3)).all()
    assert (order != random_order(1001, seed=4)).any()
    # A judge that always takes the first answer: a wins exactly when it comes first.
    biased = position_effect(order.astype(float), order, np.arange(1001))
    assert biased.value == 1
    fair = position_effect(np.random.default_rng(0).integers(0, 2, 1001), order, np.arange(1001))
    assert fair.low < 0.5 < fair.high


def test_length_control_removes_what_length_alone_explains():
    generator = np.random.default_rng(5)
    n = 4000
    difference = generator.normal(20, 30, n)  # a is longer, and longer answers win
    spread = np.sqrt((difference**2).mean())
    chance = 1 / (1 + np.exp(-1.5 * np.tanh(difference / spread)))
    outcomes = (generator.random(n) < chance).astype(float)
    result = length_controlled(outcomes, 100 + difference, np.full(n, 100.0), np.arange(n) // 4)
    assert result.raw.low > 0.55
    assert result.controlled.low < 0.5 < result.controlled.high
    assert result.slope.value == pytest.approx(1.5, abs=0.2)
    assert result.mean_difference == pytest.approx(difference.mean())


def test_length_control_keeps_a_win_that_is_not_length():
    generator = np.random.default_rng(6)
    outcomes = (generator.random(1000) < 0.7).astype(float)
    result = length_controlled(outcomes, np.full(1000, 7), np.full(1000, 7), np.arange(1000))
    assert result.controlled.value == pytest.approx(result.raw.value, abs=1e-3)
    always = length_controlled(np.ones(50), np.arange(50), np.zeros(50), np.arange(50))
    assert 0.5 < always.controlled.value <= 1
    assert np.isfinite(always.slope.value)


def test_smallest_detectable_by_hand():
    # (1.95996 + 0.84162) * 0.5 / sqrt(612)
    assert smallest_detectable(612, 612, 0.0) == pytest.approx(2.80158 * 0.5 / 612**0.5, rel=1e-5)
    # 4 answers a prompt, correlation 0.5: the variance grows by 1 + 3 * 0.5.
    assert smallest_detectable(400, 100, 0.5) == pytest.approx(2.80158 * 0.5 * (2.5 / 400) ** 0.5, rel=1e-5)
    assert smallest_detectable(400, 100, 1.0) == pytest.approx(smallest_detectable(100, 100, 0.0))
    with pytest.raises(ValueError, match="at least one"):
        smallest_detectable(10, 20, 0.1)


def test_mean_interval():
    values = np.random.default_rng(0).normal(3, 1, 500)
    made = mean_interval(values)
    half = stats.t.ppf(0.975, 499) * values.std(ddof=1) / 500**0.5
    assert made.low == pytest.approx(values.mean() - half, abs=0.02)
    assert made.high == pytest.approx(values.mean() + half, abs=0.02)
    alone = mean_interval([2.0, 4.0], ["p", "p"])
    assert (alone.value, alone.low, alone.high) == (3, -np.inf, np.inf)
    assert mean_interval([2.0, 2.0, 2.0]) == Interval(value=2, low=2, high=2, n=3, clusters=3)


def test_rate_interval_by_hand_and_at_the_ends():
    # Wilson with t: 30 of 100.
    made = rate_interval([1] * 30 + [0] * 70)
    t = stats.t.ppf(0.975, 99)
    n = 99.0  # the cluster variance divides by n - 1
    centre = (0.3 + t * t / (2 * n)) / (1 + t * t / n)
    half = t / (1 + t * t / n) * (0.21 / n + (t / (2 * n)) ** 2) ** 0.5
    assert (made.low, made.high) == pytest.approx((centre - half, centre + half))
    none = rate_interval(np.zeros(50))
    assert none.low == 0
    assert 0.05 < none.high < 0.1
    assert rate_interval([1, 0], ["p", "p"]).high == 1
    same_prompt_twice = rate_interval(np.repeat([1] * 30 + [0] * 70, 2), np.repeat(np.arange(100), 2))
    assert same_prompt_twice.low == pytest.approx(made.low)  # copies add nothing
    with pytest.raises(ValueError, match="yes and no"):
        rate_interval([0.5])


def test_coverage_of_rare_flags():
    def one(seed):
        generator = np.random.default_rng(seed)
        chance = 1 / (1 + np.exp(3.5 - generator.standard_normal(100)))
        return rate_interval(
            (generator.random((100, 3)) < chance[:, None]).ravel().astype(float), np.repeat(range(100), 3)
        )

    grid = np.random.default_rng(0).standard_normal(400_000)
    truth = (1 / (1 + np.exp(3.5 - grid))).mean()
    assert 0.93 <= coverage(1000, one, truth) <= 0.98


def test_interval_survives_json():
    made = mean_interval([2.0, 4.0], ["p", "p"])
    assert made.to_json()["low"] is None
    assert Interval.from_json(made.to_json()) == made
