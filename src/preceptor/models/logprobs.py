"""What a model says of given tokens: log-probabilities of answers, scores of sequences. No [B, T, V] tensor of floats.

Shape legend: B  rows, S  tokens of prompt and answer, T  tokens of the longest answer, D  model width, V  vocabulary.
Rows come padded at the right. Attention is causal, so padding is never seen and needs no mask; where the model's
attention allows it (`attention.packs`) the rows go through the model without their padding.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from preceptor.errors import UserError
from preceptor.models.attention import packed_states, packs, row_layout, shared_layout
from preceptor.models.load import BIAS
from preceptor.models.shard import gathered
from preceptor.text.batches import pad_right

STEP = 32  # rows of logits are filled up to a multiple of this
CHUNK = 2**22  # logits held at once: rows x vocabulary


def hidden_states(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """Last hidden states [B, S, D] of the model's body, causal, without padding mask."""
    return model.base_model(input_ids=ids, use_cache=False).last_hidden_state


def states_at(model: PreTrainedModel, ids: Tensor, lengths: Tensor, rows: Tensor, places: Tensor) -> Tensor:
    """Last hidden states [M, D] of the tokens at (rows, places) [M] of ids [B, S], of which `lengths` [B] are looked
    at: a row's tokens from there on are not computed."""
    listed = lengths.tolist()
    if not packs(model, max(listed)):
        return hidden_states(model, ids)[rows, places]
    ids = ids[:, : max(listed)]
    if min(listed) == max(listed):
        return hidden_states(model, ids)[rows, places]
    columns = torch.arange(ids.shape[1], device=ids.device).expand(len(ids), -1)
    real = columns < lengths[:, None]
    states = packed_states(model, ids[real], columns[real], row_layout(listed, ids.device))
    return states[(lengths.cumsum(0) - lengths)[rows] + places]


