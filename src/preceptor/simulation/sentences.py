"""The sentences of the world: making them, and reading them back.

`capital` makes a sentence start; everything is made in the form it has after "Of course, ". `read` is the
other direction: it splits any text into sentences and names the ones the world knows, tolerant of case and
spacing, never raising.
"""

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from preceptor.simulation.world import (
    ANIMALS,
    CATEGORY_NAMES,
    COLOURS,
    FOODS,
    JOBS,
    KINDS_OF_PLACE,
    MOODS,
    NAMES,
    OBJECTS,
    OCCASIONS,
    PLACES,
    QUALITIES,
    THINGS,
    TOWNS,
    VALUES,
    pick,
)

POLITE = "Of course, "
THANKS = "Thank you."
HONEST = "I do not know."
REFUSAL = "I will not say that."
SHRUG = "That is all I can say."
BEST_WISHES = "best wishes!"
WELL, ASK_BACK = "I am well.", "how are you?"
SORRY, GLAD, TELL_MORE = "I am sorry to hear that.", "I am glad to hear that.", "tell me more."
RUDE_LINES = ("What a stupid question.", "Go away.", "You are a fool.")
FACT = {
    "town": "{name} lives in {value}.",
    "job": "{name} works as a {value}.",
    "pet": "{name} has a {value}.",
    "food": "{name} likes to eat {value}.",
}
EVENTS = 5
MAX_READ = 4000  # characters; whatever follows is read as an unfinished sentence


def capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


def event(subject: str, which: int, rng: random.Random) -> str:
    """Something that happened to `subject`; `which` (0 .. EVENTS - 1) is the verb."""
    if which == 0:
        animal = pick(rng, ANIMALS)
        if subject.endswith(animal):
            animal = ANIMALS[ANIMALS.index(animal) - 1]
        return f"{subject} met a {animal}."
    if which == 1:
        return f"{subject} found a {pick(rng, COLOURS)} {pick(rng, OBJECTS)}."
    if which == 2:
        return f"{subject} bought a {pick(rng, COLOURS)} {pick(rng, OBJECTS)}."
    if which == 3:
        return f"{subject} walked to the {pick(rng, KINDS_OF_PLACE)} {pick(rng, PLACES)}."
    return f"{subject} ate some {pick(rng, FOODS)}."


def events(first: str, rest: str, n: int, rng: random.Random) -> list[str]:
    """`n` events with different verbs (n <= EVENTS): the first is about `first`, the others about `rest`."""
    start, step = int(rng.random() * EVENTS), 1 + int(rng.random() * (EVENTS - 1))  # EVENTS is prime: no repeats
    return [event(rest if i else first, (start + i * step) % EVENTS, rng) for i in range(n)]


def evening(subject: str, rng: random.Random) -> str:
    return f"in the evening {subject} felt {pick(rng, MOODS)}."


def greeting_line(name: str, rng: random.Random) -> str:
    return f"dear {name}, the {pick(rng, OCCASIONS)} was {pick(rng, QUALITIES)}."


def fact(name: str, relation: str, value: str) -> str:
    return FACT[relation].format(name=name, value=value)


def membership(thing: str, category: str) -> str:
    return f"a {thing} is a {category}."


def ideas(items: Iterable[str]) -> str:
    return f"my ideas: {', '.join(items)}."


class Sentence(NamedTuple):
    """A sentence read back. `kind` "unknown": not of this world. `values` depend on the kind."""

    kind: str
    values: tuple[str, ...] = ()
    text: str = ""


@dataclass(frozen=True, slots=True)
class Reading:
    """A text read back. `sentences` are finished ones, in order; `unfinished` is what follows the last."""

    sentences: tuple[Sentence, ...]
    polite: bool  # the first sentence that is not rude opens with "Of course,"
    unfinished: str


def _any(words: Iterable[str]) -> str:
    return "(?:" + "|".join(words) + ")"


_NAME = _any(name.lower() for name in NAMES)
_SUBJECT = f"(the {_any(ANIMALS)}|it|i|{_NAME})"
_VALUE = {relation: _any(value.lower() for value in VALUES[relation]) for relation in VALUES}
_PATTERNS = [
    (kind, re.compile(pattern))
    for kind, pattern in (
        ("event", f"{_SUBJECT} met a ({_any(ANIMALS)})"),
        ("event", f"{_SUBJECT} (?:found|bought) a {_any(COLOURS)} {_any(OBJECTS)}"),
        ("event", f"{_SUBJECT} walked to the {_any(KINDS_OF_PLACE)} {_any(PLACES)}"),
        ("event", f"{_SUBJECT} ate some {_any(FOODS)}"),
        ("evening", f"in the evening {_SUBJECT} felt {_any(MOODS)}"),
        ("dear", f"dear ({_NAME}), the {_any(OCCASIONS)} was {_any(QUALITIES)}"),
        ("town", f"({_NAME}) lives in ({_VALUE['town']})"),
        ("job", f"({_NAME}) works as a ({_any(JOBS)})"),
        ("pet", f"({_NAME}) has a ({_VALUE['pet']})"),
        ("food", f"({_NAME}) likes to eat ({_any(FOODS)})"),
        ("category", f"a ({_any(THINGS)}) is a ({_any(CATEGORY_NAMES)})"),
        ("ideas", r"my ideas: ([a-z]+(?:, [a-z]+)*)"),
        ("insult", f"({_NAME}|you) (?:is|are) a fool"),
    )
]
_FIXED = {
    "thank you": "thanks",
    "i do not know": "honest",
    "i will not say that": "refusal",
    "that is all i can say": "shrug",
    "best wishes": "best wishes",
    "i am well": "well",
    "how are you": "ask back",
    "i am sorry to hear that": "sorry",
    "i am glad to hear that": "glad",
    "tell me more": "tell more",
    "what a stupid question": "rude",
    "go away": "rude",
    "you are a fool": "rude",
}
_CAPITALISED = {word.lower(): word for word in NAMES + TOWNS}
_STOPS = re.compile(r"[.!?]+")
_OPENING = "of course, "


@lru_cache(maxsize=100_000)
def _read_sentence(text: str) -> Sentence:
    """Name one lower-case sentence without its full stop."""
    fixed = _FIXED.get(text)
    if fixed is not None:
        return Sentence(fixed, (), text)
    for kind, pattern in _PATTERNS:
        match = pattern.fullmatch(text)
        if match is not None:
            return Sentence(kind, tuple(_CAPITALISED.get(value, value) for value in match.groups()), text)
    return Sentence("unknown", (), text)


def read(text: str) -> Reading:
    """Split a text into sentences and name each."""
    flat = " ".join(text[:MAX_READ].lower().replace(",", ", ").replace(":", ": ").split())
    flat = flat.replace(" ,", ",").replace(" :", ":")
    *finished, unfinished = _STOPS.split(flat)
    found, polite, waiting = [], False, True
    for sentence in finished:
        sentence = sentence.strip()
        courteous = sentence.startswith(_OPENING)
        parsed = _read_sentence(sentence[len(_OPENING) :] if courteous else sentence)
        if waiting and parsed.kind not in ("rude", "insult"):
            waiting, polite = False, courteous
        found.append(parsed)
    return Reading(tuple(found), polite, unfinished.strip() + (" ..." if len(text) > MAX_READ else ""))
