"""Rollouts by vLLM. A real one runs only where PRECEPTOR_VLLM_PYTHON names the Python of an environment that has it.

PRECEPTOR_VLLM_PYTHON=/path/to/venv/bin/python pytest tests/training/test_vllm.py
"""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import pytest
import torch
from small_stages import metrics, run
from transformers import LlamaConfig, LlamaForCausalLM

from preceptor.config import PpoConfig
from preceptor.errors import UserError
from preceptor.models.load import load_policy, scalar_from_policy
from preceptor.rollout.vllm_engine import VllmInside, VllmServer, episode, seed_of, write_weights
from preceptor.training import ppo
from preceptor.types import Sampling
from tiny_models import make_model, make_tokenizer

PYTHON = os.environ.get("PRECEPTOR_VLLM_PYTHON")
needs_vllm = pytest.mark.skipif(PYTHON is None, reason="PRECEPTOR_VLLM_PYTHON names no Python with vLLM")
PPO = {"reference": "big", "reward_model": "big-judge", "engine": "vllm", "steps": 3, "checkpoint_minutes": 60.0}


def test_without_a_server_one_line_says_how_to_start_it(workspace):
    with pytest.raises(UserError, match=r"vLLM at http://127.0.0.1:9/version: .*refused.*start it as"):
        run(workspace, "ppo-ptx", engine="vllm", vllm_url="http://127.0.0.1:9")


def test_without_the_package_one_line_says_what_to_install(tmp_path):
    if "vllm" in sys.modules:
        pytest.skip("vLLM is installed here")
    with pytest.raises(UserError, match=r"pip install 'preceptor\[vllm\]'"):
        VllmInside(tmp_path, tmp_path, 128)


def test_what_does_not_go_together_is_refused(workspace):
    with pytest.raises(UserError, match="choose own or vllm"):
        PpoConfig(engine="fast")
    with pytest.raises(UserError, match="vllm_url is set without --engine vllm"):
        PpoConfig(vllm_url="http://127.0.0.1:8000")
    with pytest.raises(UserError, match="cannot draw from adapters"):
        ppo.vllm_engine(PpoConfig(engine="vllm", lora_rank=4), Path(), Path(), 24)


def test_every_answer_has_a_seed_of_its_own():
    seeds = {seed_of(seed, number) for seed in range(20) for number in range(50)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**53 for seed in seeds)
    assert seed_of(3, 4) == seed_of(3, 4)


def test_an_answer_ends_by_a_stop_token_or_at_the_limit():
    ended = episode([5], [7, 0], [-0.5, -0.25], frozenset([0]))
    assert (ended.finish_reason, ended.answer_tokens, ended.logprobs) == ("stop", (7, 0), (-0.5, -0.25))
    assert episode([5], [7, 8], [-0.5, -0.25], frozenset([0])).finish_reason == "length"


def test_the_weights_lie_in_one_folder_at_a_time(tmp_path):
    model = make_model()
    first = write_weights(model, tmp_path / "x", 0)
    second = write_weights(model, tmp_path / "x", 1)
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["weights-1"]
    assert first != second
    assert load_policy(second).config.model_type == "llama"


# -- with a vLLM ------------------------------------------------------------------------------------------------


def big(workspace) -> Path:
    """A model whose heads are wide enough for vLLM, untied, and a judge over it."""
    torch.manual_seed(0)
    ids = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": 1}
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96}
    config = LlamaConfig(
        **ids, **shape, vocab_size=300, max_position_embeddings=128, tie_word_embeddings=False, initializer_range=0.1
    )
    folder = workspace.model("big")
    LlamaForCausalLM(config).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    judge = scalar_from_policy(folder, seed=3)
    judge.save_pretrained(workspace.model("big-judge"))
    make_tokenizer().save_pretrained(workspace.model("big-judge"))
    return folder


