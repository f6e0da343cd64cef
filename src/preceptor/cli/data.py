"""Commands for a workspace and its data: demo, init, import, status."""

import json
from pathlib import Path
from typing import Any, Literal

from preceptor.cli import AsJson, Format, Map, Where, app, imports, open_workspace


@app.command
def demo(*, dir: Path = Path("demo"), seed: int = 2) -> None:
    """The whole loop with simulated people, from nothing to a report: about eight minutes on two cores, no network.

    Parameters
    ----------
    dir
        Folder for the demo's workspace; a demo that was interrupted there goes on.
    seed
        Seed of the world, the people, the models and every draw.
    """
    from rich.console import Console

    from preceptor.pipeline.demo import demo as run
    from preceptor.pipeline.recipe import Recipe

    run(dir, Recipe(seed=seed), Console())


@app.command
def init(directory: Path, /, *, base: str = "tiny") -> None:
    """Make a workspace.

    Parameters
    ----------
    directory
        Folder to make.
    base
        Base model: a local folder, a hub name, or `tiny` for a small one that `preceptor pretrain` makes.
    """
    from preceptor.pipeline.workspace import make_workspace

    print(make_workspace(directory, base))


def _report(report: Any, as_json: bool) -> None:
    print(json.dumps(report.to_json(), indent=1) if as_json else "\n".join(report.lines()))


def _fields(pairs: list[str] | None) -> dict[str, str] | None:
    from preceptor.errors import UserError

    for pair in pairs or []:
        if "=" not in pair:
            raise UserError(f"--map {pair} is not field=key; for instance --map text=instruction")
    return dict(pair.split("=", 1) for pair in pairs) if pairs else None


@imports.command(name="prompts")
def import_prompts(
    *files: Path,
    format: Format = None,
    map: Map = None,
    user: str | None = None,
    source: Literal["customer", "plain", "few-shot", "user-based"] = "customer",
    language: list[str] | None = None,
    hold_personal_data: bool = False,
    workspace: Where = None,
    as_json: AsJson = False,
) -> None:
    """Import prompts. What is too long, or over its user's cap, waits in the labelling pages under Set aside.

    Parameters
    ----------
    files
        JSONL, JSON, CSV or text, plain or compressed (gz, zst).
    user
        User id for rows that name none.
    source
        Who wrote the prompts.
    language
        Set aside prompts that seem to be in another language than these (codes such as en; repeat for more).
    hold_personal_data
        Set aside prompts with personal data too. They are masked in training text in any case.
    """
    from preceptor.intake.importing import import_prompts as run

    report = run(
        open_workspace(workspace),
        files,
        format=format,
        map=_fields(map),
        user=user,
        source=source,
        languages=language or (),
        hold_personal_data=hold_personal_data,
    )
    _report(report, as_json)


@imports.command(name="demonstrations")
def import_demonstrations(
    *files: Path,
    format: Format = None,
    map: Map = None,
    user: str | None = None,
    workspace: Where = None,
    as_json: AsJson = False,
) -> None:
    """Import demonstrations: prompts with an ideal answer each.

    Parameters
    ----------
    files
        JSONL, JSON, CSV or text, plain or compressed (gz, zst).
    user
        User id for rows that name none.
    """
    from preceptor.intake.importing import import_demonstrations as run

    _report(run(open_workspace(workspace), files, format=format, map=_fields(map), user=user), as_json)


@imports.command(name="rankings")
def import_rankings(
    *files: Path,
    format: Format = None,
    map: Map = None,
    user: str | None = None,
    workspace: Where = None,
    as_json: AsJson = False,
) -> None:
    """Import rankings and preferences: K answers to a prompt with an order over them, ties allowed.

    Parameters
    ----------
    files
        JSONL, JSON, CSV or text, plain or compressed (gz, zst).
    user
        User id for rows that name none.
    """
    from preceptor.intake.importing import import_rankings as run

    _report(run(open_workspace(workspace), files, format=format, map=_fields(map), user=user), as_json)


@imports.command(name="events")
def import_events(*files: Path, workspace: Where = None) -> None:
    """Import the raw record of another workspace: every submission, and the ratings and rankings that stand.

    Parameters
    ----------
    files
        What `preceptor export events`, or the export page, wrote. Import its prompts and rankings first.
    """
    from preceptor.labelling.events import import_events as run

    added = run(open_workspace(workspace), files)
    print(f"{added.new:,} events taken, {added.known:,} known already")


@imports.command(name="corpus")
def import_corpus(
    *files: Path, name: str | None = None, map: Map = None, workspace: Where = None, as_json: AsJson = False
) -> None:
    """Import plain text for pretraining.

    Parameters
    ----------
    files
        Text, or books and documents as JSONL; plain or compressed (gz, zst).
    name
        Name of the corpus; by default the file's or its folder's.
    """
    from preceptor.intake.corpus import import_corpus as run

    _report(run(open_workspace(workspace), files, name=name, map=_fields(map)), as_json)


@app.command
def status(*, workspace: Where = None, as_json: AsJson = False) -> None:
    """What the workspace holds, and what to do next."""
    from preceptor.pipeline.workspace import status_lines, status_of

    found = status_of(open_workspace(workspace))
    print(json.dumps(found, indent=1) if as_json else "\n".join(status_lines(found)))
