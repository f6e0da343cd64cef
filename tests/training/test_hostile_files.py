"""A pickle that would run code lies in the place of a file of data or of a run: it is never loaded."""

import gzip
import shutil

import numpy as np
import pytest
import zstandard
from small_stages import run

from preceptor.errors import UserError
from preceptor.evaluation import reading, toxicity
from preceptor.evaluation.ngrams import NgramClassifier
from preceptor.evaluation.recording import Recorded
from preceptor.intake.corpus import import_corpus
from preceptor.intake.importing import import_demonstrations, import_prompts, import_rankings
from preceptor.store import Workspace
from preceptor.text.batches import cached_ids


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


def one_line(call, *words) -> None:
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


NAMES = ("rows.jsonl", "rows.json", "rows.csv", "rows.tsv", "rows.txt", "rows.pkl", "rows.jsonl.gz", "rows.jsonl.zst")


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress])
@pytest.mark.parametrize("importer", [import_prompts, import_demonstrations, import_rankings, import_corpus])
def test_in_the_place_of_imported_data(importer, pack, hostile, workspace, tmp_path):
    before = workspace.store.counts()
    for name in NAMES:
        path = tmp_path / name
        path.write_bytes(pack(hostile))
        one_line(lambda path=path: importer(workspace, [path]), str(path), "is not UTF-8")
    assert workspace.store.counts() == before


def test_in_the_place_of_token_ids(hostile, tmp_path):
    ids = tmp_path / "ids.npy"
    ids.write_bytes(hostile)
    one_line(lambda: cached_ids(ids, list), str(ids), "remove it")
    with open(ids, "wb") as file:
        np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    one_line(lambda: cached_ids(ids, list), str(ids), "remove it")


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv", "a.tsv", "a.txt", "a.jsonl.gz"])
def test_in_the_place_of_a_benchmark(name, hostile, tmp_path):
    path = tmp_path / name
    path.write_bytes(gzip.compress(hostile) if name.endswith(".gz") else hostile)
    readers = (reading.read_text, reading.read_table, reading.read_json, reading.read_json_lines)
    for read in (*readers, toxicity.read_prompts, toxicity.TrainedScorer.train, toxicity.WordListScorer):
        one_line(lambda read=read: read(path), str(path), "cannot be read")


def test_in_the_place_of_a_saved_classifier(hostile, tmp_path):
    path = tmp_path / "classifier.npz"
    path.write_bytes(hostile)
    one_line(lambda: NgramClassifier.load(path), str(path), "not a saved classifier")
    np.savez(path, weights=np.array([print], dtype=object), bits=np.array(3))
    one_line(lambda: NgramClassifier.load(path), str(path), "not a saved classifier")
    path.write_bytes(path.read_bytes()[:-30])
    one_line(lambda: NgramClassifier.load(path), str(path), "not a saved classifier")


class Echo:
    """Answers with the prompt."""

    name, hash = "echo", "e" * 64

    def generate(self, prompts, **_):
        return list(prompts)


def test_in_the_place_of_recorded_answers(hostile, tmp_path):
    (tmp_path / f"said-{Echo.hash[:16]}.jsonl").write_bytes(hostile + b"\n12\n[1, 2]\n[[], 3]\nnull\n")
    subject = Recorded(Echo(), tmp_path)  # type: ignore[arg-type]
    assert subject.generate(["a", "b"], max_new_tokens=3) == ["a", "b"]
    assert subject.asked == 2


def test_in_the_place_of_a_release(hostile, workspace):
    run(workspace, "sft", max_steps=1)
    (release,) = workspace.store.releases()
    path = workspace.root / release.path
    for pack in (bytes, zstandard.compress):
        path.write_bytes(pack(hostile))
        one_line(lambda: run(workspace, "sft", release=release.name, output="other"), release.name)


@pytest.mark.parametrize("name", ["preceptor.toml", "preceptor.db"])
def test_in_the_place_of_a_workspace(name, hostile, workspace, tmp_path):
    workspace.store.close()
    root = tmp_path / "copy"
    shutil.copytree(workspace.root, root, ignore=shutil.ignore_patterns("*.db-*"))
    (root / name).write_bytes(hostile)
    one_line(lambda: Workspace(root).store.counts(), name)
