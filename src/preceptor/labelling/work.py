"""The pages where the work is done: rate, rank, compare, judge toxicity, red-team, write demonstrations and prompts."""

from collections.abc import Mapping

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from preceptor.errors import UserError
from preceptor.labelling import forms
from preceptor.labelling.access import Form, Labeler, Posted, form_body
from preceptor.labelling.forms import LETTERS, Problem
from preceptor.labelling.home import take
from preceptor.labelling.pages import fragment, go, render
from preceptor.labelling.questions import KIND_NAMES, REASONS
from preceptor.labelling.records import rows_of
from preceptor.store.accounts import User, new_id
from preceptor.store.labelling import Assignment, Draft, Submitted

router = APIRouter(prefix="/work/{item}")

PREFIXES = {
    "demonstration": ("answer", "sources", "note"),
    "compare": ("verdict", "note"),
    "prompt": ("source", "text", "use_case", "query", "reply"),
    "toxicity": ("prompt", *LETTERS),
    "red-team": ("attack", *LETTERS),
}


def load(request: Request, item: str, user: User) -> Assignment:
    return request.app.state.labelling.assignment(item, user.labeler_id)


def draft_of(request: Request, found: Assignment, tab: str = "") -> Draft:
    """The draft, on top of what was submitted before where this is a second version."""
    return request.app.state.labelling.draft_on_top(found.id, tab)


def letters(found: Assignment) -> str:
    return LETTERS[: len(found.completions)]


def first_open(found: Assignment, fields: Mapping[str, str]) -> str:
    """The page of the first answer that is not rated yet, or `rank`."""
    for letter in letters(found):
        if not forms.rated(fields, letter):
            return f"rate/{letter}"
    return "rank"


@router.get("")
def item_page(request: Request, user: Labeler, item: str, note: str = "") -> Response:
    found = load(request, item, user)
    if found.state in ("skipped", "reported"):
        return go("/history")
    if found.queue.kind == "rank":
        fields = draft_of(request, found).fields
        return go(f"/work/{item}/{first_open(found, fields)}")
    return task_page(request, user, found, note=note)


@router.get("/rate/{letter}")
def rate_page(request: Request, user: Labeler, item: str, letter: str) -> Response:
    found = load(request, item, user)
    if found.queue.kind != "rank" or letter not in letters(found):
        raise LookupError(letter)
    draft = draft_of(request, found)
    ahead = first_open(found, draft.fields)
    if ahead != "rank" and letter > ahead[-1]:
        return go(f"/work/{item}/{ahead}")
    return task_page(request, user, found, page=f"rate/{letter}")


@router.get("/rank")
def rank_page(request: Request, user: Labeler, item: str, view: str = "") -> Response:
    found = load(request, item, user)
    if found.queue.kind != "rank":
        raise LookupError("rank")
    ahead = first_open(found, draft_of(request, found).fields)
    if ahead != "rank":
        return go(f"/work/{item}/{ahead}")
    return task_page(request, user, found, page="rank", view=view)


def task_page(
    request: Request,
    user: User,
    found: Assignment,
    *,
    page: str = "",
    status: int = 200,
    problems: list[Problem] = (),
    fields: Mapping[str, str] | None = None,
    note: str = "",
    view: str = "",
) -> Response:
    draft = draft_of(request, found)
    page = page or found.queue.kind
    name, _, letter = page.partition("/")
    rubric = request.app.state.oversight.rubric(found.queue.rubric)
    now = request.app.state.accounts.now()
    lapsed = found.state == "held" and (found.expires_at <= now or found.task_state != "open")
    return render(
        request,
        f"{name}.html",
        status,
        found=found,
        item=found.id,
        page_name=page,
        letter=letter,
        letters=letters(found),
        fields=draft.fields if fields is None else fields,
        draft=draft,
        problems=problems,
        tab=new_id("tab"),
        rubric=rubric,
        kind_name=KIND_NAMES[found.queue.kind][0],
        ahead=first_open(found, draft.fields) if found.queue.kind == "rank" else "",
        lapsed=lapsed,
        note=note,
        view=view if view in ("side", "stacked") else user.settings.get("view", "side"),
        pairs=range(1, forms.MAX_PAIRS + 1),
    )


# -- drafts -------------------------------------------------------------------------------------------------


