"""Memory of one GPU, stage by stage, phase by phase: what stands in it at each high point of our trainer.

What is resident follows training/sft.py, reward.py and ppo.py: every role in fp32 on the device for the whole stage,
gradients from a step's first backward to its update, the policy's and the value model's together in PPO.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from preceptor.planning import formulas as f
from preceptor.planning.activations import Activations
from preceptor.planning.shape import Shape
from preceptor.planning.work import Work

LOGIT_CHUNK = 2**22  # models/logprobs.py: CHUNK; a test compares them
SHORT = 512  # models/attention.py: SHORT; likewise
SCORED = 16  # rows that the reward model scores at once: training/reward.py


@dataclass(frozen=True, slots=True)
class Layout:
    """How models stand on the GPUs: whole on each or divided over all; trained whole or by adapters on one base."""

    name: str
    sharded: bool = False
    lora: bool = False
    checkpointing: bool = False

    @property
    def title(self) -> str:
        return self.name + (" + checkpointing" if self.checkpointing else "")


LAYOUTS = tuple(
    Layout(name, sharded, lora, checkpointing)
    for name, sharded, lora in (
        ("unsharded", False, False),
        ("sharded", True, False),
        ("lora", False, True),
        ("lora sharded", True, True),
    )
    for checkpointing in (False, True)
)


@dataclass(slots=True)
class Phase:
    """One high point: bytes per part, and per role for what stays."""

    name: str
    parts: dict[str, float] = field(default_factory=dict)

    @property
    def total(self) -> float:
        return sum(self.parts.values())

    def to_json(self) -> dict[str, Any]:
        return {"phase": self.name, "bytes": {k: round(v) for k, v in self.parts.items()}, "total": round(self.total)}


@dataclass(frozen=True, slots=True)
class Model:
    """A shape with what its passes leave behind. `scalar`: a reward or value model."""

    shape: Shape
    training: Activations  # in the precision of training
    acting: Activations  # in fp32, as the engine draws
    scalar: bool = False
    drops: bool = False  # activations at random, in training

    @property
    def parameters(self) -> int:
        return self.shape.scalar_parameters if self.scalar else self.shape.parameters

    @property
    def root(self) -> int:
        return self.parameters - self.shape.layers * self.shape.layer_parameters


@dataclass(frozen=True, slots=True)
class Setting:
    """One way to run: work, layout, GPUs."""

    work: Work
    layout: Layout
    gpus: int
    lora_rank: int = 16
    device: str = "cuda"

    @property
    def ranks(self) -> int:
        return self.gpus if self.layout.sharded else 1

    def share(self, rows: int, micro: int) -> tuple[int, bool]:
        """(rows per pass on one GPU, whether a step takes several passes) of a step's `rows`."""
        own = -(-rows // self.gpus)
        return min(own, micro), own > micro

    # -- what stays -----------------------------------------------------------------------------------------

    def trained(self, model: Model) -> int:
        """Parameters of a model that get gradients: all, or its adapters and its scalar head."""
        if not self.layout.lora:
            return model.parameters
        adapters = f.lora_parameters(model.shape.layers * model.shape.layer_edges, self.lora_rank)
        return adapters + (model.shape.width if model.scalar else 0)

    def weights(self, model: Model) -> float:
        return f.weight_bytes(model.parameters, self.ranks)

    def adapters(self, model: Model) -> float:
        return f.weight_bytes(self.trained(model), self.ranks) if self.layout.lora else 0.0

    def gradients(self, *models: Model) -> float:
        return sum(f.gradient_bytes(self.trained(model), self.ranks) for model in models)

    def optimizer(self, model: Model) -> float:
        return f.adam_bytes(self.trained(model), self.ranks)

    # -- what comes and goes --------------------------------------------------------------------------------

    def gathered(self, model: Model, *, training: bool) -> float:
        """Whole layers on a sharded GPU; unsharded in bf16, the copies of the weights that autocast keeps."""
        half = self.work.precision == "bf16"
        if self.layout.sharded:
            width = f.BF16 if half else f.FP32
            return f.gathered_bytes(model.root, model.shape.layer_parameters, width, training=training)
        if half:
            matrices = model.shape.layer_matrices if self.layout.checkpointing else model.shape.matrices
            return f.BF16 * (matrices + (0 if model.scalar else model.shape.head))
        return 0.0

    def saved(self, model: Model, rows: int, length: int) -> float:
        shape, a = model.shape, model.training
        weights = rows * length * length * a.squared
        if self.device == "cpu" and self.work.precision == "bf16" and length <= SHORT:
            # models/attention.py keeps the attention's weights in bf16 on a processor
            weights = f.BF16 * rows * shape.heads * length * length
        if self.layout.checkpointing:
            return f.checkpointed_bytes(rows, length, shape.layers, shape.width, a.per_layer, a.base) + weights
        return f.saved_bytes(rows, length, shape.layers, a.per_layer, a.base) + shape.layers * weights

    def transient(self, model: Model, rows: int, length: int) -> float:
        return rows * length * model.training.transient

    def head(self, model: Model, targets: int) -> float:
        """Logits of `targets` tokens, and the gradient of the unembedding that is made beside them."""
        logits = f.logit_bytes(targets, model.shape.vocabulary, LOGIT_CHUNK)
        return logits + (0.0 if self.layout.lora else f.FP32 * model.shape.head)


# -- the stages ---------------------------------------------------------------------------------------------------


def sft_phases(policy: Model, s: Setting, micro: int | None = None) -> list[Phase]:
    """Supervised fine-tuning: one model."""
    work = s.work
    rows, several = s.share(work.sft_batch, micro or work.sft_micro_batch)
    logits = s.head(policy, rows * work.sft_tokens)
    return _one_model(policy, s, "policy", rows, work.sft_tokens, logits, several or work.sft_mixed)


def reward_phases(reward: Model, s: Setting, micro: int | None = None) -> list[Phase]:
    """The reward model: all K answers of a ranking go through it together."""
    rankings, several = s.share(s.work.reward_batch, micro or s.work.reward_micro_batch)
    return _one_model(reward, s, "reward", rankings * s.work.answers, s.work.reward_tokens, 0.0, several)


def _one_model(model: Model, s: Setting, role: str, rows: int, length: int, head: float, several: bool) -> list[Phase]:
    stays = {f"{role} weights": s.weights(model) + s.adapters(model), f"{role} optimizer": s.optimizer(model)}
    gathered = s.gathered(model, training=True)
    begins = {
        "gradients": s.gradients(model) if several else 0.0,
        "layers at work": gathered,
        "activations": s.saved(model, rows, length),
        "logits and transients": max(s.transient(model, rows, length), head),
    }
    return [
        Phase("backward begins", stays | begins),
        Phase("backward ends", stays | {"gradients": s.gradients(model), "layers at work": gathered}),
    ]


def ppo_phases(
    policy: Model, value: Model, reward: Model, s: Setting, micro: int | None = None, drawn: int | None = None
) -> list[Phase]:
    """PPO: four roles, and the average of the policy, from start to end. `drawn`: answers drawn at once on one GPU; by
    default its share of the iteration's episodes (our trainer: 256 of them at most)."""
    work, length = s.work, s.work.prompt_tokens + s.work.answer_tokens
    stays = ppo_resident(policy, value, reward, s)
    rows, several = s.share(work.minibatch, micro or work.ppo_micro_batch)
    both = s.gradients(policy, value)
    policy_head = max(s.transient(policy, rows, length), s.head(policy, rows * work.answer_tokens))
    phases = [
        Phase("rollout", stays | rollout_parts(policy, s, drawn or -(-work.episodes // s.gpus))),
        Phase("judge", stays | judge_parts(policy, reward, s, rows)),
        Phase(
            "policy backward begins",
            stays
            | {
                "gradients": both if several else 0.0,
                "layers at work": s.gathered(policy, training=True),
                "activations": s.saved(policy, rows, length),
                "logits and transients": policy_head,
            },
        ),
        Phase(
            "value backward begins",
            stays
            | {
                "gradients": both if several else s.gradients(policy),
                "layers at work": s.gathered(value, training=True),
                "activations": s.saved(value, rows, length),
                "logits and transients": s.transient(value, rows, length),
            },
        ),
        Phase("update", stays | {"gradients": both}),
    ]
    if work.text_rows:
        text, _ = s.share(work.text_rows, work.text_micro_batch)
        head = s.head(policy, text * work.text_tokens)
        phases.append(
            Phase(
                "pretraining text, backward begins",
                stays
                | {
                    "gradients": both,
                    "layers at work": s.gathered(policy, training=True),
                    "activations": s.saved(policy, text, work.text_tokens),
                    "logits and transients": max(s.transient(policy, text, work.text_tokens), head),
                },
            )
        )
    return phases


def ppo_resident(policy: Model, value: Model, reward: Model, s: Setting) -> dict[str, float]:
    """What PPO keeps from start to end. With LoRA the frozen base stands once for all roles of the same shape, and the
    reference is the base alone."""
    average = (s.adapters(policy) if s.layout.lora else s.weights(policy)) if s.work.average else 0.0
    optimizers = {"policy optimizer": s.optimizer(policy), "value optimizer": s.optimizer(value)}
    if not s.layout.lora:
        return {
            "policy weights": s.weights(policy),
            "reference weights": s.weights(policy),
            "value weights": s.weights(value),
            "reward weights": s.weights(reward),
            "average of the policy": average,
            **optimizers,
        }
    same = policy.shape.name == value.shape.name
    return {
        "base weights": s.weights(policy) + (0.0 if same else s.weights(value)),
        "policy weights": s.adapters(policy),
        "reference weights": 0.0,
        "value weights": s.adapters(value),
        "reward weights": s.adapters(reward),
        "average of the policy": average,
        **optimizers,
    }


def rollout_parts(policy: Model, s: Setting, rows: int) -> dict[str, float]:
    """The engine's cache beside that of the prefill, the numbers of a draw, one layer's passing tensors; all fp32.
    Sharded weights are taken to stay where they are (tensor parallel): FSDP would gather them for every token."""
    work, shape = s.work, policy.shape
    columns = work.prompt_tokens + work.answer_tokens + 1
    cache = f.cache_bytes(rows, columns, shape.layers, shape.kv_heads, shape.head_width)
    prefill = f.cache_bytes(rows, work.prompt_tokens, shape.layers, shape.kv_heads, shape.head_width)
    quiet = rows * work.prompt_tokens * policy.acting.quiet
    wide = 0.0  # a layer's keys and values, repeated for the query heads that share them
    if shape.kv_heads < shape.heads:
        wide = f.cache_bytes(rows, columns, 1, shape.heads, shape.head_width)
    draws = f.draw_bytes(rows, shape.vocabulary)
    moment = max(prefill + quiet, draws, wide)
    return {
        "cache": cache,
        "logits and transients": moment,
    }


def judge_parts(policy: Model, reward: Model, s: Setting, rows: int) -> dict[str, float]:
    """Passes without gradient: the reference's log-probabilities, the reward model's scores."""
    length = s.work.prompt_tokens + s.work.answer_tokens
    scored, rows = min(SCORED, -(-s.work.episodes // s.gpus)), min(SCORED, rows)
    logits = f.logit_bytes(rows * s.work.answer_tokens, policy.shape.vocabulary, LOGIT_CHUNK)
    reference = max(rows * length * policy.training.quiet, logits)
    scores = scored * length * reward.training.quiet
    gathered = max(s.gathered(policy, training=False), s.gathered(reward, training=False))
    return {"layers at work": gathered, "logits and transients": max(reference, scores)}


def peak(phases: Sequence[Phase]) -> Phase:
    return max(phases, key=lambda phase: phase.total)
