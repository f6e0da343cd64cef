"""The rollout engine: many answers for many prompts, on one model, seeded.

Prompts of similar length run together; the K answers of a prompt share its prefill; a row that is done makes room for
the next prompt.
"""

from collections.abc import Callable, Sequence

from transformers import PreTrainedModel

from preceptor.models.heap import give_back
from preceptor.rollout.batch import Row, RunningBatch
from preceptor.types import Episode, Sampling

REFILL = 0.25  # new rows join when this share of the batch is free: prefills are cheaper in groups


def generate(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    stop: frozenset[int],
    pad: int,
    k: int = 1,
    batch: int = 256,
    first_number: int = 0,
    progress: Callable[[int], None] | None = None,
) -> list[list[Episode]]:
    """K answers to each prompt, as [prompt][k].

    Answer k of prompt i is drawn with (sampling.seed, first_number + i * k_total + k): the same call gives the same
    answers whatever `batch` is, up to rounding. An answer ends with a token of `stop` (which is part of it) or at
    sampling.max_new_tokens. `progress` is told how many answers were finished.
    """
    training = model.training
    model.eval()
    order = sorted(range(len(prompts)), key=lambda place: (len(prompts[place]), place))
    waiting = [
        Row(prompt=prompts[place], sampling=sampling, number=first_number + place * k + index, stop=stop)
        for place in order
        for index in range(k)
    ]
    done: dict[int, Row] = {}
    longest = max((len(prompt) for prompt in prompts), default=0)
    running = RunningBatch(model, pad, min(batch, len(waiting)), longest + sampling.max_new_tokens + 1)
    at = 0
    while at < len(waiting) or running.alive:
        if at < len(waiting) and (running.free >= REFILL * running.capacity or not running.alive):
            joining = waiting[at : at + running.free]
            at += len(joining)
            running.join(joining)
        finished = running.step()
        for row in finished:
            done[row.number - first_number] = row
        if progress and finished:
            progress(len(finished))
    running.cache.layers.clear()  # a layer and its cache hold each other: their memory would outlive the rollout
    give_back()
    model.train(training)
    return [[_episode(done[place * k + index]) for index in range(k)] for place in range(len(prompts))]


def _episode(row: Row) -> Episode:
    assert row.finish_reason is not None
    return Episode(
        prompt_tokens=tuple(row.prompt),
        answer_tokens=tuple(row.tokens),
        logprobs=tuple(row.logprobs),
        finish_reason=row.finish_reason,
    )
