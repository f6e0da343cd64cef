"""A pickle that would run code lies wherever a user's path may lead: it is never loaded. Hub names stay names."""

import pickle
from pathlib import Path

import pytest
from small_stages import run

from preceptor.errors import UserError
from preceptor.intake.corpus import import_corpus
from preceptor.models.load import load_policy, load_scalar, load_tokenizer, scalar_from_policy
from preceptor.text.batches import cached_ids


class Touch:
    """Unpickled, it makes the canary."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self):
        return Path.touch, (self.canary,)


@pytest.fixture
def hostile(tmp_path):
    """(bytes of a hostile pickle, the canary it would make); the pickle is shown to work."""
    canary = tmp_path / "canary"
    content = pickle.dumps(Touch(canary))
    pickle.loads(content)
    assert canary.exists()
    canary.unlink()
    yield content
    assert not canary.exists(), "a pickle was loaded"


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


@pytest.mark.parametrize("file", ["shard", "state.json", "SHA256", "run.json", "old"])
def test_in_the_place_of_a_checkpoint(file, hostile, workspace):
    """Also where its sum is right, so that it passes for whole."""
    from preceptor.training.checkpoints import SUMS, _sha256

    run(workspace, "sft", max_steps=2)
    checkpoint = workspace.run("out") / "step-00000002"
    if file == "old":  # the names under which torch itself pickles
        for name in (".metadata", "step.pt", "__0_0.distcp"):
            (checkpoint / name).write_bytes(hostile)
    elif file == "run.json":
        (workspace.run("out") / file).write_bytes(hostile)
    else:
        target = next(checkpoint.glob("*.safetensors")) if file == "shard" else checkpoint / file
        target.write_bytes(hostile)
    if file != "SHA256":
        names = sorted(path.name for path in checkpoint.iterdir() if path.name != SUMS)
        (checkpoint / SUMS).write_text("".join(f"{_sha256(checkpoint / name)}  {name}\n" for name in names))
    if file in ("shard", "state.json"):
        with pytest.raises(UserError, match="cannot read the checkpoint") as caught:
            run(workspace, "sft", max_steps=3)
        assert "\n" not in str(caught.value)
    elif file == "run.json":
        with pytest.raises(UserError, match=r"run\.json"):
            run(workspace, "sft", max_steps=3)
    else:  # without its sums, or with files that nobody reads
        run(workspace, "sft", max_steps=3)


def test_in_the_place_of_data(hostile, workspace, tmp_path):
    for name in ("text.jsonl", "text.txt", "text.jsonl.zst"):
        path = tmp_path / name
        path.write_bytes(hostile)
        with pytest.raises(UserError, match=name):
            import_corpus(workspace, [path], name=f"c-{name.replace('.', '-')}", progress=False)
    ids = tmp_path / "ids.npy"
    ids.write_bytes(hostile)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        cached_ids(ids, list)


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
