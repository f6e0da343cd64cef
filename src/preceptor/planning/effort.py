"""Operations and time of each stage, on a cluster."""

from dataclasses import dataclass

from preceptor.planning import formulas as f
from preceptor.planning.memory import Setting
from preceptor.planning.shape import Shape
from preceptor.planning.work import Cluster


@dataclass(frozen=True, slots=True)
class Effort:
    """`flops`: of the stage when all weights are trained and nothing is made twice, whatever the layout. The seconds
    are the layout's, by what they go to."""

    flops: float
    steps: int  # optimizer steps
    compute_seconds: float
    draw_seconds: float
    gather_seconds: float  # of training passes; they run beside the computing, so the longer of the two counts

    @property
    def seconds(self) -> float:
        return max(self.compute_seconds, self.gather_seconds) + self.draw_seconds


def forward(shape: Shape, rows: float, length: int, logits: float) -> float:
    """Operations of a pass over `rows` sequences; `logits`: tokens per row whose logits are made."""
    body = f.forward_flops(rows * length, length, shape.matrices, shape.layers, shape.attention_width)
    return body + 2 * rows * logits * shape.head


def sft_effort(policy: Shape, s: Setting, cluster: Cluster, micro: int) -> Effort:
    work = s.work
    rows = work.demonstrations * work.sft_epochs
    once = forward(policy, rows, work.sft_tokens, work.sft_tokens)
    steps = work.sft_epochs * -(-work.demonstrations // work.sft_batch)
    passes = steps * -(-work.sft_batch // (s.gpus * micro))
    return _training(once, 0.0, steps, policy, passes, s, cluster)


def reward_effort(reward: Shape, s: Setting, cluster: Cluster, micro: int) -> Effort:
    work = s.work
    rows = work.rankings * work.answers * work.reward_epochs
    once = forward(reward, rows, work.reward_tokens, 0)
    steps = work.reward_epochs * -(-work.rankings // work.reward_batch)
    passes = steps * -(-work.reward_batch // (s.gpus * micro))
    return _training(once, 0.0, steps, reward, passes, s, cluster)


def ppo_effort(policy: Shape, reward: Shape, s: Setting, cluster: Cluster, micro: int, drawn: int) -> Effort:
    """Drawing, judging (reference, value, reward model) and learning (policy, value, pretraining text).

    `drawn`: answers drawn at once on one GPU."""
    work = s.work
    episodes, length = work.iterations * work.episodes, work.prompt_tokens + work.answer_tokens
    drawing = forward(policy, episodes, length, work.answer_tokens)
    judging = forward(policy, episodes, length, work.answer_tokens) + 2 * forward(reward, episodes, length, 0)
    steps = work.iterations * work.minibatches
    seen = episodes * work.inner_epochs
    learning = forward(policy, seen, length, work.answer_tokens) + forward(reward, seen, length, 0)
    learning += forward(policy, steps * work.text_rows, work.text_tokens, work.text_tokens)
    passes = steps * -(-work.minibatch // (s.gpus * micro))
    if work.text_rows:
        passes += steps * -(-work.text_rows // (s.gpus * work.text_micro_batch))
    trained = _training(learning, judging, steps, policy, passes, s, cluster)
    waves = -(-work.episodes // (s.gpus * drawn))
    cache = f.cache_bytes(drawn, length, policy.layers, policy.kv_heads, policy.head_width)
    tokens = work.iterations * waves * work.answer_tokens
    reading = f.decode_seconds(f.weight_bytes(policy.parameters, s.ranks), cache, tokens, cluster.bandwidth)
    drawn = f.compute_seconds(drawing, s.gpus, cluster.rate(s.work.precision), cluster.utilisation)
    return Effort(trained.flops + drawing, steps, trained.compute_seconds, max(drawn, reading), trained.gather_seconds)


def gathered_rollout_seconds(policy: Shape, s: Setting, cluster: Cluster) -> float:
    """Drawing tokens with FSDP2's own gathers: all weights over the network for every token drawn."""
    steps = s.work.iterations * s.work.answer_tokens
    return f.gather_seconds(policy.parameters, f.FP32, steps, s.gpus, cluster.link)


def _training(
    learning: float, judging: float, steps: int, shape: Shape, passes: int, s: Setting, cluster: Cluster
) -> Effort:
    """`learning`, `judging`: operations of the passes with and without gradient, forward only."""
    moved = 0.0
    if s.layout.sharded:  # gathered in forward and in backward, gradients reduced
        width = f.BF16 if s.work.precision == "bf16" else f.FP32
        moved = f.gather_seconds(shape.parameters, width, 3 * passes, s.gpus, cluster.link)
    elif s.gpus > 1:  # data parallel: an all-reduce of the gradients per step is two such moves
        trained = shape.parameters if not s.layout.lora else 0
        moved = f.gather_seconds(trained, f.FP32, 2 * steps, s.gpus, cluster.link)
    done = judging + f.training_flops(learning, lora=s.layout.lora, checkpointing=s.layout.checkpointing)
    seconds = f.compute_seconds(done, s.gpus, cluster.rate(s.work.precision), cluster.utilisation)
    return Effort(judging + f.training_flops(learning), steps, seconds, 0.0, moved)
