"""A GPU that is none: tensors that say they are on `pretend` and are held, and computed, on the processor.

As on a real one, an operation on tensors of both devices is an error (numbers without a dimension, and indices, may
come from the processor), and every copy of a value back to the processor is counted: there a GPU would be waited for.
"""

from collections import Counter
from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

aten = torch.ops.aten
# What may mix devices: copies by their nature, and the indices of an indexing operation.
COPIES = {aten.copy_, aten._to_copy, aten.to}
INDEXING = {aten.index, aten.index_put_, aten.index_put, aten._index_put_impl_}
# What needs a value, or a shape that follows from values, on the processor.
SYNCS = {aten._local_scalar_dense, aten.nonzero, aten.is_nonzero, aten.equal, aten.item}


class OnGpu(torch.Tensor):
    """Wraps a processor's tensor and says that it is on the GPU."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor):
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device="pretend:0",
        )
        made.inner = inner
        return made

    def __repr__(self, **_) -> str:
        return f"OnGpu({tuple(self.shape)}, {self.dtype})"

    def tolist(self):
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise AssertionError(f"{function} ran outside the pretended GPU's mode")


class PretendGpu(TorchDispatchMode):
    """`waits`: how often a value came back to the processor, by operation."""

    def __init__(self):
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        leaves, spec = tree_flatten((args, kwargs or {}))
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        ours = {id(leaf.inner): leaf for leaf in tensors if isinstance(leaf, OnGpu)}
        goal = next((leaf.type for leaf in leaves if isinstance(leaf, torch.device)), None)
        if not ours and goal != "pretend":
            return function(*args, **(kwargs or {}))
        self.check(function, args, tensors)
        into = isinstance(args[0], OnGpu) if function.overloadpacket is aten.copy_ else goal != "cpu"
        if not into or function.overloadpacket in SYNCS:
            self.waits[function.overloadpacket.__name__] += 1
        given = [_inside(leaf) for leaf in leaves]
        new_args, new_kwargs = tree_unflatten(given, spec)
        found = function(*new_args, **new_kwargs)
        if function.overloadpacket is aten.copy_:
            return args[0]
        if not into:
            return found.clone() if any(found is leaf for leaf in given) else found
        return tree_map(lambda leaf: _outside(leaf, ours), found)

    @staticmethod
    def check(function, args, tensors) -> None:
        if function.overloadpacket in COPIES or function.overloadpacket.__name__.endswith("_like"):
            return
        if function.overloadpacket in INDEXING and isinstance(args[0], OnGpu):
            tensors = [leaf for leaf in tree_flatten(args[2:])[0] if isinstance(leaf, torch.Tensor)]
        strangers = [tuple(leaf.shape) for leaf in tensors if not isinstance(leaf, OnGpu) and leaf.dim() > 0]
        if strangers:
            raise RuntimeError(f"{function}: expected all tensors on the same device; on the processor: {strangers}")


def _inside(leaf):
    if isinstance(leaf, torch.device):
        return torch.device("cpu")
    return leaf.inner if isinstance(leaf, OnGpu) else leaf


def _outside(leaf, known: dict):
    """What an operation made, on the pretended GPU; what it changed in place stays the tensor that it was."""
    if not isinstance(leaf, torch.Tensor):
        return leaf
    return known[id(leaf)] if id(leaf) in known else OnGpu(leaf)


class MakesThere(TorchFunctionMode):
    """`torch.tensor` and indices that are lists are made inside torch, where no mode looks: they are made before."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function is torch.tensor and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return function(*args, **kwargs).to(device)
        if function is torch.Tensor.__getitem__:
            args = (args[0], _indices(args[1]))
        return function(*args, **kwargs)


def _indices(index):
    if isinstance(index, tuple):
        return tuple(_indices(part) for part in index)
    return torch.tensor(index) if isinstance(index, list) else index


@contextmanager
def pretended_gpu():
    """Everything that is asked to be on `pretend` is said to be there. Gives what counts the waits."""
    with MakesThere(), PretendGpu() as gpu:
        yield gpu


class Pretend(_DummyBackendModule):
    """What torch asks of a device's module."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


def register() -> None:
    """Tell torch of the device, for the rest of this process."""
    _setup_privateuseone_for_python_backend("pretend", backend_module=Pretend())
