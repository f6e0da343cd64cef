"""The command line: a name -> the function that does it, imported when it runs. Nothing heavy is imported here."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter
from cyclopts.config import Dict

from preceptor import __version__
from preceptor.config import (
    PpoConfig,
    PretrainConfig,
    RewardConfig,
    SampleConfig,
    ServeConfig,
    SftConfig,
    WebConfig,
    check_settings,
)
from preceptor.planning.options import PlanOptions
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


def _open(workspace: Path | None):
    from preceptor.store import Workspace

    return Workspace(workspace) if workspace else Workspace.find()


# -- a workspace and its data -----------------------------------------------------------------------------------


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
    workspace: Where = None,
    as_json: AsJson = False,
) -> None:
    """Import prompts.

    Parameters
    ----------
    files
        JSONL, JSON, CSV or text, plain or compressed (gz, zst).
    user
        User id for rows that name none.
    source
        Who wrote the prompts.
    """
    from preceptor.intake.importing import import_prompts as run

    _report(run(_open(workspace), files, format=format, map=_fields(map), user=user, source=source), as_json)


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

    _report(run(_open(workspace), files, format=format, map=_fields(map), user=user), as_json)


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

    _report(run(_open(workspace), files, format=format, map=_fields(map), user=user), as_json)


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

    _report(run(_open(workspace), files, name=name, map=_fields(map)), as_json)


@app.command
def status(*, workspace: Where = None, as_json: AsJson = False) -> None:
    """What the workspace holds, and what to do next."""
    from preceptor.pipeline.workspace import status_lines, status_of

    found = status_of(_open(workspace))
    print(json.dumps(found, indent=1) if as_json else "\n".join(status_lines(found)))


# -- the stages -----------------------------------------------------------------------------------------------

Pretrain = Annotated[PretrainConfig, Parameter(name="*")]
Sft = Annotated[SftConfig, Parameter(name="*")]
Sample = Annotated[SampleConfig, Parameter(name="*")]
Reward = Annotated[RewardConfig, Parameter(name="*")]
Ppo = Annotated[PpoConfig, Parameter(name="*")]


@app.command
def pretrain(config: Pretrain = PretrainConfig(), *, workspace: Where = None) -> None:  # noqa: B008
    """Train a base model from scratch on the workspace's corpora. Prints the model's folder."""
    from preceptor.training.pretrain import train_pretrain

    print(train_pretrain(_open(workspace), config))


@app.command
def sft(config: Sft = SftConfig(), *, workspace: Where = None) -> None:  # noqa: B008
    """Fine-tune a model on the labelers' demonstrations. Prints the model's folder."""
    from preceptor.training.sft import train_sft

    print(train_sft(_open(workspace), config))


@app.command
def sample(config: Sample, *, workspace: Where = None) -> None:
    """Draw K answers to each prompt into the store, for labelers to rank."""
    from preceptor.training.sample import sample as run

    added = run(_open(workspace), config)
    print(f"{added.new:,} answers added, {added.known:,} were there already")


@app.command
def reward(config: Reward = RewardConfig(), *, workspace: Where = None) -> None:  # noqa: B008
    """Train a reward model on the labelers' rankings. Prints the model's folder."""
    from preceptor.training.reward import train_reward

    print(train_reward(_open(workspace), config))


@app.command
def ppo(config: Ppo = PpoConfig(), *, workspace: Where = None) -> None:  # noqa: B008
    """Optimise a model against the reward model: PPO, or PPO-ptx with --ptx-coef. Prints the model's folder."""
    from preceptor.training.ppo import train_ppo

    print(train_ppo(_open(workspace), config))


# -- what comes of it -----------------------------------------------------------------------------------------


@app.command
def report(*, workspace: Where = None) -> None:
    """Write the workspace's report as one HTML file. Prints its path."""
    from preceptor.pipeline.workspace import write_workspace_report

    print(write_workspace_report(_open(workspace)))


@exports.command(name="model")
def export_model(name: str, directory: Path, /, *, workspace: Where = None) -> None:
    """Copy a model as a plain Hugging Face folder, for transformers, vLLM and others.

    Parameters
    ----------
    name
        Model of the workspace.
    directory
        Folder to make.
    """
    from preceptor.pipeline.workspace import export_model as run

    print(run(_open(workspace), name, directory))


@exports.command(name="data")
def export_data(
    kind: Literal["prompts", "demonstrations", "rankings"],
    file: Path,
    /,
    *,
    split: str | None = None,
    workspace: Where = None,
) -> None:
    """Write prompts, demonstrations or rankings as JSONL that `preceptor import` reads back unchanged.

    Parameters
    ----------
    kind
        What to write.
    file
        File to make.
    split
        Only prompts of this split: train, valid or test.
    """
    from preceptor.intake.export import export_own

    print(f"{export_own(_open(workspace), kind, file, split=split):,} rows in {file}")


@exports.command(name="pairs")
def export_pairs(file: Path, /, *, split: str = "train", workspace: Where = None) -> None:
    """Write the rankings' comparisons as prompt, chosen, rejected: the preference format of TRL and others.

    Parameters
    ----------
    file
        File to make.
    split
        Only prompts of this split: train, valid or test.
    """
    from preceptor.intake.export import export_pairs as run

    print(f"{run(_open(workspace), file, split=split):,} rows in {file}")


