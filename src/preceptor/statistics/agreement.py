"""How far labelers agree: the paper's pairwise figure, Krippendorff's alpha, Gwet's AC1, Kendall's tau-b and W.

Everything is keyed by item id and labeler id, never by place in a list, so a design where each labeler saw
only some of the items is the normal case. Every interval is a 95 % percentile bootstrap over items (prompts).
Where a later vote or ranking of one labeler covers the same item, the later one counts.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from scipy import sparse
from scipy.stats import rankdata

from preceptor.statistics.clustered import bootstrap
from preceptor.statistics.comparisons import Comparisons, compare
from preceptor.types import Ranking, Rating

Vote = tuple[str, str, Any]
"""Item id, labeler id, and what the labeler said."""

Record = TypeVar("Record")
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """A coefficient, its 95 % interval and what it rests on. NaN: the data cannot tell.

    `pairs` is what was counted: pairs of votes (two labelers on one thing), or for `kendall_w` blocks.
    `items` and `labelers` count those that took part in at least one pair.
    """

    value: float
    low: float
    high: float
    pairs: int
    items: int
    labelers: int


NOTHING = Agreement(value=float("nan"), low=float("nan"), high=float("nan"), pairs=0, items=0, labelers=0)


def by_group(
    records: Iterable[Record], group: Callable[[Record], Key], measure: Callable[[list[Record]], Agreement]
) -> dict[Key, Agreement]:
    """`measure` of each group of records: by cohort, rubric, use case or whatever `group` returns.

    Two labelers in different groups are not compared; `agreement_between` does that.
    """
    groups: dict[Key, list[Record]] = {}
    for record in records:
        groups.setdefault(group(record), []).append(record)
    return {key: measure(members) for key, members in groups.items()}


# -- rankings ---------------------------------------------------------------------------------------------


def pairwise_agreement(rankings: Iterable[Ranking], *, draws: int = 1000, seed: int = 0) -> Agreement:
    """The paper's number (section 3.4): of the pairs of completions that two labelers both put in order,
    the share they ordered alike. A pair that either of them tied is left out. Chance is 0.5.

    Counted over all (two labelers, pair of completions); a prompt with more labelers has more of them.
    """
    table = compare(rankings)
    return _share_alike(table.where(table.sign != 0), draws, seed)


def pairwise_agreement_with_ties(rankings: Iterable[Ranking], *, draws: int = 1000, seed: int = 0) -> Agreement:
    """As `pairwise_agreement`, but a tie is a third verdict: two ties agree, a tie and an order disagree."""
    return _share_alike(compare(rankings), draws, seed)


def _share_alike(table: Comparisons, draws: int, seed: int) -> Agreement:
    pairs = int(table.pair.max()) + 1 if len(table) else 0
    counts = np.stack([np.bincount(table.pair, table.sign == sign, pairs) for sign in (-1, 0, 1)])
    votes = counts.sum(0)
    alike = (counts * (counts - 1) / 2).sum(0)
    total = votes * (votes - 1) / 2
    prompt_of = np.zeros(pairs, dtype=np.int64)
    prompt_of[table.pair] = table.prompt
    taking_part = len(np.unique(table.labeler[votes[table.pair] > 1]))
    return _ratio(
        np.bincount(prompt_of, alike, len(table.prompts)),
        np.bincount(prompt_of, total, len(table.prompts)),
        taking_part,
        draws,
        seed,
    )


def agreement_between(
    rankings: Iterable[Ranking], reference: Iterable[Ranking], *, draws: int = 1000, seed: int = 0
) -> Agreement:
    """Pairwise agreement of labelers with a second set (researchers, gold, the other cohort); ties left out.

    Only pairs with one labeler from each side count. A labeler id on both sides is an error, because nobody
    is compared with themselves.
    """
    rankings, reference = list(rankings), list(reference)
    ours, theirs = ({ranking.labeler_id for ranking in side} for side in (rankings, reference))
    if both := sorted(ours & theirs):
        raise ValueError(f"labeler {both[0]!r} is on both sides; leave them out of one")
    table = compare([*rankings, *reference])
    table = table.where(table.sign != 0)
    side = np.array([name in theirs for name in table.labelers], dtype=bool)[table.labeler]
    pairs = int(table.pair.max()) + 1 if len(table) else 0
    counts = {
        (s, sign): np.bincount(table.pair, (side == s) & (table.sign == sign), pairs)
        for s in (False, True)
        for sign in (-1, 1)
    }
    alike = counts[False, 1] * counts[True, 1] + counts[False, -1] * counts[True, -1]
    total = (counts[False, 1] + counts[False, -1]) * (counts[True, 1] + counts[True, -1])
    prompt_of = np.zeros(pairs, dtype=np.int64)
    prompt_of[table.pair] = table.prompt
    return _ratio(
        np.bincount(prompt_of, alike, len(table.prompts)),
        np.bincount(prompt_of, total, len(table.prompts)),
        len(np.unique(table.labeler[total[table.pair] > 0])),
        draws,
        seed,
    )


def kendall_tau_b(rankings: Iterable[Ranking], *, draws: int = 1000, seed: int = 0) -> Agreement:
    """Mean Kendall tau-b over all (prompt, two labelers) who share at least one pair of completions.

    Only the shared completions count. Where one of the two tied all of them tau-b is not defined and the two
    are left out.
    """
    table = compare(rankings)
    totals = np.zeros(len(table.prompts))
    counts = np.zeros(len(table.prompts))
    taking_part = np.zeros(len(table.labelers), dtype=bool)
    order = np.argsort(table.prompt, kind="stable")
    edges = np.searchsorted(table.prompt[order], np.arange(len(table.prompts) + 1))
    for prompt in range(len(table.prompts)):
        rows = order[edges[prompt] : edges[prompt + 1]]
        labelers, labeler = np.unique(table.labeler[rows], return_inverse=True)
        pairs, pair = np.unique(table.pair[rows], return_inverse=True)
        if len(labelers) < 2:
            continue
        sign = np.zeros((len(labelers), len(pairs)))
        seen = np.zeros_like(sign)
        sign[labeler, pair] = table.sign[rows]
        seen[labeler, pair] = 1
        ordered = np.abs(sign)
        # Of the pairs both saw: those the first did not tie, times those the second did not tie.
        scale = (ordered @ seen.T) * (seen @ ordered.T)
        i, j = np.nonzero(np.triu(scale > 0, k=1))
        totals[prompt] = ((sign @ sign.T)[i, j] / np.sqrt(scale[i, j])).sum()
        counts[prompt] = len(i)
        taking_part[labelers[np.concatenate([i, j])]] = True
    return _ratio(totals, counts, int(taking_part.sum()), draws, seed)


def concordance(ranks: Any) -> float:
    """Kendall's W of one table, (labelers, completions), corrected for ties. 1: all alike; NaN: all tied.

    W = (12 sum R^2 - 3 m^2 n (n+1)^2) / (m^2 n (n^2-1) - m sum (t^3 - t)), with R the rank sums and t the sizes
    of the tied groups (Kendall & Gibbons, Rank Correlation Methods, 5th ed., chapter 6). Ranks are replaced by
    mid-ranks first, so 1, 1, 2 and 1, 1, 3 say the same.
    """
    table = np.apply_along_axis(rankdata, 1, np.asarray(ranks, dtype=float))
    m, n = table.shape
    if m < 2 or n < 2:
        return float("nan")
    ties = sum((sizes**3 - sizes).sum() for sizes in (np.unique(row, return_counts=True)[1] for row in table))
    scale = m**2 * n * (n**2 - 1) - m * ties
    if scale == 0:
        return float("nan")
    return float((12 * (table.sum(0) ** 2).sum() - 3 * m**2 * n * (n + 1) ** 2) / scale)


def kendall_w(rankings: Iterable[Ranking], *, draws: int = 1000, seed: int = 0) -> Agreement:
    """Mean Kendall W over blocks: one block is two or more labelers who ranked the same set of one prompt.

    With rankings drawn at random W is 1/m, not 0, for m labelers: compare blocks of equal size only.
    """
    blocks: dict[tuple[str, frozenset[str]], dict[str, Ranking]] = {}
    for ranking in rankings:
        key = ranking.prompt_id, frozenset(ranking.completion_ids)
        blocks.setdefault(key, {})[ranking.labeler_id] = ranking
    totals: dict[str, list[float]] = {}
    taking_part: set[str] = set()
    for (prompt, completions), block in blocks.items():
        order = sorted(completions)
        value = concordance(
            [[r.ranks[r.completion_ids.index(c)] for c in order] for r in block.values()] if len(block) > 1 else [[1]]
        )
        if not np.isnan(value):
            totals.setdefault(prompt, []).append(value)
            taking_part |= set(block)
    return _ratio(
        np.array([sum(values) for values in totals.values()]),
        np.array([len(values) for values in totals.values()], dtype=float),
        len(taking_part),
        draws,
        seed,
    )


def _ratio(totals: np.ndarray, counts: np.ndarray, labelers: int, draws: int, seed: int) -> Agreement:
    sums = np.stack([totals, counts], axis=1)[counts > 0]
    if not len(sums):
        return NOTHING
    low, high = bootstrap(sums, lambda draw: draw[:, 0] / draw[:, 1], draws=draws, seed=seed)
    total, count = sums.sum(0)
    return Agreement(
        value=float(total / count), low=low, high=high, pairs=round(count), items=len(sums), labelers=labelers
    )


# -- votes on items ---------------------------------------------------------------------------------------


def flag_votes(ratings: Iterable[Rating], flag: str) -> list[Vote]:
    """The answers to one flag of Table 3, as votes on completions. Where it was not asked there is no vote."""
    return [(r.completion_id, r.labeler_id, r.flags[flag]) for r in ratings if flag in r.flags]


def quality_votes(ratings: Iterable[Rating]) -> list[Vote]:
    """The 1-7 marks, as votes on completions."""
    return [(r.completion_id, r.labeler_id, r.quality) for r in ratings]


def alpha_nominal(votes: Iterable[Vote], *, draws: int = 1000, seed: int = 0) -> Agreement:
    """Krippendorff's alpha where any two different values are equally far apart.

    Krippendorff, Content Analysis (2004), section 11.3; "Computing Krippendorff's Alpha-Reliability" (2011).
    Items with one vote are left out. NaN when all votes are the same value.
    """
    return _alpha(votes, lambda marginals: 1 - np.eye(marginals.shape[1])[None], draws, seed)


def alpha_ordinal(votes: Iterable[Vote], *, draws: int = 1000, seed: int = 0) -> Agreement:
    """Krippendorff's alpha for ordered values: far apart means that many votes lie between. Values are sorted."""

    def distance(marginals: np.ndarray) -> np.ndarray:
        # Votes up to the middle of each value; the difference of two middles is Krippendorff's sum.
        middle = np.cumsum(marginals, axis=1) - marginals / 2
        return (middle[:, :, None] - middle[:, None, :]) ** 2

    return _alpha(votes, distance, draws, seed)


