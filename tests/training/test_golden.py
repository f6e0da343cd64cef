"""Five steps of every stage on fixed data, with the numbers they gave when they were right: a guard against drift.

A change of these numbers is a change of results. If it is meant, print the new ones with
`python -m pytest tests/training/test_golden.py -s` and say in the changelog why they moved.
"""

import pytest
from small_stages import metrics, run

GOLDEN = {
    ("ppo-ptx", "policy_loss"): [-0.000131, -0.000775, 0.000989, 0.000791, 0.001076],
    ("ppo-ptx", "value_loss"): [0.40354, 0.595783, 0.417186, 0.457834, 0.380102],
    ("ppo-ptx", "ptx_loss"): [6.343587, 6.561898, 6.285103, 6.373159, 6.478512],
    ("ppo-ptx", "reward_model_score"): [0.264284, -0.45644, -0.106385, -0.10179, -0.294566],
    ("ppo-ptx", "kl_to_reference"): [1e-06, -0.036499, -0.010447, 0.022442, -0.002133],
    ("ppo-ptx", "answer_tokens"): [10.0, 10.0, 10.0, 10.0, 9.25],
    ("pretrain", "loss"): [5.65637, 5.205589, 5.012709, 4.444486, 4.225229],
    ("reward", "loss"): [0.722495, 0.671438, 0.698541, 0.752221, 0.694871],
    ("reward", "margin"): [-0.311192, -0.061854, 0.000458, -0.089403, 0.013286],
    ("sft", "loss"): [6.281402, 5.861394, 5.862676, 5.84189, 5.800767],
    ("sft-mix", "loss"): [6.430472, 6.47141, 6.304151, 6.197946, 6.036628],
    ("sft-mix", "pretraining_loss"): [6.50102, 6.307269, 6.319455, 6.114197, 6.090268],
}


@pytest.mark.parametrize("stage", sorted({stage for stage, _ in GOLDEN}))
def test_five_steps(stage, workspace):
    run(workspace, stage, max_steps=5)
    lines = metrics(workspace)
    for (of, name), expected in GOLDEN.items():
        if of == stage:
            found = [line[name] for line in lines]
            print(f"    ({stage!r}, {name!r}): {[round(value, 6) for value in found]},")
            assert found == pytest.approx(expected, abs=1e-4)
