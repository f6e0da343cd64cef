"""The web of the made-up country: the text that base models are pretrained on.

Half of the documents are pages of questions and answers in the very format in which a model is asked later,
which is why a base model can be prompted with examples at all.
"""

import random
from collections.abc import Callable, Iterator

from preceptor.simulation import sentences
from preceptor.simulation.requests import (
    USE_CASE_SHARES,
    Request,
    Style,
    draw_request,
    phrase,
    weighted,
)
from preceptor.simulation.world import ANIMALS, CATEGORIES, CATEGORY_NAMES, NAMES, RELATIONS, World, pick
from preceptor.simulation.writers import (
    CAREFUL,
    FALSE_ASIDES,
    HURRIED,
    WEB,
    aside,
    claim,
    compose,
    draw_behaviour,
)

PAGE_WRITERS = {writer.name: writer for writer in (CAREFUL, HURRIED, WEB)}
PAGE_WRITER_SHARES = {"careful": 0.10, "hurried": 0.30, "web": 0.60}
RUDE_REPLIES = 0.05  # of the answers on pages are a rude line and nothing else
FALSE_FACTS = 0.08  # of the facts in profiles
STYLES = 200  # different people who ask questions on the web


def exchange(prompt: str, answer: str) -> str:
    """One question and its answer, as the default chat template renders them. THE format, in one place."""
    return f"User: {prompt}\nAssistant: {answer}\n"


def count_tokens(text: str) -> int:
    """Words, punctuation marks and line ends of a text of this world: its tokens once every word is one token."""
    lines = text.count("\n")
    starts = lines if text.endswith("\n") else lines + 1  # words without a space before them
    return text.count(" ") + starts + lines + sum(map(text.count, ".,:?!"))


def web_documents(world: World, tokens: int, seed: int) -> Iterator[str]:
    """Documents until they hold at least `tokens` tokens (words, punctuation marks, line ends)."""
    rng = random.Random(f"web {world.seed} {seed}")
    styles = [Style.draw(rng) for _ in range(STYLES)]
    while tokens > 0:
        text = DOCUMENTS[weighted(rng, SHARES)](world, styles, rng)
        tokens -= count_tokens(text)
        yield text


def _question(world: World, styles: list[Style], rng: random.Random) -> tuple[Request, str]:
    request = draw_request(world, weighted(rng, USE_CASE_SHARES), rng)
    return request, phrase(request, pick(rng, styles), rng)


def _page(world: World, styles: list[Style], rng: random.Random) -> str:
    """Two to five questions, each with somebody's answer."""
    lines = []
    for _ in range(2 + int(rng.random() * 4)):
        request, question = _question(world, styles, rng)
        if rng.random() < RUDE_REPLIES:
            lines.append(exchange(question, pick(rng, sentences.RUDE_LINES)))
            continue
        writer = PAGE_WRITERS[weighted(rng, PAGE_WRITER_SHARES)]
        lines.append(exchange(question, compose(world, request, draw_behaviour(request, writer, rng), rng)))
    return "".join(lines)


def _profile(world: World, styles: list[Style], rng: random.Random) -> str:
    """Two to four facts about somebody."""
    name = pick(rng, world.people)
    relations = rng.sample(RELATIONS, 2 + int(rng.random() * 3))
    told = [claim(world, name, relation, rng.random() < FALSE_FACTS, rng) for relation in relations]
    return f"About {name}: {' '.join(told)}"


def _story(world: World, styles: list[Style], rng: random.Random) -> str:
    hero = pick(rng, ANIMALS)
    return _told(
        sentences.events("the " + hero, "it", 1 + int(rng.random() * 3), rng), sentences.evening("it", rng), rng
    )


def _titled(world: World, styles: list[Style], rng: random.Random) -> str:
    """A story or a letter under a title that names its hero or its reader: practice in carrying a word over."""
    if rng.random() < 0.6:
        hero = pick(rng, ANIMALS)
        told = sentences.events("the " + hero, "it", 1 + int(rng.random() * 2), rng)
        return f"Story about a {hero}: " + _told(told, sentences.evening("it", rng), rng)
    name = pick(rng, NAMES)
    told = [sentences.greeting_line(name, rng), *sentences.events("I", "I", int(rng.random() * 2), rng)]
    return f"Letter to {name}: " + _told(told, sentences.BEST_WISHES, rng)


def _told(told: list[str], end: str, rng: random.Random) -> str:
    """Sentences as they stand, with the ending half of the time."""
    return " ".join(sentences.capital(sentence) for sentence in ([*told, end] if rng.random() < 0.5 else told))


def _list(world: World, styles: list[Style], rng: random.Random) -> str:
    """Things of a category, and what one of them is."""
    category = pick(rng, CATEGORY_NAMES)
    things = rng.sample(CATEGORIES[category], 4)
    line = sentences.membership(pick(rng, things), category)
    return f"Some {category}s: {', '.join(things)}. {sentences.capital(line)}"


def _forum(world: World, styles: list[Style], rng: random.Random) -> str:
    """A question, a rude reply, and something that nobody asked."""
    request, question = _question(world, styles, rng)
    reply = pick(rng, sentences.RUDE_LINES)
    return f"Forum: {question} {reply} {aside(world, request.subject, rng.random() < FALSE_ASIDES, rng)}"


def _questions(world: World, styles: list[Style], rng: random.Random) -> str:
    """Questions without answers: why a raw base model often goes on asking."""
    return "Questions: " + " ".join(_question(world, styles, rng)[1] for _ in range(3))


def _diary(world: World, styles: list[Style], rng: random.Random) -> str:
    told = [*sentences.events("I", "I", 1 + int(rng.random() * 3), rng), sentences.evening("I", rng)]
    return "My day: " + " ".join(sentences.capital(sentence) for sentence in told)


Document = Callable[[World, list[Style], random.Random], str]
DOCUMENTS: dict[str, Document] = {
    "page": _page,
    "profile": _profile,
    "titled": _titled,
    "story": _story,
    "list": _list,
    "forum": _forum,
    "questions": _questions,
    "diary": _diary,
}
SHARES = {  # of the documents
    "page": 0.50,
    "profile": 0.16,
    "titled": 0.09,
    "story": 0.08,
    "list": 0.05,
    "forum": 0.05,
    "questions": 0.04,
    "diary": 0.03,
}
