"""`preceptor serve`: run the API, or any app of ours, until a signal, then finish what was begun."""

import signal
import socket
import sys
from contextlib import suppress

import uvicorn
from fastapi import FastAPI

from preceptor.config import ServeConfig
from preceptor.errors import UserError
from preceptor.store import Workspace

# Seconds after which a thread that works lets another one run. At Python's 5 ms, the event loop waits longer for the
# threads that tokenise and read the store than its own work takes.
SWITCH = 0.0005
# an idle connection lives longer than the pause between two submissions, and than the 60 s of common proxies: closed
# earlier, it may close just as a form is on its way
KEEP_ALIVE_SECONDS = 75


def serve(workspace: Workspace, config: ServeConfig | None = None) -> None:
    """Serve the workspace's models. Returns after SIGTERM or Ctrl-C, when running answers are finished.

    Raises UserError where the address cannot be used.
    """
    from preceptor.serving.app import create_app

    config = config or ServeConfig()
    app = create_app(workspace, config)
    with listen(config.host, config.port) as listener:
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        print(f"Preceptor serves on http://{shown}:{port} (Ctrl-C stops it)", flush=True)
        if config.host not in ("127.0.0.1", "localhost", "::1"):
            print("Others can reach this address, and it is not encrypted: put a proxy with TLS before it.", flush=True)
        run(app, listener, config.drain_seconds)


def run(app: FastAPI, listener: socket.socket, drain_seconds: int) -> None:
    """Serve any app of ours, the labelling pages too, until a signal; running requests get `drain_seconds` then."""
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=drain_seconds,
        )
    )
    sys.setswitchinterval(SWITCH)
    # uvicorn drains at SIGTERM, then sends the signal again to whoever handled it before: that shall not kill us.
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with suppress(KeyboardInterrupt):
            server.run(sockets=[listener])
    finally:
        signal.signal(signal.SIGTERM, before)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises UserError where the address is taken or not ours."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"cannot listen on {host} port {port}: {reason}; choose another with --port") from error
