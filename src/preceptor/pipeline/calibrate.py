"""`preceptor plan --calibrate`: about a minute of short real steps, from which plans for this machine learn its speed.

Three small models at different lengths and batches, every stage, both precisions (`trials.py`); how their seconds and
bytes follow from a model's shape is fitted in planning/machine.py. Nothing of the models that will be planned is run.
"""

import os
import platform
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from preceptor.errors import UserError
from preceptor.pipeline.trials import Trial, of_config, run_trials, seconds_now
from preceptor.planning.machine import (
    FEW,
    MANY,
    Machine,
    Nominal,
    Rates,
    default_path,
    fit_memory,
    fit_times,
    part_counts,
)
from preceptor.planning.memory import LAYOUTS, Model, Phase, Setting, peak
from preceptor.planning.plan import models_of, phases_of
from preceptor.planning.shape import measure_shape
from preceptor.planning.work import STAGES, own_work

PRECISIONS = ("fp32", "bf16")
WIDTHS = (32, 64, 128, 256, 512, 1024, 2048)  # of the matrix products that are timed
# width, layers, heads, MLP, vocabulary, then what differs in the work
MODELS = {
    "narrow": (64, 2, 2, 168, 5000),
    "wide": (320, 6, 5, 856, 6000),
    "gpt2": (192, 3, 3, 768, 3000),
}
WORKS = {
    "narrow": {"sft_tokens": 256, "reward_tokens": 224, "prompt_tokens": 64, "answer_tokens": 64, "text_tokens": 224},
    "wide": {"sft_tokens": 96, "reward_tokens": 144, "prompt_tokens": 48, "answer_tokens": 16, "text_tokens": 64},
    "gpt2": {"sft_tokens": 128, "reward_tokens": 128, "prompt_tokens": 80, "answer_tokens": 32, "text_tokens": 96},
}
ROWS_OF = {
    "narrow": {"sft_batch": 8, "sft_micro_batch": 2, "episodes": 32, "minibatch": 16, "ppo_micro_batch": 8},
    "wide": {"sft_batch": 8, "sft_micro_batch": 8, "episodes": 8, "minibatch": 8, "ppo_micro_batch": 4},
    "gpt2": {"sft_batch": 8, "sft_micro_batch": 4, "episodes": 16, "minibatch": 8, "ppo_micro_batch": 8},
}
SHARED = {"answers": 4, "reward_batch": 4, "reward_micro_batch": 2, "text_rows": 4, "text_micro_batch": 4}


def trials() -> list[Trial]:
    """Every model, stage and precision of the calibration."""
    found = []
    for name in MODELS:
        for stage in STAGES:
            for precision in PRECISIONS:
                sizes = {**SHARED, **WORKS[name], **ROWS_OF[name], "precision": precision}
                found.append(Trial(config=of_config(_config(name)), stage=stage, work=replace(own_work(512), **sizes)))
    return found


def _config(name: str):
    from transformers import GPT2Config, LlamaConfig

    width, layers, heads, mlp, vocabulary = MODELS[name]
    if name == "gpt2":
        return GPT2Config(
            n_embd=width,
            n_layer=layers,
            n_head=heads,
            vocab_size=vocabulary,
            n_positions=512,
            attn_pdrop=0.0,
            bos_token_id=None,
            eos_token_id=None,
        )
    return LlamaConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=mlp,
        vocab_size=vocabulary,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )


