"""Attention without padding: rows of many lengths stand behind each other in one row of tokens.

Everything in a transformer but attention looks at one token at a time, so the rows need no padding there. For attention
alone, queries and keys are spread into blocks of rows of similar length. K answers to one prompt may also share it: its
tokens then stand in the row once, and each answer attends to them and to itself.

Works for architectures whose attention can be given from outside (transformers' attention interface): `install` tries,
compares with the architecture's own, and leaves the model as it was where they differ.

Shape legend: N  tokens of a packed row, H  heads, W  width of a head, R  rows of a block, T  tokens of its longest row,
M  places in all blocks, padding included.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import accumulate, repeat

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, Cache, PreTrainedModel
from transformers.activations import NewGELUActivation
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from preceptor.models.shard import gathered

NAME = "preceptor"
# On CPUs, bf16 matrix products are several times as fast as torch's fused attention in bf16. They hold the whole matrix
# of a row's attention weights, so they serve rows of up to this many tokens.
SHORT = 512
# Rows of a block are at least this share of its longest, less SLACK tokens: fewer blocks cost fewer calls.
SHARE, SLACK = 0.75, 16
# Packed rows are filled up to a multiple of FILL, the rows of a block to one of STEP: libraries of matrix products keep
# code for every shape that they have met, half a megabyte for each.
FILL, STEP = 64, 16


@dataclass(frozen=True, slots=True)
class Spread:
    """Where N packed tokens stand in padded blocks. `shapes`: (R, T) of each block, M places in all.

    `to` [M]: the token of each place, any token where it is padding. `back` [N]: the place of each token.
    """

    shapes: tuple[tuple[int, int], ...]
    to: Tensor
    back: Tensor
    padding: Tensor  # [M, 1] True where a place is padding


@dataclass(frozen=True, slots=True)
class Layout:
    """How a packed row attends: every row of `rows` to itself, causally. Behind them may stand the `answers`, an equal
    number to each of the rows: they attend to their row and, causally, to themselves. `bias` [R, T, keys] has 0 where
    an answer's token may look, minus infinity elsewhere."""

    rows: Spread
    answers: Spread | None = None
    bias: Tensor | None = None


class _Pad(torch.autograd.Function):
    """x [H, N, W] -> [H, M, W]. Nothing that is used depends on padding, so padding has no gradient to give back."""

    @staticmethod
    def forward(ctx, x: Tensor, spread: Spread) -> Tensor:
        ctx.spread = spread
        return x.index_select(1, spread.to)

    @staticmethod
    def backward(ctx, *gradients: Tensor):
        return gradients[0].index_select(1, ctx.spread.back), None


class _Unpad(torch.autograd.Function):
    """x [H, M, W] -> [H, N, W]."""

    @staticmethod
    def forward(ctx, x: Tensor, spread: Spread) -> Tensor:
        ctx.spread = spread
        return x.index_select(1, spread.back)

    @staticmethod
    def backward(ctx, *gradients: Tensor):
        return gradients[0].index_select(1, ctx.spread.to).masked_fill_(ctx.spread.padding, 0), None


def spread_of(lengths: Sequence[int], device: torch.device, blocks: bool = True) -> Spread:
    """The spread of rows with these lengths; without `blocks` all rows stand in one block, in their order."""
    ends = list(accumulate(lengths, initial=0))
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row]) if blocks else range(len(lengths))
    groups: list[list[int]] = [[]]
    for row in order:
        if blocks and groups[-1] and lengths[row] < SHARE * lengths[groups[-1][0]] - SLACK:
            groups.append([])
        groups[-1].append(row)
    to, back, padding, shapes, place = [], torch.empty(ends[-1], dtype=torch.long), [], [], 0
    for group in groups:
        width = max(1, *(lengths[row] for row in group))
        width += -width % STEP
        starts = torch.tensor([ends[row] for row in group])[:, None]
        own = torch.tensor([lengths[row] for row in group])[:, None]
        columns = torch.arange(width)
        pad = columns >= own
        tokens = torch.where(pad, 0, starts + columns)
        places = place + torch.arange(len(group) * width).view(len(group), width)
        back[tokens[~pad]] = places[~pad]
        to.append(tokens.flatten())
        padding.append(pad.flatten())
        shapes.append((len(group), width))
        place += len(group) * width
    return Spread(tuple(shapes), torch.cat(to).to(device), back.to(device), torch.cat(padding)[:, None].to(device))


def row_layout(lengths: Sequence[int], device: torch.device) -> Layout:
    """Rows of these lengths, one behind the other."""
    return Layout(spread_of(lengths, device))


