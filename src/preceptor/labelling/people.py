"""Labelers as researchers see them: by pseudonym, with evidence and no verdicts; invitations."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from preceptor.errors import UserError
from preceptor.labelling import figures
from preceptor.labelling.access import Posted, Researcher, form_body
from preceptor.labelling.measures import FEW_PAIRS
from preceptor.labelling.pages import Blank, go, render
from preceptor.labelling.round_page import actor_names
from preceptor.store.accounts import INVITE_SECONDS

router = APIRouter()


@router.get("/labelers")
def labelers(request: Request, user: Researcher) -> Response:
    return _labelers(request)


def _labelers(request: Request, link: str = "", made_for: str = "") -> Response:
    state = request.app.state
    measures = state.meter.read()
    return render(
        request,
        "labelers.html",
        lines=measures.labelers,
        mean=measures.groups["All labelers"].value,
        dot=figures.dot,
        few=FEW_PAIRS,
        invites=state.accounts.invites(),
        rounds=state.screenings.screenings(),
        actor_names=Blank(actor_names(request)),
        link=link,
        made_for=made_for,
        days=int(INVITE_SECONDS // 86400),
    )


@router.post("/labelers/invite", openapi_extra=form_body(email=str, role=str, cohort=str, screening=str))
def invite(request: Request, user: Researcher, form: Posted) -> Response:
    """Make a link and show it this once. Only an admin may invite researchers and admins."""
    state = request.app.state
    role, cohort = form.get("role") or "labeler", form.get("cohort") or "training"
    if role not in ("labeler", "researcher", "admin") or cohort not in ("training", "held-out"):
        raise UserError("Choose a role and a cohort from the lists. No link was made.")
    if role != "labeler" and user.role != "admin":
        raise UserError("Only an admin can invite researchers. No link was made.")
    screening = form.get("screening") or None
    if screening is not None:
        state.screenings.screening(screening)
        if cohort == "held-out" or role != "labeler":
            raise UserError("Held-out labelers and researchers are not screened. No link was made.")
    email = form.get("email").strip()[:320]
    token = state.accounts.invite(user.id, role=role, cohort=cohort, email=email, screening_id=screening)
    return _labelers(request, link=f"{request.base_url}invite/{token}", made_for=email)


@router.post("/labelers/invite/{invite}/revoke", openapi_extra=form_body())
def revoke(request: Request, user: Researcher, invite: str, form: Posted) -> Response:
    request.app.state.accounts.revoke_invite(invite, user.id)
    return go("/labelers")


@router.get("/labelers/screen")
def poisoning(request: Request, user: Researcher) -> Response:
    """Choices that follow a word or a name: evidence with its false-positive rate, for a person to judge."""
    names = request.app.state.oversight.labeler_names()
    request.app.state.accounts.note(user.id, "screen read")
    return render(request, "poisoning.html", found=request.app.state.meter.screen(), names=names)


@router.get("/labelers/{labeler}")
def profile(request: Request, user: Researcher, labeler: str) -> Response:
    state = request.app.state
    line = next((line for line in state.meter.read().labelers if line.labeler_id == labeler), None)
    if line is None:
        raise LookupError(labeler)
    state.accounts.note(user.id, "profile read", labeler)
    return render(
        request,
        "labeler.html",
        line=line,
        mean=state.meter.read().groups["All labelers"].value,
        dot=figures.dot,
        few=FEW_PAIRS,
        profile=state.meter.profile(labeler),
        reliability=next((own for own in state.meter.details().reliability if own.labeler_id == labeler), None),
        history=state.labelling.history(labeler, limit=20),
    )


@router.post("/labelers/{labeler}/cohort", openapi_extra=form_body(cohort=str))
def set_cohort(request: Request, user: Researcher, labeler: str, form: Posted) -> Response:
    """Move a labeler to the other cohort, before they begin: later, work in hand or done would change sides."""
    state = request.app.state
    cohort = form.get("cohort")
    if cohort not in ("training", "held-out"):
        raise UserError("Choose the training or the held-out cohort.")
    if state.labelling.history(labeler, limit=1) or state.labelling.in_hand(labeler):
        raise UserError("This labeler has begun to work already, so the cohort stays. Nothing was changed.")
    found = next((person for person in state.accounts.users() if person.labeler_id == labeler), None)
    if found is None:
        raise LookupError(labeler)
    state.accounts.change_user(found.id, user.id, cohort=cohort)
    return go(f"/labelers/{labeler}")
