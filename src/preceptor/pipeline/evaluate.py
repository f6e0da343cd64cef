"""`preceptor evaluate`: public suites on models of the workspace, and one model against another."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from preceptor.errors import UserError
from preceptor.evaluation.results import TaskResult
from preceptor.evaluation.subject import Subject
from preceptor.evaluation.suite import run_suite
from preceptor.evaluation.win_rates import Comparison, compare_models
from preceptor.models.load import load_scalar, load_tokenizer
from preceptor.rollout.subject import LocalSubject
from preceptor.statistics.preference import smallest_detectable
from preceptor.store import Workspace
from preceptor.text.chat import Chat
from preceptor.training.reward import score_rows

STORED = "evaluation.json"  # in reports/: every figure measured so far, by model


def evaluate_suite(
    workspace: Workspace, models: list[str], suite: str, data: Path, console: Console
) -> dict[str, list[TaskResult]]:
    """Run a suite on each model; figures that were measured before are read back. Returns model -> results."""
    found = {}
    for name in models:
        subject: Subject = LocalSubject(workspace.find_model(name), name=name)
        with Progress(console=console, disable=not console.is_terminal) as bar:
            task = bar.add_task(name)

            def shown(what: str, place: int, total: int, bar=bar, task=task, name=name) -> None:
                bar.update(task, description=f"{name}: {what}", completed=place, total=total)

            found[name] = run_suite(subject, suite, data, workspace.root / "reports" / "cache", shown)  # type: ignore[arg-type]
    stored = read_stored(workspace)
    for name, results in found.items():
        known = {(r["name"], r["metric"], json.dumps(r["settings"])): r for r in stored["suites"].get(name, [])}
        known |= {(r.name, r.metric, json.dumps(dict(r.settings))): r.to_json() for r in results}
        stored["suites"][name] = list(known.values())
    write_stored(workspace, stored)
    return found


def evaluate_against(
    workspace: Workspace,
    model: str,
    baseline: str,
    judge: str,
    *,
    prompts: int,
    samples: int,
    temperature: float,
    max_new_tokens: int,
    seed: int,
    console: Console,
) -> Comparison:
    """`model` against `baseline` on test prompts, judged by the reward model `judge`."""
    asked = list(workspace.store.prompts(split="test", consented=True))[:prompts]
    if not asked:
        raise UserError("no prompts in the split test; import prompts: their users are split by a stable hash")
    count = len(asked) * (samples if temperature else 1)
    if not console.quiet:
        console.print(
            f"{len(asked)} prompts; a win rate {100 * smallest_detectable(count, len(asked), 0.3):.1f} points from "
            "50 % can be told from chance (80 % power, correlation 0.3 within a prompt)"
        )
    scorer_folder = workspace.find_model(judge)
    scorer, chat = load_scalar(scorer_folder), Chat(load_tokenizer(scorer_folder))

    def score(questions, answers) -> list[float]:
        rows = [chat.prompt(prompt.messages) + chat.answer(text) for prompt, text in zip(questions, answers)]
        return score_rows(scorer, rows, chat.pad).tolist()

    found = compare_models(
        LocalSubject(workspace.find_model(model), name=model),
        LocalSubject(workspace.find_model(baseline), name=baseline),
        asked,
        score,
        judge_name=f"reward model {judge}",
        samples=samples,
        temperature=temperature,
        max_new_tokens=max_new_tokens,
        seed=seed,
    )
    stored = read_stored(workspace)
    row = asdict(found) | {"win": found.win.to_json(), "length_controlled": found.length_controlled.to_json()}
    same = ("model", "baseline", "judge", "decoding")
    stored["win_rates"] = [r for r in stored["win_rates"] if any(r[k] != row[k] for k in same)] + [row]
    write_stored(workspace, stored)
    return found


def read_stored(workspace: Workspace) -> dict[str, Any]:
    path = workspace.root / "reports" / STORED
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"suites": {}, "win_rates": []}


def write_stored(workspace: Workspace, stored: dict[str, Any]) -> None:
    path = workspace.root / "reports" / STORED
    path.parent.mkdir(exist_ok=True)
    new = path.with_name(f".{STORED}.new")
    new.write_text(json.dumps(stored, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    new.replace(path)


def suite_table(found: dict[str, list[TaskResult]]) -> Table:
    """Figures with interval and n, a row per task and metric, a model after the other."""
    table = Table(box=None, header_style="bold")
    for column in ("model", "task", "metric"):
        table.add_column(column)
    for column in ("value", "95 % interval", "n"):
        table.add_column(column, justify="right")
    for name, results in found.items():
        for result in results:
            if result.value is None:
                table.add_row(name, result.name, "not measured: " + result.not_measured, "", "", "")
                continue
            ends = "" if result.low is None or result.high is None else f"{result.low:.3f} to {result.high:.3f}"
            table.add_row(name, result.name, result.metric, f"{result.value:.3f}", ends, f"{result.n:,}")
    return table