def shared_layout(prompts: Sequence[int], answers: Sequence[Sequence[int]], device: torch.device) -> Layout:
    """All prompts one behind the other, then all answers, prompt by prompt. Lengths in tokens; answers[p] may be fewer
    than those of another prompt: rows of length 0 stand for the missing ones."""
    most = max(len(row) for row in answers)
    lengths = [length for row in answers for length in [*row, *repeat(0, most - len(row))]]
    rows, own = spread_of(prompts, device, blocks=False), spread_of(lengths, device, blocks=False)
    width, longest = own.shapes[0][1], rows.shapes[0][1]
    seen = torch.zeros(len(lengths), width, longest + width)
    seen[:, :, longest:] = torch.full((width, width), -torch.inf).triu(1)
    hidden = torch.arange(longest) >= torch.tensor(prompts).repeat_interleave(most)[:, None]
    seen[:, :, :longest].masked_fill_(hidden[:, None], -torch.inf)
    return Layout(rows, own, seen.to(device))


def attend(module, query, key, value, attention_mask, dropout=0.0, scaling=None, layout: Layout | None = None, **more):
    """Attention as transformers calls it: query [B, H, T, W], key and value [B, H', K, W] -> [B, T, H, W], no weights.

    With a `layout`, B is 1 and the row is packed. Raises ValueError for what a packed row cannot do.
    """
    on, device = torch.is_autocast_enabled(query.device.type), query.device.type
    dtype = torch.get_autocast_dtype(device) if on else query.dtype
    plain = attention_mask is None and query.shape[2] == key.shape[2]
    if layout is None and not (plain and device == "cpu" and dtype == torch.bfloat16):
        if query.shape[2] == 1 < key.shape[2] and key.stride(2) == 1 and attention_mask is not None:
            with torch.autocast(device, enabled=False) if on else nullcontext():
                return _decode(query, key, value, attention_mask, scaling), None
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **more)
    if any(more.get(name) is not None for name in ("position_bias", "softcap", "s_aux")):
        raise ValueError("this architecture adds something to its attention that packed rows do not know")
    query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    if key.shape[1] != query.shape[1]:  # grouped queries
        times = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(times, 1), value.repeat_interleave(times, 1)
    with torch.autocast(device, enabled=False) if on else nullcontext():
        if layout is None:
            return _weigh(query, key, value, None, dropout, scaling).transpose(1, 2), None
        return _packed(query[0], key[0], value[0], layout, dropout, scaling).transpose(0, 1)[None], None


