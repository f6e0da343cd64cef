"""What is to be done, and on what: the stages' sizes, and the cluster."""

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from preceptor.config import PpoConfig, RewardConfig, SampleConfig, SftConfig
from preceptor.errors import UserError

if TYPE_CHECKING:
    from preceptor.planning.machine import Machine

STAGES = ("sft", "reward", "ppo")

# Ouyang et al. 2022: training prompts, table 6; the rest, appendix C.
PAPER_DEMONSTRATIONS, PAPER_RANKINGS = 12_725, 33_207
A100_FLOPS = {"bf16": 312e12, "fp32": 19.5e12}  # NVIDIA's data sheet, dense; fp32 without TF32, torch's default
PAPER_DAYS = {"sft": 4.9, "ppo": 60.0}  # petaflop/s-days of the 175B model, section 5.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """Sizes of the three stages. Batches are those of a whole optimizer step, over all GPUs; every sequence is taken
    at its longest, which is what memory has to hold, and an upper bound of the work."""

    demonstrations: int = PAPER_DEMONSTRATIONS
    sft_epochs: int
    sft_batch: int  # demonstrations per optimizer step
    sft_micro_batch: int  # demonstrations per pass on one GPU
    sft_tokens: int
    sft_mixed: bool = False  # pretraining text in each step
    dropout: float
    rankings: int = PAPER_RANKINGS
    answers: int  # per ranking
    reward_epochs: int
    reward_batch: int  # rankings
    reward_micro_batch: int  # rankings
    reward_tokens: int
    iterations: int
    episodes: int  # per iteration
    minibatch: int
    ppo_micro_batch: int
    inner_epochs: int
    prompt_tokens: int
    answer_tokens: int
    text_rows: int  # pretraining sequences per optimizer step; 0 is plain PPO
    text_micro_batch: int  # pretraining sequences per pass on one GPU
    text_tokens: int
    average: bool  # an average of the policy's weights is kept
    precision: str

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            least = 0 if name == "text_rows" else 1
            if isinstance(value, int) and not isinstance(value, bool) and value < least:
                raise UserError(f"{name} is {value}; it must be at least {least}")
        if self.precision not in ("fp32", "bf16"):
            raise UserError(f"precision is {self.precision!r}; choose fp32 or bf16")

    @property
    def minibatches(self) -> int:
        """Optimizer steps per PPO iteration."""
        return self.inner_epochs * -(-self.episodes // self.minibatch)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def own_work(context: int) -> Work:
    """The stages as `config.py` sets them, within a model's context (0: without limit)."""
    sft, reward, ppo, sample = SftConfig(), RewardConfig(), PpoConfig(), SampleConfig(model="")
    limit = context or sft.max_tokens
    answer = min(ppo.max_new_tokens, limit // 2)
    return Work(
        sft_epochs=sft.epochs,
        sft_batch=sft.batch,
        sft_micro_batch=sft.micro_batch,
        sft_tokens=min(sft.max_tokens, limit),
        sft_mixed=sft.mix > 0,
        dropout=sft.dropout,
        answers=sample.k,
        reward_epochs=reward.epochs,
        reward_batch=reward.batch,
        reward_micro_batch=reward.micro_batch,
        reward_tokens=min(reward.max_tokens, limit),
        iterations=ppo.steps,
        episodes=ppo.batch,
        minibatch=ppo.minibatch,
        ppo_micro_batch=ppo.micro_batch,
        inner_epochs=ppo.inner_epochs,
        prompt_tokens=min(ppo.max_prompt_tokens, limit - answer),
        answer_tokens=answer,
        text_rows=ppo.ptx_batch if ppo.ptx_coef > 0 else 0,
        text_micro_batch=min(ppo.ptx_batch, ppo.micro_batch),
        text_tokens=min(ppo.ptx_context, limit),
        average=ppo.ema > 0,
        precision=sft.precision,
    )


def paper_work(size: str) -> Work:
    """The paper's recipe (appendix C) for one of its sizes: 2k context, 8 pretraining sequences per episode."""
    context, minibatch = 2048, 64
    return replace(
        own_work(context),
        sft_batch=8 if size == "175B" else 32,
        sft_micro_batch=1,
        answers=9,
        reward_micro_batch=1,
        ppo_micro_batch=1,
        prompt_tokens=context // 2,
        answer_tokens=context // 2,
        text_rows=8 * minibatch,
        text_micro_batch=1,
        text_tokens=context,
        precision="bf16",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """`gpus` alike. Rates are per GPU."""

    gpus: int
    memory: float  # bytes
    flops: float | None  # peak operations per second of matrix products; None: an A100's, by the precision
    bandwidth: float  # bytes per second of its memory
    link: float  # bytes per second of its network
    utilisation: float  # share of the peak operations that training reaches
    lora_rank: int = 16
    reserve: float = 0.06  # share of memory kept for the driver, communication buffers and fragmentation
    machine: "Machine | None" = None  # what --calibrate measured of one such device; without it time is assumed

    def __post_init__(self) -> None:
        if self.gpus < 1:
            raise UserError(f"--gpus is {self.gpus}; it must be at least 1")
        if self.lora_rank < 1:
            raise UserError(f"--lora-rank is {self.lora_rank}; it must be at least 1")
        for name in ("memory", "flops", "bandwidth", "link"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UserError(f"{name} of a GPU is {value:g}; it must be above 0")
        if not 0 < self.utilisation <= 1:
            raise UserError(f"utilisation is {self.utilisation:g}; it is a share: above 0 and at most 1")

    @property
    def room(self) -> float:
        """Bytes of one GPU that a plan may use for what torch allocates."""
        most = self.memory * (1 - self.reserve)
        return most if self.machine is None else self.machine.allocatable(most)

    @property
    def device(self) -> str:
        return "cuda" if self.machine is None else self.machine.device

    def rate(self, precision: str) -> float:
        """Operations per second of one GPU, at its peak."""
        return self.flops if self.flops is not None else A100_FLOPS[precision]