def alpha_interval(votes: Iterable[Vote], *, draws: int = 1000, seed: int = 0) -> Agreement:
    """Krippendorff's alpha for numbers: distance is the squared difference."""
    items, labelers, values, names = _code(votes)
    numbers = np.array([float(name) for name in names])[values]
    numbers = numbers - (numbers.mean() if len(numbers) else 0.0)
    size = np.bincount(items)
    keep = size > 1
    total = np.bincount(items, numbers)[keep]
    square = np.bincount(items, numbers**2)[keep]
    size = size[keep].astype(float)
    within = 2 * (size * square - total**2) / (size - 1) if len(size) else size
    sums = np.stack([size, total, square, within], axis=1)

    def statistic(sums: np.ndarray) -> np.ndarray:
        n, total, square, within = sums.T
        return _one_minus(within / n, 2 * (n * square - total**2) / (n * (n - 1)))

    return _agreement(sums, statistic, items, labelers, draws, seed)


def _alpha(votes: Iterable[Vote], distance: Callable[[np.ndarray], np.ndarray], draws: int, seed: int) -> Agreement:
    """`distance`: (draws, values) marginals -> (draws or 1, values, values) squared distances."""
    items, labelers, values, names = _code(votes)
    width = len(names)
    size = np.bincount(items)
    counts = sparse.csr_matrix((np.ones(len(items)), (items, values)), shape=(len(size), width))
    counts: Any = counts[size > 1]
    size = size[size > 1]
    # Coincidences of an item: n_c n_k / (m - 1), and n_c (n_c - 1) / (m - 1) on the diagonal.
    rows, columns, amounts = [], [], []
    for c in range(width):
        own = counts[:, [c]]
        block = own.multiply(counts).tocoo()
        amount = block.data - np.where(block.col == c, own.toarray().ravel()[block.row], 0)
        rows.append(block.row)
        columns.append(c * width + block.col)
        amounts.append(amount / (size[block.row] - 1))
    if not len(size):
        return NOTHING
    sums = sparse.csr_matrix(
        (np.concatenate(amounts), (np.concatenate(rows), np.concatenate(columns))),
        shape=(len(size), width * width),
    )

    def statistic(sums: np.ndarray) -> np.ndarray:
        coincidences = sums.reshape(len(sums), width, width)
        marginals = coincidences.sum(2)
        n = marginals.sum(1)
        far = distance(marginals)
        expected = np.einsum("bc,bck,bk->b", marginals, np.broadcast_to(far, coincidences.shape), marginals)
        return _one_minus((coincidences * far).sum((1, 2)) / n, expected / (n * (n - 1)))

    return _agreement(sums, statistic, items, labelers, draws, seed)


