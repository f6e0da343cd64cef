"""Preceptor's side of the benchmarks: the stages' own step functions, a step per turn.

python ours.py TASK FOLDER PRECISION      (started by bench.py)
"""

import json
import sys
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import curve
import torch
from material import PAD, Sizes, read_sizes, read_tokens
from turns import Finished, Turns

from preceptor.config import PpoConfig, RewardConfig, SftConfig
from preceptor.models.adapters import Lora, adapt, take_adapter
from preceptor.models.load import checkpoint_layers, load_policy, load_scalar, load_tokenizer, scalar_from_policy
from preceptor.models.roles import share_base
from preceptor.models.save import lineage, save_model
from preceptor.rollout.batch import Row, RunningBatch
from preceptor.rollout.engine import generate
from preceptor.text.chat import Chat
from preceptor.training import ppo, reward, sft
from preceptor.training.data import Example, RankedPrompt
from preceptor.training.optim import Optimizers, autocast
from preceptor.types import ModelCard, Sampling

LR = 1e-4
LORA = Lora(rank=8, alpha=16.0)


def demonstrations(turns: Turns, folder: Path, precision: str, model_name: str) -> None:
    chat = Chat(load_tokenizer(folder / model_name))
    model = load_policy(folder / model_name)
    optimizers = Optimizers(model, lr=LR)
    config = SftConfig(precision=precision, micro_batch=read_sizes(folder).sft_batch)  # all at once, as the peer
    steps = [[Example(row["prompt"], row["answer"]) for row in step] for step in read_tokens(folder)["sft"]]
    turns.count(model.base_model)
    model.train()
    turns.ready()
    for step in endless(steps):
        metrics = sft.learn(model, step, None, chat.pad, config)
        optimizers.step(1.0, max_norm=1.0)
        work = sum(len(example.tokens) for example in step)
        turns.done(work=work, loss=metrics["loss"], flop=training_flop(model, step))


def training_flop(model, step: list[Example]) -> float:
    """FLOP that a training step needs: forward once, backward twice that; no padding, logits of the answers only."""
    config = model.config
    matrices = sum(p.numel() for name, p in model.named_parameters() if p.ndim == 2 and ".h." in name)
    forward = 0.0
    for example in step:
        length = len(example.tokens)
        attention = 2 * config.n_layer * config.n_embd * length * (length + 1)  # QK^T and AV, causal
        forward += 2 * matrices * length + attention + 2 * config.vocab_size * config.n_embd * len(example.answer)
    return 3 * forward


def run_sft(turns: Turns, folder: Path, precision: str) -> None:
    demonstrations(turns, folder, precision, "full")


def run_sft_medium(turns: Turns, folder: Path, precision: str) -> None:
    demonstrations(turns, folder, precision, "medium")


def rankings(turns: Turns, folder: Path, precision: str, k: int) -> None:
    chat = Chat(load_tokenizer(folder / "reward"))
    model = load_scalar(folder / "reward")
    optimizers = Optimizers(model, lr=LR)
    config = RewardConfig(precision=precision)
    pairs = [(better, worse) for better in range(k) for worse in range(better + 1, k)]
    steps = [
        [RankedPrompt(row["prompt"], row["answers"], pairs, "labeler") for row in step]
        for step in read_tokens(folder)[f"rankings_{k}"]
    ]
    turns.count(model.base_model)
    turns.ready()
    for step in endless(steps):
        metrics = reward.learn_rankings(model, step, chat.pad, config)
        optimizers.step(1.0, max_norm=1.0)
        turns.done(work=int(metrics["pairs"]), loss=metrics["loss"])


def run_rm_k9(turns: Turns, folder: Path, precision: str) -> None:
    rankings(turns, folder, precision, 9)


def run_rm_k4(turns: Turns, folder: Path, precision: str) -> None:
    rankings(turns, folder, precision, 4)


