"""From stored figures to the report, and what `preceptor evaluate` refuses."""

from types import SimpleNamespace

import pytest

from preceptor.cli.results import evaluate
from preceptor.errors import UserError
from preceptor.evaluation.results import TaskResult
from preceptor.evaluation.tasks import TASKS
from preceptor.pipeline import measured, summary
from preceptor.pipeline.stored import write_stored
from preceptor.pipeline.workspace import _with_suites, _worst
from preceptor.report.data import ReportData, Sample
from preceptor.statistics.bradley_terry import bradley_terry
from preceptor.statistics.interval import Interval
from preceptor.store import Workspace


def row(name, metric, value, **more):
    low, high = (None, None) if value is None else (value - 0.1, value + 0.1)
    return TaskResult(name=name, metric=metric, value=value, low=low, high=high, n=10, **more).to_json()


EXAMPLES = [{"prompt": f"p{n}", "answer": "a", "fault": f"f{n}"} for n in range(5)] + [{"prompt": "p", "answer": "a"}]
STORED = {
    "suites": {
        "a": [
            row("squadv2, 0-shot", "F1", 0.5),
            row("squadv2, 0-shot", "exact match", 0.4),
            row("fr_to_en, few-shot", "BLEU", 30.0),
            row("BBQ", "accuracy, ambiguous", 0.3, missing=2, note="why", examples=EXAMPLES),
            row("quac, 0-shot", "", None, not_measured="no file"),
        ],
        "b": [row("quac, 0-shot", "", None, not_measured="no file"), row("IFEval", "m", None, not_measured="failed")],
    },
    "win_rates": [
        {
            "model": "a",
            "baseline": "b",
            "judge": "judge model m",
            "decoding": "greedy",
            "win": {"value": 0.6, "low": 0.5, "high": 0.7, "n": 20, "clusters": 20},
            "length_controlled": {"value": 0.55, "low": 0.4, "high": 0.7, "n": 20, "clusters": 20},
            "position": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 40, "clusters": 20},
            "missing": 3,
            "note": "3 timeout",
            "slices": [{"cohort": "use case: chat", "win": {"value": 1, "low": 0.9, "high": 1, "n": 9, "clusters": 9}}],
        }
    ],
}


def test_tax_is_in_hundredths_once():
    found = {(tax.task, tax.metric): tax.score for tax in measured.tax(STORED)}
    assert set(found) == {("squadv2, 0-shot", "F1"), ("fr_to_en, few-shot", "BLEU")}
    assert found["squadv2, 0-shot", "F1"].value == 50
    assert found["fr_to_en, few-shot", "BLEU"].value == 30  # BLEU runs to 100 by itself


def test_every_other_figure_has_its_section():
    (bbq,) = measured.measured(STORED)
    assert (bbq.group, bbq.task, bbq.missing, bbq.note) == ("harm", "BBQ", 2, "why")
    taxed = {name for name in (task.name for task in TASKS) if name.endswith("-shot")} | {"held-out text"}
    for task in TASKS:
        assert (measured._group({"name": task.name}) is None) is (task.name in taxed), task.name


def test_the_worst_answers_of_each_task_are_samples_of_the_report():
    shown = measured.faults(STORED, "a")
    assert [(one.prompt, one.slice, one.group) for one in shown] == [(f"p{n}", "BBQ", "worst") for n in range(3)]
    assert [(one.answers[0].model, one.answers[0].notes) for one in shown] == [("a", [f"f{n}"]) for n in range(3)]
    assert measured.faults(STORED, "b") == []
    assert measured.faults({"suites": {}}, "a") == []
    only_a = {"suites": {"a": STORED["suites"]["a"]}}
    assert measured.faults(only_a, "not measured") == shown
    assert "lost to its baseline" in measured.samples_rule(STORED)


def test_what_was_not_measured_is_told_once_for_all_models():
    gaps = {gap.what: gap.why for gap in measured.not_measured(STORED)}
    assert gaps == {"quac, 0-shot of a, b": "no file", "IFEval, m of b": "failed"}


