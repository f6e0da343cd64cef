"""Short real steps of a stage: the trainer's own functions on a random model and random tokens, timed and weighed.

`preceptor plan --calibrate` learns this machine's speed from them, `benchmarks/plan.py` holds predictions to them.
Each trial has a process of its own, forked from one that has imported everything: what it takes beyond that is its own.
"""

import multiprocessing
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from preceptor.planning.work import Work

PRELOAD = ["preceptor.training.ppo", "preceptor.pipeline.trials", "torch.optim.adamw", "transformers.models.llama"]
LEAST = 2  # steps, so that Adam's moments exist
ENOUGH = 1.0  # seconds of steps after which no more are made


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """Steps of `stage` on a random model of this config, which `work` describes, in the precision of `work`."""

    config: dict[str, Any]  # of transformers, with its model_type
    stage: str
    work: Work


@dataclass(frozen=True, slots=True)
class Found:
    seconds: dict[str, float]  # of a part of a step -> the fastest of those made
    base: int  # bytes of the process before the model is made; 0 on a GPU
    peak: int  # bytes of the process at its high point; on a GPU, that torch has reserved there
    allocated: int = 0  # highest sum of living torch allocations, where it was asked for


def run_trials(trials: Sequence[Trial], *, traced: bool = False, told: Callable[[int], None] | None = None):
    """What each trial took. `traced`: the sum of torch's allocations too, which makes the times useless."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    found = []
    for number, trial in enumerate(trials):
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(there, trial, traced))
        process.start()
        there.close()
        try:
            found.append(Found(**here.recv()))
        except EOFError:
            process.join()
            raise RuntimeError(f"a trial of {trial.stage} ended with exit code {process.exitcode}") from None
        process.join()
        if told:
            told(number + 1)
    return found


def _work(pipe, trial: Trial, traced: bool) -> None:
    import os

    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    gpu = torch.cuda.is_available()
    base = 0 if gpu else _resident()
    allocated = 0
    if traced:
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            seconds = steps(trial, LEAST)
        now = 0
        events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
        for event in sorted(events, key=lambda event: event.start_ns()):
            now += event.nbytes()
            allocated = max(allocated, now)
    else:
        seconds = steps(trial)
    peak = torch.cuda.max_memory_reserved() if gpu else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pipe.send({"seconds": seconds, "base": base, "peak": peak, "allocated": allocated})


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def seconds_now(device) -> float:
    """A clock. With one thread the processor's own time, which the machine's other work does not change."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    return time.process_time() if alone else time.perf_counter()


