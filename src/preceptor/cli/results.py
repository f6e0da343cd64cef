"""Commands for what comes of it: report, export, evaluate, backup, keys."""

import json
from pathlib import Path
from typing import Any, Literal

from preceptor.cli import AsJson, Where, app, exports, keys, open_workspace


@app.command
def report(*, workspace: Where = None) -> None:
    """Write the workspace's report as one HTML file. Prints its path."""
    from preceptor.pipeline.workspace import write_workspace_report

    print(write_workspace_report(open_workspace(workspace)))


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

    print(run(open_workspace(workspace), name, directory))


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

    print(f"{export_own(open_workspace(workspace), kind, file, split=split):,} rows in {file}")


@exports.command(name="events")
def export_events(file: Path, /, *, workspace: Where = None) -> None:
    """Write the raw record: every submission ever made, with the order shown, versions and undone ones too.

    Parameters
    ----------
    file
        File to make.
    """
    from preceptor.labelling.events import export_events as run

    print(f"{run(open_workspace(workspace), file):,} events in {file}")


@exports.command(name="verdicts")
def export_verdicts(file: Path, /, *, workspace: Where = None) -> None:
    """Write what people said answers to attacks did: complied, refused or undetermined, with flags and severity.

    Parameters
    ----------
    file
        File to make: JSON lines, one answer each, as `preceptor evaluate --verdicts` reads them.
    """
    from preceptor.labelling.records import verdicts
    from preceptor.pipeline.people import write_verdicts
    from preceptor.store.oversight import Oversight

    print(f"{write_verdicts(file, verdicts(Oversight(open_workspace(workspace).store))):,} verdicts in {file}")


@exports.command(name="pairs")
def export_pairs(file: Path, /, *, split: str = "train", workspace: Where = None) -> None:
    """Write the rankings' comparisons as prompt, chosen, rejected: the preference format of TRL and others.

    Only what a release for training takes: prompts with consent, training labelers, rubrics for training; in the
    training split without personal data.

    Parameters
    ----------
    file
        File to make.
    split
        Only prompts of this split: train, valid or test.
    """
    from preceptor.intake.export import export_pairs as run

    print(f"{run(open_workspace(workspace), file, split=split):,} rows in {file}")