def prefixes(found: Assignment, page: str) -> tuple[str, ...]:
    """The fields that a page of this item may save."""
    if found.queue.kind != "rank":
        return PREFIXES[found.queue.kind]
    if page == "rank":
        return tuple(f"{letter}.rank" for letter in letters(found))
    letter = page.removeprefix("rate/")
    if letter not in letters(found):
        raise LookupError(page)
    return (letter,)


def save(request: Request, found: Assignment, page: str, form: Form, late: bool = False) -> Draft:
    return request.app.state.labelling.save_draft(
        found.id,
        found.labeler_id,
        page=page,
        tab=form.get("tab")[:40],
        revision=forms.whole_number(form.get("revision"), 0, 9999) or 0,
        fields=forms.of_page(form.fields, prefixes(found, page)),
        spent=spent(form),
        sequence=forms.whole_number(form.get("sequence"), 0, 9999) or 0,
        late=late,
    )


def spent(form: Form) -> float | None:
    """Seconds of active work since the last save, as the page counted them; none where it cannot count."""
    try:
        value = float(form.get("spent")[:12])
    except ValueError:
        return None
    return value if 0 <= value < 1e6 else None


@router.post("/draft/{page:path}", openapi_extra=form_body(tab=str, revision=str, spent=str))
def save_draft(request: Request, user: Labeler, item: str, page: str, form: Posted) -> Response:
    """Autosave. htmx gets the saved state as HTML; others get JSON."""
    draft = save(request, load(request, item, user), page, form, late=True)
    if request.headers.get("hx-request"):
        return fragment("saved.html", draft=draft, item=item, page_name=page, tab=form.get("tab")[:40], fresh=True)
    return JSONResponse({"revision": draft.revision, "saved_at": draft.saved_at, "rival": draft.rival})


# -- submitting ---------------------------------------------------------------------------------------------


@router.post(
    "/rate/{letter}", openapi_extra=form_body(tab=str, revision=str, key=str, rest={"enum": ["no"], "type": "string"})
)
def rate(request: Request, user: Labeler, item: str, letter: str, form: Posted) -> Response:
    """Save the rating of one answer and go on to the next. Ratings are submitted together with the ranking."""
    found = load(request, item, user)
    if found.queue.kind != "rank" or letter not in letters(found):
        raise LookupError(letter)
    if form.get("rest") == "no":
        save(request, found, f"rate/{letter}", Form(_no_to_the_rest(form.fields, letter), form.lists))
        return go(f"/work/{item}/rate/{letter}#note")
    save(request, found, f"rate/{letter}", form)
    problems = forms.rating(form.fields, letter)[2]
    if problems:
        fields = forms.of_page(form.fields, (letter,))
        return task_page(
            request,
            user,
            found,
            page=f"rate/{letter}",
            status=422,
            problems=problems,
            fields=fields,
        )
    place = letters(found).index(letter) + 1
    following = f"rate/{letters(found)[place]}" if place < len(letters(found)) else "rank"
    return go(f"/work/{item}/{following}")


def _no_to_the_rest(given: Mapping[str, str], letter: str) -> dict[str, str]:
    """Every flag of this answer that has no answer yet is No; the question on limits is left alone."""
    fields = dict(given)
    for flag in forms.FLAGS:
        if flag != "satisfies_constraint" and fields.get(f"{letter}.{flag}") not in ("yes", "no"):
            fields[f"{letter}.{flag}"] = "no"
    return fields


@router.post("/rank", openapi_extra=form_body(tab=str, revision=str, key=str, version=str))
def rank(request: Request, user: Labeler, item: str, form: Posted) -> Response:
    found = load(request, item, user)
    if found.queue.kind != "rank":
        raise LookupError("rank")
    page = prefixes(found, "rank")  # a rank that was taken away on the page is not fetched from the draft
    rest = {name: value for name, value in draft_of(request, found, form.get("tab")).fields.items() if name not in page}
    fields = rest | forms.of_page(form.fields, page)
    unrated = [letter for letter in letters(found) if not forms.rated(fields, letter)]
    if unrated and not request.app.state.labelling.by_key(found.id, form.get("key")):
        save(request, found, "rank", form)
        return go(f"/work/{item}/rate/{unrated[0]}")
    _, problems = forms.ranks(fields, len(found.completions))
    return _submit(request, user, found, form, "rank", fields, problems)


