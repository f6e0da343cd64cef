"""The processes of one run. One process alone is rank 0 of 1, and then nothing here does or costs anything.

Every rank reads the same data in the same order, takes its part of the rows that go through the models together, and
sees the same sums: so results do not depend on the number of ranks, up to the rounding of sums. Ranks that divide each
layer among them (`--tensor-parallel`) are a team: they take the same rows, and the first of them speaks for it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from preceptor.errors import UserError
from preceptor.models.shard import Layout

Result = TypeVar("Result")


def size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if size() > 1 else 0


def first() -> bool:
    """Is this the process that writes and speaks?"""
    return rank() == 0


def teams() -> int:
    """Parts into which rows are divided. Gradients are means over the teams."""
    return size() // Layout.tensor


def team() -> int:
    return rank() // Layout.tensor


def speaks() -> bool:
    """Is this the rank whose rows and figures count, of those that have the same?"""
    return rank() % Layout.tensor == 0


def barrier() -> None:
    if size() > 1:
        agree(False)


def share(places: Sequence[int]) -> tuple[list[int], float]:
    """This team's part of some rows, and 1; or the first place and 0 where there is none left for this team.

    Sharded models need a pass on every rank, so one without rows of its own makes it too, and counts it 0 times.
    """
    mine = list(places[team() :: teams()])
    return (mine, 1.0) if mine else ([places[0]], 0.0)


def span(count: int) -> tuple[int, int]:
    """First and end of this rank's part of `count` rows, one after another, as even as can be: of work on whole models,
    in which the ranks of a team do not need each other."""
    return count * rank() // size(), count * (rank() + 1) // size()


def total(values: Mapping[str, float]) -> dict[str, float]:
    """Each value's sum over the teams."""
    if size() == 1:
        return dict(values)
    sums = torch.tensor(list(values.values()), dtype=torch.float64, device=_device())
    if not speaks():
        sums.zero_()
    dist.all_reduce(sums)
    return dict(zip(values, sums.tolist()))


def combine(*tensors: Tensor) -> None:
    """Fill CPU tensors of which each team made some entries and left the others 0."""
    for tensor in tensors if size() > 1 else ():
        moved = tensor.to(_device(), copy=True)
        if not speaks():
            moved.zero_()
        dist.all_reduce(moved)
        tensor.copy_(moved)


def gather(rows: list) -> list:
    """The rows of all ranks, in the order of `span`."""
    if size() == 1:
        return rows
    parts: list[list] = [[] for _ in range(size())]
    dist.all_gather_object(parts, rows)
    return [row for part in parts for row in part]


def agree(flag: bool) -> bool:
    """True on every rank when it is on one."""
    if size() == 1:
        return flag
    box = torch.tensor(int(flag), device=_device())
    dist.all_reduce(box)
    return bool(box)


def tell(value):
    """Rank 0's value, on every rank."""
    if size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def in_turn(make: Callable[[], Result]) -> Result:
    """What `make` returns, made by rank 0 first, and by the others when its files are there.

    Raises rank 0's UserError on every rank: one that ended alone would leave the others waiting."""
    if size() == 1:
        return make()
    failure = result = None
    if first():
        try:
            result = make()
        except UserError as error:
            failure = str(error)
    failure = tell(failure)
    if failure is not None:
        raise UserError(failure)
    return result if first() else make()


def _device() -> str:
    return "cuda" if dist.get_backend() == "nccl" else "cpu"
