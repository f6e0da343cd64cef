"""The web app for people: `create_app(workspace)` gives a FastAPI app that other routers can join."""

import time
from collections.abc import Callable, Collection

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.exceptions import HTTPException

from preceptor.errors import UserError
from preceptor.labelling import (
    accounts_pages,
    api_keys,
    entry,
    erasure,
    exports,
    guides,
    home,
    people,
    queue_pages,
    review,
    round_page,
    screening,
    set_aside,
    work,
)
from preceptor.labelling.access import Gate, NotAllowed, NotSignedIn, StaleForm, TooMany
from preceptor.labelling.guard import Guard
from preceptor.labelling.guides import ensure_guides
from preceptor.labelling.measures import Meter
from preceptor.labelling.pages import STATIC, STYLE, go, render, static_path
from preceptor.store import Workspace
from preceptor.store.accounts import Accounts
from preceptor.store.labelling import Labelling
from preceptor.store.oversight import Oversight
from preceptor.store.queues import Queues
from preceptor.store.rounds import Screenings

MAX_BYTES = 2_000_000
TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def create_app(
    workspace: Workspace,
    *,
    secure_cookies: bool = False,
    hosts: Collection[str] = (),
    trusted_origins: Collection[str] = (),
    max_bytes: int = MAX_BYTES,
    writes_per_minute: int = 240,
    now: Callable[[], float] = time.time,
) -> FastAPI:
    """The labelling app of a workspace.

    `secure_cookies` gives the cookies the `__Host-` prefix and the Secure mark (HTTPS only). `hosts`: names this
    server answers to, any where empty. `trusted_origins`: origins besides its own whose forms are taken, for a proxy
    that changes the host name. `max_bytes` caps each request body. `writes_per_minute` is per session. More routers
    can be added with `include_router`; `app.state.more_navigation` takes (name, path) pairs for the menu.
    """
    app = FastAPI(title="Preceptor", docs_url=None, redoc_url=None, openapi_url="/openapi.json")
    store = workspace.store
    app.state.workspace = workspace
    app.state.workspace_name = workspace.settings.get("name", workspace.root.name)
    app.state.accounts = Accounts(store, now)
    app.state.queues = Queues(store, now)
    app.state.labelling = Labelling(store, now)
    app.state.oversight = Oversight(store, now)
    app.state.screenings = Screenings(store, now)
    app.state.meter = Meter(store, app.state.oversight)
    ensure_guides(app.state.oversight)
    app.state.gate = Gate(app.state.accounts, secure=secure_cookies, writes_per_minute=writes_per_minute)
    app.state.more_navigation = []
    parts = (
        entry,
        home,
        work,
        guides,
        round_page,
        queue_pages,
        people,
        screening,
        review,
        set_aside,
        exports,
        accounts_pages,
        api_keys,
        erasure,
    )
    for part in parts:
        app.include_router(part.router)
    app.add_api_route("/static/{name}", static_file, include_in_schema=False)
    _handle_errors(app)
    app.add_middleware(Guard, max_bytes=max_bytes, hosts=hosts, trusted=trusted_origins)
    return app


def static_file(name: str) -> Response:
    path = static_path(name)
    if path.parent not in (STATIC, STYLE.parent) or path.suffix not in TYPES or not path.is_file():
        raise HTTPException(404)
    headers = {"cache-control": "public, max-age=31536000, immutable"}
    return FileResponse(path, media_type=TYPES[path.suffix], headers=headers)


def _handle_errors(app: FastAPI) -> None:
    def tell(request: Request, status: int, title: str, text: str, **more) -> Response:
        if request.url.path.startswith("/v1/"):
            error = {"message": f"{title} {text}".strip(), "type": "invalid_request_error", "param": None, "code": None}
            return JSONResponse({"error": error}, status)
        return render(request, "message.html", status, title=title, text=text, **more)

    @app.exception_handler(NotSignedIn)
    def not_signed_in(request: Request, _error: NotSignedIn) -> Response:
        if request.method == "GET" and not request.headers.get("hx-request"):
            return go("/sign-in")
        text = "Sign in again in another tab, then come back to this one and send the form once more."
        return tell(request, 401, "You are signed out.", text, link=("/sign-in", "Sign in"))

    @app.exception_handler(NotAllowed)
    def not_allowed(request: Request, _error: NotAllowed) -> Response:
        return tell(request, 403, "This page is not for you.", "Ask whoever runs this workspace if it should be.")

    @app.exception_handler(StaleForm)
    def stale(request: Request, _error: StaleForm) -> Response:
        text = (
            "Somebody else signed in here since it was opened, or your password is new. Nothing was changed. Go back, "
            "copy what you wrote, reload the page, send it again."
        )
        return tell(request, 403, "This form is out of date.", text)

    @app.exception_handler(TooMany)
    def too_many(request: Request, error: TooMany) -> Response:
        text = f"Nothing was saved by the last one. Wait {error.seconds} seconds, then send it again."
        response = tell(request, 429, "Too many requests.", text)
        response.headers["retry-after"] = str(error.seconds)
        return response

    @app.exception_handler(UserError)
    def mistaken(request: Request, error: UserError) -> Response:
        return tell(request, 409, "That did not work.", str(error))

    @app.exception_handler(LookupError)
    def unknown(request: Request, error: LookupError) -> Response:
        if isinstance(error, KeyError | IndexError):
            raise error
        return tell(request, 404, "There is no such page.", "The address is wrong, or what it named is not yours.")

    @app.exception_handler(HTTPException)
    def plain(request: Request, error: HTTPException) -> Response:
        if error.status_code == 404:
            return tell(request, 404, "There is no such page.", "The address is wrong, or what it named is not yours.")
        response = tell(request, error.status_code, "That did not work.", str(error.detail))
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> Response:
        where = ", ".join(str(item["loc"][-1]) for item in error.errors())
        return tell(request, 422, "That did not work.", f"The address or the form has a wrong value for: {where}.")
