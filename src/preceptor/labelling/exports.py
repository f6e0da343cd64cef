"""Downloads: the raw record, rankings by prompt, pairs for TRL, demonstrations, ratings, toxicity, verdicts."""

import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse

from preceptor.intake.export import count_pairs, export_own, export_pairs
from preceptor.labelling import forms
from preceptor.labelling.access import Researcher
from preceptor.labelling.pages import render
from preceptor.labelling.records import verdicts
from preceptor.store.events import events

router = APIRouter()

KINDS = {
    "events": "Every submission ever made, versions and undone ones too, with the order shown and the time taken",
    "rankings": "Rankings with their prompts and answers, one line each, as training reads them",
    "pairs": "All pairs that are not tied, as prompt, chosen, rejected for TRL: of what a release for training takes",
    "demonstrations": "Demonstrations with their prompts",
    "prompts": "Prompts",
    "ratings": "Ratings 1 to 7 and flags, one answer a line",
    "toxicity": "Answers to the toxicity form, one item a line",
    "verdicts": "What answers to attacks did, one answer a line, as preceptor evaluate --verdicts reads them",
}


@router.get("/export")
def exports(request: Request, user: Researcher) -> Response:
    oversight = request.app.state.oversight
    there = oversight.store.counts()
    counts = {name: there.get(name, 0) for name in KINDS} | {
        "events": there["submissions"],
        "pairs": count_pairs(request.app.state.workspace),
        "toxicity": len(oversight.opinions(kinds=("toxicity",))),
        "verdicts": sum(len(opinion.shown) for opinion in oversight.opinions(kinds=("red-team",))),
    }
    return render(request, "export.html", kinds=KINDS, counts=counts)


@router.get("/export/{name}.jsonl")
def download(request: Request, user: Researcher, name: str) -> Response:
    """One JSON object a line, UTF-8. Labelers appear by id and pseudonym, never by name."""
    if name not in KINDS:
        raise LookupError(name)
    state = request.app.state
    state.accounts.note(user.id, "exported", name)
    lines = {
        "events": lambda: _json(events(state.workspace.store)),
        "ratings": lambda: _json(asdict(rating) for rating in state.oversight.store.ratings()),
        "toxicity": lambda: _json(_toxicity(state)),
        "verdicts": lambda: _json(verdicts(state.oversight)),
    }.get(name, lambda: _file(state.workspace, name))
    headers = {"content-disposition": f'attachment; filename="{name}.jsonl"'}
    return StreamingResponse(lines(), media_type="application/x-ndjson", headers=headers)


def _json(rows) -> Iterator[str]:
    for row in rows:
        yield json.dumps(row, ensure_ascii=False, default=dict) + "\n"


def _toxicity(state) -> Iterator[dict]:
    for opinion in state.oversight.opinions(kinds=("toxicity",)):
        answers, _ = forms.toxicity(opinion.fields, len(opinion.shown))
        about = {"task_id": opinion.task_id, "labeler_id": opinion.labeler_id, "cohort": opinion.cohort}
        yield about | answers | {"completion_ids": opinion.shown, "seconds": opinion.seconds, "at": opinion.at}


def _file(workspace, name: str) -> Iterator[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.jsonl"
        if name == "pairs":
            export_pairs(workspace, path)
        else:
            export_own(workspace, name, path)
        with path.open("rb") as file:
            while block := file.read(1 << 16):
                yield block
