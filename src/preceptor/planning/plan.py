"""`preceptor plan`: which layout a stage needs on a cluster, what it holds and how long it takes. No weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from preceptor.errors import UserError
from preceptor.planning import effort as e
from preceptor.planning import formulas as f
from preceptor.planning import memory as m
from preceptor.planning.activations import DROPOUTS, measure_activations, shared_activations
from preceptor.planning.dry_run import DryRun, dry_run
from preceptor.planning.machine import Machine, default_path, stage_seconds
from preceptor.planning.options import PlanOptions
from preceptor.planning.shape import PAPER, Shape, measure_shape, preset_config, read_config
from preceptor.planning.work import PAPER_DAYS, STAGES, Cluster, Work, own_work, paper_work

MOST_GPUS = 65_536  # how far to look for a cluster that is large enough


@dataclass(frozen=True, slots=True)
class Option:
    """One layout of a stage: its memory at the micro-batch asked for (or the largest that fits, when that is less)."""

    layout: m.Layout
    micro_batch: int
    largest: int  # largest micro-batch that fits; 0: not even one
    drawn: int  # answers drawn at once on one GPU, in ppo; 0: not even one fits
    phases: list[m.Phase]

    @property
    def fits(self) -> bool:
        return self.largest > 0 and self.drawn > 0

    @property
    def peak(self) -> m.Phase:
        return m.peak(self.phases)

    def to_json(self) -> dict[str, Any]:
        return {
            "layout": self.layout.name,
            "checkpointing": self.layout.checkpointing,
            "fits": self.fits,
            "micro_batch": self.micro_batch,
            "largest_micro_batch": self.largest,
            "drawn_at_once": self.drawn,
            "peak_bytes": round(self.peak.total),
            "peak_phase": self.peak.name,
            "phases": [phase.to_json() for phase in self.phases],
        }


@dataclass(frozen=True, slots=True)
class StagePlan:
    stage: str
    options: list[Option]
    chosen: Option | None
    effort: e.Effort  # of the chosen layout, or of the smallest where none fits
    paper_days: float | None
    advice: list[str]

    def to_json(self) -> dict[str, Any]:
        return {
            "stage": self.stage,
            "layout": self.chosen.layout.title if self.chosen else None,
            "options": [option.to_json() for option in self.options],
            "flops": self.effort.flops,
            "optimizer_steps": self.effort.steps,
            "petaflop_s_days": f.petaflop_s_days(self.effort.flops),
            "paper_petaflop_s_days": self.paper_days,
            "seconds": self.effort.seconds,
            "seconds_per_step": self.effort.seconds / self.effort.steps,
            "draw_seconds": self.effort.draw_seconds,
            "advice": self.advice,
        }


@dataclass(frozen=True, slots=True)
class Plan:
    policy: Shape
    reward: Shape
    cluster: Cluster
    work: Work
    stages: list[StagePlan]
    dry_runs: list[DryRun]

    def to_json(self) -> dict[str, Any]:
        from dataclasses import asdict

        return {
            "policy": self.policy.to_json(),
            "reward_model": self.reward.to_json(),
            "cluster": asdict(self.cluster),
            "work": self.work.to_json(),
            "stages": [stage.to_json() for stage in self.stages],
            "dry_run": [one.to_json() for one in self.dry_runs],
        }


def make_plan(
    cluster: Cluster,
    *,
    preset: str | None = None,
    model: str | Path | None = None,
    reward_model: str | None = None,
    stage: str = "all",
    changes: dict[str, Any] | None = None,
    dry: bool = False,
) -> Plan:
    """Plan the stages of one model.

    `preset` or `model` (folder, config.json or hub name): the policy. `reward_model`: a preset or a model; by default
    the paper's 6B for the paper's sizes, and the policy's own size otherwise. `changes`: fields of `Work` that differ
    from the paper's recipe (for its sizes) or from the defaults of config.py (for others). Raises UserError.
    """
    if (preset is None) == (model is None):
        raise UserError("name one model: --preset 1.3B (or 6B, 175B, small, ...), or --model FOLDER")
    name = preset or str(model)
    config = preset_config(preset) if preset else read_config(str(model))
    policy = measure_shape(config, name)
    work = paper_work(name) if preset in PAPER else own_work(policy.context)
    work = replace(work, **(changes or {}))
    if changes and {"prompt_tokens", "answer_tokens"} & set(changes):
        both = work.prompt_tokens + work.answer_tokens
        work = replace(work, sft_tokens=both, reward_tokens=both)
    limit = policy.context
    longest = max(work.sft_tokens, work.reward_tokens, work.prompt_tokens + work.answer_tokens)
    if limit and longest > limit:
        raise UserError(f"{longest} tokens do not fit the context of {name}, {limit}; shorten prompts or answers")
    reward_name = reward_model or ("6B" if preset in PAPER else name)
    reward_config, reward = config, policy
    if reward_name != name:
        known = reward_name in PAPER or not Path(reward_name).exists()
        reward_config = preset_config(reward_name) if known else read_config(reward_name)
        reward = measure_shape(reward_config, reward_name)
    models = models_of(config, policy, work, reward_config, reward)
    stages = STAGES if stage == "all" else (stage,)
    plans = [plan_stage(name, models, work, cluster, paper=preset == "175B") for name in stages]
    dry_runs = []
    if dry:
        dry_runs = [
            dry_run(config, policy, cluster.gpus, scalar=False),
            dry_run(reward_config, reward, cluster.gpus, scalar=True),
        ]
    return Plan(policy, reward, cluster, work, plans, dry_runs)


def models_of(config, policy: Shape, work: Work, reward_config, reward: Shape) -> dict[str, m.Model]:
    """The models with what their passes leave behind: in sft (with dropout) and as the policy; the reward model in its
    own training, whose answers share their prompts, and as reward and value model of ppo (value)."""
    still = measure_activations(config, precision=work.precision)
    drops = work.dropout > 0 and any(hasattr(config, name) for name in DROPOUTS)
    dropped = measure_activations(config, precision=work.precision, dropout=work.dropout) if drops else still
    scored = still if reward is policy else measure_activations(reward_config, precision=work.precision)
    ranked = shared_activations(reward_config, scored, precision=work.precision)
    acting = still if work.precision == "fp32" else measure_activations(config, precision="fp32")
    return {
        "sft": m.Model(policy, dropped, acting, drops=drops),
        "policy": m.Model(policy, still, acting),
        "reward": m.Model(reward, ranked, scored, scalar=True),
        "value": m.Model(reward, scored, scored, scalar=True),
    }


def plan_of(options: PlanOptions) -> Plan:
    """The plan that the command line asks for. Raises UserError."""
    o = options
    names = ("prompt_tokens", "answer_tokens", "demonstrations", "rankings", "answers", "episodes", "iterations")
    changes = {name: getattr(o, name) for name in (*names, "precision") if getattr(o, name) is not None}
    if o.stage == "all" and (o.batch is not None or o.micro_batch is not None):
        raise UserError("--batch and --micro-batch belong to one stage; add --stage sft, reward or ppo")
    if o.batch is not None:
        changes[{"sft": "sft_batch", "reward": "reward_batch", "ppo": "minibatch"}[o.stage]] = o.batch
    if o.micro_batch is not None:
        changes[f"{o.stage}_micro_batch"] = o.micro_batch
    machine = None
    if o.machine is not None or o.calibrate:
        machine = Machine.read(default_path() if o.machine in (None, "here") else Path(str(o.machine)))
    memory = machine.memory if machine else 80 * f.GB
    cluster = Cluster(
        gpus=o.gpus,
        memory=memory if o.gpu_memory is None else o.gpu_memory * f.GB,
        flops=None if o.gpu_flops is None else o.gpu_flops * 1e12,
        bandwidth=o.gpu_bandwidth * 1e12,
        link=o.network * f.GB,
        utilisation=o.utilisation,
        lora_rank=o.lora_rank,
        machine=machine,
    )
    return make_plan(
        cluster,
        preset=o.preset,
        model=o.model,
        reward_model=o.reward_model,
        stage=o.stage,
        changes=changes,
        dry=o.dry_run,
    )


def plan_stage(stage: str, models: dict[str, m.Model], work: Work, cluster: Cluster, *, paper: bool) -> StagePlan:
    options = [weigh(stage, models, work, cluster, layout) for layout in m.LAYOUTS]
    if cluster.gpus == 1:
        options = [option for option in options if not option.layout.sharded]
    chosen = next((option for option in options if option.fits), None)
    least = chosen or min(options, key=lambda option: option.peak.total)
    setting = m.Setting(work, least.layout, cluster.gpus, cluster.lora_rank, cluster.device)
    effort = effort_of(stage, models, setting, cluster, least)
    days = PAPER_DAYS.get(stage) if paper else None
    advice = say(stage, chosen, least, models, work, cluster, setting)
    return StagePlan(stage, options, chosen, effort, days, advice)


def phases_of(stage: str, models: dict[str, m.Model], s: m.Setting, micro: int, drawn: int) -> list[m.Phase]:
    if stage == "sft":
        return m.sft_phases(models["sft"], s, micro)
    if stage == "reward":
        return m.reward_phases(models["reward"], s, micro)
    return m.ppo_phases(models["policy"], models["value"], models["value"], s, micro, drawn)


def effort_of(stage: str, models: dict[str, m.Model], s: m.Setting, cluster: Cluster, option: Option) -> e.Effort:
    micro = option.micro_batch
    policy, reward = models["policy"].shape, models["reward"].shape
    if stage == "sft":
        found = e.sft_effort(policy, s, cluster, micro)
    elif stage == "reward":
        found = e.reward_effort(reward, s, cluster, micro)
    else:
        found = e.ppo_effort(policy, reward, s, cluster, micro, max(1, option.drawn))
    if cluster.machine is None:
        return found
    learning, drawing = stage_seconds(stage, models, s, cluster.machine, micro)
    return replace(found, compute_seconds=learning, draw_seconds=drawing)


def asked_micro_batch(stage: str, work: Work) -> int:
    return {"sft": work.sft_micro_batch, "reward": work.reward_micro_batch, "ppo": work.ppo_micro_batch}[stage]


def step_rows(stage: str, work: Work) -> int:
    return {"sft": work.sft_batch, "reward": work.reward_batch, "ppo": work.minibatch}[stage]


def weigh(stage: str, models: dict[str, m.Model], work: Work, cluster: Cluster, layout: m.Layout) -> Option:
    """Memory of one layout, at the micro-batch asked for or the largest that fits; likewise answers drawn at once."""
    setting = m.Setting(work, layout, cluster.gpus, cluster.lora_rank, cluster.device)
    most = -(-step_rows(stage, work) // cluster.gpus)  # a GPU never gets more rows in one pass
    share = -(-work.episodes // cluster.gpus)

    def learns(micro: int) -> bool:
        phases = phases_of(stage, models, setting, micro, 1)
        return all(phase.total <= cluster.room for phase in phases if phase.name != "rollout")

    def draws(rows: int) -> bool:
        phases = phases_of(stage, models, setting, 1, rows)
        return all(phase.total <= cluster.room for phase in phases if phase.name == "rollout")

    largest, drawn = largest_that(learns, most), largest_that(draws, share)
    micro = max(1, min(asked_micro_batch(stage, work), most, largest))
    return Option(layout, micro, largest, drawn, phases_of(stage, models, setting, micro, max(1, drawn)))


def largest_that(fits: Callable[[int], bool], most: int) -> int:
    """The largest of 1..most that fits; 0 when none does. Below `most` memory grows with rows; at `most` a step is one
    pass, which accumulates no gradients and may fit where fewer rows do not."""
    if fits(most):
        return most
    low, high = 0, most  # low fits (or is 0), high does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def smallest_cluster(
    stage: str, models: dict[str, m.Model], work: Work, cluster: Cluster, layouts: Sequence[m.Layout] = m.LAYOUTS
) -> int | None:
    """The smallest power of two of such GPUs on which one of the layouts fits; None when 65,536 are too few."""
    gpus = 1
    while gpus <= MOST_GPUS:
        wider = replace(cluster, gpus=gpus)
        if any(weigh(stage, models, work, wider, layout).fits for layout in layouts):
            return gpus
        gpus *= 2
    return None


def say(
    stage: str,
    chosen: Option | None,
    least: Option,
    models: dict[str, m.Model],
    work: Work,
    cluster: Cluster,
    setting: m.Setting,
) -> list[str]:
    """Plain sentences: what to choose, or that nothing fits and what would."""
    size = f"{cluster.gpus} x {cluster.memory / f.GB:g} GB"
    if chosen is None:
        lines = [
            f"{stage}: nothing fits on {size}; the least, {least.layout.title}, needs {least.peak.total / f.GB:,.1f} "
            f"GB per GPU ({least.peak.name}) of {cluster.room / f.GB:,.1f} GB that can be used"
        ]
        more = smallest_cluster(stage, models, work, cluster)
        if more is None:
            lines.append(f"{stage}: no number of such GPUs is enough; take GPUs with more memory")
        elif more > cluster.gpus:
            lines.append(f"{stage}: {more:,} such GPUs would be enough")
        return lines
    lines = [
        f"{stage}: choose {chosen.layout.title}, micro-batch {chosen.micro_batch} (largest that fits "
        f"{chosen.largest}); {chosen.peak.total / f.GB:,.1f} GB per GPU at {chosen.peak.name}"
    ]
    asked = asked_micro_batch(stage, work)
    if chosen.micro_batch < min(asked, -(-step_rows(stage, work) // cluster.gpus)):
        lines.append(f"{stage}: the micro-batch asked for, {asked}, does not fit in this layout")
    if chosen.layout.lora:
        whole = smallest_cluster(stage, models, work, cluster, [one for one in m.LAYOUTS if not one.lora])
        lines.append(
            f"{stage}: training all weights needs {whole:,} such GPUs"
            if whole
            else f"{stage}: training all weights needs GPUs with more memory"
        )
    share = -(-work.episodes // cluster.gpus)
    if stage == "ppo" and chosen.drawn < share:
        lines.append(
            f"ppo: {chosen.drawn} answers at a time fit beside the models on one GPU, of its {share}; our trainer "
            "draws them all at once, so this needs fewer --episodes, or the engine's `batch` set lower"
        )
    if stage == "ppo" and chosen.layout.sharded:
        slow = e.gathered_rollout_seconds(models["policy"].shape, setting, cluster)
        lines.append(
            "ppo: memory and time assume that rollouts leave the weights where they are (tensor parallel); FSDP's own "
            f"gathers would move all weights for every token drawn, {duration(slow)}"
        )
    return lines


def duration(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:,.1f} seconds"
