"""`preceptor evaluate`: public suites on models of the workspace, and one model against another."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn
from rich.table import Table

from preceptor.errors import UserError
from preceptor.evaluation.judge import PairJudge
from preceptor.evaluation.results import TaskResult
from preceptor.evaluation.subject import Subject
from preceptor.evaluation.suite import run_suite
from preceptor.evaluation.win_rates import Comparison, Judge, compare_models
from preceptor.models.load import load_scalar, load_tokenizer
from preceptor.pipeline.people import people_verdicts
from preceptor.pipeline.prompted import Prompted, choose_prefix
from preceptor.pipeline.stored import read_stored, write_stored
from preceptor.report.words import held_out
from preceptor.rollout.subject import LocalSubject
from preceptor.statistics.preference import CORRELATION, smallest_detectable
from preceptor.store import Workspace
from preceptor.text.chat import Chat
from preceptor.training.reward import score_rows
from preceptor.types import Prompt

TRAINING = "users: training users"  # the slice that a comparison on the training split is


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How two models are compared: prompts at most and of which split, answers per prompt, decoding."""

    prompts: int = 300
    split: Literal["test", "train"] = "test"
    samples: int = 4
    temperature: float = 1.0
    max_new_tokens: int = 256
    seed: int = 0


def evaluate_suite(
    workspace: Workspace, models: list[str], suite: str, data: Path, console: Console, own: Mapping[str, str]
) -> dict[str, list[TaskResult]]:
    """Run a suite on each model; figures that were measured before are read back. Returns model -> results.

    What people said of answers to attacks on the labelling pages measures the judge of refusals, unless `own` names
    another file of verdicts.
    """
    own = dict(own)
    if "verdicts" not in own and (said := people_verdicts(workspace)) is not None:
        own["verdicts"] = str(said)
    found = {}
    for name in models:
        subject: Subject = LocalSubject(workspace.find_model(name), name=name)
        columns = (*Progress.get_default_columns(), TimeElapsedColumn())  # the default ones end in the time left
        with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
            task = bar.add_task(name)

            def shown(what: str, place: int, total: int, bar=bar, task=task, name=name) -> None:
                bar.update(task, description=f"{name}: {what}", completed=place, total=total)

            found[name] = run_suite(
                subject,
                suite,  # type: ignore[arg-type]
                data,
                workspace.root / "reports" / "cache",
                shown,
                own=own,
            )
    stored = read_stored(workspace)
    for name, results in found.items():
        new = {(result.name, json.dumps(dict(result.settings))) for result in results}
        kept = [row for row in stored["suites"].get(name, []) if (row["name"], json.dumps(row["settings"])) not in new]
        stored["suites"][name] = [*kept, *(result.to_json() for result in results)]
    write_stored(workspace, stored)
    return found


def reward_judge(workspace: Workspace, name: str) -> Judge:
    """A reward model as a judge that scores answers."""
    folder = workspace.find_model(name)
    scorer, chat = load_scalar(folder), Chat(load_tokenizer(folder))

    def score(questions: Sequence[Prompt], answers: Sequence[str]) -> list[float]:
        rows = [chat.prompt(prompt.messages) + chat.answer(text) for prompt, text in zip(questions, answers)]
        return score_rows(scorer, rows, chat.pad).tolist()

    return score


def asked_prompts(workspace: Workspace, how: Drawing) -> list[Prompt]:
    found = list(workspace.store.prompts(split=how.split, consented=True))[: how.prompts]
    if not found:
        raise UserError(f"no prompts in the split {how.split}; import prompts: their users are split by a stable hash")
    return found


def evaluate_against(
    workspace: Workspace,
    model: str,
    baseline: str,
    judge: str | PairJudge,
    how: Drawing,
    console: Console,
    *,
    few_shot_judge: str | None = None,
) -> Comparison:
    """`model` against `baseline` on the prompts of a split, judged by a reward model (its name) or by a judge model.

    `few_shot_judge` puts the baseline behind a few-shot prefix, chosen by that reward model on validation prompts.
    """
    asked = asked_prompts(workspace, how)
    count = len(asked) * (how.samples if how.temperature else 1)
    detectable = smallest_detectable(count, len(asked))
    if not console.quiet:
        console.print(
            f"{len(asked)} prompts; a win rate {100 * detectable:.1f} points from 50 % can be told from chance "
            f"(80 % power, correlation {CORRELATION} within a prompt)"
        )
    other: Subject = LocalSubject(workspace.find_model(baseline), name=baseline)
    if few_shot_judge is not None:
        assert isinstance(other, LocalSubject)
        scored = reward_judge(workspace, few_shot_judge)
        chosen = choose_prefix(workspace, other, scored, max_new_tokens=how.max_new_tokens, seed=how.seed)
        if not console.quiet:
            tried = ", ".join(f"{score:.2f}" for score in chosen.scores)
            console.print(
                f"few-shot prefix: the best of {len(chosen.scores)} by {few_shot_judge} on validation ({tried})"
            )
        other = Prompted(other, chosen.prefix)
    named = f"reward model {judge}" if isinstance(judge, str) else f"judge model {judge.endpoint.model}"
    try:
        found = compare_models(
            LocalSubject(workspace.find_model(model), name=model),
            other,
            asked,
            reward_judge(workspace, judge) if isinstance(judge, str) else judge,
            judge_name=named,
            samples=how.samples,
            temperature=how.temperature,
            max_new_tokens=how.max_new_tokens,
            seed=how.seed,
            training_users={p.user_id for p in workspace.store.prompts(split="train") if p.user_id is not None},
        )
    except ValueError as error:
        raise UserError(str(error)) from error
    stored = read_stored(workspace)
    row = asdict(found) | {
        "win": found.win.to_json(),
        "length_controlled": found.length_controlled.to_json(),
        "position": found.position.to_json() if found.position else None,
        "cohort": TRAINING if how.split == "train" else "",
        "slices": [{"cohort": name, "win": win.to_json()} for name, win in found.slices],
        "missing": sum(found.failures.values()),
        "note": ", ".join(f"{number} {reason}" for reason, number in sorted(found.failures.items())),
    }
    same = ("model", "baseline", "judge", "decoding", "cohort")
    stored["win_rates"] = [r for r in stored["win_rates"] if any(r.get(k, "") != row[k] for k in same)] + [row]
    write_stored(workspace, stored)
    return found


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


def comparison_lines(found: Comparison) -> list[str]:
    """What a comparison says: raw, at equal length, the judge's place effect and failures, slices."""
    win, equal = found.win, found.length_controlled
    lines = [
        f"{found.model} is preferred to {found.baseline} in {win.value:.1%} ({win.low:.1%} to {win.high:.1%}, "
        f"n = {win.n:,} on {win.clusters:,} prompts), judged by the {found.judge}",
        f"  at equal length {equal.value:.1%} ({equal.low:.1%} to {equal.high:.1%})",
        f"  {held_out(found.users, found.training_users)}",
    ]
    if found.position is not None:
        place = found.position
        lines.append(f"  the answer shown first wins {place.value:.1%} ({place.low:.1%} to {place.high:.1%})")
    if found.failures:
        counts = ", ".join(f"{count} {reason}" for reason, count in sorted(found.failures.items()))
        lines.append(f"  {sum(found.failures.values())} pairs have no verdict and count for nobody: {counts}")
    return lines + [f"  {name}: {w.value:.1%} ({w.low:.1%} to {w.high:.1%}, n = {w.n:,})" for name, w in found.slices]
