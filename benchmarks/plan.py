"""Memory that `preceptor plan` predicts beside what the trainer's own steps take, on the CPU.

    python benchmarks/plan.py              # every model and stage: a table of predicted / measured
    python benchmarks/plan.py small sft    # one of them

Measured twice, each in a process of its own: `allocated`, the highest sum of living torch allocations, from the events
of torch's memory profiler; `resident`, the rise of the process's high-water mark after imports (ru_maxrss), which also
has the allocator's gaps and the libraries' own buffers. Two optimizer steps are made, so that Adam's moments exist.
"""

import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

MODELS = ("tiny", "small", "gpt2", "medium")
STAGES = ("sft", "reward", "ppo")
# What the measured steps do: rows and lengths that a CPU walks through in seconds.
SIZES = {
    "demonstrations": 8,
    "sft_batch": 8,
    "sft_micro_batch": 4,
    "sft_tokens": 192,
    "answers": 4,
    "reward_batch": 4,
    "reward_micro_batch": 2,
    "reward_tokens": 160,
    "iterations": 2,
    "episodes": 16,
    "minibatch": 8,
    "ppo_micro_batch": 4,
    "prompt_tokens": 96,
    "answer_tokens": 32,
    "text_rows": 8,
    "text_micro_batch": 8,
    "text_tokens": 128,
}


def config_of(name: str):
    if name == "gpt2":
        from transformers import GPT2Config

        return GPT2Config(n_layer=4, n_embd=256, n_head=4, vocab_size=4096, n_positions=512, attn_pdrop=0.0)
    from preceptor.planning.shape import preset_config

    config = preset_config(name)
    config.vocab_size = 4096
    return config


def predict(name: str, stage: str):
    """(the high point's phase, bytes) of one process without sharding."""
    from preceptor.planning import memory
    from preceptor.planning.activations import measure_activations
    from preceptor.planning.shape import measure_shape
    from preceptor.planning.work import own_work

    config = config_of(name)
    shape = measure_shape(config, name)
    work = replace(own_work(shape.context), **SIZES)
    setting = memory.Setting(work, memory.LAYOUTS[0], 1)
    still = measure_activations(config, precision="fp32")
    dropped = measure_activations(config, precision="fp32", dropout=work.dropout)
    policy, scalar = memory.Model(shape, still, still), memory.Model(shape, still, still, scalar=True)
    if stage == "sft":
        phases = memory.sft_phases(memory.Model(shape, dropped, still), setting)
    elif stage == "reward":
        phases = memory.reward_phases(scalar, setting)
    else:
        phases = memory.ppo_phases(policy, scalar, scalar, setting)
    return memory.peak(phases)