def make_models(trial: Trial, kinds: str) -> list:
    """Random models as the trainer loads them: `p` a policy, `d` one with dropout, `s` a scalar model each."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    from preceptor.models.attention import install
    from preceptor.models.load import best_device

    torch.manual_seed(0)
    made = []
    for kind in kinds:
        config = AutoConfig.for_model(**trial.config)
        for key in ("resid_pdrop", "embd_pdrop", "hidden_dropout"):
            if hasattr(config, key):
                setattr(config, key, trial.work.dropout if kind == "d" else 0.0)
        for key in ("attention_dropout", "attn_pdrop"):
            if getattr(config, key, None) is not None:
                setattr(config, key, 0.0)
        config.num_labels = 1
        maker = AutoModelForSequenceClassification if kind == "s" else AutoModelForCausalLM
        model = maker.from_config(config, attn_implementation="sdpa").to(best_device()).eval()
        install(model)
        made.append(model)
    return made


def steps(trial: Trial, most: int | None = None) -> dict[str, float]:
    """Optimizer steps (in PPO: iterations) of a stage by the trainer's own functions; the seconds of a step's parts.

    With `most` that many; otherwise until they have lasted long enough to be measured. The first is not counted."""
    make = {"sft": _sft, "reward": _reward, "ppo": _ppo}[trial.stage](trial)
    made: list[dict[str, float]] = [make(0)]
    while len(made) < (most or LEAST) or (most is None and sum(sum(one.values()) for one in made[1:]) < ENOUGH):
        made.append(make(len(made)))
    return {name: min(one[name] for one in made[1:]) for name in made[0]}


def _tokens(trial: Trial):
    import numpy as np

    rng = np.random.default_rng(0)
    vocabulary = trial.config["vocab_size"]
    return lambda count: rng.integers(2, vocabulary, count).tolist()


def _sft(trial: Trial) -> Callable[[int], dict[str, float]]:
    from preceptor.config import SftConfig
    from preceptor.training import sft
    from preceptor.training.data import Example
    from preceptor.training.optim import Optimizers

    work, tokens = trial.work, _tokens(trial)
    (model,) = make_models(trial, "d")
    optimizer = Optimizers(model.train(), lr=1e-5)
    config = SftConfig(micro_batch=work.sft_micro_batch, precision=work.precision)

    def step(_number: int) -> dict[str, float]:
        batch = [Example(tokens(1), tokens(work.sft_tokens - 1)) for _ in range(work.sft_batch)]
        started = seconds_now(model.device)
        sft.learn(model, batch, None, 1, config)
        optimizer.step(1.0, 1.0)
        return {"step": seconds_now(model.device) - started}

    return step


def _reward(trial: Trial) -> Callable[[int], dict[str, float]]:
    from preceptor.config import RewardConfig
    from preceptor.training import reward
    from preceptor.training.data import RankedPrompt
    from preceptor.training.optim import Optimizers

    work, tokens = trial.work, _tokens(trial)
    (model,) = make_models(trial, "s")
    optimizer = Optimizers(model, lr=1e-5)
    config = RewardConfig(micro_batch=work.reward_micro_batch, precision=work.precision)
    pairs = [(i, j) for i in range(work.answers) for j in range(i + 1, work.answers)]

    def step(_number: int) -> dict[str, float]:
        batch = [
            RankedPrompt(tokens(8), [tokens(work.reward_tokens - 8) for _ in range(work.answers)], pairs, "labeler")
            for _ in range(work.reward_batch)
        ]
        started = seconds_now(model.device)
        reward.learn_rankings(model, batch, 1, config)
        optimizer.step(1.0, 1.0)
        return {"step": seconds_now(model.device) - started}

    return step


def _ppo(trial: Trial) -> Callable[[int], dict[str, float]]:
    import numpy as np

    from preceptor.config import PpoConfig
    from preceptor.text.batches import Blocks
    from preceptor.training import ppo
    from preceptor.training.optim import Average, Optimizers

    work, tokens = trial.work, _tokens(trial)
    policy, reference, value, judge = make_models(trial, "ppss")
    for frozen in (reference, judge):
        frozen.requires_grad_(False)
    config = PpoConfig(
        batch=work.episodes,
        minibatch=work.minibatch,
        micro_batch=work.ppo_micro_batch,
        max_new_tokens=work.answer_tokens,
        inner_epochs=work.inner_epochs,
        ptx_coef=1.0 if work.text_rows else 0.0,
        ptx_batch=work.text_rows or 1,
        ptx_context=work.text_tokens,
        precision=work.precision,
    )
    optimizers = Optimizers(policy, lr=1e-5), Optimizers(value, lr=1e-5)
    average = Average(policy, 0.99) if work.average else None
    text = Blocks(np.array(tokens(20_000)), work.text_tokens) if work.text_rows else None
    prompts, ends = [tokens(work.prompt_tokens) for _ in range(work.episodes)], SimpleNamespace(eos=0, pad=1)

    def step(number: int) -> dict[str, float]:
        clock = [seconds_now(policy.device)]
        episodes = ppo.act(policy, prompts, ends, config, number)
        clock.append(seconds_now(policy.device))
        rollout = ppo.assess(policy, reference, value, judge, episodes, 1, 0, config, number)
        clock.append(seconds_now(policy.device))
        ppo.learn(policy, value, *optimizers, average, rollout, text, 1, config, number)
        clock.append(seconds_now(policy.device))
        return {name: end - start for name, start, end in zip(("act", "assess", "learn"), clock, clock[1:])}

    return step


def of_config(config) -> dict[str, Any]:
    """A transformers config as plain values that `AutoConfig.for_model` takes back."""
    return config.to_diff_dict() | {"model_type": config.model_type, "vocab_size": config.vocab_size}
