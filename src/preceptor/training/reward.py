"""The reward model: from people's rankings to one number per answer.

Loss: equation 1 (`losses.ranking_loss`): all non-tied pairs of a prompt stand in one batch element, K answers need K
passes, the mean is over a prompt's pairs and then over prompts. At the end the scores are shifted so that the labelers'
demonstrations average 0; the shift is kept in the model's config and used wherever the model is loaded.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from preceptor.config import RewardConfig, as_settings
from preceptor.errors import UserError
from preceptor.losses import ranking_loss
from preceptor.models.adapters import adapt, load_own_state, lora_of, merge, own_state, take_adapter
from preceptor.models.load import BIAS, checkpoint_layers, context_length, load_tokenizer, scalar_from_policy
from preceptor.models.logprobs import final_scores, shared_scores
from preceptor.models.save import count_parameters, lineage
from preceptor.models.shard import whole
from preceptor.store import Workspace
from preceptor.text.batches import by_length, epoch_places, pad_right
from preceptor.text.chat import Chat
from preceptor.training import ranks
from preceptor.training.data import (
    RankedPrompt,
    find_release,
    read_examples,
    read_judgements,
    read_rankings,
    split_held_out,
)
from preceptor.training.optim import Optimizers, autocast, cosine
from preceptor.training.run import Run, console, finite
from preceptor.types import Episode, ModelCard, Release

SCORED = 16  # rows per forward pass without gradient


def train_reward(workspace: Workspace, config: RewardConfig) -> Path:
    """Train a reward model on rankings. Returns the model's folder."""
    source = workspace.find_model(config.model)
    chat = Chat(load_tokenizer(source))
    release = find_release(workspace, "rankings", config.release)
    limit = min(config.max_tokens, context_length(source))
    rankings, left_out = read_rankings(release, chat, limit)
    if left_out:
        console.print(f"{config.output}: left out {left_out} rankings of more than {limit} tokens")
    train, held_out = split_held_out(rankings, [str(r.prompt) for r in rankings], config.held_out)
    if not any(ranking.pairs for ranking in train):
        raise UserError(f"release {release.name}: every ranking is all ties; a reward model needs a preference")
    if config.labeler_weights:
        train = weighted(release, train)
    demonstrations = freeze_demonstrations(workspace, config)

    torch.manual_seed(config.seed)
    lora = lora_of(config)
    model = scalar_from_policy(source, config.seed, attention=config.attention, divided=True)
    if lora:
        adapt(model, lora, config.seed)
    if config.gradient_checkpointing:
        checkpoint_layers(model)
    optimizers = Optimizers(model, lr=config.lr, matrix_lr=config.matrix_lr, weight_decay=config.weight_decay)
    total = config.epochs * math.ceil(len(train) / config.batch)
    made_from = {"model": lineage(source), release.name: release.sha256}
    if demonstrations is not None:
        made_from[demonstrations.name] = demonstrations.sha256

    with Run(workspace, "reward", config, made_from, total) as run:
        if run.state:
            load_own_state(model, run.state["model"])
            optimizers.load_state_dict(run.state["optimizers"])
        while not run.should_stop():
            batch = [train[i] for i in epoch_places(len(train), config.batch, config.seed, run.step)]
            share = cosine(run.step, total, 0.1)
            with run.refusing({"rankings": batch}) as poison:
                metrics = learn_rankings(model, batch, chat.pad, config, poison)
                metrics["gradient_norm"] = optimizers.step(share, max_norm=1.0)
            metrics["learning_rate"] = share * config.lr
            run.log(metrics)
            if run.due() or run.should_stop():
                run.save(model=own_state(model), optimizers=optimizers.state_dict())
        adapter = take_adapter(model, lora, str(source)) if lora else None
        merge(model).eval()
        measured = {"steps": float(run.step), "train_accuracy": run.last.get("accuracy", math.nan)}
        with whole(model) as complete:
            if held_out:
                correct, pairs = ranking_accuracy(complete, held_out, chat.pad)
                measured |= {"held_out_accuracy": correct / max(pairs, 1), "held_out_pairs": float(pairs)}
            if demonstrations is not None:
                centre_on_demonstrations(complete, demonstrations, chat, limit)
            card = ModelCard(
                name=config.output,
                stage="reward",
                parents={"model": made_from["model"]},
                releases={name: digest for name, digest in made_from.items() if name != "model"},
                config=as_settings(config),
                seed=config.seed,
                parameters=count_parameters(complete),
                metrics=measured,
            )
            pad = chat.tokenizer.pad_token_id
            complete.config.pad_token_id = pad if pad != chat.eos else None  # how the library finds the last token
            return run.publish(complete, chat.tokenizer, card, adapter, merged=config.lora_merge)


