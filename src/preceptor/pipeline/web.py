"""`preceptor web`: the labelling pages, and beside them, where the models can be run, the API and the playground."""

import logging
import sys
from importlib.util import find_spec
from typing import Any

from jinja2 import ChoiceLoader, FileSystemLoader

from preceptor.config import ServeConfig, WebConfig, check_settings
from preceptor.labelling import pages
from preceptor.labelling.access import posted, signed_in
from preceptor.labelling.erasure import delete_user
from preceptor.labelling.serve import build, greet
from preceptor.serving.serve import listen, run
from preceptor.store import Workspace


def serve_web(workspace: Workspace, config: WebConfig, *, models: bool = True) -> None:
    """Serve until interrupted, then finish what was begun.

    Without `models`, or without the extra [train], there are the pages only. Raises UserError where the port is taken
    or the address is not this machine's.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    table = check_settings(workspace.settings, str(workspace.root / "preceptor.toml")).get("serve", {})
    serving = ServeConfig(**table)
    if models and (find_spec("torch") is None or find_spec("transformers") is None):
        print("Labelling pages only: models need more, pip install 'preceptor[train]'.", flush=True)
        models = False
    app = build(workspace, config, extend=(lambda app: add_models(app, workspace, serving)) if models else None)
    with listen(config.host, config.port) as listener:
        greet(app, workspace, config.host, listener.getsockname()[1])
        run(app, listener, serving.drain_seconds)


def add_models(app: Any, workspace: Workspace, config: ServeConfig) -> None:
    """The OpenAI-compatible API and the playground on one set of loaded models."""
    from preceptor.serving.api import Service, openai_router
    from preceptor.serving.playground import TEMPLATES, playground_router

    service = Service(workspace, config)
    app.include_router(openai_router(workspace, service=service))

    def forget(user_id: str) -> None:
        delete_user(workspace, user_id, user_id)

    app.include_router(
        playground_router(service, current_user=signed_in, posted=posted, render=pages.render, forget=forget)
    )
    app.state.more_navigation.append(("Playground", "/playground"))
    assert pages.ENV.loader is not None
    pages.ENV.loader = ChoiceLoader([pages.ENV.loader, FileSystemLoader(TEMPLATES)])
