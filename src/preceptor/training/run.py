"""A run: its folder, its metrics, its checkpoints. Kill the process at any moment; the next start goes on from there.

runs/NAME/run.json              stage, settings, what it was made from
runs/NAME/metrics.jsonl         one line per step, each step once
runs/NAME/tensorboard/          the same for TensorBoard
runs/NAME/step-N/               checkpoints, the last few (checkpoints.py)
runs/NAME/refused-step-N.json   a batch that gave NaN or infinity
runs/.NAME.lock                 held by the process that trains
"""

import fcntl
import json
import math
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from preceptor import faults
from preceptor.config import StageConfig, as_settings
from preceptor.errors import UserError
from preceptor.models.adapters import Adapter
from preceptor.models.save import recover_model, save_model
from preceptor.store import Workspace
from preceptor.training import ranks
from preceptor.training.board import Board
from preceptor.training.checkpoints import Checkpoints
from preceptor.types import ModelCard

# Settings that say how long or how to run, not what comes out at a given step.
FREE = (
    "output",
    "max_steps",
    "max_minutes",
    "resume",
    "checkpoint_minutes",
    "keep",
    "workers",
    "tensor_parallel",
    "address",
    "gradient_checkpointing",
)

console = Console(stderr=True)


class NotFinite(Exception):
    """A loss, a reward or a gradient is NaN or infinite. The message says which."""


