"""The options of `preceptor plan`. Standard library only: the command line reads them for its help."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanOptions:
    """Which model, on what, doing what."""

    preset: str | None = None
    """The paper's 1.3B, 6B or 175B by the paper's recipe; or our tiny, tiny-large, small, medium."""

    model: str | None = None
    """A model folder, its config.json, or a hub name, by the defaults of the stages."""

    reward_model: str | None = None
    """Reward and value model: a preset or a model; by default the paper's 6B for its sizes, else the model itself."""

    gpus: int = 1
    """Number of GPUs."""

    calibrate: bool = False
    """First measure this machine by short real steps, about a minute, and keep that for --machine here."""

    machine: str | None = None
    """Plan with the speed and memory that --calibrate measured: here, or the file of such a measurement."""

    gpu_memory: float | None = None
    """Memory of one GPU, in GB of 10^9 bytes; 80, or the machine's with --machine."""

    gpu_flops: float | None = None
    """Peak of one GPU in TFLOP/s; by default an A100's, 312 in bf16 and 19.5 in fp32."""

    gpu_bandwidth: float = 2.0
    """Memory bandwidth of one GPU, in TB/s."""

    network: float = 50.0
    """Network bandwidth of one GPU, in GB/s."""

    utilisation: float = 0.35
    """Share of the peak that training reaches."""

    dry_run: bool = False
    """Also shard the models themselves over pretended ranks, without weights, and compare with the plan's figures."""

    stage: Literal["all", "sft", "reward", "ppo"] = "all"
    """Which stage to plan."""

    precision: Literal["fp32", "bf16"] | None = None
    """Arithmetic: fp32 or bf16; by default 16 bits for the paper's sizes, else fp32."""

    batch: int | None = None
    """Demonstrations (sft), rankings (reward) or episodes (ppo) per optimizer step; needs --stage."""

    micro_batch: int | None = None
    """The same, per pass on one GPU; needs --stage."""

    prompt_tokens: int | None = None
    """Longest prompt, in tokens."""

    answer_tokens: int | None = None
    """Longest answer, in tokens."""

    demonstrations: int | None = None
    """Number of demonstrations; the paper's 12,725 by default."""

    rankings: int | None = None
    """Number of rankings; the paper's 33,207 by default."""

    answers: int | None = None
    """Answers per ranking."""

    episodes: int | None = None
    """Episodes per PPO iteration."""

    iterations: int | None = None
    """PPO iterations."""

    lora_rank: int = 16
    """Rank of the adapters in the LoRA layouts."""
