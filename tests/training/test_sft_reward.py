"""SFT and reward model: losses against slow twins, schedules, weights, the bias, the choice of the epoch."""

import math
from dataclasses import replace

import pytest
import torch
from small_stages import metrics, run, same
from sqlalchemy import delete, update

from preceptor.config import RewardConfig, SampleConfig, SftConfig
from preceptor.errors import UserError
from preceptor.models.load import BIAS, load_scalar, load_tokenizer, scalar_from_policy
from preceptor.models.logprobs import final_scores
from preceptor.models.save import read_card
from preceptor.store import schema
from preceptor.text.chat import Chat
from preceptor.training import sft
from preceptor.training.data import Example, RankedPrompt, find_release, read_examples, read_rankings, split_held_out
from preceptor.training.optim import Optimizers, cosine, warmed
from preceptor.training.reward import learn_rankings, ranking_accuracy, score_rows, weighted
from preceptor.training.sample import sample
from preceptor.training.sft import learn
from preceptor.types import Prompt, Ranking
from tiny_models import ARCHITECTURES, make_model, save

EXAMPLES = [
    Example([9, 30], [31, 32, 0]),
    Example([5], [40, 41, 42, 43, 44, 45, 0]),
    Example([7, 8, 9, 10, 11], [50, 0]),
    Example([6, 60, 61], [62, 63, 64, 0]),
]
TIED = RankedPrompt([8, 9], [[20, 0], [21, 0]], [], "ann")
RANKED = [
    RankedPrompt([9, 30], [[31, 0], [32, 33, 34, 0], [35, 0]], [(0, 1), (0, 2), (1, 2)], "ann"),
    RankedPrompt([5], [[40, 41, 42, 0], [43, 0]], [(1, 0)], "bob", weight=2.0),
    TIED,
    RankedPrompt([7, 8, 9], [[50, 0], [51, 52, 0], [53, 0], [54, 55, 0]], [(0, 2), (0, 3), (1, 2), (1, 3)], "ann"),
]


def gradient(model):
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def close(one, other):
    return (one - other).norm() < 1e-6 * other.norm()


