"""What one labeler's choices look like beside the others': biases, speed, drift, agreement. Evidence, not a verdict.

A preference for something (longer answers, lists) is measured against the others on the *same pairs*: what is
good about a pair is then the same on both sides and drops out.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from preceptor.statistics.clustered import Z, mean, share
from preceptor.statistics.comparisons import Comparisons, compare, difference, others
from preceptor.statistics.interval import Interval
from preceptor.types import Ranking

MARKS = re.compile(r"^\s*(?:[-*•]\s|\d+[.)]\s|#{1,6}\s|```|\|)|\*\*[^*\n]+\*\*", re.MULTILINE)

WORDS_PER_SECOND = 10.0
"""Nobody reads faster: twice the pace of a quick reader (300 words a minute)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """One labeler. Every field but the first two is a value with a 95 % interval, `n` and clusters (rankings or
    prompts); `n` 0 means that there was nothing to measure it on.

    - `shown_first`: share of ordered pairs won by the answer that was shown first. No bias: 0.5.
    - `longer`: share of ordered pairs of unequal length won by the longer answer. Not by itself a bias.
    - `length_bias`: by how much that share exceeds the others' on the same pairs. No bias: 0.
    - `formatting_bias`: the same for the answer with more list marks, headings, bold, tables and code fences.
    - `seconds`: median seconds for one ranking.
    - `too_fast`: share of rankings done faster than their answers can be read.
    - `drift`: agreement with the others in the second half of the labeler's rankings minus the first half.
    - `others`: share of pairs that the labeler and another both put in order, ordered alike.
    - `gold`: the same against gold rankings.
    """

    labeler_id: str
    rankings: int
    shown_first: Interval
    longer: Interval
    length_bias: Interval
    formatting_bias: Interval
    seconds: Interval
    too_fast: Interval
    drift: Interval
    others: Interval
    gold: Interval


def profiles(
    rankings: Sequence[Ranking],
    *,
    texts: Mapping[str, str],
    shown: Mapping[str, Sequence[str]],
    gold: Sequence[Ranking] = (),
    words_per_second: float = WORDS_PER_SECOND,
) -> dict[str, Profile]:
    """The profile of each labeler, keyed by labeler id.

    `rankings`: in the order in which they were made. `texts`: completion id -> text. `shown`: ranking id -> its
    completion ids in the order on the page; rankings without an entry say nothing about position. `gold`: rankings
    known to be right; their labeler ids do not matter. Tied pairs are left out of everything but time.
    """
    table = compare(rankings)
    table = table.where(table.sign != 0)
    words = {completion: float(len(text.split())) for completion, text in texts.items()}
    marks = {completion: float(len(MARKS.findall(text))) for completion, text in texts.items()}
    ahead = _shown_earlier(table, rankings, shown)
    longer = np.sign(difference(table, words))
    marked = np.sign(difference(table, marks))
    ordered, for_first = others(table)
    alike = np.where(table.sign > 0, for_first, ordered - for_first)
    right = _like_gold(rankings, gold)
    result = {}
    for labeler in dict.fromkeys(ranking.labeler_id for ranking in rankings):
        own = [(place, ranking) for place, ranking in enumerate(rankings) if ranking.labeler_id == labeler]
        who = table.labelers.index(labeler)
        rows = table.where(table.labeler == who)
        mine = table.labeler == who
        result[labeler] = Profile(
            labeler_id=labeler,
            rankings=len(own),
            shown_first=_won(rows, ahead[mine]),
            longer=_won(rows, longer[mine]),
            length_bias=_excess(rows, longer[mine], ordered[mine], for_first[mine]),
            formatting_bias=_excess(rows, marked[mine], ordered[mine], for_first[mine]),
            seconds=_median([r.seconds for _, r in own if r.seconds is not None]),
            too_fast=_too_fast([r for _, r in own], words, words_per_second),
            drift=_drift(rows, alike[mine], ordered[mine], [place for place, _ in own]),
            others=share(_per(rows.prompt, alike[mine]), _per(rows.prompt, ordered[mine])),
            gold=share(*right.get(labeler, (np.zeros(0), np.zeros(0)))),
        )
    return result


def _shown_earlier(table: Comparisons, rankings: Sequence[Ranking], shown: Mapping[str, Sequence[str]]) -> np.ndarray:
    """+1 where `first` stood before `second` on the page, -1 where after, NaN where it is not known."""
    places = [{name: i for i, name in enumerate(shown.get(ranking.id, ()))} for ranking in rankings]
    result = np.full(len(table), np.nan)
    for row, (ranking, first, second) in enumerate(zip(table.ranking, table.first, table.second)):
        place = places[ranking]
        if place:
            a, b = table.completions[first], table.completions[second]
            if a not in place or b not in place:
                missing = a if a not in place else b
                raise ValueError(f"ranking {rankings[ranking].id}: {missing} is ranked but not among those shown")
            result[row] = 1 if place[a] < place[b] else -1
    return result


