"""How the cost of a PPO iteration grows: with the number of its episodes, and with the tokens of an episode.

    python benchmarks/growth.py [--sizes full|toy] [--output benchmarks]

Every point is a process of its own: iterations that warm up, then some that are measured, one where it has many
episodes and several where it has few, so that each mean is of as many. Small model of the benchmark, bf16, one thread,
seconds that the process worked. Writes OUTPUT/growth.md and OUTPUT/growth.json.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from machine import hardware, load_average
from material import SIZES, read_sizes, read_tokens, write_material
from turns import memory

EPISODES = {"full": (64, 256, 1024, 2048), "toy": (8, 16)}
ANSWERS = {"full": (12, 24, 48, 96), "toy": (4, 8)}
FEW = {"full": (12, 64), "toy": (4, 8)}  # tokens of an answer, and episodes, while the other grows
SEEN = {"full": 512, "toy": 16}  # episodes at least that warm up, and that are measured


def measure(folder: Path, episodes: int, answer: int, seen: int) -> dict[str, float]:
    """Iterations of this many episodes, all answers of full length: milliseconds and tokens of an episode."""
    import torch
    from ours import ppo_config, whole_models

    from preceptor.models.load import load_tokenizer
    from preceptor.text.chat import Chat
    from preceptor.training import ppo
    from preceptor.training.optim import Optimizers

    torch.set_num_threads(1)
    sizes = replace(read_sizes(folder), episodes=episodes, answer=answer)
    chat = Chat(load_tokenizer(folder / "full"))
    policy, reference, value, judge = whole_models(folder, "full")
    optimizers = Optimizers(policy, lr=1e-6), Optimizers(value, lr=1e-6)
    prompts = read_tokens(folder)["prompts"]
    config = replace(ppo_config(sizes, "bf16"), batch=episodes, minibatch=min(64, episodes), micro_batch=8)
    rounds = max(1, seen // episodes)
    start = tokens = 0.0
    for iteration in range(2 * rounds):
        if iteration == rounds:
            start, tokens = time.process_time(), 0.0
        drawn = ppo.act(policy, prompts, chat, config, iteration)
        made = ppo.assess(policy, reference, value, judge, drawn, chat.pad, chat.eos, config, iteration)
        ppo.learn(policy, value, *optimizers, None, made, None, chat.pad, config, iteration)
        tokens += sum(len(episode.prompt_tokens) + len(episode.answer_tokens) for episode in drawn)
    measured = rounds * episodes
    seconds = time.process_time() - start
    return {
        "episodes": episodes,
        "answer": answer,
        "tokens": tokens / measured,
        "milliseconds": 1000 * seconds / measured,
        "peak_mib": memory()[1],
    }


def point(folder: Path, episodes: int, answer: int, seen: int) -> dict[str, float]:
    """`measure` in a process of its own."""
    command = [sys.executable, __file__, "--point", str(folder), str(episodes), str(answer), str(seen)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def page(found: dict) -> str:
    lines = [
        f"# Growth of PPO's cost: {found['hardware']}",
        "",
        f"Written by `benchmarks/growth.py`: means over {found['seen']} episodes or one iteration, after as many that",
        "warmed up, bf16, one thread, seconds that the process worked; load average "
        f"{found['load']:.1f} at the end. Tokens: of prompt and answer.",
    ]
    for name in ("episodes", "tokens"):
        lines += [
            "",
            "| episodes | tokens of one | ms per episode | ms per token | peak MiB |",
            "|---|---|---|---|---|",
        ]
        for p in found[name]:
            each = f"{p['milliseconds']:.1f} | {p['milliseconds'] / p['tokens']:.3f}"
            lines.append(f"| {p['episodes']:,} | {p['tokens']:.1f} | {each} | {p['peak_mib']:,.0f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", choices=sorted(EPISODES), default="full")
    parser.add_argument("--output", type=Path, default=Path(__file__).resolve().parent)
    parser.add_argument("--point", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.point:
        folder, *numbers = options.point
        print(json.dumps(measure(Path(folder), *map(int, numbers))))
        return
    (few_tokens, few_episodes), seen = FEW[options.sizes], SEEN[options.sizes]
    with tempfile.TemporaryDirectory(prefix="preceptor-growth-") as place:
        write_material(Path(place), SIZES[options.sizes])
        found: dict = {
            "episodes": [point(Path(place), count, few_tokens, seen) for count in EPISODES[options.sizes]],
            "tokens": [point(Path(place), few_episodes, answer, seen) for answer in ANSWERS[options.sizes]],
        }
    found |= {"hardware": hardware(), "load": load_average(), "seen": seen}
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "growth.json").write_text(json.dumps(found, indent=2) + "\n")
    (options.output / "growth.md").write_text(page(found))
    print(page(found))


if __name__ == "__main__":
    main()
