"""Faults on order: kills at every point, NaN, divergence, two processes, a clock that jumps."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_stages import STAGES, metrics, run, same, weights

from preceptor import faults
from preceptor.errors import UserError
from preceptor.models import save
from preceptor.training.run import Run

STAGE = """
import sys
sys.path[:0] = {paths!r}
import torch
torch.set_num_threads(1)
from small_stages import run
from preceptor.errors import UserError
from preceptor.store import Workspace
try:
    run(Workspace({root!r}), {stage!r}, **{changes!r})
except UserError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
"""


# Each step is told, and before the last one the process waits for the signal that kills it.
TELLING = """
import time
from preceptor.training.run import Run
own = Run.log
def log(self, metrics):
    if self.step == self.total - 1:
        time.sleep(3600)
    own(self, metrics)
    print(self.step, flush=True)
Run.log = log
"""


def start(workspace, stage: str, fault: str = "", before: str = "", **changes) -> subprocess.Popen:
    """The stage in a process of its own, after the code `before`."""
    here = Path(__file__).parent
    code = before + STAGE.format(
        paths=[str(here), str(here.parent)], root=str(workspace.root), stage=stage, changes=changes
    )
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, faults.VARIABLE: fault},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def killed(workspace, stage: str, fault: str, **changes) -> None:
    process = start(workspace, stage, fault, **changes)
    _, said = process.communicate()
    assert process.returncode == -signal.SIGKILL, said


def once(lines: list[dict]) -> list[dict]:
    """The metrics without their clock; each step once, in order."""
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return [{**line, "seconds": 0} for line in lines]


# -- the orders themselves ------------------------------------------------------------------------------------


def test_orders_are_read():
    assert faults.parse("") == ()
    assert faults.parse("kill@step:3, nan@batch/1,full@checkpoint:12/0") == (
        faults.Fault("kill", "step", 3, None),
        faults.Fault("nan", "batch", None, 1),
        faults.Fault("full", "checkpoint", 12, 0),
    )
    for wrong in ("kill", "kill@", "kil@step", "kill@stop", "kill@step:x", "kill@step:3/x"):
        with pytest.raises(UserError, match="is no fault"):
            faults.parse(wrong)


def test_a_fault_happens_at_its_step_and_rank_only_and_once_where_asked(monkeypatch, tmp_path):
    monkeypatch.setenv(faults.VARIABLE, "inf@batch:3/1")
    assert faults.at("batch", 3) == 1.0
    monkeypatch.setenv("RANK", "1")
    assert faults.at("batch", 2) == 1.0
    assert faults.at("step", 3) == 1.0
    assert faults.at("batch", 3) == faults.at("batch", 3) == float("inf")
    monkeypatch.setenv(faults.ONCE, str(tmp_path))
    assert [faults.at("batch", 3) for _ in range(3)] == [float("inf"), 1.0, 1.0]


def test_the_documented_actions_and_points_are_the_real_ones():
    text = (Path(__file__).parents[2] / "docs" / "runs.md").read_text()
    for name, meaning in {**faults.ACTIONS, **faults.POINTS}.items():
        assert f"| `{name}` | {meaning} |" in text


# -- killed ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", ["step:5", "metrics:5", "checkpoint:4", "written:4", "named:4", "model", "placed"])
def test_killed_at_any_point_a_run_ends_with_the_same_bits(point, workspace, another):
    whole = run(another, "sft")
    killed(workspace, "sft", f"kill@{point}", checkpoint_minutes=0.0)
    assert same(whole, run(workspace, "sft"))
    assert once(metrics(workspace)) == once(metrics(another))
    left = [path.name for path in (workspace.root / "models").iterdir() if path.name.startswith(".")]
    left += [path.name for path in workspace.run("out").iterdir() if path.name.startswith(".")]
    assert left == []


@pytest.mark.parametrize("point", ["model", "placed"])
def test_killed_while_a_model_is_replaced_one_whole_model_is_there(point, workspace):
    folder = run(workspace, "sft", max_steps=2)
    old = weights(folder)
    killed(workspace, "sft", f"kill@{point}")
    now = weights(folder)
    assert all(torch.equal(old[name], now[name]) for name in old) == (point == "model")
    assert workspace.find_model("out") == folder


def test_killed_where_folders_cannot_be_exchanged_the_old_model_comes_back(workspace, monkeypatch):
    folder = run(workspace, "sft", max_steps=2)
    old = weights(folder)
    monkeypatch.setattr(save, "_exchange", lambda *folders: False)
    monkeypatch.setenv(faults.VARIABLE, "full@moved")  # an error here leaves the folders as a kill would
    with pytest.raises(OSError, match="No space"):
        run(workspace, "sft")
    assert not folder.exists()
    monkeypatch.delenv(faults.VARIABLE)
    save.recover_model(folder)
    assert all(torch.equal(old[name], tensor) for name, tensor in weights(folder).items())
    run(workspace, "sft")
    assert not same(folder, run(workspace, "sft", max_steps=2, resume=False, output="early"))


def kill_at_random(stage: str, kills: int, seed: int, workspace, another, **changes) -> list[int]:
    """Kill a run `kills` times at random moments of its training, then let it end; returns the steps it had told."""
    whole = run(another, stage, **changes)
    steps, rng, reached = len(metrics(another)), random.Random(seed), []
    for moment in sorted(rng.randrange(1, steps - 6) for _ in range(kills)):
        process = start(workspace, stage, before=TELLING, checkpoint_minutes=0.0, **changes)
        assert process.stdout is not None
        told = 0
        for line in process.stdout:
            told = int(line)
            if told >= moment:
                break
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        _, said = process.communicate()
        assert process.returncode == -signal.SIGKILL, said
        reached.append(told)
    assert same(whole, run(workspace, stage, **changes))
    assert once(metrics(workspace)) == once(metrics(another))
    return reached


def test_killed_at_random_moments_a_run_ends_with_the_same_bits(workspace, another):
    reached = kill_at_random("ppo-ptx", 2, 0, workspace, another, steps=24)
    assert min(reached) > 0


# -- not a number ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["nan", "inf"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_step_with_nan_is_refused_and_its_batch_written(stage, value, workspace, another, monkeypatch):
    whole = run(another, stage)
    with monkeypatch.context() as patch:
        patch.setenv(faults.VARIABLE, f"{value}@batch:4")
        with pytest.raises(UserError) as caught:
            run(workspace, stage, checkpoint_minutes=0.0)
    message = str(caught.value)
    path = workspace.run("out") / "refused-step-4.json"
    assert "\n" not in message
    assert "gradient_norm is nan at step 4" in message
    assert "the step was refused" in message
    assert str(path) in message
    assert json.loads(path.read_text())
    assert not workspace.model("out").exists()
    assert len(metrics(workspace)) == 3
    for checkpoint in workspace.run("out").glob("step-*"):
        (shard,) = checkpoint.glob("*.safetensors")
        tensors = load_file(shard)
        assert int(checkpoint.name[5:]) < 4
        assert all(tensor.isfinite().all() for tensor in tensors.values())
    assert same(whole, run(workspace, stage))


def test_the_refused_batch_has_its_tokens(workspace, monkeypatch):
    monkeypatch.setenv(faults.VARIABLE, "nan@batch:2")
    with pytest.raises(UserError):
        run(workspace, "sft")
    batch = json.loads((workspace.run("out") / "refused-step-2.json").read_text())
    assert len(batch["demonstrations"]) == 8
    assert all(row["prompt"] and row["answer"] for row in batch["demonstrations"])


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_reward_that_is_not_a_number_is_refused_before_anything_is_learned(value, workspace, monkeypatch):
    monkeypatch.setenv(faults.VARIABLE, f"{value}@rollout:3")
    with pytest.raises(UserError, match=r"reward_model_score is (nan|-?inf) at step 3, so the step was refused"):
        run(workspace, "ppo-ptx")
    refused = json.loads((workspace.run("out") / "refused-step-3.json").read_text())
    assert len(refused["episodes"]) == len(refused["scores"]) == 12
    assert "answer_tokens" in refused["episodes"][0]


def test_a_loss_that_is_really_not_a_number(workspace):
    """Not by order: a model with a broken weight."""
    path = workspace.model("base") / "model.safetensors"
    tensors = load_file(path)
    name = max(tensors, key=lambda name: tensors[name].numel() * ("embed" not in name))
    tensors[name].view(-1)[3] = float("nan")
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match="loss is nan at step 1, so the step was refused"):
        run(workspace, "reward")
    assert not list(workspace.run("out").glob("step-*"))
    with pytest.raises(UserError, match="base: its weights give logits of NaN or infinity"):
        run(workspace, "sft-mix", output="sft")


def test_divergence_ends_the_run_with_the_last_model_within_the_bound(workspace, another):
    settings = {"kl_stop": 1.0, "lr": 1e-3, "warmup": 0, "steps": 14}
    folder = run(workspace, "ppo-ptx", **settings)
    lines = metrics(workspace)
    assert lines[-1]["kl_to_reference"] > 1.0
    assert len(lines) >= 3
    # What acted in the last iteration but one was within; it is what its predecessor's updates left.
    before = run(another, "ppo-ptx", **{**settings, "kl_stop": None}, max_steps=len(lines) - 2)
    assert metrics(another)[-1]["kl_to_reference"] <= 1.0
    assert same(folder, before)


def test_divergence_at_once_leaves_the_start(workspace):
    folder = run(workspace, "ppo-ptx", kl_stop=-1.0)
    start_weights, found = weights(workspace.model("base")), weights(folder)
    assert all(torch.equal(found[name], tensor) for name, tensor in start_weights.items())


def test_divergence_survives_a_kill(workspace, another):
    settings = {"kl_stop": 1.0, "lr": 1e-3, "warmup": 0, "steps": 14}
    whole = run(another, "ppo-ptx", **settings)
    steps = len(metrics(another))
    run(workspace, "ppo-ptx", **settings, max_steps=steps - 1)
    assert same(whole, run(workspace, "ppo-ptx", **settings))


# -- two processes, another clock -----------------------------------------------------------------------------


def test_two_processes_on_one_run_the_second_is_refused(workspace, another, monkeypatch):
    tried = []
    own = Run.log

    def log(self, numbers):
        own(self, numbers)
        if self.step == 2:
            process = start(workspace, "sft", resume=False)
            tried.append((process.communicate()[1], process.returncode))

    with monkeypatch.context() as patch:
        patch.setattr(Run, "log", log)
        folder = run(workspace, "sft")
    ((said, code),) = tried
    assert code == 2
    assert len(said.splitlines()) == 1
    assert f"run 'out' is being trained by process {os.getpid()} on " in said
    assert same(folder, run(another, "sft"))
    assert once(metrics(workspace)) == once(metrics(another))
    run(workspace, "sft", resume=False, max_steps=1)  # the lock is gone with its run


def test_a_lock_goes_with_a_run_that_could_not_start(workspace):
    run(workspace, "sft", max_steps=1)
    for _ in range(2):
        with pytest.raises(UserError, match="other settings"):
            run(workspace, "sft", seed=5)
    run(workspace, "sft", max_steps=2)


@pytest.mark.parametrize("jump", [-1e9, 1e9])
def test_a_clock_that_jumps_changes_nothing(jump, workspace, another, monkeypatch):
    """Minutes are counted on a clock that cannot be set; the wall clock's jump shows nowhere."""
    whole = run(another, "sft", max_minutes=60.0)
    real, calls = time.time, []

    def jumping():
        calls.append(1)
        return real() + (jump if len(calls) > 5 else 0.0)

    with monkeypatch.context() as patch:
        patch.setattr(time, "time", jumping)
        first = run(workspace, "sft", max_minutes=60.0, max_steps=4)
        assert not same(whole, first)
        again = run(workspace, "sft", max_minutes=60.0)
    assert len(calls) > 5
    assert same(whole, again)
    lines = metrics(workspace)
    assert all(0 <= line["seconds"] < 600 for line in lines)
    assert once(lines) == once(metrics(another))