# -- SFT ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("train_on_prompt", [False, True])
@pytest.mark.parametrize("mixed", [False, True])
def test_the_sft_gradient_against_one_token_at_a_time(train_on_prompt, mixed):
    config = SftConfig(micro_batch=2, train_on_prompt=train_on_prompt)
    blocks = torch.randint(2, 300, (2, 9), generator=torch.Generator().manual_seed(0)) if mixed else None
    model, twin = make_model(), make_model()
    found = learn(model, EXAMPLES, blocks, 1, config)
    terms, text = [], []
    for example in EXAMPLES:
        table = torch.log_softmax(twin(torch.tensor([example.tokens])).logits[0], -1)
        first = 1 if train_on_prompt else len(example.prompt)
        terms += [table[t - 1, example.tokens[t]] for t in range(first, len(example.tokens))]
    for row in blocks.tolist() if mixed else []:
        table = torch.log_softmax(twin(torch.tensor([row])).logits[0], -1)
        text += [table[t - 1, row[t]] for t in range(1, len(row))]
    (-torch.stack(terms + text).sum() / len(terms + text)).backward()
    torch.testing.assert_close(gradient(model), gradient(twin), atol=1e-6, rtol=1e-4)
    assert found["loss"] == pytest.approx(-torch.stack(terms).mean().item(), rel=1e-5)
    assert ("pretraining_loss" in found) == mixed
    if mixed:
        assert found["pretraining_loss"] == pytest.approx(-torch.stack(text).mean().item(), rel=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_split_into_micro_batches_does_not_change_the_sft_gradient(architecture):
    grads = []
    for micro in (4, 3, 1):
        model = make_model(architecture)
        learn(model, EXAMPLES, None, 1, SftConfig(micro_batch=micro))
        grads.append(gradient(model))
    assert close(grads[1], grads[0])
    assert close(grads[2], grads[0])


def test_schedule_of_sft_starts_at_the_peak_and_ends_at_a_tenth(workspace):
    run(workspace, "sft")
    rates = [line["learning_rate"] for line in metrics(workspace)]
    assert len(rates) == 3 * math.ceil(22 / 8)
    assert rates[0] == pytest.approx(1e-3)
    assert rates[-1] == pytest.approx(1e-4)
    assert rates == sorted(rates, reverse=True)


def test_schedules_by_hand():
    assert [cosine(step, 5, 0.1) for step in range(5)] == pytest.approx(
        [0.1 + 0.9 * (1 + math.cos(math.pi * step / 4)) / 2 for step in range(5)]
    )
    assert [cosine(step, 100, 0.05, 0.04) for step in range(4)] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert cosine(4, 100, 0.05, 0.04) == pytest.approx(1.0)
    assert cosine(99, 100, 0.05, 0.04) == pytest.approx(0.05)
    assert cosine(0, 1, 0.1) == pytest.approx(1.0)
    assert [warmed(step, 10) for step in (0, 5, 10, 99)] == pytest.approx([0.1, 0.55, 1.0, 1.0])
    assert warmed(0, 0) == 1.0


def test_adam_is_that_of_the_paper_and_decays_only_the_matrices_of_layers():
    model = make_model("llama", tied=True)
    optimizers = Optimizers(model, lr=1e-3, weight_decay=0.1)
    (adam,) = optimizers.all
    assert {group["betas"] for group in adam.param_groups} == {(0.9, 0.95)}
    decayed = {id(p) for group in adam.param_groups if group["weight_decay"] for p in group["params"]}
    expected = {name for name, p in model.named_parameters() if ".layers." in name and p.ndim == 2}
    assert {name for name, p in model.named_parameters() if id(p) in decayed} == expected
    assert sum(len(group["params"]) for group in adam.param_groups) == len(list(model.parameters()))
    both = Optimizers(model, lr=1e-3, matrix_lr=0.02)
    muon = {id(p) for group in both.all[0].param_groups for p in group["params"]}
    assert {name for name, p in model.named_parameters() if id(p) in muon} == expected


def test_a_long_gradient_is_cut_and_its_own_norm_reported():
    model = torch.nn.Linear(2, 1, bias=False)
    optimizers = Optimizers(model, lr=0.0)
    model.weight.grad = torch.tensor([[3.0, 4.0]])
    kept = model.weight.grad
    assert optimizers.step(1.0, max_norm=1.0) == pytest.approx(5.0)
    torch.testing.assert_close(kept, torch.tensor([[0.6, 0.8]]))
    assert model.weight.grad is None


def test_dropout_acts_in_sft_and_the_saved_model_has_none_of_it_in_evaluation(workspace, another):
    with_dropout, without = run(workspace, "sft"), run(another, "sft", dropout=0.0)
    assert metrics(workspace)[0]["loss"] != metrics(another)[0]["loss"]
    assert not same(with_dropout, without)


def test_demonstrations_are_learned(workspace):
    run(workspace, "sft", model="base", epochs=25, dropout=0.0, lr=3e-3)
    losses = [line["loss"] for line in metrics(workspace)]
    assert losses[-1] < 0.5 * losses[0]


def test_mixed_text_has_its_share_of_the_tokens(workspace, monkeypatch):
    shares = []
    own = sft.learn

    def watched(model, batch, blocks, *others):
        text = blocks.shape[0] * (blocks.shape[1] - 1)
        shares.append(text / (text + sum(len(example.tokens) for example in batch)))
        return own(model, batch, blocks, *others)

    monkeypatch.setattr(sft, "learn", watched)
    run(workspace, "sft-mix", batch=22, mix=0.5, epochs=3)
    assert all(abs(share - 0.5) < 0.12 for share in shares)  # whole blocks of 128
    assert read_card(workspace.model("out")).metrics["pretraining_loss"] > 0


def test_the_epoch_is_chosen_by_the_reward_models_score(workspace, another):
    settings = {"model": "base", "reward_model": "judge", "epochs": 5, "lr": 5e-3, "max_tokens": 60}
    folder = run(workspace, "sft", **settings)
    rewards = [line["validation_reward"] for line in metrics(workspace) if "validation_reward" in line]
    assert len(rewards) == 5
    best = rewards.index(max(rewards)) + 1
    card = read_card(folder)
    assert card.metrics["chosen_epoch"] == best
    assert best != 5, "the test needs a best epoch that is not the last one"
    assert card.metrics["validation_reward"] == max(rewards)
    assert same(folder, run(another, "sft", **settings, max_steps=3 * best))
    assert set(card.parents) == {"model", "reward_model"}


def test_the_choice_of_the_epoch_survives_a_stop(workspace, another):
    settings = {"model": "base", "reward_model": "judge", "epochs": 5, "lr": 5e-3, "max_tokens": 60}
    whole = run(workspace, "sft", **settings)
    run(another, "sft", **settings, max_steps=10)
    assert same(whole, run(another, "sft", **settings))


# -- reward model ---------------------------------------------------------------------------------------------


def equation_1(model, rankings):
    """Equation 1 with each answer scored alone, pair by pair, and the labelers' weights."""
    total = 0.0
    for ranking in rankings:
        scores = [model(torch.tensor([row])).logits[0, 0] for row in ranking.rows]
        for i, j in ranking.pairs:
            total = total - ranking.weight * torch.log(torch.sigmoid(scores[i] - scores[j])) / len(ranking.pairs)
    return total / len(rankings)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_reward_gradient_against_one_pair_at_a_time(architecture, tmp_path):
    folder = save(tmp_path / "m", architecture)
    twin = scalar_from_policy(folder, 1)
    loss = equation_1(twin, RANKED)
    loss.backward()
    grads = []
    for micro in (4, 2, 1):
        model = scalar_from_policy(folder, 1)
        found = learn_rankings(model, RANKED, 1, RewardConfig(micro_batch=micro))
        assert found["loss"] == pytest.approx(loss.item(), rel=1e-5)
        assert found["pairs"] == 8
        grads.append(gradient(model))
        torch.testing.assert_close(grads[-1], gradient(twin), atol=1e-5, rtol=1e-3)
    assert close(grads[1], grads[0])
    assert close(grads[2], grads[0])


def test_the_order_of_the_k_answers_does_not_matter(tmp_path):
    folder = save(tmp_path / "m")
    order = [2, 0, 3, 1]
    turned = replace_order(RANKED[3], order)
    results = []
    for ranking in (RANKED[3], turned):
        model = scalar_from_policy(folder, 1)
        found = learn_rankings(model, [ranking], 1, RewardConfig())
        results.append((found["loss"], gradient(model)))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-6)
    assert close(results[1][1], results[0][1])


