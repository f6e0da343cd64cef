"""How often one model is preferred to another: both answer the same prompts, a judge scores every answer.

The judge is a function; the demo's is its gold judge, a workspace's a reward model. Comparing scores has no order of
showing to randomise; judges who are shown two answers (people, a judge model) go through `judge.py` and the labelling
pages, which store the order.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from preceptor.evaluation.subject import Subject
from preceptor.statistics.interval import Interval
from preceptor.statistics.preference import compare, length_controlled, win_rate
from preceptor.types import Prompt

Judge = Callable[[Sequence[Prompt], Sequence[str]], Sequence[float]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """`model` against `baseline`: the share of comparisons won, ties half, with its interval by prompt."""

    model: str
    baseline: str
    judge: str
    decoding: str
    win: Interval
    length_controlled: Interval
    worst: tuple[tuple[str, str, str], ...]


def compare_models(
    model: Subject,
    baseline: Subject,
    prompts: Sequence[Prompt],
    judge: Judge,
    *,
    judge_name: str,
    samples: int = 4,
    temperature: float = 1.0,
    max_new_tokens: int = 256,
    seed: int = 0,
) -> Comparison:
    """Draw `samples` answers per prompt from both models (1 when greedy) and compare their scores.

    Every answer of one side meets every answer of the other to the same prompt. `worst` are the prompts with both
    answers on which the model lost by most.
    """
    samples = 1 if temperature == 0 else samples
    scored = {}
    for side, subject in (("model", model), ("baseline", baseline)):
        asked = [list(prompt.messages) for prompt in prompts for _ in range(samples)]
        replies = subject.answer(asked, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
        every = [place for place in range(len(prompts)) for _ in range(samples)]
        places = [place for place, reply in zip(every, replies) if reply is not None]
        texts = [reply for reply in replies if reply is not None]
        scored[side] = (texts, list(judge([prompts[place] for place in places], texts)), places)
    ours, theirs = scored["model"], scored["baseline"]
    met = compare(ours[1], theirs[1], ours[2], theirs[2])
    lengths = [[float(len(text.split())) for text in side[0]] for side in (ours, theirs)]
    controlled = length_controlled(
        met.outcomes,
        [lengths[0][place] for place in met.index_a],
        [lengths[1][place] for place in met.index_b],
        met.prompts,
    )
    first = [dict(zip(side[2][::-1], range(len(side[2]) - 1, -1, -1))) for side in (ours, theirs)]
    pairs = [(place, first[0][place], first[1][place]) for place in first[0].keys() & first[1].keys()]
    worst = sorted(pairs, key=lambda pair: (ours[1][pair[1]] - theirs[1][pair[2]], pair[0]))[:5]
    return Comparison(
        model=model.name,
        baseline=baseline.name,
        judge=judge_name,
        decoding="greedy" if temperature == 0 else f"T = {temperature:g}",
        win=win_rate(met.outcomes, met.prompts),
        length_controlled=controlled.controlled,
        worst=tuple((prompts[place].text, ours[0][a], theirs[0][b]) for place, a, b in worst),
    )
