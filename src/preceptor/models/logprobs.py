"""What a model says of given tokens: log-probabilities of answers, scores of sequences. No [B, T, V] tensor of floats.

Shape legend: B  rows, S  tokens of prompt and answer, T  tokens of the longest answer, D  model width, V  vocabulary.
Rows are padded at the right; attention is causal, so padding is never seen and needs no mask.
"""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from preceptor.errors import UserError
from preceptor.models.load import BIAS
from preceptor.models.shard import gathered

CHUNK = 2**22  # logits held at once: rows x vocabulary


def hidden_states(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """Last hidden states [B, S, D] of the model's body, causal, without padding mask."""
    return model.base_model(input_ids=ids, use_cache=False).last_hidden_state


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
    ours = project(model, hidden_states(model, ids)).float()
    if not own.isfinite().all():
        raise UserError(
            f"{model.config.name_or_path or type(model).__name__}: its weights give logits of NaN or infinity"
        )
    if not torch.allclose(own, ours, atol=1e-3, rtol=1e-3):
        raise UserError(
            f"{type(model).__name__} changes its logits after the unembedding in a way that Preceptor does not know; "
            "it cannot be trained here"
        )


def selected_logprobs(model: PreTrainedModel, hidden: Tensor, targets: Tensor, temperature: float = 1.0) -> Tensor:
    """log softmax(logits / temperature) of `targets` [M] after the states `hidden` [M, D] -> [M], fp32, in nats.

    The logits of a few thousand rows exist at a time and are made again in the backward pass.
    """

    def chunk(states: Tensor, wanted: Tensor) -> Tensor:
        logits = project(model, states).float() / temperature
        return torch.gather(logits, -1, wanted[:, None])[:, 0] - torch.logsumexp(logits, -1)

    size = max(1, CHUNK // model.config.get_text_config().vocab_size)
    if len(targets) <= size:
        return chunk(hidden, targets)
    parts = [
        checkpoint(chunk, states, wanted, use_reentrant=False) if torch.is_grad_enabled() else chunk(states, wanted)
        for states, wanted in zip(hidden.split(size), targets.split(size))
    ]
    return torch.cat(parts)


def answer_mask(prompt_lengths: Tensor, lengths: Tensor) -> Tensor:
    """mask [B, T]: 1 where row b's answer has a t-th token. prompt_lengths, lengths [B] of prompt and whole row."""
    answers = lengths - prompt_lengths
    return (torch.arange(int(answers.max()), device=lengths.device) < answers[:, None]).float()


@gathered
def answer_logprobs(
    model: PreTrainedModel, ids: Tensor, prompt_lengths: Tensor, mask: Tensor, temperature: float = 1.0
) -> Tensor:
    """Log-probability of each answer token [B, T], 0 at padding; ids [B, S], mask [B, T] of `answer_mask`."""
    hidden = hidden_states(model, ids)
    at = prompt_lengths[:, None] + torch.arange(mask.shape[1], device=ids.device)  # place of each answer token
    rows, columns = mask.nonzero(as_tuple=True)
    places = at[rows, columns]
    chosen = selected_logprobs(model, hidden[rows, places - 1], ids[rows, places], temperature)
    return torch.zeros_like(mask).index_put((rows, columns), chosen)


@gathered
def sequence_logprobs(model: PreTrainedModel, blocks: Tensor) -> Tensor:
    """Log-probability of every next token of full rows: blocks [B, S + 1] -> [B, S]."""
    hidden = hidden_states(model, blocks[:, :-1])
    flat = selected_logprobs(model, hidden.flatten(0, 1), blocks[:, 1:].reshape(-1))
    return flat.view(len(blocks), -1)


def token_scores(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """A scalar model's score after every token, its normalising bias included: ids [B, S] -> [B, S], fp32."""
    hidden = hidden_states(model, ids)
    head: nn.Module = model.score
    return head(hidden)[..., 0].float() + getattr(model.config, BIAS, 0.0)


@gathered
def final_scores(model: PreTrainedModel, ids: Tensor, lengths: Tensor) -> Tensor:
    """The score of each row, read at its last real token: ids [B, S], lengths [B] -> [B]."""
    hidden = hidden_states(model, ids)[torch.arange(len(ids), device=ids.device), lengths - 1]
    return model.score(hidden)[..., 0].float() + getattr(model.config, BIAS, 0.0)


@gathered
def answer_values(model: PreTrainedModel, ids: Tensor, prompt_lengths: Tensor, mask: Tensor) -> Tensor:
    """Values [B, T]: the score of the state before each answer token, 0 at padding."""
    scores = token_scores(model, ids)
    before = prompt_lengths[:, None] - 1 + torch.arange(mask.shape[1], device=ids.device)
    return scores.gather(1, before.clamp(max=ids.shape[1] - 1)) * mask
