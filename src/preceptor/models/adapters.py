"""LoRA: small trained matrices beside the frozen linear layers of a model (Hu et al. 2021, arXiv 2106.09685).

A layer W x becomes W x + (alpha / rank) B A x; only A [rank, in] and B [out, rank] are trained, and B starts at 0, so
that an adapted model starts as the very model it adapts. Folders of adapters are those of `peft`, both ways.
"""

import copy
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from preceptor.config import LoraConfig
from preceptor.errors import UserError
from preceptor.models.shard import load_weights, several

ALL = "all-linear"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."  # of every weight's name in a folder of peft
HEAD = "score"
# What peft can write that changes the arithmetic above, and the value that leaves it as it is.
PLAIN = {"use_dora": False, "use_rslora": False, "bias": "none", "rank_pattern": {}, "alpha_pattern": {}}


@dataclass(frozen=True, slots=True)
class Lora:
    """`targets`: last parts of the names of the layers that are adapted, or ALL: every linear layer of the body."""

    rank: int
    alpha: float
    targets: tuple[str, ...] = (ALL,)


def lora_of(config: LoraConfig) -> Lora | None:
    """What a stage's settings ask for; None: the whole model is trained."""
    if config.lora_rank is None:
        return None
    if several():
        raise UserError("lora_rank works in one process; leave it out, or the workers")
    targets = tuple(name.strip() for name in (config.lora_targets or ALL).split(","))
    return Lora(config.lora_rank, config.lora_alpha or 2.0 * config.lora_rank, targets)


class LoraLinear(nn.Module):
    """A frozen linear layer and its adapter. [..., in] -> [..., out]."""

    def __init__(self, base: nn.Linear | Conv1D, lora: Lora):
        super().__init__()
        self.base, self.scale = base, lora.alpha / lora.rank
        inputs, outputs = base.weight.shape if isinstance(base, Conv1D) else reversed(base.weight.shape)
        device = base.weight.device
        self.lora_A = nn.Parameter(torch.zeros(lora.rank, inputs, device=device))
        self.lora_B = nn.Parameter(torch.zeros(outputs, lora.rank, device=device))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + linear(linear(x, self.lora_A) * self.scale, self.lora_B)

    @property
    def weight(self) -> Tensor:
        """Of the frozen layer: some architectures look at its type."""
        return self.base.weight

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """The layer itself, with the adapter added to its weights, in place."""
        change = self.lora_B @ self.lora_A * self.scale
        self.base.weight.add_(change.T if isinstance(self.base, Conv1D) else change)
        return self.base


def adapt(model: PreTrainedModel, lora: Lora, seed: int) -> PreTrainedModel:
    """Freeze the model and put adapters on it, in place; they, and a scalar head, are all that is trained.

    A is drawn as peft and `nn.Linear` do, uniformly in +-1/sqrt(in). Raises UserError when no layer has such a name.
    """
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    wrapped = _wrap(model, lora)
    if not wrapped:
        names = sorted({name.rsplit(".", 1)[-1] for name, _ in _linear_layers(model)})
        kind = type(model).__name__
        raise UserError(f"lora_targets {', '.join(lora.targets)}: {kind} has no such layer; it has {', '.join(names)}")
    for layer in wrapped:
        reach = 1 / math.sqrt(layer.lora_A.shape[1])
        draw = torch.rand(layer.lora_A.shape, generator=generator) * 2 * reach - reach
        with torch.no_grad():
            layer.lora_A.copy_(draw)
    if isinstance(getattr(model, HEAD, None), nn.Module):
        getattr(model, HEAD).requires_grad_(True)
    return model


def twin(model: PreTrainedModel) -> PreTrainedModel:
    """A second model over the very same weights: only what is put on it afterwards is its own."""
    shared = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    return copy.deepcopy(model, shared)


def is_adapted(model: nn.Module) -> bool:
    return any(isinstance(module, LoraLinear) for module in model.modules())


def adapters(model: nn.Module) -> Iterator[tuple[str, LoraLinear]]:
    """(name of the layer, its adapter)."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, LoraLinear))


def merge(model: PreTrainedModel) -> PreTrainedModel:
    """Fold the adapters into the weights, in place. What shares these weights changes with them."""
    for name, layer in list(adapters(model)):
        _put(model, name, layer.merged())
    return model


def own_state(model: nn.Module) -> dict[str, Tensor]:
    """What a checkpoint has to keep: all weights, or of an adapted model those that are trained."""
    if not is_adapted(model):
        return model.state_dict()
    return {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}


def load_own_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Go on from `own_state`."""
    if not is_adapted(model):
        load_weights(model, state)
        return
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained.keys() == state.keys(), "the checkpoint has other adapters than the model"
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(state[name])


