"""Dawid and Skene's model: the truth of each item and the reliability of each labeler, learned from votes alone."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import logsumexp

from preceptor.statistics.agreement import Vote


@dataclass(frozen=True, kw_only=True, slots=True)
class DawidSkene:
    """What the votes say about items and labelers.

    `posterior[item]`: (C,) probability of each category. `confusion[labeler]`: (C, C), row = truth, column = vote.
    """

    categories: tuple[Any, ...]
    posterior: Mapping[str, np.ndarray]
    confusion: Mapping[str, np.ndarray]
    prevalence: np.ndarray
    votes: Mapping[str, int]
    iterations: int
    converged: bool

    def answers(self) -> dict[str, Any]:
        """The most probable category of each item."""
        return {item: self.categories[int(row.argmax())] for item, row in self.posterior.items()}

    def accuracy(self) -> dict[str, float]:
        """Each labeler's estimated share of right votes, at the estimated prevalence."""
        return {name: float((self.prevalence * np.diag(table)).sum()) for name, table in self.confusion.items()}


def dawid_skene(
    votes: Iterable[Vote],
    *,
    categories: Sequence[Any] | None = None,
    pseudo_votes: float = 1.0,
    tolerance: float = 1e-6,
    max_iterations: int = 1000,
) -> DawidSkene:
    """The model of Dawid & Skene (1979): each labeler has a confusion table, items are independent given the truth.

    EM on the log scale, maximum a posteriori. Each row of a confusion table starts with `pseudo_votes` votes, half
    of them right and half spread over all categories, and the prevalence with one item per category: this keeps
    a labeler with three votes from being called perfect, and keeps the categories from changing places. Missing
    votes are simply absent. `converged` is False when the largest change of a posterior is still above `tolerance`.
    """
    latest = {(item, labeler): value for item, labeler, value in votes}
    if not latest:
        raise ValueError("no votes to learn from")
    names = tuple(categories) if categories is not None else tuple(sorted(set(latest.values())))
    place = {name: number for number, name in enumerate(names)}
    if unknown := [value for value in latest.values() if value not in place]:
        raise ValueError(f"{unknown[0]!r} is not among the categories {list(names)}")
    items = {item: n for n, item in enumerate(dict.fromkeys(item for item, _ in latest))}
    labelers = {name: n for n, name in enumerate(dict.fromkeys(name for _, name in latest))}
    item = np.array([items[i] for i, _ in latest])
    labeler = np.array([labelers[w] for _, w in latest])
    value = np.array([place[v] for v in latest.values()])
    width = len(names)
    prior = pseudo_votes * (0.5 * np.eye(width) + 0.5 / width)

    counts = np.zeros((len(items), width))
    np.add.at(counts, (item, value), 1)
    posterior = counts / counts.sum(1, keepdims=True)
    vote_of = labeler * width + value
    converged, iteration = False, 0
    while not converged and iteration < max_iterations:
        iteration += 1
        # M: expected votes of each labeler, by truth.
        table = np.stack(
            [np.bincount(vote_of, posterior[item, truth], len(labelers) * width) for truth in range(width)]
        )
        confusion = table.reshape(width, len(labelers), width).transpose(1, 0, 2) + prior
        confusion /= confusion.sum(2, keepdims=True)
        prevalence = (posterior.sum(0) + 1) / (len(items) + width)
        # E: the truth of each item given the votes it has.
        evidence = np.log(confusion)[labeler, :, value]
        log = np.stack([np.bincount(item, evidence[:, truth], len(items)) for truth in range(width)], axis=1)
        log += np.log(prevalence)
        fresh = np.exp(log - logsumexp(log, axis=1, keepdims=True))
        converged = bool(np.abs(fresh - posterior).max() < tolerance)
        posterior = fresh
    return DawidSkene(
        categories=names,
        posterior=dict(zip(items, posterior)),
        confusion=dict(zip(labelers, confusion)),
        prevalence=prevalence,
        votes=dict(zip(labelers, np.bincount(labeler).tolist())),
        iterations=iteration,
        converged=converged,
    )
