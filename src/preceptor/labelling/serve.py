"""Start the web server of a workspace: `preceptor web`."""

import logging
import socket
import sys
from collections.abc import Callable, Mapping
from typing import Any

import uvicorn
from fastapi import FastAPI

from preceptor.errors import UserError
from preceptor.labelling.app import create_app
from preceptor.labelling.guard import LOOPBACK
from preceptor.store import Workspace

LINK_SECONDS = 86400.0
SETTINGS = {"hosts": list, "trusted_origins": list, "secure_cookies": bool, "writes_per_minute": int}


def web_settings(workspace: Workspace) -> Mapping[str, Any]:
    """The `[web]` table of preceptor.toml. An unknown key or a wrong type is the user's mistake."""
    table = workspace.settings.get("web", {})
    for name, value in table.items():
        if name not in SETTINGS:
            raise UserError(f"preceptor.toml: [web] has no key {name!r}; known: {', '.join(SETTINGS)}")
        if not isinstance(value, SETTINGS[name]) or (SETTINGS[name] is int and value < 1):
            raise UserError(f"preceptor.toml: [web] {name} should be a {SETTINGS[name].__name__}, it is {value!r}")
    return table


def build(workspace: Workspace, host: str, extend: Callable[[FastAPI], None] | None = None) -> FastAPI:
    """The app for a server that listens on `host`; `extend` may add routers to it.

    On a loopback address only loopback names and `hosts` are answered, so that no foreign page can reach the server
    through a name of its own. On any other address the cookies are for HTTPS only, unless `secure_cookies = false`.
    """
    settings = web_settings(workspace)
    loopback = host in LOOPBACK
    hosts = set(settings.get("hosts", ()))
    app = create_app(
        workspace,
        secure_cookies=settings.get("secure_cookies", not loopback),
        hosts=(LOOPBACK | hosts) if loopback else hosts,
        trusted_origins=settings.get("trusted_origins", ()),
        writes_per_minute=settings.get("writes_per_minute", 240),
    )
    if extend is not None:
        extend(app)
    return app


def serve(
    workspace: Workspace,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    extend: Callable[[FastAPI], None] | None = None,
) -> None:
    """Serve until interrupted. Prints a one-time admin link while the workspace has no admin.

    Raises UserError where the port is taken or the address is not this machine's.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    app = build(workspace, host, extend)
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise UserError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; choose --port or --host"
        ) from error
    with listener:
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{listener.getsockname()[1]}"
        print(f"Preceptor serves {workspace.root} at {address}", flush=True)
        if host not in LOOPBACK and app.state.gate.secure:
            print("Signing in needs HTTPS: put a proxy with TLS in front of this address.", flush=True)
        if link := admin_link(app, address):
            print(f"No admin yet. Make the first account here, once, within a day: {link}", flush=True)
        config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False)
        uvicorn.Server(config).run(sockets=[listener])


def admin_link(app: FastAPI, address: str) -> str | None:
    """A link that makes the first admin's account, or none where there is one. Older such links stop working."""
    accounts = app.state.accounts
    if accounts.has_admin():
        return None
    for invite in accounts.invites():
        if invite["made_by"] == "preceptor":
            accounts.revoke_invite(invite["id"], "preceptor")
    return f"{address}/invite/{accounts.invite('preceptor', role='admin', seconds=LINK_SECONDS)}"
