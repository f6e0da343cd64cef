"""Five steps of every stage on fixed data, with the numbers they gave when they were right: a guard against drift.

A change of these numbers is a change of results. If it is meant, print the new ones with
`python -m pytest tests/training/test_golden.py -s` and say in the changelog why they moved.
"""

import pytest
from small_stages import metrics, run

GOLDEN = {
    ("ppo-ptx", "policy_loss"): [-2e-06, -0.000276, 0.000486, 0.000815, 2.7e-05],
    ("ppo-ptx", "value_loss"): [0.765841, 0.973944, 0.647105, 0.600266, 0.456533],
    ("ppo-ptx", "ptx_loss"): [6.343496, 6.561135, 6.28638, 6.373374, 6.481889],
    ("ppo-ptx", "reward_model_score"): [0.064618, -0.385185, -0.462621, -0.183512, 0.155225],
    ("ppo-ptx", "kl_to_reference"): [1e-06, 0.019023, 0.036129, 0.110028, 0.131261],
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
