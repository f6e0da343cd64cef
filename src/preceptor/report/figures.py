"""The figures of the report: each a drawing at two widths, its point in a sentence, and its numbers as a table."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from preceptor.report.charts import Axes, Dot, DotAxis, Line, Row, dot_chart, line_chart
from preceptor.report.data import ReportData, Role, Training
from preceptor.report.words import (
    counted,
    main_row,
    model_name,
    number,
    percent,
    preference,
    primary,
    signed,
    span,
)
from preceptor.statistics.interval import Interval
from preceptor.statistics.overoptimisation import fit_rl_law

STAGES = {"pretrain": "Pretraining", "sft": "SFT", "reward": "Reward model", "ppo": "PPO"}


@dataclass(frozen=True, kw_only=True)
class Figure:
    """`svg` is trusted markup made by `charts`; everything else is plain text, escaped by the template."""

    svg: str
    point: str
    about: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def win_rates(data: ReportData) -> Figure | None:
    """Share of comparisons won against the baseline, by kind of model and size: the paper's Figure 1."""
    rows = primary(data)
    if not rows:
        return None
    baseline = data.model(data.baseline)
    half = Interval(value=0.5, low=0.5, high=0.5, n=0, clusters=0)
    points = [(data.model(row.model), row.win) for row in rows] + [(baseline, half)]
    sizes = {model.size: model.parameters for model, _ in points}
    known = all(sizes.values()) and len(set(sizes.values())) == len(sizes)
    place = {
        size: math.log(count) if known else float(i)
        for i, (size, count) in enumerate(sorted(sizes.items(), key=lambda item: item[1]))
    }
    order: list[Role] = ["base", "prompted", "sft", "ppo", "ppo-ptx", "other"]
    families = sorted({(order.index(model.role), model.label) for model, _ in points})
    lines = []
    for rank, label in families:
        members = [(place[m.size], w) for m, w in points if (order.index(m.role), m.label) == (rank, label)]
        members.sort(key=lambda member: member[0])
        lines.append(
            Line(
                label=label,
                role=order[rank],
                x=[x for x, _ in members],
                y=[100 * win.value for _, win in members],
                low=[100 * win.low for _, win in members],
                high=[100 * win.high for _, win in members],
            )
        )
    main = main_row(data)
    point = preference(data, main) + "." if main else f"Share of comparisons won against {model_name(baseline)}."
    sample = main or rows[0]
    about = (
        f"Judge: {sample.judge}; decoding: {sample.decoding}. Bars are 95 % intervals, bootstrap over "
        f"prompts. {model_name(baseline)} is the baseline, 50 by definition. {counted(sample.win)}."
    )
    axes = Axes(
        y_title=f"Preferred to {model_name(baseline)}, % of comparisons",
        x_title="parameters (log scale)" if known and len(place) > 1 else "parameters" if known else "size",
        x_ticks=[(at, size or "all models") for size, at in place.items()],
        y_inside=(45, 55),
        y_line=(50, ""),
        spread=True,
        height=336,
    )
    table = [
        [model_name(model), percent(win.value), span(win, 100, 1), f"{win.n:,}"]
        if win is not half
        else [model_name(model), percent(win.value), "by definition", "none"]
        for model, win in sorted(points, key=lambda item: -item[1].value)
    ]
    return Figure(
        svg=line_chart(lines, axes, point),
        point=point,
        about=about,
        columns=["Model", "Preferred", "95 % interval", "n"],
        rows=table,
    )


