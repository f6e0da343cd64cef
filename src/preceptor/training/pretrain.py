"""Pretraining: a base model from a corpus, for those who have none. Plain next-token prediction.

Loss: -E log p(token | tokens before it), in nats per token (`losses.language_model_loss`).
"""

from pathlib import Path

import torch

from preceptor.config import PretrainConfig, as_settings
from preceptor.intake.releases import read_corpus
from preceptor.losses import language_model_loss
from preceptor.models.load import best_device
from preceptor.models.logprobs import sequence_logprobs
from preceptor.models.presets import new_model
from preceptor.models.save import count_parameters
from preceptor.models.shard import load_weights, shard, whole
from preceptor.store import Workspace
from preceptor.text.batches import Blocks, batch_places
from preceptor.text.chat import Chat
from preceptor.text.tokenizer import train_tokenizer
from preceptor.training import ranks
from preceptor.training.data import corpus_blocks, corpus_hash, held_out_blocks
from preceptor.training.optim import Optimizers, autocast, cosine, mean
from preceptor.training.run import Run, finite
from preceptor.types import ModelCard


def train_pretrain(workspace: Workspace, config: PretrainConfig) -> Path:
    """Train a tokenizer and a model on the corpus. Returns the model's folder."""
    corpora = corpus_hash(workspace, config.corpus)
    tokenizer = train_tokenizer(read_corpus(workspace, config.corpus, "train"), config.vocabulary)
    chat = Chat(tokenizer)
    blocks = corpus_blocks(workspace, config.corpus, chat, config.context)

    torch.manual_seed(config.seed)
    device = best_device()
    model = new_model(config.size, tokenizer, config.context).to(device)
    model.set_attn_implementation(config.attention)
    model = shard(model)
    optimizers = Optimizers(
        model,
        lr=config.lr,
        matrix_lr=config.matrix_lr,
        weight_decay=config.weight_decay,
        betas=(0.9, 0.98),
    )

    with Run(workspace, "pretrain", config, corpora, config.steps) as run:
        if run.state:
            load_weights(model, run.state["model"])
            optimizers.load_state_dict(run.state["optimizers"])
        model.train()
        while not run.should_stop():
            places = batch_places(len(blocks), config.batch, config.seed, run.step)
            mine, live = ranks.share(places.tolist())
            rows = blocks.take(mine).to(device)
            share = cosine(run.step, config.steps, config.final_lr, config.warmup)
            with run.refusing({"text": places}) as poison:
                with autocast(config.precision, device):
                    logprobs = sequence_logprobs(model, rows)
                tokens = len(places) * config.context
                loss = language_model_loss(logprobs, torch.ones_like(logprobs), tokens) * live
                (loss * (ranks.teams() * poison)).backward()
                metrics = ranks.total({"loss": loss.item()})
                finite(metrics)
                metrics["gradient_norm"] = optimizers.step(share, max_norm=1.0)
            run.log(metrics | {"learning_rate": share * config.lr})
            if run.due() or run.should_stop():
                run.save(model=model.state_dict(), optimizers=optimizers.state_dict())
        measured = {"steps": float(run.step), **run.last}
        valid = held_out_blocks(workspace, config.corpus, chat, config.context)
        with whole(model) as complete:
            if valid is not None:
                measured["pretraining_loss"] = pretraining_loss(complete, valid)
            card = ModelCard(
                name=config.output,
                stage="pretrain",
                releases=corpora,
                config=as_settings(config),
                seed=config.seed,
                parameters=count_parameters(complete),
                metrics=measured,
            )
            return run.publish(complete, tokenizer, card)


@torch.inference_mode()
def block_losses(model, blocks: Blocks, tokens: int = 16384, batch: int = 16) -> list[float]:
    """Mean loss in nats per token of each block of the first `tokens` tokens of held-out text."""
    training = model.training
    model.eval()
    count = min(len(blocks), max(1, tokens // blocks.context))
    losses: list[float] = []
    for start in range(0, count, batch):
        rows = blocks.take(range(start, min(start + batch, count))).to(model.device)
        losses.extend((-sequence_logprobs(model, rows).double().mean(-1)).tolist())
    model.train(training)
    return losses


def pretraining_loss(model, blocks: Blocks) -> float:
    """Mean loss in nats per token of held-out text."""
    return mean(block_losses(model, blocks))
