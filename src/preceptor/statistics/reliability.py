"""How far each labeler's rankings can be relied on, learned from the rankings alone.

For votes on items (flags) the same is done by `preceptor.statistics.dawid_skene`, given here too.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import connected_components
from scipy.special import expit
from scipy.stats import norm

from preceptor.statistics.clustered import Z
from preceptor.statistics.comparisons import Comparisons, compare
from preceptor.statistics.dawid_skene import DawidSkene, dawid_skene
from preceptor.types import Ranking

__all__ = [
    "DawidSkene",
    "Reliability",
    "ReliableScores",
    "bradley_terry_equal",
    "bradley_terry_with_reliability",
    "dawid_skene",
    "labeler_weights",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reliability:
    """One labeler's inverse temperature, 1 for the typical one, with its 95 % interval.

    `n` is the number of (comparison, other labeler who put the same pair in order): 0 means that the value is the
    prior's and not a finding.
    """

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ReliableScores:
    """Scores of completions, their standard errors, and each labeler's reliability.

    A difference of 1 in score is odds of e to 1 for a labeler of reliability 1. `spread` is the learned standard
    deviation of log reliability: near 0, the rankings give no sign that labelers differ.
    """

    scores: Mapping[str, float]
    errors: Mapping[str, float]
    reliability: Mapping[str, Reliability]
    spread: float
    converged: bool


def bradley_terry_with_reliability(rankings: Iterable[Ranking]) -> ReliableScores:
    """P(labeler l puts a before b) = sigmoid(beta_l (s_a - s_b)): Bradley-Terry, an inverse temperature per labeler.

    The model of Chen et al. (2013), "Pairwise ranking aggregation in a crowdsourced setting", but not their joint
    maximum over scores and reliabilities: where most completions have one or two labelers, the scores bend to
    whoever gave them and a lone labeler is called perfect. Instead

    1. beta is fitted to how often each two labelers put the same pair alike. Two who judge a pair whose scores
       differ by d ~ Normal(0, 2 tau^2) agree with chance (1 + E[tanh(beta_l d / 2) tanh(beta_k d / 2)]) / 2, whatever
       the scores. The sum of these log-likelihoods over labelers and pairs (a composite likelihood: Varin, Reid &
       Firth 2011), divided by its measured design effect with prompts as clusters, is maximised together with
       log beta_l ~ Normal(0, spread^2); spread and tau are learned. A labeler who shares no pair with anybody keeps
       the typical value, 1.
    2. The scores are the maximum a posteriori given beta, s ~ Normal(0, tau^2), tau learned in step 1.
       An order of k completions is not k (k - 1) / 2 findings: each pair weighs 4 (k - H_k) / (k (k - 1)), H_k the
       harmonic number, which gives all of them together the information of a Plackett-Luce ranking at equal scores.

    Ties are left out. Completions of different prompts share a scale only through the prior.
    """
    rankings = list(rankings)
    table = _ordered(rankings)
    log_beta, covariance, tau, spread, met, converged = _reliabilities(table)
    error = np.sqrt(np.diag(covariance))
    reliability = {}
    for who in np.unique(table.labeler):
        low, value, high = np.exp(log_beta[who] + Z * error[who] * np.array([-1, 0, 1]))
        reliability[table.labelers[who]] = Reliability(
            value=float(value), low=float(low), high=float(high), n=int(met[who])
        )
    scores, errors, done = _scores(rankings, table, np.exp(log_beta), tau)
    return ReliableScores(
        scores=scores,
        errors=errors,
        reliability=reliability,
        spread=spread,
        converged=converged and done,
    )


def bradley_terry_equal(rankings: Iterable[Ranking]) -> ReliableScores:
    """The scores with every reliability at 1: what the reliabilities are to be judged against."""
    rankings = list(rankings)
    table = _ordered(rankings)
    _, _, tau, *_ = _reliabilities(table)
    scores, errors, done = _scores(rankings, table, np.ones(len(table.labelers)), tau)
    same = {table.labelers[who]: Reliability(value=1.0, low=1.0, high=1.0, n=0) for who in np.unique(table.labeler)}
    return ReliableScores(scores=scores, errors=errors, reliability=same, spread=0.0, converged=done)


def labeler_weights(rankings: Iterable[Ranking]) -> dict[str, float]:
    """Each labeler's reliability divided by the mean over labelers: weights for a loss, with mean 1.

    Proportional to beta: the slope of the log-likelihood of a comparison, log sigmoid(beta (r_a - r_b)), at equal
    rewards is beta / 2. A labeler about whom the others say nothing, or who only tied, gets the typical weight.
    """
    rankings = list(rankings)
    names = list(dict.fromkeys(ranking.labeler_id for ranking in rankings))
    if not any(ranking.comparisons() for ranking in rankings):
        return dict.fromkeys(names, 1.0)
    table = _ordered(rankings)
    log_beta, *_ = _reliabilities(table)
    known = dict(zip(table.labelers, np.exp(log_beta)))
    mean = sum(known.values()) / len(known)
    return {name: float(known[name] / mean) for name in names}


def _ordered(rankings: Sequence[Ranking]) -> Comparisons:
    table = compare(rankings)
    table = table.where(table.sign != 0)
    if not len(table):
        raise ValueError("no ranking puts one completion before another")
    return table


# -- how reliable, from agreement alone -------------------------------------------------------------------


def _meetings(table: Comparisons) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """For each prompt and two labelers who share pairs of it: prompt, one, two, pairs put alike, pairs shared."""
    columns: list[list[np.ndarray]] = [[], [], [], [], []]
    order = np.argsort(table.prompt, kind="stable")
    edges = np.searchsorted(table.prompt[order], np.arange(len(table.prompts) + 1))
    for prompt in range(len(table.prompts)):
        rows = order[edges[prompt] : edges[prompt + 1]]
        labelers, labeler = np.unique(table.labeler[rows], return_inverse=True)
        if len(labelers) < 2:
            continue
        pairs, pair = np.unique(table.pair[rows], return_inverse=True)
        sign = np.zeros((len(labelers), len(pairs)))
        sign[labeler, pair] = table.sign[rows]
        shared = np.abs(sign) @ np.abs(sign).T
        one, two = np.nonzero(np.triu(shared > 0, k=1))
        both = shared[one, two]
        alike = (both + (sign @ sign.T)[one, two]) / 2
        for column, part in zip(columns, (np.full(len(one), prompt), labelers[one], labelers[two], alike, both)):
            column.append(part)
    prompt, one, two, alike, both = (np.concatenate(c) if c else np.zeros(0) for c in columns)
    return prompt.astype(int), one.astype(int), two.astype(int), alike, both


# The difference of two scores, Normal(0, 2), at the middles of 200 equal shares.
DIFFERENCES = np.sqrt(2) * norm.ppf((np.arange(200) + 0.5) / 200)


def _reliabilities(table: Comparisons) -> tuple[np.ndarray, np.ndarray, float, float, np.ndarray, bool]:
    """log beta (labelers,), its covariance, tau, spread, comparisons met by others (labelers,), converged."""
    people = len(table.labelers)
    prompt, one, two, alike, both = _meetings(table)
    met = np.bincount(one, both, people) + np.bincount(two, both, people)
    if not len(prompt):
        return np.zeros(people), np.eye(people), 1.0, 1.0, met, True
    shape = (people, people)
    same, total = (
        csr_matrix((part, (one, two)), shape=shape).toarray() + csr_matrix((part, (two, one)), shape=shape).toarray()
        for part in (alike, both)
    )

    def likeness(log_beta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """E[tanh tanh] of each two labelers, and its slope in the log beta of the first."""
        x = np.exp(log_beta)[:, None] * DIFFERENCES / 2
        curve = np.tanh(x)
        return curve @ curve.T / len(DIFFERENCES), (x * (1 - curve**2)) @ curve.T / len(DIFFERENCES)

    def loss(free: np.ndarray, spread: float, effect: float) -> tuple[float, np.ndarray]:
        log_beta = free[0] + free[1:]
        f, slope = likeness(log_beta)
        f = np.minimum(f, 1 - 1e-9)
        value = (same * np.log1p(f) + (total - same) * np.log1p(-f)).sum() / 2 / effect
        pull = ((same / (1 + f) - (total - same) / (1 - f)) * slope).sum(1) / effect
        value -= (free[1:] ** 2).sum() / 2 / spread**2 + free[0] ** 2 / 2
        return -value, -np.concatenate([[pull.sum() - free[0]], pull - free[1:] / spread**2])

    free, spread, effect, converged = np.zeros(people + 1), 0.5, 1.0, False
    covariance = np.eye(people)
    known = met > 0
    for _ in range(100):
        found = minimize(
            loss, free, args=(spread, effect), jac=True, method="L-BFGS-B", bounds=[(-4, 4)] * (people + 1)
        )
        free = found.x
        f, slope = likeness(free[0] + free[1:])
        f = np.clip(f, -1 + 1e-9, 1 - 1e-9)
        # Information of the composite likelihood, and the scatter of its gradient over prompts.
        sharp = total / (1 - f**2)
        information = sharp * slope * slope.T + np.diag((sharp * slope**2).sum(1))
        pull = alike / (1 + f[one, two]) - (both - alike) / (1 - f[one, two])
        per_prompt = csr_matrix(
            (
                np.concatenate([pull * slope[one, two], pull * slope[two, one]]),
                (np.concatenate([prompt, prompt]), np.concatenate([one, two])),
            ),
            shape=(len(table.prompts), people),
        )
        effect = max(1.0, float(per_prompt.power(2).sum() / np.trace(information)))
        covariance = np.linalg.inv(information / effect + np.eye(people) / spread**2)
        fresh = float(np.clip(np.sqrt((free[1:] ** 2 + np.diag(covariance))[known].mean()), 0.05, 1.5))
        converged = bool(found.success) and abs(fresh - spread) < 1e-3
        spread = fresh
        if converged:
            break
    return free[1:], covariance, float(np.exp(free[0])), spread, met, converged


# -- scores, given the reliabilities ----------------------------------------------------------------------


def _scores(
    rankings: Sequence[Ranking], table: Comparisons, beta: np.ndarray, tau: float
) -> tuple[dict[str, float], dict[str, float], bool]:
    """Posterior mode and standard error of each completion's score, and whether the iteration settled.

    Each step maximises a quadratic that touches the log-posterior from below (Jaakkola & Jordan 2000), so it can
    only go up. Completions that no chain of comparisons links are solved apart, groups of one size at once.
    """
    winner = np.where(table.sign > 0, table.first, table.second)
    loser = np.where(table.sign > 0, table.second, table.first)
    used, ends = np.unique(np.concatenate([winner, loser]), return_inverse=True)
    a, b = ends[: len(table)], ends[len(table) :]
    weight = _weights(rankings)[table.ranking]
    slope = beta[table.labeler]
    links = coo_matrix((np.ones(len(a)), (a, b)), shape=(len(used), len(used)))
    _, group = connected_components(links, directed=False)
    sizes = np.bincount(group)
    order = np.argsort(group, kind="stable")
    begin = np.cumsum(sizes) - sizes
    place = np.empty(len(used), dtype=np.int64)
    place[order] = np.arange(len(used)) - np.repeat(begin, sizes)

    mean, error = np.zeros(len(used)), np.zeros(len(used))
    settled = True
    for size in np.unique(sizes):
        groups = np.flatnonzero(sizes == size)
        rows = np.flatnonzero(sizes[group[a]] == size)
        members = order[begin[groups][:, None] + np.arange(size)]
        number = np.searchsorted(groups, group[a[rows]])
        i, j, pull = place[a[rows]], place[b[rows]], weight[rows] * slope[rows]
        prior = np.eye(size) / tau**2
        push = np.zeros((len(groups), size))
        np.add.at(push, (number, i), pull / 2)
        np.add.at(push, (number, j), -pull / 2)

        shape = (len(groups), int(size), int(size))
        corners = [(number, p, q) for p, q in ((i, i), (j, j), (i, j), (j, i))]
        cells = np.concatenate([np.ravel_multi_index(corner, shape) for corner in corners])
        now = np.zeros((len(groups), size))
        done = False
        for _ in range(1000):
            x = np.maximum(slope[rows] * np.abs(now[number, i] - now[number, j]), 1e-6)
            curve = pull * slope[rows] * np.tanh(x / 2) / (2 * x)
            fresh = np.linalg.solve(_laplacian(cells, curve, shape) + prior, push[:, :, None])[:, :, 0]
            done = bool(np.abs(fresh - now).max() < 1e-5)
            now = fresh
            if done:
                break
        settled &= done
        chance = expit(slope[rows] * (now[number, i] - now[number, j]))
        cover = np.linalg.inv(_laplacian(cells, pull * slope[rows] * chance * (1 - chance), shape) + prior)
        mean[members] = now
        error[members] = np.sqrt(np.diagonal(cover, axis1=1, axis2=2))
    names = [table.completions[c] for c in used]
    return dict(zip(names, mean.tolist())), dict(zip(names, error.tolist())), settled


def _laplacian(cells: np.ndarray, weights: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """The sum over comparisons of weight (e_a - e_b)(e_a - e_b)', one matrix per group."""
    values = np.concatenate([weights, weights, -weights, -weights])
    return np.bincount(cells, values, int(np.prod(shape))).reshape(shape)


def _weights(rankings: Sequence[Ranking]) -> np.ndarray:
    """The weight of a pair of each ranking: 4 (k - H_k) / (k (k - 1)), 1 for a lone pair."""
    size = np.array([len(ranking.ranks) for ranking in rankings])
    harmonic = np.cumsum(np.concatenate([[0.0], 1 / np.arange(1, size.max() + 1)]))[size]
    return 4 * (size - harmonic) / (size * (size - 1))
