"""Screening rounds with the four criteria of Appendix B.1. Candidates are shown by pseudonym; people decide."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response

from preceptor.labelling import forms
from preceptor.labelling.access import Posted, Researcher, form_body
from preceptor.labelling.forms import LETTERS, whole_number
from preceptor.labelling.measures import ranking_of_opinion
from preceptor.labelling.pages import go, render
from preceptor.labelling.queue_pages import newest_guide, queue_of
from preceptor.statistics.agreement import Agreement, agreement_between
from preceptor.statistics.preference import rate_interval
from preceptor.store.oversight import Opinion

router = APIRouter()

SENSITIVE = (
    "sexual_content",
    "violent_content",
    "encourages_harm",
    "denigrates_protected_class",
    "harmful_advice",
)
TOPICS = "religion, politics, health, law and money, sexuality, race and origin, violence and crime, teenagers"


@dataclass
class Criteria:
    """What was measured of one candidate. Empty where there is nothing to measure yet."""

    flags: tuple[float, float, float, int] | None = None  # share, low, high, n answers to flags
    rankings: Agreement | None = None
    demonstrations: float | None = None
    scored: int = 0
    answers: int = 0
    unscored: list[Opinion] = field(default_factory=list)

    def numbers(self) -> dict[str, float]:
        """What is kept with the labeler."""
        found = {}
        if self.flags:
            found["flags"] = self.flags[0]
        if self.rankings and self.rankings.pairs:
            found["rankings"] = self.rankings.value
        if self.demonstrations is not None:
            found["demonstrations"] = self.demonstrations
        return found


def flag_answers(opinion: Opinion) -> dict[tuple[str, str, str], bool]:
    """(item, completion, flag) -> yes or no, for the sensitive flags of a ranking."""
    found = {}
    for letter, completion in zip(LETTERS, opinion.shown):
        _, flags, _ = forms.rating(opinion.fields, letter)
        found |= {(opinion.task_id, completion, flag): flags[flag] for flag in SENSITIVE if flag in flags}
    return found


def flag_agreement(candidate: Sequence[Opinion], gold: Sequence[Opinion]) -> tuple[float, float, float, int] | None:
    """Share of sensitive-flag answers equal to a researcher's, with a 95 % interval clustered by item, and n."""
    reference = defaultdict(list)
    for opinion in gold:
        for key, value in flag_answers(opinion).items():
            reference[key].append(value)
    hits, clusters = [], []
    for opinion in candidate:
        for key, value in flag_answers(opinion).items():
            for other in reference[key]:
                hits.append(value == other)
                clusters.append(key[0])
    if not hits:
        return None
    interval = rate_interval(np.array(hits, dtype=float), np.array(clusters))
    return float(np.mean(hits)), interval.low, interval.high, len(hits)


def measure(opinions: Sequence[Opinion], scores: Mapping[str, Sequence[tuple[str, int]]]) -> dict[str, Criteria]:
    """Labeler id -> criteria, of everyone who is not a researcher."""
    gold = [opinion for opinion in opinions if opinion.role != "labeler"]
    by_labeler: dict[str, list[Opinion]] = defaultdict(list)
    for opinion in opinions:
        if opinion.role == "labeler":
            by_labeler[opinion.labeler_id].append(opinion)
    found = {}
    for labeler_id, own in by_labeler.items():
        ranked = [opinion for opinion in own if opinion.kind == "rank"]
        gold_ranked = [opinion for opinion in gold if opinion.kind == "rank"]
        criteria = Criteria(answers=len(own), flags=flag_agreement(ranked, gold_ranked))
        if ranked and gold_ranked:
            criteria.rankings = agreement_between(
                [ranking_of_opinion(opinion) for opinion in ranked],
                [ranking_of_opinion(opinion) for opinion in gold_ranked],
            )
        written = [opinion for opinion in own if opinion.kind == "demonstration"]
        means = [np.mean([score for _, score in scores[o.submission_id]]) for o in written if o.submission_id in scores]
        criteria.demonstrations = float(np.mean(means)) if means else None
        criteria.scored = len(means)
        criteria.unscored = written
        found[labeler_id] = criteria
    return found


def _measured(request: Request, screening_id: str) -> dict[str, Criteria]:
    opinions = request.app.state.oversight.opinions(kinds=("rank", "demonstration"), screening_id=screening_id)
    written = [opinion.submission_id for opinion in opinions if opinion.kind == "demonstration"]
    return measure(opinions, request.app.state.oversight.scores(written))


@router.get("/screening")
def rounds(request: Request, user: Researcher) -> Response:
    state = request.app.state
    rubrics = state.oversight.rubric_notes()
    return render(
        request,
        "screenings.html",
        rounds=state.screenings.screenings(),
        topics=TOPICS,
        rubrics=rubrics,
        guide=newest_guide(rubrics, "rank"),
    )


@router.post("/screening", openapi_extra=form_body(name=str, topics=str, flags=str, rankings=str, demonstrations=str))
def create(request: Request, user: Researcher, form: Posted) -> Response:
    state = request.app.state

    def percent(name: str, default: int) -> float:
        number = whole_number(form.get(name) or str(default), 0, 100)
        return -1.0 if number is None else number / 100

    topics = [topic.strip()[:60] for topic in form.get("topics").split(",") if topic.strip()][:30]
    made = state.screenings.create(
        form.get("name").strip()[:120],
        topics=topics,
        cut_flags=percent("flags", 75),
        cut_rankings=percent("rankings", 75),
        cut_demonstrations=float(whole_number(form.get("demonstrations") or "6", 1, 7) or 0),
    )
    common = {"overlap_share": 1.0, "overlap_labels": 100, "cohort": "training"}
    for kind, what in (("rank", "rate and rank"), ("demonstration", "write")):
        state.queues.create(queue_of(form, made, kind=kind, name=f"{form.get('name').strip()[:100]}: {what}", **common))
    state.accounts.note(user.id, "screening round made", made)
    return go(f"/screening/{made}")


@router.get("/screening/{screening}")
def one(request: Request, user: Researcher, screening: str) -> Response:
    state = request.app.state
    found = state.screenings.screening(screening)
    measured = _measured(request, screening)
    queues = [queue for queue in state.queues.queues(screening=True) if queue.screening_id == screening]
    written = [opinion.submission_id for criteria in measured.values() for opinion in criteria.unscored]
    return render(
        request,
        "screening.html",
        round=found,
        members=state.screenings.members(screening),
        measured=measured,
        empty=Criteria(),
        queues=queues,
        progress=state.queues.progress(),
        scores=state.oversight.scores(written),
        prompts={
            opinion.task_id: state.oversight.task_prompt(opinion.task_id)
            for criteria in measured.values()
            for opinion in criteria.unscored
        },
    )


@router.post("/screening/{screening}/score/{submission}", openapi_extra=form_body(score=str))
def score(request: Request, user: Researcher, screening: str, submission: str, form: Posted) -> Response:
    request.app.state.screenings.score(submission, user.id, whole_number(form.get("score"), 1, 7) or 0)
    request.app.state.accounts.note(user.id, "demonstration scored", submission)
    return go(f"/screening/{screening}#writing")


@router.post("/screening/{screening}/decide/{labeler}", openapi_extra=form_body(decision=str, note=str))
def decide(request: Request, user: Researcher, screening: str, labeler: str, form: Posted) -> Response:
    measured = _measured(request, screening).get(labeler, Criteria())
    request.app.state.screenings.decide(
        screening, labeler, form.get("decision"), user.id, form.get("note")[:1000], measured.numbers()
    )
    return go(f"/screening/{screening}")
