"""Short real steps, as a calibration makes them."""

from dataclasses import replace

import pytest

from preceptor.pipeline.calibrate import kind_of, models_of_trial, predicted_peak, trials
from preceptor.pipeline.trials import Trial, of_config, run_trials
from preceptor.planning.machine import Nominal, Rates, part_counts
from preceptor.planning.work import STAGES, own_work
from tiny_models import make_config

SIZES = {
    "sft_batch": 8,
    "sft_micro_batch": 4,
    "sft_tokens": 96,
    "answers": 3,
    "reward_batch": 2,
    "reward_micro_batch": 1,
    "reward_tokens": 96,
    "episodes": 8,
    "minibatch": 4,
    "ppo_micro_batch": 4,
    "prompt_tokens": 48,
    "answer_tokens": 16,
    "text_rows": 4,
    "text_micro_batch": 4,
    "text_tokens": 64,
}


@pytest.fixture(scope="module")
def planned() -> list[Trial]:
    work, config = replace(own_work(128), **SIZES), of_config(make_config("llama"))
    return [Trial(config=config, stage=stage, work=work) for stage in STAGES]


def test_every_stage_takes_steps_that_a_plan_can_count(planned):
    told = []
    found = run_trials(planned, traced=True, told=told.append)
    assert told == [1, 2, 3]
    for trial, took in zip(planned, found):
        parts = part_counts(trial.stage, models_of_trial(trial), trial.work, Nominal(Rates([64], [1e9], [1e9]), 1e9))
        assert set(took.seconds) == set(parts)
        assert all(seconds > 0 for seconds in took.seconds.values())
        assert took.peak > took.base > 0
        # The models are so small that rows of places and masks, which a plan leaves out, weigh beside them.
        assert predicted_peak(trial, models_of_trial(trial)).total == pytest.approx(took.allocated, rel=0.4)


def test_a_calibration_tries_every_stage_in_both_precisions_on_three_models():
    made = trials()
    assert len(made) == 18
    assert {kind_of(trial) for trial in made} == {f"{s} {p}" for s in STAGES for p in ("fp32", "bf16")}
    assert len({str(trial.config) for trial in made}) == 3
