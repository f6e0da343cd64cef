"""What a GPU needs of the training code, as far as it can be seen on a machine without one."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from small_stages import metrics, run

from preceptor.errors import UserError
from preceptor.models.load import load_policy, masked_attention
from preceptor.rollout.engine import generate
from preceptor.types import Sampling
from tiny_models import save


def test_a_checkpoint_keeps_the_generators_of_the_gpus(workspace, monkeypatch):
    """Dropout on a GPU is drawn from that GPU's generator: its state is saved, and set again at the next start."""
    states = [torch.arange(16, dtype=torch.uint8), torch.arange(16, 32, dtype=torch.uint8)]
    found = []
    monkeypatch.setattr("preceptor.training.sft.load_policy", lambda *a, **k: _on_cpu(*a, **k))
    run(workspace, "sft", max_steps=1)  # written on a machine without a GPU
    gpus = SimpleNamespace(
        is_available=lambda: True,
        device_count=lambda: len(states),
        get_rng_state_all=lambda: states,
        set_rng_state_all=found.append,
    )
    monkeypatch.setattr("preceptor.training.checkpoints.cuda", gpus)
    run(workspace, "sft", max_steps=2)
    run(workspace, "sft", max_steps=3)
    assert found[0] == []
    assert [state.tolist() for state in found[1]] == [state.tolist() for state in states]


def _on_cpu(source, device=None, **options):
    from preceptor.models.load import load_policy

    return load_policy(source, torch.device("cpu"), **options)


def process(*arguments: str):
    paths = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("architecture", ["llama", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_every_stage_runs_on_a_device_of_its_own(architecture, tmp_path):
    """SFT, reward model, PPO-ptx of four models and of four roles over one base, rollouts: no operation mixes devices.

    The device is pretended (tests/pretend_gpu.py); what only a real GPU can show is not shown here.
    """
    script = Path(__file__).parent / "on_pretended_gpu.py"
    done = process(str(script), str(tmp_path), architecture)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)["waits_per_decode_step"] <= 1  # a row may be done


def test_a_tensor_left_on_the_processor_is_found(tmp_path):
    """The pretended GPU refuses what a real one refuses."""
    code = (
        "import torch; from pretend_gpu import pretended_gpu, register; register()\n"
        "with pretended_gpu() as gpu:\n"
        "    there = torch.arange(3, device='pretend')\n"
        "    assert (there[torch.tensor([1, 2])] * torch.tensor(2)).tolist() == [2, 4]\n"
        "    assert gpu.waits.total() == 1\n"
        "    there + torch.arange(3)\n"
    )
    paths = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert "expected all tensors on the same device; on the processor: [(3,)]" in done.stderr


def test_kernels_that_need_what_is_not_here_are_refused_in_one_line(workspace):
    with pytest.raises(UserError, match=r"cannot load .*FlashAttention2"):
        run(workspace, "sft", attention="flash_attention_2")
    with pytest.raises(UserError, match="choose sdpa, eager"):
        run(workspace, "sft", attention="fast")


@pytest.mark.parametrize("stage", ["pretrain", "sft", "reward", "ppo-ptx"])
def test_other_attention_kernels_give_the_same_losses(stage, workspace, another):
    run(workspace, stage, max_steps=2)
    run(another, stage, max_steps=2, attention="eager")
    names = ("loss", "policy_loss", "value_loss", "ptx_loss")
    for one, other in zip(metrics(workspace), metrics(another)):
        assert [one[n] for n in names if n in one] == pytest.approx([other[n] for n in names if n in one], abs=1e-4)


def test_rollouts_take_kernels_that_know_masks(tmp_path):
    """The engine's masks are boolean, which `eager` would add to its weights: answers are drawn by torch's kernels."""
    model = load_policy(save(tmp_path / "m"))
    ask = {"sampling": Sampling(max_new_tokens=6), "stop": frozenset(), "pad": 1}

    def drawn():
        return [
            n for row in generate(model, [[5, 6], [7]], **ask) for e in row for n in (*e.answer_tokens, *e.logprobs)
        ]

    expected = pytest.approx(drawn(), abs=1e-4)
    model.set_attn_implementation("eager")
    with masked_attention(model):
        assert drawn() == expected
    assert model.config._attn_implementation == "eager"
    assert drawn() != expected


def test_the_gpu_benchmark_runs_at_toy_size(tmp_path):
    script = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu.py"
    options = ["--device", "cpu", "--size", "toy", "--output", str(tmp_path)]
    done = process(str(script), *options)
    assert done.returncode == 0, done.stderr[-2000:]
    (figures,) = tmp_path.glob("gpu-*.json")
    found = json.loads(figures.read_text())
    assert found["ppo"]["step_3_hours"] == pytest.approx(131_900 / found["ppo"]["episodes_per_second"] / 3600)
    assert 0 < found["sft"]["mfu"] < 1
    assert found["decode"]["bandwidth_share"] > 0
    assert "| ppo | step 3 hours |" in next(tmp_path.glob("*.md")).read_text()
