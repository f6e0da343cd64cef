"""Disks that really refuse: full ones, at any moment, and folders that may not be written; root too."""

import ctypes
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from small_stages import metrics, run, same

from preceptor.store import Workspace

HEAD = f"""
import os, sys
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1])]!r}
import torch
torch.set_num_threads(1)
from small_stages import run
from preceptor.errors import UserError
from preceptor.store import Workspace
from preceptor.training.run import Run
workspace = Workspace(sys.argv[1])

def stage(name, **changes):
    try:
        run(workspace, name, **changes)
        print("done", flush=True)
    except UserError as error:
        print(error, flush=True)
"""
DROP, OVERRIDE, SEARCH = 24, 1, 2  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH


def without_root_powers() -> None:
    """Before the child's exec: from then on even root needs the permission bits."""
    for power in (OVERRIDE, SEARCH):
        ctypes.CDLL(None).prctl(DROP, power, 0, 0, 0)


def said(root: Path, body: str, **options) -> list[str]:
    """The lines that a process of its own prints."""
    code = HEAD + textwrap.dedent(body)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(root)], capture_output=True, text=True, **options
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    return done.stdout.splitlines()


# -- folders that may not be written --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("runs", "cannot start the run in "),
        pytest.param("runs/out", "cannot start the run in ", marks=pytest.mark.slow),
        pytest.param("runs/out/metrics.jsonl", "cannot write the metrics of the run in ", marks=pytest.mark.slow),
        pytest.param("runs/out/tensorboard", "cannot write the metrics of the run in ", marks=pytest.mark.slow),
        ("models", "cannot save the model "),
    ],
)
def test_a_place_that_may_not_be_written(place, words, workspace, another):
    whole = run(another, "sft")
    run(workspace, "sft", max_steps=2)
    shutil.rmtree(workspace.model("out"))
    target = workspace.root / place
    mode = target.stat().st_mode
    target.chmod(0o400 if target.is_file() else 0o500)
    if place == "runs":  # where there is a run, its own folder counts
        (workspace.run("out")).rename(workspace.root / "kept")
        (workspace.root / "runs" / ".out.lock").unlink(missing_ok=True)
    body = f"""
        if os.access({str(target)!r}, os.W_OK):
            print("writable")
        else:
            stage("sft")
    """
    lines = said(workspace.root, body, preexec_fn=without_root_powers)
    target.chmod(mode)
    if lines == ["writable"]:
        pytest.skip("this system lets root write everywhere")
    (line,) = lines
    assert words in line
    assert "Permission denied" in line
    assert str(workspace.root) in line
    if place == "runs":
        (workspace.root / "kept").rename(workspace.run("out"))
    assert not workspace.model("out").exists()
    assert same(whole, run(workspace, "sft"))
    assert metrics_once(workspace) == metrics_once(another)


def metrics_once(workspace) -> list[dict]:
    lines = metrics(workspace)
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return [{**line, "seconds": 0} for line in lines]


# -- a disk that is full --------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path):
    """A file system of 12 MiB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=12m", "none", str(place)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


FILL = """
    filler = os.path.join(os.path.dirname(sys.argv[1]), "filler")
    def fill(room):
        found = os.statvfs(sys.argv[1])
        with open(filler, "wb") as file:
            file.write(bytes(max(0, found.f_bavail * found.f_frsize - room)))
    Run.due = lambda self: True
"""


@pytest.mark.parametrize("stage", ["sft", pytest.param("ppo-ptx", marks=pytest.mark.slow)])
def test_a_disk_that_is_full_at_any_moment(stage, disk, workspace, another):
    """With less and less room: one line each time, and with room again the run ends with the same bits."""
    whole = run(another, stage)
    workspace.store.close()
    shutil.copytree(workspace.root, disk / "w")
    body = f"""
    rooms = [0, 4096, 20_000, 60_000, 120_000, 160_000, 250_000, 330_000, 400_000, 480_000, 560_000, 700_000, 900_000]
    for room in rooms:
        fill(room)
        stage({stage!r})
        os.unlink(filler)
    """
    lines = said(disk / "w", FILL + body)
    assert len(lines) == 13
    assert lines.count("done") < 12
    for line in lines:
        assert line == "done" or "No space left" in line or "disk is full" in line or "disk I/O error" in line, line
    small = Workspace(disk / "w")
    assert same(whole, run(small, stage))
    assert metrics_once(small) == metrics_once(another)
    small.store.close()
    left = [path.name for path in (disk / "w").rglob(".*") if path.suffix in (".new", ".old", ".tmp")]
    assert left == []
