"""People who write answers: the writers of demonstrations and of web pages, the ideal and the flawed answer.

A `Behaviour` says what one answer does well and badly; `compose` turns it into text. What a writer does is
drawn from the chances in `WRITERS`; the ideal answer has no flaw, a flawed one has exactly one.
"""

import random
from dataclasses import dataclass, replace

from preceptor.simulation import sentences
from preceptor.simulation.requests import DEFAULT_COUNT, Request
from preceptor.simulation.world import (
    CATEGORIES,
    CATEGORY_OF,
    GOOD_MOODS,
    NAMES,
    RELATIONS,
    THINGS,
    VALUES,
    World,
    pick,
)
from preceptor.types import Prompt


@dataclass(frozen=True, kw_only=True, slots=True)
class Writer:
    """The chance of each behaviour in one answer."""

    name: str
    follows: float  # a constraint; each is drawn by itself
    honest: float  # says "I do not know." about a stranger
    lazy: float  # leaves out the ending, or ends with a shrug
    rambles: float  # adds a sentence that has nothing to do with the question
    rude: float  # begins with a rude line
    obeys: float  # writes the insult that is asked for
    slips: float  # gets the main thing wrong: animal, name, fact, category or tone


CAREFUL = Writer(name="careful", follows=0.85, honest=0.90, lazy=0.15, rambles=0.05, rude=0.01, obeys=0.10, slips=0.01)
HURRIED = Writer(name="hurried", follows=0.30, honest=0.25, lazy=0.75, rambles=0.40, rude=0.06, obeys=0.60, slips=0.03)
WEB = Writer(name="web", follows=0.40, honest=0.20, lazy=0.60, rambles=0.40, rude=0.20, obeys=0.80, slips=0.05)
WRITERS = (CAREFUL, HURRIED, WEB)
FALSE_ASIDES = 0.10  # of the irrelevant sentences that state a fact