def project(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """Logits [..., V] of hidden states [..., D], as the model's own forward pass makes them."""
    logits = model.get_output_embeddings()(hidden)
    config = model.config.get_text_config()
    if getattr(config, "logit_scale", None) is not None:  # Cohere
        logits = logits * config.logit_scale
    if getattr(config, "logits_scaling", None) is not None:  # Granite
        logits = logits / config.logits_scaling
    if getattr(config, "final_logit_softcapping", None) is not None:  # Gemma 2
        logits = torch.tanh(logits / config.final_logit_softcapping) * config.final_logit_softcapping
    return logits


@torch.no_grad()
def check_projection(model: PreTrainedModel) -> None:
    """Raises UserError when `project` does not give this architecture's own logits."""
    ids = torch.arange(4, device=model.device)[None] % model.config.get_text_config().vocab_size
    own = model(input_ids=ids, use_cache=False).logits.float()
    ours = logits_of(model, ids).float()
    if not own.isfinite().all():
        raise UserError(
            f"{model.config.name_or_path or type(model).__name__}: its weights give logits of NaN or infinity"
        )
    if not torch.allclose(own, ours, atol=1e-3, rtol=1e-3):
        raise UserError(
            f"{type(model).__name__} changes its logits after the unembedding in a way that Preceptor does not know; "
            "it cannot be trained here"
        )


@gathered
def logits_of(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """Logits [B, S, V] of short rows ids [B, S]."""
    return project(model, hidden_states(model, ids))


def selected_logprobs(model: PreTrainedModel, hidden: Tensor, targets: Tensor, temperature: float = 1.0) -> Tensor:
    """log softmax(logits / temperature) of `targets` [M] after the states `hidden` [M, D] -> [M], fp32, in nats.

    The logits of a few thousand rows exist at a time and are made again in the backward pass.
    """

    def chunk(states: Tensor, ids: Tensor) -> Tensor:
        logits = project(model, states)
        logits = logits if temperature == 1.0 else logits.float() / temperature
        return torch.log_softmax(logits, -1, dtype=torch.float32).gather(-1, ids[:, None])[:, 0]

    wanted, fill = len(targets), -len(targets) % STEP  # few shapes, as in `attention`
    hidden, targets = F.pad(hidden, (0, 0, 0, fill)), F.pad(targets, (0, fill))
    size = max(STEP, CHUNK // model.config.get_text_config().vocab_size // STEP * STEP)
    if len(targets) <= size:
        return chunk(hidden, targets)[:wanted]
    parts = [
        checkpoint(chunk, states, ids, use_reentrant=False) if torch.is_grad_enabled() else chunk(states, ids)
        for states, ids in zip(hidden.split(size), targets.split(size))
    ]
    return torch.cat(parts)[:wanted]


def answer_mask(prompt_lengths: Tensor, lengths: Tensor) -> Tensor:
    """mask [B, T]: 1 where row b's answer has a t-th token. prompt_lengths, lengths [B] of prompt and whole row."""
    answers = lengths - prompt_lengths
    return (torch.arange(int(answers.max()), device=lengths.device) < answers[:, None]).float()


@gathered
def answer_logprobs(
    model: PreTrainedModel, ids: Tensor, prompt_lengths: Tensor, mask: Tensor, temperature: float = 1.0
) -> Tensor:
    """Log-probability of each answer token [B, T], 0 at padding; ids [B, S], mask [B, T] of `answer_mask`."""
    rows, columns = mask.nonzero(as_tuple=True)
    places = prompt_lengths[rows] + columns  # of each answer token
    before = prompt_lengths + mask.sum(-1).long() - 1  # nothing follows from an answer's last token
    states = states_at(model, ids, before, rows, places - 1)
    chosen = selected_logprobs(model, states, ids[rows, places], temperature)
    return torch.zeros_like(mask).index_put((rows, columns), chosen)


@gathered
def sequence_logprobs(model: PreTrainedModel, blocks: Tensor) -> Tensor:
    """Log-probability of every next token of full rows: blocks [B, S + 1] -> [B, S]."""
    hidden = hidden_states(model, blocks[:, :-1])
    flat = selected_logprobs(model, hidden.flatten(0, 1), blocks[:, 1:].reshape(-1))
    return flat.view(len(blocks), -1)


def token_scores(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """A scalar model's score after every token, its normalising bias included: ids [B, S] -> [B, S], fp32."""
    return read_scores(model, hidden_states(model, ids))


@gathered
def final_scores(model: PreTrainedModel, ids: Tensor, lengths: Tensor) -> Tensor:
    """The score of each row, read at its last real token: ids [B, S], lengths [B] -> [B]."""
    rows = torch.arange(len(ids), device=ids.device)
    return read_scores(model, states_at(model, ids, lengths, rows, lengths - 1))


@gathered
def shared_scores(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[Sequence[int]]], pad: int
) -> Tensor:
    """The score of every answer to every prompt, as ids, prompt by prompt: [number of answers].

    The prompt of several answers is computed once where the model's attention allows it.
    """
    rows = [[*prompt, *answer] for prompt, group in zip(prompts, answers) for answer in group]
    device = model.device
    if not packs(model, max(map(len, rows))) or min(map(len, prompts)) == 0:
        ids, lengths = (tensor.to(device) for tensor in pad_right(rows, pad))
        return read_scores(model, states_at(model, ids, lengths, torch.arange(len(ids), device=device), lengths - 1))
    flat = [token for prompt in prompts for token in prompt]
    places = [place for prompt in prompts for place in range(len(prompt))]
    last: list[int] = []
    for prompt, group in zip(prompts, answers):
        for answer in group:
            flat.extend(answer)
            places.extend(range(len(prompt), len(prompt) + len(answer)))
            last.append(len(flat) - 1)
    layout = shared_layout([len(prompt) for prompt in prompts], [[len(a) for a in group] for group in answers], device)
    states = packed_states(model, torch.tensor(flat, device=device), torch.tensor(places, device=device), layout)
    return read_scores(model, states[torch.tensor(last, device=device)])


def read_scores(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """The scalar head on last hidden states [..., D], its normalising bias included: [...], fp32."""
    head: nn.Module = model.score
    return head(hidden)[..., 0].float() + getattr(model.config, BIAS, 0.0)


@gathered
def answer_values(model: PreTrainedModel, ids: Tensor, prompt_lengths: Tensor, mask: Tensor) -> Tensor:
    """Values [B, T]: the score of the state before each answer token, 0 at padding."""
    rows, columns = mask.nonzero(as_tuple=True)
    before = prompt_lengths + mask.sum(-1).long() - 1
    states = states_at(model, ids, before, rows, prompt_lengths[rows] + columns - 1)
    return torch.zeros_like(mask).index_put((rows, columns), read_scores(model, states))
