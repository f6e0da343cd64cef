"""Runs of the demo's size, killed at 20 random moments over their whole length and in the middle of checkpoints."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from demo_size import EVERY, prepare, settings
from small_stages import metrics

from preceptor import faults

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]
KILLS = 20
# Beside the 20: at a named point of the writing of a checkpoint, and when its files are seen.
WHILE_SAVING = ("checkpoint", "written", "named", "seen", "seen", "seen", "seen")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """With the three stages, whole."""
    workspace = prepare(tmp_path_factory.mktemp("demo-size") / "w")
    yield workspace
    workspace.store.close()


class Cuts:
    """A stage that is killed and started again, and what was seen on the way."""

    def __init__(self, workspace, stage: str):
        self.workspace, self.stage, self.every = workspace, stage, EVERY[stage]
        self.folder = workspace.run(f"cut-{stage}")
        self.reached: list[int] = []  # steps in the metrics file at each kill
        self.repeated = 0  # steps that were made again
        self.writing = 0  # kills that left a checkpoint half written

    def start(self, fault: str = "") -> subprocess.Popen:
        here = Path(__file__).parent
        paths = os.pathsep.join([str(here.parents[1] / "src"), os.environ.get("PYTHONPATH", "")])
        arguments = (self.workspace.root, self.stage, self.every)
        return subprocess.Popen(
            [sys.executable, "-W", "ignore", str(here / "demo_size.py"), *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": paths, faults.VARIABLE: fault},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def kill(self, step: int, pause: float, seen: bool = False) -> None:
        """Kill the next process `pause` seconds after the given step, or after a checkpoint is being written then."""
        process = self.start()
        assert process.stdout is not None
        for line in process.stdout:
            self._count(int(line))
            if int(line) >= step:
                break
        while seen and not self.half_written() and process.poll() is None:
            time.sleep(0.0005)
        time.sleep(pause)
        process.kill()
        self._end(process)

    def half_written(self) -> list[Path]:
        return list(self.folder.glob(".step-*.new"))

    def kill_at(self, point: str, step: int) -> None:
        """Let the process kill itself while it writes its first checkpoint after the given step."""
        saved = max((int(path.name[5:]) for path in self.folder.glob("step-*")), default=0)
        process = self.start(f"kill@{point}:{self.every * (max(step, saved) // self.every + 1)}")
        assert process.stdout is not None
        for line in process.stdout:
            self._count(int(line))
        self._end(process)

    def _count(self, step: int) -> None:
        self.repeated += bool(self.reached) and step <= self.reached[-1]

    def _end(self, process: subprocess.Popen) -> None:
        _, said = process.communicate()
        assert process.returncode == -signal.SIGKILL, said
        self.writing += bool(self.half_written())
        self.reached.append(len((self.folder / "metrics.jsonl").read_bytes().splitlines()))


@pytest.mark.parametrize("stage", EVERY)
def test_killed_twenty_times_and_while_it_saved_a_run_ends_with_the_same_bits(stage, workspace):
    whole = settings(stage).output
    lines = metrics(workspace, whole)
    pace = (lines[-1]["seconds"] - lines[0]["seconds"]) / (len(lines) - 1)
    rng, cuts = random.Random(stage), Cuts(workspace, stage)
    moments = [(rng.uniform(1, len(lines) - 1), "") for _ in range(KILLS)]
    moments += [(rng.uniform(1, len(lines) - 3 * cuts.every), point) for point in WHILE_SAVING]
    for moment, point in sorted(moments):
        if point == "seen":
            cuts.kill(int(moment), moment % 1 * 0.02, seen=True)
        elif point:
            cuts.kill_at(point, int(moment))
        else:
            cuts.kill(int(moment), moment % 1 * pace)
    process = cuts.start("kill@model")
    _, said = process.communicate()
    assert process.returncode == -signal.SIGKILL, said
    process = cuts.start()
    _, said = process.communicate()
    assert process.returncode == 0, said
    one, other = (workspace.model(name) / "model.safetensors" for name in (whole, f"cut-{stage}"))
    assert one.read_bytes() == other.read_bytes()
    cut = metrics(workspace, f"cut-{stage}")
    assert [line["step"] for line in cut] == list(range(1, len(lines) + 1))
    assert [{**line, "seconds": 0} for line in cut] == [{**line, "seconds": 0} for line in lines]
    assert len(cuts.reached) == KILLS + len(WHILE_SAVING)
    assert cuts.writing > 0
    assert cuts.repeated > 0
    print(
        f"{stage}: {len(lines)} steps, a checkpoint every {cuts.every}; killed {len(cuts.reached) + 1} times, "
        f"{cuts.writing} of them with a checkpoint half written, after steps {cuts.reached}; "
        f"{cuts.repeated} steps made again"
    )
