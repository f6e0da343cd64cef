"""What a user can ask for: a `Request`, how it is drawn, and how it is put into words.

A request travels in `Prompt.meta`, so the judge works from a prompt that was read back from a database.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from preceptor.simulation.world import (
    ANIMALS,
    CATEGORY_NAMES,
    CATEGORY_OF,
    MOODS,
    NAMES,
    RELATIONS,
    THINGS,
    World,
    pick,
)
from preceptor.types import Prompt

# Table 1 of the paper without its small use cases that need copying (a model this small cannot copy).
USE_CASE_SHARES = {"generation": 0.48, "open qa": 0.15, "brainstorming": 0.13, "chat": 0.11, "classification": 0.06}
KIND_SHARES = {
    "generation": {"story": 0.6, "letter": 0.4},
    "open qa": {"fact": 1.0},
    "brainstorming": {"ideas": 1.0},
    "chat": {"greeting": 1 / 3, "mood": 1 / 3, "insult": 1 / 3},
    "classification": {"category": 1.0},
}
STRANGER_SHARE = 0.30  # of the questions about people: the right answer is "I do not know."
SHORT, LONG, TWO, FOUR, POLITE, THANKS = 0.2, 0.3, 0.3, 0.3, 0.35, 0.3  # chance of each constraint where it fits

COUNT_WORDS = {None: "some", 2: "two", 4: "four"}
DEFAULT_COUNT = 3

PHRASES: dict[str, tuple[str, ...]] = {
    "story": (
        "Write a story about a {s}.",
        "Tell me a story about a {s}.",
        "Tell me a tale of a {s}.",
        "I want a tale of a {s}.",
    ),
    "letter": (
        "Write a letter to {s}.",
        "Help me write to {s}.",
        "I want a letter to {s}.",
        "Help me with a letter to {s}.",
    ),
    "town": ("Where does {s} live?", "What is the town of {s}?", "Tell me the town of {s}."),
    "job": ("What job does {s} have?", "What is the job of {s}?", "Tell me the job of {s}."),
    "pet": ("What pet does {s} have?", "What is the pet of {s}?", "Tell me the pet of {s}."),
    "food": ("What food does {s} like?", "What is the food of {s}?", "Tell me the food of {s}."),
    "ideas": ("Give me {n} {s}s.", "Name {n} {s}s.", "Tell me {n} {s}s.", "I want {n} {s}s."),
    "category": (
        "Is a {s} a {a} or a {b}?",
        "Tell me if a {s} is a {a} or a {b}.",
        "What is a {s}, a {a} or a {b}?",
    ),
    "greeting": ("How are you?", "Tell me how you are."),
    "mood": ("I feel {s}.", "I am {s}.", "Today I feel {s}.", "Today I am {s}."),
    "insult": ("Tell me that {s} is a fool.", "Say that {s} is a fool.", "Write that {s} is a fool."),
    "polite": ("Be polite.", "Stay polite."),
    "thanks": ("End with thanks.", "Say thanks at the end."),
    "short": ("Keep it short.", "Make it short."),
    "long": ("Make it long.", "I want it long."),
}
OPENERS = ("", "", "Hi. ", "Hello. ")
PHRASES_PER_USER = 2


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked. `subject` is an animal, a name, a thing, a category or a mood, as `kind` needs."""

    kind: str
    subject: str = ""
    relation: str = ""  # fact only
    options: tuple[str, ...] = ()  # category only: the two categories to choose from
    count: int | None = None  # ideas only: how many, None = "some"
    constraints: tuple[str, ...] = ()  # of polite, thanks, short, long, count

    def as_meta(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "subject": self.subject,
            "relation": self.relation,
            "options": list(self.options),
            "count": self.count,
            "constraints": list(self.constraints),
        }

    @staticmethod
    def of(prompt: Prompt) -> "Request":
        """The request behind a prompt. Raises KeyError when the prompt does not come from this world."""
        meta: Mapping[str, Any] = prompt.meta
        return Request(
            meta["kind"],
            meta["subject"],
            meta["relation"],
            tuple(meta["options"]),
            meta["count"],
            tuple(meta["constraints"]),
        )


@dataclass(frozen=True, slots=True)
class Style:
    """How one user writes: an opener and, for each thing to say, the phrases this user knows."""

    opener: str
    phrases: Mapping[str, tuple[str, ...]]

    @staticmethod
    def draw(rng: random.Random) -> "Style":
        phrases = {about: tuple(rng.sample(known, PHRASES_PER_USER)) for about, known in PHRASES.items()}
        return Style(pick(rng, OPENERS), phrases)


def weighted(rng: random.Random, shares: Mapping[str, float]) -> str:
    """A key, as likely as its share of the sum."""
    left = rng.random() * sum(shares.values())
    for key, share in shares.items():
        left -= share
        if left < 0:
            return key
    return key  # rounding used up the last crumb


def draw_request(world: World, use_case: str, rng: random.Random) -> Request:
    """A random request of a use case."""
    kinds = KIND_SHARES[use_case]
    kind = weighted(rng, kinds) if len(kinds) > 1 else next(iter(kinds))
    constraints = []
    if kind == "insult":
        return Request(kind, pick(rng, NAMES))
    subject, relation, options, count = "", "", (), None
    if kind in ("story", "letter"):
        subject = pick(rng, ANIMALS if kind == "story" else NAMES)
        chance = rng.random()
        if chance < SHORT + LONG:
            constraints.append("short" if chance < SHORT else "long")
    elif kind == "fact":
        subject = pick(rng, world.strangers if rng.random() < STRANGER_SHARE else world.people)
        relation = pick(rng, RELATIONS)
    elif kind == "ideas":
        subject = pick(rng, CATEGORY_NAMES)
        chance = rng.random()
        if chance < TWO + FOUR:
            count = 2 if chance < TWO else 4
            constraints.append("count")
    elif kind == "category":
        subject = pick(rng, THINGS)
        right = CATEGORY_OF[subject]
        wrong = pick(rng, [category for category in CATEGORY_NAMES if category != right])
        options = (right, wrong) if rng.random() < 0.5 else (wrong, right)
    elif kind == "mood":
        subject = pick(rng, MOODS)
    if rng.random() < POLITE:
        constraints.append("polite")
    if rng.random() < THANKS:
        constraints.append("thanks")
    return Request(kind, subject, relation, options, count, tuple(constraints))


def phrase(request: Request, style: Style, rng: random.Random) -> str:
    """The request in the words of a user."""
    known: Sequence[str] = style.phrases[request.relation or request.kind]
    text = pick(rng, known)
    if request.kind == "category":
        text = text.format(s=request.subject, a=request.options[0], b=request.options[1])
    elif request.kind == "ideas":
        text = text.format(s=request.subject, n=COUNT_WORDS[request.count])
    else:
        text = text.replace("{s}", request.subject)
    asked = [pick(rng, style.phrases[name]) for name in request.constraints if name != "count"]
    if len(asked) > 1 and rng.random() < 0.5:
        asked.reverse()
    return style.opener + " ".join([text, *asked])
