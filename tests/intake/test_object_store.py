"""Releases, corpora and models that go to a shared or object store and come back on another node."""

import json

import fsspec
import pytest

from preceptor.cli import app
from preceptor.errors import UserError
from preceptor.intake.importing import import_demonstrations
from preceptor.intake.releases import freeze, read_release
from preceptor.store import Workspace, objects
from preceptor.store.objects import pull, push


@pytest.fixture
def node(tmp_path) -> Workspace:
    """A workspace with a release and a model of two files, one of them in a folder."""
    workspace = Workspace.create(tmp_path / "one")
    file = tmp_path / "demonstrations.jsonl"
    rows = [{"prompt": f"Say {n}.", "text": f"{n}", "labeler": "ann"} for n in range(5)]
    file.write_text("\n".join(map(json.dumps, rows)))
    import_demonstrations(workspace, [file])
    freeze(workspace, "demonstrations", name="first")
    make_model(workspace, "sft", b"weights" * 1000)
    return workspace


def make_model(workspace: Workspace, name: str, weights: bytes) -> None:
    folder = workspace.model(name)
    (folder / "adapter").mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "adapter" / "adapter_config.json").write_text('{"r": 4}')


def files(workspace: Workspace) -> dict[str, bytes]:
    kept = (workspace.root / kind for kind in objects.KINDS)
    found = [path for folder in kept for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(workspace.root)): path.read_bytes() for path in found}


@pytest.fixture(params=["file", "memory"])
def url(request, tmp_path):
    if request.param == "memory":
        fsspec.filesystem("memory").store.clear()
        return "memory://shop"
    return f"file://{tmp_path / 'shared' / 'shop'}"


def test_what_was_pushed_comes_out_on_another_node(node, tmp_path, url):
    sent = push(node, url)
    assert sorted(sent.entries) == ["models/sft", "releases/first"]
    other = Workspace.create(tmp_path / "two")
    got = pull(other, url)
    assert (got.entries, got.files, got.bytes) == (sent.entries, sent.files, sent.bytes)
    assert files(other) == files(node)
    assert len(list(read_release(other.root / "releases" / "first.jsonl"))) == 5
    assert other.models() == ["sft"]


def test_again_moves_nothing_and_a_new_model_only_itself(node, tmp_path, url):
    other = Workspace.create(tmp_path / "two")
    push(node, url)
    pull(other, url)
    assert (push(node, url).files, pull(other, url).files) == (0, 0)
    make_model(node, "ppo", b"other")
    make_model(node, "sft", b"newer")
    sent = push(node, url)
    assert (sorted(sent.entries), sent.known, sent.files) == (["models/ppo", "models/sft"], 1, 2)  # by content
    assert sorted(pull(other, url).entries) == ["models/ppo", "models/sft"]
    assert files(other) == files(node)


def test_names_choose(node, tmp_path, url):
    assert push(node, url, ["sft"]).entries == ["models/sft"]
    assert push(node, url, ["releases/first"]).entries == ["releases/first"]
    other = Workspace.create(tmp_path / "two")
    assert pull(other, url, ["releases/first"]).entries == ["releases/first"]
    for wrong in (lambda: push(node, url, ["none"]), lambda: pull(other, url, ["sft", "none"])):
        with pytest.raises(UserError, match="none"):
            wrong()


def test_damage_is_found_and_the_workspace_keeps_what_it_had(node, tmp_path):
    store = tmp_path / "store"
    push(node, f"file://{store}")
    other = Workspace.create(tmp_path / "two")
    make_model(other, "sft", b"its own")
    before = files(other)
    entry = json.loads((store / "models" / "sft.json").read_text())
    broken = store / "objects" / entry["files"]["sft/model.safetensors"]["sha256"]
    broken.write_bytes(b"x" + broken.read_bytes()[1:])
    with pytest.raises(UserError, match="damaged in the store"):
        pull(other, f"file://{store}", ["sft"])
    assert files(other) == before
    broken.write_bytes(b"half")  # a push makes good what has another length
    (store / "models" / "sft.json").unlink()
    assert push(node, f"file://{store}").files == 1
    pull(other, f"file://{store}", ["sft"])
    assert files(other)["models/sft/model.safetensors"] == b"weights" * 1000


def test_a_push_that_breaks_off_is_not_seen(node, tmp_path, monkeypatch):
    store = tmp_path / "store"
    real, calls = objects._send, []

    def send(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise OSError("no space left")
        real(*arguments)

    monkeypatch.setattr(objects, "_send", send)
    with pytest.raises(UserError, match="no space left"):
        push(node, f"file://{store}")
    assert not (store / "models" / "sft.json").exists()
    monkeypatch.setattr(objects, "_send", real)
    push(node, f"file://{store}")
    assert not list(store.rglob("*.new"))
    other = Workspace.create(tmp_path / "two")
    pull(other, f"file://{store}")
    assert files(other) == files(node)


@pytest.mark.parametrize("where", ["../../out.txt", "/tmp/out.txt", "ppo/config.json", "sft"])
def test_an_entry_never_leaves_the_workspace(node, tmp_path, where):
    store = tmp_path / "store"
    push(node, f"file://{store}")
    place = store / "models" / "sft.json"
    entry = json.loads(place.read_text())
    entry["files"][where] = entry["files"].pop("sft/config.json")
    place.write_text(json.dumps(entry))
    with pytest.raises(UserError, match="no entry of a store"):
        pull(Workspace.create(tmp_path / "two"), f"file://{store}")


def test_mistakes_are_one_line(node, tmp_path):
    for url, said in (
        (None, "no store"),
        ("nonsense://x", "nonsense"),
        (f"file://{tmp_path / 'empty'}", "holds no releases, corpora or models"),
    ):
        with pytest.raises(UserError, match=said) as caught:
            pull(node, url)
        assert "\n" not in str(caught.value)


def test_the_command_takes_the_store_of_the_settings(node, tmp_path, capsys):
    (node.root / "preceptor.toml").write_text(f'store = "file://{tmp_path}/store"\n')
    with pytest.raises(SystemExit) as done:
        app(["push", "--workspace", str(node.root)])
    assert done.value.code == 0
    assert "models/sft" in capsys.readouterr().out
    other = Workspace.create(tmp_path / "two", f'store = "file://{tmp_path}/store"\n')
    with pytest.raises(SystemExit):
        app(["pull", "sft", "--workspace", str(other.root)])
    assert other.models() == ["sft"]


def test_an_s3_server(node, tmp_path, monkeypatch):
    """Where s3fs and moto are installed: over HTTP, as against Amazon, MinIO or Ceph."""
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    moto = pytest.importorskip("moto.server", reason="moto is not installed")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in (("ACCESS_KEY_ID", "k"), ("SECRET_ACCESS_KEY", "s"), ("DEFAULT_REGION", "us-east-1")):
            monkeypatch.setenv(f"AWS_{name}", value)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        with pytest.raises(UserError, match="shop") as caught:
            push(node, "s3://shop/work")
        assert "\n" not in str(caught.value)
        fsspec.filesystem("s3").mkdir("shop")
        sent = push(node, "s3://shop/work")
        other = Workspace.create(tmp_path / "two")
        assert pull(other, "s3://shop/work").files == sent.files
        assert files(other) == files(node)
        make_model(node, "sft", b"newer")
        assert push(node, "s3://shop/work").entries == ["models/sft"]
        assert pull(other, "s3://shop/work").entries == ["models/sft"]
        assert files(other) == files(node)
    finally:
        server.stop()
