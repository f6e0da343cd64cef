"""Stages with LoRA: four roles over one base against four whole models, exact resume, folders, memory."""

import json
from itertools import chain

import pytest
import torch
from safetensors.torch import load_file
from small_stages import metrics, run, same
from torch import nn

from preceptor.config import PpoConfig, RewardConfig
from preceptor.errors import UserError
from preceptor.models.adapters import Lora, adapters, find_adapter, merge, read_adapter, take_adapter
from preceptor.models.load import load_policy, load_scalar, scalar_from_policy
from preceptor.models.roles import share_base
from preceptor.models.save import lineage, read_card, save_model
from preceptor.training import ppo
from preceptor.training.optim import Average, Optimizers
from preceptor.training.reward import score_episodes, train_reward
from preceptor.types import ModelCard, Sampling
from tiny_models import ARCHITECTURES, make_tokenizer, save

PAD, EOS = 1, 0
PROMPTS = [[9, 30, 31], [5], [7, 8, 40, 41, 42, 43], [6, 50]] * 3
LORA = Lora(rank=3, alpha=6.0)
SETTINGS = {"batch": 12, "minibatch": 5, "micro_batch": 2, "max_new_tokens": 9, "lr": 1e-3, "value_lr": 1e-3}


def stir(model, seed):
    """Adapters as if they had been trained."""
    generator = torch.Generator().manual_seed(seed)
    for _, layer in adapters(model):
        with torch.no_grad():
            layer.lora_B.copy_(torch.randn(layer.lora_B.shape, generator=generator) * 0.05)
    return model


def folders(root, architecture="llama", lora=LORA):
    """An SFT, and a reward model whose adapter was trained over it, as `preceptor reward --lora-rank` leaves it."""
    from preceptor.models.adapters import adapt

    sft = save(root / "sft", architecture)
    model = stir(adapt(scalar_from_policy(sft, 3), lora, seed=5), 6)
    model.config.preceptor_bias = 0.25
    adapter = take_adapter(model, lora, str(sft))
    card = ModelCard(name="rm", stage="reward", parents={"model": lineage(sft)}, parameters=1, seed=0)
    save_model(root / "rm", merge(model), make_tokenizer(), card, adapter)
    return sft, root / "rm"


def settings(**changes):
    return PpoConfig(**{**SETTINGS, **changes})


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_four_roles_over_one_base_are_four_models(architecture, tmp_path):
    """Log-probabilities, values and scores of a PPO step, and the gradients of the adapters, within 1e-6.

    A whole model gives the gradient G of each merged matrix; those of its adapter follow by the chain rule: s B^T G of
    A and s G A^T of B.
    """
    sft, judge = folders(tmp_path, architecture)
    shared = share_base(sft, judge, LORA, seed=1)
    policy, reference, value, reward = (model.double() for model in shared)
    for model, seed in ((policy, 7), (value, 8)):
        stir(model, seed)  # away from the start: every role its own
    whole = [load_policy(sft), load_policy(sft), load_scalar(judge), load_scalar(judge)]
    whole = [model.double() for model in whole]
    for ours, theirs in zip(shared, whole):
        if ours is not reference:
            flatten(ours, theirs)
    config = settings(recompute_logprobs=True)
    answers = ppo.generate(policy, PROMPTS, Sampling(max_new_tokens=9), stop=frozenset(range(0, 300, 9)), pad=PAD)
    episodes = [row[0] for row in answers]
    rollouts = [ppo.assess(*models, episodes, PAD, EOS, config) for models in (shared, whole)]
    for name in ("logprobs", "ref_logprobs", "values", "scores", "advantages", "returns"):
        torch.testing.assert_close(getattr(rollouts[0], name), getattr(rollouts[1], name), atol=1e-6, rtol=0)
    assert (rollouts[0].logprobs - rollouts[0].ref_logprobs).abs().max() > 1e-2  # the adapter does something
    for models, rollout in zip((shared, whole), rollouts):
        ppo.ppo_gradient(models[0], models[2], rollout, list(range(12)), PAD, config)
        ppo.ptx_gradient(models[0], torch.tensor([[5, 9, 12, 40, 2]]), settings(ptx_coef=0.5))
    for ours, theirs in ((policy, whole[0]), (value, whole[2])):
        for name, layer in adapters(ours):
            weight = theirs.get_submodule(name).weight
            gradient = weight.grad if isinstance(layer.base, nn.Linear) else weight.grad.T
            expected_a = layer.scale * layer.lora_B.T @ gradient
            torch.testing.assert_close(layer.lora_A.grad, expected_a, atol=1e-6, rtol=0)
            torch.testing.assert_close(layer.lora_B.grad, layer.scale * gradient @ layer.lora_A.T, atol=1e-6, rtol=0)
            assert layer.lora_A.grad.abs().max() > 1e-5
    torch.testing.assert_close(value.score.weight.grad, whole[2].score.weight.grad, atol=1e-6, rtol=0)
    assert all(p.grad is None for p in chain(reference.parameters(), reward.parameters()))


