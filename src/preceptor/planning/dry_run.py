"""The sharded models themselves, on the meta device and a process group that only pretends: what each rank would hold.

`models/shard.py:shard` divides the modules that transformers makes of the config over as many ranks as the plan has
GPUs. Rank 0 gets the largest part of every tensor; its tensors are counted and held against the plan's own figures.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from preceptor.errors import UserError
from preceptor.planning import formulas as f

MISMATCH = 0.01  # share of the plan's figure from which a difference is said


@dataclass(frozen=True, slots=True)
class DryRun:
    """One model, divided. Numbers, not bytes, where nothing else is said."""

    role: str
    ranks: int
    parameters: int  # of the whole model
    largest: int  # of rank 0
    bytes: int  # of rank 0's weights
    root: int  # gathered outside the layers
    layer: int  # gathered with the largest layer
    planned: Mapping[str, float]  # what the plan reckons with: parameters, bytes, root, layer

    @property
    def mismatches(self) -> list[str]:
        found = {"parameters": self.parameters, "bytes": self.bytes, "root": self.root, "layer": self.layer}
        return [
            f"{name}: {found[name]:,} in the sharded model, {planned:,.0f} in the plan"
            for name, planned in self.planned.items()
            if abs(found[name] - planned) > MISMATCH * planned
        ]

    def to_json(self) -> dict[str, Any]:
        return {
            "role": self.role,
            "ranks": self.ranks,
            "parameters": self.parameters,
            "rank_0_parameters": self.largest,
            "rank_0_bytes": self.bytes,
            "root_parameters": self.root,
            "layer_parameters": self.layer,
            "planned": dict(self.planned),
            "mismatches": self.mismatches,
        }

    def lines(self) -> list[str]:
        first = (
            f"dry run, {self.role}: {self.parameters:,} parameters over {self.ranks} ranks; rank 0 holds "
            f"{self.largest:,}, {self.bytes / f.GB:,.2f} GB of weights; gathered at a time: {self.layer:,} of a layer, "
            f"{self.root:,} outside the layers"
        )
        return [first, *(f"  differs from the plan: {line}" for line in self.mismatches)]


def dry_run(config, shape, ranks: int, *, scalar: bool) -> DryRun:
    """Shard the model of a config over `ranks` pretended ranks. Raises UserError for fewer than two."""
    import torch
    from torch.distributed.tensor import DTensor
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    from preceptor.models.shard import layers, shard

    if ranks < 2:
        raise UserError("--dry-run divides the model over the GPUs; add --gpus, at least 2")
    config = copy.deepcopy(config)
    config.num_labels = 1
    maker = AutoModelForSequenceClassification if scalar else AutoModelForCausalLM
    with pretended(ranks):
        with torch.device("meta"):
            model = shard(maker.from_config(config, dtype=torch.float32))
        parameters = list(model.parameters())
        whole = [name for name, one in model.named_parameters() if not isinstance(one, DTensor)]
        if whole:
            raise RuntimeError(f"{len(whole)} weights were not divided, the first is {whole[0]}")
        parts = [parameter.to_local() for parameter in parameters]
        inside = [sum(p.numel() for p in layer.parameters()) for layer in layers(model)]
        total = sum(p.numel() for p in parameters)
        count = shape.scalar_parameters if scalar else shape.parameters
        return DryRun(
            role="reward and value model" if scalar else "policy",
            ranks=ranks,
            parameters=total,
            largest=sum(part.numel() for part in parts),
            bytes=sum(part.numel() * part.element_size() for part in parts),
            root=total - sum(inside),
            layer=max(inside),
            planned={
                "parameters": count,
                "bytes": f.weight_bytes(count, ranks),
                "root": count - shape.layers * shape.layer_parameters,
                "layer": shape.layer_parameters,
            },
        )


@contextmanager
def pretended(ranks: int) -> Iterator[None]:
    """A process group of which this process is rank 0 and the others do not exist; nothing is sent."""
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore

    from preceptor.models.shard import mesh

    if dist.is_initialized():
        raise RuntimeError("a dry run needs a process that is in no group")
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    mesh.cache_clear()
    try:
        yield
    finally:
        mesh.cache_clear()
        dist.destroy_process_group()
