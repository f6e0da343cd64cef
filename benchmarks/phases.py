"""Where the time of one PPO step goes: seconds of its phases, and the operations that take most of each.

    python benchmarks/phases.py [--sizes full|quick|toy] [--precision bf16|fp32]

Prints the table of docs/performance.md: the small model and answers of full length of the benchmark, one thread, a step
after one that warmed up. Seconds are those that the process worked; the profiler itself adds a little to each.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch
from material import SIZES, read_tokens, write_material
from ours import ppo_config, whole_models
from torch.profiler import ProfilerActivity, profile

from preceptor.models.load import load_tokenizer
from preceptor.text.chat import Chat
from preceptor.training import ppo
from preceptor.training.optim import Optimizers

SHOWN = 6  # operations of each phase


def step(folder: Path, sizes_name: str, precision: str) -> list[tuple[str, float, list[tuple[str, float]]]]:
    """(phase, seconds, its operations with their share of the phase's time) of the second PPO step."""
    config = ppo_config(SIZES[sizes_name], precision)
    chat = Chat(load_tokenizer(folder / "full"))
    policy, reference, value, judge = whole_models(folder, "full")
    optimizers = Optimizers(policy, lr=config.lr), Optimizers(value, lr=config.value_lr)
    prompts = read_tokens(folder)["prompts"]
    found: list[tuple[str, float, list[tuple[str, float]]]] = []

    def timed(name: str, work):
        with profile(activities=[ProfilerActivity.CPU]) as recorded:
            start = time.process_time()
            result = work()
            seconds = time.process_time() - start
        rows = sorted(recorded.key_averages(), key=lambda row: -row.self_cpu_time_total)
        total = sum(row.self_cpu_time_total for row in rows)
        found.append((name, seconds, [(row.key, row.self_cpu_time_total / total) for row in rows[:SHOWN]]))
        return result

    for iteration in range(2):
        found.clear()
        episodes = timed("act", lambda number=iteration: ppo.act(policy, prompts, chat, config, number))
        rollout = timed(
            "assess",
            lambda drawn=episodes, number=iteration: ppo.assess(
                policy, reference, value, judge, drawn, chat.pad, chat.eos, config, number
            ),
        )
        timed(
            "learn",
            lambda made=rollout, number=iteration: ppo.learn(
                policy, value, *optimizers, None, made, None, chat.pad, config, number
            ),
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", choices=sorted(SIZES), default="full")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="preceptor-profile-") as place:
        write_material(Path(place), SIZES[options.sizes])
        found = step(Path(place), options.sizes, options.precision)
    whole = sum(seconds for _, seconds, _ in found)
    print("| phase | seconds | share | operations (share of the phase) |\n|---|---|---|---|")
    for name, seconds, rows in found:
        listed = ", ".join(f"`{operation.removeprefix('aten::')}` {share:.0%}" for operation, share in rows)
        print(f"| {name} | {seconds:.2f} | {seconds / whole:.0%} | {listed} |")


if __name__ == "__main__":
    main()