def comparisons(data: ReportData) -> Figure | None:
    """Every comparison of the main model: other baselines, judges, decodings and slices."""
    rows = [row for row in data.win_rates if row.model == data.main]
    if len(rows) < 2:
        return None
    name = model_name(data.model(data.main))
    better = sum(row.win.above(0.5) for row in rows)
    worse = sum(row.win.below(0.5) for row in rows)
    point = (
        f"{name}, {len(rows)} comparisons: {better} with the whole interval above 50 %, {worse} below, "
        f"{len(rows) - better - worse} not told apart from it."
    )
    role = data.model(data.main).role
    drawn = []
    for row in rows:
        dots = [Dot(role=role, series="as judged", interval=row.win)]
        if row.length_controlled is not None:
            dots.append(Dot(role="prompted", series="at equal length", interval=row.length_controlled))
        label = f"{model_name(data.model(row.baseline))}, {row.decoding}, {row.judge}"
        drawn.append(Row(label=label + (f", {row.cohort}" if row.cohort else ""), dots=dots, note=f"n = {row.win.n:,}"))
    controlled = any(row.length_controlled for row in rows)
    axis = DotAxis(
        title=f"{name} preferred to …, % of comparisons",
        scale=100,
        line=(0.5, "50 = no difference"),
        key=[(role, "as judged"), ("prompted", "at equal length")] if controlled else (),
    )
    return Figure(
        svg=dot_chart(drawn, axis, point),
        point=point,
        about="Both sides are drawn with the decoding named. Bars are 95 % intervals, bootstrap over prompts, each for "
        "itself: they are not widened for being many.",
        columns=["Against", "Preferred", "95 % interval", "n", "At equal length"],
        rows=[
            [
                row.label,
                percent(row.dots[0].interval.value),
                span(row.dots[0].interval, 100, 1),
                f"{row.dots[0].interval.n:,}",
                percent(row.dots[1].interval.value) if len(row.dots) > 1 else "not computed",
            ]
            for row in drawn
        ],
    )


def overoptimisation(data: ReportData) -> Figure | None:
    """Change of proxy and gold reward over the square root of KL."""
    run = data.overoptimisation
    if run is None or not run.points:
        return None
    points = sorted(run.points, key=lambda point: point.kl)
    distance = [math.sqrt(max(0.0, point.kl)) for point in points]
    first, last = points[0], points[-1]

    def line(label: str, role: Role, values: Sequence[tuple[float, Interval]], zero: float) -> Line:
        return Line(
            label=label,
            role=role,
            x=[d for d, _ in values],
            y=[v.value - zero for _, v in values],
            low=[v.low - zero for _, v in values],
            high=[v.high - zero for _, v in values],
        )

    proxy = [(d, point.proxy) for d, point in zip(distance, points, strict=True)]
    gold = [(d, point.gold) for d, point in zip(distance, points, strict=True) if point.gold is not None]
    lines = [line("proxy: the reward model", "sft", proxy, proxy[0][1].value)]
    best = None
    if gold:
        lines.append(line(f"gold: {run.gold_name}", "ppo-ptx", gold, gold[0][1].value))
        best = max(gold, key=lambda item: item[1].value)
        lines += _law_line(gold)
    if data.best_of_n:
        of_n = sorted((math.sqrt(row.kl), row.gold) for row in data.best_of_n)
        lines.append(line("best of n: gold", "prompted", of_n, of_n[0][1].value))
    point = overoptimisation_point(data)
    columns = ["Checkpoint", "KL, nats", "√KL", "Proxy", "Gold"]
    table = [
        [
            f"step {p.step:,}",
            number(p.kl, 2),
            number(d, 2),
            f"{number(p.proxy.value)} ({span(p.proxy)})",
            f"{number(p.gold.value)} ({span(p.gold)})" if p.gold else "not measured",
        ]
        for d, p in zip(distance, points, strict=True)
    ]
    axes = Axes(
        y_title="Reward, change since the start of RL",
        x_title="√KL from the start of RL (KL in nats per answer)",
        x_inside=(0.0,),
        y_line=(0.0, ""),
        x_line=(best[0], f"gold is highest at {number(best[0], 1)}") if best and best[0] > 0 else None,
    )
    where = f", on {run.prompts}" if run.prompts else ""
    about = (
        f"Both are 0 at the start and in their own units{where}. Marks are checkpoints (steps {first.step} to "
        f"{last.step}), bars 95 % intervals; n = {first.proxy.n:,} answers each."
    )
    if data.best_of_n:
        about += " Best-of-n spends KL differently from RL, so the two are not to be ranked by it."
    return Figure(svg=line_chart(lines, axes, point), point=point, about=about, columns=columns, rows=table)


