"""The doors: sign in and out, accept an invitation, and /health."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from preceptor.labelling.access import PASSWORD_CHARACTERS, Labeler, Posted, form_body, gate_of, visitor
from preceptor.labelling.forms import Problem
from preceptor.labelling.pages import go, render
from preceptor.labelling.questions import SUBJECTS
from preceptor.store.accounts import User, normal_email

router = APIRouter()


@router.get("/health")
def health(request: Request) -> Response:
    """Ready when the database answers."""
    if trouble := request.app.state.accounts.trouble():
        return JSONResponse({"status": "the database does not answer", "error": trouble}, 503)
    return JSONResponse({"status": "ok"})


@router.get("/")
def front(user: Annotated[User | None, Depends(visitor)]) -> Response:
    if user is None:
        return go("/sign-in")
    return go("/round" if user.researches else "/home")


@router.get("/sign-in")
def sign_in_page(request: Request) -> Response:
    if visitor(request) is not None:
        return go("/")
    return render(request, "sign-in.html", email="", failed=None)


@router.post("/sign-in", openapi_extra=form_body(email=str, password=str))
def sign_in(request: Request, form: Posted) -> Response:
    gate, accounts = gate_of(request), request.app.state.accounts
    email, password = normal_email(form.get("email"))[:320], form.get("password")[: PASSWORD_CHARACTERS[1]]
    address = request.client.host if request.client else ""
    if gate.tries_left(email, address) <= 0:
        failed = f"There were too many tries. Wait {gate.pause_minutes} minutes, then try again."
        return render(request, "sign-in.html", 429, email=email, failed=failed)
    user = accounts.user_by_email(email)
    if not gate.verify(user, password):
        gate.count_failure(email, address)
        left = gate.tries_left(email, address)
        failed = "That e-mail and password do not match. "
        failed += (
            f"You have {left} {'try' if left == 1 else 'tries'} left before a pause of {gate.pause_minutes} minutes."
            if left
            else f"That was the last try; wait {gate.pause_minutes} minutes."
        )
        return render(request, "sign-in.html", 401, email=email, failed=failed)
    gate.forget_failures(email)
    response = go("/")
    gate.set_session(response, accounts.open_session(user.id, request.headers.get("user-agent", "")))
    return response


@router.post("/sign-out", openapi_extra=form_body())
def sign_out(request: Request, user: Labeler, form: Posted) -> Response:
    request.app.state.accounts.revoke_session(request.state.session_id, user.id, user.id)
    response = go("/sign-in")
    gate_of(request).drop_session(response)
    return response


@router.get("/invite/{link}")
def invite_page(request: Request, link: str) -> Response:
    invite = request.app.state.accounts.find_invite(link)
    if invite is None:
        return _dead_link(request)
    return _invite(request, invite, link, [], {"email": invite["email"]})


@router.post(
    "/invite/{link}",
    openapi_extra=form_body(name=str, email=str, password=str, agree=str, avoid={"type": "array", "items": {}}),
)
def accept(request: Request, link: str, form: Posted) -> Response:
    gate, accounts = gate_of(request), request.app.state.accounts
    invite = accounts.find_invite(link)
    if invite is None:
        return _dead_link(request)
    new = invite["user_id"] is None
    problems = _account_problems(form, new)
    if problems:
        return _invite(request, invite, link, problems, form.fields, 422)
    if new:
        subjects = [name for name in form.several("avoid") if name in SUBJECTS]
        user = accounts.accept(
            link,
            name=form.get("name").strip()[:60],
            email=form.get("email")[:320],
            password_hash=gate.hash(form.get("password")),
            settings={"avoid": subjects},
        )
        if user == "email":
            text = "There is an account with this e-mail already. Sign in with it, or ask for a link to a new password."
            return _invite(request, invite, link, [Problem("email", "E-mail", text)], form.fields, 409)
    else:
        user = accounts.accept_password(link, gate.hash(form.get("password")))
    if user in (None, "used"):
        return _dead_link(request)
    response = go("/")
    gate.set_session(response, accounts.open_session(user.id, request.headers.get("user-agent", "")))
    return response


def _account_problems(form: Posted, new: bool) -> list[Problem]:
    shortest, longest = PASSWORD_CHARACTERS
    problems = []
    if new and not form.get("name").strip():
        problems.append(Problem("name", "Your name", "Write the name people here know you by."))
    if new and not ("@" in form.get("email") and len(form.get("email")) <= 320):
        problems.append(Problem("email", "E-mail", "Write an e-mail address, such as amara@example.org."))
    if not shortest <= len(form.get("password")) <= longest:
        text = f"A password has {shortest} to {longest:,} characters. A sentence is fine."
        problems.append(Problem("password", "Password", text))
    if new and form.get("agree") != "yes":
        problems.append(Problem("agree", "Agreement", "Tick this to make the account."))
    return problems


def _invite(request: Request, invite, link: str, problems, fields, status: int = 200) -> Response:
    round_ = invite["screening_id"] and request.app.state.screenings.screening(invite["screening_id"])
    inviter = request.app.state.accounts.user(invite["made_by"])
    return render(
        request,
        "invite.html",
        status,
        invite=invite,
        link=link,
        inviter=inviter.name if inviter else None,
        screening=round_,
        trial_items=request.app.state.screenings.size(invite["screening_id"]) if round_ else 0,
        problems=problems,
        fields=fields,
    )


def _dead_link(request: Request) -> Response:
    text = "It was used already, taken back, or is too old. Ask whoever sent it for a new one."
    return render(request, "message.html", 410, title="This link is no longer good.", text=text, link=("/", "Sign in"))
