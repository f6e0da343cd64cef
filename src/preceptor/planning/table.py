"""A plan as text."""

from preceptor.planning import formulas as f
from preceptor.planning.machine import Machine
from preceptor.planning.plan import Plan, StagePlan, duration


def plan_lines(plan: Plan) -> list[str]:
    policy, cluster, work = plan.policy, plan.cluster, plan.work
    lines = [] if cluster.machine is None else [cluster.machine.line()]
    rate = f"{cluster.rate(work.precision) / 1e12:g} TFLOP/s at {cluster.utilisation:.0%} utilisation, "
    rate += f"{cluster.bandwidth / 1e12:g} TB/s memory, "
    lines += [
        f"{policy.name}: {policy.parameters:,} parameters ({policy.architecture}, {policy.layers} layers of width "
        f"{policy.width:,}, vocabulary {policy.vocabulary:,}); reward and value model {plan.reward.name}: "
        f"{plan.reward.scalar_parameters:,}",
        f"{cluster.gpus} GPUs of {cluster.memory / f.GB:g} GB, {cluster.reserve:.0%} of it kept free; "
        f"{rate if cluster.machine is None else ''}"
        f"{cluster.link / 1e9:g} GB/s network; {work.precision} arithmetic, fp32 weights and Adam",
        f"every sequence at its longest: sft {work.sft_tokens} tokens, reward {work.answers} x {work.reward_tokens}, "
        f"ppo {work.prompt_tokens} + {work.answer_tokens}",
    ]
    for stage in plan.stages:
        lines += ["", *_stage(stage, cluster.machine, work.precision)]
    if plan.dry_runs:
        lines += ["", *(line for one in plan.dry_runs for line in one.lines())]
    lines += [
        "",
        "GB are 10^9 bytes. Trained today: unsharded, and sharded without LoRA; the other layouts are assumed.",
    ]
    return lines


def _stage(stage: StagePlan, machine: Machine | None, precision: str) -> list[str]:
    lines = [f"{stage.stage.upper():8}{'GB per GPU':>22}  {'micro-batch':>11}  {'largest':>7}  high point"]
    for option in stage.options:
        mark = "*" if option is stage.chosen else " "
        fits = "fits" if option.fits else "no"
        micro = str(option.micro_batch)
        lines.append(
            f"{mark} {option.layout.title:22}{option.peak.total / f.GB:>10,.1f} {fits:>4} {micro:>9}  "
            f"{option.largest:>7}  {option.peak.name}"
        )
    shown = stage.chosen or min(stage.options, key=lambda option: option.peak.total)
    lines.append(f"  in {shown.layout.title}, GB:")
    for phase in shown.phases:
        parts = ", ".join(f"{k} {v / f.GB:,.2f}" for k, v in phase.parts.items() if v >= 0.005 * f.GB)
        lines.append(f"    {phase.name}: {phase.total / f.GB:,.2f} = {parts or 'less than 0.01 each'}")
    if machine is not None:
        whole, before = machine.resident(shown.peak.total, stage.stage, precision) / f.GB, machine.base / f.GB
        lines.append(f"  its process at that point: {whole:,.2f} GB, {before:,.2f} of it before a model")
    effort = stage.effort
    paper = f" (the paper's: {stage.paper_days:g})" if stage.paper_days else ""
    lines.append(
        f"  {effort.flops:.3g} operations = {f.petaflop_s_days(effort.flops):,.3g} petaflop/s-days{paper}, "
        f"{effort.steps:,} steps, {duration(effort.seconds)}"
        + (f" ({effort.seconds / effort.steps:,.3g} seconds per step)" if machine else "")
        + (f", of it {duration(effort.draw_seconds)} drawing answers" if effort.draw_seconds else "")
    )
    return lines + [f"  {line}" for line in stage.advice]
