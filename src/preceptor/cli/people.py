"""Commands for people and programs: web, serve, chat; and the plan before renting machines."""

import json
import sys
from typing import Annotated

from cyclopts import Parameter

from preceptor.cli import AsJson, Where, app, open_workspace
from preceptor.config import (
    ServeConfig,
    WebConfig,
)
from preceptor.planning.options import PlanOptions

Web = Annotated[WebConfig, Parameter(name="*")]
Serve = Annotated[ServeConfig, Parameter(name="*")]


@app.command
def web(config: Web = WebConfig(), *, workspace: Where = None) -> None:  # noqa: B008
    """Serve the labelling pages, the dashboard, the playground and the API until stopped."""
    from preceptor.pipeline.web import serve_web

    serve_web(open_workspace(workspace), config)


@app.command
def serve(config: Serve = ServeConfig(), *, workspace: Where = None) -> None:  # noqa: B008
    """Serve the workspace's models by the OpenAI API, without pages, until stopped."""
    from preceptor.serving.serve import serve as run

    run(open_workspace(workspace), config)


@app.command
def chat(
    model: str,
    /,
    *,
    system: str = "",
    temperature: float = 0.7,
    top_p: float = 1.0,
    max_new_tokens: int = 512,
    seed: int | None = None,
    workspace: Where = None,
) -> None:
    """Talk to a model in the terminal. Nothing of it is stored.

    Parameters
    ----------
    model
        Model of the workspace.
    system
        Text that stands before the conversation.
    temperature
        Sampling temperature; 0 takes the likeliest token.
    top_p
        Sample from the likeliest tokens that hold this much probability.
    max_new_tokens
        Tokens per answer at most.
    seed
        Seed of the draws; a new one when absent.
    """
    from preceptor.serving.chat import chat as run

    run(
        open_workspace(workspace),
        model,
        system=system,
        temperature=temperature,
        top_p=top_p,
        max_new_tokens=max_new_tokens,
        seed=seed,
    )


# -- before renting machines ------------------------------------------------------------------------------------


@app.command
def plan(
    options: Annotated[PlanOptions, Parameter(name="*")] = PlanOptions(),  # noqa: B008
    *,
    as_json: AsJson = False,
) -> None:
    """Predict memory and time of the stages on a cluster, from a model's config alone. No weights are loaded."""
    from preceptor.planning.plan import plan_of
    from preceptor.planning.table import plan_lines

    if options.calibrate:
        from preceptor.pipeline.calibrate import measure_machine

        path, machine = measure_machine(options.machine)
        print(f"{path}: {machine.line()}", file=sys.stderr)
        if options.preset is None and options.model is None:
            if as_json:
                print(path.read_text(), end="")
            return
    made = plan_of(options)
    print(json.dumps(made.to_json(), indent=1) if as_json else "\n".join(plan_lines(made)))
