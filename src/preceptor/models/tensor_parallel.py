"""Tensor parallel: the matrices of a model divided over the ranks of a team, by transformers' own plan.

transformers says for each architecture which matrices are cut by their output features (`colwise`), which by their
input features (`rowwise`) and what becomes of embedding and head; torch's parallel styles do it. The weights that the
plan does not name are held whole by every rank of the team, as tensors of the same mesh: so one optimizer steps, and
one norm covers, all of them.
"""

import re

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard, distribute_module, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module
from transformers import PreTrainedModel

from preceptor.errors import UserError


class Held(ParallelStyle):
    """Every rank holds all weights of a module. `layout`: how the team holds what goes in and what comes out."""

    def __init__(self, layout: Placement):
        super().__init__()
        self.layout = layout

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        def hold(_name: str, part: nn.Module, mesh: DeviceMesh) -> None:
            for name, value in list(part.named_parameters(recurse=False)):
                held = distribute_tensor(value.detach(), mesh, [Replicate()], src_data_rank=None)
                part.register_parameter(name, nn.Parameter(held, requires_grad=value.requires_grad))

        def enter(_module: nn.Module, inputs: tuple, mesh: DeviceMesh) -> tuple:
            return tuple(
                DTensor.from_local(value, mesh, [self.layout], run_check=False) if isinstance(value, Tensor) else value
                for value in inputs
            )

        def leave(_module: nn.Module, output: DTensor, mesh: DeviceMesh) -> Tensor:
            return output.redistribute(mesh, [self.layout]).to_local()

        return distribute_module(module, device_mesh, hold, enter, leave)


# transformers' names -> torch's styles, and the dimension of the weight that is cut.
CUT = {
    "colwise": (ColwiseParallel, 0),
    "rowwise": (RowwiseParallel, 1),
    "colwise_gather_output": (lambda: ColwiseParallel(output_layouts=Replicate()), 0),
    "rowwise_split_input": (lambda: RowwiseParallel(input_layouts=Replicate()), 1),
    "embedding_rowwise": (lambda: RowwiseParallel(input_layouts=Replicate()), 0),
}
# A norm of each head's own numbers, whose weights all heads share: each rank has its heads only, whichever dimension
# they stand in, and the gradient is the sum over the ranks.
HEAD_NORM = "replicated_with_grad_allreduce"


def divide(model: PreTrainedModel, mesh: DeviceMesh) -> None:
    """Divide the model's weights over the ranks of a one-dimensional mesh, in place.

    Raises UserError for an architecture without a plan, or one whose heads or widths the mesh does not divide."""
    _check(model, mesh.size())
    holders = [(name, module) for name, module in model.named_modules() if any(True for _ in module.parameters(False))]
    styles = [_style(model, name, module, mesh.size()) for name, module in holders]
    places: dict[int, list[tuple[nn.Module, str]]] = {}  # several for tied weights
    for _, module in holders:
        for name, parameter in module.named_parameters(recurse=False):
            places.setdefault(id(parameter), []).append((module, name))
    for (_, module), style in zip(holders, styles):
        parallelize_module(module, mesh, style, src_data_rank=None)
    for (module, name), *tied in places.values():
        for other, alias in tied:
            other.register_parameter(alias, module._parameters[name])


def _check(model: PreTrainedModel, ranks: int) -> None:
    plan = model._tp_plan or {}
    if not any(".*." in name for name in plan):
        raise UserError(f"transformers has no tensor parallel plan for {type(model).__name__}; use --tensor-parallel 1")
    modules, parameters = (
        {_generic(name) for name, _ in named} for named in (model.named_modules(), model.named_parameters())
    )
    for name, style in plan.items():
        known = style in CUT or (style == HEAD_NORM and name.endswith("norm"))
        if name in parameters or (name in modules and not known):
            raise UserError(
                f"transformers' tensor parallel plan for {type(model).__name__} has {style} for {name}, which "
                "Preceptor does not know; use --tensor-parallel 1"
            )
    config = model.config.get_text_config()
    for name in ("num_attention_heads", "num_key_value_heads"):
        heads = getattr(config, name, None) or ranks
        if heads % ranks:
            raise UserError(f"tensor_parallel {ranks} does not divide the {heads} {name} of the model")


def _generic(name: str) -> str:
    """A module's name as plans have it: `layers.*.mlp` for `layers.0.mlp`."""
    return re.sub(r"\.\d+(?=\.|$)", ".*", name)


def _style(model: PreTrainedModel, name: str, module: nn.Module, ranks: int) -> ParallelStyle:
    generic = _generic(name)
    planned = (model._tp_plan or {}).get(generic)
    if planned is None:
        return Held(Replicate())
    if planned == HEAD_NORM:
        return Held(Shard(-2))
    make, dimension = CUT[planned]
    width = module.weight.shape[dimension]
    if width % ranks == 0:
        return make()
    if ".*" not in generic:  # the vocabulary's, which have any size
        return Held(Replicate())
    raise UserError(f"tensor_parallel {ranks} does not divide the {width} features of {generic}")
