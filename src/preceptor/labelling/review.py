"""What needs a researcher's eye: agreement in detail, items on which labelers differ, reported items."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from preceptor.labelling import figures
from preceptor.labelling.access import Posted, Researcher, form_body
from preceptor.labelling.measures import RARE, ranking_of_opinion
from preceptor.labelling.pages import go, render
from preceptor.labelling.questions import QUESTIONS, REASONS
from preceptor.statistics.agreement import agreement_between
from preceptor.store.oversight import Opinion
from preceptor.store.set_aside import counts

router = APIRouter()


@router.get("/agreement")
def agreement(request: Request, user: Researcher) -> Response:
    measures = request.app.state.meter.read()
    return render(
        request,
        "agreement.html",
        measures=measures,
        details=request.app.state.meter.details(),
        figure=figures.agreement(measures.groups),
        questions_by_key=QUESTIONS,
        rare=RARE,
    )


def share_alike(opinions: list[Opinion]) -> tuple[float, int]:
    """(share, n) of pairs that two people put in order and ordered alike, over all pairs of people."""
    alike = total = 0.0
    for place, opinion in enumerate(opinions):
        for other in opinions[:place]:
            found = agreement_between([ranking_of_opinion(opinion)], [ranking_of_opinion(other)], draws=2)
            if found.pairs:
                alike += found.value * found.pairs
                total += found.pairs
    return (alike / total if total else float("nan")), int(total)


@router.get("/review")
def review(request: Request, user: Researcher) -> Response:
    state = request.app.state
    lines = []
    for task, opinions in state.oversight.several_opinions(60).items():
        share, pairs = share_alike(opinions)
        settled = any(opinion.role != "labeler" for opinion in opinions)
        prompt = state.oversight.task_prompt(task)
        lines.append(
            {"task": task, "people": opinions, "share": share, "n": pairs, "settled": settled, "prompt": prompt}
        )
    lines.sort(key=lambda line: (line["settled"], line["share"] if line["n"] else 2.0))
    return render(
        request,
        "review.html",
        lines=lines,
        halted=state.queues.halted(),
        reasons=REASONS,
        aside=sum(counts(state.workspace.store).values()),
    )


@router.get("/review/{task}")
def compare(request: Request, user: Researcher, task: str) -> Response:
    """Everyone's ranking of one item side by side. Letters here are in a fixed order, and name no model."""
    state = request.app.state
    prompt = state.oversight.task_prompt(task)
    opinions = state.oversight.opinions(kinds=("rank", "compare"), task_id=task)
    shown = sorted({key for opinion in opinions for key in opinion.shown})
    texts = {completion.id: completion for completion in state.oversight.store.completions(ids=shown)}
    tables = []
    for opinion in opinions:
        ranks = dict(zip(opinion.shown, ranking_of_opinion(opinion).ranks))
        tables.append({"opinion": opinion, "ranks": [ranks.get(key) for key in shown]})
    return render(request, "review-item.html", task=task, prompt=prompt, shown=shown, texts=texts, tables=tables)


@router.post("/review/{task}/settle", openapi_extra=form_body())
def settle(request: Request, user: Researcher, task: str, form: Posted) -> Response:
    """The researcher ranks the item too, blind like everybody; their ranking is kept beside the others."""
    state = request.app.state
    item = state.queues.hold_task(task, user.labeler_id)
    state.accounts.note(user.id, "item settled", task)
    return go(f"/work/{item}")


@router.post("/review/{task}/reopen", openapi_extra=form_body(decision=str))
def reopen(request: Request, user: Researcher, task: str, form: Posted) -> Response:
    """A reported item goes back to the queue, or is dropped."""
    state = request.app.state
    state.oversight.task_prompt(task)
    decision = "open" if form.get("decision") == "open" else "done"
    state.queues.release_task(task, decision)
    state.accounts.note(user.id, "report settled", task, decision=decision)
    return go("/review#reports")
