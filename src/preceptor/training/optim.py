"""Optimisers and schedules of the stages: torch's own AdamW and Muon."""

import math
from collections.abc import Iterable, Mapping
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW, Muon, Optimizer

from preceptor.models.shard import like
from preceptor.training.run import finite


class Optimizers:
    """One or two of torch's optimizers over a model, stepped together under one schedule.

    With `matrix_lr` the matrices inside the layers are trained by Muon and the rest (embeddings, norms, heads) by
    AdamW; without it AdamW trains everything. Weight decay applies to the layers' matrices only.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        lr: float,
        matrix_lr: float | None = None,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
    ):
        matrices, others = split_parameters(model)
        self.parameters = [*matrices, *others]
        fused = all(p.is_floating_point() for p in self.parameters)
        self.all: list[Optimizer] = []
        groups = [{"params": others, "weight_decay": 0.0}]
        if matrix_lr is None:
            groups.append({"params": matrices, "weight_decay": weight_decay})
        elif matrices:
            self.all.append(Muon(matrices, lr=matrix_lr, momentum=0.95, weight_decay=weight_decay))
        self.all.append(AdamW([g for g in groups if g["params"]], lr=lr, betas=betas, eps=eps, fused=fused))
        self.peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.all]

    def step(self, share: float, max_norm: float) -> float:
        """One update at `share` of the peak learning rates. Returns the gradient's norm before it was cut.

        Raises NotFinite, and moves nothing, for a gradient with a NaN or an infinity in it."""
        norm = nn.utils.clip_grad_norm_(self.parameters, max_norm)
        norm = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
        finite({"gradient_norm": norm})
        for optimizer, peaks in zip(self.all, self.peaks):
            for group, peak in zip(optimizer.param_groups, peaks):
                group["lr"] = peak * share
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return norm

    def state_dict(self) -> list:
        return [optimizer.state_dict() for optimizer in self.all]

    def load_state_dict(self, states: list) -> None:
        for optimizer, state in zip(self.all, states, strict=True):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            moments = {
                place: {key: like(value, parameters[place]) if value.ndim else value for key, value in entry.items()}
                for place, entry in state["state"].items()
            }
            optimizer.load_state_dict({**state, "state": moments})


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Matrices of the layers; everything else (embeddings, unembedding, scalar head, norms, biases)."""
    outside = set()
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            outside.add(id(module.weight))
    for name in ("lm_head", "embed_out", "score"):
        head = getattr(model, name, None)
        if head is not None:
            outside.update(id(parameter) for parameter in head.parameters())
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.ndim == 2 and id(p) not in outside]
    inside = {id(p) for p in matrices}
    return matrices, [p for p in trained if id(p) not in inside]


def cosine(step: int, total: int, final: float, warmup: float = 0.0) -> float:
    """Share of the peak at `step` (0-based): linear rise over `warmup` * total steps, then cosine to `final`."""
    rising = warmup * total
    if step < rising:
        return (step + 1) / max(rising, 1)
    progress = (step - rising) / max(total - rising - 1, 1)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def warmed(step: int, warmup: int) -> float:
    """Share of the peak: from a tenth up over `warmup` steps, then constant."""
    return min(1.0, 0.1 + 0.9 * step / warmup) if warmup else 1.0


def autocast(precision: str, device: torch.device):
    """bf16 arithmetic for matrix products; nothing for fp32."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


class Average:
    """Exponential moving average of a model's trained parameters, held beside it."""

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.values = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            if name in self.values:
                self.values[name].lerp_(parameter, 1 - self.decay)

    @torch.no_grad()
    def load(self, values: Mapping[str, Tensor]) -> None:
        """Go on from saved averages, on whatever device the model is."""
        for name, value in self.values.items():
            value.copy_(like(values[name], value))

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            if name in self.values:
                parameter.copy_(self.values[name])


def mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed) if listed else 0.0
