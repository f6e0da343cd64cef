"""Start the web server of a workspace: `preceptor web`."""

import logging
import socket
import sys
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

from preceptor.config import WebConfig
from preceptor.errors import UserError
from preceptor.labelling.app import create_app
from preceptor.labelling.guard import LOOPBACK
from preceptor.store import Workspace

LINK_SECONDS = 86400.0
# an idle connection lives longer than the pause between two submissions, and than the 60 s of common proxies: closed
# earlier, it may close just as a form is on its way
KEEP_ALIVE_SECONDS = 75


def build(workspace: Workspace, config: WebConfig, extend: Callable[[FastAPI], None] | None = None) -> FastAPI:
    """The app for a server with these settings; `extend` may add routers to it.

    On a loopback address only loopback names and `hosts` are answered, so that no foreign page can reach the server
    through a name of its own. On any other address the cookies are for HTTPS only, unless `secure_cookies = false`.
    """
    loopback = config.host in LOOPBACK
    hosts = set(config.hosts)
    app = create_app(
        workspace,
        secure_cookies=(not loopback) if config.secure_cookies is None else config.secure_cookies,
        hosts=(LOOPBACK | hosts) if loopback else hosts,
        trusted_origins=config.trusted_origins,
        writes_per_minute=config.writes_per_minute,
    )
    if extend is not None:
        extend(app)
    return app


def serve(
    workspace: Workspace, config: WebConfig | None = None, *, extend: Callable[[FastAPI], None] | None = None
) -> None:
    """Serve until interrupted. Prints a one-time admin link while the workspace has no admin.

    Raises UserError where the port is taken or the address is not this machine's.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    config = config or WebConfig()
    host, port = config.host, config.port
    app = build(workspace, config, extend)
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
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, timeout_keep_alive=KEEP_ALIVE_SECONDS
        )
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
