"""Token rewards, advantages and whitening, by hand and against slow twins."""

import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from preceptor.returns import gae, token_rewards, whiten

shapes = st.tuples(st.integers(1, 5), st.integers(1, 7), st.integers(0, 10_000))
few = settings(max_examples=30)


def batch(rows: int, columns: int, seed: int, count: int):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, columns + 1, (rows,), generator=generator)
    mask = (torch.arange(columns) < lengths[:, None]).float()
    tensors = [torch.randn(rows, columns, generator=generator, dtype=torch.float64) for _ in range(count)]
    return lengths.tolist(), mask, tensors


def test_token_rewards_by_hand():
    logprobs = torch.tensor([[-1.0, -2.0, 7.0], [-3.0, 7.0, 7.0]])
    ref = torch.tensor([[-2.0, -1.5, -7.0], [-1.0, -7.0, -7.0]])
    mask = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    rewards = token_rewards(logprobs, ref, torch.tensor([5.0, -1.0]), mask, 0.1)
    torch.testing.assert_close(rewards, torch.tensor([[-0.1, 0.05 + 5.0, 0.0], [0.2 - 1.0, 0.0, 0.0]]))


@few
@given(shapes)
def test_token_rewards_sum_to_equation_2(shape):
    lengths, mask, (logprobs, ref) = batch(*shape, 2)
    score = torch.arange(len(mask), dtype=torch.float64)
    rewards = token_rewards(logprobs, ref, score, mask, 0.02)
    for b, length in enumerate(lengths):
        kl = sum((logprobs[b, t] - ref[b, t]).item() for t in range(length))
        assert rewards[b].sum().item() == pytest.approx(score[b].item() - 0.02 * kl)
        assert (rewards[b, length:] == 0).all()


def test_gae_by_hand():
    # delta: 0 + .4 - .5 = -.1; 0 + .2 - .4 = -.2; 1 + 0 - .2 = .8 (nothing follows the last token)
    rewards = torch.tensor([[0.0, 0.0, 1.0, 0.0]])
    values = torch.tensor([[0.5, 0.4, 0.2, 99.0]])
    mask = torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    advantages, returns = gae(rewards, values, mask, 0.5)
    torch.testing.assert_close(advantages, torch.tensor([[-0.1 + 0.5 * 0.2, -0.2 + 0.5 * 0.8, 0.8, 0.0]]))
    torch.testing.assert_close(returns, torch.tensor([[0.5, 0.6, 1.0, 0.0]]))


def slow_gae(rewards: list[float], values: list[float], lam: float) -> list[float]:
    """Equation 16 as the sum it is: A_t = sum over l of lam^l * delta_{t+l}, of one answer without padding."""
    values = [*values, 0.0]
    delta = [rewards[t] + values[t + 1] - values[t] for t in range(len(rewards))]
    return [sum(lam**n * delta[t + n] for n in range(len(delta) - t)) for t in range(len(delta))]


@few
@given(shapes, st.sampled_from([0.0, 0.5, 0.95, 1.0]))
def test_gae_twin(shape, lam):
    lengths, mask, (rewards, values) = batch(*shape, 2)
    advantages, returns = gae(rewards * mask, values, mask, lam)
    for b, n in enumerate(lengths):
        slow = slow_gae(rewards[b, :n].tolist(), values[b, :n].tolist(), lam)
        assert advantages[b, :n].tolist() == pytest.approx(slow)
        assert returns[b, :n].tolist() == pytest.approx([a + v for a, v in zip(slow, values[b, :n].tolist())])
        assert (advantages[b, n:] == 0).all()
        assert (returns[b, n:] == 0).all()


@few
@given(shapes)
def test_with_lambda_1_the_return_is_the_sum_of_rewards_to_come(shape):
    lengths, mask, (rewards, values) = batch(*shape, 2)
    _, returns = gae(rewards * mask, values, mask, 1.0)
    for b, n in enumerate(lengths):
        for t in range(n):
            assert returns[b, t].item() == pytest.approx(rewards[b, t:n].sum().item())


def test_whiten_by_hand():
    x = torch.tensor([[1.0, 3.0], [5.0, 100.0]])
    mask = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    # mean 3, variance 8/3 over three tokens
    unit = (8 / 3) ** 0.5
    torch.testing.assert_close(whiten(x, mask), torch.tensor([[-2 / unit, 0.0], [2 / unit, 0.0]]))


@few
@given(shapes)
def test_whitened_advantages_have_mean_0_and_variance_1(shape):
    lengths, mask, (x,) = batch(*shape, 1)
    tokens = [value for b, n in enumerate(lengths) for value in whiten(x, mask)[b, :n].tolist()]
    raw = [value for b, n in enumerate(lengths) for value in x[b, :n].tolist()]
    spread = statistics.pvariance(raw)
    assert statistics.mean(tokens) == pytest.approx(0, abs=1e-6)
    assert statistics.pvariance(tokens) == pytest.approx(spread / (spread + 1e-8), abs=1e-6)
    assert (whiten(x, mask)[mask == 0] == 0).all()


def test_whitening_equal_advantages_gives_zeros():
    assert whiten(torch.full((2, 2), 3.0), torch.ones(2, 2)).tolist() == [[0, 0], [0, 0]]