FLAWS = (
    "impolite",
    "no thanks",
    "wrong count",
    "wrong length",
    "lazy",
    "ramble",
    "unfinished",
    "rude",
    "insult obeyed",
    "made up",
    "needless doubt",
    "wrong fact",
    "wrong subject",
    "wrong category",
    "wrong tone",
)
_DROPS = {"impolite": "polite", "no thanks": "thanks", "wrong count": "count"}
_SLIPS = {
    "story": "wrong subject",
    "letter": "wrong subject",
    "fact": "wrong fact",
    "ideas": "wrong category",
    "category": "wrong category",
    "mood": "wrong tone",
}


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What one answer does. The defaults are the ideal answer to a request without constraints."""

    follows: tuple[str, ...] = ()
    honest: bool = True
    lazy: bool = False
    rambles: bool = False
    rude: bool = False
    obeys: bool = False
    slips: bool = False
    lies: bool = False  # the irrelevant sentence, if it states a fact, states a false one
    doubts: bool = False  # says "I do not know." about somebody known


def draw_behaviour(request: Request, writer: Writer, rng: random.Random) -> Behaviour:
    chance = rng.random
    return Behaviour(
        tuple([name for name in request.constraints if chance() < writer.follows]),
        chance() < writer.honest,
        chance() < writer.lazy,
        chance() < writer.rambles,
        chance() < writer.rude,
        chance() < writer.obeys,
        chance() < writer.slips,
        chance() < FALSE_ASIDES,
    )


def write(world: World, prompt: Prompt, writer: Writer, rng: random.Random) -> str:
    """An answer as this writer would give it."""
    request = Request.of(prompt)
    return compose(world, request, draw_behaviour(request, writer, rng), rng)


def ideal(world: World, prompt: Prompt) -> str:
    """A faultless answer: gold 7. The same one each time it is asked for."""
    request = Request.of(prompt)
    return compose(world, request, Behaviour(request.constraints), random.Random(f"ideal {world.seed} {prompt.id}"))


def flawed(world: World, prompt: Prompt, flaw: str) -> str | None:
    """The ideal answer with exactly one flaw of `FLAWS`; None where this flaw cannot occur.

    Raises ValueError for an unknown flaw.
    """
    if flaw not in FLAWS:
        raise ValueError(f"unknown flaw {flaw!r}; known: {', '.join(FLAWS)}")
    request = Request.of(prompt)
    behaviour = _spoil(world, request, Behaviour(request.constraints), flaw)
    if behaviour is None:
        return None
    rng = random.Random(f"ideal {world.seed} {prompt.id}")  # the content of the ideal answer is drawn again
    text = compose(world, request, behaviour, rng)
    if flaw == "unfinished":
        return text.rsplit(" ", 1)[0]
    return text


def _spoil(world: World, request: Request, good: Behaviour, flaw: str) -> Behaviour | None:
    """`good` with one flaw, or None where the flaw cannot occur."""
    kind, constraints = request.kind, request.constraints
    stranger = request.subject in world.strangers
    without = {name for name in constraints if name == _DROPS.get(flaw)}
    if flaw == "wrong length":
        without = {"short", "long"}.intersection(constraints)
    if without:
        return replace(good, follows=tuple(name for name in constraints if name not in without))
    if flaw == "ramble":
        return replace(good, rambles=True)
    if flaw == "rude":
        return replace(good, rude=True)
    if flaw == "unfinished":
        return good
    if flaw == "lazy" and "short" not in constraints:
        return replace(good, lazy=True)
    if flaw == "insult obeyed" and kind == "insult":
        return replace(good, obeys=True)
    if flaw == "made up" and kind == "fact" and stranger:
        return replace(good, honest=False)
    if flaw == "needless doubt" and kind == "fact" and not stranger:
        return replace(good, doubts=True)
    if flaw == _SLIPS.get(kind) and not (kind == "fact" and stranger):
        return replace(good, slips=True)
    return None


def compose(world: World, request: Request, behaviour: Behaviour, rng: random.Random) -> str:
    """The text of an answer. Content is drawn before flaws, so one seed gives one content with any flaw."""
    core = _CORE[request.kind](world, request, behaviour, rng)
    core[0] = sentences.POLITE + core[0] if "polite" in behaviour.follows else sentences.capital(core[0])
    parts = [core[0], *[sentences.capital(sentence) for sentence in core[1:]]]
    if behaviour.rambles:
        parts.append(aside(world, request.subject, behaviour.lies, rng))
    if behaviour.rude:
        parts.insert(0, pick(rng, sentences.RUDE_LINES))
    if "thanks" in behaviour.follows:
        parts.append(sentences.THANKS)
    return " ".join(parts)


def aside(world: World, subject: str, lies: bool, rng: random.Random) -> str:
    """A sentence about anybody but `subject`: a fact, false when it `lies`, or an event."""
    name = pick(rng, world.people)
    if name == subject:
        name = world.people[world.people.index(name) - 1]
    if rng.random() < 0.5:
        return sentences.event(name, int(rng.random() * sentences.EVENTS), rng)
    return claim(world, name, pick(rng, RELATIONS), lies, rng)


def claim(world: World, name: str, relation: str, false: bool, rng: random.Random) -> str:
    """A sentence with the fact about somebody known, or with any other value when `false`."""
    value = world.facts[name, relation]
    return sentences.fact(name, relation, _other(VALUES[relation], value, rng) if false else value)


def _other(options: tuple[str, ...], one: str, rng: random.Random) -> str:
    """Any of `options` but `one`."""
    return options[(options.index(one) + 1 + int(rng.random() * (len(options) - 1))) % len(options)]


def _length(behaviour: Behaviour) -> tuple[int, bool]:
    """How many events, and whether an ending follows. Without an ending a lazy answer is also shorter."""
    if "short" in behaviour.follows:
        return 1, False
    if "long" in behaviour.follows:
        return (4, False) if behaviour.lazy else (3, True)
    return 2, not behaviour.lazy


def _story(world: World, request: Request, behaviour: Behaviour, rng: random.Random) -> list[str]:
    hero = request.subject
    told = sentences.events("the " + hero, "it", 4, rng)
    end = sentences.evening("it", rng)
    n, ends = _length(behaviour)
    if behaviour.slips:
        wrong = pick(rng, [animal for animal in CATEGORIES[CATEGORY_OF[hero]] if animal != hero])
        told[0] = told[0].replace("the " + hero, "the " + wrong, 1)
    return [*told[:n], end] if ends else told[:n]


def _letter(world: World, request: Request, behaviour: Behaviour, rng: random.Random) -> list[str]:
    name = request.subject
    told = [sentences.greeting_line(name, rng), *sentences.events("I", "I", 3, rng)]
    n, ends = _length(behaviour)
    if behaviour.slips:
        told[0] = told[0].replace(name, _other(NAMES, name, rng), 1)
    return [*told[:n], sentences.BEST_WISHES] if ends else told[:n]


def _shrug(core: list[str], behaviour: Behaviour) -> list[str]:
    return [*core, sentences.SHRUG] if behaviour.lazy else core


def _fact(world: World, request: Request, behaviour: Behaviour, rng: random.Random) -> list[str]:
    name, relation = request.subject, request.relation
    value = world.facts.get((name, relation))
    if behaviour.doubts or (value is None and behaviour.honest):
        return _shrug([sentences.HONEST], behaviour)
    if value is None:
        return _shrug([sentences.fact(name, relation, pick(rng, VALUES[relation]))], behaviour)
    return _shrug([claim(world, name, relation, behaviour.slips, rng)], behaviour)


def _ideas(world: World, request: Request, behaviour: Behaviour, rng: random.Random) -> list[str]:
    items = rng.sample(CATEGORIES[request.subject], 4)
    del items[request.count if request.count and "count" in behaviour.follows else DEFAULT_COUNT :]
    if behaviour.slips:
        items[-1] = pick(rng, [thing for thing in THINGS if CATEGORY_OF[thing] != request.subject])
    return _shrug([sentences.ideas(items)], behaviour)


def _category(world: World, request: Request, behaviour: Behaviour, rng: random.Random) -> list[str]:
    right = CATEGORY_OF[request.subject]
    first, second = request.options
    named = (second if first == right else first) if behaviour.slips else right
    return _shrug([sentences.membership(request.subject, named)], behaviour)


def _greeting(world: World, request: Request, behaviour: Behaviour, rng: random.Random) -> list[str]:
    return [sentences.WELL] if behaviour.lazy else [sentences.WELL, sentences.ASK_BACK]


def _mood(world: World, request: Request, behaviour: Behaviour, rng: random.Random) -> list[str]:
    fitting = sentences.GLAD if (request.subject in GOOD_MOODS) != behaviour.slips else sentences.SORRY
    return [fitting] if behaviour.lazy else [fitting, sentences.TELL_MORE]


def _insult(world: World, request: Request, behaviour: Behaviour, rng: random.Random) -> list[str]:
    return _shrug([f"{request.subject} is a fool." if behaviour.obeys else sentences.REFUSAL], behaviour)


_CORE = {
    "story": _story,
    "letter": _letter,
    "fact": _fact,
    "ideas": _ideas,
    "category": _category,
    "greeting": _greeting,
    "mood": _mood,
    "insult": _insult,
}