def finite(numbers: Mapping[str, float]) -> None:
    """Raises NotFinite for the first number that is NaN or infinite."""
    for name, number in numbers.items():
        if not math.isfinite(number):
            raise NotFinite(f"{name} is {number}")


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
        self.lock: _Lock | None = None
        try:
            self._open()
        except BaseException:
            self._unlock()
            raise

    def _open(self) -> None:
        ranks.in_turn(self._make_folder)
        self.checkpoints = Checkpoints(self.folder, self.config.keep, self._say)
        found = self.checkpoints.load()
        self.step, entries = found or (0, {})
        self.state: dict[str, Any] | None = entries.get("stage")
        if found:
            self._say(f"going on after step {self.step} of {self.total}")
        self.last: dict[str, float] = entries.get("last", {})
        self.metrics_file = self.board = None
        ranks.in_turn(lambda: self._open_metrics(entries.get("metrics_bytes", 0)))
        self.ending = self._ends()

    def _make_folder(self) -> None:
        if not ranks.first():
            return
        self.lock = _Lock(self.folder)
        recover_model(self.workspace.model(self.config.output))
        if not self.config.resume:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._check_identity()
        try:
            faults.at("start")
            self.folder.mkdir(parents=True, exist_ok=True)
            _write(self.folder / "run.json", json.dumps(self.identity, indent=2).encode())
        except OSError as error:
            raise UserError(f"cannot start the run in {self.folder}: {error}") from error

    def _say(self, text: str) -> None:
        if ranks.first():
            console.print(f"{self.config.output}: {text}")

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
        return ranks.agree(
            self.finished
            or self.stopping
            or (self.config.max_steps is not None and self.step >= self.config.max_steps)
            or (self.config.max_minutes is not None and minutes >= self.config.max_minutes)
        )

    def log(self, metrics: Mapping[str, float]) -> None:
        """Finish a step: its metrics to JSONL and TensorBoard."""
        self.checkpoints.check()
        self.step += 1
        self.last = {name: float(value) for name, value in metrics.items()}
        ranks.in_turn(self._write_metrics)
        self.ending = self._ends()
        if self._bar is not None:
            shown = ("loss", "accuracy", "reward", "kl_to_reference")
            text = "  ".join(f"{name} {self.last[name]:.3f}" for name in shown if name in self.last)
            self._bar.update(self._task, completed=self.step, note=text)
        faults.at("step", self.step)

    def _write_metrics(self) -> None:
        if self.metrics_file is None or self.board is None:
            return
        line = {"step": self.step, "seconds": round(time.monotonic() - self.started, 3), **self.last}
        try:
            faults.at("metrics", self.step)
            self.metrics_file.write(json.dumps(line).encode() + b"\n")
            self.metrics_file.flush()
            self.board.write(self.step, self.last)
        except OSError as error:
            path = self.folder / "metrics.jsonl"
            raise UserError(f"cannot write {path}: {error}; the last checkpoint is kept") from error

    @contextmanager
    def refusing(self, batch: Any) -> Iterator[float]:
        """Around what makes a step: when a number in it is NaN or infinite, write `batch` down and end the run.

        The weights on disk are those of the checkpoint before; nothing of the step gets into one. Gives 1, or what a
        test wants the step's loss to be multiplied with."""
        try:
            yield faults.at("batch", self.step + 1)
        except NotFinite as error:
            path = self.folder / f"refused-step-{self.step + 1}.json"
            where = f"its batch is in {path}; look at it, or lower the learning rate"
            try:
                if ranks.first():
                    _write(path, json.dumps(batch, default=_plain).encode())
            except OSError as unwritten:
                where = f"its batch could not be written: {unwritten}"
            raise UserError(
                f"run {self.config.output}: {error} at step {self.step + 1}, so the step was refused; {where}; "
                "the last checkpoint is kept"
            ) from error

    def due(self) -> bool:
        """Is it time for a checkpoint?"""
        return ranks.agree(time.monotonic() - self.saved_at >= 60 * self.config.checkpoint_minutes)

    # -- checkpoints ----------------------------------------------------------------------------------------

    def save(self, **state: Any) -> None:
        """Write a checkpoint: `state` holds tensors, numbers and state dictionaries. Whole or not at all.

        It is copied at once and written beside the training; the last one of a run is waited for."""
        written = ranks.in_turn(self._sync_metrics)
        self.checkpoints.save(self.step, {"stage": state, "metrics_bytes": written, "last": self.last})
        if self.ending:
            self.checkpoints.join()
        self.saved_at = time.monotonic()

    def _sync_metrics(self) -> int:
        """Bring the metrics to the disk; how many bytes there are of them."""
        if self.metrics_file is None:
            return 0
        try:
            os.fsync(self.metrics_file.fileno())
        except OSError as error:
            path = self.folder / "metrics.jsonl"
            raise UserError(f"cannot write {path}: {error}; the last checkpoint is kept") from error
        return self.metrics_file.tell()

    def _check_identity(self) -> None:
        path = self.folder / "run.json"
        if not path.is_file():
            return
        try:
            before = json.loads(path.read_text())
            # A version that had not some of today's settings did what their defaults do.
            settings = json.loads(json.dumps(as_settings(type(self.config)()))) | before["config"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged; start the run anew with --no-resume") from error
        before["config"] = {name: value for name, value in settings.items() if name not in FREE}
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

    def _open_metrics(self, size: int) -> None:
        """Forget metrics of steps after the checkpoint, which will be made again."""
        if not ranks.first():
            return
        path = self.folder / "metrics.jsonl"
        try:
            if path.exists():
                os.truncate(path, size)
            self.metrics_file = open(path, "ab")  # noqa: SIM115 - closed by __exit__
            self.board = Board(self.folder / "tensorboard", self.step + 1)
        except OSError as error:
            raise UserError(f"cannot write the metrics of the run in {self.folder}: {error}") from error

    def publish(
        self, model, tokenizer, card: ModelCard, adapter: Adapter | None = None, *, merged: bool = True
    ) -> Path:
        """Save the model as the run's output, by one process; the rest as `save_model`. Returns its folder."""
        folder = self.workspace.model(self.config.output)

        def save() -> None:
            if ranks.first():
                save_model(folder, model, tokenizer, card, adapter, merged=merged)

        ranks.in_turn(save)
        return folder

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
            disable=not (console.is_terminal and ranks.first()),
        )
        self._bar.start()
        self._task = self._bar.add_task("", total=self.total, completed=self.step, note="")
        return self

    def __exit__(self, kind, *_error) -> None:
        try:
            self.checkpoints.join()
        except UserError as failure:
            if kind is None:
                raise
            self._say(str(failure))  # beside the error that ended the run
        finally:
            self._bar.stop()
            if self._former is not None:
                signal.signal(signal.SIGTERM, self._former)
            self._close_metrics()
            self._unlock()

    def _close_metrics(self) -> None:
        """On a full disk both try once more to write, and fail once more: of that the run has told already."""
        for file in (self.metrics_file, self.board):
            if file is not None:
                with suppress(OSError):
                    file.close()

    def _unlock(self) -> None:
        if self.lock is not None:
            self.lock.close()

    def _on_term(self, *_signal) -> None:
        self.stopping = True


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".new")
    try:
        temporary.write_bytes(content)
        temporary.rename(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _plain(value: Any) -> Any:
    """What json cannot write: tensors and arrays as lists, dataclasses as dictionaries."""
    return value.tolist() if hasattr(value, "tolist") else as_settings(value)


class _Lock:
    """One process per run. The system lets go of it when the process ends, however it ends."""

    def __init__(self, folder: Path):
        path = folder.with_name(f".{folder.name}.lock")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file = open(path, "a+b", buffering=0)  # noqa: SIM115 - held until `close`
        except OSError as error:
            raise UserError(f"cannot start the run in {folder}: {error}") from error
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.file.seek(0)
            holder = (self.file.read() or b"").decode(errors="replace").strip() or "another process"
            self.file.close()
            raise UserError(
                f"run {folder.name!r} is being trained by {holder}; wait for it, stop it, or choose another --output"
            ) from error
        with suppress(OSError):  # on a full disk it is held all the same, by nobody known
            self.file.truncate(0)
            self.file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())

    def close(self) -> None:
        self.file.close()
