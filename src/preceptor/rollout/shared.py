"""What rows have in common, computed once: the start that all of them share, and a context that several answers follow.

Shape legend: B  rows, S  tokens of the longest row without the shared start, P  tokens of the shared start.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from preceptor.models.logprobs import selected_logprobs
from preceptor.rollout.cache import states_of

WORTH = 64  # a shared start of fewer tokens is cheaper computed again than kept and copied
ANSWERS = 16  # after one context in one row
TOKENS = 4096  # of one forward pass

Ids = Sequence[int]


def common_start(rows: Sequence[Ids]) -> int:
    """How many first tokens all rows share; at least one token of each row is left out of it."""
    if not rows:
        return 0
    first, last = min(rows), max(rows)  # in the order of dictionaries the two that share least
    same = next((place for place, (a, b) in enumerate(zip(first, last)) if a != b), min(len(first), len(last)))
    return max(0, min(same, len(first) - 1))


def prefilled(model: PreTrainedModel, tokens: Ids, rows: int) -> DynamicCache:
    """A cache whose `rows` rows have all read `tokens`, which are computed once; an empty one for no tokens."""
    cache = DynamicCache()
    if not tokens:
        return cache
    one = DynamicCache()
    model.base_model(input_ids=torch.tensor([list(tokens)], device=model.device), past_key_values=one, use_cache=True)
    for layer, (keys, values) in enumerate(states_of(one)):
        cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), layer)
    return cache


@torch.inference_mode()
def shared_logprobs(
    model: PreTrainedModel, contexts: Sequence[Ids], answers: Sequence[Ids], pad: int
) -> list[list[float]]:
    """Log-probability (nats) of every token of each answer after its context, as `token_logprobs` of a subject.

    Answers of one context stand in one row behind it, and a mask keeps them from seeing each other; the start that all
    contexts share is computed once. The model must attend to everything before a token: no sliding window.
    """
    found: list[list[float]] = [[] for _ in answers]
    start = common_start(contexts)
    if start < WORTH:
        start = 0
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, context in enumerate(contexts):
        groups.setdefault(tuple(context), []).append(place)
    packed = [
        (context[start:], places[first : first + ANSWERS])
        for context, places in groups.items()
        for first in range(0, len(places), ANSWERS)
    ]
    sizes = [len(context) + sum(len(answers[place]) for place in places) for context, places in packed]
    order = sorted(range(len(packed)), key=lambda at: -sizes[at])
    shared = list(contexts[0][:start]) if contexts else []
    at = 0
    while at < len(order):
        count = max(1, TOKENS // sizes[order[at]])
        some = [packed[place] for place in order[at : at + count]]
        for place, values in _pass(model, shared, some, answers, pad).items():
            found[place] = values
        at += count
    return found


def _pass(
    model: PreTrainedModel,
    shared: Ids,
    rows: Sequence[tuple[Ids, Sequence[int]]],
    answers: Sequence[Ids],
    pad: int,
) -> dict[int, list[float]]:
    """One forward pass over rows of (context, places of its answers)."""
    width = max(len(context) + sum(len(answers[place]) for place in places) for context, places in rows)
    ids = torch.full((len(rows), width), pad)
    owner = torch.full((len(rows), width), -2)  # -1: context, 0 and up: an answer, -2: padding
    position = torch.zeros((len(rows), width), dtype=torch.long)
    at_rows, at_states, targets, order = [], [], [], []
    for row, (context, places) in enumerate(rows):
        end = len(context)
        ids[row, :end] = torch.tensor(context)
        owner[row, :end] = -1
        position[row, :end] = torch.arange(len(shared), len(shared) + end)
        for number, place in enumerate(places):
            answer, first = answers[place], end
            end += len(answer)
            ids[row, first:end] = torch.tensor(answer)
            owner[row, first:end] = number
            position[row, first:end] = torch.arange(len(answer)) + len(shared) + len(context)
            at_rows += [row] * len(answer)
            at_states += [len(context) - 1, *range(first, end - 1)]
            targets += answer
            order.append(place)
    mask = _mask(owner, len(shared))
    device = model.device
    hidden = model.base_model(
        input_ids=ids.to(device),
        position_ids=position.to(device),
        attention_mask=mask.to(device),
        past_key_values=prefilled(model, shared, len(rows)) if shared else None,
        use_cache=bool(shared),
    ).last_hidden_state
    flat = selected_logprobs(model, hidden[at_rows, at_states], torch.tensor(targets, device=device))
    parts = flat.float().cpu().split([len(answers[place]) for place in order])
    return {place: part.tolist() for place, part in zip(order, parts)}


def _mask(owner: Tensor, shared: int) -> Tensor:
    """Who sees whom, [B, 1, S, P + S]: what came before, if it is the context or of the same answer."""
    width = owner.shape[1]
    own = (owner[:, :, None] == owner[:, None, :]) | (owner[:, None, :] == -1)
    own &= torch.ones(width, width, dtype=torch.bool).tril()
    return torch.cat([own.new_ones(len(owner), width, shared), own], -1)[:, None]
