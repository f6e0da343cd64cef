"""Every loss against numbers worked out by hand and against a slow twin in plain Python."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from preceptor.losses import (
    kl_k1,
    kl_k3,
    language_model_loss,
    ppo_policy_loss,
    ppo_value_loss,
    ranking_loss,
)

shapes = st.tuples(st.integers(1, 5), st.integers(1, 7), st.integers(0, 10_000))
few = settings(max_examples=30)


def batch(rows: int, columns: int, seed: int, count: int):
    """A mask of answers of 1..columns tokens and `count` random tensors of its shape."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, columns + 1, (rows,), generator=generator)
    mask = (torch.arange(columns) < lengths[:, None]).float()
    return mask, [torch.randn(rows, columns, generator=generator) for _ in range(count)]


def tokens_of(mask):
    """(row, column) of every token, in plain Python."""
    return [(b, t) for b in range(mask.shape[0]) for t in range(mask.shape[1]) if mask[b, t] == 1]


# -- language model -------------------------------------------------------------------------------------------


def test_language_model_loss_by_hand():
    logprobs = torch.tensor([[-1.0, -2.0, -100.0], [-3.0, -100.0, -100.0]])
    mask = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    assert language_model_loss(logprobs, mask, 3).item() == pytest.approx(2.0)
    assert language_model_loss(logprobs, mask, 12).item() == pytest.approx(0.5)  # nine tokens stand elsewhere


@few
@given(shapes)
def test_language_model_loss_twin(shape):
    mask, (logprobs,) = batch(*shape, 1)
    twin = -sum(logprobs[b, t].item() for b, t in tokens_of(mask)) / 17
    assert language_model_loss(logprobs, mask, 17).item() == pytest.approx(twin, abs=1e-5)


# -- equation 1 -----------------------------------------------------------------------------------------------


def test_ranking_loss_by_hand():
    scores = torch.tensor([1.0, 0.0])
    loss = ranking_loss(scores, torch.tensor([0]), torch.tensor([1]), torch.ones(1), 1)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-1)))  # 0.313262
    wrong = ranking_loss(scores, torch.tensor([1]), torch.tensor([0]), torch.ones(1), 1)
    assert wrong.item() == pytest.approx(math.log(1 + math.e))  # 1.313262


def equation_1(scores: list[float], ranks: list[int]) -> float:
    """-1/C(K,2) sum over the pairs of log sigmoid(r_w - r_l), pair by pair; the count is of pairs that are no ties."""
    terms = [
        math.log(1 / (1 + math.exp(-(scores[i] - scores[j]))))
        for i in range(len(ranks))
        for j in range(len(ranks))
        if ranks[i] < ranks[j]
    ]
    return -sum(terms) / len(terms) if terms else 0.0


def loss_of(scores: torch.Tensor, rankings: list[list[int]]) -> torch.Tensor:
    """`ranking_loss` of prompts whose answers stand one prompt after the other in `scores`."""
    better, worse, weight, first = [], [], [], 0
    for ranks in rankings:
        pairs = [(i, j) for i in range(len(ranks)) for j in range(len(ranks)) if ranks[i] < ranks[j]]
        better += [first + i for i, _ in pairs]
        worse += [first + j for _, j in pairs]
        weight += [1 / len(pairs) for _ in pairs]
        first += len(ranks)
    places = [torch.tensor(column, dtype=torch.long) for column in (better, worse)]
    return ranking_loss(scores, *places, torch.tensor(weight), len(rankings))