def _law_line(gold: Sequence[tuple[float, Interval]]) -> list[Line]:
    """Gao's law as a curve from a distance of 1, where it holds, to the last checkpoint."""
    distance = [d for d, _ in gold]
    try:
        law = fit_rl_law(distance, [value.value - gold[0][1].value for _, value in gold])
    except ValueError:
        return []  # too few points; the note beside the figure says so
    end = max(distance)
    x = [1 + (end - 1) * i / 40 for i in range(41)]
    y = [d * (law.alpha - law.beta * math.log(d)) for d in x]
    return [Line(label="Gao’s law, fit", role="base", x=x, y=y, marks=False)]


def parting(data: ReportData) -> str:
    """Where the truth is only guessed at: whether the proxy and its stand-in part ways."""
    run = data.overoptimisation
    assert run is not None
    points = [(p, p.gold) for p in sorted(run.points, key=lambda p: p.kl) if p.gold is not None]
    text = f"There is no gold here: {run.gold_name} stands in for it, and may share the proxy’s mistakes."
    if len(points) < 2:
        return text
    (first, start), (last, end) = points[0], points[-1]
    peak, best = max(points, key=lambda item: item[1].value)
    up = last.proxy.low > first.proxy.high
    if up and end.high < best.low:
        where = number(math.sqrt(max(0.0, peak.kl)), 1)
        return (
            f"Warning: proxy and stand-in part ways. The proxy still rises while {run.gold_name} falls from √KL "
            f"{where} on: the model may be fooling its reward model. {text}"
        )
    if up and end.low <= start.high:
        return f"Warning: the proxy rises, {run.gold_name} is not shown to follow. {text}"
    return f"{text} The two are not shown to part ways."


def overoptimisation_point(data: ReportData) -> str:
    """What the curve shows, in words; says so where intervals overlap."""
    run = data.overoptimisation
    assert run is not None
    points = sorted(run.points, key=lambda point: point.kl)
    first, last = points[0], points[-1]
    if last.proxy.low > first.proxy.high:
        proxy = "The proxy rises"
    elif last.proxy.high < first.proxy.low:
        proxy = "The proxy falls"
    else:
        proxy = "The proxy does not change beyond its intervals"
    gold = [(point, point.gold) for point in points if point.gold is not None]
    if len(gold) < 2:
        return f"{proxy} as the policy moves away; gold was not measured along the way."
    peak, best = max(gold, key=lambda item: item[1].value)
    end = gold[-1][1]
    start = gold[0][1]
    if end.high < start.low:
        return f"{proxy} while gold ends below where it began: the reward model is being fooled."
    if end.high < best.low:
        return f"{proxy}; gold is highest at √KL {number(math.sqrt(peak.kl), 1)} and falls from there."
    if end.low > start.high:
        return f"{proxy} and gold ends above where it began; no over-optimisation is shown here."
    return f"{proxy}; gold does not change beyond its intervals."


def best_of_n(data: ReportData) -> Figure | None:
    """Gold score of the answer that the reward model likes best among n."""
    rows = sorted(data.best_of_n, key=lambda row: row.n)
    if not rows:
        return None
    first, last = rows[0].gold, rows[-1].gold
    if last.low > first.high:
        point = f"The best of {rows[-1].n} by the reward model is better than one answer, judged by gold."
    elif last.high < first.low:
        point = f"The best of {rows[-1].n} by the reward model is worse than one answer, judged by gold."
    else:
        point = f"The best of {rows[-1].n} by the reward model is not told apart from one answer by gold."
    line = Line(
        label="gold",
        role="ppo-ptx",
        x=[math.log(row.n) for row in rows],
        y=[row.gold.value for row in rows],
        low=[row.gold.low for row in rows],
        high=[row.gold.high for row in rows],
    )
    axes = Axes(
        y_title="Gold score of the answer chosen",
        x_title="n, answers to choose from",
        x_ticks=[(math.log(row.n), str(row.n)) for row in rows],
        height=220,
    )
    return Figure(
        svg=line_chart([line], axes, point),
        point=point,
        about="Bars are 95 % intervals. KL is the closed form ln n − (n − 1)/n; RL spends KL differently, so the two "
        f"are not compared by it. {counted(first)}.",
        columns=["Best of", "KL, nats", "Gold", "Proxy"],
        rows=[
            [
                f"n = {row.n}",
                number(row.kl),
                f"{number(row.gold.value)} ({span(row.gold)})",
                f"{number(row.proxy.value)} ({span(row.proxy)})" if row.proxy else "not measured",
            ]
            for row in rows
        ],
    )