@app.command
def evaluate(
    *models: str,
    suite: Literal["quick", "paper", "all"] = "quick",
    data: Path | None = None,
    toxicity: str | None = None,
    entailment: Path | None = None,
    verdicts: Path | None = None,
    against: str | None = None,
    few_shot: bool = False,
    judge: str = "reward",
    judge_url: str | None = None,
    judge_model: str | None = None,
    stand_in: list[str] | None = None,
    prompts: int = 300,
    split: Literal["test", "train"] = "test",
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
    toxicity
        FOLDER:LABEL of a toxicity classifier (safetensors) to score with, instead of our own small one.
    entailment
        Folder of an entailment model (safetensors), for hallucination.
    verdicts
        People's verdicts on refusals, to measure the judge with: JSON lines of request, answer, verdict. Those given
        on the labelling pages when absent.
    against
        Baseline: the win rate of each model against it on the prompts of held-out users.
    few_shot
        Put the baseline behind a few demonstrations, chosen by the reward model on validation prompts.
    judge
        Reward model that judges with --against.
    judge_url
        An OpenAI-compatible endpoint, up to /v1, that judges instead; its key in PRECEPTOR_JUDGE_KEY.
    judge_model
        The judge's name at --judge-url.
    stand_in
        Reward models that stand in for gold: proxy against stand-in for --against and the models, by their KL.
    prompts
        Prompts with --against, at most.
    split
        Whose prompts with --against: test, or train for the slice of training users.
    samples
        Answers per prompt with --against.
    temperature
        Sampling temperature with --against; 0 takes the likeliest token.
    max_new_tokens
        Tokens per answer at most, with --against.
    seed
        Seed of the draws with --against.
    """
    import os

    from rich.console import Console

    from preceptor.errors import UserError
    from preceptor.evaluation.judge import Endpoint, PairJudge
    from preceptor.pipeline import evaluate as run

    if not models:
        raise UserError("name one or more models; preceptor status lists them")
    if data is None and against is None:
        raise UserError("say what to measure: --data FOLDER for the public sets, or --against BASELINE")
    if (judge_url is None) != (judge_model is None):
        raise UserError("--judge-url and --judge-model go together: where the judge answers, and its name there")
    if stand_in and against is None:
        raise UserError("--stand-in needs --against, the model that RL started from")
    opened, console = open_workspace(workspace), Console(stderr=True)
    found: dict[str, Any] = {}
    if data is not None:
        own = {"toxicity": toxicity, "entailment": entailment, "verdicts": verdicts}
        own["judge"] = f"{judge_url} {judge_model}" if judge_url else None
        given = {name: str(what) for name, what in own.items() if what is not None}
        results = run.evaluate_suite(opened, list(models), suite, data, console, given)
        found["suites"] = {name: [result.to_json() for result in rows] for name, rows in results.items()}
        if not as_json:
            Console().print(run.suite_table(results))
    how = run.Drawing(
        prompts=prompts,
        split=split,
        samples=samples,
        temperature=temperature,
        max_new_tokens=max_new_tokens,
        seed=seed,
    )
    asked: str | PairJudge = judge
    if judge_url and judge_model:
        key = os.environ.get("PRECEPTOR_JUDGE_KEY", "")
        asked = PairJudge(endpoint=Endpoint(url=judge_url, model=judge_model, key=key))
    for model in models if against else ():
        rate = run.evaluate_against(
            opened, model, str(against), asked, how, console, few_shot_judge=judge if few_shot else None
        )
        found.setdefault("win_rates", []).append(
            {"model": model, "baseline": rate.baseline, "judge": rate.judge, **rate.win.to_json()}
            | {"length_controlled": rate.length_controlled.to_json(), "failures": rate.failures}
            | {"split": split, "users": rate.users, "training_users": rate.training_users}
        )
        if not as_json:
            print("\n".join(run.comparison_lines(rate)))
    if stand_in:
        from preceptor.pipeline.overoptimise import over_optimisation

        curve = over_optimisation(opened, models, str(against), judge, stand_in, how)
        found["overoptimisation"] = curve
        if not as_json:
            for point in curve["points"]:
                proxy, gold = point["proxy"]["value"], point["gold"]["value"]
                print(f"{point['model']:<24} KL {point['kl']:8.2f} nats   proxy {proxy:7.3f}   stand-in {gold:7.3f}")
    if as_json:
        print(json.dumps(found, indent=1))


@app.command
def push(names: list[str] | None = None, /, *, to: str | None = None, workspace: Where = None) -> None:
    """Send releases, corpora and models to a shared or object store, for nodes that share no disk.

    Parameters
    ----------
    names
        Models, or kind/name (releases/NAME, corpus/NAME, models/NAME); everything when absent.
    to
        Where: s3://bucket/folder, gs://..., file:///...; `store` of preceptor.toml when absent.
    """
    from preceptor.store.objects import push as run

    print(run(open_workspace(workspace), to, names or ()).line())


@app.command
def pull(names: list[str] | None = None, /, *, source: str | None = None, workspace: Where = None) -> None:
    """Fetch releases, corpora and models from a shared or object store; every file is compared with its hash.

    Parameters
    ----------
    names
        Models, or kind/name; everything that the store has and the workspace has not when absent.
    source
        Where from; `store` of preceptor.toml when absent.
    """
    from preceptor.store.objects import pull as run

    print(run(open_workspace(workspace), source, names or ()).line())


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

    store = open_workspace(workspace).store
    if restore:
        print("\n".join(f"{rows:>9,}  {table}" for table, rows in put_back(store, file).items()))
    else:
        print(f"{back_up(store, file):,} bytes in {file}")


@keys.command(name="add")
def add_key(
    name: str,
    /,
    *,
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
    workspace: Where = None,
) -> None:
    """Make a key and print it, once.

    Parameters
    ----------
    name
        Its owner: the user id of prompts that come with consent.
    requests_per_minute
        Requests it may make per minute; what `[serve]` says when absent.
    tokens_per_minute
        Tokens (prompt and answer) it may use per minute; what `[serve]` says when absent.
    """
    from preceptor.store.keys import add_key as run

    store = open_workspace(workspace).store
    print(run(store, name, requests_per_minute=requests_per_minute, tokens_per_minute=tokens_per_minute)[1])


@keys.command(name="list")
def list_keys(*, workspace: Where = None, as_json: AsJson = False) -> None:
    """Keys in use: first characters, owner, limits of their own."""
    from dataclasses import asdict

    from preceptor.store.keys import list_keys as run

    found = run(open_workspace(workspace).store)
    print(
        json.dumps([asdict(key) for key in found], indent=1)
        if as_json
        else "\n".join(f"{key.hint}...  {key.name}{_limits(key)}" for key in found)
    )


def _limits(key: Any) -> str:
    limits = {"requests": key.requests_per_minute, "tokens": key.tokens_per_minute}
    shown = ", ".join(f"{limit:,} {unit} per minute" for unit, limit in limits.items() if limit)
    return f"  ({shown})" if shown else ""


@keys.command(name="revoke")
def revoke_key(name: str, /, *, workspace: Where = None) -> None:
    """End a key: from the next request on it is refused.

    Parameters
    ----------
    name
        Its owner.
    """
    from preceptor.store.keys import revoke_key as run

    print(f"revoked the key of {run(open_workspace(workspace).store, name).name}")
