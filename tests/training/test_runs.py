"""Killed, cut off, damaged, out of disk, misconfigured: nothing is lost and the message is one clear line."""

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from small_stages import metrics, run, same, weights
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from preceptor import faults
from preceptor.config import PpoConfig, SftConfig, StageConfig, settings_of
from preceptor.errors import UserError
from preceptor.models.save import read_card
from preceptor.training import pretrain
from preceptor.training import run as run_module
from preceptor.training.run import Run
from preceptor.types import Demonstration, Prompt


def refused(call, *words):
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def script(workspace, body: str, **options) -> subprocess.CompletedProcess:
    """Run Python in a process of its own, with the workspace as `workspace` and the small stages at hand."""
    head = f"""
        import os, signal, sys
        sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1])]!r}
        import torch
        torch.set_num_threads(1)
        from small_stages import run
        from preceptor.store import Workspace
        from preceptor.training.run import Run
        workspace = Workspace({str(workspace.root)!r})
    """
    code = textwrap.dedent(head) + textwrap.dedent(body)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, **options)


# -- killed ---------------------------------------------------------------------------------------------------


def test_a_killed_process_goes_on_to_the_same_bits(workspace, another):
    stage = "ppo-ptx"
    whole = run(another, stage)
    done = script(
        workspace,
        f"""
        own = Run.log
        def log(self, metrics):
            own(self, metrics)
            if self.step == 5:
                os.kill(os.getpid(), signal.SIGKILL)
        Run.log = log
        own_due = Run.due
        Run.due = lambda self: self.step == 3
        run(workspace, {stage!r})
        """,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [line["step"] for line in metrics(workspace)] == [1, 2, 3, 4, 5]
    assert not workspace.model("out").exists()
    assert same(whole, run(workspace, stage))
    lines = metrics(workspace)
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    assert [{**line, "seconds": 0} for line in lines] == [{**line, "seconds": 0} for line in metrics(another)]


def test_a_process_that_is_asked_to_end_saves_first(workspace, another, monkeypatch):
    whole = run(another, "sft")
    before = signal.getsignal(signal.SIGTERM)
    own = Run.log

    def log(self, metrics):
        if self.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        own(self, metrics)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "log", log)
        run(workspace, "sft")
    assert signal.getsignal(signal.SIGTERM) == before
    assert len(metrics(workspace)) == 4
    assert checkpoints(workspace) == ["step-00000004"]
    assert same(whole, run(workspace, "sft"))