def ppo_config(sizes: Sizes, precision: str) -> PpoConfig:
    """The settings that the peer has too; no averaged weights, for it has none."""
    return PpoConfig(
        batch=sizes.episodes,
        minibatch=max(1, sizes.episodes // 8),
        max_new_tokens=sizes.answer,
        temperature=0.7,
        kl_coef=0.05,
        lr=1e-6,
        value_lr=1e-6,
        warmup=0,
        ema=0.0,
        precision=precision,
    )


def whole_models(folder: Path, kind: str, judged_by: str = "reward") -> tuple:
    policy, reference = load_policy(folder / kind), load_policy(folder / kind).requires_grad_(False)
    return policy, reference, load_scalar(folder / judged_by), load_scalar(folder / judged_by).requires_grad_(False)


def curve_config(sizes: Sizes, precision: str, seed: int) -> PpoConfig:
    return replace(
        ppo_config(sizes, precision),
        batch=sizes.curve_episodes,
        minibatch=sizes.curve_episodes // 8,
        max_new_tokens=sizes.curve_answer,
        lr=curve.LR,
        value_lr=curve.LR,
        max_grad_norm=1e9,  # the peer cuts none
        seed=seed,
    )


def iterations(turns: Turns, folder: Path, kind: str, models: tuple, prompts: list, config: PpoConfig) -> None:
    chat = Chat(load_tokenizer(folder / kind))
    policy, reference, value, judge = models
    optimizers = Optimizers(policy, lr=config.lr), Optimizers(value, lr=config.value_lr)
    turns.count(*(model.base_model for model in (policy, reference, value, judge)))
    turns.ready()
    iteration = 0
    while True:
        marks = [turns.clock()]
        episodes = ppo.act(policy, prompts, chat, config, iteration)
        marks.append(turns.clock())
        rollout = ppo.assess(policy, reference, value, judge, episodes, chat.pad, chat.eos, config, iteration)
        marks.append(turns.clock())
        learned = ppo.learn(policy, value, *optimizers, None, rollout, None, chat.pad, config, iteration)
        marks.append(turns.clock())
        metrics = ppo.describe(rollout, learned, chat, config)
        phases = dict(zip(("act", "assess", "learn"), (end - start for start, end in pairwise(marks))))
        facts = {"score": metrics["reward_model_score"], "answer_tokens": metrics["answer_tokens"]}
        share = curve.share_good(episode.answer_tokens for episode in episodes)
        turns.done(work=len(episodes), **facts, share=share, gap=metrics["logprob_gap"], phases=phases)
        iteration += 1


def timed(turns: Turns, folder: Path, precision: str, kind: str, models: tuple) -> None:
    config = ppo_config(read_sizes(folder), precision)
    iterations(turns, folder, kind, models, read_tokens(folder)["prompts"], config)


def run_ppo_full(turns: Turns, folder: Path, precision: str) -> None:
    timed(turns, folder, precision, "full", whole_models(folder, "full"))


def run_ppo_ragged(turns: Turns, folder: Path, precision: str) -> None:
    timed(turns, folder, precision, "ragged", whole_models(folder, "ragged"))


def learn_planted(turns: Turns, folder: Path, precision: str, task: str) -> None:
    """PPO against the planted reward model, for its reward curve."""
    prompts = json.loads((folder / task / "prompts.json").read_text())
    config = curve_config(read_sizes(folder), precision, curve.TASKS[task])
    iterations(turns, folder, task, whole_models(folder, task, "planted"), prompts, config)


def run_ppo_lora(turns: Turns, folder: Path, precision: str) -> None:
    """All four roles over one base of 24M parameters, with all that saves memory."""
    models = share_base(folder / "medium", folder / "reward-lora", LORA, seed=0)
    for trained in (models[0], models[2]):  # policy and value, as with `gradient_checkpointing`
        checkpoint_layers(trained)
    timed(turns, folder, precision, "medium", models)


def write_lora_reward(folder: Path) -> None:
    """A reward model for `run_ppo_lora`: an adapter over the medium model, as `reward --lora-rank` leaves it."""
    base = folder / "medium"
    model = adapt(scalar_from_policy(base, seed=0), LORA, seed=0)
    card = ModelCard(name="reward-lora", stage="reward", parents={"model": lineage(base)}, parameters=0, seed=0)
    adapter = take_adapter(model, LORA, str(base))
    save_model(folder / "reward-lora", model, load_tokenizer(base), card, adapter, merged=False)


def run_generate(turns: Turns, folder: Path, precision: str) -> None:
    """Four answers to each prompt, a batch of rows at a time."""
    sizes, prompts = read_sizes(folder), read_tokens(folder)["prompts"]
    chat, model = Chat(load_tokenizer(folder / "ragged")), load_policy(folder / "ragged")
    turns.count(model.base_model)
    turns.ready()
    seed = 0
    while True:
        sampling = Sampling(temperature=0.7, max_new_tokens=sizes.answer, seed=seed)
        with autocast(precision, model.device):
            answers = generate(
                model,
                prompts[: sizes.prompts],
                sampling,
                stop=frozenset([chat.eos]),
                pad=chat.pad,
                k=4,
                batch=sizes.rows,
            )
        lengths = [len(episode.answer_tokens) for group in answers for episode in group]
        turns.done(work=sum(lengths), answer_tokens=sum(lengths) / len(lengths))
        seed += 1


def decode(turns: Turns, folder: Path, precision: str, rows: int) -> None:
    """One more token for each of `rows` rows, without the prefill, and the bytes that must be read for it: all weights
    but the table of positions once a step, and the columns of keys and values that each row's tokens have written."""
    sizes, prompts = read_sizes(folder), read_tokens(folder)["prompts"][:rows]
    model = load_policy(folder / "medium")
    number = 2 if precision == "bf16" else 4
    weights = number * (model.num_parameters() - model.transformer.wpe.weight.numel())
    column = number * 2 * model.config.n_layer * model.config.n_embd
    turns.count(model.base_model)
    turns.ready()
    seed = 0
    while True:
        sampling = Sampling(temperature=0.7, max_new_tokens=sizes.answer, seed=seed)
        batch = [Row(prompt, sampling, place, frozenset()) for place, prompt in enumerate(prompts)]
        read = 0
        with autocast(precision, model.device):
            running = RunningBatch(model, PAD, rows, max(map(len, prompts)) + sizes.answer + 1)
            running.join(batch)
            start = turns.clock()
            for _ in range(sizes.answer - 1):
                running.step()
                read += weights + column * sum(len(row.prompt) + len(row.tokens) for row in batch)
            seconds = turns.clock() - start
        running.cache.layers.clear()  # as in `generate`
        turns.done(seconds=seconds, work=rows * (sizes.answer - 1), bytes=read, weights=weights)
        seed += 1


def run_decode_one(turns: Turns, folder: Path, precision: str) -> None:
    decode(turns, folder, precision, 1)


def run_decode_many(turns: Turns, folder: Path, precision: str) -> None:
    decode(turns, folder, precision, read_sizes(folder).rows)


def run_memory(turns: Turns, folder: Path, precision: str) -> None:
    """The machine's memory: bytes/s of a copy (read and write counted) or of a sum, whichever is faster, over arrays
    of 512 MiB."""
    toy = read_sizes(folder).small.width < 64
    source = torch.ones(2**16 if toy else 2**27)
    goal = torch.empty_like(source)
    ways = [(lambda: goal.copy_(source), 2 * 4 * source.numel()), (source.sum, 4 * source.numel())]
    turns.ready()
    while True:
        best = 0.0
        for way, work in ways:
            for _ in range(3):
                start = turns.clock()
                way()
                best = max(best, work / (turns.clock() - start))
        turns.done(work=best)


def run_matmul(turns: Turns, folder: Path, precision: str) -> None:
    """The machine's matrix product: FLOP/s of the best of several shapes."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    toy = read_sizes(folder).small.width < 64
    shapes = [(64, 64, 64)] if toy else [(2048, 2048, 2048), (4096, 1024, 1024), (1536, 512, 2048)]
    operands = [(torch.randn(m, k, dtype=dtype), torch.randn(k, n, dtype=dtype), 2.0 * m * k * n) for m, k, n in shapes]
    turns.ready()
    while True:
        best = 0.0
        for left, right, work in operands:
            for _ in range(6):
                start = turns.clock()
                left @ right
                best = max(best, work / (turns.clock() - start))
        turns.done(work=best)


def endless(steps: list):
    while True:
        yield from steps


TASKS = {name.removeprefix("run_"): task for name, task in list(globals().items()) if name.startswith("run_")}
TASKS |= {task: partial(learn_planted, task=task) for task in curve.TASKS}

if __name__ == "__main__":
    with suppress(Finished):
        TASKS[sys.argv[1]](Turns(), Path(sys.argv[2]), sys.argv[3])
