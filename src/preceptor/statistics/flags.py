"""How far each labeler's answers to the flags of Table 3 can be relied on, without anybody's gold: Dawid and Skene."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.stats import beta

from preceptor.statistics.agreement import flag_votes
from preceptor.statistics.dawid_skene import dawid_skene
from preceptor.statistics.interval import Interval
from preceptor.types import FLAGS, Rating


@dataclass(frozen=True, kw_only=True, slots=True)
class FlagReliability:
    """Of the answers that deserve a flag, the share the labeler flagged (`found`); of the others, the share left
    alone (`cleared`). `n` of each counts answers, by their probability, rounded."""

    found: Interval
    cleared: Interval


def flag_reliability(ratings: Iterable[Rating], *, least_yes: int = 5) -> dict[str, FlagReliability]:
    """Labeler id -> reliability over all flags together.

    Each flag has a Dawid-Skene model of its own, fitted where two or more labelers answered it for the same answers
    and said Yes at least `least_yes` times: rarer flags say nothing. Only answers that somebody else judged too are
    counted. The interval is Jeffreys' for a share, at the probabilities that the model gives the answers: it knows
    how few answers there are, and not how sure the model is of them, so with little overlap it is too narrow.
    """
    ratings = list(ratings)
    hits: dict[str, np.ndarray] = defaultdict(lambda: np.zeros((2, 2)))  # (truth no / yes, said no / yes)
    for flag in FLAGS:
        votes = {(item, labeler): value for item, labeler, value in flag_votes(ratings, flag)}
        people: dict[str, set[str]] = defaultdict(set)
        for item, labeler in votes:
            people[item].add(labeler)
        shared = [(item, labeler, value) for (item, labeler), value in votes.items() if len(people[item]) > 1]
        if sum(value for *_, value in shared) < least_yes:
            continue
        model = dawid_skene(shared, categories=(False, True))
        for item, labeler, value in shared:
            hits[labeler][:, int(value)] += model.posterior[item]
    return {
        labeler: FlagReliability(found=_share(table[1, 1], table[1].sum()), cleared=_share(table[0, 0], table[0].sum()))
        for labeler, table in hits.items()
    }


def _share(right: float, total: float) -> Interval:
    low, high = beta.ppf([0.025, 0.975], right + 0.5, total - right + 0.5)
    value = right / total if total > 0 else float("nan")
    return Interval(value=float(value), low=float(low), high=float(high), n=round(total), clusters=round(total))
