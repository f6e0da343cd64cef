"""Runs are repeatable, and a run that was stopped ends as one that was not."""

import pytest
from small_stages import STAGES, metrics, run, same


@pytest.mark.parametrize("stage", STAGES)
def test_one_seed_gives_the_same_weights_and_another_seed_others(stage, workspace, another):
    first = run(workspace, stage)
    assert same(first, run(another, stage))
    assert not same(first, run(another, stage, seed=1, resume=False))


@pytest.mark.parametrize("stage", STAGES)
def test_a_stopped_run_goes_on_to_the_same_bits(stage, workspace, another):
    whole = run(workspace, stage)
    lines = metrics(workspace)
    assert len(lines) >= 4
    early = run(another, stage, max_steps=2)
    assert [line["step"] for line in metrics(another)] == [1, 2]
    assert not same(whole, early)
    assert same(whole, run(another, stage))
    again = metrics(another)
    assert [line["step"] for line in again] == list(range(1, len(lines) + 1))
    for one, other in zip(lines, again):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}
