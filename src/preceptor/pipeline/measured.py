"""From the figures that `preceptor evaluate` stored to the data of a report."""

from collections.abc import Mapping
from typing import Any

from preceptor.report.data import BestOfN, Measured, NotMeasured, OverOptimisation, Point, Tax, WinRate
from preceptor.statistics.interval import Interval

TAX_METRICS = ("F1", "accuracy", "BLEU", "ROUGE-L")
# How the name of a task begins -> its part of the report.
GROUPS = {
    "TruthfulQA": "truth",
    "closed-domain hallucination": "truth",
    "RealToxicityPrompts": "harm",
    "Winogender": "harm",
    "CrowS-Pairs": "harm",
    "BBQ": "harm",
    "IFEval": "instructions",
    "reported failure modes": "instructions",
    "depth of refusal": "depth",
    "diversity": "variety",
}


def win_rates(stored: Mapping[str, Any]) -> list[WinRate]:
    """Of reward models and judge models, all prompts and by slice."""
    return [
        WinRate(
            model=row["model"],
            baseline=row["baseline"],
            judge=row["judge"],
            decoding=row["decoding"],
            win=Interval.from_json(part["win"]),
            length_controlled=_optional(part.get("length_controlled")),
            cohort=part.get("cohort", ""),
            position=_optional(row.get("position")) if part is row else None,
            missing=row.get("missing", 0) if part is row else 0,
            note=row.get("note", "") if part is row else "",
        )
        for row in stored["win_rates"]
        for part in (row, *row.get("slices", ()))
    ]


def _optional(interval: Mapping[str, Any] | None) -> Interval | None:
    return None if interval is None else Interval.from_json(interval)


def tax(stored: Mapping[str, Any]) -> list[Tax]:
    """Shares times 100, as the paper's tables have them; BLEU runs to 100 already."""
    return [
        Tax(task=row["name"], metric=metric, model=name, score=_interval(row, 1 if metric == "BLEU" else 100))
        for name, rows in stored["suites"].items()
        for row in rows
        if row["value"] is not None and (metric := row["metric"]) in TAX_METRICS and _group(row) is None
    ]


def measured(stored: Mapping[str, Any]) -> list[Measured]:
    """Every other figure of the suites, in the group it belongs to."""
    return [
        Measured(
            group=group,
            task=row["name"],
            metric=row["metric"],
            model=name,
            value=_interval(row, 1),
            missing=row["missing"],
            note=row["note"],
        )
        for name, rows in stored["suites"].items()
        for row in rows
        if row["value"] is not None and (group := _group(row)) is not None
    ]


def not_measured(stored: Mapping[str, Any]) -> list[NotMeasured]:
    """Tasks without a figure; the same reason for several models is told once."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for name, rows in stored["suites"].items():
        for row in rows:
            if row["value"] is None:
                what = f"{row['name']}, {row['metric']}" if row["metric"] else row["name"]
                reasons.setdefault((what, row["not_measured"]), []).append(name)
    return [NotMeasured(what=f"{what} of {', '.join(names)}", why=why) for (what, why), names in reasons.items()]


def overoptimisation(stored: Mapping[str, Any]) -> tuple[OverOptimisation | None, list[BestOfN]]:
    """Proxy against a stand-in for gold, and best-of-n, where they were measured."""
    found = stored.get("overoptimisation")
    if not found:
        return None, []
    points = [
        Point(step=p["step"], kl=p["kl"], proxy=Interval.from_json(p["proxy"]), gold=Interval.from_json(p["gold"]))
        for p in found["points"]
    ]
    best = [
        BestOfN(n=b["n"], kl=b["kl"], gold=Interval.from_json(b["gold"]), proxy=Interval.from_json(b["proxy"]))
        for b in found["best_of_n"]
    ]
    run = OverOptimisation(
        model=found["model"], points=points, gold_name=found["gold_name"], stand_in=True, prompts=found["prompts"]
    )
    return run, best


def _group(row: Mapping[str, Any]) -> str | None:
    return next((group for start, group in GROUPS.items() if row["name"].startswith(start)), None)


def _interval(row: Mapping[str, Any], scale: float) -> Interval:
    """Clusters were not stored: n stands for them."""
    low, high = (
        scale * row[end] if row[end] is not None else float(f"{sign}inf") for end, sign in (("low", "-"), ("high", ""))
    )
    return Interval(value=scale * row["value"], low=low, high=high, n=row["n"], clusters=row["n"])
