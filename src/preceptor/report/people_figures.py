"""Figures about what judges said of the models: strengths of all on one scale, and scores that people gave."""

from preceptor.report.charts import Dot, DotAxis, Row, dot_chart
from preceptor.report.data import ReportData, Score, Strength
from preceptor.report.figures import Figure
from preceptor.report.words import model_name, number, span


def strengths(data: ReportData) -> list[Figure]:
    """Bradley-Terry strengths with ties, all models on one scale: one figure for each judge."""
    judges = dict.fromkeys(row.judge for row in data.strengths)
    return [_strengths(data, judge, [row for row in data.strengths if row.judge == judge]) for judge in judges]


def _strengths(data: ReportData, judge: str, given: list[Strength]) -> Figure:
    rows = sorted(given, key=lambda row: -row.strength.value)
    zero = next((row for row in rows if row.model == data.baseline), None)
    against = f" relative to {model_name(data.model(data.baseline))}" if zero else ""
    best = rows[0]
    apart = all(best.strength.low > row.strength.high for row in rows[1:])
    point = f"{model_name(data.model(best.model))} stands highest of {len(rows)} models" + (
        ", its interval apart from all others." if apart else ", but its interval meets another’s."
    )
    drawn = [
        Row(
            label=model_name(data.model(row.model)),
            dots=[Dot(role=data.model(row.model).role, series="", interval=row.strength)],
            note=f"{row.strength.n:,} comparisons",
        )
        for row in rows
    ]
    axis = DotAxis(title=f"Strength{against}, log-odds", line=(0.0, "0 = the baseline" if zero else "0 = the mean"))
    return Figure(
        svg=dot_chart(drawn, axis, point),
        point=point,
        about="Bradley-Terry model with ties (Davidson), fitted to all pairs at once. Bars are 95 % intervals, "
        f"bootstrap over prompts. Judged by: {judge or 'not said'}. One point is odds of 2.7 to 1.",
        columns=["Model", "Strength", "95 % interval", "n"],
        rows=[
            [
                model_name(data.model(row.model)),
                number(row.strength.value),
                span(row.strength),
                f"{row.strength.n:,}",
            ]
            for row in rows
        ],
    )


def scores(data: ReportData) -> list[Figure]:
    """One figure for each scale people used (Likert, toxicity, continuity): models over all, slices in the table."""
    scales = dict.fromkeys(row.what for row in data.scores)
    return [_scale(data, what, [row for row in data.scores if row.what == what]) for what in scales]


def _scale(data: ReportData, what: str, rows: list[Score]) -> Figure:
    whole = sorted((row for row in rows if not row.cohort), key=lambda row: -row.mean.value)
    says = "; ".join(f"{model_name(data.model(row.model))} {number(row.mean.value, 1)}" for row in whole)
    point = f"{what[:1].upper()}{what[1:]}, as people gave it: {says}."
    drawn = [
        Row(
            label=model_name(data.model(row.model)),
            dots=[Dot(role=data.model(row.model).role, series="", interval=row.mean)],
            note=f"{row.mean.n:,} answers",
        )
        for row in whole
    ]
    return Figure(
        svg=dot_chart(drawn, DotAxis(title=f"{what[:1].upper()}{what[1:]}"), point),
        point=point,
        about="Bars are 95 % intervals, bootstrap over prompts. The table has the slices: prompt source, use case, "
        "training and held-out users, training and held-out labelers.",
        columns=["Model", "Slice", "Mean", "95 % interval", "n"],
        rows=[
            [
                model_name(data.model(row.model)),
                row.cohort or "all",
                number(row.mean.value),
                span(row.mean),
                f"{row.mean.n:,}",
            ]
            for row in sorted(rows, key=lambda row: (row.cohort, -row.mean.value))
        ],
    )