def replace_order(ranking, order):
    place = {old: new for new, old in enumerate(order)}
    pairs = [(place[i], place[j]) for i, j in ranking.pairs]
    return replace(ranking, answers=[ranking.answers[old] for old in order], pairs=pairs)


def test_ties_only_give_0_and_no_nan(tmp_path):
    model = scalar_from_policy(save(tmp_path / "m"), 1)
    found = learn_rankings(model, [TIED, TIED], 1, RewardConfig(micro_batch=1))
    assert found == {"loss": 0.0, "accuracy": 0.0, "margin": 0.0, "pairs": 0.0}
    assert torch.equal(gradient(model), torch.zeros_like(gradient(model)))


def test_k_answers_and_their_prompt_are_computed_once(tmp_path):
    model = scalar_from_policy(save(tmp_path / "m"), 1)
    tokens = []
    model.base_model.register_forward_pre_hook(
        lambda module, args, options: tokens.extend(
            len(part.back) for part in (options["layout"].rows, options["layout"].answers)
        ),
        with_kwargs=True,
    )
    learn_rankings(model, RANKED, 1, RewardConfig(micro_batch=2))
    once = sum(len(ranking.prompt) + sum(map(len, ranking.answers)) for ranking in RANKED)
    assert sum(tokens) == once  # and not the prompt K times, or K - 1 times every answer
    assert len(tokens) == 2 * 2  # prompts and answers of two micro-batches


def test_a_run_on_ties_only_is_refused(workspace):
    store = workspace.store
    with store.write() as connection:
        connection.execute(update(schema.rankings).values(ranks=[1, 1, 1, 1]))
    with pytest.raises(UserError, match="every ranking is all ties"):
        run(workspace, "reward")
    assert not workspace.model("out").exists()


def test_demonstrations_score_0_on_average_and_rankings_do_not_move(workspace):
    folder = run(workspace, "reward", held_out=0.3)
    model, chat = load_scalar(folder), Chat(load_tokenizer(folder))
    examples, _ = read_examples(find_release(workspace, "demonstrations", None), chat, 2048)
    scores = score_rows(model, [example.tokens for example in examples], chat.pad)
    assert len(scores) == 22
    assert scores.mean().item() == pytest.approx(0, abs=1e-5)
    assert getattr(model.config, BIAS) != 0
    card = read_card(folder)
    assert card.metrics["held_out_pairs"] > 0
    assert any(name.startswith("demonstrations-train") for name in card.releases)


