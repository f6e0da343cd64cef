"""PPO and PPO-ptx: what must hold exactly, and the gradient against a twin that takes one episode at a time."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_stages import metrics, run, same, weights

from preceptor.config import PpoConfig
from preceptor.errors import UserError
from preceptor.models.load import scalar_from_policy
from preceptor.models.save import lineage, read_card
from preceptor.text.batches import Blocks
from preceptor.training import ppo
from preceptor.training.optim import Average, Optimizers
from preceptor.training.ppo import assess, learn, minibatches, ppo_gradient, ptx_gradient
from preceptor.training.reward import score_episodes
from preceptor.types import Sampling
from tiny_models import ARCHITECTURES, make_model, make_tokenizer, save

PAD, EOS = 1, 0
PROMPTS = [[9, 30, 31], [5], [7, 8, 40, 41, 42, 43], [6, 50]] * 3
SETTINGS = {"batch": 12, "minibatch": 5, "micro_batch": 2, "max_new_tokens": 9, "lr": 1e-3, "value_lr": 1e-3}


class Players:
    """Policy, reference, value and reward model of an architecture, and episodes that the policy drew."""

    def __init__(self, architecture, folder, config, *, iteration=0):
        self.config = config
        save(folder, architecture)
        self.policy, self.reference = make_model(architecture), make_model(architecture)
        self.value, self.reward = scalar_from_policy(folder, 1), scalar_from_policy(folder, 1)
        sampling = Sampling(temperature=config.temperature, max_new_tokens=config.max_new_tokens, seed=iteration)
        stop = frozenset(range(0, 300, 9))
        rows = ppo.generate(self.policy, PROMPTS, sampling, stop=stop, pad=PAD)
        self.episodes = [row[0] for row in rows]
        assert len({len(e.answer_tokens) for e in self.episodes}) > 3

    def assess(self, iteration=0):
        models = (self.policy, self.reference, self.value, self.reward)
        return assess(*models, self.episodes, PAD, EOS, self.config, iteration)

    def learn(self, rollout, text=None, iteration=0):
        optimizers = Optimizers(self.policy, lr=self.config.lr), Optimizers(self.value, lr=self.config.value_lr)
        return learn(self.policy, self.value, *optimizers, None, rollout, text, PAD, self.config, iteration)


def settings(**changes):
    return PpoConfig(**{**SETTINGS, **changes})


def gradient(model):
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def test_an_answer_that_was_cut_off_is_scored_as_if_it_ended_there(tmp_path):
    players = Players("llama", tmp_path / "m", settings())
    cut = [replace(e, finish_reason="length") for e in players.episodes]
    ended = [replace(e, answer_tokens=(*e.answer_tokens, EOS), finish_reason="stop") for e in players.episodes]
    players.episodes = [replace(e, finish_reason="stop") for e in players.episodes]
    assert torch.equal(score_episodes(players.reward, cut, PAD, EOS), score_episodes(players.reward, ended, PAD, EOS))
    assert not torch.equal(
        score_episodes(players.reward, cut, PAD, EOS), score_episodes(players.reward, players.episodes, PAD, EOS)
    )


# -- before the policy moves ----------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_first_ratio_is_exactly_1_with_recomputed_log_probabilities(architecture, temperature, precision, tmp_path):
    config = settings(recompute_logprobs=True, temperature=temperature, precision=precision)
    for iteration in range(3):
        players = Players(architecture, tmp_path / "m", config, iteration=iteration)
        learned = players.learn(players.assess(iteration), iteration=iteration)
        assert learned["first_ratio_deviation"] == 0.0
        assert learned["first_clip_fraction"] == 0.0
        assert learned["first_logprob_gap"] == 0.0
        assert learned["ratio_deviation"] > 0  # the later minibatches meet a policy that has moved


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_first_ratio_is_1_up_to_rounding_with_the_engines_log_probabilities(architecture, temperature, tmp_path):
    players = Players(architecture, tmp_path / "m", settings(temperature=temperature))
    learned = players.learn(players.assess())
    assert learned["first_ratio_deviation"] < 1e-5
    assert learned["first_clip_fraction"] == 0.0


def test_kl_is_0_before_the_first_step(workspace, another):
    run(workspace, "ppo-ptx", recompute_logprobs=True, steps=3)
    first, *later = metrics(workspace)
    assert first["kl_to_reference"] == 0
    assert first["kl_to_reference_k3"] == 0
    assert first["reward"] == first["reward_model_score"]
    assert all(line["kl_to_reference"] != 0 for line in later)
    run(another, "ppo-ptx", steps=3)
    assert abs(metrics(another)[0]["kl_to_reference"]) < 1e-4
    for line in metrics(workspace):
        assert line["first_ratio_deviation"] == line["first_clip_fraction"] == 0


# -- shape ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recompute", [False, True])
def test_a_rollout_against_one_episode_at_a_time(recompute, tmp_path):
    config = settings(
        kl_coef=0.3, length_penalty=2.5, temperature=0.7, recompute_logprobs=recompute, whiten_advantages=False
    )
    players = Players("llama", tmp_path / "m", config)
    with torch.no_grad():
        for parameter in players.reference.parameters():
            parameter.mul_(1.1)
    rollout = players.assess()
    unfinished = 0
    for i, episode in enumerate(players.episodes):
        start, n = len(episode.prompt_tokens), len(episode.answer_tokens)
        ids = torch.tensor([episode.prompt_tokens + episode.answer_tokens])
        whole = ids if episode.finish_reason == "stop" else torch.cat([ids, torch.tensor([[EOS]])], -1)
        with torch.no_grad():
            score = players.reward(whole).logits.item()
            states = players.value.score(players.value.base_model(ids).last_hidden_state)[0, :, 0]
            ref = torch.log_softmax(players.reference(ids).logits[0] / 0.7, -1)
        values = [states[start - 1 + t].item() for t in range(n)]
        ref_logprobs = [ref[start - 1 + t, episode.answer_tokens[t]].item() for t in range(n)]
        rewards = [-0.3 * (p - q) for p, q in zip(episode.logprobs, ref_logprobs)]
        rewards[-1] += score - 2.5 * (episode.finish_reason == "length")
        unfinished += episode.finish_reason == "length"
        running, advantages = 0.0, []
        for t in reversed(range(n)):
            after = values[t + 1] if t + 1 < n else 0.0
            running = rewards[t] + after - values[t] + 0.95 * running
            advantages.insert(0, running)
        assert rollout.scores[i].item() == pytest.approx(score, abs=1e-4)
        assert rollout.values[i, :n].tolist() == pytest.approx(values, abs=1e-4)
        assert rollout.ref_logprobs[i, :n].tolist() == pytest.approx(ref_logprobs, abs=1e-4)
        assert rollout.advantages[i, :n].tolist() == pytest.approx(advantages, abs=1e-3)
        expected = [a + v for a, v in zip(advantages, values)]
        assert rollout.returns[i, :n].tolist() == pytest.approx(expected, abs=1e-3)
        assert rollout.mask[i].sum() == n
    assert 0 < unfinished < len(players.episodes)


def test_whitening_is_over_all_tokens_of_the_iteration_and_after_the_returns(tmp_path):
    players = Players("llama", tmp_path / "m", settings())
    white = players.assess()
    players.config = settings(whiten_advantages=False)
    plain = players.assess()
    tokens = plain.mask.bool()
    chosen = plain.advantages[tokens]
    expected = (chosen - chosen.mean()) / chosen.std(correction=0)
    torch.testing.assert_close(white.advantages[tokens], expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(white.returns, plain.returns)


# -- learn ----------------------------------------------------------------------------------------------------


def test_an_iteration_uses_every_episode_once():
    config = settings()
    steps = minibatches(12, config, iteration=3, epoch=0)
    assert [len(step) for step in steps] == [5, 5, 2]
    assert sorted(place for step in steps for place in step) == list(range(12))
    assert steps != minibatches(12, config, iteration=4, epoch=0)
    assert steps != minibatches(12, config, iteration=3, epoch=1)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_split_into_micro_batches_does_not_change_the_gradient(architecture, tmp_path):
    grads = []
    for micro in (12, 5, 1):
        players = Players(architecture, tmp_path / "m", settings(micro_batch=12))
        rollout = players.assess()
        rollout.logprobs += 0.1 * torch.sin(torch.arange(rollout.logprobs.numel()).view_as(rollout.logprobs))
        ppo_gradient(players.policy, players.value, rollout, list(range(12)), PAD, settings(micro_batch=micro))
        grads.append((gradient(players.policy), gradient(players.value)))
    for policy, value in grads[1:]:
        assert (policy - grads[0][0]).norm() < 1e-6 * grads[0][0].norm()
        assert (value - grads[0][1]).norm() < 1e-6 * grads[0][1].norm()


def test_the_gradient_against_one_token_at_a_time(tmp_path):
    players = Players("llama", tmp_path / "m", settings())
    rollout = players.assess()
    rollout.logprobs += 0.3 * torch.sin(torch.arange(rollout.logprobs.numel()).view_as(rollout.logprobs))
    rollout.values += 0.4 * torch.cos(torch.arange(rollout.values.numel()).view_as(rollout.values))
    rows = [0, 3, 7, 8, 11]
    found = ppo_gradient(players.policy, players.value, rollout, rows, PAD, players.config)
    ours = gradient(players.policy), gradient(players.value)
    players.policy.zero_grad()
    players.value.zero_grad()
    tokens = sum(len(players.episodes[row].answer_tokens) for row in rows)
    policy_loss = value_loss = 0.0
    clipped = 0
    for row in rows:
        episode = players.episodes[row]
        start = len(episode.prompt_tokens)
        ids = torch.tensor([episode.prompt_tokens + episode.answer_tokens])
        table = torch.log_softmax(players.policy(ids).logits[0], -1)
        states = players.value.score(players.value.base_model(ids).last_hidden_state)[0, :, 0]
        for t, token in enumerate(episode.answer_tokens):
            ratio = torch.exp(table[start - 1 + t, token] - rollout.logprobs[row, t])
            advantage, old, target = (x[row, t] for x in (rollout.advantages, rollout.values, rollout.returns))
            policy_loss = policy_loss - torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage) / tokens
            v = states[start - 1 + t]
            near = torch.max(torch.min(v, old + 0.2), old - 0.2)
            value_loss = value_loss + 0.5 * torch.max((v - target) ** 2, (near - target) ** 2) / tokens
            clipped += not 0.8 <= ratio.item() <= 1.2
    policy_loss.backward()
    value_loss.backward()
    assert clipped > 3
    assert found["policy_loss"] == pytest.approx(policy_loss.item(), abs=1e-5)
    assert found["value_loss"] == pytest.approx(value_loss.item(), rel=1e-5)
    assert found["clip_fraction"] == pytest.approx(clipped / tokens)
    torch.testing.assert_close(ours[0], gradient(players.policy), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ours[1], gradient(players.value), atol=1e-4, rtol=1e-4)


def test_the_pretraining_gradient_joins_that_of_the_policy_before_the_one_step(tmp_path):
    config = settings(ptx_coef=27.8)
    players = Players("llama", tmp_path / "m", config)
    rollout, rows = players.assess(), list(range(5))
    blocks = torch.randint(2, 300, (3, 17), generator=torch.Generator().manual_seed(0))
    ppo_gradient(players.policy, players.value, rollout, rows, PAD, config)
    alone = gradient(players.policy)
    loss = ptx_gradient(players.policy, blocks, config)
    together = gradient(players.policy)
    players.policy.zero_grad()
    text_loss = players.policy(blocks, labels=blocks).loss
    text_loss.backward()
    assert loss == pytest.approx(text_loss.item(), rel=1e-5)
    torch.testing.assert_close(together, alone + 27.8 * gradient(players.policy), atol=1e-4, rtol=1e-4)


def test_gamma_0_is_ppo_bit_for_bit(workspace, another, tmp_path):
    plain = run(workspace, "ppo-ptx", ptx_coef=0.0)
    assert same(plain, run(another, "ppo-ptx", ptx_coef=0.0, ptx_batch=1, ptx_context=9))
    assert "ptx_loss" not in metrics(workspace)[0]
    assert read_card(plain).stage == "ppo"
    # and the pretraining term itself vanishes: gradients of weight 0 add nothing
    text = Blocks(np.arange(2, 200, dtype=np.uint16), 11)
    finals = []
    for with_text in (None, text):
        players = Players("llama", tmp_path / "m", settings(ptx_coef=0.0))
        players.learn(players.assess(), with_text)
        finals.append(players.policy.state_dict())
    assert all(torch.equal(finals[0][name], finals[1][name]) for name in finals[0])


def test_gamma_above_0_lowers_the_loss_on_text(workspace, another):
    kept, lost = (
        run(workspace, "ppo-ptx", ptx_coef=3.0, steps=8, ema=0.0),
        run(another, "ppo-ptx", ptx_coef=0.0, ema=0.0),
    )
    assert read_card(kept).stage == "ppo-ptx"
    assert read_card(kept).metrics["pretraining_loss"] < read_card(lost).metrics["pretraining_loss"] - 0.1
    assert metrics(workspace)[-1]["ptx_loss"] < metrics(workspace)[0]["ptx_loss"]


def test_learning_raises_the_reward(workspace):
    run(workspace, "ppo-ptx", ptx_coef=0.0, steps=25, batch=32, minibatch=16, kl_coef=0.0, lr=3e-3, warmup=2)
    scores = [line["reward_model_score"] for line in metrics(workspace)]
    assert sum(scores[-5:]) / 5 > sum(scores[:5]) / 5 + 0.5


# -- average --------------------------------------------------------------------------------------------------


def test_average_by_hand():
    model = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    average = Average(model, 0.9)
    for value in (2.0, 3.0):
        with torch.no_grad():
            model.weight.fill_(value)
        average.update(model)
    # .9 * 1 + .1 * 2 = 1.1; .9 * 1.1 + .1 * 3 = 1.29
    average.copy_to(model)
    assert model.weight.item() == pytest.approx(1.29)


def test_the_average_is_what_is_exported(workspace, another):
    one_step = {"steps": 1, "batch": 6, "minibatch": 6, "warmup": 0}
    averaged = weights(run(workspace, "ppo-ptx", **one_step, ema=0.9))
    last = weights(run(another, "ppo-ptx", **one_step, ema=0.0))
    start = weights(workspace.model("base"))
    assert any(not torch.equal(last[name], start[name]) for name in start)
    for name in start:
        torch.testing.assert_close(averaged[name], 0.9 * start[name] + 0.1 * last[name], atol=1e-7, rtol=1e-5)


# -- the stage ------------------------------------------------------------------------------------------------


def test_a_missing_reference_is_made_by_sft_with_a_tenth_of_pretraining_text(workspace):
    folder = run(workspace, "ppo-ptx", reference=None, steps=1)
    reference = workspace.model("out-reference")
    made = read_card(reference)
    assert (made.stage, made.config["epochs"], made.config["mix"]) == ("sft", 2, 0.1)
    assert made.parents["model"] == lineage(workspace.model("base"))
    assert read_card(folder).parents["reference"] == lineage(reference)
    first = metrics(workspace)[0]
    assert abs(first["kl_to_reference"]) < 1e-4


def test_a_reference_takes_its_learning_rate_from_the_settings(workspace):
    (workspace.root / "preceptor.toml").write_text('base = "base"\n[sft]\nlr = 5e-4\nbatch = 4\nepochs = 9\n')
    run(workspace, "ppo-ptx", reference=None, steps=1)
    made = read_card(workspace.model("out-reference")).config
    assert (made["lr"], made["batch"], made["epochs"]) == (5e-4, 4, 2)


def test_the_card_names_every_parent_and_release(workspace):
    card = read_card(run(workspace, "ppo-ptx"))
    assert set(card.parents) == {"reference", "reward_model"}
    assert any(name.startswith("prompts-train") for name in card.releases)
    assert "tales" in card.releases
    assert card.metrics["episodes"] == 6 * 12


def test_every_listed_quantity_is_logged(workspace):
    run(workspace, "ppo-ptx", steps=2)
    for line in metrics(workspace):
        for name in (
            "reward",
            "reward_model_score",
            "kl_to_reference",
            "kl_to_rollout_policy",
            "entropy_per_token",
            "ratio",
            "ratio_variance",
            "clip_fraction",
            "value_clip_fraction",
            "explained_variance",
            "ended_by_itself",
            "answer_tokens",
            "logprob_gap",
            "policy_loss",
            "value_loss",
            "ptx_loss",
            "policy_gradient_norm",
            "value_gradient_norm",
            "learning_rate",
        ):
            assert math.isfinite(line[name]), name


def test_the_learning_rate_rises_from_a_tenth(workspace):
    run(workspace, "ppo-ptx", warmup=4, lr=1e-3)
    rates = [line["learning_rate"] for line in metrics(workspace)]
    assert rates == pytest.approx([1e-4, 3.25e-4, 5.5e-4, 7.75e-4, 1e-3, 1e-3])


def test_a_run_ends_when_the_divergence_passes_its_limit_and_stays_ended(workspace):
    folder = run(workspace, "ppo-ptx", kl_stop=0.05, lr=1e-2, warmup=0)
    lines = metrics(workspace)
    assert len(lines) < 6
    assert lines[-1]["kl_to_reference"] > 0.05
    assert all(line["kl_to_reference"] <= 0.05 for line in lines[:-1])
    kept = weights(folder)
    again = run(workspace, "ppo-ptx", kl_stop=0.05, lr=1e-2, warmup=0)
    assert metrics(workspace) == lines
    assert all(torch.equal(kept[name], tensor) for name, tensor in weights(again).items())


def test_a_gap_between_engine_and_trainer_ends_the_run(workspace, monkeypatch):
    own = ppo.generate

    def shifted(*args, **options):
        rows = own(*args, **options)
        return [[replace(e, logprobs=tuple(p - 0.1 for p in e.logprobs)) for e in row] for row in rows]

    monkeypatch.setattr(ppo, "generate", shifted)
    with pytest.raises(UserError, match=r"differ by 0\.1 nats on average, more than logprob_gap 0\.05"):
        run(workspace, "ppo-ptx")
    assert not workspace.model("out").exists()


def test_another_tokenizer_is_refused(workspace):
    make_tokenizer().train_new_from_iterator(["zebras quack loudly"] * 9, 270).save_pretrained(workspace.model("judge"))
    with pytest.raises(UserError, match="different tokenizers"):
        run(workspace, "ppo-ptx")
