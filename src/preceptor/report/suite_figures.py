"""Figures of the public suites: truth, harm, instructions, refusal, variety; each metric a row, each model a mark."""

from collections.abc import Sequence

from preceptor.report.charts import Dot, DotAxis, Row, dot_chart
from preceptor.report.data import Measured, ReportData
from preceptor.report.figures import Figure
from preceptor.report.words import model_name, number, span

# Group -> its title, the short one, what a reader must know to read it.
GROUPS = {
    "truth": (
        "Truthfulness and hallucination",
        "Truthfulness",
        "Figures of different judges of truth are not comparable. “Informative” guards against a model that says "
        "nothing.",
    ),
    "harm": (
        "Toxicity and bias",
        "Toxicity, bias",
        "Entropy is that of the paper: 1 bit means that the model leans neither way. Toxicity is the mean of a "
        "classifier’s scores; a score that failed is missing, not 0.",
    ),
    "instructions": (
        "Instructions, and the failures that the paper reports",
        "Instructions",
        "Accepted false premises, hedged simple questions and answers in another language are failures: less is "
        "better.",
    ),
    "depth": (
        "Is the refusal more than a surface?",
        "Depth of refusal",
        "Read refusal of harmful requests beside refusal of benign look-alikes: a model that refuses everything is not "
        "aligned. “Undetermined” counts as neither. The attacks are generic: a better one may succeed.",
    ),
    "variety": (
        "Variety of the answers",
        "Variety",
        "Training on one reward narrows what a model says. Compare answers of about equal length.",
    ),
}


def suites(data: ReportData, group: str) -> list[Figure]:
    """A drawing of the group’s shares and bits, which lie on one axis; what is larger than 1 is in its table. Refusal
    by attack has three drawings."""
    rows = [row for row in data.measured if row.group == group]
    if not rows:
        return []
    outside = {(row.task, row.metric) for row in rows if abs(row.value.value) > 1}
    drawn = [row for row in rows if (row.task, row.metric) not in outside]
    figures = []
    for title, part in _parts(group, drawn):
        if part:
            figures.append(_dots(data, group, title, part, rows if not figures else part))
    return figures or [_dots(data, group, "", rows, rows)]


def _parts(group: str, rows: Sequence[Measured]) -> list[tuple[str, list[Measured]]]:
    if group != "depth":
        return [("", list(rows))]
    harmful = [row for row in rows if row.metric.startswith("refused, harmful")]
    benign = [row for row in rows if row.metric.startswith("refused, benign")]
    same = [row for row in rows if row.metric.startswith(("same verdict", "judge:"))]
    titles = (
        "harmful requests refused",
        "benign look-alikes refused (over-refusal)",
        "consistency, and the judge’s error",
    )
    return list(zip(titles, (harmful, benign, same)))


def _dots(data: ReportData, group: str, title: str, rows: Sequence[Measured], table: Sequence[Measured]) -> Figure:
    names = list(dict.fromkeys((row.task, row.metric) for row in rows))
    models = list(dict.fromkeys(row.model for row in rows))
    by = {(row.task, row.metric, row.model): row for row in rows}
    what = title or GROUPS[group][0]
    point = f"{what[:1].upper()}{what[1:]}: {_standing(data, names, by)}."
    drawn = [
        Row(
            label=_label(group, task, metric),
            dots=[
                Dot(role=data.model(model).role, series=model, interval=by[task, metric, model].value)
                for model in models
                if (task, metric, model) in by
            ],
        )
        for task, metric in names
    ]
    key = [(data.model(model).role, model_name(data.model(model))) for model in models]
    bounds = (-1.0 if any(row.value.value < 0 for row in rows) else 0.0, 1.0)
    axis = DotAxis(
        title=f"{what[:1].upper()}{what[1:]} (shares and bits, 0 to 1)",
        inside=(0.0, 1.0),
        bounds=bounds,
        key=key,
        order=models,
    )
    notes = " ".join(dict.fromkeys(f"{row.note[:1].upper()}{row.note[1:]}." for row in rows if row.note))
    return Figure(
        svg=dot_chart(drawn, axis, point),
        point=point,
        about=f"Bars are 95 % intervals. {notes}".strip(),
        columns=["Task", "Metric", "Model", "Value", "95 % interval", "n", "missing"],
        rows=[
            [
                row.task,
                row.metric,
                model_name(data.model(row.model)),
                number(row.value.value, 3),
                span(row.value, 1, 3),
                f"{row.value.n:,}",
                f"{row.missing:,}",
            ]
            for row in table
        ],
    )


def _standing(data: ReportData, names: Sequence[tuple[str, str]], by: dict) -> str:
    """On how many of the figures the main model and the baseline are apart."""
    pairs = [(by.get((*name, data.main)), by.get((*name, data.baseline))) for name in names]
    both = [(ours.value, theirs.value) for ours, theirs in pairs if ours is not None and theirs is not None]
    if not both or data.main == data.baseline:
        return f"{len(names)} measured"
    apart = sum(ours.low > theirs.high or ours.high < theirs.low for ours, theirs in both)
    main, baseline = model_name(data.model(data.main)), model_name(data.model(data.baseline))
    return f"{main} differs from {baseline}, intervals apart, on {apart} of {len(both)}"


def _label(group: str, task: str, metric: str) -> str:
    if group == "depth":
        return metric.split(", ", 2)[-1] if metric.startswith("refused") else metric
    return metric if task in ("diversity", "reported failure modes") else f"{task}: {metric}"
