"""API keys for researchers: made, shown once, revoked; what each may use per minute."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from preceptor.config import ServeConfig, check_settings
from preceptor.errors import UserError
from preceptor.labelling.access import Posted, Researcher, form_body
from preceptor.labelling.pages import go, render
from preceptor.store.keys import add_key, list_keys, revoke_key

router = APIRouter()
LIMITS = ("requests_per_minute", "tokens_per_minute")


@router.get("/keys")
def keys(request: Request, user: Researcher) -> Response:
    return _keys(request)


def _keys(request: Request, secret: str = "", made_for: str = "") -> Response:
    workspace = request.app.state.workspace
    table = check_settings(workspace.settings, str(workspace.root / "preceptor.toml")).get("serve", {})
    everyones = ServeConfig(**table)
    return render(
        request,
        "api-keys.html",
        keys=list_keys(workspace.store, revoked=True),
        limits={name: getattr(everyones, name) for name in LIMITS},
        secret=secret,
        made_for=made_for,
    )


@router.post("/keys", openapi_extra=form_body(name=str, requests_per_minute=str, tokens_per_minute=str))
def make(request: Request, user: Researcher, form: Posted) -> Response:
    """Make a key and show it this once."""
    state = request.app.state
    limits = {name: _number(form.get(name)) for name in LIMITS}
    key, secret = add_key(state.workspace.store, form.get("name"), **limits)
    state.accounts.note(user.id, "API key made", key.id, owner=key.name)
    return _keys(request, secret, key.name)


@router.post("/keys/{key}/revoke", openapi_extra=form_body())
def revoke(request: Request, user: Researcher, key: str, form: Posted) -> Response:
    """From the next request on it is refused."""
    state = request.app.state
    if not any(one.id == key for one in list_keys(state.workspace.store)):
        raise LookupError(key)
    revoke_key(state.workspace.store, key)
    state.accounts.note(user.id, "API key revoked", key)
    return go("/keys")


def _number(text: str) -> int | None:
    """What was typed into a field of a limit; nothing is no limit of its own."""
    if not text.strip():
        return None
    if not (text.strip().isascii() and text.strip().isdigit() and len(text.strip()) <= 9):
        raise UserError("A limit is a whole number, or empty. No key was made.")
    return int(text)
