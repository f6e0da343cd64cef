"""PPO and PPO-ptx: act, judge, shape, learn, publish.

Objective (equation 2): E[r(x, y) - beta log(pi(y|x) / pi_ref(y|x))] + gamma E_pretrain[log pi(x)].
An episode is one answer to one prompt. Equation -> code: the reward of each token `returns.token_rewards`, advantages
`returns.gae`, policy and value loss `losses.ppo_policy_loss`, `losses.ppo_value_loss`, the gamma term
`losses.language_model_loss` on pretraining text, in the same optimizer step.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from preceptor import faults
from preceptor.config import PpoConfig, SftConfig, as_settings
from preceptor.errors import UserError
from preceptor.losses import kl_k1, kl_k3, language_model_loss, ppo_policy_loss, ppo_value_loss
from preceptor.models.adapters import load_own_state, lora_of, merge, own_state, take_adapter
from preceptor.models.heap import give_back
from preceptor.models.load import (
    checkpoint_layers,
    context_length,
    load_policy,
    load_scalar,
    load_tokenizer,
    masked_attention,
)
from preceptor.models.logprobs import answer_logprobs, answer_mask, answer_values, sequence_logprobs
from preceptor.models.roles import share_base
from preceptor.models.save import count_parameters, lineage
from preceptor.models.shard import whole
from preceptor.returns import gae, token_rewards, whiten
from preceptor.rollout.engine import generate
from preceptor.rollout.vllm_engine import Engine, VllmInside, VllmServer
from preceptor.store import Workspace
from preceptor.text.batches import Blocks, batch_places, by_length, pad_right
from preceptor.text.chat import Chat
from preceptor.training import ranks
from preceptor.training.data import corpus_blocks, corpus_hash, find_release, held_out_blocks, read_prompts
from preceptor.training.optim import Average, Optimizers, autocast, warmed
from preceptor.training.pretrain import pretraining_loss
from preceptor.training.reward import SCORED, score_episodes
from preceptor.training.run import Run, console, finite
from preceptor.training.sft import text_batches, train_sft
from preceptor.types import Episode, ModelCard, Sampling

# Answers drawn at once: the cache of keys and values must not grow with the episodes of an iteration. A processor's
# matrix products gain little from more rows; a GPU's do.
DRAWN = {"cpu": 64, "cuda": 256}


@dataclass(slots=True)
class Rollout:
    """One iteration's episodes. B episodes, T tokens of the longest answer; all tensors on the CPU."""

    episodes: list[Episode]
    mask: Tensor  # [B, T]
    logprobs: Tensor  # [B, T] of the policy that acted
    ref_logprobs: Tensor  # [B, T]
    values: Tensor  # [B, T]
    scores: Tensor  # [B] reward model
    advantages: Tensor  # [B, T]
    returns: Tensor  # [B, T]