@few
@given(st.lists(st.lists(st.integers(1, 4), min_size=2, max_size=9), min_size=1, max_size=4), st.integers(0, 999))
def test_ranking_loss_is_equation_1_averaged_over_prompts(rankings, seed):
    total = sum(map(len, rankings))
    scores = torch.randn(total, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    first, twin = 0, 0.0
    for ranks in rankings:
        twin += equation_1(scores[first : first + len(ranks)].tolist(), ranks) / len(rankings)
        first += len(ranks)
    assert loss_of(scores, rankings).item() == pytest.approx(twin, abs=1e-6)


def test_without_ties_the_divisor_is_k_choose_2():
    ranks = [3, 1, 4, 2, 5]
    scores = torch.tensor([0.3, -0.2, 0.9, 0.0, 1.0], dtype=torch.float64)
    by_hand = 0.0
    for i in range(5):
        for j in range(i + 1, 5):
            winner, loser = (i, j) if ranks[i] < ranks[j] else (j, i)
            by_hand += math.log(1 + math.exp(-(scores[winner] - scores[loser]).item()))
    assert loss_of(scores, [ranks]).item() == pytest.approx(by_hand / math.comb(5, 2), abs=1e-7)


def test_ties_only_give_nothing_and_no_nan():
    scores = torch.tensor([0.1, 0.2, 0.3], requires_grad=True)
    loss = loss_of(scores, [[1, 1, 1]])
    loss.backward()
    assert loss.item() == 0
    assert scores.grad.tolist() == [0, 0, 0]


def test_a_tied_prompt_beside_another_only_adds_to_the_count():
    scores = torch.tensor([0.4, -0.3, 5.0, 6.0], requires_grad=True)
    loss = loss_of(scores, [[1, 2], [1, 1]])
    loss.backward()
    assert loss.item() == pytest.approx(equation_1([0.4, -0.3], [1, 2]) / 2, abs=1e-6)
    assert scores.grad[2:].tolist() == [0, 0]
    assert torch.isfinite(scores.grad).all()


def test_every_pair_twice_changes_nothing():
    scores = torch.tensor([0.4, -0.3, 0.1], requires_grad=True)
    better, worse = torch.tensor([0, 0, 1]), torch.tensor([1, 2, 2])
    once = ranking_loss(scores, better, worse, torch.full((3,), 1 / 3), 1)
    twice = ranking_loss(scores, better.repeat(2), worse.repeat(2), torch.full((6,), 1 / 6), 1)
    assert twice.item() == pytest.approx(once.item())
    (gradient,) = torch.autograd.grad(once, scores)
    (doubled,) = torch.autograd.grad(twice, scores)
    torch.testing.assert_close(gradient, doubled)


def test_a_shift_of_all_scores_changes_nothing_and_far_scores_do_not_overflow():
    scores = torch.tensor([0.4, -0.3, 0.1])
    assert loss_of(scores + 7, [[1, 2, 3]]).item() == pytest.approx(loss_of(scores, [[1, 2, 3]]).item(), abs=1e-6)
    assert loss_of(torch.tensor([-1000.0, 1000.0]), [[1, 2]]).item() == pytest.approx(2000)


# -- PPO ------------------------------------------------------------------------------------------------------


def test_ppo_policy_loss_by_hand():
    # ratios 1.5, 0.5, 1.5, 0.5, 1.1 with advantages +1, +1, -1, -1, +2
    ratios = torch.tensor([[1.5, 0.5, 1.5, 0.5, 1.1]])
    advantages = torch.tensor([[1.0, 1.0, -1.0, -1.0, 2.0]])
    old = torch.full((1, 5), -2.0)
    loss, ratio = ppo_policy_loss(old + ratios.log(), old, advantages, torch.ones(1, 5), 5, 0.2)
    torch.testing.assert_close(ratio, ratios)
    assert loss.item() == pytest.approx(-(1.2 + 0.5 - 1.5 - 0.8 + 2.2) / 5, abs=1e-6)


def test_ppo_gradient_is_cut_where_the_ratio_left_in_the_direction_of_the_advantage():
    logprobs = torch.tensor([[1.5, 0.5, 1.5, 0.5]]).log().requires_grad_()
    advantages = torch.tensor([[1.0, 1.0, -1.0, -1.0]])
    loss, _ = ppo_policy_loss(logprobs, torch.zeros(1, 4), advantages, torch.ones(1, 4), 4, 0.2)
    loss.backward()
    torch.testing.assert_close(logprobs.grad, torch.tensor([[0.0, -0.5 / 4, 1.5 / 4, 0.0]]))


@few
@given(shapes)
def test_ppo_policy_loss_twin(shape):
    mask, (new, old, advantages) = batch(*shape, 3)
    loss, ratio = ppo_policy_loss(new, old, advantages, mask, 9, 0.2)
    twin = 0.0
    for b, t in tokens_of(mask):
        r, a = math.exp(new[b, t] - old[b, t]), advantages[b, t].item()
        twin -= min(r * a, min(max(r, 0.8), 1.2) * a) / 9
    assert loss.item() == pytest.approx(twin, rel=1e-4, abs=1e-5)
    assert (ratio[mask == 0] == 1).all()


def test_what_stands_at_padding_is_never_seen():
    mask = torch.tensor([[1.0, 0.0]])
    new = torch.tensor([[-1.0, 50.0]], requires_grad=True)
    loss, ratio = ppo_policy_loss(new, torch.tensor([[-1.0, -50.0]]), torch.tensor([[2.0, 3.0]]), mask, 1, 0.2)
    loss.backward()
    assert (loss.item(), ratio.tolist()) == (-2.0, [[1.0, 1.0]])
    assert new.grad.tolist() == [[-2.0, 0.0]]


def test_ppo_value_loss_by_hand():
    values = torch.tensor([[1.0, 1.0, 0.1]])
    old = torch.zeros(1, 3)
    returns = torch.tensor([[2.0, 0.0, 0.5]])
    # errors 1, 1, .16; clipped values .2, .2, .1 with errors 3.24, .04, .16: the larger ones are 3.24, 1, .16
    loss = ppo_value_loss(values, old, returns, torch.ones(1, 3), 3, 0.2)
    assert loss.item() == pytest.approx(0.5 * (3.24 + 1 + 0.16) / 3, abs=1e-6)


@few
@given(shapes)
def test_ppo_value_loss_twin(shape):
    mask, (values, old, returns) = batch(*shape, 3)
    twin = 0.0
    for b, t in tokens_of(mask):
        v, o, target = values[b, t].item(), old[b, t].item(), returns[b, t].item()
        near = min(max(v, o - 0.2), o + 0.2)
        twin += 0.5 * max((v - target) ** 2, (near - target) ** 2) / 11
    assert ppo_value_loss(values, old, returns, mask, 11, 0.2).item() == pytest.approx(twin, rel=1e-4, abs=1e-5)


# -- divergences ----------------------------------------------------------------------------------------------


def test_kl_by_hand():
    pi, ref = torch.tensor([[-1.0, -2.0, 9.0]]), torch.tensor([[-1.5, -1.0, -9.0]])
    mask = torch.tensor([[1.0, 1.0, 0.0]])
    assert kl_k1(pi, ref, mask).tolist() == pytest.approx([0.5 - 1.0])
    by_hand = (math.exp(-0.5) - 1 + 0.5) + (math.exp(1.0) - 1 - 1.0)
    assert kl_k3(pi, ref, mask).tolist() == pytest.approx([by_hand])


@few
@given(shapes)
def test_kl_twins(shape):
    mask, (pi, ref) = batch(*shape, 2)
    k1, k3 = [0.0] * len(mask), [0.0] * len(mask)
    for b, t in tokens_of(mask):
        log_ratio = (ref[b, t] - pi[b, t]).item()
        k1[b] -= log_ratio
        k3[b] += math.exp(log_ratio) - 1 - log_ratio
    assert kl_k1(pi, ref, mask).tolist() == pytest.approx(k1, rel=1e-4, abs=1e-4)
    assert kl_k3(pi, ref, mask).tolist() == pytest.approx(k3, rel=1e-4, abs=1e-4)
    assert (kl_k3(pi, ref, mask) >= -1e-5).all()


def test_both_estimators_average_to_the_true_divergence():
    pi, ref = torch.tensor([0.7, 0.2, 0.1]).log(), torch.tensor([0.4, 0.4, 0.2]).log()
    true = float((pi.exp() * (pi - ref)).sum())
    # Exact expectation over pi: every token once, weighted by its probability.
    mask = torch.ones(3, 1)
    for estimate in (kl_k1, kl_k3):
        each = estimate(pi[:, None], ref[:, None], mask)
        assert float((pi.exp() * each).sum()) == pytest.approx(true, abs=1e-6)
