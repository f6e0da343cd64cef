"""A run: its folder, its metrics, its checkpoints. Kill the process at any moment; the next start goes on from there.

runs/NAME/run.json         stage, settings, what it was made from
runs/NAME/metrics.jsonl    one line per step, each step once
runs/NAME/tensorboard/     the same for TensorBoard
runs/NAME/step-N.pt        checkpoints, the last two, each with its SHA-256 beside it
"""

import hashlib
import json
import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from preceptor.config import StageConfig, as_settings
from preceptor.errors import UserError
from preceptor.store import Workspace

# Settings that say how long or how to run, not what comes out at a given step.
FREE = ("output", "max_steps", "max_minutes", "resume", "checkpoint_minutes")
KEPT = 2  # checkpoints

console = Console(stderr=True)


class Run:
    """One training run of a workspace. Use as a context manager: SIGTERM then means `save and leave`."""

    def __init__(self, workspace: Workspace, stage: str, config: StageConfig, made_from: Mapping[str, str], total: int):
        """`made_from`: role -> name@hash of models and data; `total`: steps planned."""
        self.workspace, self.stage, self.config, self.total = workspace, stage, config, total
        self.folder = workspace.run(config.output)
        self.started = time.monotonic()
        self.saved_at = self.started
        self.stopping = False
        self.identity = {
            "stage": stage,
            "config": {name: value for name, value in as_settings(config).items() if name not in FREE},
            "made_from": dict(made_from),
            "total": total,
        }
        if not config.resume:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._check_identity()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _write(self.folder / "run.json", json.dumps(self.identity, indent=2).encode())
        except OSError as error:
            raise UserError(f"cannot start the run in {self.folder}: {error}") from error
        self.state = self._load()
        self.step = int(self.state["step"]) if self.state else 0
        self.last = self._cut_metrics()
        self.metrics_file = open(self.folder / "metrics.jsonl", "ab")  # noqa: SIM115 - closed by __exit__
        self.board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.step + 1)
        self.ending = self._ends()

    # -- the loop's questions -------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        return self.step >= self.total

    def should_stop(self) -> bool:
        """True after the last step, past --max-steps or --max-minutes, or when the process was asked to end.

        Decided once per step, so that the checkpoint and the end of the loop never disagree.
        """
        return self.ending

    def _ends(self) -> bool:
        minutes = (time.monotonic() - self.started) / 60
        return (
            self.finished
            or self.stopping
            or (self.config.max_steps is not None and self.step >= self.config.max_steps)
            or (self.config.max_minutes is not None and minutes >= self.config.max_minutes)
        )

    def log(self, metrics: Mapping[str, float]) -> None:
        """Finish a step: its metrics to JSONL and TensorBoard. NaN or infinity in a loss ends the run."""
        self.step += 1
        self.last = {name: float(value) for name, value in metrics.items()}
        for name, value in self.last.items():
            if "loss" in name and not math.isfinite(value):
                raise UserError(
                    f"run {self.config.output}: {name} is {value} at step {self.step}; lower the learning rate or "
                    "look at the data; the last checkpoint is kept"
                )
        line = {"step": self.step, "seconds": round(time.monotonic() - self.started, 3), **self.last}
        try:
            self.metrics_file.write(json.dumps(line).encode() + b"\n")
            self.metrics_file.flush()
        except OSError as error:
            raise UserError(f"cannot write {self.metrics_file.name}: {error}; the last checkpoint is kept") from error
        self.ending = self._ends()
        for name, value in self.last.items():
            self.board.add_scalar(name, value, self.step)
        if self._bar is not None:
            shown = ("loss", "accuracy", "reward", "kl_to_reference")
            text = "  ".join(f"{name} {self.last[name]:.3f}" for name in shown if name in self.last)
            self._bar.update(self._task, completed=self.step, note=text)

    def due(self) -> bool:
        """Is it time for a checkpoint?"""
        return time.monotonic() - self.saved_at >= 60 * self.config.checkpoint_minutes

    # -- checkpoints ----------------------------------------------------------------------------------------

    def save(self, **state: Any) -> None:
        """Write a checkpoint: `state` holds tensors, numbers and state dictionaries. Whole or not at all."""
        self.metrics_file.flush()
        os.fsync(self.metrics_file.fileno())
        state |= {"step": self.step, "metrics_bytes": self.metrics_file.tell(), **_rng_states()}
        path = self.folder / f"step-{self.step:08d}.pt"
        temporary = path.with_suffix(".tmp")
        try:
            with open(temporary, "wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            _write(path.with_suffix(".sha256"), _sha256(temporary).encode())
            temporary.rename(path)
        except (OSError, RuntimeError) as error:
            temporary.unlink(missing_ok=True)
            raise UserError(f"cannot save the checkpoint {path}: {error}; the one before it is kept") from error
        for old in self._checkpoints()[:-KEPT]:
            old.unlink()
            old.with_suffix(".sha256").unlink(missing_ok=True)
        self.saved_at = time.monotonic()

    def _checkpoints(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.pt"))

    def _load(self) -> dict[str, Any] | None:
        for path in reversed(self._checkpoints()):
            stored = path.with_suffix(".sha256")
            if stored.is_file() and stored.read_text() == _sha256(path):
                state = torch.load(path, weights_only=True, map_location="cpu")
                _set_rng_states(state)
                console.print(f"{self.config.output}: going on after step {state['step']} of {self.total}")
                return state
            console.print(f"{self.config.output}: the checkpoint {path.name} is damaged; using the one before it")
            path.rename(path.with_suffix(".damaged"))
        return None

    def _check_identity(self) -> None:
        path = self.folder / "run.json"
        if not path.is_file():
            return
        before = json.loads(path.read_text())
        if before == json.loads(json.dumps(self.identity)):
            return
        changes = [
            f"{key} was {then.get(key)!r}, is {now.get(key)!r}"
            for part in ("config", "made_from")
            for then, now in [(before.get(part, {}), self.identity[part])]
            for key in sorted({*then, *now})
            if then.get(key) != json.loads(json.dumps(now.get(key)))
        ]
        if before.get("stage") != self.stage:
            changes.insert(0, f"stage was {before.get('stage')!r}, is {self.stage!r}")
        raise UserError(
            f"run {self.config.output!r} exists with other settings ({'; '.join(changes) or 'other length'}); "
            "start it anew with --no-resume, or choose another --output"
        )

    def _cut_metrics(self) -> dict[str, float]:
        """Forget metrics of steps after the checkpoint, which will be made again; returns those of its own step."""
        path = self.folder / "metrics.jsonl"
        size = int(self.state["metrics_bytes"]) if self.state else 0
        if path.exists():
            with open(path, "r+b") as file:
                file.truncate(size)
                lines = file.read().splitlines()
            if lines:
                return {name: value for name, value in json.loads(lines[-1]).items() if name not in ("step", "seconds")}
        return {}

    # -- context --------------------------------------------------------------------------------------------

    def __enter__(self) -> "Run":
        self._former = None
        if threading.current_thread() is threading.main_thread():
            self._former = signal.signal(signal.SIGTERM, self._on_term)
        self._bar = Progress(
            TextColumn(f"{self.config.output:>16}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._bar.start()
        self._task = self._bar.add_task("", total=self.total, completed=self.step, note="")
        return self

    def __exit__(self, *error) -> None:
        self._bar.stop()
        if self._former is not None:
            signal.signal(signal.SIGTERM, self._former)
        self.metrics_file.close()
        self.board.close()

    def _on_term(self, *_signal) -> None:
        self.stopping = True


def _rng_states() -> dict[str, Any]:
    """Of torch's generators: the processor's, and every GPU's, from which dropout is drawn there."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"torch_rng": torch.get_rng_state(), "cuda_rng": cuda}


def _set_rng_states(state: Mapping[str, Any]) -> None:
    torch.set_rng_state(state["torch_rng"])
    if torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda_rng"][: torch.cuda.device_count()])


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".new")
    try:
        temporary.write_bytes(content)
        temporary.rename(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