def calibrate(told: Callable[[int, int], None] | None = None) -> Machine:
    """Measure this machine; `told` hears of every trial that is done, and of how many there are."""
    import torch

    from preceptor.models.load import best_device

    planned, device = trials(), best_device()
    found = run_trials(planned, told=told and (lambda done: told(done, len(planned))))
    rates = {precision: measure_rates(device, precision) for precision in PRECISIONS}
    bandwidth = measure_bandwidth(device)
    models = {id(trial): models_of_trial(trial) for trial in planned}
    times, misses = {}, {}
    for precision in PRECISIONS:
        nominal = Nominal(rates[precision], bandwidth)
        observed = []
        for trial, took in zip(planned, found):
            if trial.work.precision == precision:
                counts = part_counts(trial.stage, models[id(trial)], trial.work, nominal)
                observed += [(counts[part], seconds) for part, seconds in took.seconds.items()]
        times[precision], misses[precision] = fit_times(observed)
    first, held = fit_memory(
        [(kind_of(t), predicted_peak(t, models[id(t)]).total, f.peak - f.base) for t, f in zip(planned, found)]
    )
    return Machine(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        hardware=hardware(device),
        device=device.type,
        threads=torch.get_num_threads() if device.type == "cpu" else 1,
        memory=float(device_memory(device)),
        bandwidth=bandwidth,
        rates=rates,
        times=times,
        base=float(sum(f.base for f in found) / len(found)),
        first=first,
        held=held,
        misses=misses,
    )


def kind_of(trial: Trial) -> str:
    return f"{trial.stage} {trial.work.precision}"


def models_of_trial(trial: Trial) -> dict[str, Model]:
    from transformers import AutoConfig

    config = AutoConfig.for_model(**trial.config)
    shape = measure_shape(config, "trial")
    return models_of(config, shape, trial.work, config, shape)


def predicted_peak(trial: Trial, models: dict[str, Model]) -> Phase:
    """The high point of torch's allocations in a trial: one process, nothing sharded."""
    from preceptor.models.load import best_device

    work = trial.work
    setting = Setting(work, LAYOUTS[0], 1, device=best_device().type)
    micro = {"sft": work.sft_micro_batch, "reward": work.reward_micro_batch, "ppo": work.ppo_micro_batch}[trial.stage]
    return peak(phases_of(trial.stage, models, setting, micro, work.episodes))


def measure_rates(device, precision: str) -> Rates:
    """Matrix products of many widths, with few rows and with many; each the fastest of several."""
    import torch

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    rates = {}
    for rows in (FEW, MANY):
        rates[rows] = []
        for width in WIDTHS:
            x = torch.randn(rows, width, device=device, dtype=dtype)
            w = torch.randn(4 * width, width, device=device, dtype=dtype)
            seconds = fastest(lambda x=x, w=w: torch.nn.functional.linear(x, w), device)
            rates[rows].append(8.0 * rows * width * width / seconds)
    return Rates(list(WIDTHS), rates[FEW], rates[MANY])


def measure_bandwidth(device) -> float:
    """Bytes per second read and written by a copy that no cache holds."""
    import torch

    source = torch.ones(2**25, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / fastest(lambda: target.copy_(source), device)


def fastest(work: Callable[[], object], device) -> float:
    """Seconds of one call, the least of some rounds of about 10 ms."""
    work()
    started = seconds_now(device)
    work()
    calls = max(1, int(0.01 / max(seconds_now(device) - started, 1e-7)))
    rounds = []
    for _ in range(4):
        started = seconds_now(device)
        for _ in range(calls):
            work()
        rounds.append((seconds_now(device) - started) / calls)
    return min(rounds)


def hardware(device) -> str:
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with suppress(OSError), open("/proc/cpuinfo") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
        if names:
            return f"{names[0]}, {torch.get_num_threads()} of {os.cpu_count()} cores"
    return f"{platform.machine()}, {torch.get_num_threads()} of {os.cpu_count()} cores"


def device_memory(device) -> int:
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def measure_machine(where: str | None) -> tuple[Path, Machine]:
    """Calibrate, showing how far it is, and keep the outcome: in the file `where`, by default in the user's cache."""
    path = default_path() if where in (None, "here") else Path(str(where))
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("short steps on this machine")
        machine = calibrate(lambda done, planned: bar.update(task, completed=done, total=planned))
    try:
        machine.write(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; name another file with --machine FILE") from error
    return path, machine
