"""A labeler's own pages: what is next, what was done, settings."""

from datetime import datetime, timedelta

from fastapi import APIRouter, Request
from fastapi.responses import Response

from preceptor.errors import UserError
from preceptor.labelling import figures
from preceptor.labelling.access import PASSWORD_CHARACTERS, Labeler, Posted, form_body, gate_of
from preceptor.labelling.pages import go, local, render
from preceptor.labelling.questions import KIND_NAMES, SUBJECTS
from preceptor.store.accounts import User
from preceptor.store.queues import KINDS

router = APIRouter()


@router.get("/home")
def home(request: Request, user: Labeler, note: str = "") -> Response:
    labelling, queues = request.app.state.labelling, request.app.state.queues
    now = request.app.state.accounts.now()
    trial = user.state == "trial"
    open_queues = queues.open_to(user.labeler_id, cohort=user.cohort, trial=trial)
    in_hand = labelling.in_hand(user.labeler_id)
    today = datetime.fromtimestamp(now).astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
    monday = today - timedelta(days=today.weekday())
    month = labelling.days(user.labeler_id, (monday - timedelta(days=28)).timestamp())
    counted = [row for row in month if row[2] not in ("skip", "report")]
    week = [row for row in counted if row[0] >= monday.timestamp()]
    per_day = [sum(local(at).weekday() == day for at, _, _ in week) for day in range(7)]
    return render(
        request,
        "home.html",
        note=note if note in ("none", "submitted", "second", "skipped", "reported", "back") else "",
        today=today,
        kinds=_kinds(open_queues, counted),
        in_hand=in_hand,
        lately=labelling.history(user.labeler_id, limit=6),
        week=week,
        week_figure=figures.week(per_day, today.weekday()),
        trial=request.app.state.screenings.rounds_of(user.labeler_id) if trial else [],
        rubric=_newest_rubric(request, now),
        names=KIND_NAMES,
    )


def _kinds(open_queues, done) -> list[dict]:
    """One line for each kind of work that some open queue has: what waits, how long it usually takes this labeler."""
    lines = []
    for kind in KINDS:
        mine = [queue for queue in open_queues if queue["kind"] == kind]
        if mine:
            times = sorted(seconds for _, seconds, of in done if of == kind)
            lines.append(
                {
                    "kind": kind,
                    "waiting": None if kind == "prompt" else sum(queue["waiting"] for queue in mine),
                    "usual": times[len(times) // 2] if times else None,
                    "rubrics": sorted({queue["rubric"] for queue in mine}),
                }
            )
    return lines


def _newest_rubric(request: Request, now: float):
    """The newest guide, if it changed in the last week."""
    notes = request.app.state.oversight.rubric_notes()
    recent = [note for note in notes if note["version"] > 1 and now - note["at"] < 7 * 86400]
    return recent[0] if recent else None


@router.post("/work/start/{kind}", openapi_extra=form_body(queue=str))
def start(request: Request, user: Labeler, kind: str, form: Posted) -> Response:
    if kind not in KINDS:
        raise LookupError(kind)
    found = take(request, user, kind, form.get("queue"))
    return go(f"/work/{found}" if found else "/home?note=none")


def take(request: Request, user: User, kind: str, queue: str = "") -> str | None:
    return request.app.state.queues.take(
        user.labeler_id,
        kind,
        cohort=user.cohort,
        trial=user.state == "trial",
        avoid=user.settings.get("avoid", ()),
        queue_id=queue,
    )


@router.get("/history")
def history(request: Request, user: Labeler, before: float | None = None) -> Response:
    rows = request.app.state.labelling.history(user.labeler_id, limit=50, before=before)
    return render(request, "history.html", rows=rows, names=KIND_NAMES)


@router.post("/history/{submission}/take-back", openapi_extra=form_body())
def take_back(request: Request, user: Labeler, submission: str, form: Posted) -> Response:
    return go(f"/work/{request.app.state.labelling.take_back(submission, user.labeler_id)}?note=back")


@router.get("/settings")
def settings(request: Request, user: Labeler, note: str = "") -> Response:
    sessions = request.app.state.accounts.sessions(user.id)
    return render(
        request, "settings.html", note=note, sessions=sessions, current=request.state.session_id, subjects=SUBJECTS
    )


@router.post("/settings", openapi_extra=form_body(theme=str, keys=str, view=str))
def save_settings(request: Request, user: Labeler, form: Posted) -> Response:
    chosen = {
        "theme": form.get("theme") if form.get("theme") in ("light", "dark") else "",
        "keys": "off" if form.get("keys") == "off" else "on",
        "view": "stacked" if form.get("view") == "stacked" else "side",
        "avoid": [name for name in form.several("avoid") if name in SUBJECTS],
    }
    request.app.state.accounts.set_settings(user.id, dict(user.settings) | chosen)
    return go("/settings?note=saved")


@router.post("/settings/password", openapi_extra=form_body(old=str, new=str))
def change_password(request: Request, user: Labeler, form: Posted) -> Response:
    gate = gate_of(request)
    address = request.client.host if request.client else ""
    shortest, longest = PASSWORD_CHARACTERS
    if gate.tries_left(user.email, address) <= 0:
        raise UserError(f"There were too many tries. Wait {gate.pause_minutes} minutes, then try again.")
    if not gate.verify(user, form.get("old")[:longest]):
        gate.count_failure(user.email, address)
        raise UserError("The present password is not right. Nothing was changed.")
    if not shortest <= len(form.get("new")) <= longest:
        raise UserError(f"The new password needs {shortest} to {longest:,} characters. Nothing was changed.")
    request.app.state.accounts.change_user(user.id, user.id, password_hash=gate.hash(form.get("new")))
    response = go("/settings?note=password")
    token = request.app.state.accounts.open_session(user.id, request.headers.get("user-agent", ""))
    gate.set_session(response, token)
    return response


@router.post("/settings/sessions/{session}/end", openapi_extra=form_body())
def end_session(request: Request, user: Labeler, session: str, form: Posted) -> Response:
    request.app.state.accounts.revoke_session(session, user.id, user.id)
    return go("/settings?note=ended")


@router.post("/trial/{screening}/topics", openapi_extra=form_body())
def topics(request: Request, user: Labeler, screening: str, form: Posted) -> Response:
    """The fourth criterion of Appendix B.1: which groups and subjects the candidate says they can judge."""
    request.app.state.screenings.set_topics(screening, user.labeler_id, form.several("topic"))
    return go("/home")
