"""The made-up country: its words, and the facts about its people that change with the seed.

The words are few and short on purpose: a model of a quarter of a million parameters must learn all of
them from under two million tokens. Every noun starts with a consonant, so "a" is always right.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

# fmt: off
NAMES = (
    "Ada", "Ben", "Carl", "Dora", "Emma", "Finn", "Gina", "Hugo", "Iris", "Jack", "Kate",
    "Leo", "Mia", "Nora", "Olga", "Paul", "Rosa", "Sam", "Tina", "Uma", "Vera", "Walt",
)
TOWNS = ("Rome", "Oslo", "Cairo", "Lima", "Paris", "Delhi", "Tokyo", "Quito")
JOBS = ("baker", "pilot", "doctor", "farmer", "nurse", "singer", "teacher", "painter")
PETS = ("cat", "dog", "pony", "rabbit")
COLOURS = ("red", "green", "white", "black", "blue", "brown")
FOODS = ("pie", "salad", "bread", "cake", "cheese", "soup", "rice", "pasta")
CATEGORIES: dict[str, tuple[str, ...]] = {
    "farm animal": ("hen", "horse", "pig", "sheep", "cow", "goat"),
    "water animal": ("crab", "whale", "seal", "frog", "shark", "squid"),
    "bird": ("swan", "crow", "hawk", "robin", "dove", "gull"),
    "tool": ("saw", "rake", "drill", "hammer", "spade", "ladder"),
    "fruit": ("plum", "pear", "lemon", "mango", "fig", "peach"),
}
OBJECTS = ("lamp", "ball", "book", "coat", "drum", "key", "ring", "bell")
PLACES = ("forest", "castle", "station", "school", "park", "market", "beach", "bridge")
KINDS_OF_PLACE = ("new", "quiet", "busy", "old")
GOOD_MOODS = ("happy", "calm", "proud")
BAD_MOODS = ("sad", "tired", "lonely")
OCCASIONS = ("party", "picnic", "concert", "dinner")
QUALITIES = ("great", "boring", "nice", "awful")
# fmt: on

MOODS = GOOD_MOODS + BAD_MOODS
ANIMALS = CATEGORIES["farm animal"] + CATEGORIES["water animal"] + CATEGORIES["bird"]
CATEGORY_NAMES = tuple(CATEGORIES)
CATEGORY_OF = {thing: category for category, things in CATEGORIES.items() for thing in things}
THINGS = tuple(CATEGORY_OF)

RELATIONS = ("town", "job", "pet", "food")
VALUES: dict[str, tuple[str, ...]] = {
    "town": TOWNS,
    "job": JOBS,
    "pet": tuple(f"{colour} {pet}" for colour in COLOURS for pet in PETS),
    "food": FOODS,
}
PEOPLE = 16  # of the names; the other six are strangers


def pick(rng: random.Random, options: Sequence[T]) -> T:
    """One of `options`, each as likely. Faster than `rng.choice`, and as reproducible."""
    return options[int(rng.random() * len(options))]


@dataclass(frozen=True, slots=True)
class World:
    """Who is known, who is a stranger, and the four facts about everyone known. Built by `World.of`."""

    seed: int
    people: tuple[str, ...]
    strangers: tuple[str, ...]
    facts: Mapping[tuple[str, str], str]  # (name, relation) -> value

    @staticmethod
    def of(seed: int) -> "World":
        """The world of a seed. Values are dealt out as evenly as possible, so none is much rarer than another."""
        rng = random.Random(f"world {seed}")
        names = rng.sample(NAMES, len(NAMES))
        people = tuple(sorted(names[:PEOPLE]))
        facts = {}
        for relation in RELATIONS:
            values = VALUES[relation]
            deck = [value for _ in range(PEOPLE // len(values) + 1) for value in rng.sample(values, len(values))]
            for name, value in zip(people, deck):
                facts[name, relation] = value
        return World(seed, people, tuple(sorted(names[PEOPLE:])), facts)

    def is_true(self, name: str, relation: str, value: str) -> bool:
        """Whether the fact holds. Nothing said about a stranger is true, for nobody can know it."""
        return self.facts.get((name, relation)) == value
