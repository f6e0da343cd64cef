"""The figures of the dashboard: agreement by group, flags, labelers. Worked out anew when something changed."""

import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import isfinite
from statistics import median
from typing import Any

from preceptor.labelling import forms
from preceptor.statistics.agreement import (
    NOTHING,
    Agreement,
    agreement_between,
    alpha_ordinal,
    by_group,
    flag_votes,
    gwet_ac1,
    kendall_tau_b,
    kendall_w,
    pairwise_agreement,
    pairwise_agreement_with_ties,
    quality_votes,
)
from preceptor.statistics.flags import FlagReliability, flag_reliability
from preceptor.statistics.interval import Interval
from preceptor.statistics.poisoning import Screen, screen
from preceptor.statistics.profile import profiles
from preceptor.statistics.reliability import Reliability, bradley_terry_with_reliability
from preceptor.store import Store
from preceptor.store.events import events
from preceptor.store.oversight import Opinion, Oversight
from preceptor.types import FLAGS, Prompt, Ranking, Rating

FEW_PAIRS = 30  # below this many pairs a labeler's own figure is called "few items yet"
RARE = 5  # a flag that was said Yes fewer times than this is "too rare"
DRAWS = 500


@dataclass(frozen=True)
class FlagLine:
    flag: str
    agreement: Agreement
    yes: int
    answers: int


@dataclass(frozen=True)
class LabelerLine:
    labeler_id: str
    pseudonym: str
    cohort: str
    role: str | None
    state: str | None
    rankings: int
    demonstrations: int
    seconds: float | None
    agreement: Agreement


@dataclass(frozen=True)
class Coefficients:
    """The other coefficients of one group of labels."""

    tau: Agreement
    concordance: Agreement
    alpha: Agreement


@dataclass(frozen=True)
class ReliabilityLine:
    """One labeler as the reliability models see them; None where there is nothing to learn from."""

    labeler_id: str
    pseudonym: str
    cohort: str
    rankings: Reliability | None
    flags: FlagReliability | None


@dataclass
class Details:
    """What only the agreement page shows. `spread`: standard deviation of log reliability between labelers."""

    coefficients: dict[str, Coefficients] = field(default_factory=dict)
    flags_by_group: dict[str, list[FlagLine]] = field(default_factory=dict)
    with_ties: Agreement = NOTHING
    reliability: list[ReliabilityLine] = field(default_factory=list)
    spread: float | None = None


@dataclass
class Measures:
    """`groups`: name -> pairwise agreement, ties left out (the paper's number)."""

    groups: dict[str, Agreement] = field(default_factory=dict)
    by_rubric: dict[str, Agreement] = field(default_factory=dict)
    by_use_case: dict[str, Agreement] = field(default_factory=dict)
    quality_alpha: Agreement | None = None
    tau: Agreement | None = None
    flags: list[FlagLine] = field(default_factory=list)
    labelers: list[LabelerLine] = field(default_factory=list)
    pairs: int = 0
    tied: int = 0


def ranking_of_opinion(opinion: Opinion) -> Ranking:
    """An answer to an item as a ranking, also where it made no row: in a screening round."""
    if opinion.kind == "compare":
        found = forms.verdict(opinion.fields)[0]
    else:
        found, _ = forms.ranks(opinion.fields, len(opinion.shown))
    return Ranking(
        id=opinion.submission_id,
        prompt_id=opinion.task_id,
        labeler_id=opinion.labeler_id,
        completion_ids=tuple(opinion.shown),
        ranks=tuple(found),
    )


class Meter:
    """Keeps the last `Measures` and works out new ones when the store has changed."""

    def __init__(self, store: Store, oversight: Oversight):
        self.store = store
        self.oversight = oversight
        self._lock = threading.Lock()
        self._known: dict[str, tuple[Any, Any]] = {}

    def read(self) -> Measures:
        return self._fresh("measures", measure)

    def details(self) -> Details:
        return self._fresh("details", details)

    def _fresh(self, name: str, work_out: Callable[[Store, Oversight], Any]) -> Any:
        with self._lock:
            people = str(self.oversight.labeler_names())
            counts = self.store.counts()
            key = (self.oversight.newest(), counts["rankings"], counts["ratings"], people)
            if name not in self._known or self._known[name][0] != key:
                self._known[name] = key, work_out(self.store, self.oversight)
            return self._known[name][1]

    def profile(self, labeler_id: str) -> list[dict[str, Any]]:
        """The labeler's profile beside the others', as lines of words and numbers. Empty without rankings."""
        rankings = _in_time(self.store)
        names = self.oversight.labeler_names()
        gold = [ranking for ranking in rankings if not _is_labeler(names, ranking)]
        people = [ranking for ranking in rankings if _is_labeler(names, ranking)]
        shown = {ranking.id: ranking.completion_ids for ranking in people if names[ranking.labeler_id]["role"]}
        found = profiles(people, texts=_texts(self.store, people), shown=shown, gold=gold).get(labeler_id)
        return [_profile_line(name, getattr(found, name)) for name in PROFILE] if found else []

    def screen(self) -> Screen | None:
        """Labelers whose choices follow a word or a name more than chance allows; none where nothing can be tested."""
        people = [r for r in self.store.rankings() if _is_labeler(self.oversight.labeler_names(), r[0])]
        rankings = [ranking for ranking, _ in people]
        return screen(rankings, _texts(self.store, rankings)) if rankings else None


