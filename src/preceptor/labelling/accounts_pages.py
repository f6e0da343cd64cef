"""For admins: accounts and their sessions, links to new passwords, the audit trail."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from preceptor.errors import UserError
from preceptor.labelling.access import Admin, Posted, form_body
from preceptor.labelling.pages import Blank, go, render
from preceptor.store.accounts import ROLES

router = APIRouter()


@router.get("/accounts")
def accounts(request: Request, user: Admin) -> Response:
    return _accounts(request)


def _accounts(request: Request, link: str = "", made_for: str = "") -> Response:
    state = request.app.state
    return render(
        request,
        "accounts.html",
        users=state.accounts.users(),
        sessions=state.accounts.sessions(),
        current=request.state.session_id,
        roles=ROLES,
        link=link,
        made_for=made_for,
    )


@router.post("/accounts/{account}", openapi_extra=form_body(role=str, state=str))
def change(request: Request, user: Admin, account: str, form: Posted) -> Response:
    found = request.app.state.accounts.user(account)
    if found is None:
        raise LookupError(account)
    if found.id == user.id:
        raise UserError("You cannot change your own role or shut your own account. Ask another admin.")
    values = {}
    if form.get("role") in ROLES and form.get("role") != found.role:
        values["role"] = form.get("role")
    if form.get("state") in ("active", "disabled") and form.get("state") != found.state:
        values["state"] = form.get("state")
    if values:
        request.app.state.accounts.change_user(found.id, user.id, **values)
    return go("/accounts")


@router.post("/accounts/{account}/password-link", openapi_extra=form_body())
def password_link(request: Request, user: Admin, account: str, form: Posted) -> Response:
    found = request.app.state.accounts.user(account)
    if found is None:
        raise LookupError(account)
    token = request.app.state.accounts.invite(user.id, role=found.role, cohort=found.cohort, user_id=found.id)
    return _accounts(request, link=f"{request.base_url}invite/{token}", made_for=found.email)


@router.post("/accounts/sessions/{session}/end", openapi_extra=form_body())
def end_session(request: Request, user: Admin, session: str, form: Posted) -> Response:
    request.app.state.accounts.revoke_session(session, user.id)
    return go("/accounts")


@router.get("/trail")
def trail(request: Request, user: Admin, before: Annotated[int | None, Query(ge=0, lt=2**31)] = None) -> Response:
    lines = request.app.state.accounts.trail(200, before)
    people = {person.id: person.name for person in request.app.state.accounts.users()}
    return render(request, "trail.html", lines=lines, people=Blank(people))
