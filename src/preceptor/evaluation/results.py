"""What an evaluation hands back: a figure, its interval, what it rests on, and why it is absent when it is."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from preceptor.statistics.interval import Interval
from preceptor.statistics.preference import mean_interval, rate_interval


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One number of one task. `missing` counts items whose score could not be had; they are in no average.

    `interval` is None when nothing could be scored. `note` is a limitation to print beside the number. `passing`: a
    judge failed in a way that may pass (a time-out, say), so that the figure is shown but not kept for the next run.
    """

    metric: str
    interval: Interval | None
    missing: int = 0
    note: str = ""
    passing: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskResult:
    """A figure with its provenance. Where it was not measured, `value` is None and `not_measured` says why.

    `examples`: of the task's first figure only, the worst first; prompt, answer, and `fault` where one was found.
    """

    name: str
    metric: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    missing: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    task_hash: str = ""
    model: str = ""
    model_hash: str = ""
    not_measured: str = ""
    note: str = ""
    examples: Sequence[Mapping[str, Any]] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "TaskResult":
        return TaskResult(**data)


def worst_first(examples: Sequence[Mapping[str, str]], badness: Sequence[float]) -> list[Mapping[str, str]]:
    """The worst first, of equals the earlier; the first ones are kept, and those with a `fault` are in the report."""
    order = sorted(range(len(examples)), key=lambda place: -badness[place])
    return [examples[place] for place in order]


def faulted(
    prompts: Sequence[str], said: Sequence[str], faults: Sequence[str], badness: Sequence[float]
) -> list[Mapping[str, str]]:
    """Answers, the worst first, each with its fault where it has one."""
    rows = [
        {"prompt": prompt, "answer": answer} | ({"fault": fault} if fault else {})
        for prompt, answer, fault in zip(prompts, said, faults, strict=True)
    ]
    return worst_first(rows, badness)


def with_missing(figures: Sequence[Figure], count: int) -> list[Figure]:
    """The same figures, with `count` more items missing: those that never came to be scored."""
    return [replace(figure, missing=figure.missing + count) for figure in figures]


def rate(metric: str, hits: Sequence[bool | None], clusters: Sequence[Any] | None = None, note: str = "") -> Figure:
    """A share of yes. None is a missing verdict: left out and counted."""
    return _figure(metric, hits, clusters, note, rate_interval)


def mean(metric: str, values: Sequence[float | None], clusters: Sequence[Any] | None = None, note: str = "") -> Figure:
    """A mean. None is a missing score: left out and counted."""
    return _figure(metric, values, clusters, note, mean_interval)


def _figure(metric, values, clusters, note, interval) -> Figure:
    kept = [place for place, value in enumerate(values) if value is not None]
    missing = len(values) - len(kept)
    if not kept:
        return Figure(metric=metric, interval=None, missing=missing, note=note)
    groups = None if clusters is None else [clusters[place] for place in kept]
    found = interval([float(values[place]) for place in kept], groups)
    return Figure(metric=metric, interval=found, missing=missing, note=note)
