import random
import statistics

import pytest
from simulated_world import WORLD, prompt_for

from preceptor.simulation.demonstrations import CAREFUL_SHARE, DISCLOSURE, demonstrations
from preceptor.simulation.gold import judge
from preceptor.simulation.requests import KIND_SHARES, Request
from preceptor.simulation.users import draw_prompts, users
from preceptor.simulation.world import World
from preceptor.simulation.writers import CAREFUL, FLAWS, HURRIED, WEB, flawed, ideal, write

# Which component a flaw lowers; the others stay as they were. An unfinished answer may lose anything.
LOWERS = {
    "impolite": {"constraints"},
    "no thanks": {"constraints"},
    "wrong count": {"constraints"},
    "wrong length": {"constraints"},
    "lazy": {"task"},
    "ramble": {"concision"},
    "rude": {"rude"},
    "insult obeyed": {"task", "truth", "rude"},
    "made up": {"task", "truth"},
    "needless doubt": {"task", "truth"},
    "wrong fact": {"task", "truth"},
    "wrong subject": {"task"},
    "wrong category": {"task", "truth"},
    "wrong tone": {"task"},
}
COMPONENTS = ("task", "constraints", "truth", "concision", "rude")


@pytest.fixture(scope="module")
def world():
    return World.of(11)


@pytest.fixture(scope="module")
def tasks(world):
    return draw_prompts(world, users(world, 11).training, 2500, 11)


def test_ideal_answers_score_seven(world, tasks):
    assert {task.request.kind for task in tasks} == {kind for shares in KIND_SHARES.values() for kind in shares}
    for task in tasks:
        answer = ideal(world, task.prompt)
        assert judge(world, task.prompt, answer).score == pytest.approx(7.0), (task.prompt.text, answer)
        assert answer == ideal(world, task.prompt)


@pytest.mark.parametrize("flaw", FLAWS)
def test_a_flaw_lowers_its_own_components_only(world, tasks, flaw):
    found = 0
    for task in tasks:
        answer = flawed(world, task.prompt, flaw)
        if answer is None:
            continue
        found += 1
        good, bad = judge(world, task.prompt, ideal(world, task.prompt)), judge(world, task.prompt, answer)
        assert bad.score < good.score, (task.prompt.text, answer)
        if flaw != "unfinished":
            lowered = {name for name in COMPONENTS if abs(getattr(good, name) - getattr(bad, name)) > 1e-9}
            assert lowered == LOWERS[flaw], (task.prompt.text, answer, bad)
    assert found >= 20


def test_a_flaw_leaves_the_rest_of_the_text_alone():
    prompt = prompt_for(Request("story", "seal", constraints=("polite", "thanks")))
    good = ideal(WORLD, prompt)
    assert good.startswith("Of course, the seal ")
    assert good.endswith(" Thank you.")
    bare = good.removeprefix("Of course, t")
    assert flawed(WORLD, prompt, "impolite") == "T" + bare
    assert flawed(WORLD, prompt, "no thanks") == good.removesuffix(" Thank you.")
    assert flawed(WORLD, prompt, "unfinished") == good.removesuffix(" you.")
    assert flawed(WORLD, prompt, "rude").endswith(good)
    assert flawed(WORLD, prompt, "wrong count") is None
    assert flawed(WORLD, prompt, "wrong fact") is None


def test_an_unknown_flaw_is_an_error():
    with pytest.raises(ValueError, match="unknown flaw"):
        flawed(WORLD, prompt_for(Request("greeting")), "sleepy")


@pytest.mark.parametrize("seed", range(4))
def test_demonstrations_are_worth_between_5_and_5_6(seed):
    world = World.of(seed)
    tasks = draw_prompts(world, users(world, seed).training, 1500, seed)
    written = demonstrations(world, tasks, seed)
    gold = [judge(world, task.prompt, one.text).score for task, one in zip(tasks, written)]
    assert 5.0 < statistics.mean(gold) < 5.6
    assert [one.prompt_id for one in written] == [task.prompt.id for task in tasks]
    assert written == demonstrations(world, tasks, seed)


def test_writers_do_as_their_table_says(world):
    """Constraints kept and honesty, counted on requests where they show in the text."""
    rng = random.Random(1)
    polite = prompt_for(Request("greeting", constraints=("polite",)))
    stranger = prompt_for(Request("fact", world.strangers[0], "town"))
    for writer in (CAREFUL, HURRIED, WEB):
        kept = sum("Of course," in write(world, polite, writer, rng) for _ in range(4000)) / 4000
        honest = sum("I do not know." in write(world, stranger, writer, rng) for _ in range(4000)) / 4000
        rude = sum(judge(world, stranger, write(world, stranger, writer, rng)).rude for _ in range(4000)) / 4000
        assert kept == pytest.approx(writer.follows, abs=0.03)
        assert honest == pytest.approx(writer.honest, abs=0.03)
        assert rude == pytest.approx(writer.rude, abs=0.03)


def test_the_careful_write_better_than_the_hurried(world, tasks):
    rng = random.Random(2)
    mean = {
        writer.name: statistics.mean(
            judge(world, task.prompt, write(world, task.prompt, writer, rng)).score for task in tasks
        )
        for writer in (CAREFUL, HURRIED, WEB)
    }
    assert mean["careful"] > 6 > mean["hurried"] > mean["web"]


def test_the_disclosure_states_the_share_of_hurried_demonstrations():
    assert any(f"{1 - CAREFUL_SHARE:.0%}" in sentence for sentence in DISCLOSURE)
    assert "65%" in " ".join(DISCLOSURE)
