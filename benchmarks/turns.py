"""A worker process of a benchmark: it works one step when told to, says how long that took, and waits.

Lines of JSON on standard output, to the process that conducts; what else is printed goes to standard error. Knows
nothing of either side, so that peers in environments of their own can use it.
"""

import json
import os
import sys
import time
from pathlib import Path


class Finished(Exception):
    """The conductor has no more steps."""


class Turns:
    """`clock`: seconds of the wall, or with BENCH_CLOCK=cpu those that this process worked."""

    def __init__(self) -> None:
        self.clock = time.process_time if os.environ.get("BENCH_CLOCK") == "cpu" else time.perf_counter
        self.out = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)
        self.started = 0.0
        self.counts = {"sequences": 0, "positions": 0, "decode_steps": 0}

    def count(self, *bodies) -> None:
        """Count what goes through these transformer bodies: sequences and positions (padding included) of passes over
        whole sequences, and steps of one token each."""

        def seen(module, args, kwargs):
            ids = kwargs.get("input_ids", args[0] if args else None)
            rows, columns = ids.shape
            if columns > 1:
                self.counts["sequences"] += rows
                self.counts["positions"] += rows * columns
            else:
                self.counts["decode_steps"] += 1

        for body in bodies:
            body.register_forward_pre_hook(seen, with_kwargs=True)

    def ready(self, **facts) -> None:
        """Everything is loaded. Waits for the first turn."""
        self._say({"ready": True, "resident_mib": memory()[0], **facts})
        self.wait()

    def done(self, **facts) -> None:
        """Report a step and wait for the next turn. Raises Finished when there is none."""
        seconds = self.clock() - self.started
        self._say({"seconds": seconds, "peak_mib": memory()[1], **self.counts, **facts})
        self.wait()

    def wait(self) -> None:
        if sys.stdin.readline().strip() != "step":
            raise Finished
        self.counts.update(sequences=0, positions=0, decode_steps=0)
        self.started = self.clock()

    def _say(self, message: dict) -> None:
        self.out.write(json.dumps(message) + "\n")


def memory() -> tuple[float, float]:
    """Resident memory of this process now, and its peak, in MiB (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    values = {name: value.split()[0] for name, _, value in (line.partition(":") for line in lines) if value.strip()}
    return int(values["VmRSS"]) / 1024, int(values["VmHWM"]) / 1024
