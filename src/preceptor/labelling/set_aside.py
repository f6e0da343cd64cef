"""Prompts that intake set aside: a researcher looks at each and releases it or drops it."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from preceptor.errors import UserError
from preceptor.intake.importing import estimated_tokens
from preceptor.intake.language import guess_language
from preceptor.intake.pii import kinds
from preceptor.labelling.access import Posted, Researcher, form_body
from preceptor.labelling.pages import go, render
from preceptor.store.set_aside import DECISIONS, REASONS, counts, decide, waiting

router = APIRouter()

PAGE = 25  # prompts on one page
SHOWN = 8000  # characters of a prompt


@router.get("/set-aside")
def set_aside(request: Request, user: Researcher, reason: str = "", note: str = "") -> Response:
    store = request.app.state.workspace.store
    chosen = reason if reason in REASONS else None
    lines = [
        {
            "held": held,
            "messages": [{"role": message.role, "content": cut(message.content)} for message in held.prompt.messages],
            "tokens": estimated_tokens(held.prompt),
            "language": guess_language(held.prompt.messages[-1].content),
            "kinds": kinds(held.prompt.text),
        }
        for held in waiting(store, chosen, PAGE)
    ]
    return render(
        request,
        "set-aside.html",
        lines=lines,
        counts=counts(store),
        reasons=REASONS,
        reason=chosen or "",
        note=note if note in DECISIONS else "",
    )


def cut(text: str) -> str:
    """The beginning of a long text, and how much of it is left out."""
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} … ({len(text) - SHOWN:,} more characters)"


@router.post("/set-aside", openapi_extra=form_body(prompt=str, decision={"enum": list(DECISIONS), "type": "string"}))
def decide_on(request: Request, user: Researcher, form: Posted) -> Response:
    """Decide on one prompt or on several that were ticked."""
    chosen = form.several("prompt")
    if not chosen:
        raise UserError("No prompt was chosen. Nothing was changed; go back and tick one or more.")
    decision = form.get("decision")
    decide(request.app.state.workspace.store, chosen, decision, user.id, request.app.state.accounts.now())
    reason = form.get("reason") if form.get("reason") in REASONS else ""
    return go(f"/set-aside?note={decision}" + (f"&reason={reason.replace(' ', '+')}" if reason else ""))