def losses(data: ReportData) -> Figure | None:
    """Pretraining loss by model: the price of alignment in the model's first trade."""
    if not data.losses:
        return None
    before = next((row.loss for row in data.losses if row.model == data.baseline), None)
    name = model_name(data.model(data.baseline))
    changed = [row for row in data.losses if data.model(row.model).role in ("ppo", "ppo-ptx")]
    if before is not None and changed:
        parts = [f"{model_name(data.model(row.model))} {signed(row.loss.value - before.value, 3)}" for row in changed]
        point = f"Change of the pretraining loss from {name}, nats per token: {', '.join(parts)}."
    else:
        point = "Pretraining loss on held-out text, nats per token."
    rows = [
        Row(
            label=model_name(data.model(row.model)),
            dots=[Dot(role=data.model(row.model).role, series="", interval=row.loss)],
            note=number(row.loss.value, 3),
        )
        for row in sorted(data.losses, key=lambda row: row.loss.value)
    ]
    line = (before.value, f"{number(before.value, 3)} = {name}") if before else None
    axis = DotAxis(title="Loss on held-out pretraining text, nats per token", line=line)
    return Figure(
        svg=dot_chart(rows, axis, point),
        point=point,
        about="Lower is better. Bars are 95 % intervals over pieces of text; the models read the same pieces, so "
        f"differences are surer than the bars look. n = {data.losses[0].loss.n:,} tokens.",
        columns=["Model", "Nats per token", "95 % interval", "n"],
        rows=[
            [model_name(data.model(row.model)), number(row.loss.value, 3), span(row.loss, 1, 3), f"{row.loss.n:,}"]
            for row in data.losses
        ],
    )


def tax(data: ReportData) -> Figure | None:
    """Scores on public tasks."""
    if not data.tax:
        return None
    tasks = list(dict.fromkeys((row.task, row.metric) for row in data.tax))
    models = list(dict.fromkeys(row.model for row in data.tax))
    low = []
    for task in tasks:
        scores = {row.model: row.score for row in data.tax if (row.task, row.metric) == task}
        if data.main in scores and data.baseline in scores and scores[data.main].high < scores[data.baseline].low:
            low.append(task[0])
    name, base = model_name(data.model(data.main)), model_name(data.model(data.baseline))
    if data.main in models and data.baseline in models:
        verdict = f", worst to see: {', '.join(low)}" if low else ""
        point = f"{name} falls below {base}, intervals apart, on {len(low)} of {len(tasks)} public tasks{verdict}."
    else:
        point = "Scores on public tasks."
    rows = [
        Row(
            label=f"{task}, {metric}",
            dots=[
                Dot(role=data.model(row.model).role, series=row.model, interval=row.score)
                for row in data.tax
                if (row.task, row.metric) == (task, metric)
            ],
        )
        for task, metric in tasks
    ]
    key = [(data.model(model).role, model_name(data.model(model))) for model in models]
    return Figure(
        svg=dot_chart(rows, DotAxis(title="Score, 0 to 100", bounds=(0, 100), key=key, order=models), point),
        point=point,
        about="Bars are 95 % intervals over items.",
        columns=["Task", "Metric", "Model", "Score", "95 % interval", "n"],
        rows=[
            [
                row.task,
                row.metric,
                model_name(data.model(row.model)),
                number(row.score.value, 1),
                span(row.score, 1, 1),
                f"{row.score.n:,}",
            ]
            for row in data.tax
        ],
    )