def _won(rows: Comparisons, side: np.ndarray) -> Interval:
    """Share of rows won by the answer on `side` (+1 `first`, -1 `second`; 0 and NaN are left out)."""
    counts = np.isin(side, (-1, 1))
    return share(_per(rows.ranking, counts & (side == rows.sign)), _per(rows.ranking, counts))


def _excess(rows: Comparisons, side: np.ndarray, ordered: np.ndarray, for_first: np.ndarray) -> Interval:
    """Mean over shared pairs of (labeler chose `side`) minus (share of the others who did)."""
    counts = np.isin(side, (-1, 1)) & (ordered > 0)
    share_first = np.divide(for_first, ordered, out=np.zeros(len(side)), where=ordered > 0)
    theirs = np.where(side > 0, share_first, 1 - share_first)
    surplus = np.where(counts, (side == rows.sign) - theirs, 0)
    return mean(_per(rows.prompt, surplus), _per(rows.prompt, counts))


def _per(cluster: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Sums of `values` over each cluster number that occurs."""
    return np.bincount(np.unique(cluster, return_inverse=True)[1], values) if len(values) else np.zeros(0)


def _median(values: Sequence[float]) -> Interval:
    """The median, with the order statistics that enclose it 95 % of the time (binomial, normal approximation)."""
    ordered = np.sort(np.asarray(values, dtype=float))
    n = len(ordered)
    if not n:
        return Interval(value=float("nan"), low=float("-inf"), high=float("inf"), n=0, clusters=0)
    half = Z * np.sqrt(n) / 2
    low, high = int(np.floor(n / 2 - half)), int(np.ceil(n / 2 + half))
    return Interval(
        value=float(np.median(ordered)),
        low=float(ordered[low]) if low >= 0 else float("-inf"),
        high=float(ordered[high]) if high < n else float("inf"),
        n=n,
        clusters=n,
    )


def _too_fast(rankings: Sequence[Ranking], words: Mapping[str, float], words_per_second: float) -> Interval:
    fast = [
        ranking.seconds * words_per_second < sum(words[completion] for completion in ranking.completion_ids)
        for ranking in rankings
        if ranking.seconds is not None and all(completion in words for completion in ranking.completion_ids)
    ]
    return share(np.array(fast, dtype=float), np.ones(len(fast)))


def _drift(rows: Comparisons, alike: np.ndarray, ordered: np.ndarray, places: Sequence[int]) -> Interval:
    """Agreement in the later half minus the earlier half: a difference of two shares of separate prompts."""
    late = rows.ranking >= places[len(places) // 2]
    early, later = (
        mean(_per(rows.prompt[half], alike[half]), _per(rows.prompt[half], ordered[half])) for half in (~late, late)
    )
    value = later.value - early.value
    half = np.hypot(later.high - later.value, early.high - early.value)
    n, clusters = early.n + later.n, early.clusters + later.clusters
    if np.isnan(value) or np.isnan(half):
        return Interval(value=value, low=float("-inf"), high=float("inf"), n=n, clusters=clusters)
    return Interval(value=value, low=float(value - half), high=float(value + half), n=n, clusters=clusters)


def _like_gold(rankings: Sequence[Ranking], gold: Sequence[Ranking]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Labeler -> (pairs ordered as in gold, pairs ordered in both), one entry per prompt."""
    right = {}
    for ranking in gold:
        for better, worse in ranking.comparisons():
            right[ranking.prompt_id, ranking.completion_ids[better], ranking.completion_ids[worse]] = True
            right[ranking.prompt_id, ranking.completion_ids[worse], ranking.completion_ids[better]] = False
    counts: dict[str, dict[tuple[str, str, str], bool]] = {}
    for ranking in rankings:
        for better, worse in ranking.comparisons():
            a, b = ranking.completion_ids[better], ranking.completion_ids[worse]
            known = right.get((ranking.prompt_id, a, b))
            if known is not None:
                counts.setdefault(ranking.labeler_id, {})[ranking.prompt_id, min(a, b), max(a, b)] = known
    result = {}
    for labeler, own in counts.items():
        prompts = np.unique([prompt for prompt, _, _ in own], return_inverse=True)[1]
        result[labeler] = np.bincount(prompts, list(own.values())), np.bincount(prompts).astype(float)
    return result
