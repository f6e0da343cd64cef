import itertools
import random
from dataclasses import replace

import pytest
from simulated_world import WORLD, prompt_for

from preceptor.simulation.gold import judge
from preceptor.simulation.labelers import labelers, prefers, rank
from preceptor.simulation.requests import Request
from preceptor.simulation.users import draw_prompts, users
from preceptor.simulation.world import NAMES, World, pick
from preceptor.simulation.writers import CAREFUL, HURRIED, WEB, write

PROMPT = prompt_for(Request("fact", "Ada", "town"))
RIGHT, LAZY, WRONG, RUDE = (
    "Ada lives in Rome.",  # 7
    "Ada lives in Rome. That is all I can say.",  # 6.1
    "Ada lives in Oslo.",  # 2.5
    "Go away.",  # -2
)


def exact(**changes):
    """A labeler who sees gold itself."""
    return replace(labelers(0)[0], weights=(3.0, 1.5, 1.5, 1.0, -2.0), length_bias=0.0, noise=0.0, **changes)


def test_seven_training_labelers_and_four_held_out():
    people = labelers(3)
    assert [one.labeler.cohort for one in people] == ["training"] * 7 + ["held-out"] * 4
    assert len({one.labeler.id for one in people}) == 11
    assert all(one.labeler.simulated for one in people)
    noises = [one.noise for one in people]
    assert max(noises) == noises[6] > 1.5 * sorted(noises)[-2]  # the careless one
    assert labelers(3) == people
    assert labelers(4) != people


def test_a_labeler_without_noise_ranks_by_gold_and_ties_what_is_alike():
    rng = random.Random(0)
    assert rank(WORLD, exact(), PROMPT, [WRONG, RIGHT, RUDE, LAZY], rng) == [3, 1, 4, 2]
    # 7 / .8 = 8.75 -> 9; 6.1 / .8 = 7.6 -> 8; 6.0 / .8 = 7.5 -> 8: the last two are tied
    rambling = "Ada lives in Rome. Ben ate some pie."
    assert rank(WORLD, exact(), PROMPT, [LAZY, RIGHT, rambling, RIGHT], rng) == [2, 1, 2, 1]
    assert prefers(WORLD, exact(), PROMPT, RIGHT, WRONG, rng) == 1.0
    assert prefers(WORLD, exact(), PROMPT, WRONG, RIGHT, rng) == 0.0
    assert prefers(WORLD, exact(), PROMPT, LAZY, rambling, rng) == 0.5


def test_weights_and_length_bias_are_used():
    rng = random.Random(0)
    indifferent = replace(exact(), weights=(0.0,) * 5)
    assert rank(WORLD, indifferent, PROMPT, [RIGHT, RUDE], rng) == [1, 1]
    wordy = replace(indifferent, length_bias=1.0)  # 4, 10 and 2 words
    assert rank(WORLD, wordy, PROMPT, [RIGHT, LAZY, RUDE], rng) == [2, 1, 3]


def test_the_same_seed_gives_the_same_ranks():
    one = labelers(1)[0]
    answers = [RIGHT, LAZY, WRONG, RUDE]
    first = [rank(WORLD, one, PROMPT, answers, random.Random(5)) for _ in range(2)]
    assert first[0] == first[1]
    assert len({tuple(rank(WORLD, one, PROMPT, answers, random.Random(seed))) for seed in range(30)}) > 1


def corrupted(text: str, rng: random.Random) -> str:
    """A stand-in for what a half-trained model does: stop early, or put a wrong word."""
    words = text.split()
    place = int(rng.random() * len(words))
    return " ".join(words[:place] if rng.random() < 0.5 else [*words[:place], pick(rng, NAMES), *words[place + 1 :]])


@pytest.mark.parametrize("seed", range(3))
def test_agreement_is_near_that_of_the_paper(seed):
    """Ouyang et al. 2022: training labelers agree in 72.6 +- 1.5 %, held-out ones in 77.3 +- 1.3 %."""
    world = World.of(seed)
    rng = random.Random(seed)
    people = labelers(seed)[:7]
    agree = n = with_gold = n_gold = ties = pairs = 0
    for task in draw_prompts(world, users(world, seed).training, 1500, seed):
        answers = [write(world, task.prompt, pick(rng, (CAREFUL, HURRIED, HURRIED, WEB)), rng) for _ in range(4)]
        answers = [corrupted(text, rng) if rng.random() < 0.2 else text for text in answers]
        one, two = (rank(world, who, task.prompt, answers, rng) for who in rng.sample(people, 2))
        gold = [judge(world, task.prompt, text).score for text in answers]
        for i, j in itertools.combinations(range(4), 2):
            pairs += 1
            ties += one[i] == one[j]
            if one[i] != one[j] and two[i] != two[j]:
                n += 1
                agree += (one[i] < one[j]) == (two[i] < two[j])
            if one[i] != one[j] and abs(gold[i] - gold[j]) > 0.05:
                n_gold += 1
                with_gold += (one[i] < one[j]) == (gold[i] > gold[j])
    assert 0.70 < agree / n < 0.80
    assert 0.78 < with_gold / n_gold < 0.90
    assert 0.05 < ties / pairs < 0.25