# -- folders ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter outside its model: what a folder of peft holds."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def lora(self) -> Lora:
        return Lora(self.config["r"], self.config["lora_alpha"], tuple(_targets(self.config)))

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).write_text(json.dumps(self.config, indent=2) + "\n")
        save_file(self.tensors, folder / WEIGHTS, metadata={"format": "pt"})


def take_adapter(model: PreTrainedModel, lora: Lora, base: str) -> Adapter:
    """A copy of the model's adapter, and of its scalar head. `base`: folder or hub name of the model under it."""
    tensors: dict[str, Tensor] = {}
    for name, layer in adapters(model):
        tensors[f"{PREFIX}{name}.lora_A.weight"] = layer.lora_A.detach().cpu().clone()
        tensors[f"{PREFIX}{name}.lora_B.weight"] = layer.lora_B.detach().cpu().clone()
    head = getattr(model, HEAD, None)
    for name, value in head.state_dict().items() if isinstance(head, nn.Module) else ():
        tensors[f"{PREFIX}{HEAD}.{name}"] = value.detach().cpu().clone()
    config = {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if head is not None else "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted({name.rsplit(".", 1)[-1] for name, _ in adapters(model)}),
        "modules_to_save": [HEAD] if head is not None else None,
        "fan_in_fan_out": any(isinstance(layer.base, Conv1D) for _, layer in adapters(model)),
        "inference_mode": True,
        **PLAIN,
    }
    return Adapter(config, tensors)


def find_adapter(folder: Path) -> Path | None:
    """Where a model folder keeps its adapter: beside its merged weights, or in their place; None when it has none."""
    return next((place for place in (folder / "adapter", folder) if (place / CONFIG).is_file()), None)


def read_adapter(folder: Path) -> Adapter:
    """An adapter of Preceptor or of peft. Raises UserError for one whose arithmetic is not plain LoRA."""
    try:
        config = json.loads((folder / CONFIG).read_text())
        tensors = load_file(folder / WEIGHTS)
        kind, targets = config["peft_type"], config["target_modules"]
        rank, alpha = config["r"], config["lora_alpha"]
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise UserError(f"cannot read the adapter in {folder}: {type(error).__name__} {error}") from error
    odd = [f"{key} {config[key]!r}" for key, plain in PLAIN.items() if (config.get(key) or plain) != plain]
    if kind != "LORA" or not rank or not alpha or odd or not (targets == ALL or isinstance(targets, list)):
        what = ", ".join(odd) or f"{kind}, targets {targets!r}"
        raise UserError(f"the adapter in {folder} is no plain LoRA ({what}); merge it with peft's merge_and_unload")
    return Adapter(config, tensors)


def put_adapter(model: PreTrainedModel, adapter: Adapter, where: Path) -> PreTrainedModel:
    """Freeze the model and put this adapter on it, head included, in place: it goes on as if it had been trained so."""
    model.requires_grad_(False)
    _wrap(model, adapter.lora, {name.removeprefix(PREFIX).rsplit(".", 2)[0] for name in adapter.tensors})
    places: dict[str, nn.Parameter] = {}
    for name, layer in adapters(model):
        places[f"{PREFIX}{name}.lora_A.weight"] = layer.lora_A
        places[f"{PREFIX}{name}.lora_B.weight"] = layer.lora_B
    head = getattr(model, HEAD, None)
    for name, parameter in head.named_parameters() if isinstance(head, nn.Module) else ():
        places[f"{PREFIX}{HEAD}.{name}"] = parameter.requires_grad_(True)
    different = sorted(places.keys() ^ adapter.tensors.keys())
    if different or any(place.shape != adapter.tensors[name].shape for name, place in places.items()):
        first = different[0] if different else "the size of its matrices"
        raise UserError(f"the adapter in {where} does not fit {type(model).__name__}: {first}")
    with torch.no_grad():
        for name, parameter in places.items():
            parameter.copy_(adapter.tensors[name])
    return model


# -- inside -----------------------------------------------------------------------------------------------------


def _targets(config: dict[str, Any]) -> list[str]:
    return [ALL] if config["target_modules"] == ALL else sorted(config["target_modules"])


def _linear_layers(model: PreTrainedModel) -> Iterator[tuple[str, nn.Linear | Conv1D]]:
    """Linear layers of the body: unembedding and scalar head are none of it."""
    for name, module in model.named_modules():
        if name.startswith(f"{model.base_model_prefix}.") and isinstance(module, (nn.Linear, Conv1D)):
            yield name, module


def _wrap(model: PreTrainedModel, lora: Lora, only: set[str] | None = None) -> list[LoraLinear]:
    """Adapters at 0 on the layers that `lora` means, and of these on those in `only`."""
    wrapped = []
    for name, layer in list(_linear_layers(model)):
        meant = ALL in lora.targets or any(name == end or name.endswith(f".{end}") for end in lora.targets)
        if meant and (only is None or name in only):
            wrapped.append(LoraLinear(layer, lora))
            _put(model, name, wrapped[-1])
    return wrapped


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)
