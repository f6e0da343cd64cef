"""SFT, reward model, PPO and decoding of a model of 1.3B parameters on one accelerator: how fast, how near its limits.

    python benchmarks/gpu.py                                  # the GPU, GPT shape of 1.3B, 256 + 256 tokens
    python benchmarks/gpu.py --device cpu --size toy          # does it run?

The setting is step 3 of DeepSpeed-Chat: a policy of 1.3B parameters, reward and value model of 350M, prompts and
answers of 256 tokens each, one PPO epoch. Weights and tokens are random and no answer ends early, so the figures speak
of speed and memory only. The steps are those of the stages themselves. Writes OUTPUT/<accelerator>-<date>.md and .json.

MFU: FLOP that the work needs (forward, backward twice that, no recomputation, causal attention) per second, over the
accelerator's published peak in that precision; where none is known, over the matrix product measured in the same run.
"""

import argparse
import gc
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from statistics import median

import numpy as np
import torch
import transformers
from machine import hardware, slug
from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel

from preceptor.config import PpoConfig, RewardConfig, SftConfig
from preceptor.models.load import load_policy, load_scalar
from preceptor.rollout.engine import generate
from preceptor.training import ppo, reward, sft
from preceptor.training.data import Example, RankedPrompt
from preceptor.training.optim import Optimizers
from preceptor.types import Sampling