PROFILE = {
    "shown_first": ("Position", "share of pairs won by the answer shown first; no bias: 50 %", 100),
    "length_bias": ("Length", "prefers the longer answer more often than others do on the same pairs, points", 100),
    "formatting_bias": ("Formatting", "the same for lists, headings and bold, points", 100),
    "seconds": ("Median time", "seconds for one ranking", 1),
    "too_fast": ("Faster than reading", "share of rankings done faster than their answers can be read", 100),
    "drift": ("Drift", "agreement with others in the second half minus the first half, points", 100),
    "others": ("Agreement with others", "share of pairs ordered alike", 100),
    "gold": ("Agreement with researchers", "share of pairs ordered alike", 100),
}


def _profile_line(name: str, found: Interval) -> dict[str, Any]:
    title, meaning, scale = PROFILE[name]
    if not found.n:
        return {"name": title, "meaning": meaning, "value": "nothing to measure yet", "n": 0}
    share = "bias" in name or name == "drift"
    ends = [found.value, found.low, found.high]
    if share:  # a difference of shares; with few items the interval is wider than anything that can be
        ends = [max(-1.0, min(1.0, end)) for end in ends]
    shown = [
        "–" if not isfinite(value) else f"{scale * value:+.0f}" if share else f"{scale * value:.0f}" for value in ends
    ]
    value = f"{shown[0]} ({shown[1]} to {shown[2]})".replace("-", "−")
    return {"name": title, "meaning": meaning, "value": value, "n": found.n}


def _in_time(store: Store) -> list[Ranking]:
    """All rankings in the order in which they were made; imported ones first."""
    moments = {}
    for row in events(store):
        for key in row["body"].get("records", {}).get("rankings", ()):
            moments[key] = row["at"]
    return sorted((ranking for ranking, _ in store.rankings()), key=lambda ranking: moments.get(ranking.id, 0.0))


def _texts(store: Store, rankings: Sequence[Ranking]) -> dict[str, str]:
    ids = sorted({key for ranking in rankings for key in ranking.completion_ids})
    return {completion.id: completion.text for completion in store.completions(ids=ids)}