@torch.no_grad()
def flatten(ours, theirs):
    """Write the weights of an adapted model, its adapter folded in, into a whole model of its own."""
    for name, layer in adapters(ours):
        change = layer.lora_B @ layer.lora_A * layer.scale
        base = layer.base.weight + (change if isinstance(layer.base, nn.Linear) else change.T)
        theirs.get_submodule(name).weight.copy_(base)
    if hasattr(ours, "score"):
        theirs.score.weight.copy_(ours.score.weight)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_start_is_the_reference_and_the_value_is_the_reward_model(architecture, tmp_path):
    sft, judge = folders(tmp_path, architecture)
    policy, reference, value, reward = share_base(sft, judge, LORA, seed=1)
    config = settings(recompute_logprobs=True)
    rows = ppo.generate(policy, PROMPTS, Sampling(max_new_tokens=9), stop=frozenset([EOS]), pad=PAD)
    rollout = ppo.assess(policy, reference, value, reward, [row[0] for row in rows], PAD, EOS, config)
    assert torch.equal(rollout.logprobs, rollout.ref_logprobs)  # KL is exactly 0
    episodes = rollout.episodes
    merged = score_episodes(load_scalar(judge), episodes, PAD, EOS)
    torch.testing.assert_close(rollout.scores, merged, atol=1e-5, rtol=0)
    assert torch.equal(score_episodes(value, episodes, PAD, EOS), rollout.scores)


def test_learning_moves_the_adapters_and_nothing_else(tmp_path):
    sft, judge = folders(tmp_path)
    policy, reference, value, reward = share_base(sft, judge, LORA, seed=1)
    before = {name: p.clone() for name, p in reference.named_parameters()}
    judged = [p.clone() for p in reward.parameters()]
    config = settings()
    rows = ppo.generate(policy, PROMPTS, Sampling(max_new_tokens=9), stop=frozenset([EOS]), pad=PAD)
    rollout = ppo.assess(policy, reference, value, reward, [row[0] for row in rows], PAD, EOS, config)
    optimizers = Optimizers(policy, lr=1e-2), Optimizers(value, lr=1e-2)
    average = Average(policy, 0.9)
    assert all("lora_" in name for name in average.values)
    ppo.learn(policy, value, *optimizers, average, rollout, None, PAD, config, 0)
    assert all(torch.equal(p, before[name]) for name, p in reference.named_parameters())
    assert all(torch.equal(p, old) for p, old in zip(reward.parameters(), judged))
    assert all(layer.lora_B.abs().max() > 0 for _, layer in adapters(policy))
    assert not torch.equal(value.score.weight, reward.score.weight)