def test_a_run_past_its_minutes_leaves_a_checkpoint_of_its_last_step(workspace, monkeypatch):
    """The time may run out between the question for a checkpoint and the end of the loop."""
    clock = count()
    monkeypatch.setattr(run_module, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    ends = set()
    for seconds in range(5, 16):
        run(workspace, "sft", max_minutes=seconds / 60, resume=False)
        ends.add(len(metrics(workspace)))
        assert checkpoints(workspace)[-1] == f"step-{len(metrics(workspace)):08d}"
    assert len(ends) > 2
    assert max(ends) < 9


def test_tensorboard_has_every_step_once(workspace):
    run(workspace, "sft", max_steps=4)
    run(workspace, "sft")
    board = EventAccumulator(str(workspace.run("out") / "tensorboard"))
    board.Reload()
    assert [event.step for event in board.Scalars("loss")] == list(range(1, 10))


# -- checkpoints ----------------------------------------------------------------------------------------------


def checkpoints(workspace) -> list[str]:
    return sorted(path.name for path in workspace.run("out").glob("step-*"))


def often(monkeypatch):
    monkeypatch.setattr(Run, "due", lambda self: True)


@pytest.mark.parametrize("keep", [1, 2, 4])
def test_the_last_checkpoints_are_kept(keep, workspace, monkeypatch):
    often(monkeypatch)
    run(workspace, "sft", keep=keep)
    assert checkpoints(workspace) == [f"step-{step:08d}" for step in range(10 - keep, 10)]


@pytest.mark.parametrize("harm", ["cut", "flip", "no sum", "no shard", "other state"])
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_it_used(harm, workspace, another, monkeypatch, capsys):
    whole = run(another, "sft")
    often(monkeypatch)
    run(workspace, "sft", max_steps=5)
    last = workspace.run("out") / "step-00000005"
    (shard,) = last.glob("*.safetensors")
    content = shard.read_bytes()
    if harm == "cut":
        shard.write_bytes(content[: len(content) // 2])
    elif harm == "flip":
        shard.write_bytes(content[:-5000] + bytes([content[-5000] ^ 1]) + content[-4999:])
    elif harm == "no sum":
        (last / "SHA256").unlink()
    elif harm == "no shard":
        shard.unlink()
    else:
        state = last / "state.json"
        state.write_text(state.read_text().replace('"step": 5', '"step": 6'))
    assert same(whole, run(workspace, "sft"))
    said = capsys.readouterr().err
    assert "step-00000005 is damaged" in said
    assert "going on after step 4 of 9" in said
    assert [line["step"] for line in metrics(workspace)] == list(range(1, 10))


def test_with_every_checkpoint_damaged_a_run_starts_anew(workspace, another):
    whole = run(another, "sft")
    run(workspace, "sft", max_steps=2)
    (workspace.run("out") / "step-00000002" / "state.json").write_bytes(b"")
    assert same(whole, run(workspace, "sft"))
    assert len(metrics(workspace)) == 9


def test_no_resume_starts_anew(workspace):
    run(workspace, "sft", max_steps=2)
    run(workspace, "sft", resume=False, seed=1, max_steps=3)
    assert [line["step"] for line in metrics(workspace)] == [1, 2, 3]


def test_a_finished_run_started_again_trains_nothing_and_keeps_its_card(workspace):
    folder = run(workspace, "reward")
    before, card = weights(folder), read_card(folder)
    lines = metrics(workspace)
    assert same(folder, run(workspace, "reward"))
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(folder).items())
    assert metrics(workspace) == lines
    assert read_card(folder) == card


# -- other settings -------------------------------------------------------------------------------------------


def test_changed_settings_are_named(workspace):
    run(workspace, "sft", max_steps=2)
    refused(lambda: run(workspace, "sft", lr=7e-4), "'out'", "lr was 0.001, is 0.0007", "--no-resume")
    refused(lambda: run(workspace, "sft", seed=4), "seed was 0, is 4")
    refused(lambda: run(workspace, "reward"), "stage was 'sft', is 'reward'")
    assert len(metrics(workspace)) == 2
    run(workspace, "sft", max_steps=3, checkpoint_minutes=1.0)  # these say how long, not what
    assert len(metrics(workspace)) == 3


def test_a_run_of_a_version_with_fewer_settings_goes_on(workspace, another):
    """What it did not know, it did as the default does now; a new setting of another value is a change."""
    whole = run(another, "sft")
    run(workspace, "sft", max_steps=4)
    path = workspace.run("out") / "run.json"
    identity = json.loads(path.read_text())
    for name in ("dropout", "lora_rank", "attention", "reward_model"):
        del identity["config"][name]
    identity["config"]["workers"] = 1  # which it still took for part of what comes out
    path.write_text(json.dumps(identity))
    refused(lambda: run(workspace, "sft", dropout=0.1), "dropout was 0.2, is 0.1")
    assert same(whole, run(workspace, "sft"))
    assert json.loads(path.read_text())["config"]["dropout"] == 0.2
    assert [line["step"] for line in metrics(workspace)] == list(range(1, 10))


def test_a_setting_that_is_no_more_is_named(workspace):
    run(workspace, "sft", max_steps=2)
    path = workspace.run("out") / "run.json"
    identity = json.loads(path.read_text())
    identity["config"]["smoothing"] = 0.1
    path.write_text(json.dumps(identity))
    refused(lambda: run(workspace, "sft"), "smoothing was 0.1, is None")


def test_changed_data_and_models_are_named(workspace):
    run(workspace, "sft", max_steps=2)
    prompt = next(workspace.store.prompts(split="train"))
    workspace.store.add_demonstrations([Demonstration.of(prompt.id, "bob", "a new one")])
    refused(lambda: run(workspace, "sft"), "demonstrations-train-", "--output")


def test_a_changed_base_is_named(workspace):
    run(workspace, "sft", max_steps=2)
    base = workspace.model("base-gpt2")
    content = bytearray((base / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (base / "model.safetensors").write_bytes(content)
    refused(lambda: run(workspace, "sft"), "model was 'base-gpt2@")


# -- the disk is full -----------------------------------------------------------------------------------------


def full(*args, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def left_over(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".") or path.suffix in (".tmp", ".new")]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("full@checkpoint:5", ["step-00000005", "No space left"]),
        ("full@written:5", ["step-00000005", "No space left"]),
        ("readonly@checkpoint:5", ["step-00000005", "Read-only file system"]),
    ],
)
def test_disk_full_at_a_checkpoint_keeps_the_one_before(fault, words, workspace, another, monkeypatch):
    whole = run(another, "sft")
    run(workspace, "sft", max_steps=3)
    with monkeypatch.context() as patch:
        patch.setenv(faults.VARIABLE, fault)
        refused(lambda: run(workspace, "sft", max_steps=5), "cannot save the checkpoint", *words, "is kept")
    assert checkpoints(workspace) == ["step-00000003"]
    assert not left_over(workspace.run("out"))
    assert same(whole, run(workspace, "sft"))
    assert [line["step"] for line in metrics(workspace)] == list(range(1, 10))


def test_disk_full_beside_the_training_ends_the_run_soon(workspace, monkeypatch):
    """A checkpoint is written in a thread: its failure is raised by one of the next steps, and not lost at the end."""
    monkeypatch.setattr(Run, "due", lambda self: self.step == 3)
    monkeypatch.setenv(faults.VARIABLE, "full@checkpoint:3")
    refused(lambda: run(workspace, "sft"), "step-00000003", "No space left")
    assert not workspace.model("out").exists()


@pytest.mark.parametrize(("fault", "words"), [("full@start", "No space left"), ("readonly@start", "Read-only")])
def test_disk_full_or_read_only_at_the_start(fault, words, workspace, monkeypatch):
    monkeypatch.setenv(faults.VARIABLE, fault)
    refused(lambda: run(workspace, "sft"), "cannot start the run", words)
    assert not workspace.run("out").exists()


def test_disk_full_at_the_metrics(workspace, another, monkeypatch):
    whole = run(another, "sft")
    run(workspace, "sft", max_steps=2)
    with monkeypatch.context() as patch:
        patch.setenv(faults.VARIABLE, "full@metrics:4")
        refused(lambda: run(workspace, "sft"), "metrics.jsonl", "No space left", "the last checkpoint is kept")
    assert same(whole, run(workspace, "sft"))
    assert [line["step"] for line in metrics(workspace)] == list(range(1, 10))


@pytest.mark.parametrize(("limit", "what"), [(130_000, "checkpoint"), (60_000, "model")])
def test_a_file_system_that_really_refuses_to_write(limit, what, workspace):
    """No file may grow past `limit` bytes: what torch and safetensors raise then is not always an OSError."""
    done = script(
        workspace,
        f"""
        import resource
        from preceptor.errors import UserError
        import preceptor.training.run as module
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        own = module.save_model
        def limit(*args, **options):
            resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
            return own(*args, **options)
        if {what!r} == "model":
            module.save_model = limit
        else:
            own = lambda: None
            limit()
        try:
            run(workspace, "sft")
        except UserError as error:
            print(error)
            sys.exit(2)
        """,
    )
    assert done.returncode == 2, done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert f"cannot save the {what}" in done.stdout
    assert not workspace.model("out").exists()
    assert not left_over(workspace.root / "models")
    assert not left_over(workspace.run("out"))
    folder = run(workspace, "sft")
    assert read_card(folder).metrics["steps"] == 9


# -- bad input ------------------------------------------------------------------------------------------------


def test_prompts_longer_than_the_context_are_left_out_and_counted(workspace, capsys):
    long = Prompt.of("the fox " * 300, user_id="long")
    workspace.store.add_prompts([long])
    workspace.store.add_demonstrations([Demonstration.of(long.id, "ann", "what a long prompt")])
    run(workspace, "sft", max_steps=1)
    assert "left out 1 demonstrations of more than 512 tokens" in capsys.readouterr().err
    run(workspace, "ppo-ptx", steps=1, output="p")
    assert "left out 1 prompts of more than 502 tokens" in capsys.readouterr().err


def test_only_prompts_longer_than_the_context_are_refused(workspace):
    refused(lambda: run(workspace, "sft", max_tokens=3), "no demonstration has at most 3 tokens")
    refused(lambda: run(workspace, "reward", max_tokens=3), "no ranking whose answers have at most 3 tokens")
    refused(lambda: run(workspace, "ppo-ptx", max_prompt_tokens=3), "no prompt has at most 3 tokens")
    refused(lambda: run(workspace, "ppo-ptx", max_new_tokens=512), "max_new_tokens 512 leaves no room")
    assert not list((workspace.root / "runs").iterdir())


def test_unknown_models_releases_and_corpora_are_named(workspace):
    refused(lambda: run(workspace, "sft", model="bse"), "no model 'bse'", "base, base-gpt2, judge")
    refused(lambda: run(workspace, "sft", release="d-1"), "no release 'd-1'")
    refused(lambda: run(workspace, "sft-mix", corpus="tails"), "no corpus 'tails'", "tales")
    refused(lambda: run(workspace, "ppo-ptx", reward_model="j"), "no model 'j'")
    refused(lambda: run(workspace, "ppo-ptx", reward_model="base"), "base")
    refused(lambda: run(workspace, "pretrain", size="vast"), "no size 'vast'")


def test_a_release_of_another_kind_is_refused(workspace):
    run(workspace, "sft", max_steps=1)
    name = next(release.name for release in workspace.store.releases())
    refused(lambda: run(workspace, "reward", release=name), "holds demonstrations, not rankings")


def test_little_validation_text_does_not_cost_the_model(workspace, monkeypatch):
    assert "pretraining_loss" in read_card(run(workspace, "pretrain", context=300)).metrics
    monkeypatch.setattr(pretrain, "held_out_blocks", lambda *args: None)
    card = read_card(run(workspace, "pretrain", context=300))
    assert "pretraining_loss" not in card.metrics
    assert card.metrics["steps"] == 7


def test_an_unknown_key_names_the_nearest_right_one():
    refused(lambda: settings_of(SftConfig, {"epoch": 3}, "preceptor.toml [sft]"), "[sft]", "'epoch'", "epochs?")
    refused(lambda: settings_of(SftConfig, {"qqqq": 3}, "x"), "known: output, seed")
    assert settings_of(PpoConfig, {"kl-coef": 0.1, "ptx_coef": 2}, "x") == {"kl_coef": 0.1, "ptx_coef": 2}


@pytest.mark.parametrize(
    ("config", "values", "words"),
    [
        (SftConfig, {"batch": 0}, "batch is 0"),
        (SftConfig, {"micro_batch": -1}, "micro_batch is -1"),
        (SftConfig, {"epochs": 0}, "epochs is 0"),
        (SftConfig, {"mix": 1.0}, "mix is 1.0"),
        (PpoConfig, {"temperature": 0.0}, "temperature is 0.0"),
        (PpoConfig, {"minibatch": 0}, "minibatch is 0"),
        (PpoConfig, {"max_new_tokens": 0}, "max_new_tokens is 0"),
        (PpoConfig, {"ema": 1.0}, "ema is 1.0"),
        (StageConfig, {"seed": -1}, "seed is -1"),
        (StageConfig, {"precision": "fp8"}, "precision is 'fp8'"),
    ],
)
def test_impossible_settings_are_refused_before_anything_runs(config, values, words):
    refused(lambda: config(**values), words)


def test_run_json_says_what_made_the_run(workspace):
    run(workspace, "sft-mix")
    identity = json.loads((workspace.run("out") / "run.json").read_text())
    assert identity["stage"] == "sft"
    assert identity["config"]["mix"] == 0.3
    assert identity["made_from"]["model"].startswith("base@")
    assert "tales" in identity["made_from"]