def train_ppo(workspace: Workspace, config: PpoConfig) -> Path:
    """Optimise a policy against a reward model. Returns the model's folder."""
    lora = lora_of(config)
    if lora and config.reference is None:
        raise UserError("with lora_rank name the SFT that the reward model was trained over: --reference NAME")
    reference_name = config.reference or make_reference(workspace, config)
    source, judge = workspace.find_model(reference_name), workspace.find_model(config.reward_model)
    chat = Chat(load_tokenizer(source))
    release = find_release(workspace, "prompts", config.release)
    room = min(context_length(source), context_length(judge)) - config.max_new_tokens
    if room < 1:
        raise UserError(f"max_new_tokens {config.max_new_tokens} leaves no room for a prompt in the models' context")
    limit = min(config.max_prompt_tokens, room)
    prompts, left_out = read_prompts(release, chat, limit)
    if left_out:
        console.print(f"{config.output}: left out {left_out} prompts of more than {limit} tokens")
    if load_tokenizer(judge).get_vocab() != chat.tokenizer.get_vocab():
        raise UserError(
            f"{judge.name} and {source.name} have different tokenizers; train the reward model from the SFT"
        )
    text = corpus_blocks(workspace, config.corpus, chat, config.ptx_context) if config.ptx_coef > 0 else None
    made_from = {"reference": lineage(source), "reward_model": lineage(judge), release.name: release.sha256}
    if text is not None:
        made_from |= corpus_hash(workspace, config.corpus)

    torch.manual_seed(config.seed)
    if lora:
        policy, reference, value, reward = share_base(source, judge, lora, config.seed, attention=config.attention)
    else:
        how = {"attention": config.attention, "divided": True}
        policy, reference = (load_policy(source, frozen=frozen, **how) for frozen in (False, True))
        value, reward = (load_scalar(judge, frozen=frozen, **how) for frozen in (False, True))
    if config.gradient_checkpointing:
        for trained in (policy, value):
            checkpoint_layers(trained)
    policy_optimizer = Optimizers(policy, lr=config.lr)
    value_optimizer = Optimizers(value, lr=config.value_lr)
    average = Average(policy, config.ema) if config.ema > 0 else None

    with Run(workspace, "ppo", config, made_from, config.steps) as run:
        if run.state:
            load_own_state(policy, run.state["policy"])
            load_own_state(value, run.state["value"])
            policy_optimizer.load_state_dict(run.state["policy_optimizer"])
            value_optimizer.load_state_dict(run.state["value_optimizer"])
            if average:
                average.load(run.state["average"])
        engine = vllm_engine(config, source, run.folder / "vllm", limit) if config.engine == "vllm" else None
        kl_passed = bool(run.state and run.state["kl_passed"])
        good = Average(policy, 0.0) if config.kl_stop is not None else None  # the last weights within the bound
        if run.state and good:
            good.load(run.state["good"])
        while not (run.should_stop() or kl_passed):
            episodes = act(policy, prompts, chat, config, run.step, engine)
            share = warmed(run.step, config.warmup)
            with run.refusing(batch := {"episodes": episodes}) as poison:
                rollout = assess(policy, reference, value, reward, episodes, chat.pad, chat.eos, config, run.step)
                batch["scores"] = rollout.scores
                check_rollout(rollout)
                if good and kl_k1(rollout.logprobs, rollout.ref_logprobs, rollout.mask).mean() <= config.kl_stop:
                    good.load(average.values) if average else good.update(policy)
                learned = learn(
                    policy,
                    value,
                    policy_optimizer,
                    value_optimizer,
                    average,
                    rollout,
                    text,
                    chat.pad,
                    config,
                    run.step,
                    poison,
                )
            metrics = describe(rollout, learned, chat, config) | {"learning_rate": share * config.lr}
            run.log(metrics)
            if metrics["logprob_gap"] > config.logprob_gap:
                raise UserError(
                    f"run {config.output}: rollout and trainer log-probabilities differ by "
                    f"{metrics['logprob_gap']:.3g} nats on average, more than logprob_gap {config.logprob_gap}; "
                    "the gradient would be wrong"
                )
            kl_passed = config.kl_stop is not None and metrics["kl_to_reference"] > config.kl_stop
            if kl_passed:
                console.print(
                    f"{config.output}: stopped, KL {metrics['kl_to_reference']:.2f} passed {config.kl_stop}; the model "
                    "that comes out is the last one within it"
                )
            if run.due() or run.should_stop() or kl_passed:
                run.save(
                    policy=own_state(policy),
                    value=own_state(value),
                    policy_optimizer=policy_optimizer.state_dict(),
                    value_optimizer=value_optimizer.state_dict(),
                    average=average.values if average else None,
                    good=good.values if good else None,
                    kl_passed=kl_passed,
                )
        return publish(workspace, policy, good if kl_passed else average, chat, config, made_from, run)


# -- 1. act ---------------------------------------------------------------------------------------------------


def act(
    policy, prompts: list[list[int]], chat: Chat, config: PpoConfig, iteration: int, engine: Engine | None = None
) -> list[Episode]:
    """Draw one answer to each of the iteration's prompts; by our own engine unless another is given."""
    places = batch_places(len(prompts), config.batch, config.seed, iteration)
    sampling = Sampling(
        temperature=config.temperature, max_new_tokens=config.max_new_tokens, seed=config.seed * 1_000_003 + iteration
    )
    first, end = ranks.span(len(places))
    chosen = [prompts[place] for place in places[first:end]]
    with whole(policy) as actor, masked_attention(actor), autocast(config.precision, policy.device):
        options = {"stop": frozenset([chat.eos]), "first_number": first}
        if engine is None:
            answers = generate(
                actor,
                chosen,
                sampling,
                pad=chat.pad,
                batch=min(config.batch, DRAWN.get(actor.device.type, 256)),
                **options,
            )
        else:
            engine.load(actor)
            answers = engine.draw(chosen, sampling, **options)
    return ranks.gather([row[0] for row in answers])