def gwet_ac1(
    votes: Iterable[Vote], *, categories: Sequence[Any] | None = None, draws: int = 1000, seed: int = 0
) -> Agreement:
    """Gwet's AC1: agreement beyond chance that stays sound when nearly all the votes are "no" (rare flags).

    Gwet (2008), "Computing inter-rater reliability and its variance in the presence of high agreement", for any
    number of labelers and missing votes: items with one vote add to the shares of the values but not to the
    agreement. `categories` are all the values a labeler could give; without it, those that were given, and
    False and True when the votes are yes or no. NaN with fewer than two categories.
    """
    items, labelers, values, names = _code(votes)
    if categories is None:
        categories = [False, True] if all(isinstance(name, bool) for name in names) else names
    if unknown := [name for name in names if name not in categories]:
        raise ValueError(f"{unknown[0]!r} is not among the categories {list(categories)}")
    values = np.array([list(categories).index(name) for name in names], dtype=np.int64)[values]
    width = len(categories)
    if width < 2 or not len(items):
        return NOTHING
    size = np.bincount(items).astype(float)
    counts = np.zeros((len(size), width))
    np.add.at(counts, (items, values), 1)
    several = size > 1
    alike = (counts * (counts - 1)).sum(1) / np.where(several, size * (size - 1), 1)
    sums = np.column_stack([several, alike, np.ones(len(size)), counts / size[:, None]])

    def statistic(sums: np.ndarray) -> np.ndarray:
        observed = _divide(sums[:, 1], sums[:, 0])
        shares = sums[:, 3:] / sums[:, 2:3]
        chance = (shares * (1 - shares)).sum(1) / (width - 1)
        return _divide(observed - chance, 1 - chance)

    return _agreement(sums, statistic, items, labelers, draws, seed)


