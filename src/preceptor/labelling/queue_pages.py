"""Queues: what to label, by whom, how often."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from preceptor.labelling.access import Form, Posted, Researcher, form_body
from preceptor.labelling.forms import whole_number
from preceptor.labelling.pages import go, render
from preceptor.labelling.questions import KIND_NAMES
from preceptor.statistics.preference import smallest_detectable
from preceptor.store.accounts import new_id
from preceptor.store.queues import KINDS, Queue

router = APIRouter()


@router.get("/queues")
def queues(request: Request, user: Researcher) -> Response:
    state = request.app.state
    return render(
        request, "queues.html", queues=state.queues.queues(), progress=state.queues.progress(), names=KIND_NAMES
    )


@router.get("/queues/new")
def new_queue(request: Request, user: Researcher, kind: str = "rank") -> Response:
    return _form(request, {"kind": kind if kind in KINDS else "rank"})


def _form(request: Request, fields) -> Response:
    state = request.app.state
    rubrics = state.oversight.rubric_notes()
    return render(
        request,
        "queue-new.html",
        fields=fields,
        names=KIND_NAMES,
        models=state.oversight.models(),
        rubrics=rubrics,
        guide=fields.get("rubric") or newest_guide(rubrics, fields["kind"]),
    )


def newest_guide(rubrics, kind: str) -> str:
    """The guide that fits a kind of work: training for all that trains, evaluation for the rest."""
    purpose = "evaluation" if kind in ("compare", "toxicity", "red-team") else "training"
    return next((note["id"] for note in rubrics if note["purpose"] == purpose), "")


QUEUE_FIELDS = form_body(
    kind={"enum": list(KINDS), "type": "string"}, name=str, rubric=str, cohort=str, k_min=str, k_max=str, overlap=str
)


@router.post("/queues", openapi_extra=QUEUE_FIELDS)
def create(request: Request, user: Researcher, form: Posted) -> Response:
    made = request.app.state.queues.create(queue_of(form))
    request.app.state.accounts.note(user.id, "queue made", made.id, kind=made.kind, name=made.name)
    return go(f"/queues/{made.id}")


def queue_of(form: Form, screening_id: str | None = None, **fixed) -> Queue:
    """A queue from its form. What is not a number becomes one that the store's check refuses in words."""

    def number(name: str, default: int, high: int = 9999) -> int:
        return whole_number(form.get(name) or str(default), 0, high) if form.get(name) else default

    kind = fixed.get("kind", form.get("kind"))
    models = [name for name in form.several("models") if name]
    if kind == "compare":
        models = [name for name in (form.get("model_a"), form.get("model_b")) if name]
    values = {
        "id": new_id("w"),
        "name": form.get("name").strip()[:120],
        "kind": kind,
        "rubric": form.get("rubric")[:80] or "training-1",
        "cohort": form.get("cohort") or "training",
        "k_min": _or(number("k_min", 4 if kind == "rank" else 1), 0),
        "k_max": _or(number("k_max", 9 if kind == "rank" else 4), 0),
        "overlap_share": _or(number("overlap", 20), 999) / 100,
        "overlap_labels": _or(number("overlap_labels", 2), 0),
        "seed": _or(number("seed", 0), 0),
        "models": models,
        "split": form.get("split") if form.get("split") in ("train", "valid", "test") else "any",
        "target": _or(number("target", 0), 0),
        "lease_minutes": float(_or(number("lease_minutes", 120), 0)),
        "screening_id": screening_id,
    }
    return Queue(**values | fixed)


def _or(number: int | None, otherwise: int) -> int:
    return otherwise if number is None else number


@router.get("/queues/{queue}")
def one(request: Request, user: Researcher, queue: str, added: int | None = None) -> Response:
    state = request.app.state
    found = state.queues.queue(queue)
    counts = state.queues.progress()[found.id]
    labels = counts["done"] + counts["waiting"] + counts["held"]
    compared = found.kind == "compare" and labels >= counts["items"] > 0
    return render(
        request,
        "queue.html",
        queue=found,
        counts=counts,
        detectable=smallest_detectable(labels, counts["items"]) if compared else None,
        names=KIND_NAMES,
        added=added,
        screening=state.screenings.screening(found.screening_id) if found.screening_id else None,
    )


@router.post("/queues/{queue}/state", openapi_extra=form_body(state={"enum": ["open", "closed"], "type": "string"}))
def set_state(request: Request, user: Researcher, queue: str, form: Posted) -> Response:
    found = request.app.state.queues.queue(queue)
    state = "open" if form.get("state") == "open" else "closed"
    request.app.state.queues.set_state(found.id, state)
    request.app.state.accounts.note(user.id, f"queue {state}", found.id)
    return go(f"/queues/{found.id}")


@router.post("/queues/{queue}/fill", openapi_extra=form_body())
def fill(request: Request, user: Researcher, queue: str, form: Posted) -> Response:
    added = request.app.state.queues.fill(request.app.state.queues.queue(queue).id)
    request.app.state.accounts.note(user.id, "items added", queue, number=added)
    return go(f"/queues/{queue}?added={added}")


@router.post("/queues/{queue}/answer", openapi_extra=form_body())
def answer_yourself(request: Request, user: Researcher, queue: str, form: Posted) -> Response:
    """A researcher works on the queue: in a screening round these answers are what candidates are held against."""
    found = request.app.state.queues.queue(queue)
    item = request.app.state.queues.take(
        user.labeler_id, found.kind, cohort=user.cohort, trial=False, queue_id=found.id, anywhere=True
    )
    return go(f"/work/{item}" if item else f"/queues/{queue}?added=-1")
