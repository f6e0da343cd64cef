"""Every formula of `preceptor plan`, with its source. Standard library only.

Units: bytes, floating-point operations (a multiply and an add are two), seconds, tokens, rows (sequences).
"fp32 master" means what our trainer does: weights, gradients and both moments of Adam are 4-byte floats whatever the
precision of the arithmetic.
"""

FP32, FP64, BF16 = 4, 8, 2  # bytes per number
GB = 1e9  # bytes; memory sizes are printed and given in these
PETAFLOP_S_DAY = 1e15 * 86_400  # operations


# -- what stays: weights, gradients, optimizer ------------------------------------------------------------------


def weight_bytes(parameters: float, ranks: int = 1) -> float:
    """fp32 weights, divided over `ranks` (ZeRO stage 3, Rajbhandari et al. 2020, section 5; FSDP2)."""
    return FP32 * parameters / ranks


def gradient_bytes(parameters: float, ranks: int = 1) -> float:
    """fp32 gradients of the trained parameters, divided over `ranks`."""
    return FP32 * parameters / ranks


def adam_bytes(parameters: float, ranks: int = 1) -> float:
    """The two fp32 moments of Adam (Kingma and Ba 2015, algorithm 1). The fused step makes no copies."""
    return 2 * FP32 * parameters / ranks


def lora_parameters(inputs_and_outputs: int, rank: int) -> int:
    """Adapters B A on weights of n inputs and m outputs: rank (n + m) each (Hu et al. 2021, section 4.1).

    `inputs_and_outputs`: the sum of n + m over all adapted matrices.
    """
    return rank * inputs_and_outputs


def gathered_bytes(root: float, layer: float, width: int, *, training: bool) -> float:
    """What FSDP2 holds whole on each rank: the root's own parameters (embeddings, norm, head), the layer in use and
    the next one, on its way; in training one layer's gradient too, until it is reduced (PyTorch, `fully_shard`:
    implicit prefetching; the root is not resharded after forward)."""
    return width * (root + (3 if training else 2) * layer)


# -- what comes and goes: activations, logits, caches -----------------------------------------------------------


def saved_bytes(rows: int, length: int, layers: int, per_layer: float, base: float) -> float:
    """Activations kept for the backward pass. `per_layer`, `base`: bytes per token of one layer, and outside of them.

    Linear in tokens, for SDPA's fused kernels keep no rows x heads x length x length tensor (Dao et al. 2022).
    """
    return rows * length * (layers * per_layer + base)


def checkpointed_bytes(rows: int, length: int, layers: int, width: int, per_layer: float, base: float) -> float:
    """With activation checkpointing of every layer: each layer's fp32 input, and all of the one layer that is made
    again (Chen et al. 2016, section 4; Korthikanti et al. 2022, section 4: 2sbh at 2 bytes)."""
    return rows * length * (layers * FP32 * width + per_layer + base)


def backward_bytes(saved: float, transient: float, head: float) -> float:
    """The high point of a backward pass without its accumulated gradients: everything saved, and either the head's
    logits and gradient, or what a layer's own backward makes for a moment."""
    return saved + max(transient, head)


LOGIT_COPIES = 4  # tensors of the chunk's size alive in the backward pass of gather(x) - logsumexp(x)


def logit_bytes(rows: int, vocabulary: int, chunk: int) -> float:
    """Logits of `models/logprobs.py:selected_logprobs`: at most `chunk` numbers at a time, made again in backward.
    `rows`: target tokens."""
    return LOGIT_COPIES * FP32 * min(rows, max(1, chunk // vocabulary)) * vocabulary


def draw_bytes(rows: int, vocabulary: int) -> float:
    """`rollout/draw.py`: fp32 logits and log-probabilities, two fp64 tensors for the cumulative sum."""
    return rows * vocabulary * (2 * FP32 + 2 * FP64)


def cache_bytes(rows: int, columns: int, layers: int, kv_heads: int, head_width: int) -> float:
    """Keys and values of a rollout: 2 x layers x kv heads x head width numbers per token (Shazeer 2019, section 2),
    fp32 as the engine keeps them."""
    return 2 * FP32 * rows * columns * layers * kv_heads * head_width


# -- work and time ----------------------------------------------------------------------------------------------


def forward_flops(tokens: float, length: int, matrices: float, layers: int, attention_width: int) -> float:
    """2 per matrix parameter and token, and 2 x layers x length x attention width for causal attention, which sees
    half of `length` on average (Kaplan et al. 2020, table 1). `matrices`: parameters of the layers' matrices and of
    the head, where logits are made."""
    return tokens * (2 * matrices + 2 * layers * length * attention_width)


def training_flops(forward: float, *, lora: bool = False, checkpointing: bool = False) -> float:
    """Backward is twice forward (Kaplan et al. 2020, section 2.1): gradients of activations and of weights; frozen
    weights spare the latter. Checkpointing makes forward once more."""
    return forward * (3 - lora + checkpointing)


def petaflop_s_days(flops: float) -> float:
    return flops / PETAFLOP_S_DAY


def compute_seconds(flops: float, gpus: int, rate: float, utilisation: float) -> float:
    """`rate`: peak operations per second of one GPU; `utilisation`: the share of it that is reached."""
    return flops / (gpus * rate * utilisation)


def decode_seconds(weights: float, cache: float, steps: float, bandwidth: float) -> float:
    """Drawing a token for every row reads all weights and, on average, half the final cache once (Pope et al. 2022,
    section 3). `weights`, `cache`: bytes on one GPU; `bandwidth`: its bytes per second."""
    return steps * (weights + cache / 2) / bandwidth


def gather_seconds(parameters: float, width: int, times: float, gpus: int, link: float) -> float:
    """`times` all-gathers (or reduce-scatters) of a model over `gpus` ranks: each rank moves (n - 1) / n of it per
    time (Rajbhandari et al. 2020, section 7). `link`: bytes per second of one GPU's network."""
    return times * width * parameters * (gpus - 1) / gpus / link