def test_win_rates_and_their_slices():
    whole, part = measured.win_rates(STORED)
    assert (whole.missing, whole.note, whole.position.n, whole.cohort) == (3, "3 timeout", 40, "")
    assert (part.cohort, part.missing, part.position) == ("use case: chat", 0, None)
    assert part.win == Interval(value=1, low=0.9, high=1, n=9, clusters=9)
    assert measured.overoptimisation(STORED) == (None, [])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "say what to measure"),
        ({"against": "b", "judge_url": "http://127.0.0.1:9/v1"}, "--judge-url and --judge-model go together"),
        ({"data": ".", "stand_in": ["r"]}, "--stand-in needs --against"),
    ],
)
def test_options_that_do_not_go_together(options, said):
    with pytest.raises(UserError, match=said):
        evaluate("a", **options)


def compared(model, tally, judge="reward model r", baseline="sft", **more):
    """A stored comparison; by prompt won, tied, lost."""
    row = {"model": model, "baseline": baseline, "judge": judge, "decoding": "greedy"}
    return row | {"tally": [[f"p{n}", *counts] for n, counts in enumerate(tally)]} | more


def test_all_models_of_a_judge_are_on_one_scale():
    rows = [compared("ppo", [(3, 0, 1), (2, 1, 1)] * 10), compared("base", [(1, 0, 3), (0, 1, 3)] * 10)]
    ignored = [
        compared("ppo", [(0, 0, 4)] * 20, cohort="users: training users"),
        compared("ppo", [(0, 0, 4)] * 20, judge="judge model m"),  # two models: its win rate says it
    ]
    found = measured.strengths({"win_rates": [*rows, *ignored]}, "sft")
    assert {one.judge for one in found} == {"reward model r, greedy"}
    by = {one.model: one.strength for one in found}
    assert by["ppo"].low > by["sft"].value == 0 > by["base"].high
    # Davidson: the points won (ties half) are all that matters, 5.5 of 8 and 1.5 of 8 here.
    fitted = bradley_terry(
        ["ppo"] * 80 + ["base"] * 80, ["sft"] * 160,
        [1.0] * 50 + [0.5] * 10 + [0.0] * 20 + [1.0] * 10 + [0.5] * 10 + [0.0] * 60, [0] * 160, reference="sft",
    )  # fmt: skip
    for name, interval in by.items():
        assert interval.value == pytest.approx(fitted.strengths[name].value, abs=1e-5)
    parts = [compared("ppo", [(1, 0, 0)]), compared("a", [(1, 0, 0)], baseline="b")]
    assert measured.strengths({"win_rates": parts}, "sft") == []


def test_the_gold_judge_puts_the_models_of_the_demo_on_one_scale():
    names = sorted({name for pair in summary.PAIRS for name in pair})
    gold = {name: [[float(place % 3 == 0) * number, 3.0] for place in range(30)] for number, name in enumerate(names)}
    given = {(name, "T = 1"): SimpleNamespace(gold=gold[name]) for name in names}
    by = {one.model: one.strength for one in summary.gold_strengths(given)}
    assert sorted(by) == names
    assert (by[summary.SFT].value, by[summary.SFT].clusters) == (0, 30)
    assert [name for name in sorted(by, key=lambda name: by[name].value) if names.index(name) > 3] == names[4:]


def test_lost_comparisons_say_their_use_case_split_and_judge():
    row = compared("ppo", [], cohort="users: training users", worst=[["p", "ours", "theirs", "rewrite"]])
    (lost,) = _worst({"win_rates": [row]})
    assert lost.slice == "rewrite, users: training users, judged by the reward model r"
    assert [(one.model, one.text) for one in lost.answers] == [("ppo", "ours"), ("sft", "theirs")]


def test_a_demos_report_gains_the_worst_answers_of_its_suites(tmp_path):
    workspace = Workspace.create(tmp_path / "demo")
    kept = tmp_path / "report.json"
    own = Sample(prompt="own", answers=[])
    kept.write_text(ReportData(workspace="demo", created="d", main="a", samples=[own]).to_json(), encoding="utf-8")
    assert _with_suites(workspace, kept).samples_rule == ""
    write_stored(workspace, STORED)
    data = _with_suites(workspace, kept)
    assert [one.prompt for one in data.samples] == ["own", "p0", "p1", "p2"]
    assert data.samples_rule == measured.FAULTS_RULE
