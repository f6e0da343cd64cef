"""Everything a report shows, as plain data: what was measured, and nothing that follows from it.

Every part is optional. A part that is absent becomes one line that says what is missing and which command would
fill it. `to_json` and `from_json` are inverse, so a report can be built again from its file.

Units: shares are 0 to 1, losses nats per token, KL nats per answer, time seconds, lengths tokens.
"""

import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal

from preceptor.statistics.interval import Interval

Role = Literal["ppo-ptx", "ppo", "sft", "prompted", "base", "other"]
Outcome = Literal["shown", "not shown", "cost", "not measured"]


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model of the report. `role` fixes its colour, mark and line; `size` groups models in the headline figure
    ("small", "1.3B")."""

    name: str
    role: Role
    label: str
    size: str = ""
    parameters: int = 0


@dataclass(frozen=True, kw_only=True)
class Process:
    """What was done, in counts. None where it did not happen or nobody counted."""

    base_given: bool = False
    corpus_tokens: int | None = None
    demonstrations: int | None = None
    demonstration_writers: int | None = None
    rankings: int | None = None
    comparisons: int | None = None
    labelers: int | None = None
    k_smallest: int | None = None
    k_largest: int | None = None
    rounds: int | None = None
    rl_steps: int | None = None
    kl_coef: float | None = None
    ptx_coef: float | None = None
    test_prompts: int | None = None
    test_users: int | None = None
    samples_per_prompt: int | None = None


@dataclass(frozen=True, kw_only=True)
class WinRate:
    """`model` against `baseline`. `judge` is who judged ("gold", "held-out labelers", a judge model's name);
    `decoding` how both sides were drawn ("T = 1", "greedy"); `cohort` is a slice, "" for all prompts. `position` is the
    share won by the answer shown first, `missing` counts pairs without a verdict and `note` says why. `users` asked
    these prompts, `training_users` of them asked prompts of the training split too; None: not counted."""

    model: str
    baseline: str
    judge: str
    decoding: str
    win: Interval
    length_controlled: Interval | None = None
    cohort: str = ""
    position: Interval | None = None
    missing: int = 0
    note: str = ""
    users: int | None = None
    training_users: int = 0


@dataclass(frozen=True, kw_only=True)
class Facet:
    """One value of what comparisons are sliced by ("use case": "brainstorming")."""

    by: str
    name: str


@dataclass(frozen=True, kw_only=True)
class Strength:
    """Bradley-Terry log-strength of a model, relative to the baseline where it was compared."""

    model: str
    strength: Interval
    judge: str = ""


@dataclass(frozen=True, kw_only=True)
class Score:
    """A mean that people gave ("overall quality, 1 to 7"); `cohort` is a slice, "" for all."""

    what: str
    model: str
    mean: Interval
    cohort: str = ""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A figure of a suite: `group` is its part of the report ("Truthfulness"), `task` and `metric` name it."""

    group: str
    task: str
    metric: str
    model: str
    value: Interval
    missing: int = 0
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Series:
    """One metric over the steps of a run; None where it was not logged."""

    name: str
    values: list[float | None]
    unit: str = ""


@dataclass(frozen=True, kw_only=True)
class Training:
    """The curves of one run. All series have as many values as `steps`. Series with the same unit share a plot;
    the units "nats per answer" and "tokens" make the KL and the length figure."""

    stage: str
    model: str
    steps: list[int]
    series: list[Series]


@dataclass(frozen=True, kw_only=True)
class Point:
    """A checkpoint of the over-optimisation run: KL from the start of RL, proxy and gold reward of its answers."""

    step: int
    kl: float
    proxy: Interval
    gold: Interval | None = None


@dataclass(frozen=True, kw_only=True)
class BestOfN:
    """The answer with the highest proxy score among n; `kl` in closed form, rewards as in `Point`."""

    n: int
    kl: float
    gold: Interval
    proxy: Interval | None = None


@dataclass(frozen=True, kw_only=True)
class OverOptimisation:
    """`gold_name` says what stands for the truth ("gold judge", "held-out reward model"); `stand_in`, that it is no
    more than a guess at it."""

    model: str
    points: list[Point]
    gold_name: str = "gold judge"
    stand_in: bool = False
    prompts: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Pretraining loss on held-out text, nats per token."""

    model: str
    loss: Interval


@dataclass(frozen=True, kw_only=True)
class Tax:
    """A public task: `metric` ("F1", "accuracy") on `task`, times 100."""

    task: str
    metric: str
    model: str
    score: Interval


@dataclass(frozen=True, kw_only=True)
class Component:
    """How often a model's answers show a behaviour. `good` says whether more is better; `cohort` is a slice."""

    behaviour: str
    model: str
    rate: Interval
    good: bool = True
    decoding: str = ""
    cohort: str = ""


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """How often a reward model orders a pair as its judge does. `against`: "training labelers", "held-out labelers",
    "gold judge"."""

    reward_model: str
    against: str
    accuracy: Interval
    answers: str = ""


@dataclass(frozen=True, kw_only=True)
class RewardCheck:
    """How often the reward model scores an ideal answer above the same answer with one flaw."""

    flaw: str
    reward_model: str
    preferred: Interval


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How often two labelers order a pair the same way (ties left out)."""

    group: str
    rate: Interval


@dataclass(frozen=True, kw_only=True)
class Answer:
    model: str
    text: str
    score: float | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A prompt and what the models answered. `group` is "worst" or "typical", `slice` a use case."""

    prompt: str
    answers: list[Answer]
    group: Literal["worst", "typical"] = "typical"
    user: str = ""
    slice: str = ""
    demonstration: str | None = None


@dataclass(frozen=True, kw_only=True)
class Ancestor:
    """A model or release in the lineage. `parents`: role ("starts from", "rewarded by") -> name of an Ancestor."""

    name: str
    kind: str
    sha256: str = ""
    parents: dict[str, str] = field(default_factory=dict)
    releases: dict[str, str] = field(default_factory=dict)
    parameters: int = 0
    seed: int | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A claim and whether the data show it. `sentence` says it with its figures; `estimate` is in `unit`
    ("share" is printed in percent)."""

    claim: str
    outcome: Outcome
    sentence: str = ""
    estimate: Interval | None = None
    unit: str = "share"

    @staticmethod
    def above(claim: str, estimate: Interval, line: float = 0.5, unit: str = "share", sentence: str = "") -> "Verdict":
        """Shown when the whole 95 % interval lies above `line`."""
        outcome: Outcome = "shown" if estimate.above(line) else "not shown"
        return Verdict(claim=claim, outcome=outcome, sentence=sentence, estimate=estimate, unit=unit)

    @staticmethod
    def below(claim: str, estimate: Interval, line: float = 0.5, unit: str = "share", sentence: str = "") -> "Verdict":
        """Shown when the whole 95 % interval lies below `line`."""
        outcome: Outcome = "shown" if estimate.below(line) else "not shown"
        return Verdict(claim=claim, outcome=outcome, sentence=sentence, estimate=estimate, unit=unit)


@dataclass(frozen=True, kw_only=True)
class NotMeasured:
    what: str
    why: str


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """A report. `main` is the model it is about and `baseline` what it is compared with, both names in `models`.

    `simulated` says that users and labelers are programs. `smallest_detectable` is the distance from one half that
    the comparisons could have told from chance. `score_name` is the unit of `Answer.score`,
    `samples_rule` how the samples were chosen. `disclosures` are the
    choices that shape the result; `limits` the reasons to doubt it.
    """

    workspace: str
    created: str
    title: str = "Is the new model better, for whom, and what did it cost?"
    seed: int | None = None
    seconds: float | None = None
    peak_rss_mib: float | None = None
    version: str = ""
    simulated: bool = False
    main: str = ""
    baseline: str = ""
    score_name: str = "score"
    samples_rule: str = ""
    smallest_detectable: float | None = None
    process: Process = field(default_factory=Process)
    models: list[Model] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    win_rates: list[WinRate] = field(default_factory=list)
    strengths: list[Strength] = field(default_factory=list)
    scores: list[Score] = field(default_factory=list)
    training: list[Training] = field(default_factory=list)
    overoptimisation: OverOptimisation | None = None
    best_of_n: list[BestOfN] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    tax: list[Tax] = field(default_factory=list)
    measured: list[Measured] = field(default_factory=list)
    components: list[Component] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    agreement: list[Agreement] = field(default_factory=list)
    reward_accuracy: list[Accuracy] = field(default_factory=list)
    reward_checks: list[RewardCheck] = field(default_factory=list)
    lineage: list[Ancestor] = field(default_factory=list)
    disclosures: list[str] = field(default_factory=list)
    limits: list[str] = field(default_factory=list)
    not_measured: list[NotMeasured] = field(default_factory=list)

    def __post_init__(self) -> None:
        for run in self.training:
            for series in run.series:
                if len(series.values) != len(run.steps):
                    raise ValueError(
                        f"{run.stage} of {run.model}: {series.name} has {len(series.values)} values "
                        f"for {len(run.steps)} steps"
                    )

    def model(self, name: str) -> Model:
        """The model called `name`; one that nobody described is shown under its name."""
        for known in self.models:
            if known.name == name:
                return known
        return Model(name=name, role="other", label=name)

    def to_json(self) -> str:
        return json.dumps(_plain(self), ensure_ascii=False, indent=1, allow_nan=False)

    @staticmethod
    def from_json(text: str) -> "ReportData":
        """The inverse of `to_json`. An unknown or missing field is a ValueError that names it."""
        return _build(ReportData, json.loads(text), "report")


def _plain(value: Any) -> Any:
    """Dataclasses as objects; a number that is not finite is null (an infinite end of an interval)."""
    if isinstance(value, Interval):
        return value.to_json()
    if is_dataclass(value):
        return {part.name: _plain(getattr(value, part.name)) for part in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _build(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _build(next(argument for argument in arguments if argument is not type(None)), value, where)
    if kind is Interval:
        return Interval.from_json(value)
    if is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        unknown = sorted(set(value) - set(hints))
        if unknown:
            raise ValueError(f"{where} has no field {unknown[0]!r}")
        try:
            return kind(**{name: _build(hints[name], item, f"{where}.{name}") for name, item in value.items()})
        except TypeError as error:
            raise ValueError(f"{where}: {error}") from error
    if origin is list:
        return [_build(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value)]
    if origin is dict:
        return {key: _build(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    return value
