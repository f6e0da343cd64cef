"""Activations per token, measured: a few narrow layers of the same architecture go forward and backward on the CPU.

What autograd keeps depends on how a library writes its layers (rotary tables, gates, which GELU), so it is counted
from the very code that will run, not guessed. Every width of a layer is divided by the same number, with the width of a
head kept; what a token leaves behind is a sum of such widths, so it scales back by that number.
"""

import copy
import math
import weakref
from dataclasses import dataclass, replace

TOKENS = (128, 256)  # in one row
LAYERS = (2, 3)
VOCABULARY = 8
ANSWERS, PROMPT = 4, 8  # answers to one prompt and its tokens, where they share it
DROPOUTS = ("resid_pdrop", "hidden_dropout", "embd_pdrop")  # as `models/load.py:load_policy` sets them


@dataclass(frozen=True, slots=True)
class Activations:
    """Bytes per token."""

    per_layer: float  # kept for backward by each layer
    base: float  # kept outside the layers
    transient: float  # beyond those, at the high point of a layer's backward
    quiet: float  # high point of a pass without gradient
    squared: float = 0.0  # kept by each layer, per token and token of its row's length


def measure_activations(config, *, precision: str, dropout: float = 0.0) -> Activations:
    """Count the live bytes of small runs at two lengths and two depths, and take the slopes."""
    small, scale = narrow(config, dropout)
    few, many = (_run(small, LAYERS[0], tokens, precision) for tokens in TOKENS)
    deep_few, deep_many = (_run(small, LAYERS[1], tokens, precision) for tokens in TOKENS)
    more = TOKENS[1] - TOKENS[0]
    shallow = [(b - a) / more for a, b in zip(few, many)]  # bytes per token: saved, high point, quiet
    deep = [(b - a) / more for a, b in zip(deep_few, deep_many)]
    per_layer = (deep[0] - shallow[0]) / (LAYERS[1] - LAYERS[0])
    base = shallow[0] - LAYERS[0] * per_layer
    return Activations(
        per_layer=scale * per_layer,
        base=scale * base,
        transient=scale * max(0.0, deep[1] - deep[0]),
        quiet=scale * deep[2],
    )