def make_models(name: str, kinds: str):
    """Random models, `p` a policy and `s` a scalar model each, as the trainer loads them."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    torch.manual_seed(0)
    made = []
    for kind in kinds:
        config = config_of(name)
        for key in ("resid_pdrop", "embd_pdrop"):
            if hasattr(config, key):
                setattr(config, key, 0.2 if kind == "d" else 0.0)
        config.num_labels = 1
        maker = AutoModelForSequenceClassification if kind == "s" else AutoModelForCausalLM
        made.append(maker.from_config(config, attn_implementation="sdpa").eval())
    return made


def steps(name: str, stage: str) -> None:
    """Two optimizer steps of a stage, by the trainer's own functions, on random tokens."""
    import numpy as np

    from preceptor.config import PpoConfig, RewardConfig, SftConfig
    from preceptor.text.batches import Blocks
    from preceptor.training import ppo, reward, sft
    from preceptor.training.data import Example, RankedPrompt
    from preceptor.training.optim import Average, Optimizers

    rng = np.random.default_rng(0)

    def tokens(count: int) -> list[int]:
        return rng.integers(2, 4096, count).tolist()

    s = SimpleNamespace(**SIZES)
    if stage == "sft":
        (model,) = make_models(name, "d")
        optimizer = Optimizers(model.train(), lr=1e-5)
        config = SftConfig(micro_batch=s.sft_micro_batch)
        for _ in range(2):
            sft.learn(
                model, [Example(tokens(1), tokens(s.sft_tokens - 1)) for _ in range(s.sft_batch)], None, 1, config
            )
            optimizer.step(1.0, 1.0)
    elif stage == "reward":
        (model,) = make_models(name, "s")
        optimizer = Optimizers(model, lr=1e-5)
        config = RewardConfig(micro_batch=s.reward_micro_batch)
        pairs = [(i, j) for i in range(s.answers) for j in range(i + 1, s.answers)]
        for _ in range(2):
            batch = [
                RankedPrompt(tokens(8), [tokens(s.reward_tokens - 8) for _ in range(s.answers)], pairs, "labeler")
                for _ in range(s.reward_batch)
            ]
            reward.learn_rankings(model, batch, 1, config)
            optimizer.step(1.0, 1.0)
    else:
        policy, reference, value, judge = make_models(name, "ppss")
        for frozen in (reference, judge):
            frozen.requires_grad_(False)
        config = PpoConfig(
            batch=s.episodes,
            minibatch=s.minibatch,
            micro_batch=s.ppo_micro_batch,
            max_new_tokens=s.answer_tokens,
            ptx_coef=1.0,
            ptx_batch=s.text_rows,
            ptx_context=s.text_tokens,
        )
        optimizers = Optimizers(policy, lr=1e-5), Optimizers(value, lr=1e-5)
        average, text = Average(policy, 0.99), Blocks(np.array(tokens(20_000)), s.text_tokens)
        prompts, ends = [tokens(s.prompt_tokens) for _ in range(s.episodes)], SimpleNamespace(eos=0, pad=1)
        for iteration in range(2):
            episodes = ppo.act(policy, prompts, ends, config, iteration)
            rollout = ppo.assess(policy, reference, value, judge, episodes, 1, 0, config, iteration)
            ppo.learn(policy, value, *optimizers, average, rollout, text, 1, config, iteration)


def resident(name: str, stage: str) -> float:
    import torch  # noqa: F401 - imports come before the baseline

    from preceptor.training import ppo  # noqa: F401

    make_models("tiny", "ps")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    steps(name, stage)
    return 1024.0 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def allocated(name: str, stage: str) -> float:
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        steps(name, stage)
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = high = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        high = max(high, now)
    return float(high)


def measure(name: str, stage: str) -> dict[str, float | str]:
    """Predicted and measured bytes of one model and stage, each measurement in a process of its own."""
    peak = predict(name, stage)
    row: dict[str, float | str] = {"model": name, "stage": stage, "predicted": peak.total, "phase": peak.name}
    for way in ("allocated", "resident"):
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__, "--measure", way, name, stage]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{way} {name} {stage}: {done.stderr[-2000:]}")
        row[way] = float(done.stdout.splitlines()[-1])
    return row


def main(words: list[str]) -> None:
    if words[:1] == ["--measure"]:
        print({"allocated": allocated, "resident": resident}[words[1]](words[2], words[3]))
        return
    models = words[:1] or MODELS
    heads = ("predicted", "allocated", "ratio", "resident", "ratio")
    print(f"{'model':8}{'stage':8}" + "".join(f"{head:>12}" for head in heads) + "  MB; high point")
    for name in models:
        for stage in words[1:] or STAGES:
            started, row = time.monotonic(), measure(name, stage)
            values = [float(row[key]) for key in ("predicted", "allocated", "resident")]
            print(
                f"{name:8}{stage:8}{values[0] / 1e6:12.1f}{values[1] / 1e6:12.1f}{values[0] / values[1]:12.2f}"
                f"{values[2] / 1e6:12.1f}{values[0] / max(values[2], 1):12.2f}  {row['phase']}; "
                f"{time.monotonic() - started:.0f} s",
                flush=True,
            )
            if words[2:]:
                print(json.dumps(row))


if __name__ == "__main__":
    main(sys.argv[1:])
