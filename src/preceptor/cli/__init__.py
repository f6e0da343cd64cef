"""The command line: a name -> the function that does it, imported when it runs. Nothing heavy is imported here."""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from cyclopts.config import Dict

from preceptor import __version__
from preceptor.config import check_settings
from preceptor.store.folder import SETTINGS, find_root, read_settings

Where = Annotated[
    Path | None,
    Parameter(name="--workspace", help="Folder of the workspace; by default the one you are in."),
]
AsJson = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON instead of a table.")]
Format = Annotated[
    str | None, Parameter(help="Name of the format; detected from the first rows when absent. See docs/intake.md.")
]
Map = Annotated[
    list[str] | None,
    Parameter(name="--map", negative="", help="Which key of the file holds a field: field=key, repeatable."),
]


def settings(_app: App, commands: tuple[str, ...], arguments) -> None:
    """Fill what the command line left open from the command's table in `preceptor.toml`."""
    root = find_root(_workspace_argument(sys.argv[1:]))
    if root is None or not commands:
        return
    where = str(root / SETTINGS)
    table = check_settings(read_settings(root), where).get(commands[0])
    if table:
        Dict({commands[0]: table}, source=where)(_app, commands, arguments)


def _workspace_argument(words: list[str]) -> Path:
    for place, word in enumerate(words):
        if word == "--workspace" and place + 1 < len(words):
            return Path(words[place + 1])
        if word.startswith("--workspace="):
            return Path(word.removeprefix("--workspace="))
    return Path()


app = App(
    name="preceptor",
    help="From a base language model to one that follows its users' instructions, by the feedback of your own people.",
    version=__version__,
    config=settings,
    version_flags=["--version"],
)
imports = App(name="import", help="Bring prompts, demonstrations, rankings or plain text into the workspace.")
exports = App(name="export", help="Take a model or data out of the workspace.")
keys = App(name="keys", help="API keys: add, list, revoke.")
for group in (imports, exports, keys):
    app.command(group)


def open_workspace(workspace: Path | None):
    from preceptor.store import Workspace

    return Workspace(workspace) if workspace else Workspace.find()


# Each module puts its commands into `app`.
from preceptor.cli import data, people, results, stages  # noqa: E402, F401
