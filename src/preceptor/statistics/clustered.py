"""95 % intervals that respect clusters: rows of one prompt or one ranking are not independent."""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import stats

from preceptor.statistics.interval import Interval

Z = float(stats.norm.ppf(0.975))


def bootstrap(
    sums: Any, statistic: Callable[[np.ndarray], np.ndarray], *, draws: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of a statistic of totals, resampling whole items with replacement.

    `sums`: (items, d), dense or scipy sparse, what each item adds to the totals. `statistic`: (draws, d) totals
    -> (draws,). Draws where the statistic is not defined (NaN) are left out; when more than half are, or there
    are fewer than two items, the interval is (nan, nan).
    """
    items = sums.shape[0]
    if items < 2:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    values = np.empty(draws)
    chunk = max(1, 4_000_000 // items)
    for start in range(0, draws, chunk):
        size = min(chunk, draws - start)
        weights = np.empty((size, items))
        for row in weights:
            row[:] = np.bincount(rng.integers(items, size=items), minlength=items)
        values[start : start + size] = statistic(np.asarray(weights @ sums))
    values = values[~np.isnan(values)]
    if len(values) < draws / 2:
        return float("nan"), float("nan")
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


def variance_of_mean(sums: np.ndarray, n: float) -> float:
    """The variance of a mean of n rows when whole clusters are drawn: G / (G - 1) times the sum of squared sums / n^2.

    `sums`: (clusters,), of each cluster's rows minus the mean.
    """
    groups = len(sums)
    return float(groups / (groups - 1) * (sums**2).sum() / n**2) if groups > 1 else 0.0


def share(yes: np.ndarray, total: np.ndarray) -> Interval:
    """sum(yes) / sum(total) over clusters, with Wilson's interval on the effective number of rows.

    Better than a bootstrap near 0 and 1, where rare flags live. The effective number is n / design effect, the design
    effect being the cluster-robust variance over p (1 - p) / n, and never more than n; where every row says the same it
    is the number of clusters, so that five prompts that all agree do not give an interval of no width. The quantile is
    Student's with clusters - 1 degrees of freedom. One cluster gives 0 to 1; none a value that is no number.
    """
    yes, total = yes[total > 0].astype(float), total[total > 0].astype(float)
    n, clusters = total.sum(), len(total)
    if clusters < 2:
        value = float(yes.sum() / n) if clusters else float("nan")
        return Interval(value=value, low=0.0, high=1.0, n=round(n), clusters=clusters)
    value = float(yes.sum() / n)
    effective = float(clusters)
    variance = variance_of_mean(yes - value * total, n)
    if 0 < value < 1 and variance > 0:
        effective = min(value * (1 - value) / variance, float(n))
    elif 0 < value < 1:
        effective = float(n)
    t = float(stats.t.ppf(0.975, clusters - 1))
    scale = 1 + t * t / effective
    centre = (value + t * t / (2 * effective)) / scale
    half = t / scale * np.sqrt(value * (1 - value) / effective + (t / (2 * effective)) ** 2)
    low = 0.0 if value == 0 else max(0.0, float(centre - half))
    high = 1.0 if value == 1 else min(1.0, float(centre + half))
    return Interval(value=value, low=low, high=high, n=round(n), clusters=clusters)


def mean(sums: np.ndarray, counts: np.ndarray) -> Interval:
    """sum(sums) / sum(counts) over clusters, with Student's t on clusters - 1 degrees of freedom."""
    sums, counts = sums[counts > 0], counts[counts > 0]
    clusters, n = len(counts), counts.sum()
    value = float(sums.sum() / n) if clusters else float("nan")
    half = float("inf")
    if clusters > 1:
        error = np.sqrt(variance_of_mean(sums - value * counts, n))
        half = float(stats.t.ppf(0.975, clusters - 1) * error)
    low, high = (value - half, value + half) if clusters else (-half, half)
    return Interval(value=value, low=low, high=high, n=round(n), clusters=clusters)
