"""A run's numbers for TensorBoard: one event file per start of the run, written at once and without a thread.

torch's SummaryWriter writes in a thread, whose traceback would stand beside the one line that tells of a full disk, and
names its files by the clock, after which TensorBoard orders them; here they are counted.
"""

import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter


class Board:
    """The event file of this start of the run. What earlier ones hold of `first_step` and later is made again."""

    def __init__(self, folder: Path, first_step: int):
        """Raises OSError."""
        folder.mkdir(parents=True, exist_ok=True)
        number = 1 + max((int(path.name.split(".")[3]) for path in folder.glob("events.out.tfevents.*")), default=0)
        self.file = open(folder / f"events.out.tfevents.{number:010d}", "wb", buffering=0)  # noqa: SIM115 - see close
        self.records = RecordWriter(self.file)
        self._write(Event(file_version="brain.Event:2"))
        self._write(Event(step=first_step, session_log=SessionLog(status=SessionLog.START)))

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Raises OSError."""
        values = [Summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]
        self._write(Event(step=step, summary=Summary(value=values)))

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self.records.write(event.SerializeToString())

    def close(self) -> None:
        self.file.close()
