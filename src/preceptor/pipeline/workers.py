"""Stages in processes of their own: two single-threaded processes do more on two cores than one with two threads."""

import json
import os
import time
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from preceptor.store import Workspace

POLL = 0.5  # seconds between two looks at the running stages


class Workers:
    """Two workers, and a display of what they do. Jobs are functions of this package's `jobs` module."""

    def __init__(self, root: Path, console: Console):
        self.root, self.console = root, console
        threads = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM")}
        os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}  # read when a worker starts
        self.pool = ProcessPoolExecutor(2, mp_context=get_context("spawn"), initializer=_alone)
        self.former = threads
        self.bar = Progress(
            TextColumn("{task.description:>22}"),
            BarColumn(bar_width=30),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.shown: dict[str, TaskID] = {}
        self.peak_rss_mib = 0.0  # of this process and the workers together, at the worst moment seen

    def __enter__(self) -> "Workers":
        self.bar.start()
        return self

    def __exit__(self, *error) -> None:
        self.bar.stop()
        self.pool.shutdown(wait=error[0] is None, cancel_futures=True)
        if error[0] is not None:
            for process in list((getattr(self.pool, "_processes", None) or {}).values()):
                process.terminate()
        for name, value in self.former.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    def start(self, job: str, *arguments) -> Future:
        """Run the function `job` of `pipeline.jobs` with the workspace's folder and `arguments`."""
        return self.pool.submit(_run, job, self.root, *arguments)

    def wait(self, *futures: Future) -> list:
        """The results, in order, showing the progress of every running stage meanwhile."""
        while not all(future.done() for future in futures):
            self._look()
            time.sleep(POLL)
        self._look()
        return [future.result() for future in futures]

    def _look(self) -> None:
        self.peak_rss_mib = max(self.peak_rss_mib, self._rss_mib())
        if self.bar.disable:
            return
        for run in sorted((self.root / "runs").glob("*/run.json")):
            name = run.parent.name
            metrics = run.with_name("metrics.jsonl")
            total = json.loads(run.read_text())["total"]
            steps = metrics.read_bytes().count(b"\n") if metrics.exists() else 0
            if name not in self.shown and steps < total:
                self.shown[name] = self.bar.add_task(name, total=total)
            if name in self.shown:
                done = steps >= total
                self.bar.update(self.shown[name], completed=steps, visible=not done)

    def _rss_mib(self) -> float:
        """Resident memory of this process and its workers; where the system has no /proc, the sum of their peaks."""
        pids = [os.getpid(), *(getattr(self.pool, "_processes", None) or {})]
        if not Path("/proc/self/statm").exists():
            import resource

            both = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
            return sum(both) / 1024
        pages = 0
        for pid in pids:
            try:
                pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            except FileNotFoundError:
                continue  # the worker ended between listing and reading
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _run(job: str, root: Path, *arguments):
    from preceptor.pipeline import jobs  # brings torch, which the main process does without

    return getattr(jobs, job)(Workspace(root), *arguments)


def _alone() -> None:
    """In a worker: one thread, no progress bars of its own."""
    import torch

    from preceptor.training import run

    torch.set_num_threads(1)
    run.console.quiet = True
