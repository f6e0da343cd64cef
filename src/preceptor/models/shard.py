"""Parallelism as a function on models: model in, the same model out, its weights divided over the ranks.

Ranks that follow each other make teams of `--tensor-parallel`. A team divides the matrices among its ranks and takes
the same rows (tensor_parallel.py); what each rank has of them is divided over the teams (FSDP2).
"""

import copy
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache, wraps
from types import MethodType
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor, nn

# Sharded model -> the same model on one device, without weights.
_skeletons: WeakKeyDictionary[nn.Module, nn.Module] = WeakKeyDictionary()


class Layout:
    """How the ranks stand, for the whole process."""

    tensor = 1  # ranks of a team


def lay_out(tensor: int) -> None:
    """From now on, `tensor` ranks, a divisor of their number, make a team."""
    Layout.tensor = tensor
    mesh.cache_clear()
    if tensor > 1:  # of weights that both dimensions cut: that they are gathered in two steps, which is meant
        logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)


@cache
def mesh():
    """The device mesh: teams x ranks of a team."""
    from torch.distributed.device_mesh import init_device_mesh

    kind = "cuda" if dist.get_backend() == "nccl" else "cpu"
    shape = (dist.get_world_size() // Layout.tensor, Layout.tensor)
    return init_device_mesh(kind, shape, mesh_dim_names=("data", "tensor"))


def several() -> bool:
    """Does this process share its work with others?"""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def shard(model):
    """Divide the model's weights over the ranks, in place. One process alone gets its model back as it is.

    Raises UserError for a model that a team cannot divide.

    Each layer is gathered when its turn comes and let go after it. The functions of `logprobs.py` run under the model's
    hooks (`within`), so that embeddings and head are gathered around them.
    """
    if not several():
        return model
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    here = mesh().device_type
    empty = {
        id(p): nn.Parameter(torch.empty(0, dtype=p.dtype, device=here), requires_grad=False) for p in model.parameters()
    }
    skeleton = copy.deepcopy(model, empty)
    if Layout.tensor > 1:
        from preceptor.models.tensor_parallel import divide

        divide(model, mesh()["tensor"])
    for layer in layers(model):
        fully_shard(layer, mesh=mesh()["data"], reshard_after_forward=True)
    fully_shard(model, mesh=mesh()["data"], reshard_after_forward=True)
    model.within = MethodType(_within, model)
    register_fsdp_forward_method(model, "within")
    _skeletons[model] = skeleton
    return model


def _within(self, function, *args, **options):
    found = function(self, *args, **options)
    view = isinstance(found, Tensor) and found._is_view()
    return found.clone() if view else found  # FSDP2 hooks itself to what comes out; a view may lose it


def skeleton_of(model) -> nn.Module | None:
    """What `whole` fills: the model without weights; None for a model that is not sharded."""
    return _skeletons.get(model)


def layers(model) -> list[nn.Module]:
    """The model's transformer layers."""
    count = model.config.get_text_config().num_hidden_layers
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return list(module)
    return []


def gathered(function):
    """For functions of a model: run under its hooks where it is sharded, so that its weights are there."""

    @wraps(function)
    def run(model, *args, **options):
        if model in _skeletons:
            return model.within(function, *args, **options)
        return function(model, *args, **options)

    return run


@contextmanager
def whole(model) -> Iterator:
    """The model with all its weights on this rank: itself when it is not sharded; otherwise a copy, let go at the end.

    For what ranks do at their own pace: drawing answers, measuring, saving. Gathering needs all ranks.
    """
    skeleton = _skeletons.get(model)
    if skeleton is None:
        yield model
        return
    from torch.distributed.tensor import DTensor

    with torch.no_grad():
        for (_, empty), (_, part) in zip(skeleton.named_parameters(), model.named_parameters(), strict=True):
            empty.data = part.full_tensor()
        for empty, part in zip(skeleton.buffers(), model.buffers(), strict=True):
            empty.copy_(part.full_tensor() if isinstance(part, DTensor) else part)
    skeleton.config = model.config
    skeleton.train(model.training)
    try:
        yield skeleton
    finally:
        for parameter in skeleton.parameters():
            parameter.data = parameter.data.new_empty(0)


def like(value: Tensor, sample: Tensor) -> Tensor:
    """`value` laid out over the ranks as `sample` is. One that is laid out in another way is gathered meanwhile."""
    from torch.distributed.tensor import DTensor

    if not isinstance(sample, DTensor):
        return value
    if isinstance(value, DTensor):
        if value.device_mesh == sample.device_mesh and value.placements == sample.placements:
            return value
        value = value.full_tensor()
    part = value[own_part(sample)].to(sample.device_mesh.device_type, copy=True)
    return DTensor.from_local(
        part, sample.device_mesh, sample.placements, run_check=False, shape=sample.shape, stride=sample.stride()
    )


def own_part(sample) -> tuple[slice, ...]:
    """Which part of a whole tensor this rank holds, if it is laid out as `sample` is."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    shape, offset = compute_local_shape_and_global_offset(sample.shape, sample.device_mesh, sample.placements)
    return tuple(slice(start, start + length) for start, length in zip(offset, shape))


def load_weights(model, weights: Mapping[str, Tensor]) -> None:
    """`load_state_dict` for whole or sharded weights, whatever the model is."""
    own = model.state_dict()
    model.load_state_dict({name: like(value, own[name]) for name, value in weights.items()})


def empty_sharded(shape: list[int], dtype: torch.dtype) -> Tensor:
    """Room for this rank's part of a tensor whose rows are divided over all ranks."""
    from torch.distributed.tensor import Shard, empty

    where = mesh() if Layout.tensor > 1 else mesh()["data"]
    return empty(*shape, dtype=dtype, device_mesh=where, placements=[Shard(0)] * where.ndim)