def vllm_engine(config: PpoConfig, source: Path, exchange: Path, limit: int) -> Engine:
    """vLLM as the settings say, for prompts of at most `limit` tokens. Experimental: docs/vllm.md says what has run."""
    if config.lora_rank is not None:
        raise UserError("--engine vllm is given whole weights and cannot draw from adapters; leave out one of them")
    if ranks.size() > 1:
        raise UserError("--engine vllm works with one process; leave it out, or the workers")
    console.print(f"{config.output}: drawing answers with vLLM, which is experimental here")
    if config.vllm_url:
        return VllmServer(config.vllm_url, exchange)
    return VllmInside(source, exchange, limit + config.max_new_tokens)


# -- 2. judge, 3. shape -----------------------------------------------------------------------------------------


@torch.no_grad()
def assess(
    policy, reference, value, reward, episodes: list[Episode], pad: int, eos: int, config: PpoConfig, iteration: int = 0
) -> Rollout:
    """Reference log-probabilities, values and scores of the episodes, and from them rewards and advantages.

    With `recompute_logprobs` the policy's log-probabilities are made in the very micro-batches, and the precision, in
    which `learn` will make them first: so the ratio is exactly 1 there, and differs later only because of learning.
    """
    with autocast(config.precision, reference.device):
        scores = score_episodes(reward, episodes, pad, eos) * faults.at("rollout", iteration + 1)
    longest = max(len(episode.answer_tokens) for episode in episodes)
    shape = (len(episodes), longest)
    mask, logprobs, ref_logprobs, values = (torch.zeros(shape) for _ in range(4))
    for place, episode in enumerate(episodes):
        mask[place, : len(episode.answer_tokens)] = 1
        if not config.recompute_logprobs:
            logprobs[place, : len(episode.logprobs)] = torch.tensor(episode.logprobs)
    everything = [list(range(len(episodes)))]
    steps, size = everything, min(config.micro_batch, SCORED)
    if config.recompute_logprobs:
        steps, size = minibatches(len(episodes), config, iteration, 0), config.micro_batch
    for places, live in (group for step in steps for group in micro_batches(episodes, step, size)):
        ids, prompts, part = _tensors([episodes[p] for p in places], pad, reference.device)
        width = part.shape[1]
        with autocast(config.precision, reference.device):
            values[places, :width] = answer_values(value, ids, prompts, part).cpu() * live
            known = answer_logprobs(reference, ids, prompts, part, config.temperature)
            ref_logprobs[places, :width] = known.cpu() * live
            if config.recompute_logprobs:
                own = answer_logprobs(policy, ids, prompts, part, config.temperature)
                logprobs[places, :width] = own.cpu() * live
    give_back()
    ranks.combine(values, ref_logprobs, *([logprobs] if config.recompute_logprobs else []))
    unfinished = torch.tensor([episode.finish_reason == "length" for episode in episodes])
    penalised = scores - config.length_penalty * unfinished
    rewards = token_rewards(logprobs, ref_logprobs, penalised, mask, config.kl_coef)
    advantages, returns = gae(rewards, values, mask, config.gae_lambda)
    if config.whiten_advantages:
        advantages = whiten(advantages, mask)
    return Rollout(episodes, mask, logprobs, ref_logprobs, values, scores, advantages, returns)


def check_rollout(rollout: Rollout) -> None:
    """Raises NotFinite when a reward, a value or a log-probability is NaN or infinite."""
    parts = {
        "reward_model_score": rollout.scores,
        "logprobs": rollout.logprobs,
        "ref_logprobs": rollout.ref_logprobs,
        "values": rollout.values,
    }
    finite({name: float(tensor.double().sum()) for name, tensor in parts.items()})


def minibatches(episodes: int, config: PpoConfig, iteration: int, epoch: int) -> list[list[int]]:
    """The places of the episodes of each optimizer step of a pass, at random."""
    order = np.random.default_rng([config.seed, iteration, epoch]).permutation(episodes).tolist()
    return [order[start : start + config.minibatch] for start in range(0, episodes, config.minibatch)]


def micro_batches(episodes: list[Episode], places: list[int], size: int) -> Iterator[tuple[list[int], float]]:
    """`places` in groups that go through the models together, `size` on each rank: of each group this team's part, as
    `ranks.share`."""
    for group in by_length([_length(episodes[place]) for place in places], size * ranks.teams()):
        yield ranks.share([places[index] for index in group])


def _length(episode: Episode) -> int:
    return len(episode.prompt_tokens) + len(episode.answer_tokens)


