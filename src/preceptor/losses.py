"""The losses of the paper, as pure functions of tensors. Torch only.

Shape legend
    N  answers of a batch, P  pairs of answers, Q  prompts
    B  episodes, T  tokens of the longest answer
`mask` is 1 where a token is an action and 0 where it is padding. Losses that are means over tokens take the number
of tokens of the whole optimizer step, so that splitting it into micro-batches or ranks changes nothing.
All logarithms are natural; log-probabilities are in nats.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def language_model_loss(logprobs: Tensor, mask: Tensor, tokens: float) -> Tensor:
    """Cross-entropy in nats per token: SFT, pretraining, and the second term of equation 2 (times gamma).

    logprobs [B, T], mask [B, T], `tokens`: target tokens of the whole optimizer step.
    """
    return -(logprobs * mask).sum() / tokens


def ranking_loss(scores: Tensor, better: Tensor, worse: Tensor, weight: Tensor, prompts: float) -> Tensor:
    """Equation 1: -1/C(K,2) E[log sigmoid(r(x, y_w) - r(x, y_l))], mean over a prompt's pairs, then over prompts.

    scores [N]; better, worse [P]: places in `scores`; weight [P]: one over the number of pairs that the pair's prompt
    has (tied pairs are not pairs; a prompt with ties only contributes 0), times the labeler's weight if there is one;
    `prompts`: prompts of the whole optimizer step.
    """
    return -(weight * F.logsigmoid(scores[better] - scores[worse])).sum() / prompts


def ppo_policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, tokens: float, clip: float
) -> tuple[Tensor, Tensor]:
    """Clipped surrogate of Schulman et al. 2017, equation 7, negated: a mean over `tokens`.

    All tensors [B, T]. Returns (loss, ratio [B, T]); the ratio is exp(logprobs - old_logprobs), 1 at padding.
    """
    ratio = torch.exp(((logprobs - old_logprobs) * mask).clamp(-20, 20))
    unclipped = ratio * advantages
    clipped = ratio.clamp(1 - clip, 1 + clip) * advantages
    return -(torch.minimum(unclipped, clipped) * mask).sum() / tokens, ratio


def ppo_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, tokens: float, clip: float):
    """Half the squared error, the larger of the clipped and the unclipped one (Ziegler et al. 2019, train_policy.py).

    All tensors [B, T]; the mean is over `tokens`.
    """
    near = torch.clamp(values, old_values - clip, old_values + clip)
    error = torch.maximum((values - returns) ** 2, (near - returns) ** 2)
    return 0.5 * (error * mask).sum() / tokens


def kl_k1(logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor) -> Tensor:
    """Sum over an answer's tokens of log pi - log pi_ref, for tokens drawn from pi. [B, T] -> [B], nats per answer.

    Unbiased for the KL divergence to the reference; a single answer's value can be negative.
    """
    return ((logprobs - ref_logprobs) * mask).sum(-1)


def kl_k3(logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor) -> Tensor:
    """Sum over tokens of (r - 1) - log r with r = pi_ref / pi: unbiased, never negative. [B, T] -> [B], nats."""
    log_ratio = (ref_logprobs - logprobs) * mask
    return (log_ratio.exp() - 1 - log_ratio).sum(-1)
