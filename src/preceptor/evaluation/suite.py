"""Runs the tasks of a suite on one model. Stop it at any time and start it again: nothing finished is repeated.

Results are cached by model hash, task hash and settings; what the model said is kept batch by batch, so that even the
task that was cut short goes on where it was.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from preceptor.errors import UserError
from preceptor.evaluation.reading import files_hash
from preceptor.evaluation.recording import Recorded
from preceptor.evaluation.results import Figure, TaskResult
from preceptor.evaluation.subject import Subject
from preceptor.evaluation.tasks import TASKS, Task

Suite = Literal["quick", "paper", "all"]
SUITES: tuple[Suite, ...] = ("quick", "paper", "all")
EXAMPLES = 20  # kept of each task, for the report
OWN = {
    "judge": "an OpenAI-compatible endpoint: its URL before /chat/completions, a space, the model's name",
    "entailment": "the folder of an entailment model",
    "toxicity": "the folder of a toxicity classifier, a colon, the label",
    "verdicts": "people's verdicts on refusals: JSON lines of request, answer, verdict",
}


def run_suite(
    subject: Subject,
    suite: Suite,
    data: Path,
    cache: Path,
    progress: Callable[[str, int, int], None] | None = None,
    tasks: Sequence[Task] = TASKS,
    own: Mapping[str, str] | None = None,
) -> list[TaskResult]:
    """Every figure of every task of the suite, in order; tasks that could not be measured are in it with the reason.

    `data` is the folder of public sets, `cache` any folder that stays. `progress` is called with the name of the task
    that begins, its place and the number of tasks, and once more with "done" at the end. `own` are judges and scorers
    of your own, see `OWN`; they are settings of the tasks that use them. Raises UserError for an unknown suite or name,
    and for a folder that is not there; a task that fails does not stop the others.
    """
    if suite not in SUITES:
        raise UserError(f"there is no suite {suite!r}; there are {', '.join(SUITES)}")
    if not data.is_dir():
        raise UserError(f"{data}: no such folder; give the one that holds the public evaluation sets")
    own = _stamped(own or {})
    mine = [task for task in tasks if suite in task.settings]
    recorded = Recorded(subject, cache)
    results: list[TaskResult] = []
    for place, task in enumerate(mine):
        if progress is not None:
            progress(task.name, place, len(mine))
        settings = task.settings[suite] | {key: own[key] for key in own if key.removesuffix(" hash") in task.takes}
        results += run_task(recorded, task, settings, data, cache)
    if progress is not None:
        progress("done", len(mine), len(mine))
    return results


def _stamped(own: Mapping[str, str]) -> dict[str, str]:
    """With a hash beside every file or folder, so that a figure made with other weights is never shown for it."""
    found: dict[str, str] = {}
    for name, what in own.items():
        if name not in OWN:
            raise UserError(f"there is no judge or scorer {name!r}; there are {', '.join(OWN)}")
        found[name] = what
        if name == "judge":
            continue
        path = Path(what.rpartition(":")[0] if name == "toxicity" else what)
        if not path.exists():
            raise UserError(f"{path}: no such file or folder; {name} is {OWN[name]}")
        found[f"{name} hash"] = files_hash(sorted(path.glob("*.safetensors")) if path.is_dir() else [path])
    return found


def run_task(subject: Recorded, task: Task, settings: Mapping[str, Any], data: Path, cache: Path) -> list[TaskResult]:
    """The figures of one task, from the cache when they are there. A failure is a result and is not cached."""
    stamp = {"model": subject.name, "model_hash": subject.hash, "settings": dict(settings)}
    try:
        paths = task.files(data)
        mark = task_hash(task, paths)
        path = cache / f"result-{_digest([subject.hash, mark, dict(settings)])[:32]}.json"
        if path.exists():
            stored = [TaskResult.from_json(row) for row in json.loads(path.read_text(encoding="utf-8"))]
            return [_with_model(result, subject.name) for result in stored]
        subject.left_out = False
        figures, examples = task.measure(subject, paths, settings)
        if subject.left_out:
            figures = [_noted(figure) for figure in figures]
    except (UserError, ValueError, RuntimeError, IndexError) as error:
        reason = str(error) if isinstance(error, UserError) else f"failed: {type(error).__name__}: {error}"
        return [_empty(task.name, reason, stamp)]
    found = [_result(task.name, figure, mark, stamp) for figure in figures]
    if found:
        found[0] = TaskResult(**(found[0].to_json() | {"examples": examples[:EXAMPLES]}))
    if any(figure.passing for figure in figures):
        return found
    cache.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".part{os.getpid()}")
    part.write_text(json.dumps([result.to_json() for result in found], ensure_ascii=False), encoding="utf-8")
    part.replace(path)
    return found


def _noted(figure: Figure) -> Figure:
    why = "what is missing was longer than the model's context"
    return replace(figure, note="; ".join(part for part in (figure.note, why) if part)) if figure.missing else figure


def task_hash(task: Task, paths: Sequence[Path]) -> str:
    """Of the task's name, its version and the bytes of its files."""
    return _digest([task.name, task.version, files_hash(paths)])


def _digest(what: Any) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def _with_model(result: TaskResult, name: str) -> TaskResult:
    """The same weights may go by another name now."""
    return TaskResult(**(result.to_json() | {"model": name}))


def _empty(name: str, reason: str, stamp: Mapping[str, Any]) -> TaskResult:
    return TaskResult(name=name, metric="", value=None, low=None, high=None, n=0, not_measured=reason, **stamp)


def _result(name: str, figure: Figure, mark: str, stamp: Mapping[str, Any]) -> TaskResult:
    interval = figure.interval
    shared = {"name": name, "metric": figure.metric, "missing": figure.missing, "note": figure.note, "task_hash": mark}
    if interval is None:
        reason = f"none of {figure.missing} items could be scored" + (f": {figure.note}" if figure.note else "")
        return TaskResult(value=None, low=None, high=None, n=0, not_measured=reason, **shared, **stamp)
    low, high = (end if math.isfinite(end) else None for end in (interval.low, interval.high))
    return TaskResult(value=interval.value, low=low, high=high, n=interval.n, **shared, **stamp)