def learn_rankings(
    model, batch: list[RankedPrompt], pad: int, config: RewardConfig, poison: float = 1.0
) -> dict[str, float]:
    """Add the gradient of equation 1 over the batch's prompts, micro-batch by micro-batch.

    `poison` is 1, or what a test wants the gradient to be multiplied with."""
    model.train()
    sums = {"loss": 0.0, "correct": 0.0, "margin": 0.0, "pairs": 0.0}
    for group in by_length([max(map(len, ranking.rows)) for ranking in batch], config.micro_batch * ranks.teams()):
        places, live = ranks.share(group)
        part = [batch[place] for place in places]
        with autocast(config.precision, model.device):
            scores = shared_scores(model, [r.prompt for r in part], [r.answers for r in part], pad)
        better, worse, weight = pair_places(part, model.device)
        partial = ranking_loss(scores, better, worse, weight, len(batch))
        (partial * (live * ranks.teams() * poison)).backward()  # sharded gradients are means over the teams
        gaps = (scores[better] - scores[worse]).detach()
        sums["loss"] += partial.item() * live
        sums["correct"] += int((gaps > 0).sum()) * live
        sums["margin"] += float(gaps.sum()) * live
        sums["pairs"] += len(gaps) * live
    sums = ranks.total(sums)
    pairs = max(sums["pairs"], 1)
    metrics = {
        "loss": sums["loss"],
        "accuracy": sums["correct"] / pairs,
        "margin": sums["margin"] / pairs,
        "pairs": sums["pairs"],
    }
    finite(metrics)
    return metrics


def pair_places(rankings: Sequence[RankedPrompt], device) -> tuple[Tensor, Tensor, Tensor]:
    """Places of the better and the worse answer of every pair among all answers in a row, and the pair's weight."""
    better: list[int] = []
    worse: list[int] = []
    weight: list[float] = []
    first = 0
    for ranking in rankings:
        better.extend(first + winner for winner, _ in ranking.pairs)
        worse.extend(first + loser for _, loser in ranking.pairs)
        weight.extend(ranking.weight / len(ranking.pairs) for _ in ranking.pairs)
        first += len(ranking.answers)
    return (
        torch.tensor(better, dtype=torch.long, device=device),
        torch.tensor(worse, dtype=torch.long, device=device),
        torch.tensor(weight, dtype=torch.float32, device=device),
    )


def weighted(release: Release, rankings: list[RankedPrompt]) -> list[RankedPrompt]:
    """The rankings, each with its labeler's reliability (mean 1 over labelers), estimated on the release, as weight."""
    from preceptor.statistics.reliability import labeler_weights  # it needs scipy, which nothing else here does

    weights = labeler_weights(read_judgements(release))
    return [RankedPrompt(r.prompt, r.answers, r.pairs, r.labeler_id, weights.get(r.labeler_id, 1.0)) for r in rankings]


def freeze_demonstrations(workspace: Workspace, config: RewardConfig) -> Release | None:
    """The demonstrations on which scores will be centred, frozen before training; None where there are none."""
    if next(workspace.store.demonstrations(split="train"), None) is None:
        console.print(f"{config.output}: no demonstrations to train on, so scores will not be centred on them")
        return None
    return find_release(workspace, "demonstrations", None)


def centre_on_demonstrations(model, release: Release, chat: Chat, max_tokens: int) -> None:
    """Set the model's bias so that the release's demonstrations score 0 on average."""
    examples, _ = read_examples(release, chat, max_tokens)
    setattr(model.config, BIAS, 0.0)
    scores = score_rows(model, [example.tokens for example in examples], chat.pad)
    setattr(model.config, BIAS, -float(scores.mean()))


@torch.inference_mode()
def score_rows(model, rows: Sequence[Sequence[int]], pad: int) -> Tensor:
    """The score of each row of ids, on the CPU, whatever the order or company: [N]."""
    scores = torch.zeros(len(rows))
    for group in by_length([len(row) for row in rows], SCORED * ranks.teams()):
        places, live = ranks.share(group)
        ids, lengths = pad_right([rows[place] for place in places], pad)
        scores[places] = final_scores(model, ids.to(model.device), lengths.to(model.device)).cpu() * live
    ranks.combine(scores)
    return scores


def score_episodes(model, episodes: Sequence[Episode], pad: int, eos: int) -> Tensor:
    """The scores of answers as labelers would have met them: one that was cut off is scored as if it ended there,
    for every answer in the rankings ends with the end-of-text token."""
    return score_rows(model, [_ended(episode, eos) for episode in episodes], pad)


def _ended(episode: Episode, eos: int) -> tuple[int, ...]:
    tokens = episode.prompt_tokens + episode.answer_tokens
    return tokens if episode.finish_reason == "stop" else (*tokens, eos)


def ranking_accuracy(model, rankings: Sequence[RankedPrompt], pad: int) -> tuple[int, int]:
    """(pairs that the model orders as the labeler did, all non-tied pairs)."""
    scores = score_rows(model, [row for ranking in rankings for row in ranking.rows], pad)
    better, worse, _ = pair_places(rankings, "cpu")
    return int((scores[better] > scores[worse]).sum()), len(better)
