"""Preceptor beside its peers: the same models, tokens and threads, a step of one after a step of the other.

    python benchmarks/bench.py [--sizes full|quick|toy] [--only sft,rm_k9] [--threads 1] [--clock wall|cpu]

Every contestant is a process of its own that waits for its turn, so that both meet the same noise of the machine. First
a rehearsal in fp32 and in bf16 finds each side's faster precision; then the two winners take turns, and a ratio is that
of the medians. Three contests are not of speed: PPO against a planted reward model, whose curves are compared
(`curve.py`). Writes OUTPUT/<hardware>-<date>.md and OUTPUT/results.json.

`--clock cpu` counts the seconds that a process worked instead of those that passed: on a machine that others keep busy
the wall clock says how often a process was let in. It needs one thread.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from statistics import median
from typing import BinaryIO

import curve
from machine import hardware, last_level_cache, load_average, slug
from material import SIZES, Sizes, write_material
from table import figures, page

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
ENVIRONMENTS = {
    "trl": ROOT / ".venv-trl" / "bin" / "python",
    "trl-ppo": ROOT / ".venv-trl-ppo" / "bin" / "python",
    "transformers": Path(sys.executable),  # our own
}
PRECISIONS = ("fp32", "bf16")
INHERITED = dict(os.environ)  # before our side sets a variable for itself: peers keep their own defaults


@dataclass(frozen=True, slots=True)
class Contest:
    """`peer`: the environment of the other side, or None against `machine`, what the machine itself can do; `ours`,
    `theirs`: the precisions of each side's rehearsal."""

    task: str
    peer: str | None
    rounds: str  # field of Sizes
    ours: tuple[str, ...] = PRECISIONS
    theirs: tuple[str, ...] = PRECISIONS
    machine: str = ""


CONTESTS = (
    Contest("sft", "trl", "sft_rounds"),
    Contest("rm_k9", "trl", "rm_rounds"),
    Contest("rm_k4", "trl", "rm_rounds"),
    Contest("ppo_full", "trl-ppo", "ppo_rounds"),
    Contest("ppo_ragged", "trl-ppo", "ppo_rounds"),
    Contest("ppo_lora", "trl-ppo", "lora_rounds"),
    Contest("generate", "transformers", "generate_rounds"),
    Contest("sft_medium", None, "medium_rounds", machine="matmul"),
    Contest("decode_one", None, "medium_rounds", machine="memory"),
    Contest("decode_many", None, "medium_rounds", machine="memory"),
    *(Contest(task, "trl-ppo", "curve_rounds", ("fp32",), ("fp32",)) for task in curve.TASKS),
)


@dataclass(frozen=True, slots=True)
class Setting:
    """Where and how every worker of a run works."""

    folder: Path
    threads: int
    clock: str
    log: BinaryIO


@dataclass(slots=True)
class Contestant:
    """A worker process: which side, which task, and what it has reported."""

    side: str
    precision: str
    process: subprocess.Popen
    reports: list[dict] = field(default_factory=list)
    ready: dict = field(default_factory=dict)

    def hear(self) -> dict:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.side} ({self.precision}) ended with status {self.process.wait()}")
        return json.loads(line)

    def step(self) -> dict:
        assert self.process.stdin is not None
        self.process.stdin.write(b"step\n")
        self.process.stdin.flush()
        report = self.hear()
        self.reports.append(report)
        return report

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)


