"""Simulated labelers: people who see what an answer is worth, each through own tastes and a lot of noise.

They rank the K answers of a prompt. The reward model learns from these rankings and never sees gold.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from preceptor.simulation.gold import CONCISION, CONSTRAINTS, RUDE, TASK, TRUTH, judge
from preceptor.simulation.world import World
from preceptor.types import Cohort, Labeler, Prompt

TRAINING_LABELERS, HELD_OUT_LABELERS = 7, 4
NOISE = 1.15  # standard deviation, in points of gold, of one labeler's view of one answer
NOISE_SPREAD = (0.8, 1.2)  # each labeler's noise is this many times NOISE
CARELESS = 2.5  # the last training labeler is this many times noisier still
WEIGHT_SPREAD = (0.5, 1.5)  # each labeler weighs each component this many times what gold does
TASK_WEIGHT_SPREAD = (0.7, 1.3)
LENGTH_BIAS_MEAN, LENGTH_BIAS_SPREAD = 0.02, 0.02  # points per word, over labelers
BUCKET = 0.8  # points that fall on one step of the Likert scale; answers on one step are tied


@dataclass(frozen=True, slots=True)
class SimulatedLabeler:
    """A labeler and what drives the judgement. `weights` are points per component, in the order of a Verdict."""

    labeler: Labeler
    weights: tuple[float, float, float, float, float]
    length_bias: float  # points per word
    noise: float  # standard deviation in points


def labeler_id(cohort: Cohort, number: int) -> str:
    return f"labeler-{cohort}-{number}"


def labelers(seed: int) -> list[SimulatedLabeler]:
    """Seven training labelers, the last of them careless, and four held-out ones."""
    rng = random.Random(f"labelers {seed}")

    def draw(cohort: Cohort, number: int, noisier: float) -> SimulatedLabeler:
        weights = (
            TASK * rng.uniform(*TASK_WEIGHT_SPREAD),
            CONSTRAINTS * rng.uniform(*WEIGHT_SPREAD),
            TRUTH * rng.uniform(*WEIGHT_SPREAD),
            CONCISION * rng.uniform(*WEIGHT_SPREAD),
            RUDE * rng.uniform(*WEIGHT_SPREAD),
        )
        who = Labeler(
            id=labeler_id(cohort, number),
            name=f"Simulated {cohort} labeler {number}",
            cohort=cohort,
            simulated=True,
        )
        length_bias = rng.gauss(LENGTH_BIAS_MEAN, LENGTH_BIAS_SPREAD)
        return SimulatedLabeler(who, weights, length_bias, NOISE * rng.uniform(*NOISE_SPREAD) * noisier)

    training = [draw("training", i, 1.0) for i in range(1, TRAINING_LABELERS)]
    training.append(draw("training", TRAINING_LABELERS, CARELESS))
    return training + [draw("held-out", i, 1.0) for i in range(1, HELD_OUT_LABELERS + 1)]


def impressions(
    world: World, labeler: SimulatedLabeler, prompt: Prompt, answers: Sequence[str], rng: random.Random
) -> list[int]:
    """The step of the Likert scale on which the labeler puts each answer (higher is better, no fixed range)."""
    steps = []
    for answer in answers:
        verdict = judge(world, prompt, answer)
        points = sum(weight * value for weight, value in zip(labeler.weights, verdict.components))
        points += labeler.length_bias * len(answer.split()) + rng.gauss(0.0, labeler.noise)
        steps.append(round(points / BUCKET))
    return steps


def rank(
    world: World, labeler: SimulatedLabeler, prompt: Prompt, answers: Sequence[str], rng: random.Random
) -> list[int]:
    """Ranks of the answers, 1 = best, without gaps; answers on one step of the scale share a rank."""
    steps = impressions(world, labeler, prompt, answers, rng)
    place = {step: rank for rank, step in enumerate(sorted(set(steps), reverse=True), start=1)}
    return [place[step] for step in steps]


def prefers(
    world: World, labeler: SimulatedLabeler, prompt: Prompt, answer: str, baseline: str, rng: random.Random
) -> float:
    """1 when the labeler prefers `answer` to `baseline`, 0 when not, 0.5 on a tie."""
    first, second = impressions(world, labeler, prompt, (answer, baseline), rng)
    return 0.5 if first == second else float(first > second)
