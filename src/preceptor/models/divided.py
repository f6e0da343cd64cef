"""Models that no process reads whole: each rank makes room for its own shards and reads only these from the files."""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, rename_source_key

from preceptor.errors import UserError
from preceptor.models.attention import fuse_activations, install
from preceptor.models.shard import own_part, shard, skeleton_of

INDEX = "model.safetensors.index.json"


def read_divided(
    kind, folder: Path, config, attention: str, device: torch.device, new: tuple[str, ...], *, frozen: bool
) -> PreTrainedModel | None:
    """The model in a folder, divided over the ranks as `shard` does, in fp32 and ready as `load.py` makes it.

    Only weights whose name ends with one of `new` may be absent; they are left for the caller to fill. None, with a
    warning, for files that name their weights in another way than the model: transformers has to convert them whole.
    """
    with parameters_on_meta():
        model = kind.from_config(config, dtype=torch.float32, attn_implementation=attention, trust_remote_code=False)
    model.tie_weights()
    fuse_activations(model)
    places, converted = _places(folder, model)
    names = _aliases(model)
    found = {name: next((places[each] for each in group if each in places), None) for name, group in names.items()}
    missing = converted + sorted(name for name, place in found.items() if place is None and not name.endswith(new))
    if missing:
        warnings.warn(
            f"{folder} does not hold the weights of {type(model).__name__} as they are ({missing[0]} is not among "
            "them), so every worker reads all of them",
            stacklevel=2,
        )
        return None
    model.requires_grad_(not frozen)
    model.eval()
    shard(model)
    buffers = [buffer.clone() for buffer in model.buffers()]
    model.to_empty(device=device)
    for buffer, value in zip(model.buffers(), buffers, strict=True):
        buffer.copy_(value)
    _fill(model, {name: place for name, place in found.items() if place is not None})
    model.config.name_or_path = str(folder)
    install(model)
    skeleton = skeleton_of(model)
    assert skeleton is not None
    skeleton.set_attn_implementation(model.config.get_text_config()._attn_implementation)
    return model


@contextmanager
def parameters_on_meta() -> Iterator[None]:
    """Modules made meanwhile get parameters without memory; their buffers, which no file holds, are real."""
    register = nn.Module.register_parameter

    def on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and parameter.device.type != "meta":
            parameter = nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)
        register(module, name, parameter)

    nn.Module.register_parameter = on_meta
    try:
        yield
    finally:
        nn.Module.register_parameter = register


def _aliases(model: PreTrainedModel) -> dict[str, list[str]]:
    """Each parameter's name -> all its names: more than one where weights are tied."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {group[0]: group for group in names.values()}


def _places(folder: Path, model: PreTrainedModel) -> tuple[dict[str, tuple[Path, str]], list[str]]:
    """(name of a weight in the model -> its file and its name there; names in the files that are not renamed only)."""
    index = folder / INDEX
    if index.is_file():
        stored = {name: folder / Path(file).name for name, file in json.loads(index.read_text())["weight_map"].items()}
    else:
        stored = {}
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, "pt") as file:
                stored |= dict.fromkeys(file.keys(), path)
    rules = get_model_conversion_mapping(model)
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    renamings = [rule for rule in rules if not isinstance(rule, WeightConverter)]
    own = model.state_dict()
    places, converted = {}, []
    for name, path in stored.items():
        renamed, pattern = rename_source_key(name, renamings, converters, model.base_model_prefix, own)
        places[renamed] = (path, name)
        converted += [] if pattern is None else [renamed]
    return places, sorted(converted)


@torch.no_grad()
def _fill(model: PreTrainedModel, sources: dict[str, tuple[Path, str]]) -> None:
    """Read this rank's part of every weight. Raises UserError for a weight of another shape."""
    for name, parameter in model.named_parameters():
        if name not in sources:
            continue
        path, stored = sources[name]
        with safe_open(path, "pt") as file:  # one weight at a time: what was read of a mapped file stays in memory
            part = file.get_slice(stored)
            if tuple(part.get_shape()) != tuple(parameter.shape):
                raise UserError(
                    f"cannot load {path}: {stored} has the shape {tuple(part.get_shape())}, the model that config.json "
                    f"describes wants {tuple(parameter.shape)}"
                )
            own = parameter.to_local()
            if own.numel():
                own.copy_(part[own_part(parameter)])
