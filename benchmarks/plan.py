"""What `preceptor plan` predicts beside what the trainer's own steps take, on this machine.

    python benchmarks/plan.py                 # calibrate, then every model, stage and precision, as a table
    python benchmarks/plan.py small gpt2      # some of them

Seconds of an optimizer step (of an iteration in PPO) and the high-water mark of the process are predicted from a fresh
calibration, as `preceptor plan --calibrate` makes it, which knows nothing of these models; they are measured in
trials of their own (pipeline/trials.py). In fp32 the sum of torch's living allocations is compared as well, from its
memory profiler.
"""

import os
import sys
from dataclasses import replace

os.environ.setdefault("OMP_NUM_THREADS", "1")

MODELS = ("small", "gpt2", "medium", "tiny")
STAGES = ("sft", "reward", "ppo")
PRECISIONS = ("fp32", "bf16")
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
    "text_micro_batch": 4,
    "text_tokens": 128,
}
HEAD = """\
| model | stage | | step, s: predicted | measured | ratio | process, MB: predicted | measured | ratio | torch, ratio |
|---|---|---|---|---|---|---|---|---|---|"""


def config_of(name: str):
    if name == "gpt2":
        from transformers import GPT2Config

        ids = {"bos_token_id": None, "eos_token_id": None}
        return GPT2Config(n_layer=4, n_embd=256, n_head=4, vocab_size=4096, n_positions=512, attn_pdrop=0.0, **ids)
    from preceptor.planning.shape import preset_config

    config = preset_config(name)
    config.vocab_size = 4096
    return config


def trial_of(name: str, stage: str, precision: str):
    from preceptor.pipeline.trials import Trial, of_config
    from preceptor.planning.work import own_work

    work = replace(own_work(512), **SIZES, precision=precision)
    return Trial(config=of_config(config_of(name)), stage=stage, work=work)


def allocations(name: str, stage: str, precision: str = "fp32") -> tuple[float, float]:
    """Highest sum of torch's living allocations: (predicted, measured), in bytes."""
    from preceptor.pipeline.calibrate import models_of_trial, predicted_peak
    from preceptor.pipeline.trials import run_trials

    trial = trial_of(name, stage, precision)
    (found,) = run_trials([trial], traced=True)
    return predicted_peak(trial, models_of_trial(trial)).total, float(found.allocated)


def row(machine, name: str, stage: str, precision: str) -> str:
    from preceptor.pipeline.calibrate import models_of_trial, predicted_peak
    from preceptor.pipeline.trials import run_trials
    from preceptor.planning.machine import Nominal, part_counts

    trial = trial_of(name, stage, precision)
    (found,) = run_trials([trial])
    models = models_of_trial(trial)
    parts = part_counts(stage, models, trial.work, Nominal(machine.rates[precision], machine.bandwidth))
    seconds = sum(machine.seconds(counts, precision) for counts in parts.values()), sum(found.seconds.values())
    peak = predicted_peak(trial, models)
    process = machine.resident(peak.total, stage, precision) / 1e6, found.peak / 1e6
    ratio = ""
    if precision == "fp32":
        predicted, living = allocations(name, stage)
        ratio = f"{predicted / living:.2f}"
    return (
        f"| {name} | {stage} | {precision} | {seconds[0]:.3f} | {seconds[1]:.3f} | {seconds[0] / seconds[1]:.2f} "
        f"| {process[0]:,.0f} | {process[1]:,.0f} | {process[0] / process[1]:.2f} | {ratio} |"
    )


def main(words: list[str]) -> None:
    import transformers

    from preceptor.pipeline.calibrate import calibrate

    transformers.logging.set_verbosity_error()
    machine = calibrate()
    print(machine.line(), flush=True)
    print(f"{machine.base / 1e6:.0f} MB before a model, {machine.first / 1e6:.0f} more with the first step")
    print("held per byte that torch allocates:", ", ".join(f"{kind} {held:.2f}" for kind, held in machine.held.items()))
    for precision, times in machine.times.items():
        print(precision, ", ".join(f"{cost} {value:.2f}" for cost, value in times.items()))
    print(f"\n{HEAD}")
    for name in words or MODELS:
        for stage in STAGES:
            for precision in PRECISIONS:
                print(row(machine, name, stage, precision), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