@app.command
def evaluate(
    *models: str,
    suite: Literal["quick", "paper", "all"] = "quick",
    data: Path | None = None,
    against: str | None = None,
    judge: str = "reward",
    prompts: int = 300,
    samples: int = 4,
    temperature: float = 1.0,
    max_new_tokens: int = 256,
    seed: int = 0,
    workspace: Where = None,
    as_json: AsJson = False,
) -> None:
    """Measure models: a suite of public sets with --data, or one model against another with --against.

    Parameters
    ----------
    models
        Models of the workspace.
    suite
        How much of the public sets: quick, paper or all.
    data
        Folder of the public sets; docs/evaluation.md says which files it holds.
    against
        Baseline: the win rate of each model against it on the prompts of test users.
    judge
        Reward model that judges with --against.
    prompts
        Test prompts with --against, at most.
    samples
        Answers per prompt with --against.
    temperature
        Sampling temperature with --against; 0 takes the likeliest token.
    max_new_tokens
        Tokens per answer at most, with --against.
    seed
        Seed of the draws with --against.
    """
    from rich.console import Console

    from preceptor.errors import UserError
    from preceptor.pipeline import evaluate as run

    if not models:
        raise UserError("name one or more models; preceptor status lists them")
    if data is None and against is None:
        raise UserError("say what to measure: --data FOLDER for the public sets, or --against BASELINE")
    opened, console = _open(workspace), Console(stderr=True)
    found: dict[str, Any] = {}
    if data is not None:
        results = run.evaluate_suite(opened, list(models), suite, data, console)
        found["suites"] = {name: [result.to_json() for result in rows] for name, rows in results.items()}
        if not as_json:
            Console().print(run.suite_table(results))
    for model in models if against else ():
        rate = run.evaluate_against(
            opened,
            model,
            str(against),
            judge,
            prompts=prompts,
            samples=samples,
            temperature=temperature,
            max_new_tokens=max_new_tokens,
            seed=seed,
            console=console,
        )
        found.setdefault("win_rates", []).append(
            {"model": model, "baseline": against, "judge": rate.judge, **rate.win.to_json()}
        )
        if not as_json:
            win = rate.win
            print(
                f"{model} is preferred to {against} in {win.value:.1%} ({win.low:.1%} to {win.high:.1%}, "
                f"n = {win.n:,} on {win.clusters:,} prompts), judged by the {rate.judge}"
            )
    if as_json:
        print(json.dumps(found, indent=1))


@app.command
def backup(file: Path, /, *, restore: bool = False, workspace: Where = None) -> None:
    """Copy the database to a file while everybody works, or put such a copy back.

    Parameters
    ----------
    file
        File to make; a name that ends in .jsonl.zst gives JSON lines, any other a SQLite file.
    restore
        Put the file back in place of everything in the database.
    """
    from preceptor.store.backup import back_up
    from preceptor.store.backup import restore as put_back

    store = _open(workspace).store
    if restore:
        print("\n".join(f"{rows:>9,}  {table}" for table, rows in put_back(store, file).items()))
    else:
        print(f"{back_up(store, file):,} bytes in {file}")


@keys.command(name="add")
def add_key(name: str, /, *, workspace: Where = None) -> None:
    """Make a key and print it, once.

    Parameters
    ----------
    name
        Its owner: the user id of prompts that come with consent.
    """
    from preceptor.store.keys import add_key as run

    print(run(_open(workspace).store, name)[1])


@keys.command(name="list")
def list_keys(*, workspace: Where = None, as_json: AsJson = False) -> None:
    """Keys in use: owner and first characters."""
    from dataclasses import asdict

    from preceptor.store.keys import list_keys as run

    found = run(_open(workspace).store)
    print(
        json.dumps([asdict(key) for key in found], indent=1)
        if as_json
        else "\n".join(f"{key.hint}...  {key.name}" for key in found)
    )


@keys.command(name="revoke")
def revoke_key(name: str, /, *, workspace: Where = None) -> None:
    """End a key: from the next request on it is refused.

    Parameters
    ----------
    name
        Its owner.
    """
    from preceptor.store.keys import revoke_key as run

    print(f"revoked the key of {run(_open(workspace).store, name).name}")


# -- people and programs --------------------------------------------------------------------------------------

Web = Annotated[WebConfig, Parameter(name="*")]
Serve = Annotated[ServeConfig, Parameter(name="*")]


@app.command
def web(config: Web = WebConfig(), *, workspace: Where = None) -> None:  # noqa: B008
    """Serve the labelling pages, the dashboard, the playground and the API until stopped."""
    from preceptor.pipeline.web import serve_web

    serve_web(_open(workspace), config)


@app.command
def serve(config: Serve = ServeConfig(), *, workspace: Where = None) -> None:  # noqa: B008
    """Serve the workspace's models by the OpenAI API, without pages, until stopped."""
    from preceptor.serving.serve import serve as run

    run(_open(workspace), config)


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
        _open(workspace),
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

    made = plan_of(options)
    print(json.dumps(made.to_json(), indent=1) if as_json else "\n".join(plan_lines(made)))