def components(data: ReportData) -> Figure | None:
    """How often each behaviour shows, by model."""
    whole = [row for row in data.components if not row.cohort]
    if not whole:
        return None
    behaviours = list(dict.fromkeys(row.behaviour for row in whole))
    models = list(dict.fromkeys(row.model for row in whole))
    rate = {(row.behaviour, row.model): row for row in whole}
    better, worse, judged = [], [], 0
    for behaviour in behaviours:
        ours, theirs = rate.get((behaviour, data.main)), rate.get((behaviour, data.baseline))
        if ours is None or theirs is None:
            continue
        judged += 1
        up, down = ours.rate.low > theirs.rate.high, ours.rate.high < theirs.rate.low
        if up or down:
            (better if up == ours.good else worse).append(behaviour)
    name, base = model_name(data.model(data.main)), model_name(data.model(data.baseline))
    if judged:
        point = f"{name} is better than {base} in {len(better)} of {judged} behaviours and worse in {len(worse)}"
        point += f" ({', '.join(worse)})." if worse else "."
    else:
        point = "How often each behaviour shows, by model."
    rows = [
        Row(
            label=behaviour if next(r.good for r in whole if r.behaviour == behaviour) else behaviour + " ↓",
            dots=[
                Dot(role=data.model(model).role, series=model, interval=rate[behaviour, model].rate)
                for model in models
                if (behaviour, model) in rate
            ],
        )
        for behaviour in behaviours
    ]
    key = [(data.model(model).role, model_name(data.model(model))) for model in models]
    axis = DotAxis(title="Share of answers, %", scale=100, inside=(0, 1), bounds=(0, 1), key=key, order=models)
    drawn = {row.decoding for row in whole if row.decoding}
    how = f" Decoding: {', '.join(sorted(drawn))}." if drawn else ""
    less = " Less is better where ↓ stands." if any(not row.good for row in whole) else ""
    return Figure(
        svg=dot_chart(rows, axis, point),
        point=point,
        about=f"Better and worse mean that the 95 % intervals do not touch.{less}{how} {counted(whole[0].rate)}.",
        columns=["Behaviour", "Model", "Share", "95 % interval", "n"],
        rows=[
            [
                row.behaviour,
                model_name(data.model(row.model)),
                percent(row.rate.value),
                span(row.rate, 100, 1),
                f"{row.rate.n:,}",
            ]
            for row in whole
        ],
    )


def training(data: ReportData) -> list[Figure]:
    """One figure for each stage and unit: all runs of the stage, and all their series in that unit."""
    keys = dict.fromkeys((run.stage, series.unit) for run in data.training for series in run.series)
    drawn = [_curves(data, stage, unit) for stage, unit in keys]
    return [figure for figure in drawn if figure is not None]


def _curves(data: ReportData, stage: str, unit: str) -> Figure | None:
    runs: list[Training] = [run for run in data.training if run.stage == stage]
    names = list(dict.fromkeys(s.name for run in runs for s in run.series if s.unit == unit))
    lines, says, table = [], [], []
    for run in runs:
        for series in run.series:
            known = [
                (s, v) for s, v in zip(run.steps, series.values, strict=True) if v is not None and math.isfinite(v)
            ]
            if series.unit != unit or not known:
                continue
            model = data.model(run.model)
            label = model_name(model) if len(names) == 1 else f"{model_name(model)} {series.name}"
            x, y = [s for s, _ in known], [v for _, v in known]
            lines.append(Line(label=label, role=model.role, x=x, y=y, marks=len(known) <= 12))
            says.append(f"{label} {number(y[0])} to {number(y[-1])}")
            ends = f"{number(min(y), 3)} to {number(max(y), 3)}"
            table.append([label, series.name, number(y[0], 3), number(y[-1], 3), ends, f"{x[0]:,} to {x[-1]:,}"])
    what = f"{', '.join(names)}{f', {unit}' if unit else ''}"
    if not lines:
        return None
    title = STAGES.get(stage, stage)
    point = f"{title}: {what}, first step to last: {'; '.join(says)}."
    axes = Axes(y_title=what[:1].upper() + what[1:], x_title=f"{title}, step", height=200)
    return Figure(
        svg=line_chart(lines, axes, point),
        point=point,
        about="One run each, as logged; no interval.",
        columns=["Run", "Metric", "First", "Last", "Range", "Steps"],
        rows=table,
    )
