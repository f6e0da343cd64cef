import json
import math

import pytest
from report_example import example

from preceptor.report.data import ReportData, Series, Training, Verdict
from preceptor.statistics.interval import Interval


def test_a_report_survives_json():
    data = example()
    text = data.to_json()
    json.loads(text)
    assert ReportData.from_json(text) == data
    assert ReportData.from_json(ReportData(workspace="w", created="d").to_json()) == ReportData(
        workspace="w", created="d"
    )


def test_infinite_ends_survive_json():
    unknown = Interval(value=1, low=-math.inf, high=math.inf, n=2, clusters=1)
    data = ReportData(workspace="w", created="d", verdicts=[Verdict.above("c", unknown, 0.0)])
    assert ReportData.from_json(data.to_json()) == data


def test_faults_are_named():
    with pytest.raises(ValueError, match=r"report has no field 'verdict'"):
        ReportData.from_json('{"workspace": "w", "created": "d", "verdict": []}')
    with pytest.raises(ValueError, match="workspace"):
        ReportData.from_json('{"created": "d"}')
    run = Training(stage="sft", model="m", steps=[0, 1], series=[Series(name="loss", values=[1.0])])
    with pytest.raises(ValueError, match="loss has 1 values for 2 steps"):
        ReportData(workspace="w", created="d", training=[run])


def test_a_verdict_needs_the_whole_interval():
    def made(low, high):
        return Interval(value=(low + high) / 2, low=low, high=high, n=10, clusters=5)

    assert Verdict.above("c", made(0.51, 0.6)).outcome == "shown"
    assert Verdict.above("c", made(0.49, 0.7)).outcome == "not shown"
    assert Verdict.below("c", made(0.3, 0.49)).outcome == "shown"
    assert Verdict.below("c", made(0.3, 0.5)).outcome == "not shown"
