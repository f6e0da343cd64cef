"""Rankings as flat integer arrays: one row for each pair of completions that a labeler judged."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from preceptor.types import Ranking


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparisons:
    """All the pairs inside some rankings, ties included. Every array has one entry per (labeler, pair).

    `first` and `second` are places in `completions`, first < second, so two labelers who judged the same
    pair share one `pair` number. `sign` is +1 when `first` was ranked better, -1 when `second` was, 0 for a tie.
    `ranking` is the place of the ranking in the sequence that was given.
    """

    prompts: tuple[str, ...]
    labelers: tuple[str, ...]
    completions: tuple[str, ...]
    ranking: np.ndarray
    prompt: np.ndarray
    labeler: np.ndarray
    first: np.ndarray
    second: np.ndarray
    sign: np.ndarray
    pair: np.ndarray

    def __len__(self) -> int:
        return len(self.sign)

    def where(self, mask: np.ndarray) -> "Comparisons":
        """The rows where `mask` is true. Names and numbers stay as they are."""
        return Comparisons(
            prompts=self.prompts,
            labelers=self.labelers,
            completions=self.completions,
            ranking=self.ranking[mask],
            prompt=self.prompt[mask],
            labeler=self.labeler[mask],
            first=self.first[mask],
            second=self.second[mask],
            sign=self.sign[mask],
            pair=self.pair[mask],
        )


def compare(rankings: Iterable[Ranking]) -> Comparisons:
    """Take rankings apart into pairs.

    A pair is two completions of one prompt. When one labeler judged a pair twice, the later ranking in the
    sequence counts: to relabel is to replace.
    """
    rankings = list(rankings)
    prompts = _numbers(ranking.prompt_id for ranking in rankings)
    labelers = _numbers(ranking.labeler_id for ranking in rankings)
    completions = _numbers(completion for ranking in rankings for completion in ranking.completion_ids)
    by_size: dict[int, list[int]] = {}
    for place, ranking in enumerate(rankings):
        by_size.setdefault(len(ranking.ranks), []).append(place)

    columns: list[list[np.ndarray]] = [[], [], [], [], []]
    for size, places in by_size.items():
        shown = np.array([[completions[c] for c in rankings[p].completion_ids] for p in places], dtype=np.int64)
        ranks = np.array([rankings[p].ranks for p in places], dtype=np.int64)
        left, right = np.triu_indices(size, k=1)
        a, b = shown[:, left], shown[:, right]
        sign = np.sign(ranks[:, right] - ranks[:, left])
        swap = a > b
        parts = (
            np.repeat(places, len(left)),
            np.where(swap, b, a).ravel(),
            np.where(swap, a, b).ravel(),
            np.where(swap, -sign, sign).ravel(),
        )
        for column, part in zip(columns, parts):
            column.append(part)
    ranking, first, second, sign = (
        np.concatenate(column) if column else np.zeros(0, dtype=np.int64) for column in columns[:4]
    )
    order = np.argsort(ranking, kind="stable")
    ranking, first, second, sign = ranking[order], first[order], second[order], sign[order]
    prompt = np.array([prompts[r.prompt_id] for r in rankings], dtype=np.int64)[ranking]
    labeler = np.array([labelers[r.labeler_id] for r in rankings], dtype=np.int64)[ranking]

    width = max(len(completions), 1)
    _, pair = np.unique((prompt * width + first) * width + second, return_inverse=True)
    vote = pair * max(len(labelers), 1) + labeler
    _, from_the_end = np.unique(vote[::-1], return_index=True)
    keep = np.sort(len(vote) - 1 - from_the_end)
    return Comparisons(
        prompts=tuple(prompts),
        labelers=tuple(labelers),
        completions=tuple(completions),
        ranking=ranking[keep],
        prompt=prompt[keep],
        labeler=labeler[keep],
        first=first[keep],
        second=second[keep],
        sign=sign[keep],
        pair=pair[keep],
    )


def others(comparisons: Comparisons) -> tuple[np.ndarray, np.ndarray]:
    """For each row: how many other labelers put that pair in order, and how many of these put `first` first."""
    pairs = int(comparisons.pair.max()) + 1 if len(comparisons) else 0
    for_first = np.bincount(comparisons.pair, comparisons.sign > 0, pairs)
    ordered = np.bincount(comparisons.pair, comparisons.sign != 0, pairs)
    return (
        ordered[comparisons.pair] - (comparisons.sign != 0),
        for_first[comparisons.pair] - (comparisons.sign > 0),
    )


def difference(comparisons: Comparisons, values: Mapping[str, float]) -> np.ndarray:
    """`values` of `first` minus that of `second`, one entry per row; NaN where either has no value."""
    known = np.array([values.get(name, np.nan) for name in comparisons.completions], dtype=float)
    return known[comparisons.first] - known[comparisons.second]


def _numbers(names: Iterable[str]) -> dict[str, int]:
    """Each distinct name and its number, in order of first appearance."""
    return {name: number for number, name in enumerate(dict.fromkeys(names))}