def measure(store: Store, oversight: Oversight) -> Measures:
    names = oversight.labeler_names()
    rows: list[tuple[Ranking, Prompt]] = list(store.rankings())
    ratings = list(store.ratings())
    rankings = [ranking for ranking, _ in rows]
    people = [ranking for ranking in rankings if _is_labeler(names, ranking)]
    researchers = [ranking for ranking in rankings if not _is_labeler(names, ranking)]
    use_case = {prompt.id: prompt.use_case or "not named" for _, prompt in rows}
    cohorts = by_group(people, lambda ranking: names[ranking.labeler_id]["cohort"], _pairwise)
    groups = {"All labelers": _pairwise(people)}
    groups |= {label: cohorts[key] for key, label in COHORTS.items() if key in cohorts}
    if researchers:
        groups["Labeler and researcher"] = agreement_between(people, researchers, draws=DRAWS)
    sizes = [len(ranking.ranks) * (len(ranking.ranks) - 1) // 2 for ranking in rankings]
    untied = [len(ranking.comparisons()) for ranking in rankings]
    return Measures(
        groups=groups,
        by_rubric=by_group(people, lambda ranking: ranking.rubric, _pairwise),
        by_use_case=by_group(people, lambda ranking: use_case[ranking.prompt_id], _pairwise),
        quality_alpha=alpha_ordinal(quality_votes(ratings), draws=DRAWS),
        tau=kendall_tau_b(people, draws=DRAWS),
        flags=[_flag_line(ratings, flag) for flag in FLAGS],
        labelers=_labelers(names, people, oversight),
        pairs=sum(sizes),
        tied=sum(sizes) - sum(untied),
    )


def details(store: Store, oversight: Oversight) -> Details:
    """Coefficients by cohort, guide and use case, and each labeler's reliability with its interval."""
    names = oversight.labeler_names()
    rows = [(ranking, prompt) for ranking, prompt in store.rankings() if _is_labeler(names, ranking)]
    use_case = {prompt.id: prompt.use_case or "not named" for _, prompt in rows}
    people = [ranking for ranking, _ in rows]
    ratings = [rating for rating in store.ratings() if names[rating.labeler_id]["role"] in ("labeler", None)]
    prompt_of = {c.id: c.prompt_id for c in store.completions(ids=sorted({r.completion_id for r in ratings}))}
    ranked: dict[str, list[Ranking]] = {"All labelers": people}
    rated: dict[str, list[Rating]] = {"All labelers": ratings}
    for ranking in people:
        cohort = COHORTS[names[ranking.labeler_id]["cohort"]]
        for group in (cohort, f"guide {ranking.rubric}", f"use case {use_case[ranking.prompt_id]}"):
            ranked.setdefault(group, []).append(ranking)
    for rating in ratings:
        cohort = COHORTS[names[rating.labeler_id]["cohort"]]
        case = use_case.get(prompt_of[rating.completion_id], "not named")
        for group in (cohort, f"guide {rating.rubric}", f"use case {case}"):
            rated.setdefault(group, []).append(rating)
    model = bradley_terry_with_reliability(people) if any(ranking.comparisons() for ranking in people) else None
    flags = flag_reliability(ratings, least_yes=RARE)
    told = sorted({ranking.labeler_id for ranking in people} | set(flags), key=lambda key: names[key]["pseudonym"])
    return Details(
        coefficients={
            group: Coefficients(
                kendall_tau_b(ranked.get(group, ()), draws=DRAWS),
                kendall_w(ranked.get(group, ()), draws=DRAWS),
                alpha_ordinal(quality_votes(rated.get(group, ())), draws=DRAWS),
            )
            for group in dict.fromkeys([*ranked, *rated])
        },
        flags_by_group={
            group: [_flag_line(part, flag) for flag in FLAGS] for group, part in rated.items() if part is not ratings
        },
        with_ties=pairwise_agreement_with_ties(people, draws=DRAWS),
        reliability=[
            ReliabilityLine(
                key,
                names[key]["pseudonym"],
                names[key]["cohort"],
                model.reliability.get(key) if model else None,
                flags.get(key),
            )
            for key in told
        ],
        spread=model.spread if model else None,
    )


COHORTS = {"training": "Training cohort", "held-out": "Held-out cohort"}


def _is_labeler(names, ranking: Ranking) -> bool:
    return names[ranking.labeler_id]["role"] in ("labeler", None)


def _pairwise(rankings: Sequence[Ranking]) -> Agreement:
    return pairwise_agreement(rankings, draws=DRAWS)


def _flag_line(ratings: Sequence[Rating], flag: str) -> FlagLine:
    votes = flag_votes(ratings, flag)
    yes = sum(value for _, _, value in votes)
    return FlagLine(flag, gwet_ac1(votes, draws=DRAWS), yes, len(votes))


def _labelers(names, rankings: Sequence[Ranking], oversight: Oversight) -> list[LabelerLine]:
    """One line for each person with an account or a ranking; agreement is with all others on shared pairs."""
    own: dict[str, list[Ranking]] = defaultdict(list)
    by_prompt: dict[str, set[str]] = defaultdict(set)
    for ranking in rankings:
        own[ranking.labeler_id].append(ranking)
        by_prompt[ranking.prompt_id].add(ranking.labeler_id)
    seconds, written = defaultdict(list), defaultdict(int)
    for labeler_id, kind, spent, _ in oversight.work():
        if kind in ("rank", "compare"):
            seconds[labeler_id].append(spent)
        written[labeler_id] += kind == "demonstration"
    lines = []
    for labeler_id, about in names.items():
        if about["role"] != "labeler" and not (about["role"] is None and own[labeler_id]):
            continue
        shared = {ranking.prompt_id for ranking in own[labeler_id] if len(by_prompt[ranking.prompt_id]) > 1}
        mine = [ranking for ranking in own[labeler_id] if ranking.prompt_id in shared]
        others = [r for r in rankings if r.prompt_id in shared and r.labeler_id != labeler_id]
        lines.append(
            LabelerLine(
                labeler_id=labeler_id,
                pseudonym=about["pseudonym"],
                cohort=about["cohort"],
                role=about["role"],
                state=about["state"],
                rankings=len(own[labeler_id]),
                demonstrations=written[labeler_id],
                seconds=median(seconds[labeler_id]) if seconds[labeler_id] else None,
                agreement=agreement_between(mine, others, draws=DRAWS),
            )
        )
    return sorted(lines, key=lambda line: line.pseudonym)