@router.post("", openapi_extra=form_body(tab=str, revision=str, key=str, version=str, answer=str, action=str))
def submit(request: Request, user: Labeler, item: str, form: Posted) -> Response:
    found = load(request, item, user)
    kind = found.queue.kind
    if kind == "rank":
        raise LookupError(kind)
    fields = forms.of_page(form.fields, PREFIXES[kind])
    if form.get("action") == "draft":
        save(request, found, kind, form)
        return go("/home")
    letter = form.get("rest")  # the answer whose list of flags is closed with No
    if kind == "red-team" and letter in tuple(letters(found)):
        save(request, found, kind, Form(_no_to_the_rest(form.fields, letter), form.lists))
        return go(f"/work/{item}#answer-{letter}")
    problems = {
        "demonstration": lambda: forms.demonstration(fields)[1],
        "compare": lambda: forms.verdict(fields)[1],
        "prompt": lambda: forms.written_prompt(fields)[1],
        "toxicity": lambda: forms.toxicity(fields, len(found.completions))[1],
        "red-team": lambda: forms.red_team(fields, len(found.completions))[1],
    }[kind]()
    problems += forms.too_long(fields)
    return _submit(request, user, found, form, kind, fields, problems)


def _submit(
    request: Request,
    user: User,
    found: Assignment,
    form: Form,
    page: str,
    fields: Mapping[str, str],
    problems: list[Problem],
) -> Response:
    labelling = request.app.state.labelling
    key = form.get("key")[:80]
    if problems:
        save(request, found, page, form)
        return task_page(request, user, found, page=page, status=422, problems=problems, fields=fields)
    if not key:
        raise UserError("This form lacks its key. Nothing was lost; reload the page and submit again.")
    base = forms.whole_number(form.get("version"), 0, 9999) or 0
    if base < found.version and not _repeated(labelling.by_key(found.id, key), fields):
        save(request, found, page, form)
        raise UserError(
            "This item was submitted meanwhile, from another tab or from this page before you went back to it. Nothing "
            "was overwritten, and what you had here is kept as a draft: open the item under My history to see both."
        )
    done = labelling.submit(
        found.id,
        user.labeler_id,
        key=key,
        kind=found.queue.kind,
        body={"fields": dict(fields), "tab": form.get("tab")[:40]},
        rows=rows_of(found, user.labeler_id, fields),
        rubric=found.queue.rubric,
        spent=spent(form),
    )
    if request.headers.get("accept") == "application/json":
        return JSONResponse({"id": done.id, "version": done.version, "fresh": done.fresh})
    if done.version > 1:
        return go("/history?note=changed")
    if found.queue.kind != "prompt" and form.get("then") == "next":
        following = take(request, user, found.queue.kind, found.queue.id)
        if following:
            return go(f"/work/{following}")
    return go("/home?note=second" if done.second else "/home?note=submitted")


def _repeated(known: Submitted | None, fields: Mapping[str, str]) -> bool:
    """Whether this is the same form once more. A page that was gone back to has the old key, and may say new things."""
    return known is not None and known.stands and known.body["fields"] == dict(fields)


# -- setting aside ------------------------------------------------------------------------------------------


@router.get("/{way}")
def aside_page(request: Request, user: Labeler, item: str, way: str) -> Response:
    if way not in ("skip", "report"):
        raise LookupError(way)
    return _aside(request, user, load(request, item, user), way)


@router.post("/{way}", openapi_extra=form_body(reason={"enum": list(REASONS), "type": "string"}, text=str, key=str))
def aside(request: Request, user: Labeler, item: str, way: str, form: Posted) -> Response:
    if way not in ("skip", "report"):
        raise LookupError(way)
    found = load(request, item, user)
    reason, text = form.get("reason"), form.get("text").strip()[: forms.MAX_NOTE]
    problems = []
    if reason not in REASONS:
        problems.append(Problem("reason", "Reason", "Choose a reason."))
    if reason == "other" and not text:
        problems.append(Problem("text", "In your words", "Say in a few words what it is."))
    if problems:
        return _aside(request, user, found, way, problems, form.fields, 422)
    key = form.get("key")[:80]
    if not key:
        raise UserError("This form lacks its key. Nothing was changed; reload the page and send it again.")
    request.app.state.labelling.set_aside(found.id, user.labeler_id, key=key, kind=way, reason=reason, text=text)
    return go("/home?note=skipped" if way == "skip" else "/home?note=reported")


def _aside(request, user, found, way, problems=(), fields=None, status=200) -> Response:
    return render(
        request, "aside.html", status, found=found, item=found.id, way=way, problems=problems, fields=fields or {}
    )