@pytest.fixture
def server(workspace):
    """A vLLM server on the model of `big`; gives its address."""
    folder = big(workspace)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager"]
    options += ["--max-model-len", "128", "--logprobs-mode", "processed_logprobs", "--generation-config", "vllm"]
    command = [str(PYTHON), "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), *options]
    log = open(workspace.root / "vllm.log", "wb")  # noqa: SIM115 - the process holds it
    modes = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    process = subprocess.Popen(command, env=environment() | modes, stdout=log, stderr=log, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            assert process.poll() is None, (workspace.root / "vllm.log").read_text(errors="replace")[-3000:]
            try:
                urlopen(f"{url}/health", timeout=2).close()
                break
            except OSError:
                time.sleep(1)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def environment() -> dict[str, str]:
    """With this package, and nothing else of ours, on the path."""
    names = {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path(ppo.__file__).parents[2])}
    return dict(os.environ) | names


@needs_vllm
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ppo_over_a_server(server, workspace, monkeypatch):
    run(workspace, "ppo-ptx", vllm_url=server, **PPO)
    lines = metrics(workspace)
    assert len(lines) == 3
    assert all(line["logprob_gap"] < 1e-4 for line in lines)  # fp32 on both sides
    assert all(line["first_ratio_deviation"] < 1e-4 for line in lines)
    assert lines[2]["kl_to_reference"] != lines[0]["kl_to_reference"]
    assert [path.name for path in (workspace.run("out") / "vllm").iterdir()] == ["weights-2"]

    engine = VllmServer(server, workspace.root / "exchange")
    engine.load(load_policy(workspace.model("big")))
    sampling = Sampling(temperature=0.7, max_new_tokens=12, seed=1)
    prompts = [[9, 30, 31], [5], [7, 8, 40]]
    drawn = engine.draw(prompts, sampling, stop=frozenset(range(0, 300, 9)), k=2)
    assert [len(group) for group in drawn] == [2, 2, 2]
    assert drawn[0][0] != drawn[0][1]
    assert drawn == engine.draw(prompts, sampling, stop=frozenset(range(0, 300, 9)), k=2)
    for answer in (answer for group in drawn for answer in group):
        ends = [token % 9 == 0 for token in answer.answer_tokens]
        assert not any(ends[:-1])
        assert ends[-1] == (answer.finish_reason == "stop")

    # A server that is not given the new weights draws from the old ones: the gap shows it, and the run ends.
    monkeypatch.setattr(VllmServer, "load", lambda self, model: None)
    with pytest.raises(UserError, match="rollout and trainer log-probabilities differ"):
        run(workspace, "ppo-ptx", vllm_url=server, **(PPO | {"output": "stale", "lr": 3e-2, "warmup": 0, "steps": 9}))


@needs_vllm
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_vllm_inside_draws_from_the_weights_it_was_given(workspace):
    """In the environment that has vLLM. Every number is the gap to the trainer's log-probabilities, in nats."""
    folder = big(workspace)
    code = f"""
import torch
from pathlib import Path
from preceptor.models.load import load_policy
from preceptor.models.logprobs import answer_logprobs, answer_mask
from preceptor.rollout.vllm_engine import VllmInside
from preceptor.text.batches import pad_right
from preceptor.types import Sampling

def gap(engine, model, temperature):
    prompts = [list(range(5, 9 + i)) for i in range(6)]
    sampling = Sampling(temperature=temperature, max_new_tokens=10, seed=1)
    drawn = [row[0] for row in engine.draw(prompts, sampling, stop=frozenset([0]))]
    ids, lengths = pad_right([e.prompt_tokens + e.answer_tokens for e in drawn], 1)
    starts = torch.tensor([len(e.prompt_tokens) for e in drawn])
    mask = answer_mask(starts, lengths)
    with torch.no_grad():
        ours = answer_logprobs(model, ids, starts, mask, temperature)
    return max(abs(a - b) for row, e in zip(ours.tolist(), drawn) for a, b in zip(row, e.logprobs))

if __name__ == "__main__":
    engine = VllmInside(Path({str(folder)!r}), Path({str(workspace.root / "exchange")!r}), 128)
    model = load_policy({str(folder)!r})
    first = gap(engine, model, 1.0)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    stale = gap(engine, model, 1.0)
    engine.load(model)
    print("GAPS", first, stale, gap(engine, model, 1.0), gap(engine, model, 0.7))
"""
    script = workspace.root / "inside.py"
    script.write_text(code)
    done = subprocess.run([str(PYTHON), str(script)], env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("GAPS")]
    first, stale, new, colder = map(float, line.split()[1:])
    assert max(first, new, colder) < 1e-4
    assert stale > 0.05


@needs_vllm
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ppo_with_vllm_inside(workspace):
    """As its user starts it, in the environment that has vLLM."""
    big(workspace)
    workspace.store.close()
    settings = ["--reference", "big", "--reward-model", "big-judge", "--engine", "vllm", "--output", "out"]
    settings += ["--steps", "3", "--batch", "12", "--minibatch", "6", "--micro-batch", "4", "--max-new-tokens", "10"]
    settings += ["--lr", "1e-3", "--value-lr", "1e-3", "--ptx-coef", "0.5", "--ptx-batch", "3", "--ptx-context", "24"]
    done = subprocess.run(
        [str(PYTHON), "-m", "preceptor", "ppo", *settings],
        cwd=workspace.root,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = metrics(workspace)
    assert len(lines) == 3
    assert all(line["logprob_gap"] < 1e-4 for line in lines)  # fp32 on both sides
    assert lines[2]["kl_to_reference"] != lines[0]["kl_to_reference"]
    assert [path.name for path in (workspace.run("out") / "vllm").iterdir()] == ["weights-2"]
