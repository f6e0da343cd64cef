"""Pickles and code of its own in a model's folder are never loaded or run. Hub names stay names where asked."""

import json
import os
import shutil
import subprocess
import sys
import types

import pytest
from small_stages import run

from preceptor.errors import UserError
from preceptor.evaluation.classifier import ClassifierFolder
from preceptor.models.load import load_policy, load_scalar, load_tokenizer, scalar_from_policy
from preceptor.planning.shape import read_config
from preceptor.rollout.vllm_engine import VllmInside

LOADERS = (load_policy, load_scalar, lambda source: scalar_from_policy(source, 0), load_tokenizer, read_config)


@pytest.fixture
def base(workspace):
    return workspace.model("base")


def loaded(folder) -> list[str]:
    """What every way to load the folder says of it: one line each, or nothing where it could be loaded."""
    said = []
    for load in (*LOADERS, lambda source: ClassifierFolder(source, "LABEL_0")):
        try:
            load(folder)
            said.append("")
        except UserError as error:
            said.append(str(error))
    assert all("\n" not in message for message in said)
    return said


def edit(path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_in_the_place_of_weights_and_tokenizers(hostile, workspace):
    for name in ("model.safetensors", "pytorch_model.bin", "tokenizer.json"):
        folder = workspace.model("base")
        kept = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        if name == "pytorch_model.bin":
            (folder / "model.safetensors").unlink()
        (folder / name).write_bytes(hostile)
        for load in (load_policy, load_scalar, lambda source: scalar_from_policy(source, 0), load_tokenizer):
            if (load is load_tokenizer) == (name == "tokenizer.json"):
                with pytest.raises(UserError):
                    load(folder)
        for path, content in kept.items():
            path.write_bytes(content)
        (folder / "pytorch_model.bin").unlink(missing_ok=True)


BESIDE = (
    "pytorch_model.bin", "model.pt", "model.pth", "model.pkl", "adapter_model.bin", "training_args.bin", "optimizer.pt",
    "scheduler.pt", "rng_state.pth", "tf_model.h5", "flax_model.msgpack", "vocab.pkl", "tokenizer.pkl", "value.bin",
)  # fmt: skip


def test_beside_weights_it_is_not_looked_at(hostile, base):
    for name in BESIDE:
        (base / name).write_bytes(hostile)
    said = loaded(base)
    assert said[0] == said[3] == ""  # the policy and its tokenizer


@pytest.mark.parametrize("name", [*BESIDE[:4], "pytorch_model-00001-of-00001.bin"])
def test_alone_it_is_refused(name, hostile, base):
    (base / "model.safetensors").unlink()
    (base / name).write_bytes(hostile)
    if "-of-" in name:
        index = {"metadata": {}, "weight_map": {"model.embed_tokens.weight": name}}
        (base / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    policy, scalar, new, tokenizer, config, classifier = loaded(base)
    assert tokenizer == config == ""
    assert "safetensors" in policy
    assert all((scalar, new, classifier))


@pytest.mark.parametrize("weights", ["evil.bin", "pytorch_model.bin", "../evil.bin"])
def test_a_config_cannot_name_it_as_the_weights(weights, hostile, base):
    (base / weights).write_bytes(hostile)
    edit(base / "config.json", transformers_weights=weights)
    assert "safetensors" in loaded(base)[0]


TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "vocab.txt", "tokenizer_config.json")
TOKENIZER += ("special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "generation_config.json")


@pytest.mark.parametrize("name", TOKENIZER)
def test_in_the_place_of_each_file_beside_the_weights(name, hostile, base):
    (base / name).write_bytes(hostile)
    loaded(base)
    (base / "tokenizer.json").unlink()
    loaded(base)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_in_a_model_folder_is_not_run(file, base, tmp_path, monkeypatch):
    """Not even asked for: transformers asks the person at the terminal, and runs it after a `y`."""
    canary = tmp_path / "canary"
    (base / "evil.py").write_text(f"open({str(canary)!r}, 'w').close()\nclass Evil: pass\n")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    kinds = ("AutoConfig", "AutoModelForCausalLM", "AutoModelForSequenceClassification")
    code = dict.fromkeys(kinds, "evil.Evil") | {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    edit(base / file, auto_map=code)
    loaded(base)
    edit(base / file, auto_map=code, model_type="evil", tokenizer_class="Evil", architectures=["Evil"])
    said = loaded(base)
    assert not canary.exists()
    if file == "config.json":
        assert all("auto_map" in message for message in (*said[:3], said[4]))
    monkeypatch.undo()
    shutil.copy(base / "evil.py", tmp_path / "evil_shown.py")
    subprocess.run([sys.executable, str(tmp_path / "evil_shown.py")], check=True)
    assert canary.exists()  # it would have worked


def test_a_toxicity_classifier_that_is_a_pickle(hostile, workspace):
    folder = workspace.model("judge")
    assert ClassifierFolder(folder, "LABEL_0").score(["the fox"])[0] is not None
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        kept = (folder / name).read_bytes()
        (folder / name).write_bytes(hostile)
        with pytest.raises(UserError, match="cannot load the classifier") as caught:
            ClassifierFolder(folder, "LABEL_0")
        assert str(folder) in str(caught.value)
        assert "\n" not in str(caught.value)
        (folder / name).write_bytes(kept)


def test_vllm_inside_is_told_the_same(tmp_path, monkeypatch):
    told = {}
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "")  # what it sets is undone
    made = types.SimpleNamespace(LLM=lambda **options: told.update(options), SamplingParams=dict)
    monkeypatch.setitem(sys.modules, "vllm", made)  # type: ignore[arg-type]
    VllmInside(tmp_path, tmp_path, 128)
    assert told["load_format"] == "safetensors"
    assert told["trust_remote_code"] is False


def test_offline_no_hub_name_is_fetched(workspace, monkeypatch):
    """Any attempt to open a connection fails the test."""
    import socket

    def refuse(*args, **options):
        raise AssertionError(f"a connection was opened to {args}")

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for load in (load_policy, load_scalar, load_tokenizer):
        with pytest.raises(UserError) as caught:
            load("nobody/no-such-model")
        assert "nobody/no-such-model" in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError):
        run(workspace, "sft", model="nobody/no-such-model")


GUARD = """
import builtins, socket, sys

def refuse(*args, **options):
    open({mark!r}, "a").write(f"{{args}}\\n")
    raise OSError("no network")

def connect(self, address):
    if self.family != socket.AF_UNIX:
        refuse(address)
    return own(self, address)

own = socket.socket.connect
socket.socket.connect = socket.socket.connect_ex = connect
socket.create_connection = socket.getaddrinfo = refuse

from preceptor.__main__ import main

for words in {commands!r}:
    sys.argv = ["preceptor", *words]
    try:
        main()
        code = 0
    except SystemExit as end:
        code = end.code
    print(f"\\n{{' '.join(words[:3])}} -> {{code}}", flush=True)
"""
HUB = "nobody/no-such-model"
COMMANDS = [
    ["pretrain", "--steps", "1", "--max-steps", "1"],
    ["sft", "--model", HUB],
    ["reward", "--model", HUB],
    ["ppo", "--reference", HUB, "--reward-model", "judge"],
    ["ppo", "--model", HUB, "--reward-model", "judge"],
    ["sample", "--model", HUB],
    ["plan", "--model", HUB],
    ["chat", HUB],
    ["export", HUB, "out"],
    ["evaluate", "--model", HUB],
]


def test_offline_no_command_opens_a_connection(workspace, tmp_path):
    """In a process that begins with HF_HUB_OFFLINE=1, as a user's does."""
    workspace.store.close()
    mark = tmp_path / "connected"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", GUARD.format(mark=str(mark), commands=COMMANDS)],
        cwd=workspace.root,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "1000"},
        capture_output=True,
        text=True,
    )
    said = f"{done.stdout}\n{done.stderr[-3000:]}"
    assert not mark.exists(), mark.read_text()
    assert done.returncode == 0, said
    assert "Traceback" not in said
    codes = [line.rsplit(" -> ")[1] for line in done.stdout.splitlines() if " -> " in line]
    assert codes == ["0", *["2"] * (len(COMMANDS) - 1)], said
