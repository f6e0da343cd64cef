"""One dataclass per stage: its settings, their units and defaults.

Values come from these defaults, then from the stage's table in `preceptor.toml`, then from the command line.
A key that no field has is an error that names the nearest right one.
"""

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from preceptor.config_servers import ServeConfig, WebConfig
from preceptor.errors import UserError

# Fields of several stages that count something, and those that are a share.
COUNTS = (
    "batch",
    "minibatch",
    "micro_batch",
    "epochs",
    "inner_epochs",
    "steps",
    "context",
    "max_tokens",
    "max_new_tokens",
    "max_prompt_tokens",
    "ptx_batch",
    "ptx_context",
    "lora_rank",
    "keep",
    "workers",
    "tensor_parallel",
)
SHARES = ("mix", "dropout", "held_out", "ema")


@dataclass(frozen=True, kw_only=True, slots=True)
class StageConfig:
    """What every training stage takes."""

    output: str = ""
    """Name of the model folder that comes out."""

    seed: int = 0
    """Seed of every draw: initial weights, data order, sampling."""

    max_steps: int | None = None
    """Stop after this many optimizer steps (iterations, for ppo); the schedule keeps its planned length."""

    max_minutes: float | None = None
    """Stop after this many minutes; the schedule keeps its planned length."""

    resume: bool = True
    """Go on from the last checkpoint of a run with the same name and settings."""

    checkpoint_minutes: float = 5.0
    """Minutes between two checkpoints."""

    keep: int = 2
    """Checkpoints kept, the last ones."""

    workers: int = 1
    """Processes that share the work and the weights: on this machine, or on the cluster at `address`."""

    address: str | None = None
    """Ray cluster that runs the workers: ray://HOST:PORT; auto: the one this machine is in; local: a new one here."""

    tensor_parallel: int = 1
    """Workers that divide each layer's matrices among them and take the same rows; it divides their number."""

    precision: str = "fp32"
    """Matrix products: fp32, or bf16, PPO's rollouts and scores included (weights and optimizer stay fp32)."""

    attention: str = "sdpa"
    """Attention kernels of training: sdpa (torch's own), eager, flash_attention_2 (a GPU and flash-attn are needed)."""

    def __post_init__(self) -> None:
        if self.attention not in ("sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention"):
            raise UserError(f"attention is {self.attention!r}; choose sdpa, eager, flash_attention_2 or flex_attention")
        if self.precision not in ("fp32", "bf16"):
            raise UserError(f"precision is {self.precision!r}; choose fp32 or bf16")
        for name in COUNTS:
            value = getattr(self, name, None)
            if value is not None and value < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in SHARES:
            if not 0 <= getattr(self, name, 0.0) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 0 and below 1")
        if self.seed < 0:
            raise UserError(f"seed is {self.seed}; it must be at least 0")
        temperature = getattr(self, "temperature", 1.0)
        if temperature <= 0:
            raise UserError(f"temperature is {temperature}; training needs one above 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainConfig(StageConfig):
    """A base model from scratch, for those who have none."""

    output: str = "base"
    """Name of the model folder that comes out."""

    size: str = "tiny"
    """Preset: tiny (0.3M parameters), tiny-large (about 5x tiny), small (5M), medium (25M)."""

    corpus: str | None = None
    """Name of the corpus; all imported corpora when absent."""

    vocabulary: int = 1024
    """Entries of the byte-level BPE that is trained on the corpus."""

    context: int = 128
    """Tokens per training sequence."""

    batch: int = 8
    """Sequences per optimizer step."""

    steps: int = 1800
    """Optimizer steps."""

    lr: float = 4e-3
    """Peak learning rate of AdamW."""

    matrix_lr: float | None = 0.02
    """Peak learning rate of Muon for the layers' matrices; none: AdamW trains them too."""

    weight_decay: float = 0.025
    """Decoupled weight decay of the layers' matrices."""

    warmup: float = 0.03
    """Share of the steps over which the learning rate rises from 0."""

    final_lr: float = 0.05
    """Learning rate at the end of the cosine, as a share of its peak."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraConfig(StageConfig):
    """What the stages take that can train a small adapter in place of the whole model."""

    lora_rank: int | None = None
    """Train LoRA adapters of this rank and freeze the model under them; none: train the whole model."""

    lora_alpha: float | None = None
    """The adapter's output is multiplied by this over the rank; twice the rank when absent."""

    lora_targets: str | None = None
    """Layers with an adapter, names by comma (q_proj,v_proj); every linear layer of the body when absent."""

    lora_merge: bool = True
    """Save the whole model, its adapter folded in and beside it; off: save the adapter alone."""

    gradient_checkpointing: bool = False
    """Keep the input of each layer only and compute the rest again in the backward pass: less memory, same results."""

    def __post_init__(self) -> None:
        StageConfig.__post_init__(self)
        if self.lora_rank is None:
            plain = {"lora_alpha": self.lora_alpha is None, "lora_targets": self.lora_targets is None}
            odd = [name for name, unset in (plain | {"lora_merge": self.lora_merge}).items() if not unset]
            if odd:
                raise UserError(f"{odd[0]} is set without lora_rank; name a rank, such as 16")
        elif getattr(self, "matrix_lr", None) is not None:
            raise UserError("matrix_lr trains whole matrices and lora_rank freezes them; leave one of them out")
        if self.lora_alpha is not None and self.lora_alpha <= 0:
            raise UserError(f"lora_alpha is {self.lora_alpha}; it must be above 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class SftConfig(LoraConfig):
    """Supervised fine-tuning on demonstrations."""

    output: str = "sft"
    """Name of the model folder that comes out."""

    model: str = ""
    """Model to start from: a name in the workspace, a folder or a hub name; the workspace's base when empty."""

    release: str | None = None
    """Demonstration release; a new one is frozen from the database when absent."""

    epochs: int = 16
    """Passes over the demonstrations."""

    batch: int = 32
    """Demonstrations per optimizer step."""

    lr: float = 1e-5
    """Peak learning rate of AdamW; a cosine takes it to `final_lr` times that, without warm-up."""

    final_lr: float = 0.1
    """Learning rate at the end, as a share of its peak."""

    weight_decay: float = 0.0
    """Decoupled weight decay."""

    dropout: float = 0.2
    """Residual dropout during training, for architectures that have it in their config."""

    mix: float = 0.0
    """Pretraining text in each step, as a share of all its tokens (0.1: a tenth)."""

    corpus: str | None = None
    """Corpus of the mix; all imported corpora when absent."""

    train_on_prompt: bool = False
    """Also learn to predict the prompt's tokens."""

    max_tokens: int = 2048
    """Tokens of prompt and answer together; longer demonstrations are left out and counted."""

    reward_model: str | None = None
    """Choose the epoch whose answers this reward model scores best on validation prompts; the last when absent."""

    micro_batch: int = 8
    """Sequences per forward and backward pass; changes memory, not results."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleConfig:
    """Draw K answers per prompt into the store, for labelers to rank."""

    model: str
    """Model that answers: a name in the workspace or a folder."""

    k: int = 4
    """Answers per prompt. The paper's labelers ranked 4 to 9."""

    split: str = "train"
    """Split of the prompts: train, valid or test."""

    red_team: bool = False
    """Only prompts written, or imported, as attacks; whatever the split."""

    prompts: int | None = None
    """Number of prompts, drawn by seed; all when absent."""

    temperature: float = 1.0
    """Sampling temperature; 0 takes the likeliest token."""

    top_p: float = 1.0
    """Sample from the likeliest tokens that hold this much probability."""

    max_new_tokens: int = 256
    """Tokens per answer at most."""

    batch: int = 256
    """Answers drawn at once; changes memory, not results."""

    seed: int = 0
    """Seed of the draws."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardConfig(LoraConfig):
    """A reward model from rankings."""

    output: str = "reward"
    """Name of the model folder that comes out."""

    model: str = "sft"
    """Model to start from: a name in the workspace or a folder. Its unembedding gives way to a scalar head."""

    release: str | None = None
    """Ranking release; a new one is frozen from the database when absent."""

    epochs: int = 1
    """Passes over the rankings. The paper: more than one overfits."""

    batch: int = 64
    """Prompts per optimizer step, each with all its comparisons."""

    lr: float = 9e-6
    """Peak learning rate of AdamW; a cosine takes it to a tenth."""

    matrix_lr: float | None = None
    """Peak learning rate of Muon for the layers' matrices; none: AdamW trains them too."""

    weight_decay: float = 0.0
    """Decoupled weight decay."""

    max_tokens: int = 2048
    """Tokens of prompt and answer together; rankings with a longer one are left out and counted."""

    held_out: float = 0.05
    """Share of the rankings' prompts kept from training, to measure accuracy."""

    labeler_weights: bool = False
    """Weigh each ranking by its labeler's estimated reliability."""

    micro_batch: int = 8
    """Prompts per forward and backward pass; changes memory, not results."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PpoConfig(LoraConfig):
    """PPO, and PPO-ptx when `ptx_coef` is above 0."""

    output: str = "ppo"
    """Name of the model folder that comes out."""

    model: str = ""
    """Model to start from when the reference has to be made: the workspace's base when empty."""

    reference: str | None = None
    """RL start and KL reference: a model of the workspace. When absent, one is made: SFT of `model` for 2 epochs
    with 10 % pretraining text."""

    reward_model: str = "reward"
    """Reward model; the value model starts from it too."""

    release: str | None = None
    """Prompt release; a new one is frozen from the database when absent."""

    steps: int = 500
    """PPO iterations: each draws `batch` answers and learns from them."""

    batch: int = 512
    """Episodes per iteration."""

    minibatch: int = 64
    """Episodes per optimizer step."""

    inner_epochs: int = 1
    """Passes over the episodes of an iteration."""

    micro_batch: int = 64
    """Episodes per forward and backward pass; changes memory, not results."""

    lr: float = 9e-6
    """Learning rate of the policy."""

    value_lr: float = 9e-6
    """Learning rate of the value model."""

    warmup: int = 10
    """Iterations over which the learning rates rise from a tenth to their value."""

    kl_coef: float = 0.02
    """Beta: price of one nat of divergence from the reference, in reward-model units."""

    clip: float = 0.2
    """The policy's probability ratio is clipped to 1 - clip .. 1 + clip."""

    value_clip: float = 0.2
    """The value may move this far from its rollout estimate before its loss stops following."""

    gae_lambda: float = 0.95
    """Lambda of generalised advantage estimation; the discount is 1."""

    whiten_advantages: bool = True
    """Bring the advantages of an iteration to mean 0 and variance 1."""

    temperature: float = 1.0
    """Temperature of rollouts, and of every log-probability beside them."""

    max_new_tokens: int = 256
    """Tokens per answer at most."""

    length_penalty: float = 0.0
    """Taken from the reward of an answer that did not end by itself."""

    max_prompt_tokens: int = 1024
    """Longer prompts are left out and counted."""

    recompute_logprobs: bool = False
    """Take the rollout's log-probabilities from a second pass of the trainer instead of the engine's own."""

    ptx_coef: float = 0.0
    """Gamma: weight of the pretraining loss. Both losses are means over tokens. 0 is plain PPO."""

    ptx_batch: int = 16
    """Pretraining sequences per optimizer step."""

    ptx_context: int = 128
    """Tokens per pretraining sequence."""

    corpus: str | None = None
    """Corpus of the pretraining text; all imported corpora when absent."""

    ema: float = 0.992
    """Decay per optimizer step of the averaged weights that are saved as the model; 0 saves the last weights."""

    engine: str = "own"
    """What draws the answers: own, or vllm (experimental): see `vllm_url`."""

    vllm_url: str | None = None
    """Address of a running vLLM server; with --engine vllm and no address, vLLM runs inside this process."""

    kl_stop: float | None = None
    """End the run when the mean KL to the reference passes this many nats per answer."""

    logprob_gap: float = 0.05
    """Stop with an error when rollout and trainer log-probabilities differ by more than this (mean, nats)."""

    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""

    def __post_init__(self) -> None:
        LoraConfig.__post_init__(self)
        if self.engine not in ("own", "vllm"):
            raise UserError(f"engine is {self.engine!r}; choose own or vllm")
        if self.vllm_url and self.engine != "vllm":
            raise UserError("vllm_url is set without --engine vllm")


TABLES: dict[str, type] = {
    "pretrain": PretrainConfig,
    "sft": SftConfig,
    "sample": SampleConfig,
    "reward": RewardConfig,
    "ppo": PpoConfig,
    "serve": ServeConfig,
    "web": WebConfig,
}
PLAIN_KEYS = ("base", "database", "name", "presidio", "store")  # keys of `preceptor.toml` outside its tables


def check_settings(settings: Mapping[str, Any], where: str) -> dict[str, dict[str, Any]]:
    """The tables of a `preceptor.toml`, every key checked. Raises UserError that names the nearest right key."""
    known = [*PLAIN_KEYS, *TABLES]
    tables: dict[str, dict[str, Any]] = {}
    for key, value in settings.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; known: {', '.join(known)}"
            raise UserError(f"{where}: unknown key {key!r}{hint}")
        if key in TABLES:
            if not isinstance(value, Mapping):
                raise UserError(f"{where}: {key} is a table of settings; write [{key}] and its keys below")
            tables[key] = settings_of(TABLES[key], value, f"{where} [{key}]")
        elif not isinstance(value, str):
            raise UserError(f"{where}: {key} is {value!r}; it takes a text in quotes")
    return tables


def settings_of(cls: type, table: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The entries of a `preceptor.toml` table, checked against the fields of a stage's dataclass.

    Raises UserError for an unknown key, naming the nearest right one and the place `where`.
    """
    known = [field.name for field in fields(cls)]
    values: dict[str, Any] = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; known: {', '.join(known)}"
            raise UserError(f"{where}: unknown key {key!r}{hint}")
        values[name] = value
    return values


def as_settings(config: Any) -> dict[str, Any]:
    """A config as plain values, for the run folder and the model card."""
    return asdict(config)
