import collections
import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from preceptor.simulation.demonstrations import demonstrations
from preceptor.simulation.users import draw_prompts, users
from preceptor.simulation.web import SHARES, count_tokens, exchange, web_documents
from preceptor.simulation.world import CATEGORY_OF, PEOPLE, RELATIONS, THINGS, VALUES, World
from preceptor.simulation.writers import ideal

# What GPT-2 cuts a text into before its byte-pair merges, for ASCII text.
PRETOKEN = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+")

FINGERPRINT = """
import hashlib
from preceptor.simulation.demonstrations import demonstrations
from preceptor.simulation.users import draw_prompts, users
from preceptor.simulation.web import web_documents
from preceptor.simulation.world import World
world = World.of(5)
tasks = draw_prompts(world, users(world, 5).training, 50, 5)
parts = [*web_documents(world, 5000, 5), *(task.prompt.id for task in tasks)]
parts += [demonstration.id for demonstration in demonstrations(world, tasks, 5)]
print(hashlib.sha256("|".join(parts).encode()).hexdigest())
"""


def test_the_facts_of_a_world():
    world = World.of(3)
    assert len(world.people) == PEOPLE
    assert not set(world.people) & set(world.strangers)
    assert set(world.facts) == {(name, relation) for name in world.people for relation in RELATIONS}
    assert all(value in VALUES[relation] for (_, relation), value in world.facts.items())
    towns = collections.Counter(world.facts[name, "town"] for name in world.people)
    assert set(towns.values()) == {2}  # 16 people, 8 towns: dealt evenly
    assert World.of(3) == world
    assert World.of(4).facts != world.facts
    assert len(CATEGORY_OF) == len(THINGS) == len(set(THINGS))


def test_no_noun_needs_an():
    nouns = [*THINGS, *CATEGORY_OF.values(), *VALUES["job"], *VALUES["pet"]]
    assert not [noun for noun in nouns if noun[0] in "aeiou"]


def test_users_are_disjoint_and_prompts_keep_to_them():
    world = World.of(1)
    pools = users(world, 1)
    assert [len(pool) for pool in (pools.training, pools.validation, pools.held_out)] == [50, 10, 15]
    ids = [user.id for pool in (pools.training, pools.validation, pools.held_out) for user in pool]
    assert len(set(ids)) == 75
    for pool, split in ((pools.training, "train"), (pools.validation, "valid"), (pools.held_out, "test")):
        tasks = draw_prompts(world, pool, 200, 1)
        assert {task.prompt.user_id for task in tasks} <= {user.id for user in pool}
        assert {task.prompt.split for task in tasks} == {split}
        assert len({task.prompt.id for task in tasks}) == 200
        assert all(json.loads(json.dumps(task.prompt.meta)) == task.request.as_meta() for task in tasks)


def test_use_cases_come_in_the_shares_of_the_world():
    world = World.of(2)
    tasks = draw_prompts(world, users(world, 2).training, 4000, 2)
    seen = collections.Counter(task.prompt.use_case for task in tasks)
    assert 0.40 < seen["generation"] / 4000 < 0.65
    assert 0.10 < seen["open qa"] / 4000 < 0.25
    assert set(seen) == {"generation", "open qa", "brainstorming", "chat", "classification"}


def test_users_who_run_dry_are_an_error():
    world = World.of(1)
    with pytest.raises(ValueError, match="different prompts"):
        draw_prompts(world, [replace(users(world, 1).training[0], shares={"chat": 1.0})], 3000, 1)


def test_everything_is_the_same_in_another_process():
    runs = [
        subprocess.run(
            [sys.executable, "-c", FINGERPRINT],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1] != ""


def test_the_web_has_few_words_and_none_is_rare():
    world = World.of(7)
    documents = list(web_documents(world, 300_000, 7))
    counts = collections.Counter(piece for text in documents for piece in PRETOKEN.findall(text))
    assert 200 < len(counts) <= 330
    assert min(counts.values()) >= 40
    total = sum(counts.values())
    assert total == sum(map(count_tokens, documents))
    assert 300_000 <= total < 300_400
    pools = users(world, 7)
    for task in draw_prompts(world, pools.training, 1000, 7) + draw_prompts(world, pools.held_out, 300, 7):
        page = exchange(task.prompt.text, ideal(world, task.prompt))
        assert set(PRETOKEN.findall(page)) <= set(counts)


def test_documents_come_in_their_shares():
    documents = list(web_documents(World.of(7), 300_000, 7))
    starts = collections.Counter(text.split(" ", 1)[0] for text in documents)
    n = len(documents)
    assert sum(SHARES.values()) == pytest.approx(1.0)
    assert starts["User:"] / n == pytest.approx(0.50, abs=0.03)
    assert starts["About"] / n == pytest.approx(0.16, abs=0.03)
    assert (starts["Story"] + starts["Letter"]) / n == pytest.approx(0.09, abs=0.02)


def test_an_exchange_is_two_lines():
    assert exchange("How are you?", "I am well.") == "User: How are you?\nAssistant: I am well.\n"


def test_answers_are_one_line():
    world = World.of(1)
    tasks = draw_prompts(world, users(world, 1).training, 500, 1)
    for demonstration in demonstrations(world, tasks, 1):
        assert "\n" not in demonstration.text
        assert demonstration.text == demonstration.text.strip() != ""
