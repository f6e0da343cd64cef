"""Two processes that share weights and work end where one does."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_stages import metrics, run, same, weights

from preceptor import faults
from preceptor.config import SftConfig
from preceptor.errors import UserError
from preceptor.training import ranks
from preceptor.training.launch import train

# No dropout: its draws depend on who draws them. Learning rates as in a real run: Adam's first steps turn any rounding
# of a gradient near 0 into a step of the whole learning rate.
SMALL = {
    "sft-mix": {"lr": 1e-4},
    "reward": {"lr": 1e-4},
    "ppo-ptx": {"lr": 1e-5, "value_lr": 1e-5},
}


def several(workspace, jobs: list, processes: int = 2, script: str = "stage_jobs.py", **environment) -> str:
    """The jobs of `stage_jobs.py` under torchrun."""
    launch = ["-W", "ignore", "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run(
        [sys.executable, *launch, str(Path(__file__).with_name(script)), str(workspace.root), json.dumps(jobs)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def close(one: list[dict], other: list[dict], within: float = 1e-5) -> None:
    assert [line["step"] for line in one] == [line["step"] for line in other]
    for a, b in zip(one, other):
        for name in a:
            if name.endswith("loss") or name in ("accuracy", "reward", "kl_to_reference", "margin"):
                assert a[name] == pytest.approx(b[name], abs=within), (name, a["step"])


def near(one, other, without: tuple[str, ...] = ()) -> None:
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    assert max(float((a[name] - b[name]).abs().max()) for name in a if not name.endswith(without)) < 1e-5


@pytest.mark.parametrize("stages", [("sft-mix", "reward", "ppo-ptx")])
def test_two_processes_make_the_loss_curve_of_one(stages, workspace, another):
    said = several(workspace, [[stage, {"output": stage, **SMALL[stage]}] for stage in stages])
    assert not said
    for stage in stages:
        whole = run(another, stage, output=stage, **SMALL[stage])
        close(metrics(workspace, stage), metrics(another, stage))
        near(workspace.model(stage), whole)


@pytest.mark.parametrize("processes", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_each_rank_draws_its_part_of_the_answers_only(processes, workspace):
    job = ["ppo-ptx", {**SMALL["ppo-ptx"], "batch": 13, "max_steps": 2}]
    lines = several(workspace, [job], processes, script="count_rollouts.py").splitlines()
    drawn = sorted(re.fullmatch(r"rank (\d) drew (\d+) from (\d+) in \S+ s", line).groups() for line in lines)
    parts = {2: [("0", "6", "0"), ("1", "7", "6")], 3: [("0", "4", "0"), ("1", "4", "4"), ("2", "5", "8")]}
    assert drawn == sorted(parts[processes] * 2)  # in each of two iterations


@pytest.mark.slow
def test_divergence_on_two_ends_the_run_with_the_last_model_within_the_bound(workspace, another):
    settings = {"lr": 1e-3, "warmup": 0, "steps": 14}
    several(workspace, [["ppo-ptx", {**settings, "kl_stop": 1.0}]])
    lines = metrics(workspace)
    assert 3 <= len(lines) < 14
    assert lines[-1]["kl_to_reference"] > 1.0
    # What acted in the last iteration but one was within; it is what its predecessor's updates left.
    several(another, [["ppo-ptx", {**settings, "max_steps": len(lines) - 2}]])
    assert metrics(another)[-1]["kl_to_reference"] <= 1.0
    assert same(workspace.model("out"), another.model("out"))


@pytest.mark.slow
def test_a_checkpoint_of_two_goes_on_in_one_and_in_two_and_of_one_in_two(workspace, another):
    """And of two in three, whose parts are cut elsewhere."""
    stage, changes = "ppo-ptx", SMALL["ppo-ptx"]
    whole = run(another, stage, **changes)
    names = ("two-one", "two-two", "two-three")
    several(workspace, [[stage, {**changes, "output": name, "max_steps": 3}] for name in names])
    (shards,) = {len(list((workspace.run(name) / "step-00000003").glob("*.safetensors"))) for name in names}
    assert shards == 2
    run(workspace, stage, **changes, output="one-two", max_steps=3)
    run(workspace, stage, **changes, output="two-one")
    several(workspace, [[stage, {**changes, "output": name}] for name in ("two-two", "one-two")])
    several(workspace, [[stage, {**changes, "output": "two-three"}]], processes=3)
    for name in (*names, "one-two"):
        close(metrics(workspace, name), metrics(another))
        near(workspace.model(name), whole)


def test_a_mistake_or_a_refused_step_is_told_by_every_rank(workspace):
    jobs = [["sft-mix", {"max_steps": 1}], ["sft-mix", {"seed": 4}], ["sft-mix", {"output": "other"}]]
    said = several(workspace, jobs, **{faults.VARIABLE: "nan@batch:2/1"}).splitlines()
    assert len(said) == 4
    assert sum("seed was 0, is 4" in line for line in said) == 2
    assert sum("is nan at step 2, so the step was refused" in line for line in said) == 2, said
    assert (workspace.run("other") / "refused-step-2.json").is_file()
    assert not workspace.model("other").exists()


@pytest.mark.slow
def test_a_worker_that_dies_is_started_again_from_the_last_checkpoint(workspace, another, tmp_path, monkeypatch):
    settings = {"model": "base", "epochs": 3, "batch": 8, "lr": 1e-4, "output": "out"}
    whole = train(another, SftConfig(**settings))
    monkeypatch.setenv(faults.VARIABLE, "kill@step:5/1")
    monkeypatch.setenv(faults.ONCE, str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    folder = train(workspace, SftConfig(**settings, workers=2, checkpoint_minutes=0.0))
    assert (tmp_path / "fault-0").exists()
    close(metrics(workspace), metrics(another))
    near(folder, whole)


@pytest.mark.slow
def test_the_command_line_under_torchrun_speaks_once_and_in_whole_lines(workspace):
    workspace.store.close()
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "preceptor", "sft"]
    words = ["--model", "base", "--epochs", "1", "--batch", "8", "--output", "out", "--workspace", str(workspace.root)]

    def start(*more: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-W", "ignore", *launch, *words, *more]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"})

    done = start()
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines() == [str(workspace.model("out"))]
    refused = start("--seed", "3")
    assert refused.returncode != 0
    told = [line for line in refused.stderr.splitlines() if "preceptor: run" in line]
    assert told
    assert all(
        re.fullmatch(r"preceptor: run 'out' exists with other settings .* choose another --output", t) for t in told
    )


def test_what_does_not_go_with_several_workers_is_refused(workspace):
    for wrong, words in (({"lora_rank": 4}, "lora_rank"), ({"workers": 0}, "workers is 0")):
        with pytest.raises(UserError, match=words):
            train(workspace, SftConfig(**{"model": "base", "workers": 2, **wrong}))


def test_shares_cover_every_row_once_whatever_the_number_of_ranks(monkeypatch):
    for size in (1, 2, 3, 7):
        monkeypatch.setattr(ranks, "size", lambda size=size: size)
        for count in (1, 2, 5, 12):
            taken, spans = [], []
            for rank in range(size):
                monkeypatch.setattr(ranks, "rank", lambda rank=rank: rank)
                places, live = ranks.share(list(range(100, 100 + count)))
                assert places
                taken += places if live else []
                spans += range(*ranks.span(count))
            assert sorted(taken) == list(range(100, 100 + count))
            assert spans == list(range(count))


def test_one_process_pays_nothing():
    assert ranks.size() == 1
    assert ranks.share([3, 1]) == ([3, 1], 1.0)
    assert ranks.total({"a": 1.5}) == {"a": 1.5}
    before = torch.ones(2)
    ranks.combine(before)
    assert before.tolist() == [1, 1]