def shared_activations(config, plain: Activations, *, precision: str) -> Activations:
    """What training on answers that share their prompt in a packed row leaves behind, as the reward model is trained
    where its attention can do that; `plain`: what rows of their own leave.

    Packed rows are copied into blocks for attention, and in fp32 a processor then keeps the attention's weights, which
    grow with the square of the length: hence a third length. In bf16 the same share of copies is added (memory.py
    counts the weights)."""
    small, scale = narrow(config, 0.0)
    lengths = (TOKENS[0] // 2, *TOKENS)
    kept = [_run(small, LAYERS[1], n, "fp32", True)[0] - _run(small, LAYERS[0], n, "fp32", True)[0] for n in lengths]
    per_row = [saved / ANSWERS for saved in kept]  # of one layer: linear * length + squared * length ** 2
    first, second = ((b - a) / (n - m) for a, b, m, n in zip(per_row, per_row[1:], lengths, lengths[1:]))
    squared = max(0.0, (second - first) / (lengths[2] - lengths[0]))
    linear = first - squared * (lengths[0] + lengths[1])
    if precision == "fp32":
        return replace(plain, per_layer=scale * linear, squared=scale * squared)
    alone = measure_activations(config, precision="fp32")
    return replace(plain, per_layer=plain.per_layer * scale * linear / alone.per_layer)


def narrow(config, dropout: float):
    """(the config with every width of a layer divided by the same whole number, that number)."""
    small = copy.deepcopy(config)
    heads = small.num_attention_heads
    kv_heads = getattr(small, "num_key_value_heads", None) or heads
    scale = math.gcd(heads, kv_heads)
    inner = "n_inner" if hasattr(small, "n_inner") else "intermediate_size"
    mlp = getattr(small, inner, None)
    scale = math.gcd(scale, small.hidden_size, mlp or small.hidden_size)
    small.hidden_size //= scale
    small.num_attention_heads = heads // scale
    if getattr(small, "num_key_value_heads", None):
        small.num_key_value_heads = kv_heads // scale
    if mlp:
        setattr(small, inner, mlp // scale)
    small.vocab_size = VOCABULARY
    if getattr(small, "max_position_embeddings", None):
        small.max_position_embeddings = max(small.max_position_embeddings, *TOKENS)
    small.pad_token_id = small.bos_token_id = small.eos_token_id = None
    for name in DROPOUTS:
        if hasattr(small, name):
            setattr(small, name, dropout)
    for name in ("attention_dropout", "attn_pdrop"):
        if getattr(small, name, None) is not None:
            setattr(small, name, 0.0)
    return small, scale


def packed_activations(config, plain: Activations, *, precision: str) -> Activations:
    """What training on answers that share their prompt leaves behind; `plain`: what rows of their own leave.

    Packed rows are copied into blocks for attention. That is counted in fp32: in bf16 a processor keeps attention
    weights too, which do not grow with tokens (memory.py counts them), so there the same share is added."""
    shared = measure_activations(config, precision="fp32", shared=True)
    if precision == "fp32":
        return shared
    alone = measure_activations(config, precision="fp32")
    return replace(
        plain,
        per_layer=plain.per_layer * shared.per_layer / alone.per_layer,
        transient=plain.transient * shared.transient / max(alone.transient, 1.0),
    )


def _run(config, layers: int, tokens: int, precision: str, shared: bool = False) -> tuple[int, int, int]:
    """Live bytes beyond weights and gradients: kept after forward, at the high point of backward, without gradient."""
    import torch
    from transformers import AutoModelForCausalLM

    from preceptor.models.attention import fuse_activations, install, packed_states, packs, shared_layout

    config = copy.deepcopy(config)
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = (list(config.layer_types) * layers)[:layers]
    with torch.random.fork_rng(devices=[]):
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").train()
        fuse_activations(model)  # as the trainer loads it
        ids, layout = torch.zeros(1, tokens, dtype=torch.long), None
        if shared:
            model.eval()
            install(model)
            ids = ids.expand(ANSWERS, -1)
            if packs(model, tokens):
                layout = shared_layout([PROMPT], [[tokens - PROMPT] * ANSWERS], ids.device)
                ids = torch.zeros(PROMPT + ANSWERS * (tokens - PROMPT), dtype=torch.long)
            model.train()
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)

        def forward():
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                if layout is not None:
                    return packed_states(model, ids, ids, layout)
                return model.base_model(input_ids=ids, use_cache=False).last_hidden_state

        grads = [p.grad for p in model.parameters()]
        known = [*model.parameters(), *model.buffers(), *grads, ids]
        live = _live_bytes(known)
        with live:
            hidden = forward()
            saved, live.high = live.now, live.now
            hidden.sum().backward()
            high = live.high
        del hidden
        quiet = _live_bytes(known)
        with quiet, torch.no_grad():
            forward()
        return saved, high, quiet.high


def _live_bytes(known):
    """A dispatch mode that counts the bytes of every storage made under it, for as long as it lives."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_iter

    class LiveBytes(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.now = self.high = 0
            self.held = [tensor.untyped_storage() for tensor in known]  # not counted, and kept: an id is theirs alone
            self.sizes = {id(storage): 0 for storage in self.held}

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for leaf in tree_iter(out):
                if isinstance(leaf, torch.Tensor):
                    storage = leaf.untyped_storage()
                    if id(storage) not in self.sizes:
                        self.sizes[id(storage)] = storage.nbytes()
                        self.now += storage.nbytes()
                        weakref.finalize(storage, self._gone, id(storage))
            self.high = max(self.high, self.now)
            return out

        def _gone(self, key: int) -> None:
            self.now -= self.sizes.pop(key)

    return LiveBytes()
