"""Does what is faster learn as well? PPO beside TRL's, from the same models, prompts and settings, over three seeds.

    python benchmarks/quality.py [--iterations 12] [--output benchmarks]

A tiny model with random weights learns to please a reward model with random weights, which both sides read from the
same files. Ours in fp32 and bf16, TRL's PPO in fp32. Writes OUTPUT/quality.md and OUTPUT/quality.json: the mean score
of each iteration's answers. (Losses of SFT and reward model are compared in `bench.py` itself, on the first batch.)
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

from machine import hardware
from material import SIZES, Shape, write_material

HERE = Path(__file__).resolve().parent
SEEDS = (1, 2, 3)
LAST = 4  # iterations whose mean score is compared
SIZES_HERE = replace(
    SIZES["toy"], small=Shape(2, 64, 2, 256, 128), medium=Shape(1, 32, 2, 128, 64), episodes=64, answer=16
)
SIDES = {
    "ours, fp32": ("ours.py", Path(sys.executable), "fp32"),
    "ours, bf16": ("ours.py", Path(sys.executable), "bf16"),
    "TRL, fp32": ("peer.py", HERE.parent / ".venv-trl-ppo" / "bin" / "python", "fp32"),
}


def curve(folder: Path, side: str, seed: int, iterations: int) -> list[float]:
    """Mean score of the answers of each iteration."""
    script, python, precision = SIDES[side]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "TRL_EXPERIMENTAL_SILENCE": "1",
        "BENCH_LR": "1e-3",
        "BENCH_SEED": str(seed),
    }
    done = subprocess.run(
        [str(python), str(HERE / script), "ppo_full", str(folder), precision],
        input="step\n" * (iterations + 1),
        capture_output=True,
        text=True,
        env=environment,
    )
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    found = [report["score"] for report in reports if "score" in report]
    if len(found) < iterations:
        raise SystemExit(f"{side}: {done.stderr[-3000:]}")
    return found[:iterations]


def page(found: dict) -> str:
    lines = [
        f"# Reward curves of PPO: {found['hardware']}",
        "",
        "Written by `benchmarks/quality.py`: mean score of each iteration's 64 answers; seeds 1, 2 and 3, mean and",
        "standard deviation over them. Same models, prompts and settings; learning rate 1e-3, KL 0.05, one epoch of 8",
        "optimizer steps.",
        "",
        "| iteration | " + " | ".join(found["curves"]) + " |",
        "|---" * (1 + len(found["curves"])) + "|",
    ]
    for at in range(found["iterations"]):
        cells = [[curve[at] for curve in curves] for curves in found["curves"].values()]
        lines.append(f"| {at + 1} | " + " | ".join(f"{mean(c):.3f} ± {stdev(c):.3f}" for c in cells) + " |")
    cells = [[mean(curve[-LAST:]) for curve in curves] for curves in found["curves"].values()]
    lines.append(f"| last {LAST} | " + " | ".join(f"{mean(c):.3f} ± {stdev(c):.3f}" for c in cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=12)
    parser.add_argument("--output", type=Path, default=HERE)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="preceptor-quality-") as place:
        write_material(Path(place), SIZES_HERE)
        curves = {
            side: [curve(Path(place), side, seed, options.iterations) for seed in SEEDS]
            for side, (_, python, _) in SIDES.items()
            if python.exists()
        }
    found = {"hardware": hardware(), "iterations": options.iterations, "seeds": SEEDS, "curves": curves}
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "quality.json").write_text(json.dumps(found, indent=2) + "\n")
    (options.output / "quality.md").write_text(page(found))
    print(page(found))


if __name__ == "__main__":
    main()
