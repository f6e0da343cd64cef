"""Drawing tokens: every draw follows from (seed, row, step), never from what else is in the batch."""

import numpy as np
import torch
from torch import Tensor


def uniforms(seed: int, row: int, count: int) -> np.ndarray:
    """`count` numbers in [0, 1) for one row: a counter-based generator keyed by (seed, row)."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, row], dtype=np.uint64))).random(count)


def draw(
    logits: Tensor,
    temperature: Tensor,
    top_p: Tensor,
    u: Tensor,
    *,
    nucleus: bool | None = None,
    takes: bool | None = None,
) -> tuple[Tensor, Tensor]:
    """One token per row and its log-probability under exactly the distribution it was drawn from.

    logits [R, V]; temperature, top_p, u [R]. Temperature 0 takes the likeliest token and reports its log-probability
    at temperature 1. The draw inverts the cumulative distribution at u. Returns ids [R] and log-probabilities [R].

    `nucleus`, `takes`: has any row a top_p below 1, a temperature of 0? A caller who knows spares a GPU the asking.
    """
    greedy = temperature == 0
    logprobs = torch.log_softmax(logits.float() / torch.where(greedy, 1.0, temperature)[:, None], -1)
    if bool((top_p < 1).any()) if nucleus is None else nucleus:
        logprobs = _nucleus(logprobs, torch.where(greedy, 1.0, top_p))
    ids = _invert(logprobs, u)
    if bool(greedy.any()) if takes is None else takes:
        ids = torch.where(greedy, logits.argmax(-1), ids)
    return ids, logprobs.gather(-1, ids[:, None])[:, 0]


def _invert(logprobs: Tensor, u: Tensor) -> Tensor:
    cumulative = logprobs.double().exp().cumsum(-1)
    # Scaling by the total makes rounding of the sum harmless: u < 1 always finds a token of positive probability.
    target = u.double()[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True)[:, 0].clamp(max=logprobs.shape[-1] - 1)


def _nucleus(logprobs: Tensor, top_p: Tensor) -> Tensor:
    """Keep the likeliest tokens until they hold `top_p` of the probability, at least one; renormalise."""
    ordered, order = logprobs.sort(-1, descending=True)
    before = ordered.exp().cumsum(-1) - ordered.exp()
    keep = torch.zeros_like(logprobs, dtype=torch.bool).scatter(-1, order, before < top_p[:, None])
    return torch.log_softmax(logprobs.masked_fill(~keep, -torch.inf), -1)
