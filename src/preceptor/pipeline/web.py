"""`preceptor web`: the labelling pages, and beside them, where the models can be run, the API and the playground."""

from importlib.util import find_spec
from typing import Any

from jinja2 import ChoiceLoader, FileSystemLoader

from preceptor.config import ServeConfig, WebConfig, check_settings
from preceptor.labelling import pages
from preceptor.labelling.access import posted, signed_in
from preceptor.labelling.serve import serve
from preceptor.store import Workspace


def serve_web(workspace: Workspace, config: WebConfig) -> None:
    """Serve until interrupted. Without the extra [train] there are the pages only, and one line says so."""
    if find_spec("torch") is None or find_spec("transformers") is None:
        print("Labelling pages only: models need more, pip install 'preceptor[train]'.", flush=True)
        serve(workspace, config)
        return
    serve(workspace, config, extend=lambda app: add_models(app, workspace))


def add_models(app: Any, workspace: Workspace) -> None:
    """The OpenAI-compatible API and the playground on one set of loaded models."""
    from preceptor.serving.api import Service, openai_router
    from preceptor.serving.playground import TEMPLATES, playground_router

    table = check_settings(workspace.settings, str(workspace.root / "preceptor.toml")).get("serve", {})
    service = Service(workspace, ServeConfig(**table))
    app.include_router(openai_router(workspace, service=service))
    app.include_router(playground_router(service, current_user=signed_in, posted=posted, render=pages.render))
    app.state.more_navigation.append(("Playground", "/playground"))
    assert pages.ENV.loader is not None
    pages.ENV.loader = ChoiceLoader([pages.ENV.loader, FileSystemLoader(TEMPLATES)])