def start(side: str, task: str, precision: str, python: Path, setting: Setting) -> Contestant:
    script = HERE / ("ours.py" if side in ("ours", "machine") else "peer.py")
    environment = INHERITED | {
        "OMP_NUM_THREADS": str(setting.threads),
        "MKL_NUM_THREADS": str(setting.threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "TRL_EXPERIMENTAL_SILENCE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "BENCH_CLOCK": setting.clock,
    }
    process = subprocess.Popen(
        [str(python), str(script), task, str(setting.folder), precision],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=setting.log,
        env=environment,
    )
    return Contestant(side, precision, process)


def hold(contest: Contest, sizes: Sizes, setting: Setting) -> dict:
    """One contest: rehearsal, then rounds in alternating order. Returns each side's reports."""
    lanes = {"ours": [(precision, Path(sys.executable)) for precision in contest.ours]}
    if contest.peer:
        lanes["peer"] = [(precision, ENVIRONMENTS[contest.peer]) for precision in contest.theirs]
    everyone: list[Contestant] = []
    try:
        for side, entries in lanes.items():
            everyone += [start(side, contest.task, p, python, setting) for p, python in entries]
        for contestant in everyone:
            contestant.ready = contestant.hear()
        for _ in range(2):  # the first step warms up, the second decides
            for contestant in everyone:
                contestant.step()
        best = {
            side: min((c for c in everyone if c.side == side), key=lambda c: c.reports[-1]["seconds"]) for side in lanes
        }
        others = [c for c in everyone if c is not best[c.side]]
        rehearsed = [
            {"side": c.side, "precision": c.precision, "seconds": c.reports[-1]["seconds"], "reports": c.reports[:2]}
            for c in everyone
        ]
        for contestant in others:
            contestant.end()
        turns = list(best.values())
        if contest.machine:
            machine = start("machine", contest.machine, best["ours"].precision, Path(sys.executable), setting)
            machine.ready = machine.hear()
            everyone.append(machine)
            turns.append(machine)
        first = {c.side: len(c.reports) for c in turns}
        for number in range(getattr(sizes, contest.rounds)):
            for contestant in turns if number % 2 == 0 else reversed(turns):
                contestant.step()
        return {
            "rehearsal": rehearsed,
            "sides": {
                c.side: {
                    "precision": c.precision,
                    "loaded_mib": c.ready["resident_mib"],
                    "warm": c.reports[: first[c.side]],
                    "reports": c.reports[first[c.side] :],
                }
                for c in turns
            },
        }
    finally:
        for contestant in everyone:
            if contestant.process.poll() is None:
                contestant.process.kill()
                contestant.process.wait()


def versions(python: Path) -> dict[str, str]:
    """Versions of what the environment has of the parties."""
    code = (
        "import json, platform; from importlib import metadata as m\n"
        "have = {d.metadata['Name'].lower(): d.version for d in m.distributions()}\n"
        "print(json.dumps({'python': platform.python_version()} | "
        "{n: have[n] for n in ('torch', 'transformers', 'trl', 'accelerate') if n in have}))"
    )
    return json.loads(subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True).stdout)


def why_not(contest: Contest, only: list[str], size_name: str) -> str | None:
    """Why a run leaves this contest out, if it does."""
    if contest.task not in only:
        return "not asked for in this run"
    if not getattr(SIZES[size_name], contest.rounds):
        return f"not part of --sizes {size_name}"
    if contest.peer and not ENVIRONMENTS[contest.peer].exists():
        return f"no environment of the peer {contest.peer}; run: make venv-trl"
    return None


def run(size_name: str, only: list[str], threads: int, output: Path, clock: str = "wall") -> dict:
    """All contests of `only`. Returns what results.json holds, and writes it and the page into `output`."""
    sizes, began = SIZES[size_name], time.perf_counter()
    found: dict[str, dict] = {}
    refused = {c.task: why_not(c, only, size_name) for c in CONTESTS}
    missing = {task: reason or "not reached" for task, reason in refused.items()}
    loads = [load_average()]
    about = {
        "hardware": hardware(),
        "last_level_cache": last_level_cache(),
        "date": date.today().isoformat(),
        "sizes": size_name,
        "threads": threads,
        "clock": clock,
        "versions": {name: versions(python) for name, python in ENVIRONMENTS.items() if python.exists()},
    }
    output.mkdir(parents=True, exist_ok=True)
    results: dict = {}
    with tempfile.TemporaryDirectory(prefix="preceptor-bench-") as place:
        folder = Path(place)
        write_material(folder, sizes)
        curve.write_curve(folder, sizes)
        if "ppo_lora" in only:
            from ours import write_lora_reward

            write_lora_reward(folder)
        with open(folder / "log", "w+b") as log:
            setting = Setting(folder, threads, clock, log)
            for contest in (contest for contest in CONTESTS if not refused[contest.task]):
                try:
                    found[contest.task] = hold(contest, sizes, setting)
                except RuntimeError as error:
                    log.seek(0)
                    raise SystemExit(
                        f"{contest.task}: {error}\n{log.read().decode(errors='replace')[-3000:]}"
                    ) from error
                del missing[contest.task]
                loads.append(load_average())
                about["seconds"] = time.perf_counter() - began
                about["load_average"] = {"lowest": min(loads), "median": median(loads), "highest": max(loads)}
                # After each contest, so that a run that is ended early leaves what it found.
                results = figures(found, missing) | {"about": about}
                (output / "results.json").write_text(json.dumps(results, indent=2) + "\n")
                name = f"{slug(about['hardware'])}-{about['date']}.md"
                (output / name).write_text(page(results, sizes))
                print(f"{contest.task}: {about['seconds']:.0f} s so far", file=sys.stderr)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", choices=sorted(SIZES), default="full")
    parser.add_argument("--only", default=",".join(contest.task for contest in CONTESTS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--output", type=Path, default=HERE)
    options = parser.parse_args()
    if options.clock == "cpu" and options.threads > 1:
        parser.error("--clock cpu adds up the seconds of all threads; use it with --threads 1")
    results = run(options.sizes, options.only.split(","), options.threads, options.output, options.clock)
    if not results:
        raise SystemExit(
            "nothing was measured: no environment of the peers (run: make venv-trl), or not part of "
            f"--sizes {options.sizes}"
        )
    print(page(results, SIZES[options.sizes]))


if __name__ == "__main__":
    main()
