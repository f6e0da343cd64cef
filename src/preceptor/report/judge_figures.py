"""Figures about those who judge: the reward model and the labelers."""

from preceptor.report.charts import Dot, DotAxis, Row, dot_chart
from preceptor.report.data import ReportData
from preceptor.report.figures import Figure
from preceptor.report.words import percent, share, span

PAPER_AGREEMENT = 0.726  # training labelers of the paper, section 3.4


def reward_accuracy(data: ReportData) -> Figure | None:
    """How often the reward model orders a pair as its judge does."""
    if not data.reward_accuracy:
        return None
    held = [row for row in data.reward_accuracy if "held-out" in row.against]
    sample = (held or data.reward_accuracy)[-1]
    verdict = "above chance" if sample.accuracy.above(0.5) else "not shown to be above chance"
    point = f"{sample.reward_model} orders {percent(sample.accuracy.value)} of pairs as {sample.against} do, {verdict}."
    rows = [
        Row(
            label=f"{row.reward_model}, {row.against}" + (f" ({row.answers})" if row.answers else ""),
            dots=[Dot(role="ppo-ptx" if row in held else "other", series="", interval=row.accuracy)],
            note=f"{row.accuracy.n:,} pairs",
        )
        for row in data.reward_accuracy
    ]
    axis = DotAxis(title="Pairs ordered the same way, %", scale=100, inside=(0.5,), line=(0.5, "50 = chance"))
    return Figure(
        svg=dot_chart(rows, axis, point),
        point=point,
        about="Tied pairs are left out. Bars are 95 % intervals. Discs: labelers whose rankings the reward model "
        "never saw; crosses: all others."
        if held
        else "Tied pairs are left out. Bars are 95 % intervals.",
        columns=["Reward model", "Against", "Answers of", "Same order", "95 % interval", "n"],
        rows=[
            [
                row.reward_model,
                row.against,
                row.answers or "not said",
                percent(row.accuracy.value),
                span(row.accuracy, 100, 1),
                f"{row.accuracy.n:,}",
            ]
            for row in data.reward_accuracy
        ],
    )


def reward_checks(data: ReportData) -> Figure | None:
    """Which flaws the reward model sees: the ideal answer against the same with one flaw."""
    if not data.reward_checks:
        return None
    blind = [row.flaw for row in data.reward_checks if not row.preferred.above(0.5)]
    total = len(data.reward_checks)
    if blind:
        point = f"The reward model is not shown to see {len(blind)} of {total} flaws: {', '.join(blind)}."
    else:
        point = f"The reward model sees all {total} flaws that were tried."
    rows = [
        Row(
            label=row.flaw,
            dots=[Dot(role="ppo-ptx" if row.flaw not in blind else "prompted", series="", interval=row.preferred)],
            note=f"{row.preferred.n:,} pairs",
        )
        for row in sorted(data.reward_checks, key=lambda row: -row.preferred.value)
    ]
    axis = DotAxis(
        title="Ideal answer scored above the same with one flaw, %",
        scale=100,
        inside=(0.5, 1),
        line=(0.5, "50 = chance"),
    )
    names = ", ".join(dict.fromkeys(row.reward_model for row in data.reward_checks))
    return Figure(
        svg=dot_chart(rows, axis, point),
        point=point,
        about=f"{names}. Bars are 95 % intervals; open squares: the interval reaches chance or lies below it. "
        "PPO cannot remove a flaw that the reward model does not see.",
        columns=["Flaw", "Reward model", "Ideal above flawed", "95 % interval", "n"],
        rows=[
            [
                row.flaw,
                row.reward_model,
                percent(row.preferred.value),
                span(row.preferred, 100, 1),
                f"{row.preferred.n:,}",
            ]
            for row in data.reward_checks
        ],
    )


def agreement(data: ReportData) -> Figure | None:
    measured = [row for row in data.agreement if row.rate.n]
    if not measured:
        return None
    parts = [f"{row.group}: {share(row.rate)}" for row in measured]
    point = f"How often two people order a pair the same way. {'; '.join(parts)}."
    rows = [
        Row(
            label=row.group,
            dots=[Dot(role="ppo-ptx", series="", interval=row.rate)],
            note=f"{row.rate.n:,} pairs",
        )
        for row in measured
    ]
    line = (PAPER_AGREEMENT, "72.6 = training labelers of the InstructGPT paper")
    axis = DotAxis(title="Pairs ranked the same way, %", scale=100, line=line)
    people = " The labelers are simulated." if data.simulated else ""
    return Figure(
        svg=dot_chart(rows, axis, point),
        point="How often two labelers order a pair the same way.",
        about=f"Tied pairs are left out. Bars are 95 % intervals. 50 % would be chance.{people}",
        columns=["Group", "Same order", "95 % interval", "n"],
        rows=[[row.group, percent(row.rate.value), span(row.rate, 100, 1), f"{row.rate.n:,}"] for row in measured],
    )