def test_scores_do_not_depend_on_company(workspace):
    model = load_scalar(run(workspace, "reward"))
    rows = [[9] * (1 + i % 7) + [20 + i] for i in range(150)]
    together = score_rows(model, rows, 1)
    alone = torch.cat([final_scores(model, torch.tensor([row]), torch.tensor([len(row)])) for row in rows])
    torch.testing.assert_close(together, alone.detach(), atol=1e-5, rtol=0)


def test_accuracy_by_hand(tmp_path):
    model = scalar_from_policy(save(tmp_path / "m"), 1)
    correct = pairs = 0
    for ranking in RANKED:
        scores = [model(torch.tensor([row])).logits.item() for row in ranking.rows]
        correct += sum(scores[i] > scores[j] for i, j in ranking.pairs)
        pairs += len(ranking.pairs)
    assert ranking_accuracy(model, RANKED, 1) == (correct, pairs)
    assert 0 < correct < pairs


def test_rankings_are_learned(workspace):
    store = workspace.store
    with store.write() as connection:
        connection.execute(delete(schema.rankings).where(schema.rankings.c.labeler_id == "careless"))
    run(workspace, "reward", epochs=25, lr=3e-3)
    lines = metrics(workspace)
    assert lines[-1]["loss"] < 0.5 * lines[0]["loss"]
    assert lines[-1]["accuracy"] > 0.85


def test_one_pass_has_ceil_n_over_batch_steps_and_ends_at_a_tenth(workspace):
    run(workspace, "reward", epochs=1, held_out=0.0)
    rates = [line["learning_rate"] for line in metrics(workspace)]
    assert len(rates) == math.ceil(39 / 10)
    assert (rates[0], rates[-1]) == (pytest.approx(1e-3), pytest.approx(1e-4))


def test_the_careless_labeler_weighs_less(workspace, another):
    release = find_release(workspace, "rankings", None)
    chat = Chat(load_tokenizer(workspace.model("base")))
    rankings, _ = read_rankings(release, chat, 2048)
    assert {ranking.weight for ranking in rankings} == {1.0}
    weight = {ranking.labeler_id: ranking.weight for ranking in weighted(release, rankings)}
    assert weight["careless"] < 0.7 * weight["ann"]
    assert sum(weight.values()) == pytest.approx(3)
    assert not same(run(workspace, "reward"), run(another, "reward", labeler_weights=True))


def test_later_labels_do_not_change_a_run_in_its_middle(workspace):
    """Labels that come in during a run are for the next one: the run reads its release, named by hand."""
    release = find_release(workspace, "rankings", None).name
    run(workspace, "reward", release=release, labeler_weights=True, max_steps=2)
    expected = metrics(workspace)
    prompt = next(workspace.store.prompts(split="valid"))
    ids = tuple(c.id for c in workspace.store.completions())[:2]
    workspace.store.add_rankings([Ranking.of(prompt.id, "careless", ids, (1, 2))])
    run(workspace, "reward", release=release, labeler_weights=True)
    assert metrics(workspace)[:2] == expected


def test_held_out_rows_of_one_key_stay_together():
    keys = [str(i % 40) for i in range(200)]
    train, held = split_held_out(list(range(200)), keys, 0.3)
    assert sorted(train + held) == list(range(200))
    assert not {keys[i] for i in train} & {keys[i] for i in held}
    assert 0.1 < len(held) / 200 < 0.5


# -- sampling -------------------------------------------------------------------------------------------------


def test_samples_go_into_the_store_once(workspace):
    config = SampleConfig(model="base", k=3, max_new_tokens=5, prompts=4)
    added = sample(workspace, config)
    assert (added.new, added.known) == (12, 0)
    again = sample(workspace, replace(config, batch=5))
    assert (again.new, again.known) == (0, 12)
    other = sample(workspace, replace(config, seed=1))
    assert other.new > 0
    drawn = [c for c in workspace.store.completions() if c.model_id.startswith("base@")]
    assert {c.sampling.max_new_tokens for c in drawn} == {5}


def test_prompts_longer_than_the_context_are_left_out_of_sampling(workspace, capsys):
    workspace.store.add_prompts([Prompt.of("the fox " * 400, user_id="long")])
    added = sample(workspace, SampleConfig(model="base", k=1, max_new_tokens=5))
    assert added.new == 22
    assert "left out 1 prompt" in capsys.readouterr().err
    with pytest.raises(UserError, match="no prompt"):
        sample(workspace, SampleConfig(model="base", k=1, max_new_tokens=600))
