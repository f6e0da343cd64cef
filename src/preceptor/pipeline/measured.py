"""From the figures that `preceptor evaluate` stored to the data of a report."""

from collections.abc import Mapping
from typing import Any

from preceptor.report.data import (
    Answer,
    BestOfN,
    Measured,
    NotMeasured,
    OverOptimisation,
    Point,
    Sample,
    Strength,
    Tax,
    WinRate,
)
from preceptor.statistics.bradley_terry import bradley_terry
from preceptor.statistics.interval import Interval

FAULTS = 3  # answers of a task that are shown
FAULTS_RULE = (
    f"For each public set with answers in words, the {FAULTS} that its judge or checker found worst, where it found "
    "any fault; a judge that is a program can be wrong about each."
)
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
            cohort=_cohort(row, part),
            position=_optional(row.get("position")) if part is row else None,
            missing=row.get("missing", 0) if part is row else 0,
            note=row.get("note", "") if part is row else "",
            users=row.get("users") if part is row else None,
            training_users=row.get("training_users", 0) if part is row else 0,
        )
        for row in stored["win_rates"]
        for part in (row, *row.get("slices", ()))
    ]


def strengths(stored: Mapping[str, Any], baseline: str) -> list[Strength]:
    """Bradley-Terry with ties for each judge and decoding under which three models or more were compared on held-out
    prompts; none where no chain of comparisons connects them."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in stored["win_rates"]:
        if row.get("tally") and not row.get("cohort"):
            groups.setdefault(f"{row['judge']}, {row['decoding']}", []).append(row)
    found = []
    for judge, rows in groups.items():
        names = {row[side] for row in rows for side in ("model", "baseline")}
        if len(names) < 3:
            continue  # the win rate says it
        met = [
            (row["model"], row["baseline"], outcome, prompt)
            for row in rows
            for prompt, *counts in row["tally"]
            for outcome, count in zip((1.0, 0.5, 0.0), counts)
            for _ in range(count)
        ]
        try:
            fitted = bradley_terry(*zip(*met), reference=baseline if baseline in names else None)
        except ValueError:
            continue
        found += [Strength(model=name, strength=one, judge=judge) for name, one in fitted.strengths.items()]
    return found


def _cohort(row: Mapping[str, Any], part: Mapping[str, Any]) -> str:
    """A comparison on training prompts is a slice itself, and its slices are slices of it."""
    names = (row.get("cohort", ""), part.get("cohort", ""))
    return ", ".join(dict.fromkeys(name for name in names if name))


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


def faults(stored: Mapping[str, Any], main: str) -> list[Sample]:
    """The worst answers of `main` to each task, of those that its judge or checker found a fault in; of the model that
    was measured last where `main` was not."""
    name = main if main in stored["suites"] else next(reversed(stored["suites"]), "")
    found = []
    for row in stored["suites"].get(name, ()):
        bad = [example for example in row["examples"] if example.get("fault")]
        found += [
            Sample(
                prompt=example["prompt"],
                group="worst",
                slice=row["name"],
                answers=[Answer(model=name, text=example["answer"], notes=[example["fault"]])],
            )
            for example in bad[:FAULTS]
        ]
    return found


def samples_rule(stored: Mapping[str, Any]) -> str:
    """How the answers that the report shows were chosen."""
    rules = []
    if stored["win_rates"]:
        rules.append("For each comparison, the prompts on which the model lost to its baseline by most.")
    if stored["suites"]:
        rules.append(FAULTS_RULE)
    return " ".join(rules)


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