def _tensors(episodes: list[Episode], pad: int, device) -> tuple[Tensor, Tensor, Tensor]:
    """ids [B, S], prompt lengths [B], mask [B, T] of some episodes."""
    ids, lengths = pad_right([episode.prompt_tokens + episode.answer_tokens for episode in episodes], pad)
    prompts = torch.tensor([len(episode.prompt_tokens) for episode in episodes])
    return ids.to(device), prompts.to(device), answer_mask(prompts, lengths).to(device)


# -- 4. learn ---------------------------------------------------------------------------------------------------


def learn(
    policy,
    value,
    policy_optimizer: Optimizers,
    value_optimizer: Optimizers,
    average: Average | None,
    rollout: Rollout,
    text: Blocks | None,
    pad: int,
    config: PpoConfig,
    iteration: int,
    poison: float = 1.0,
) -> dict[str, float]:
    """Pass over the episodes in random minibatches; one optimizer step each, the pretraining term in the same step.

    `poison` is 1, or what a test wants the gradients to be multiplied with."""
    share = warmed(iteration, config.warmup)
    rows = len(rollout.episodes)
    seen: dict[str, list[float]] = {}
    step = iteration * config.inner_epochs * -(-rows // config.minibatch)
    for epoch in range(config.inner_epochs):
        for part in minibatches(rows, config, iteration, epoch):
            metrics = ppo_gradient(policy, value, rollout, part, pad, config, poison)
            if text is not None:
                blocks = text.take(batch_places(len(text), config.ptx_batch, config.seed, step))
                metrics["ptx_loss"] = ptx_gradient(policy, blocks, config)
            finite(metrics)
            metrics["policy_gradient_norm"] = policy_optimizer.step(share, config.max_grad_norm)
            metrics["value_gradient_norm"] = value_optimizer.step(share, config.max_grad_norm)
            if average:
                average.update(policy)
            step += 1
            for name, number in metrics.items():
                seen.setdefault(name, []).append(number)
    give_back()
    first = {f"first_{name}": seen[name][0] for name in ("ratio_deviation", "clip_fraction", "logprob_gap")}
    return {name: float(np.mean(numbers)) for name, numbers in seen.items()} | first


def ppo_gradient(
    policy, value, rollout: Rollout, rows: list[int], pad: int, config: PpoConfig, poison: float = 1.0
) -> dict[str, float]:
    """Add the gradients of the policy and value loss of a minibatch: means over all its tokens."""
    tokens = float(rollout.mask[rows].sum())
    sums: dict[str, float] = {}
    for places, live in micro_batches(rollout.episodes, rows, config.micro_batch):
        scale = live * ranks.teams() * poison  # sharded gradients are means over the teams
        ids, prompts, mask = _tensors([rollout.episodes[p] for p in places], pad, policy.device)
        width = mask.shape[1]
        old, advantages, old_values, returns = (
            tensor[places, :width].to(policy.device)
            for tensor in (rollout.logprobs, rollout.advantages, rollout.values, rollout.returns)
        )
        with autocast(config.precision, policy.device):
            logprobs = answer_logprobs(policy, ids, prompts, mask, config.temperature)
        policy_loss, ratio = ppo_policy_loss(logprobs, old, advantages, mask, tokens, config.clip)
        (policy_loss * scale).backward()  # before the value model's pass: one model's activations at a time
        with autocast(config.precision, policy.device):
            values = answer_values(value, ids, prompts, mask)
        value_loss = ppo_value_loss(values, old_values, returns, mask, tokens, config.value_clip)
        (value_loss * scale).backward()
        with torch.no_grad():
            beyond = ((ratio - 1).abs() > config.clip).float()
            jumped = ((values - old_values).abs() > config.value_clip).float()
            for name, tensor in {
                "policy_loss": policy_loss * tokens,
                "value_loss": value_loss * tokens,
                "ratio": (ratio * mask).sum(),
                "ratio_squared": (ratio**2 * mask).sum(),
                "ratio_deviation": ((ratio - 1).abs() * mask).sum(),
                "clip_fraction": (beyond * mask).sum(),
                "value_clip_fraction": (jumped * mask).sum(),
                "kl_to_rollout_policy": kl_k3(old, logprobs, mask).sum(),
                "logprob_gap": ((logprobs - old).abs() * mask).sum(),
            }.items():
                sums[name] = sums.get(name, 0.0) + tensor.item() * live
    means = {name: total / tokens for name, total in ranks.total(sums).items()}
    means["ratio_variance"] = max(0.0, means.pop("ratio_squared") - means["ratio"] ** 2)
    return means


def ptx_gradient(policy, blocks: Tensor, config: PpoConfig) -> float:
    """Add gamma times the gradient of the pretraining loss (a mean over tokens). Returns the loss itself."""
    tokens, total = blocks[:, 1:].numel(), 0.0
    for part, live in text_batches(blocks, config.micro_batch):
        with autocast(config.precision, policy.device):
            logprobs = sequence_logprobs(policy, part.to(policy.device))
        loss = language_model_loss(logprobs, torch.ones_like(logprobs), tokens)
        (config.ptx_coef * loss * (live * ranks.teams())).backward()
        total += loss.item() * live
    return ranks.total({"loss": total})["loss"]


def describe(rollout: Rollout, learned: dict[str, float], chat: Chat, config: PpoConfig) -> dict[str, float]:
    """What docs/ppo.md explains: rewards in reward-model units, divergences in nats, lengths in tokens."""
    mask, tokens = rollout.mask, rollout.mask.sum()
    kl = kl_k1(rollout.logprobs, rollout.ref_logprobs, mask)
    residual = ((rollout.returns - rollout.values) * mask).sum() / tokens
    returns_mean = (rollout.returns * mask).sum() / tokens
    unexplained = (((rollout.returns - rollout.values - residual) * mask) ** 2).sum()
    variance = (((rollout.returns - returns_mean) * mask) ** 2).sum()
    ended = sum(episode.finish_reason == "stop" for episode in rollout.episodes) / len(mask)
    # On the first minibatch the policy has not moved: what differs there is engine against trainer.
    learned["logprob_gap"] = learned.pop("first_logprob_gap")
    return {
        "reward": float((rollout.scores - config.kl_coef * kl).mean()) - config.length_penalty * (1 - ended),
        "reward_model_score": float(rollout.scores.mean()),
        "reward_model_score_sd": float(rollout.scores.std(correction=0)),
        "kl_to_reference": float(kl.mean()),
        "kl_to_reference_k3": float(kl_k3(rollout.logprobs, rollout.ref_logprobs, mask).mean()),
        "entropy_per_token": float(-(rollout.logprobs * mask).sum() / tokens),
        "answer_tokens": float(tokens / len(mask)),
        "ended_by_itself": ended,
        "explained_variance": float(1 - unexplained / variance.clamp(min=1e-8)),
        **learned,
    }


# -- 5. publish -------------------------------------------------------------------------------------------------


def publish(workspace: Workspace, policy, average: Average | None, chat: Chat, config: PpoConfig, made_from, run: Run):
    """Save the averaged weights (or the last ones) as a model of the workspace.

    An adapted policy is folded into the base, so the roles that share it are of no use afterwards.
    """
    if average:
        average.copy_to(policy)
    lora = lora_of(config)
    adapter = take_adapter(policy, lora, str(workspace.find_model(config.reference))) if lora else None
    merge(policy)
    measured = {"steps": float(run.step), "episodes": float(run.step * config.batch), **run.last}
    has_text = corpus_hash(workspace, config.corpus)
    valid = held_out_blocks(workspace, config.corpus, chat, config.ptx_context) if has_text else None
    with whole(policy) as complete:
        if valid is not None:
            measured["pretraining_loss"] = pretraining_loss(complete, valid)
        parents = {role: made_from[role] for role in ("reference", "reward_model")}
        card = ModelCard(
            name=config.output,
            stage="ppo-ptx" if config.ptx_coef > 0 else "ppo",
            parents=parents,
            releases={name: digest for name, digest in made_from.items() if name not in parents},
            config=as_settings(config),
            seed=config.seed,
            parameters=count_parameters(complete),
            metrics=measured,
        )
        return run.publish(complete, chat.tokenizer, card, adapter, merged=config.lora_merge)


def make_reference(workspace: Workspace, config: PpoConfig) -> str:
    """The paper's RL start: SFT for 2 epochs with 10 % pretraining text. Made once, then found by its name."""
    name = f"{config.output}-reference"
    console.print(f"{config.output}: no reference named; making {name} (SFT, 2 epochs, 10 % pretraining text)")
    table = {key: v for key, v in workspace.settings.get("sft", {}).items() if key in ("lr", "batch", "micro_batch")}
    mix = 0.1 if workspace.store.corpora() else 0.0
    if not mix:
        console.print(f"{name}: no corpus in the workspace, so no pretraining text is mixed in")
    train_sft(
        workspace,
        SftConfig(
            output=name,
            model=config.model,
            epochs=2,
            mix=mix,
            corpus=config.corpus,
            seed=config.seed,
            resume=config.resume,
            **table,
        ),
    )
    return name
