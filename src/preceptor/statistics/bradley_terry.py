"""Strengths of many models from pairwise outcomes with ties: Davidson's extension of Bradley-Terry."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from preceptor.statistics.interval import Interval

_RIDGE = 1e-3


@dataclass(frozen=True, kw_only=True, slots=True)
class BradleyTerry:
    """Log-strengths by model, relative to `reference` (or to the mean of all models when it is None).

    `log_tie` is ln nu; minus infinity when no tie was seen.
    """

    strengths: dict[str, Interval]
    log_tie: float
    reference: str | None

    def win_rate(self, a: str, b: str) -> float:
        """P(a wins) + P(tie) / 2 as fitted."""
        win, tie, _ = _chances(self.strengths[a].value - self.strengths[b].value, self.log_tie)
        return float(win + tie / 2)


def _chances(difference, log_tie):
    """Davidson (1970): win : tie : loss = sqrt(p_a / p_b) : nu : sqrt(p_b / p_a)."""
    half = np.asarray(difference) / 2
    logits = np.stack((half, np.full_like(half, log_tie), -half))
    return np.exp(logits - special.logsumexp(logits, axis=0))


def bradley_terry(
    models_a: Sequence[str],
    models_b: Sequence[str],
    outcomes: ArrayLike,
    prompts: ArrayLike,
    *,
    reference: str | None = None,
    seed: int = 0,
    resamples: int = 200,
) -> BradleyTerry:
    """Fit P(a wins) = p_a / (p_a + p_b + nu sqrt(p_a p_b)), P(tie) = nu sqrt(p_a p_b) / the same.

    Davidson rather than Rao and Kupper, because the points a model won (ties half) are then all that matters, as
    in a win rate, and the likelihood has one maximum. Outcomes are 1, 0.5 or 0; the four inputs have the same
    length. Intervals are percentiles of a bootstrap over prompts. A ridge of 0.001 on all parameters keeps the
    strength of a model finite that never lost or never won. Models that no chain of comparisons connects cannot
    be put on one scale: ValueError.
    """
    values = np.asarray(outcomes, dtype=float)
    if not len(values):
        raise ValueError("there are no comparisons")
    if not np.isin(values, (0.0, 0.5, 1.0)).all():
        raise ValueError("outcomes must be 1 (win), 0.5 (tie) or 0 (loss)")
    names, codes = np.unique(np.asarray([*models_a, *models_b]), return_inverse=True)
    a, b = codes[: len(values)], codes[len(values) :]
    if len(a) != len(values) or len(b) != len(values):
        raise ValueError("models_a, models_b and outcomes must have the same length")
    if (a == b).any():
        raise ValueError(f"{names[a[a == b][0]]} is compared with itself")
    if reference is not None and reference not in names:
        raise ValueError(f"the reference {reference!r} was never compared; compared: {', '.join(names)}")
    parts, part = connected_components(coo_matrix((np.ones(len(a)), (a, b)), shape=(len(names),) * 2), directed=False)
    if parts > 1:
        raise ValueError(f"no comparison connects {names[0]} with {names[np.argmax(part != part[0])]}")

    groups, cluster = np.unique(np.asarray(prompts), return_inverse=True)
    pairs, pair = np.unique(np.stack((a, b)), axis=1, return_inverse=True)
    kind = np.select([values == 1, values == 0.5], [0, 1], 2)
    counts = np.zeros((len(groups), 3, pairs.shape[1]))
    np.add.at(counts, (cluster.reshape(-1), kind, pair.reshape(-1)), 1)
    with_ties = bool((values == 0.5).any())
    start = np.zeros(len(names) + with_ties)

    best = _fit(counts.sum(axis=0), pairs, with_ties, start)
    generator = np.random.default_rng(seed)
    draws = np.empty((resamples, len(names)))
    for row in range(resamples):
        weights = np.bincount(generator.integers(0, len(groups), len(groups)), minlength=len(groups))
        fitted = _fit(np.tensordot(weights, counts, axes=1), pairs, with_ties, best)
        draws[row] = _relative(fitted[: len(names)], names, reference)
    strengths = _relative(best[: len(names)], names, reference)
    if len(groups) == 1:
        low, high = np.full(len(names), -np.inf), np.full(len(names), np.inf)
    else:
        low, high = np.quantile(draws, (0.025, 0.975), axis=0)
    judged = np.bincount(np.concatenate((a, b)), minlength=len(names))
    return BradleyTerry(
        strengths={
            str(name): Interval(
                value=float(strengths[i]),
                low=float(low[i]),
                high=float(high[i]),
                n=int(judged[i]),
                clusters=len(groups),
            )
            for i, name in enumerate(names)
        },
        log_tie=float(best[-1]) if with_ties else -np.inf,
        reference=reference,
    )


def _relative(strengths: NDArray, names: NDArray, reference: str | None) -> NDArray:
    zero = strengths.mean() if reference is None else strengths[list(names).index(reference)]
    return strengths - zero


def _fit(counts: NDArray, pairs: NDArray, with_ties: bool, start: NDArray) -> NDArray:
    """Log-strengths, then ln nu when there are ties. `counts` has shape (3, pairs): wins, ties, losses of a."""
    a, b = pairs
    models = len(start) - with_ties
    met = counts.sum(axis=0)

    def loss(theta: NDArray) -> tuple[float, NDArray]:
        log_tie = theta[-1] if with_ties else -np.inf
        chances = _chances(theta[a] - theta[b], log_tie)
        seen = counts > 0
        value = -(counts[seen] * np.log(chances[seen])).sum() + _RIDGE / 2 * (theta**2).sum()
        surplus = ((counts[0] - counts[2]) - met * (chances[0] - chances[2])) / 2
        gradient = np.bincount(b, weights=surplus, minlength=models) - np.bincount(a, weights=surplus, minlength=models)
        if with_ties:
            gradient = np.append(gradient, -(counts[1] - met * chances[1]).sum())
        return float(value), gradient + _RIDGE * theta

    return optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options={"gtol": 1e-7, "ftol": 1e-13}).x
