"""Faults on order, for tests: kill the process, fill the disk, poison a batch, corrupt a file, at a named point.

    PRECEPTOR_FAULT="kill@step:3"                  kill -9 after step 3
    PRECEPTOR_FAULT="full@checkpoint:5,nan@batch:7"  two faults
    PRECEPTOR_FAULT="kill@step:3/1"                in worker 1 only

A fault is ACTION@POINT, then :N for one step only, then /RANK for one worker only. Without the variable nothing is
looked up. With PRECEPTOR_FAULT_ONCE=FOLDER each fault happens once, however often the workers are started again: what
happened leaves a file there. docs/runs.md has the tables of actions and points, which tests hold to this file.
"""

import errno
import os
import signal
from dataclasses import dataclass
from pathlib import Path

from preceptor.errors import UserError

VARIABLE, ONCE = "PRECEPTOR_FAULT", "PRECEPTOR_FAULT_ONCE"

ACTIONS = {
    "kill": "SIGKILL to the own process: a power cut, the out-of-memory killer, a dropped worker",
    "term": "SIGTERM to the own process: the machine is wanted back",
    "full": "OSError ENOSPC: no space left on device",
    "readonly": "OSError EROFS: read-only file system",
    "nan": "the gradient's loss becomes NaN",
    "inf": "the gradient's loss becomes infinite",
    "corrupt": "one bit in the middle of the file is turned",
}
POINTS = {
    "start": "the run's folder is about to be made",
    "batch": "a step's loss is about to be made",
    "rollout": "PPO: the reward model's scores are about to be used",
    "step": "a step is done and its metrics are written",
    "metrics": "a step's metrics are about to be written",
    "checkpoint": "a checkpoint's files are about to be written",
    "written": "a checkpoint's files are written, its sums are not",
    "named": "a checkpoint is whole and has its name",
    "model": "a model's files are written beside its folder",
    "moved": "where folders cannot change names in one step: the old model is moved away, the new one not yet in place",
    "placed": "the new model is in its place, the old one is not removed",
}


@dataclass(frozen=True, slots=True)
class Fault:
    action: str
    point: str
    number: int | None
    rank: int | None


def parse(text: str) -> tuple[Fault, ...]:
    """The faults of the variable's text. Raises UserError for what is none."""
    return tuple(_parse_one(one.strip()) for one in text.split(",") if one.strip())


def _parse_one(text: str) -> Fault:
    action, _, rest = text.partition("@")
    rest, _, rank = rest.partition("/")
    point, _, number = rest.partition(":")
    if action not in ACTIONS or point not in POINTS or not (number or "0").isdigit() or not (rank or "0").isdigit():
        raise UserError(
            f"{VARIABLE}: {text!r} is no fault; write ACTION@POINT[:STEP][/RANK] with one of the actions "
            f"{', '.join(ACTIONS)} and one of the points {', '.join(POINTS)}"
        )
    return Fault(action, point, int(number) if number else None, int(rank) if rank else None)


def at(point: str, number: int = 0, *, path: Path | None = None) -> float:
    """Let the faults ordered for this point happen. `path`: the file that `corrupt` turns a bit of.

    Returns what the caller has to multiply its loss with: 1, or NaN or infinity.
    """
    text = os.environ.get(VARIABLE)
    if not text:
        return 1.0
    poison = 1.0
    rank = int(os.environ.get("RANK", "0"))
    for place, fault in enumerate(parse(text)):
        if fault.point == point and fault.number in (None, number) and fault.rank in (None, rank) and _first(place):
            poison *= _happen(fault.action, path)
    return poison


def _first(place: int) -> bool:
    """True unless the fault happened before and was to happen once."""
    folder = os.environ.get(ONCE)
    if not folder:
        return True
    try:
        (Path(folder) / f"fault-{place}").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _happen(action: str, path: Path | None) -> float:
    if action in ("kill", "term"):
        os.kill(os.getpid(), signal.SIGKILL if action == "kill" else signal.SIGTERM)
    elif action in ("full", "readonly"):
        number = errno.ENOSPC if action == "full" else errno.EROFS
        raise OSError(number, os.strerror(number))
    elif action == "corrupt":
        assert path is not None, "this point has no file to corrupt"
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    return {"nan": float("nan"), "inf": float("inf")}.get(action, 1.0)