EOS, PAD = 0, 1
QUERIES = 131_900  # prompts of the step-3 job of DeepSpeed-Chat
# Dense bf16 FLOP/s and bytes/s of the makers' data sheets.
PEAKS = {"H200": (989e12, 4.8e12), "H100": (989e12, 3.35e12), "A100": (312e12, 2.0e12), "L40S": (362e12, 0.86e12)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """The work of a run. Lengths are in tokens."""

    policy: tuple[int, int, int] = (24, 2048, 32)  # layers, width, heads
    judge: tuple[int, int, int] = (24, 1024, 16)
    vocabulary: int = 50272
    prompt: int = 256
    answer: int = 256
    demonstrations: int = 64  # per optimizer step
    rankings: int = 8  # per optimizer step, of four answers each
    episodes: int = 512  # per PPO iteration
    minibatch: int = 64
    micro_batch: int = 16  # sequences per pass of SFT and PPO; a quarter of it rankings
    rows: int = 256  # that decode together where decoding is measured alone
    rounds: int = 3


SIZES = {
    "1.3b": Size(),
    "toy": Size(
        policy=(2, 64, 2),
        judge=(1, 32, 2),
        vocabulary=512,
        prompt=12,
        answer=8,
        demonstrations=4,
        rankings=2,
        episodes=8,
        minibatch=4,
        micro_batch=4,
        rows=8,
        rounds=2,
    ),
}


class Accelerator:
    """The device, its clock and its memory."""

    def __init__(self, device: str):
        self.device = torch.device(device)
        self.cuda = self.device.type == "cuda"
        self.name = torch.cuda.get_device_name(self.device) if self.cuda else hardware()
        self.published = next((peak for key, peak in PEAKS.items() if self.cuda and key in self.name), None)

    def seconds(self, work: Callable[[], object]) -> float:
        self.wait()
        start = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - start

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def forget(self) -> None:
        """Free what earlier work left, and start the high-water mark anew (where the device can)."""
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak_gib(self) -> float:
        """Highest allocation since `forget`; on a CPU the highest resident memory of the process so far."""
        if self.cuda:
            return torch.cuda.max_memory_allocated(self.device) / 2**30
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

    def matmul(self, dtype: torch.dtype, n: int) -> float:
        """FLOP/s of an n x n matrix product."""
        left, right = (torch.randn(n, n, device=self.device).to(dtype) for _ in range(2))
        return 2 * n**3 / min(self.seconds(lambda: left @ right) for _ in range(10))

    def bandwidth(self, numbers: int) -> float:
        """Bytes/s of a copy, read and write counted."""
        source = torch.randn(numbers, device=self.device)
        goal = torch.empty_like(source)
        return 8 * numbers / min(self.seconds(lambda: goal.copy_(source)) for _ in range(10))


class Bench:
    """Models of one size, and the stages' steps on them."""

    def __init__(self, accelerator: Accelerator, size: Size, precision: str, attention: str, folder: Path):
        self.on, self.size, self.folder = accelerator, size, folder
        self.precision, self.attention = precision, attention
        self.draw = np.random.default_rng(0)
        for name, kind, shape in (
            ("policy", GPT2LMHeadModel, size.policy),
            ("judge", GPT2ForSequenceClassification, size.judge),
        ):
            torch.manual_seed(0)
            with self.on.device:
                model = kind(config_of(shape, size))
            model.save_pretrained(folder / name)
            del model
        self.on.forget()

    def tokens(self, count: int) -> list[int]:
        return self.draw.integers(2, self.size.vocabulary, count).tolist()

    def policy(self):
        return load_policy(self.folder / "policy", self.on.device, attention=self.attention)

    def judge(self):
        return load_scalar(self.folder / "judge", self.on.device, attention=self.attention)

    def rounds(self, step: Callable[[], object]) -> float:
        """Median seconds of a step, after one that warms up."""
        self.on.seconds(step)
        return median(self.on.seconds(step) for _ in range(self.size.rounds))

    # -- the work --------------------------------------------------------------------------------------------

    def sft(self) -> dict[str, float]:
        size = self.size
        model = self.policy().train()
        optimizers = Optimizers(model, lr=1e-5)
        config = SftConfig(precision=self.precision, micro_batch=size.micro_batch)
        batch = [Example(self.tokens(size.prompt), self.tokens(size.answer)) for _ in range(size.demonstrations)]

        def step() -> None:
            sft.learn(model, batch, None, PAD, config)
            optimizers.step(1.0, max_norm=1.0)

        seconds = self.rounds(step)
        length = size.prompt + size.answer
        flop = 3 * len(batch) * forward_flop(size.policy, length, size.answer, size.vocabulary)
        return {"tokens_per_second": len(batch) * length / seconds, "flop_per_second": flop / seconds}

    def reward(self) -> dict[str, float]:
        size = self.size
        model = self.judge()
        optimizers = Optimizers(model, lr=1e-5)
        config = RewardConfig(precision=self.precision, micro_batch=max(1, size.micro_batch // 4))
        pairs = [(i, j) for i in range(4) for j in range(i + 1, 4)]
        batch = [
            RankedPrompt(self.tokens(size.prompt), [self.tokens(size.answer) for _ in range(4)], pairs, "labeler")
            for _ in range(size.rankings)
        ]

        def step() -> None:
            reward.learn_rankings(model, batch, PAD, config)
            optimizers.step(1.0, max_norm=1.0)

        seconds = self.rounds(step)
        length = size.prompt + size.answer
        flop = 3 * 4 * len(batch) * forward_flop(size.judge, length)
        return {
            "comparisons_per_second": len(pairs) * len(batch) / seconds,
            "tokens_per_second": 4 * len(batch) * length / seconds,
            "flop_per_second": flop / seconds,
        }

    def ppo(self) -> dict[str, float]:
        size = self.size
        config = PpoConfig(
            batch=size.episodes,
            minibatch=size.minibatch,
            micro_batch=size.micro_batch,
            max_new_tokens=size.answer,
            warmup=0,
            ema=0.0,
            precision=self.precision,
        )
        policy, reference = self.policy(), self.policy().requires_grad_(False)
        value, judge = self.judge(), self.judge().requires_grad_(False)
        optimizers = Optimizers(policy, lr=1e-6), Optimizers(value, lr=1e-6)
        prompts = [self.tokens(size.prompt) for _ in range(size.episodes)]
        sampling = Sampling(temperature=1.0, max_new_tokens=size.answer)
        phases: dict[str, list[float]] = {"act": [], "assess": [], "learn": []}
        gap = 0.0

        def step() -> None:
            nonlocal gap
            marks = [self.mark()]
            # No token ends an answer: all have the full length.
            rows = generate(policy, prompts, sampling, stop=frozenset(), pad=PAD, batch=config.batch)
            episodes = [row[0] for row in rows]
            marks.append(self.mark())
            rollout = ppo.assess(policy, reference, value, judge, episodes, PAD, EOS, config)
            marks.append(self.mark())
            learned = ppo.learn(policy, value, *optimizers, None, rollout, None, PAD, config, 0)
            marks.append(self.mark())
            gap = learned["first_logprob_gap"]
            for name, start, end in zip(phases, marks, marks[1:]):
                phases[name].append(end - start)

        seconds = self.rounds(step)
        length = size.prompt + size.answer
        acts = forward_flop(size.policy, length, size.answer, size.vocabulary)
        judged = forward_flop(size.judge, length)
        flop = size.episodes * (acts * (1 + 1 + 3) + judged * (1 + 1 + 3))  # rollout, judge, forward and backward
        return {
            "episodes_per_second": size.episodes / seconds,
            "tokens_per_second": size.episodes * length / seconds,
            "flop_per_second": flop / seconds,
            "logprob_gap": gap,
            **{f"{name}_seconds": median(times[1:]) for name, times in phases.items()},
            "step_3_hours": QUERIES / size.episodes * seconds / 3600,
        }

    def decode(self) -> dict[str, float]:
        """One more token for every row, by the difference of a long and a short answer, without the prefill."""
        size = self.size
        model = self.policy()
        prompts = [self.tokens(size.prompt) for _ in range(size.rows)]

        def answers(tokens: int) -> float:
            sampling = Sampling(temperature=1.0, max_new_tokens=tokens)
            return self.rounds(lambda: generate(model, prompts, sampling, stop=frozenset(), pad=PAD, batch=size.rows))

        step = max(answers(size.answer) - answers(1), 1e-9) / (size.answer - 1)
        number = next(model.parameters()).element_size()
        layers, width, _ = size.policy
        weights = sum(p.numel() for p in model.parameters()) * number
        columns = size.prompt + size.answer / 2  # of the cache that a step reads, on average
        cache = 2 * layers * width * columns * size.rows * number
        return {
            "tokens_per_second": size.rows / step,
            "seconds_per_step": step,
            "bytes_per_second": (weights + cache) / step,
        }

    def mark(self) -> float:
        self.on.wait()
        return time.perf_counter()


def config_of(shape: tuple[int, int, int], size: Size) -> GPT2Config:
    layers, width, heads = shape
    return GPT2Config(
        vocab_size=size.vocabulary,
        n_layer=layers,
        n_embd=width,
        n_head=heads,
        n_positions=size.prompt + size.answer + 1,  # an answer that was cut off is scored with an end
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=EOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
        num_labels=1,
    )


def forward_flop(shape: tuple[int, int, int], length: int, logits: int = 0, vocabulary: int = 0) -> float:
    """FLOP of one row of `length` tokens through a GPT body (12 width^2 per layer and token, causal attention), and
    through the unembedding for `logits` of its tokens."""
    layers, width, _ = shape
    return (
        24 * layers * width**2 * length + 2 * layers * width * length * (length + 1) + 2 * width * vocabulary * logits
    )


def measure(device: str, size: Size, precision: str, attention: str, stages: list[str]) -> dict:
    """Everything that the page shows."""
    on = Accelerator(device)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    found: dict = {
        "about": {
            "accelerator": on.name,
            "date": date.today().isoformat(),
            "precision": precision,
            "attention": attention,
            "python": sys.version.split()[0],
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "size": asdict(size),
        },
        "machine": {
            "matmul_flop_per_second": on.matmul(dtype, 8192 if on.cuda else 512),
            "copy_bytes_per_second": on.bandwidth(2**28 if on.cuda else 2**22),
        },
    }
    peak, width = on.published or (0.0, 0.0)
    if on.published:
        found["machine"] |= {"published_flop_per_second": peak, "published_bytes_per_second": width}
    with tempfile.TemporaryDirectory(prefix="preceptor-gpu-") as place:
        bench = Bench(on, size, precision, attention, Path(place))
        for stage in stages:
            on.forget()
            figures = getattr(bench, stage)()
            figures["peak_gib"] = on.peak_gib()
            if "flop_per_second" in figures:
                figures["mfu"] = figures["flop_per_second"] / (
                    peak if peak and precision == "bf16" else found["machine"]["matmul_flop_per_second"]
                )
            if "bytes_per_second" in figures:
                bound = width or found["machine"]["copy_bytes_per_second"]
                figures["bandwidth_share"] = figures["bytes_per_second"] / bound
            found[stage] = figures
            print(stage, json.dumps(figures), file=sys.stderr, flush=True)
    return found


GOALS = {
    ("sft", "mfu"): "at least 0.45",
    ("decode", "bandwidth_share"): "at least 0.5",
    ("ppo", "step_3_hours"): "under 1",
}


def page(found: dict) -> str:
    """The figures in Markdown."""
    about, machine = found["about"], found["machine"]
    size = about["size"]
    lines = [
        f"# One accelerator: {about['accelerator']}, {about['date']}",
        "",
        f"Written by `benchmarks/gpu.py`: policy {size['policy']} (layers, width, heads), reward and value model "
        f"{size['judge']}, {size['prompt']} + {size['answer']} tokens, {about['precision']}, attention "
        f"`{about['attention']}`; Python {about['python']}, torch {about['torch']}, transformers "
        f"{about['transformers']}.",
        "Random weights and tokens; the median of "
        f"{size['rounds']} steps after one that warms up. Decoding alone: {size['rows']} rows.",
        "",
        "| work | figure | value | goal on one H200 |",
        "|---|---|---|---|",
    ]
    for name, value in machine.items():
        lines.append(f"| machine | {name.replace('_', ' ')} | {value:.4g} | |")
    for stage in ("sft", "reward", "ppo", "decode"):
        for name, value in found.get(stage, {}).items():
            lines.append(f"| {stage} | {name.replace('_', ' ')} | {value:.4g} | {GOALS.get((stage, name), '')} |")
    lines += ["", f"`step 3 hours`: what {QUERIES:,} prompts, as in step 3 of DeepSpeed-Chat, would take."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", choices=sorted(SIZES), default="1.3b")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--attention", default="sdpa", help="sdpa, flash_attention_2, flex_attention or eager")
    parser.add_argument("--stages", default="sft,reward,ppo,decode")
    parser.add_argument("--micro-batch", type=int, help="sequences per forward and backward pass")
    parser.add_argument("--output", type=Path, default=Path(__file__).resolve().parent)
    options = parser.parse_args()
    size = SIZES[options.size]
    if options.micro_batch:
        size = replace(size, micro_batch=options.micro_batch)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("no GPU is here; --device cpu --size toy shows that the benchmark runs")
    found = measure(options.device, size, options.precision, options.attention, options.stages.split(","))
    options.output.mkdir(parents=True, exist_ok=True)
    name = f"{slug(found['about']['accelerator'])}-{found['about']['date']}"
    (options.output / f"gpu-{name}.json").write_text(json.dumps(found, indent=2) + "\n")
    (options.output / f"{name}.md").write_text(page(found))
    print(page(found))


if __name__ == "__main__":
    main()
