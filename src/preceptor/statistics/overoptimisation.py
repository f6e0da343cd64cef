"""How gold reward rises and falls as a policy moves away from its start (Gao, Schulman, Hilton 2022).

d = sqrt(KL), KL in nats per whole answer, against the policy that optimisation started from. Rewards are
differences from that start. The coefficients have no meaning across methods: RL spends far more KL than best-of-n.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special


@dataclass(frozen=True, kw_only=True, slots=True)
class Law:
    """A fitted law. `peak` is the distance with the most reward, `zero` where the gain is used up; both are None
    when nothing turns over (beta not above 0). `residual` is the root mean square error; `n` the points used."""

    alpha: float
    beta: float
    peak: float | None
    peak_reward: float | None
    zero: float | None
    residual: float
    n: int


def best_of_n_kl(n: ArrayLike) -> NDArray[np.float64]:
    """KL of best-of-n from its base policy: ln n - (n - 1) / n nats (exact when no two answers score the same)."""
    count = np.asarray(n, dtype=float)
    if (count < 1).any():
        raise ValueError("best-of-n needs n of 1 or more")
    return np.log(count) - (count - 1) / count


def rl_law(distance: ArrayLike, alpha: float, beta: float) -> NDArray[np.float64]:
    """R(d) = d (alpha - beta ln d), 0 at 0. Its slope is infinite at 0: do not trust it near there."""
    d = np.asarray(distance, dtype=float)
    return alpha * d - beta * special.xlogy(d, d)


def best_of_n_law(distance: ArrayLike, alpha: float, beta: float) -> NDArray[np.float64]:
    """R(d) = d (alpha - beta d)."""
    d = np.asarray(distance, dtype=float)
    return d * (alpha - beta * d)


def fit_rl_law(distance: ArrayLike, reward: ArrayLike, smallest: float = 1.0) -> Law:
    """Least squares of `rl_law` over the points with d of `smallest` and more. At least 3 such points."""
    d, r = _points(distance, reward, smallest)
    alpha, beta, residual = _solve(d, -special.xlogy(d, d), r)
    if beta <= 0 or alpha / beta > 20:  # a turn beyond d = e^19 is no turn
        return Law(alpha=alpha, beta=beta, peak=None, peak_reward=None, zero=None, residual=residual, n=len(d))
    peak = float(np.exp(alpha / beta - 1))
    return Law(
        alpha=alpha,
        beta=beta,
        peak=peak,
        peak_reward=beta * peak,
        zero=float(np.exp(alpha / beta)),
        residual=residual,
        n=len(d),
    )


def fit_best_of_n_law(distance: ArrayLike, reward: ArrayLike) -> Law:
    """Least squares of `best_of_n_law` over the points with d above 0. At least 3 such points."""
    d, r = _points(distance, reward, 1e-12)
    alpha, beta, residual = _solve(d, -(d**2), r)
    if beta <= 0:
        return Law(alpha=alpha, beta=beta, peak=None, peak_reward=None, zero=None, residual=residual, n=len(d))
    return Law(
        alpha=alpha,
        beta=beta,
        peak=max(0.0, alpha / (2 * beta)),
        peak_reward=max(0.0, alpha) ** 2 / (4 * beta),
        zero=max(0.0, alpha / beta),
        residual=residual,
        n=len(d),
    )


def _points(distance: ArrayLike, reward: ArrayLike, smallest: float) -> tuple[NDArray, NDArray]:
    d, r = np.asarray(distance, dtype=float), np.asarray(reward, dtype=float)
    if d.shape != r.shape:
        raise ValueError(f"{d.shape} distances but {r.shape} rewards")
    used = d >= smallest
    if used.sum() < 3:
        raise ValueError(f"{used.sum()} points at a distance of {smallest:g} or more; the fit needs at least 3")
    return d[used], r[used]


def _solve(first: NDArray, second: NDArray, reward: NDArray) -> tuple[float, float, float]:
    """Both laws are linear in alpha and beta."""
    design = np.stack((first, second), axis=1)
    (alpha, beta), *_ = np.linalg.lstsq(design, reward, rcond=None)
    residual = float(np.sqrt(((design @ (alpha, beta) - reward) ** 2).mean()))
    return float(alpha), float(beta), residual


def best_of_n_rewards(proxy: ArrayLike, gold: ArrayLike, n: int) -> NDArray[np.float64]:
    """The expected gold score of the answer with the highest proxy score among n, per prompt.

    `proxy` and `gold` have shape (prompts, samples); the result has shape (prompts,). Unbiased: the mean over all
    subsets of n samples, not one draw. Answers that tie on proxy are equally likely to be taken.
    """
    scores, value = np.asarray(proxy, dtype=float), np.asarray(gold, dtype=float)
    if scores.shape != value.shape or scores.ndim != 2:
        raise ValueError(f"proxy {scores.shape} and gold {value.shape} must both have shape (prompts, samples)")
    samples = scores.shape[1]
    if not 1 <= n <= samples:
        raise ValueError(f"best of {n} needs at least {n} samples a prompt; there are {samples}")
    below = (scores[:, None, :] < scores[:, :, None]).sum(axis=2)
    level = (scores[:, None, :] == scores[:, :, None]).sum(axis=2)
    # P(the best lies in this tied group), shared equally among its members.
    reach = special.comb(below + level, n) - special.comb(below, n)
    return (reach / special.comb(samples, n) / level * value).sum(axis=1)
