"""Parallelism as a function on models: model in, the same model out, its weights divided over the ranks (FSDP2)."""

import copy
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


@cache
def mesh():
    """The device mesh: all ranks in a row."""
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh("cuda" if dist.get_backend() == "nccl" else "cpu", (dist.get_world_size(),))


def several() -> bool:
    """Does this process share its work with others?"""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def shard(model):
    """Divide the model's weights over the ranks, in place. One process alone gets its model back as it is.

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
    for layer in layers(model):
        fully_shard(layer, mesh=mesh(), reshard_after_forward=True)
    fully_shard(model, mesh=mesh(), reshard_after_forward=True)
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
    with torch.no_grad():
        for (_, empty), (_, part) in zip(skeleton.named_parameters(), model.named_parameters(), strict=True):
            empty.data = part.full_tensor()
        for empty, part in zip(skeleton.buffers(), model.buffers(), strict=True):
            empty.copy_(part)
    skeleton.config = model.config
    skeleton.train(model.training)
    try:
        yield skeleton
    finally:
        for parameter in skeleton.parameters():
            parameter.data = parameter.data.new_empty(0)


def like(value: Tensor, sample: Tensor) -> Tensor:
    """`value` laid out over the ranks as `sample` is."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(sample, DTensor) or isinstance(value, DTensor):
        return value
    moved = value.to(sample.device_mesh.device_type)
    return distribute_tensor(moved, sample.device_mesh, sample.placements, src_data_rank=None)


def load_weights(model, weights: Mapping[str, Tensor]) -> None:
    """`load_state_dict` for whole or sharded weights, whatever the model is."""
    own = model.state_dict()
    model.load_state_dict({name: like(value, own[name]) for name, value in weights.items()})


def empty_sharded(shape: list[int], dtype: torch.dtype) -> Tensor:
    """Room for this rank's part of a tensor that is divided as `shard` divides weights."""
    from torch.distributed.tensor import Shard, empty

    return empty(*shape, dtype=dtype, device_mesh=mesh(), placements=[Shard(0)])