def _packed(query: Tensor, key: Tensor, value: Tensor, layout: Layout, dropout: float, scaling: float | None) -> Tensor:
    """query, key, value [H, N, W] -> [H, N, W]; tokens behind those of the layout get 0."""
    tokens = len(layout.rows.back)
    real = tokens + (len(layout.answers.back) if layout.answers else 0)
    if real < query.shape[1]:
        short = _packed(query[:, :real], key[:, :real], value[:, :real], layout, dropout, scaling)
        return F.pad(short, (0, 0, 0, query.shape[1] - real))
    spread = [_Pad.apply(x[:, :tokens], layout.rows) for x in (query, key, value)]
    outputs, place = [], 0
    for rows, width in layout.rows.shapes:
        q, k, v = (x[:, place : place + rows * width].unflatten(1, (rows, width)) for x in spread)
        outputs.append(_weigh(q, k, v, None, dropout, scaling).flatten(1, 2))
        place += rows * width
    output = _Unpad.apply(torch.cat(outputs, 1) if len(outputs) > 1 else outputs[0], layout.rows)
    if layout.answers is None:
        return output
    (prompts, _), (answers, _) = layout.rows.shapes[0], layout.answers.shapes[0]
    q, k, v = (
        _Pad.apply(x[:, tokens:], layout.answers).unflatten(1, layout.answers.shapes[0]) for x in (query, key, value)
    )
    shared = (x.unflatten(1, layout.rows.shapes[0]) for x in spread[1:])
    k, v = (
        torch.cat([x[:, :, None].expand(-1, -1, answers // prompts, -1, -1).flatten(1, 2), own], 2)
        for x, own in zip(shared, (k, v))
    )
    follow = _weigh(q, k, v, layout.bias, dropout, scaling).flatten(1, 2)
    return torch.cat([output, _Unpad.apply(follow, layout.answers)], 1)


def _weigh(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, dropout: float, scaling: float | None):
    """query [A, B, T, W], key and value [A, B, K, W] -> [A, B, T, W]; causal unless there is a `bias` [B, T, K]."""
    if bias is not None:
        bias = bias.to(query.dtype)
    fast = query.device.type == "cpu" and query.dtype == torch.bfloat16 and key.shape[2] <= SHORT and not dropout
    if not fast:
        causal = bias is None and query.shape[2] > 1
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=bias, dropout_p=dropout, is_causal=causal, scale=scaling
        )
    scaling = query.shape[3] ** -0.5 if scaling is None else scaling
    q, k, v = query.flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1)
    if bias is None:
        above = torch.full((q.shape[1], k.shape[1]), -torch.inf, dtype=q.dtype).triu(1)
        scores = torch.baddbmm(above, q, k.transpose(1, 2), alpha=scaling)
    else:
        scores = torch.bmm(q * scaling, k.transpose(1, 2))
        scores = (scores.unflatten(0, query.shape[:2]) + bias).flatten(0, 1)
    return torch.bmm(scores.softmax(-1), v).unflatten(0, query.shape[:2])


def _decode(query: Tensor, key: Tensor, value: Tensor, seen: Tensor, scaling: float | None) -> Tensor:
    """One token of each row over cached keys that stand transposed in memory: on CPUs two matrix products are faster
    than fused attention then. query [B, H, 1, W], key and value [B, H', K, W], seen [B, 1, 1, K] bool -> [B, 1, H, W].
    """
    rows, heads, _, width = query.shape
    together = (rows * key.shape[1], heads // key.shape[1])  # queries that share their keys
    scaling = width**-0.5 if scaling is None else scaling
    query = (query * scaling).to(key.dtype).reshape(*together, width)
    scores = torch.bmm(query, key.transpose(2, 3).flatten(0, 1)).view(rows, heads, 1, -1)
    weights = scores.masked_fill_(~seen, -torch.inf).softmax(-1)
    return torch.bmm(weights.view(*together, -1), value.flatten(0, 1)).view(rows, 1, heads, width)


def packs(model: PreTrainedModel, longest: int) -> bool:
    """Can this model be given packed rows of at most `longest` tokens?

    Not while it drops activations at random: which ones would then depend on how the rows are laid out.
    """
    if model.training and any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules()):
        return False
    config = model.config.get_text_config()
    if config._attn_implementation != NAME:
        return False
    kinds = getattr(config, "layer_types", None)
    everywhere = kinds is not None and not any("sliding" in kind for kind in kinds)
    window = None if everywhere else getattr(config, "sliding_window", None)
    return window is None or longest <= window


def packed_states(
    model: PreTrainedModel, ids: Tensor, positions: Tensor, layout: Layout, cache: Cache | None = None
) -> Tensor:
    """Last hidden states [N, D] of the packed tokens `ids` [N] at these `positions` [N] of their rows. An empty `cache`
    is given their keys and values, in one row and with those of the filling behind them."""
    # A mask that is ready-made is passed on as it is: none is made, and none is looked at.
    ready = torch.empty(1, 1, 1, 1, device=ids.device)
    tokens, fill = len(ids), -len(ids) % FILL
    ids, positions = F.pad(ids, (0, fill)), F.pad(positions, (0, fill))
    states = model.base_model(
        input_ids=ids[None],
        position_ids=positions[None],
        attention_mask=ready,
        past_key_values=cache,
        use_cache=cache is not None,
        layout=layout,
    )
    return states.last_hidden_state[0, :tokens]


def fuse_activations(model: nn.Module) -> None:
    """Replace an activation that is written out in eight operations, each a pass over the memory."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is NewGELUActivation:
                setattr(module, name, nn.GELU(approximate="tanh"))


@gathered
@torch.no_grad()
def install(model: PreTrainedModel) -> None:
    """Make the model faster at the same results: packed rows where its attention allows them, a fused activation."""
    fuse_activations(model)
    before = model.config.get_text_config()._attn_implementation
    if before != "sdpa" or not getattr(model, "_supports_attention_backend", False):
        return
    lengths = (2, 5, 3)
    rows = [torch.arange(start, start + length) for start, length in zip((1, 2, 4), lengths)]
    rows = [row.to(model.device) % model.config.get_text_config().vocab_size for row in rows]
    own = torch.cat([model.base_model(input_ids=row[None], use_cache=False).last_hidden_state[0] for row in rows])
    model.set_attn_implementation(NAME)
    try:
        positions = torch.cat([torch.arange(length) for length in lengths]).to(model.device)
        ours = packed_states(model, torch.cat(rows), positions, row_layout(lengths, model.device))
        same = torch.allclose(ours, own, atol=1e-5 * max(1.0, float(own.abs().max())), rtol=0)
    except (TypeError, ValueError, RuntimeError, IndexError):
        same = False
    if not same:
        model.set_attn_implementation(before)


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
