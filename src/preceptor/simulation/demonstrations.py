"""The demonstrations that supervised fine-tuning learns from, and what a reader must be told about this world."""

import random
from collections.abc import Sequence

from preceptor.simulation import labelers
from preceptor.simulation.users import Task
from preceptor.simulation.web import FALSE_FACTS, RUDE_REPLIES
from preceptor.simulation.world import World
from preceptor.simulation.writers import CAREFUL, HURRIED, write
from preceptor.types import Demonstration

# THE design choice of this world, and always disclosed: most demonstrations are written in a hurry and flawed,
# although their writers know better. Ranking side by side is easier than writing under time pressure, so the
# rankings carry something that the demonstrations lack, and PPO has room above SFT. With mostly careful
# demonstrations this room shrinks.
CAREFUL_SHARE = 0.35


def demonstrations(world: World, tasks: Sequence[Task], seed: int) -> list[Demonstration]:
    """One demonstration for each task, by a random training labeler in a careful or a hurried moment."""
    rng = random.Random(f"demonstrations {world.seed} {seed}")
    written = []
    for task in tasks:
        who = labelers.labeler_id("training", rng.randint(1, labelers.TRAINING_LABELERS))
        writer = CAREFUL if rng.random() < CAREFUL_SHARE else HURRIED
        written.append(Demonstration.of(task.prompt.id, who, write(world, task.prompt, writer, rng)))
    return written


DISCLOSURE: tuple[str, ...] = (
    "Everything here is simulated: the country, the users, the writers, the labelers and the gold judge are programs.",
    f"By design {1 - CAREFUL_SHARE:.0%} of the demonstrations are written in a hurry: they follow a constraint in "
    f"{HURRIED.follows:.0%} of the cases, leave the answer incomplete in {HURRIED.lazy:.0%} and add something "
    f"irrelevant in {HURRIED.rambles:.0%}. This gives reinforcement learning room above the demonstrations; "
    "with careful demonstrations the gain should shrink.",
    "The flaws are ones that the base model can already avoid about half of the time; tasks that a model this "
    "small cannot learn, such as rewriting and summarising, were left out.",
    f"Labelers see the components of gold with their own weights and with noise (standard deviation about "
    f"{labelers.NOISE} of 7 points); one of the {labelers.TRAINING_LABELERS} training labelers is careless, none of "
    f"the {labelers.HELD_OUT_LABELERS} held-out ones is.",
    f"Labelers favour longer answers by {labelers.LENGTH_BIAS_MEAN} points per word on average.",
    f"Answers within {labelers.BUCKET} points or so are tied; tied pairs are left out of the loss and the agreement.",
    f"{FALSE_FACTS:.0%} of the facts in the profiles of the pretraining text are false, and {RUDE_REPLIES:.0%} of the "
    "answers on its pages are nothing but rude.",
    "The words are few, so the language is far simpler than real prompts; results here say nothing about the size "
    "of an effect on real models.",
)
