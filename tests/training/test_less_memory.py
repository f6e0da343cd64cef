"""What saves memory and changes no result: layers computed again, text in micro-batches, kernels let go."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small_stages import metrics, run

from preceptor.config import PpoConfig, RewardConfig, SftConfig
from preceptor.errors import UserError
from preceptor.models.load import checkpoint_layers, scalar_from_policy
from preceptor.text.batches import Blocks
from preceptor.training import ppo, reward, sft
from preceptor.training.data import Example, RankedPrompt
from tiny_models import ARCHITECTURES, make_model, save

EXAMPLES = [Example([9, 30], [31, 32, 0]), Example([5], [40, 41, 42, 43, 44, 0]), Example([7, 8, 9], [50, 0])]
RANKED = [RankedPrompt([9, 30], [[31, 0], [32, 33, 34, 0], [35, 0]], [(0, 1), (0, 2), (1, 2)], "ann")]


def gradient(model):
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def passes(model):
    """How often each layer was computed: of the first layer, every one of its parts is called once for each."""
    calls = []
    first = next(module for name, module in model.named_modules() if name.endswith(".0"))
    next(module for _, module in first.named_children()).register_forward_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_checkpointed_layers_give_the_same_gradient_to_the_last_bit(architecture, precision, tmp_path):
    save(tmp_path / "m", architecture)
    config = {"micro_batch": 2, "precision": precision}
    for make, learn in (
        (lambda: make_model(architecture), lambda m: sft.learn(m, EXAMPLES, None, 1, SftConfig(**config))),
        (
            lambda: scalar_from_policy(tmp_path / "m", 1),
            lambda m: reward.learn_rankings(m, RANKED, 1, RewardConfig(**config)),
        ),
    ):
        plain, again = make().train(), make()
        checkpoint_layers(again)
        counts = passes(plain), passes(again)
        losses = []
        for model in (plain, again):
            torch.manual_seed(0)  # of the dropout that some of them have
            losses.append(learn(model))
        assert losses[0] == losses[1]
        assert torch.equal(gradient(plain), gradient(again))
        assert len(counts[1]) == 2 * len(counts[0]) > 0


def test_a_model_whose_layers_cannot_be_checkpointed_is_refused():
    model = make_model()
    model.supports_gradient_checkpointing = False
    with pytest.raises(UserError, match="cannot checkpoint its layers"):
        checkpoint_layers(model)


@pytest.mark.parametrize("stage", ["sft-mix", "ppo-ptx"])
def test_a_run_goes_on_with_the_setting_changed_and_gives_the_same_numbers(workspace, stage):
    run(workspace, stage, max_steps=2)
    run(workspace, stage, max_steps=4, gradient_checkpointing=True)
    checkpointed = metrics(workspace)
    run(workspace, stage, max_steps=4, resume=False)
    names = ("loss", "pretraining_loss", "policy_loss", "value_loss", "ptx_loss", "reward_model_score")
    for one, other in zip(checkpointed, metrics(workspace), strict=True):
        assert {n: one.get(n) for n in names} == {n: other.get(n) for n in names}


def test_the_split_of_text_into_micro_batches_does_not_change_its_gradient():
    ids = np.random.default_rng(0).integers(5, 290, 200).astype(np.uint16)
    blocks = Blocks(ids, 12).take(range(7))
    for learn in (
        lambda model, micro: ppo.ptx_gradient(model, blocks, PpoConfig(ptx_coef=0.3, micro_batch=micro)),
        lambda model, micro: sft.learn(model, EXAMPLES, blocks, 1, SftConfig(micro_batch=micro))["pretraining_loss"],
    ):
        models = [make_model() for _ in range(3)]
        calls = [[] for _ in models]
        for model, seen in zip(models, calls):
            model.base_model.register_forward_hook(lambda *_, seen=seen: seen.append(1))
        losses = [learn(model, micro) for model, micro in zip(models, (7, 3, 1))]
        assert losses[1:] == pytest.approx([losses[0]] * 2, rel=1e-5)
        assert len(calls[0]) < len(calls[1]) < len(calls[2])
        for model in models[1:]:
            assert (gradient(model) - gradient(models[0])).norm() < 1e-6 * gradient(models[0]).norm()


SHAPES = """
import preceptor.models, torch
from pathlib import Path

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

weight = torch.randn(64, 64, dtype=torch.bfloat16)
torch.nn.functional.linear(torch.randn(8, 64, dtype=torch.bfloat16), weight)
before = resident()
for rows in range(1, 401):
    torch.nn.functional.linear(torch.randn(16 * rows, 64, dtype=torch.bfloat16), weight)
print(resident() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")
@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="no kernels for bf16 on this processor")
def test_kernels_of_shapes_met_before_are_let_go():
    many = {"LRU_CACHE_CAPACITY": "1024", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "1024"}
    grown = [
        float(subprocess.run([sys.executable, "-c", SHAPES], capture_output=True, check=True, env=env).stdout)
        for env in (os.environ | many, {k: v for k, v in os.environ.items() if k not in many})
    ]
    assert grown[1] < grown[0] / 2, grown  # a user's own setting stands, and keeps all 400
