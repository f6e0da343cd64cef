"""Checkpoints: one folder each, whole or not at all, written beside the training, read by any number of ranks.

    step-00000040/shard-00001-...safetensors   the tensors, one file per rank that wrote
    step-00000040/state.json                   everything else, and where the tensors stand in it
    step-00000040/SHA256                       the sums of the files

torch's distributed checkpoint writes and reads the tensors, in the safetensors format. Nothing is ever unpickled.
"""

import hashlib
import json
import os
import shutil
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch import Tensor, cuda
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.tensor import DTensor

from preceptor import faults
from preceptor.errors import UserError
from preceptor.models.shard import empty_sharded
from preceptor.training import ranks

STATE, SUMS = "state.json", "SHA256"
FAILURES = (OSError, RuntimeError, SafetensorError, CheckpointException)


class Checkpoints:
    """The last `keep` checkpoints in a run's folder."""

    def __init__(self, folder: Path, keep: int, say: Callable[[str], None]):
        self.folder, self.keep, self.say = folder, keep, say
        self.thread: threading.Thread | None = None
        self.failure: BaseException | None = None
        # The writing thread talks to those of the other ranks beside the training, so it has a group of its own.
        self.group = dist.new_group(backend="gloo") if ranks.size() > 1 else None

    # -- writing --------------------------------------------------------------------------------------------

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Copy the state to host memory and write the copy in a thread. The save before is waited for first."""
        self.join()
        tensors: dict[str, Tensor] = {}
        tree = _pack(state, "", tensors)
        copies = {name: _copy(tensor) for name, tensor in tensors.items()}
        draws = _rng_states()
        copies |= {f"rng/{ranks.rank()}/{place}": draw for place, draw in enumerate(draws)}
        entries = {
            "step": step,
            "ranks": ranks.size(),
            "teams": ranks.teams(),
            "rng": [len(draw) for draw in draws],
            "state": tree,
        }
        self.thread = threading.Thread(target=self._write, args=(step, entries, copies), name="checkpoint")
        self.thread.start()

    def join(self) -> None:
        """Wait for the save that is under way. Raises UserError when it failed."""
        if self.thread is not None:
            self.thread.join()
            self.thread = None
            ranks.in_turn(self._raise)

    def check(self) -> None:
        """Raise the failure of the save that is under way, if it has failed already."""
        if ranks.size() == 1:  # several find out together, when they wait for it
            self._raise()

    def _raise(self) -> None:
        failure, self.failure = self.failure, None
        if failure is not None:
            raise failure

    def _write(self, step: int, entries: dict, tensors: dict[str, Tensor]) -> None:
        path = self.folder / f"step-{step:08d}"
        new = self.folder / f".{path.name}.new"
        try:
            faults.at("checkpoint", step)
            writer = HuggingFaceStorageWriter(str(new), save_distributed=True)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that one process saves without a group
                dcp.save(tensors, storage_writer=writer, process_group=self.group, no_dist=self.group is None)
            if ranks.first():
                faults.at("written", step)
                (new / STATE).write_text(json.dumps(entries))
                sums = {file.name: _sha256(file) for file in sorted(new.iterdir())}
                (new / SUMS).write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()))
                for file in (new / STATE, new / SUMS, new):
                    _sync(file)
                shutil.rmtree(path, ignore_errors=True)  # of a run that went back to the checkpoint before it
                new.rename(path)
                _sync(self.folder)
                faults.at("named", step, path=max(path.glob("*.safetensors"), key=lambda file: file.stat().st_size))
                for old in self.all()[: -self.keep]:
                    shutil.rmtree(old)
        except FAILURES as error:
            shutil.rmtree(new, ignore_errors=True)
            reason = _reason(error)
            self.failure = UserError(f"cannot save the checkpoint {path}: {reason}; the one before it is kept")
        except BaseException as error:  # whatever it is, the training has to hear of it
            self.failure = error

    # -- reading --------------------------------------------------------------------------------------------

    def all(self) -> list[Path]:
        """Whole checkpoints, the oldest first."""
        return sorted(path for path in self.folder.glob("step-*") if path.suffix != ".damaged")

    def load(self) -> tuple[int, dict[str, Any]] | None:
        """(step, state) of the last checkpoint that is not damaged; the process's random draws go on from it.

        Tensors that were sharded are sharded again when there are several ranks, however many there were before."""
        path = ranks.tell(str(self._last() or "") if ranks.first() else None)
        if not path:
            return None
        try:
            return self._read(path)
        except (*FAILURES, ValueError, KeyError, TypeError) as error:  # its sums are right, so it was written like this
            raise UserError(
                f"cannot read the checkpoint {path}: {_reason(error)}; remove it, and the one before it is used"
            ) from error

    def _read(self, path: str) -> tuple[int, dict[str, Any]]:
        entries = json.loads((Path(path) / STATE).read_text())
        wanted: dict[str, Tensor] = {}
        state = _unpack(entries["state"], wanted)
        laid_out = (entries["ranks"], entries.get("teams", entries["ranks"]))  # earlier versions had no teams
        same = laid_out == (ranks.size(), ranks.teams())
        draws = [torch.empty(length, dtype=torch.uint8) for length in entries["rng"]]
        if same:
            wanted |= {f"rng/{ranks.rank()}/{place}": draw for place, draw in enumerate(draws)}
        reader = HuggingFaceStorageReader(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dcp.load(wanted, storage_reader=reader, process_group=self.group, no_dist=self.group is None)
        if same:
            torch.set_rng_state(draws[0])
            if cuda.is_available():
                cuda.set_rng_state_all(draws[1 : cuda.device_count() + 1])
        else:
            torch.manual_seed(entries["step"] * 1_000_003 + ranks.team())
        return entries["step"], state

    def _last(self) -> Path | None:
        for leftover in self.folder.glob(".step-*.new"):
            shutil.rmtree(leftover)  # its process was killed while writing
        for path in reversed(self.all()):
            if whole(path):
                return path
            self.say(f"the checkpoint {path.name} is damaged; using the one before it")
            target = path.with_suffix(".damaged")
            shutil.rmtree(target, ignore_errors=True)
            path.rename(target)
        return None


def whole(path: Path) -> bool:
    """Do all files of a checkpoint stand there with their sums, and no others?"""
    sums = path / SUMS
    if not sums.is_file():
        return False
    lines = (line.split("  ", 1) for line in sums.read_text(errors="replace").splitlines())
    stored = {parts[1]: parts[0] for parts in lines if len(parts) == 2}
    found = {file.name for file in path.iterdir()} - {SUMS}
    return STATE in stored and found == set(stored) and all(_sha256(path / name) == stored[name] for name in found)


def _pack(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """A tree of dictionaries, lists, tuples, numbers and tensors as JSON; the tensors go to `tensors` by their path."""
    if isinstance(value, Tensor):
        tensors[path] = value
        kind = str(value.dtype).removeprefix("torch.")
        return {"tensor": path, "shape": list(value.shape), "dtype": kind, "sharded": isinstance(value, DTensor)}
    if isinstance(value, dict):
        return {"dict": [[key, _pack(each, f"{path}/{key}", tensors)] for key, each in value.items()]}
    if isinstance(value, (list, tuple)):
        return {type(value).__name__: [_pack(each, f"{path}/{place}", tensors) for place, each in enumerate(value)]}
    assert value is None or isinstance(value, (bool, int, float, str)), f"{path} is a {type(value).__name__}"
    return value


def _unpack(tree: Any, wanted: dict[str, Tensor]) -> Any:
    """The tree again, with empty tensors, which are entered in `wanted`."""
    if not isinstance(tree, dict):
        return tree
    if "tensor" in tree:
        kind = getattr(torch, tree["dtype"])
        make = empty_sharded if tree["sharded"] and ranks.size() > 1 else torch.empty
        wanted[tree["tensor"]] = tensor = make(tree["shape"], dtype=kind)
        return tensor
    if "dict" in tree:
        return {key: _unpack(each, wanted) for key, each in tree["dict"]}
    (kind, values), *_ = tree.items()
    return {"list": list, "tuple": tuple}[kind](_unpack(each, wanted) for each in values)


def _copy(tensor: Tensor) -> Tensor:
    """A copy in host memory; of a sharded tensor, of this rank's shard."""
    if not isinstance(tensor, DTensor):
        return tensor.detach().to("cpu", copy=True)
    local = tensor.detach().to_local().to("cpu", copy=True)
    # Not `from_local`, which would move it back to the mesh's device.
    return DTensor(local, tensor._spec, requires_grad=False)


def _rng_states() -> list[Tensor]:
    """Of torch's generators: the processor's, then every GPU's, from which dropout is drawn there."""
    return [torch.get_rng_state(), *(cuda.get_rng_state_all() if cuda.is_available() else [])]


def _reason(error: BaseException) -> str:
    """One line; of a failure on several ranks, the first's own error."""
    if isinstance(error, CheckpointException) and error.failures:
        error = next(iter(error.failures.values()))[0]
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
