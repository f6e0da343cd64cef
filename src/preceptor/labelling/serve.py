"""The labelling pages as `preceptor web` starts them."""

from collections.abc import Callable

from fastapi import FastAPI

from preceptor.config import WebConfig
from preceptor.labelling.app import create_app
from preceptor.labelling.guard import LOOPBACK
from preceptor.store import Workspace

LINK_SECONDS = 86400.0


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


def greet(app: FastAPI, workspace: Workspace, host: str, port: int) -> None:
    """Say where the server is, and how the first account is made while the workspace has no admin."""
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{port}"
    print(f"Preceptor serves {workspace.root} at {address}", flush=True)
    if host not in LOOPBACK and app.state.gate.secure:
        print("Signing in needs HTTPS: put a proxy with TLS in front of this address.", flush=True)
    if link := admin_link(app, address):
        print(f"No admin yet. Make the first account here, once, within a day: {link}", flush=True)


def admin_link(app: FastAPI, address: str) -> str | None:
    """A link that makes the first admin's account, or none where there is one. Older such links stop working."""
    accounts = app.state.accounts
    if accounts.has_admin():
        return None
    for invite in accounts.invites():
        if invite["made_by"] == "preceptor":
            accounts.revoke_invite(invite["id"], "preceptor")
    return f"{address}/invite/{accounts.invite('preceptor', role='admin', seconds=LINK_SECONDS)}"