def tensors_of(models, optimizers=(), average=None):
    """Bytes of everything that lives through a PPO run, each tensor once: weights, gradients, optimizer, average."""
    held = {}
    states = [t for o in optimizers for each in o.all for s in each.state.values() for t in s.values()]
    for tensor in chain(*(m.parameters() for m in models), *(m.buffers() for m in models), states):
        if isinstance(tensor, torch.Tensor):
            held[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
            if tensor.grad is not None:
                held[tensor.grad.data_ptr()] = tensor.grad.numel() * tensor.element_size()
    kept = average.values.values() if average else ()
    return sum(held.values()) + sum(t.numel() * t.element_size() for t in kept)


def test_all_that_lives_through_ppo_is_at_most_1_35_of_the_base(tmp_path):
    """Rank 8 on a model of 25M parameters: two optimizers, gradients and the average included."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from preceptor.models.adapters import adapt

    config = GPT2Config(
        vocab_size=4096,
        n_embd=512,
        n_layer=7,
        n_head=8,
        n_positions=512,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=1,
    )
    lora = Lora(rank=8, alpha=16.0)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "sft")
    model = adapt(scalar_from_policy(tmp_path / "sft", 3), lora, seed=5)
    card = ModelCard(name="rm", stage="reward", parents={"model": lineage(tmp_path / "sft")}, parameters=1, seed=0)
    save_model(tmp_path / "rm", model, make_tokenizer(), card, take_adapter(model, lora, "sft"), merged=False)
    roles = share_base(tmp_path / "sft", tmp_path / "rm", lora, seed=1)
    policy, reference, value, _ = roles
    optimizers, average = (Optimizers(policy, lr=1e-3), Optimizers(value, lr=1e-3)), Average(policy, 0.9)
    for model, optimizer in zip((policy, value), optimizers):
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
        optimizer.step(1.0, 1.0)  # makes the moments; and the gradients once more, as they are before a step
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    base = tensors_of([reference])
    assert base == 4 * 24_427_008
    ratio = tensors_of(roles, optimizers, average) / base
    print(f"weights, gradients, moments and average of PPO over the base: {ratio:.3f}")
    assert 1.1 < ratio < 1.35


# -- the stages -------------------------------------------------------------------------------------------------

SMALL = {"lora_rank": 4, "lr": 1e-2}


def reward_model(workspace, **changes):
    config = {"model": "base", "output": "rm", "epochs": 2, "batch": 10, "lr": 1e-2, "lora_rank": 4, **changes}
    return train_reward(workspace, RewardConfig(**config))


@pytest.mark.parametrize("stage", ["sft", "sft-mix", "reward", "ppo-ptx"])
def test_a_stopped_run_goes_on_to_the_same_bits(stage, workspace, another):
    changes = dict(SMALL)
    if stage == "ppo-ptx":
        for each in (workspace, another):
            reward_model(each)
        changes |= {"reward_model": "rm", "steps": 3}
    whole = run(workspace, stage, **changes)
    run(another, stage, **changes, max_steps=2)
    held = load_file(next((another.root / "runs/out").glob("step-*/*.safetensors")))
    kept = ("/stage/model/", "/stage/policy/", "/stage/value/")
    names = [name.removeprefix(start) for start in kept for name in held if name.startswith(start)]
    assert names
    assert all("lora_" in name or name.startswith("score") for name in names)  # the frozen weights are in no checkpoint
    stopped = run(another, stage, **changes)
    assert same(whole, stopped)
    strip = [{k: v for k, v in line.items() if k != "seconds"} for line in metrics(workspace)]
    assert strip == [{k: v for k, v in line.items() if k != "seconds"} for line in metrics(another)]


def test_a_folder_holds_merged_weights_and_the_adapter(workspace):
    folder = run(workspace, "sft", model="base", **SMALL)
    adapter = read_adapter(find_adapter(folder))
    assert (adapter.lora.rank, adapter.lora.alpha) == (4, 8.0)
    assert adapter.config["base_model_name_or_path"] == str(workspace.model("base"))
    merged, base = (load_file(workspace.model(name) / "model.safetensors") for name in ("out", "base"))
    assert merged.keys() == base.keys()
    assert any(not torch.equal(merged[name], base[name]) for name in merged)
    first = next(name for name in adapter.tensors if name.endswith("lora_A.weight"))
    layer = first.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
    change = 2.0 * adapter.tensors[first.replace("lora_A", "lora_B")] @ adapter.tensors[first]
    torch.testing.assert_close(merged[f"{layer}.weight"], base[f"{layer}.weight"] + change)


def test_an_adapter_alone_is_a_model_too(workspace, another):
    whole = run(workspace, "sft", model="base", **SMALL)
    alone = run(another, "sft", model="base", **SMALL, lora_merge=False)
    assert not (alone / "model.safetensors").exists()
    assert another.find_model("out") == alone
    for name, weight in load_policy(alone).state_dict().items():
        assert torch.equal(weight, load_policy(whole).state_dict()[name])
    shape = {"tied": True, "context": 512, "seed": 9}  # another base takes its name
    save(another.model("base"), "llama", make_tokenizer(), **shape)
    with pytest.raises(UserError, match=r"is an adapter over base@.*but .* is base@"):
        load_policy(alone)


def test_a_moved_workspace_still_finds_the_base(workspace, tmp_path):
    run(workspace, "sft", model="base", **SMALL, lora_merge=False)
    workspace.root.rename(tmp_path / "elsewhere")
    load_policy(tmp_path / "elsewhere/models/out")
    (tmp_path / "elsewhere").rename(workspace.root)


def test_lora_is_learned(workspace):
    run(workspace, "sft", model="base", epochs=25, dropout=0.0, lr=3e-2, lora_rank=8)
    losses = [line["loss"] for line in metrics(workspace)]
    assert losses[-1] < 0.5 * losses[0]


def test_ppo_over_one_base_runs_and_says_what_it_was_made_from(workspace):
    reward_model(workspace)
    folder = run(workspace, "ppo-ptx", reward_model="rm", recompute_logprobs=True, steps=2, **SMALL)
    lines = metrics(workspace)
    assert lines[0]["kl_to_reference"] == 0.0
    assert lines[1]["kl_to_reference"] != 0.0
    assert read_card(folder).parents.keys() == {"reference", "reward_model"}
    assert not same(folder, workspace.model("base"))
    assert find_adapter(folder)


def test_roles_that_cannot_share_a_base_are_refused_at_once(workspace):
    refuse = {
        "--reference NAME": {"reference": None},
        "reward model judge has no adapter.*--model base --lora-rank": {},
        "rm is an adapter over base@.*, the reference is sft@.*--model sft": {"reference": "sft", "reward_model": "rm"},
    }
    run(workspace, "sft", model="base", output="sft", max_steps=1)
    reward_model(workspace)
    for message, changes in refuse.items():
        with pytest.raises(UserError, match=message):
            run(workspace, "ppo-ptx", **SMALL, **changes)
    assert not (workspace.root / "runs/out").exists()


def test_muon_and_lora_do_not_go_together():
    with pytest.raises(UserError, match="leave one of them out"):
        RewardConfig(lora_rank=4, matrix_lr=0.02)


def test_the_card_names_the_rank(workspace):
    folder = reward_model(workspace)
    assert json.loads((folder / "preceptor.json").read_text())["config"]["lora_rank"] == 4
