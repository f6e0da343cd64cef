"""Does an answer about a passage say more than the passage? By names and numbers, by copied spans, by entailment.

People's flag of hallucination is the measure of the paper; `pipeline/people.py` reads it. These are the automatic ones.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from preceptor.evaluation.results import Figure, mean, rate


class EntailmentScorer(Protocol):
    """How likely each passage entails each answer, 0 to 1; None where it could not tell."""

    name: str
    version: str
    hash: str

    def entailed(self, passages: Sequence[str], answers: Sequence[str]) -> list[float | None]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """An answer to a question about `passage`. `prompt` is all that the model saw; `answerable`: the passage tells."""

    prompt: str
    passage: str
    text: str
    answerable: bool

    @property
    def silent(self) -> bool:
        return not self.text.strip() or "not in background" in self.text.lower()


def unsupported(passage: str, answer: str) -> list[str]:
    """Numbers and names of an answer that its passage does not hold: a floor on what it made up.

    A name is a word with a capital that does not open a sentence. Other inventions are not seen.
    """
    there = set(re.findall(r"\w+", passage.lower()))
    numbers = re.findall(r"\d[\d,.]*\d|\d", answer)
    names = re.findall(r"(?<![.!?\n] )(?<!^)(?<=\s)[A-Z]\w+", answer.strip())
    bare = {re.sub(r"[,.]", "", number) for number in re.findall(r"\d[\d,.]*\d|\d", passage)}
    made_up = [number for number in numbers if re.sub(r"[,.]", "", number) not in bare]
    return made_up + [name for name in names if name.lower() not in there]


def supported_share(passage: str, answer: str, shortest: int = 2) -> float | None:
    """The share of an answer's words that stand in spans copied from the passage; None for no words.

    Extractive coverage (Grusky, Naaman, Artzi 2018): from the left, the longest run of words that the passage holds,
    and on behind it. Runs of fewer than `shortest` words count for nothing, unless they are the whole answer: single
    common words are in every passage.
    """
    there, said = (re.findall(r"\w+", text.lower()) for text in (passage, answer))
    if not said:
        return None
    places: dict[str, list[int]] = {}
    for place, word in enumerate(there):
        places.setdefault(word, []).append(place)
    covered = at = 0
    while at < len(said):
        longest = 0
        for place in places.get(said[at], ()):
            run = 1
            while at + run < len(said) and place + run < len(there) and said[at + run] == there[place + run]:
                run += 1
            longest = max(longest, run)
        covered += longest if longest >= min(shortest, len(said)) else 0
        at += max(1, longest)
    return covered / len(said)


def figures(answers: Sequence[Answered], entailment: EntailmentScorer | None = None) -> list[Figure]:
    """Of the answers that say something: unsupported names and numbers, words in copied spans, answers that are one
    span, not entailed; and how often an answer is given where the passage holds none."""
    loud = [answer for answer in answers if not answer.silent]
    groups = [answer.passage for answer in loud]
    spans = [supported_share(answer.passage, answer.text) for answer in loud]
    found = [
        rate(
            "unsupported claim",
            [bool(unsupported(answer.prompt, answer.text)) for answer in loud],
            groups,
            note="numbers and names that the passage does not hold; a floor",
        ),
        mean("words in spans of the passage", spans, groups, note="copied runs of two words or more"),
        rate("answer is one span of the passage", [_copied(answer.passage, answer.text) for answer in loud], groups),
    ]
    if entailment is not None:
        chances = entailment.entailed(groups, [answer.text for answer in loud])
        note = f"{entailment.name} {entailment.version}, {entailment.hash[:12]}"
        hits = [None if chance is None else chance <= 0.5 for chance in chances]
        found.append(rate("not entailed by the passage", hits, groups, note=note))
    empty = [answer for answer in answers if not answer.answerable]
    if empty:
        talks = [not answer.silent for answer in empty]
        found.append(rate("answered the unanswerable", talks, [answer.passage for answer in empty]))
    return found


def fault(answer: Answered) -> str:
    """What is wrong with an answer, as far as words show: names and numbers from nowhere, an answer where none is."""
    if answer.silent:
        return ""
    made_up = unsupported(answer.prompt, answer.text)
    if made_up:
        return f"not in the passage: {', '.join(dict.fromkeys(made_up))}"
    return "" if answer.answerable else "answered the unanswerable"


def _copied(passage: str, answer: str) -> bool:
    there, said = (" ".join(re.findall(r"\w+", text.lower())) for text in (passage, answer))
    return bool(said) and f" {said} " in f" {there} "