def _code(votes: Iterable[Vote]) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[Any]]:
    """Item, labeler and value numbers of the votes that count, and the values in sorted order."""
    latest = {(item, labeler): value for item, labeler, value in votes}
    names = sorted(set(latest.values()))
    places = {name: place for place, name in enumerate(names)}
    items = {item: number for number, item in enumerate(dict.fromkeys(item for item, _ in latest))}
    labelers = {name: number for number, name in enumerate(dict.fromkeys(name for _, name in latest))}
    return (
        np.array([items[item] for item, _ in latest], dtype=np.int64),
        np.array([labelers[labeler] for _, labeler in latest], dtype=np.int64),
        np.array([places[value] for value in latest.values()], dtype=np.int64),
        names,
    )


def _agreement(
    sums: Any,
    statistic: Callable[[np.ndarray], np.ndarray],
    items: np.ndarray,
    labelers: np.ndarray,
    draws: int,
    seed: int,
) -> Agreement:
    size = np.bincount(items)
    if not (size > 1).any():
        return NOTHING
    low, high = bootstrap(sums, statistic, draws=draws, seed=seed)
    return Agreement(
        value=float(statistic(np.asarray(sums.sum(0)).reshape(1, -1))[0]),
        low=low,
        high=high,
        pairs=int((size * (size - 1) // 2).sum()),
        items=int((size > 1).sum()),
        labelers=len(np.unique(labelers[size[items] > 1])),
    )


def _divide(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """top / bottom, NaN where the bottom is 0."""
    return np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom > 1e-12)


def _one_minus(observed: np.ndarray, expected: np.ndarray) -> np.ndarray:
    return 1 - _divide(observed, expected)
