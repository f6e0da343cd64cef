"""From scores to advantages: the reward of each token, generalised advantage estimation, whitening. Torch only.

Shape legend: B  episodes, T  tokens of the longest answer. Answers stand at the left, padding at the right; `mask`
[B, T] is 1 on the answer's tokens, its end-of-text token included. values[b, t] is the value of the state in which
token t is drawn: the prompt and the tokens before t. What follows the last token is worth 0 (bandit: the episode ends).
"""

import torch
from torch import Tensor


def token_rewards(logprobs: Tensor, ref_logprobs: Tensor, score: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """Equation 2 per token: -beta (log pi - log pi_ref) at every token, and r(x, y) once at the last one.

    logprobs, ref_logprobs, mask [B, T]; score [B] in reward-model units. Returns [B, T]; their sum over T is
    score - beta * KL (k1). The answer must have at least one token.
    """
    rewards = -kl_coef * (logprobs - ref_logprobs) * mask
    last = mask.sum(-1).long() - 1
    rewards[torch.arange(len(score), device=score.device), last] += score
    return rewards


def gae(rewards: Tensor, values: Tensor, mask: Tensor, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation with discount 1 (Schulman et al. 2016, equation 16).

    rewards, values, mask [B, T] -> advantages, returns [B, T], both 0 at padding; returns = advantages + values.
    """
    values = values * mask
    advantages = torch.zeros_like(rewards)
    running = torch.zeros_like(rewards[:, 0])
    following = torch.zeros_like(running)  # value of the next state; 0 after the last token
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + following - values[:, t]
        running = (delta + lam * running) * mask[:, t]
        advantages[:, t] = running
        following = values[:, t]
    return advantages, advantages + values


def whiten(x: Tensor, mask: Tensor) -> Tensor:
    """x [B, T] with mean 0 and variance 1 over the masked-in tokens of the whole batch; 0 at padding."""
    count = mask.sum()
    mean = (x * mask).sum() / count
    variance = ((x - mean) ** 2 * mask).sum() / count
    return (x - mean) * torch.rsqrt(variance + 1e-8) * mask
