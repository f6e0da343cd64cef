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


def share(yes: np.ndarray, total: np.ndarray) -> Interval:
    """sum(yes) / sum(total) over clusters, with Wilson's interval at the effective sample size.

    The effective size is the number of rows divided by the design effect of the clusters, and never more than
    the number of rows. Where every row says the same, the clusters are counted as one observation each, so that
    five prompts that all agree do not give an interval of no width.
    """
    yes, total = yes[total > 0].astype(float), total[total > 0].astype(float)
    n, clusters = total.sum(), len(total)
    if not clusters:
        return Interval(value=float("nan"), low=0.0, high=1.0, n=0, clusters=0)
    value = yes.sum() / n
    effective = float(clusters)
    if 0 < value < 1 and clusters > 1:
        spread = ((yes - value * total) ** 2).sum() * clusters / (clusters - 1) / n**2
        effective = min(n, value * (1 - value) / spread) if spread > 0 else float(n)
    z2 = Z * Z / effective
    centre = (value + z2 / 2) / (1 + z2)
    half = Z * np.sqrt(value * (1 - value) / effective + z2 / effective / 4) / (1 + z2)
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return Interval(value=float(value), low=float(low), high=float(high), n=round(n), clusters=clusters)


def mean(sums: np.ndarray, counts: np.ndarray) -> Interval:
    """sum(sums) / sum(counts) over clusters, with Student's t on clusters - 1 degrees of freedom."""
    sums, counts = sums[counts > 0], counts[counts > 0]
    clusters, n = len(counts), counts.sum()
    value = float(sums.sum() / n) if clusters else float("nan")
    half = float("inf")
    if clusters > 1:
        error = np.sqrt(((sums - value * counts) ** 2).sum() * clusters / (clusters - 1)) / n
        half = float(stats.t.ppf(0.975, clusters - 1) * error)
    low, high = (value - half, value + half) if clusters else (-half, half)
    return Interval(value=value, low=low, high=high, n=round(n), clusters=clusters)
