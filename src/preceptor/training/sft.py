"""Supervised fine-tuning: imitate the labelers' demonstrations.

Loss: -E log p(answer token | prompt, answer so far), in nats per token (`losses.language_model_loss`). With `mix` above
0, pretraining text makes up that share of each step's tokens, and the mean is over the target tokens of both.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import torch

from preceptor.config import SftConfig, as_settings
from preceptor.errors import UserError
from preceptor.losses import language_model_loss
from preceptor.models.adapters import adapt, load_own_state, lora_of, merge, own_state, take_adapter
from preceptor.models.load import (
    checkpoint_layers,
    context_length,
    load_policy,
    load_scalar,
    load_tokenizer,
    masked_attention,
)
from preceptor.models.logprobs import answer_logprobs, answer_mask, sequence_logprobs
from preceptor.models.save import count_parameters, lineage
from preceptor.models.shard import whole
from preceptor.rollout.engine import generate
from preceptor.store import Workspace
from preceptor.text.batches import batch_places, by_length, epoch_places, pad_right
from preceptor.text.chat import Chat
from preceptor.training import ranks
from preceptor.training.data import (
    Example,
    corpus_blocks,
    corpus_hash,
    find_release,
    held_out_blocks,
    read_examples,
    read_prompts,
)
from preceptor.training.optim import Optimizers, autocast, cosine
from preceptor.training.pretrain import pretraining_loss
from preceptor.training.reward import score_episodes
from preceptor.training.run import Run, console, finite
from preceptor.types import ModelCard, Sampling

ROLES = ("model", "reward_model")  # parents of an SFT model
MIX_CONTEXT = 128  # tokens per block of mixed-in pretraining text
JUDGED = 64  # validation prompts that choose the epoch


def train_sft(workspace: Workspace, config: SftConfig) -> Path:
    """Fine-tune a model on demonstrations. Returns the model's folder."""
    source = find_start(workspace, config.model)
    chat = Chat(load_tokenizer(source))
    release = find_release(workspace, "demonstrations", config.release)
    limit = min(config.max_tokens, context_length(source))
    examples, left_out = read_examples(release, chat, limit)
    if left_out:
        console.print(f"{config.output}: left out {left_out} demonstrations of more than {limit} tokens")
    mix = corpus_blocks(workspace, config.corpus, chat, MIX_CONTEXT) if config.mix > 0 else None
    made_from = {"model": lineage(source), release.name: release.sha256}
    if mix is not None:
        made_from |= corpus_hash(workspace, config.corpus)
    judge = EpochJudge(workspace, config, chat, limit) if config.reward_model else None
    if judge:
        made_from |= judge.made_from

    torch.manual_seed(config.seed)
    lora = lora_of(config)
    model = load_policy(source, dropout=config.dropout, attention=config.attention, divided=True)
    if lora:
        adapt(model, lora, config.seed)
    if config.gradient_checkpointing:
        checkpoint_layers(model)
    optimizers = Optimizers(model, lr=config.lr, weight_decay=config.weight_decay)
    epoch_steps = math.ceil(len(examples) / config.batch)
    total = config.epochs * epoch_steps

    with Run(workspace, "sft", config, made_from, total) as run:
        if run.state:
            load_own_state(model, run.state["model"])
            optimizers.load_state_dict(run.state["optimizers"])
            if judge:
                judge.best = run.state["best"]
        model.train()
        while not run.should_stop():
            batch = [examples[i] for i in epoch_places(len(examples), config.batch, config.seed, run.step)]
            blocks = None
            if mix is not None:
                share = config.mix / (1 - config.mix) * sum(len(example.tokens) for example in batch)
                count = max(1, round(share / MIX_CONTEXT))
                blocks = mix.take(batch_places(len(mix), count, config.seed + 1, run.step))
            rate = cosine(run.step, total, config.final_lr)
            with run.refusing({"demonstrations": batch, "text": blocks}) as poison:
                metrics = learn(model, batch, blocks, chat.pad, config, poison)
                metrics["gradient_norm"] = optimizers.step(rate, max_norm=1.0)
            metrics["learning_rate"] = rate * config.lr
            if judge and (run.step + 1) % epoch_steps == 0:
                metrics["validation_reward"] = judge.look(model, (run.step + 1) // epoch_steps)
            run.log(metrics)
            if run.due() or run.should_stop():
                best = judge.best if judge else None
                run.save(model=own_state(model), optimizers=optimizers.state_dict(), best=best)
        chosen = {"steps": float(run.step), **run.last}
        if judge and judge.best:
            load_own_state(model, judge.best["model"])
            chosen |= {"chosen_epoch": judge.best["epoch"], "validation_reward": judge.best["reward"]}
        adapter = take_adapter(model, lora, source) if lora else None
        merge(model).eval()
        valid = held_out_blocks(workspace, config.corpus, chat, MIX_CONTEXT) if mix is not None else None
        with whole(model) as complete:
            if valid is not None:
                chosen["pretraining_loss"] = pretraining_loss(complete, valid)
            card = ModelCard(
                name=config.output,
                stage="sft",
                parents={role: made_from[role] for role in ROLES if role in made_from},
                releases={name: digest for name, digest in made_from.items() if name not in ROLES},
                config=as_settings(config),
                seed=config.seed,
                parameters=count_parameters(complete),
                metrics=chosen,
            )
            return run.publish(complete, chat.tokenizer, card, adapter, merged=config.lora_merge)


def find_start(workspace: Workspace, name: str) -> str:
    """The model to start from: a model of the workspace, a folder, or a hub name as it is."""
    name = name or workspace.settings.get("base", "")
    if not name:
        raise UserError("no model to start from; name one with --model, or set `base` in preceptor.toml")
    try:
        return str(workspace.find_model(name))
    except UserError:
        if name.count("/") == 1 and not name.startswith((".", "/", "~")):
            return name  # looks like a hub name: transformers fetches it, or says why not
        raise


def learn(
    model, batch: list[Example], blocks: torch.Tensor | None, pad: int, config: SftConfig, poison: float = 1.0
) -> dict[str, float]:
    """Add the gradient of one step, micro-batch by micro-batch: the mean over all its target tokens.

    `poison` is 1, or what a test wants the gradient to be multiplied with."""
    if config.train_on_prompt:
        batch = [Example(example.tokens[:1], example.tokens[1:]) for example in batch]
    answer_tokens = sum(len(example.answer) for example in batch)
    tokens = answer_tokens + (blocks[:, 1:].numel() if blocks is not None else 0)
    metrics = {"loss": 0.0}
    scale = ranks.teams() * poison  # sharded gradients are means over the teams
    for group in by_length([len(example.tokens) for example in batch], config.micro_batch * ranks.teams()):
        places, live = ranks.share(group)
        part = [batch[place] for place in places]
        ids, lengths = pad_right([example.tokens for example in part], pad)
        prompts = torch.tensor([len(example.prompt) for example in part])
        ids, lengths, prompts = ids.to(model.device), lengths.to(model.device), prompts.to(model.device)
        mask = answer_mask(prompts, lengths)
        with autocast(config.precision, model.device):
            logprobs = answer_logprobs(model, ids, prompts, mask)
        loss = language_model_loss(logprobs, mask, tokens) * live
        (loss * scale).backward()
        metrics["loss"] += loss.item() * tokens / answer_tokens
    if blocks is not None:
        targets = blocks[:, 1:].numel()
        metrics["pretraining_loss"] = 0.0
        for part, live in text_batches(blocks, config.micro_batch):
            with autocast(config.precision, model.device):
                logprobs = sequence_logprobs(model, part.to(model.device))
            loss = language_model_loss(logprobs, torch.ones_like(logprobs), tokens) * live
            (loss * scale).backward()
            metrics["pretraining_loss"] += loss.item() * tokens / targets
    metrics = ranks.total(metrics)
    finite(metrics)
    return metrics


def text_batches(blocks: torch.Tensor, micro_batch: int) -> Iterator[tuple[torch.Tensor, float]]:
    """Blocks of text in groups that go through the model together: of each group this team's part, as `ranks.share`."""
    size = micro_batch * ranks.teams()
    for start in range(0, len(blocks), size):
        places, live = ranks.share(range(start, min(start + size, len(blocks))))
        yield blocks[places], live


class EpochJudge:
    """Scores an epoch's answers to validation prompts with a reward model, and keeps the best epoch's weights."""

    def __init__(self, workspace: Workspace, config: SftConfig, chat: Chat, limit: int):
        assert config.reward_model is not None
        source = workspace.find_model(config.reward_model)
        self.scorer = load_scalar(source)
        self.chat, self.seed = chat, config.seed
        release = find_release(workspace, "prompts", None, split="valid")
        self.made_from = {"reward_model": lineage(source), release.name: release.sha256}
        prompts, _ = read_prompts(release, chat, limit // 2)
        places = batch_places(len(prompts), min(JUDGED, len(prompts)), config.seed, 0)
        self.prompts = [prompts[place] for place in places]
        self.longest = min(256, limit // 2)
        self.best: dict | None = None

    def look(self, model, epoch: int) -> float:
        sampling = Sampling(temperature=1.0, max_new_tokens=self.longest, seed=self.seed)
        with whole(model) as complete, masked_attention(complete):
            answers = generate(complete, self.prompts, sampling, stop=frozenset([self.chat.eos]), pad=self.chat.pad)
            scores = score_episodes(self.scorer, [row[0] for row in answers], self.chat.pad, self.chat.eos)
            reward = ranks.tell(float(scores.mean()))
            if self.best is None or reward > self.best["reward"]:
                weights = {name: value.detach().cpu().clone() for name, value in own_state(complete).items()}
                self.best = {"epoch": epoch, "reward": reward, "model": weights}
        model.train()
        return reward
