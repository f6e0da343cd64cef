"""Plans as a user asks for them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from preceptor.errors import UserError
from preceptor.planning.options import PlanOptions
from preceptor.planning.plan import largest_that, plan_of
from preceptor.planning.table import plan_lines
from tiny_models import make_config

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def giant():
    return plan_of(PlanOptions(preset="175B", gpus=64, gpu_memory=80))


def test_the_paper_s_compute(giant):
    """Counted at the full context of 2,048, as its own figures seem to be: 4.9 and 60 petaflop/s-days."""
    stages = {stage["stage"]: stage for stage in giant.to_json()["stages"]}
    assert stages["sft"]["petaflop_s_days"] == pytest.approx(4.9, rel=0.1)
    assert stages["ppo"]["petaflop_s_days"] == pytest.approx(60, rel=0.1)
    assert (stages["sft"]["optimizer_steps"], stages["ppo"]["optimizer_steps"]) == (16 * 1591, 4000)
    assert stages["reward"]["optimizer_steps"] == 519


def test_175b_on_64_by_hand(giant):
    """Policy weights and reference 4 x 174.6e9 / 64, Adam twice that; a layer of 12 d^2 + 13 d gathered in bf16."""
    ppo = next(stage for stage in giant.stages if stage.stage == "ppo")
    sharded = next(one for one in ppo.options if one.layout.title == "sharded + checkpointing")
    parts = next(phase for phase in sharded.phases if phase.name == "update").parts
    assert (
        parts["policy weights"] == parts["reference weights"] == parts["average of the policy"] == 4 * 174604259328 / 64
    )
    assert parts["policy optimizer"] == 8 * 174604259328 / 64
    assert not sharded.fits
    begins = next(phase for phase in sharded.phases if phase.name == "policy backward begins").parts
    layer = 12 * 12288**2 + 13 * 12288
    assert begins["layers at work"] == 2 * (174604259328 - 96 * layer + 3 * layer)


def test_175b_fine_tuned_by_hand(giant):
    """The table of docs/plan.md, but for the one layer whose activations are measured."""
    d = 12288
    sft = next(stage for stage in giant.stages if stage.stage == "sft")
    begins = next(phase for phase in sft.chosen.phases if phase.name == "backward begins").parts
    assert sft.chosen.layout.title == "sharded + checkpointing"
    assert begins["policy weights"] == 4 * 174604259328 / 64
    assert begins["policy optimizer"] == 8 * 174604259328 / 64
    assert begins["layers at work"] == 2 * (642748416 + 3 * 1812099072)
    assert begins["activations"] - 2048 * 96 * 4 * d == pytest.approx(1.31e9, rel=0.1)
    assert begins["logits and transients"] == 4 * 4 * 83 * 50257 + 4 * 50257 * d
    assert sum(begins.values()) == pytest.approx(58.4e9, rel=0.005)
    ppo = next(stage for stage in giant.stages if stage.stage == "ppo")
    rollout = next(phase for phase in ppo.chosen.phases if phase.name == "rollout").parts
    assert rollout["cache"] == 2 * 2049 * 2 * 4 * 96 * d


def test_it_says_what_to_choose_and_when_nothing_fits(giant):
    text = "\n".join(plan_lines(giant))
    assert "sft: choose sharded + checkpointing" in text
    assert "ppo: training all weights needs" in text
    alone = plan_of(PlanOptions(preset="175B", gpus=1, gpu_memory=80, stage="sft"))
    assert alone.stages[0].chosen is None
    assert "sft: nothing fits on 1 x 80 GB" in "\n".join(plan_lines(alone))
    assert "such GPUs would be enough" in "\n".join(plan_lines(alone))


def test_a_folder_is_planned_by_our_defaults(tmp_path):
    make_config("llama").save_pretrained(tmp_path)
    plan = plan_of(PlanOptions(model=str(tmp_path), gpu_memory=1))
    assert [stage.chosen.layout.title for stage in plan.stages] == ["unsharded"] * 3
    assert (plan.work.precision, plan.work.sft_tokens, plan.work.sft_epochs) == ("fp32", 128, 16)
    assert plan.work.prompt_tokens + plan.work.answer_tokens == 128
    assert plan.reward is plan.policy
    assert json.loads(json.dumps(plan.to_json()))["policy"]["parameters"] == plan.policy.parameters


def test_batches_of_a_stage(tmp_path):
    make_config("llama").save_pretrained(tmp_path)
    plan = plan_of(PlanOptions(model=str(tmp_path), stage="ppo", batch=32, micro_batch=3, episodes=64))
    assert (plan.work.minibatch, plan.work.ppo_micro_batch, plan.work.episodes) == (32, 3, 64)
    with pytest.raises(UserError, match="add --stage"):
        plan_of(PlanOptions(model=str(tmp_path), batch=32))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "name one model"),
        ({"preset": "tiny", "model": "x"}, "name one model"),
        ({"preset": "2B"}, "no preset '2B'"),
        ({"preset": "tiny", "gpus": 0}, "--gpus is 0"),
        ({"preset": "tiny", "gpu_memory": 0.0}, "memory of a GPU is 0"),
        ({"preset": "tiny", "utilisation": 1.5}, "utilisation is 1.5"),
        ({"preset": "tiny", "demonstrations": 0}, "demonstrations is 0"),
        ({"preset": "tiny", "lora_rank": 0}, "--lora-rank is 0"),
        ({"preset": "tiny", "prompt_tokens": 4000}, "do not fit the context"),
    ],
)
def test_mistakes_are_one_line(options, said):
    with pytest.raises(UserError, match=said) as caught:
        plan_of(PlanOptions(**options))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("limit", range(8))
def test_the_largest_that_fits(limit):
    assert largest_that(lambda rows: rows <= limit, 6) == min(limit, 6)


def test_help_loads_no_torch():
    code = (
        "import sys\nfrom preceptor.cli import app\n"
        "try:\n    app(['plan', '--help'])\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--gpu-memory" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sft", "reward", "ppo"])
def test_memory_is_what_the_trainer_takes(stage, monkeypatch):
    """Allocated by torch in two steps of the trainer's own functions, on a model of 5.8M parameters."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    import plan as bench

    predicted, allocated = bench.allocations("small", stage)
    assert predicted == pytest.approx(allocated, rel=0.15)


@pytest.mark.slow
def test_175b_needs_little_itself():
    code = (
        "import resource\nfrom preceptor.cli import app\n"
        "try:\n    app(['plan', '--preset', '175B', '--gpus', '64', '--json'])\nexcept SystemExit:\n    pass\n"
        "use = resource.getrusage(resource.RUSAGE_SELF)\n"
        "import sys\nprint(use.ru_maxrss / 1024, use.ru_utime + use.ru_stime, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    mebibytes, seconds = map(float, done.stderr.splitlines()[-1].split())
    assert mebibytes < 2048
    assert seconds < 20  # of the processor; about 7 where it is idle
