"""Several workers read a model's files, each only its own part; what comes out is what one process reads whole."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, LlamaConfig, LlamaForCausalLM

from tiny_models import ARCHITECTURES, make_config, make_model


def two(jobs: list) -> list[dict]:
    """What both ranks say of each job."""
    script = Path(__file__).with_name("divided_jobs.py")
    launch = ["-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [sys.executable, *launch, str(script), json.dumps(jobs)],
        capture_output=True,
        text=True,
        # What is freed goes back at once, so that the high-water mark is that of living memory.
        env={**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def save_judge(folder: Path, architecture: str) -> None:
    config = make_config(architecture)
    config.num_labels = 1
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """Every architecture; weights in bf16 and in several files; and without the body's prefix."""
    root = tmp_path_factory.mktemp("models")
    for architecture in ARCHITECTURES:
        make_model(architecture, tied=architecture in ("llama", "gpt2")).save_pretrained(root / architecture / "policy")
        make_model(architecture).save_pretrained(root / architecture / "scalar")
        save_judge(root / architecture / "judge", architecture)
    make_model("qwen2").to(torch.bfloat16).save_pretrained(root / "half" / "policy", max_shard_size="20KB")
    make_model("gpt2", tied=True).save_pretrained(root / "bare" / "policy")
    bare = root / "bare" / "policy" / "model.safetensors"
    weights = {name.removeprefix("transformer."): value for name, value in load_file(bare).items()}
    save_file(weights, bare, {"format": "pt"})
    return root


def test_each_rank_reads_its_part_and_together_they_have_the_whole(folders):
    names = [*ARCHITECTURES, "half", "bare"]
    said = two([["compare", str(folders / name)] for name in names])
    assert len(said) == 2 * len(names)
    for place, name in enumerate(names):
        ranks = said[2 * place : 2 * place + 2]
        for found in ranks:
            assert found.pop("said") == []
            for role, one in found.items():
                assert one["same"], (name, role)
                assert one["kernels"], (name, role)
                assert one["gap"] < 1e-6
                assert one["gradient_gap"] < 1e-5
                assert one["trained"] == [role != "judge"]
        for role in ranks[0]:
            assert sum(found[role]["own"] for found in ranks) == ranks[0][role]["whole"]
    assert (folders / "half" / "policy" / "model.safetensors.index.json").is_file()


def test_files_that_are_not_what_they_say_are_refused_by_every_rank(tmp_path):
    make_model("llama").save_pretrained(tmp_path / "misfit" / "policy")
    config = tmp_path / "misfit" / "policy" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"intermediate_size": 52}))
    make_model("llama").save_pretrained(tmp_path / "cut" / "policy")
    weights = tmp_path / "cut" / "policy" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    make_model("llama").save_pretrained(tmp_path / "lacking" / "policy")
    weights = tmp_path / "lacking" / "policy" / "model.safetensors"
    kept = {name: value for name, value in load_file(weights).items() if "layers.1" not in name}
    save_file(kept, weights, {"format": "pt"})
    said = [one["refused"] for one in two([["compare", str(tmp_path / n)] for n in ("misfit", "cut", "lacking")])]
    for place, words in enumerate(("the model that config.json describes wants", "cannot load", "lacks")):
        assert said[2 * place] == said[2 * place + 1]
        assert words in said[2 * place]
        assert "\n" not in said[2 * place]


@pytest.mark.slow
def test_a_worker_takes_about_its_share_of_memory(tmp_path):
    """84M parameters, 337 MB: its half of them and two layers at work, where it took all of them and more."""
    config = LlamaConfig(
        vocab_size=8000,
        hidden_size=640,
        num_hidden_layers=16,
        num_attention_heads=10,
        intermediate_size=1720,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    taken = {way: max(one["taken"] for one in two([[way, str(tmp_path)]])) for way in ("whole", "divided")}
    assert taken["divided"] < 0.75 * taken["whole"], taken
