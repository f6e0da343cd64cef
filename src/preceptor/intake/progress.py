"""How far an import is, on standard error: bytes of the files read, with the time that is left."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


@dataclass(frozen=True, slots=True)
class Watch:
    """Tell `read` every number of bytes that was read."""

    progress: Progress
    task: TaskID

    def read(self, count: int) -> None:
        self.progress.advance(self.task, count)

    def adding(self) -> None:
        self.progress.update(self.task, description="adding to the database")


@contextmanager
def watch(paths: Sequence[Path], title: str, shown: bool | None) -> Iterator[Watch]:
    """A bar over the bytes of all files as they lie on the disk; `shown` None: where standard error is a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    size = sum(path.stat().st_size for path in paths if path.is_file())
    disabled = not (sys.stderr.isatty() if shown is None else shown)
    with Progress(*columns, console=Console(stderr=True), disable=disabled, transient=True) as progress:
        yield Watch(progress, progress.add_task(title, total=size))
