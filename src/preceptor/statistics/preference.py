"""Which model is preferred, and how sure are we: one engine for people, judge models and gold judges.

An outcome is 1 (a wins), 0.5 (tie) or 0 (b wins). Answers to one prompt share its difficulty, so the prompt is
what was drawn independently: intervals resample prompts, never single outcomes. All intervals are 95 %.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from preceptor.statistics.clustered import Z, share, variance_of_mean
from preceptor.statistics.interval import Interval

_TAIL = 0.025
_MOST_DRAWS = 4_000_000  # cluster numbers held in memory at once: 32 MB


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparisons:
    """Outcomes of a against b, with the places in `scores_a` and `scores_b` that met.

    All arrays have shape (comparisons,). `missing` counts the pairs left out because a score was NaN:
    a judge that failed is a missing value, never a loss.
    """

    outcomes: NDArray[np.float64]
    prompts: NDArray
    index_a: NDArray[np.int64]
    index_b: NDArray[np.int64]
    missing: int = 0


def compare(
    scores_a: ArrayLike, scores_b: ArrayLike, prompts_a: ArrayLike, prompts_b: ArrayLike | None = None, tie: float = 0.0
) -> Comparisons:
    """Every sample of a against every sample of b on the same prompt.

    The default, because it estimates the same win rate as `compare_in_order` with less variance from the draw
    of the samples, asks for no more judging (the scores exist), and does not depend on the order of the samples.
    Scores have shape (samples,); prompts are any labels; `prompts_b` defaults to `prompts_a`. Prompts that only
    one side answered are left out. Scores at most `tie` apart are a tie.
    """
    labels_a = np.asarray(prompts_a)
    labels_b = labels_a if prompts_b is None else np.asarray(prompts_b)
    _same_length("scores_a", scores_a, "prompts_a", labels_a)
    _same_length("scores_b", scores_b, "prompts_b", labels_b)
    order_b = np.argsort(labels_b, kind="stable")
    starts = np.searchsorted(labels_b[order_b], labels_a, side="left")
    counts = np.searchsorted(labels_b[order_b], labels_a, side="right") - starts
    index_a = np.repeat(np.arange(len(labels_a)), counts)
    within = np.arange(len(index_a)) - np.repeat(np.cumsum(counts) - counts, counts)
    index_b = order_b[np.repeat(starts, counts) + within]
    return _outcomes(scores_a, scores_b, labels_a, index_a, index_b, tie)


def compare_in_order(scores_a: ArrayLike, scores_b: ArrayLike, prompts: ArrayLike, tie: float = 0.0) -> Comparisons:
    """Sample i of a against sample i of b: for pairs that were put before a judge one by one."""
    labels = np.asarray(prompts)
    _same_length("scores_a", scores_a, "prompts", labels)
    _same_length("scores_b", scores_b, "prompts", labels)
    places = np.arange(len(labels))
    return _outcomes(scores_a, scores_b, labels, places, places, tie)


def _outcomes(scores_a, scores_b, labels, index_a, index_b, tie) -> Comparisons:
    if tie < 0:
        raise ValueError(f"tie is {tie}; it is a distance between scores, 0 or more")
    difference = np.asarray(scores_a, dtype=float)[index_a] - np.asarray(scores_b, dtype=float)[index_b]
    known = ~np.isnan(difference)
    difference, index_a, index_b = difference[known], index_a[known], index_b[known]
    outcomes = np.where(np.abs(difference) <= tie, 0.5, (difference > 0).astype(float))
    return Comparisons(
        outcomes=outcomes, prompts=labels[index_a], index_a=index_a, index_b=index_b, missing=int((~known).sum())
    )


def win_rate(
    outcomes: ArrayLike,
    prompts: ArrayLike,
    labelers: ArrayLike | None = None,
    *,
    seed: int = 0,
    resamples: int = 2000,
) -> Interval:
    """The mean outcome (ties count half) with a 95 % cluster-bootstrap interval.

    Prompts are drawn with replacement and the percentiles 2.5 and 97.5 taken. The ends are then moved away from
    the value by sqrt(G / (G - 1)) t_(G-1) / z for G prompts (Hesterberg 2015: the percentile interval is too narrow
    for few clusters), and, where `labelers` are given, by the labelers' share in the variance, see
    `_crossed_stretch`. Three cases that a bootstrap cannot answer: one prompt gives 0 to 1; prompts that all have
    the same mean give the exact bound for a different outcome that was not seen; no outcomes is a ValueError.
    """
    values = np.asarray(outcomes, dtype=float)
    if values.size and (values.min() < 0 or values.max() > 1):
        raise ValueError("an outcome lies outside 0 to 1; 1 is a win, 0.5 a tie, 0 a loss")
    return _bootstrap(values, prompts, labelers, seed, resamples, bounds=(0.0, 1.0))


def mean_interval(
    values: ArrayLike, clusters: ArrayLike | None = None, *, seed: int = 0, resamples: int = 2000
) -> Interval:
    """A mean (score, length, nats) with the interval of `win_rate`; without `clusters` every value stands alone.

    One cluster gives infinite ends. Clusters that all have the same mean give an interval of no width.
    """
    numbers = np.asarray(values, dtype=float)
    groups = np.arange(len(numbers)) if clusters is None else clusters
    return _bootstrap(numbers, groups, None, seed, resamples, bounds=(-np.inf, np.inf))


def rate_interval(hits: ArrayLike, clusters: ArrayLike | None = None) -> Interval:
    """A share of yes answers (flags, accuracy) with the interval of `clustered.share`, by rows instead of totals."""
    numbers = np.asarray(hits, dtype=float)
    if not np.isin(numbers, (0.0, 1.0)).all():
        raise ValueError("rate_interval takes yes and no only; for other numbers use mean_interval")
    codes = np.arange(len(numbers)) if clusters is None else _codes("clusters", clusters, numbers)
    if not len(numbers):
        raise ValueError("there is nothing to take a rate of")
    return share(np.bincount(codes, weights=numbers), np.bincount(codes))


def _bootstrap(values, clusters, labelers, seed, resamples, bounds) -> Interval:
    if not len(values):
        raise ValueError("there are no outcomes to average")
    if not np.isfinite(values).all():
        raise ValueError("a value is NaN or infinite; leave missing values out and count them")
    codes = _codes("clusters", clusters, values)
    groups = int(codes.max()) + 1
    value = float(values.mean())
    if groups == 1:
        return Interval(value=value, low=bounds[0], high=bounds[1], n=len(values), clusters=1)
    sums, sizes = np.bincount(codes, weights=values), np.bincount(codes)
    if np.ptp(sums / sizes) == 0:
        unseen = 1 - _TAIL ** (1 / groups)  # the most a different outcome could weigh and still go unseen
        low, high = (value * (1 - unseen), value + (1 - value) * unseen) if np.isfinite(bounds[0]) else (value, value)
        return Interval(value=value, low=low, high=high, n=len(values), clusters=groups)
    means = _resampled_means(sums, sizes, seed, resamples)
    low, high = np.quantile(means, (_TAIL, 1 - _TAIL))
    stretch = np.sqrt(groups / (groups - 1)) * stats.t.ppf(1 - _TAIL, groups - 1) / Z
    if labelers is not None:
        stretch = max(stretch, _crossed_stretch(values - value, codes, _codes("labelers", labelers, values)))
    return Interval(
        value=value,
        low=max(bounds[0], float(value - stretch * (value - low))),
        high=min(bounds[1], float(value + stretch * (high - value))),
        n=len(values),
        clusters=groups,
    )


def _resampled_means(sums: NDArray, sizes: NDArray, seed: int, resamples: int) -> NDArray:
    """The mean of each resample; clusters enter by their sums, so outcomes are never copied. Shape (resamples,)."""
    generator = np.random.default_rng(seed)
    groups = len(sums)
    equal = np.ptp(sizes) == 0
    rows = max(1, _MOST_DRAWS // groups)
    parts = []
    for start in range(0, resamples, rows):
        drawn = generator.integers(0, groups, size=(min(rows, resamples - start), groups))
        weight = groups * sizes[0] if equal else sizes[drawn].sum(axis=1)
        parts.append(sums[drawn].sum(axis=1) / weight)
    return np.concatenate(parts)


def _crossed_stretch(residuals: NDArray, prompts: NDArray, labelers: NDArray) -> float:
    """How much wider than the prompt bootstrap an interval must be when labelers are a sample too.

    No bootstrap is right for crossed clusters (McCullagh 2000). The variances are: by prompt + by labeler - by
    both (Cameron, Gelbach, Miller 2011). Labelers are few, so the quantile is Student's with Satterthwaite's degrees
    of freedom, counted before the subtraction: in simulations with 4 to 20 labelers this covers 93.7 to 97.0 %,
    counted after it 90.0 to 96.5 %.
    """
    both = np.unique(np.stack((prompts, labelers)), axis=1, return_inverse=True)[1].reshape(-1)
    by_prompt = _cluster_variance(residuals, prompts)
    by_labeler = _cluster_variance(residuals, labelers)
    people = int(labelers.max()) + 1
    if people == 1 or by_prompt == 0:
        return 1.0
    total = by_prompt + max(0.0, by_labeler - _cluster_variance(residuals, both))
    freedom = max(1.0, total**2 / (by_prompt**2 / max(1, prompts.max()) + by_labeler**2 / (people - 1)))
    return float(np.sqrt(total / by_prompt) * stats.t.ppf(1 - _TAIL, freedom) / Z)


def _cluster_variance(residuals: NDArray, codes: NDArray) -> float:
    return variance_of_mean(np.bincount(codes, weights=residuals), len(residuals))


def random_order(n: int, seed: int) -> NDArray[np.bool_]:
    """Whether a is shown first, for n pairs: half of them (one more or less when n is odd), shuffled. Store it."""
    generator = np.random.default_rng(seed)
    first = np.arange(n) < (n + generator.integers(0, 2)) // 2
    return generator.permutation(first)


def position_effect(
    outcomes: ArrayLike, a_first: ArrayLike, prompts: ArrayLike, *, seed: int = 0, resamples: int = 2000
) -> Interval:
    """The share of pairs won by the answer shown first; 0.5 when the place does not matter."""
    values, first = np.asarray(outcomes, dtype=float), np.asarray(a_first, dtype=bool)
    _same_length("outcomes", values, "a_first", first)
    return win_rate(np.where(first, values, 1 - values), prompts, seed=seed, resamples=resamples)


@dataclass(frozen=True, kw_only=True, slots=True)
class LengthControlled:
    """The win rate as counted, and as it would be for answers of equal length.

    `slope` is the change in log-odds per unit of tanh(difference / its root mean square), with its interval;
    `mean_difference` is the mean of length a - length b in the unit of the lengths given.
    """

    raw: Interval
    controlled: Interval
    slope: Interval
    mean_difference: float


def length_controlled(
    outcomes: ArrayLike,
    lengths_a: ArrayLike,
    lengths_b: ArrayLike,
    prompts: ArrayLike,
    *,
    seed: int = 0,
    resamples: int = 2000,
) -> LengthControlled:
    """Raw and length-controlled win rates side by side. All inputs have shape (comparisons,).

    logit P(a wins) = theta + slope * tanh(difference / its root mean square), ties as half a win; the controlled
    rate is sigmoid(theta), the fit for equal lengths. The tanh keeps very long answers from ruling the fit. This is
    AlpacaEval's length control (Dubois et al. 2024) without its term per instruction, so it is no substitute for
    judging answers of equal length. Intervals: cluster-robust variance of the fit, Student's t, on the scale of
    log-odds. A tiny ridge (0.001) keeps the fit finite when one side always wins.
    """
    values = np.asarray(outcomes, dtype=float)
    difference = np.asarray(lengths_a, dtype=float) - np.asarray(lengths_b, dtype=float)
    _same_length("outcomes", values, "lengths", difference)
    raw = win_rate(values, prompts, seed=seed, resamples=resamples)
    codes = _codes("prompts", prompts, values)
    spread = float(np.sqrt((difference**2).mean())) or 1.0
    design = np.stack((np.ones_like(values), np.tanh(difference / spread)), axis=1)
    ridge = 1e-3 * np.eye(2)
    theta = np.zeros(2)
    for _ in range(50):
        chance = special.expit(design @ theta)
        curvature = design.T @ (design * (chance * (1 - chance))[:, None]) + ridge
        step = np.linalg.solve(curvature, design.T @ (values - chance) - ridge @ theta)
        theta = theta + step * min(1.0, 2.0 / max(1e-12, float(np.abs(step).max())))
        if np.abs(step).max() < 1e-10:
            break
    groups = int(codes.max()) + 1
    if groups == 1:
        return LengthControlled(
            raw=raw,
            controlled=Interval(value=float(special.expit(theta[0])), low=0.0, high=1.0, n=len(values), clusters=1),
            slope=Interval(value=float(theta[1]), low=-np.inf, high=np.inf, n=len(values), clusters=1),
            mean_difference=float(difference.mean()),
        )
    chance = special.expit(design @ theta)
    scores = design * (values - chance)[:, None]
    sums = np.stack([np.bincount(codes, weights=column) for column in scores.T], axis=1)
    bread = np.linalg.inv(design.T @ (design * (chance * (1 - chance))[:, None]) + ridge)
    error = np.sqrt(np.diag(bread @ (sums.T @ sums) @ bread) * groups / (groups - 1))
    reach = stats.t.ppf(1 - _TAIL, groups - 1) * error
    low, high = theta - reach, theta + reach
    count = {"n": len(values), "clusters": groups}
    return LengthControlled(
        raw=raw,
        controlled=Interval(
            value=float(special.expit(theta[0])),
            low=float(special.expit(low[0])),
            high=float(special.expit(high[0])),
            **count,
        ),
        slope=Interval(value=float(theta[1]), low=float(low[1]), high=float(high[1]), **count),
        mean_difference=float(difference.mean()),
    )


CORRELATION = 0.3  # of outcomes within a prompt, assumed where a run is planned


def smallest_detectable(n: int, clusters: int, correlation: float = CORRELATION, power: float = 0.8) -> float:
    """How far from one half a win rate must lie to be told from it (two-sided, 5 %) with chance `power`.

    `n` comparisons over `clusters` prompts; `correlation` of outcomes within a prompt. (z_0.975 + z_power) times
    the standard error 0.5 sqrt((1 + (n / clusters - 1) correlation) / n), the largest there is: ties make it smaller.
    """
    if not 0 < clusters <= n:
        raise ValueError(f"{clusters} prompts for {n} comparisons; there must be at least one comparison a prompt")
    if not 0 <= correlation <= 1:
        raise ValueError(f"correlation is {correlation}; it goes from 0 to 1")
    if not 0 < power < 1:
        raise ValueError(f"power is {power}; it lies between 0 and 1")
    design_effect = 1 + (n / clusters - 1) * correlation
    return float((Z + stats.norm.ppf(power)) * 0.5 * np.sqrt(design_effect / n))


def _codes(name: str, labels: ArrayLike | Sequence, values: NDArray) -> NDArray[np.int64]:
    """Labels of any kind as numbers 0 .. groups - 1."""
    array = np.asarray(labels)
    _same_length("values", values, name, array)
    return np.unique(array, return_inverse=True)[1].reshape(-1)


def _same_length(name_a: str, a: ArrayLike, name_b: str, b: ArrayLike) -> None:
    if np.shape(a) != np.shape(b):
        raise ValueError(f"{name_a} has shape {np.shape(a)} but {name_b} has shape {np.shape(b)}")
