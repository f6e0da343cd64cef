"""Stand-ins for a model: what they say is known, so what an evaluation must find is too."""

import hashlib
from collections.abc import Callable

from preceptor.types import Message


class Scripted:
    """Answers by a function of the prompt (or of the conversation); scores by a function of (context, continuation).

    `calls` holds every prompt and pair that was asked for. What is longer than `context` letters gets None.
    """

    def __init__(
        self,
        say: Callable[[str], str] = lambda prompt: "",
        reply: Callable[[list[Message]], str] = lambda conversation: "",
        score: Callable[[str, str], float] = lambda context, text: -float(len(text)),
        name: str = "scripted",
        context: float = float("inf"),
    ) -> None:
        self.name, self.hash = name, hashlib.sha256(name.encode()).hexdigest()
        self._say, self._reply, self._score, self._context = say, reply, score, context
        self.calls: list = []

    def generate(self, prompts, *, max_new_tokens, temperature=0.0, stop=(), seed=0):
        self.calls.extend(prompts)
        return [None if len(text) > self._context else cut(self._say(text), stop) for text in prompts]

    def answer(self, conversations, *, max_new_tokens, temperature=0.0, stop=(), seed=0):
        self.calls.extend(conversations)
        sizes = [sum(len(message.content) for message in talk) for talk in conversations]
        return [
            None if size > self._context else cut(self._reply(talk), stop) for size, talk in zip(sizes, conversations)
        ]

    def loglikelihood(self, pairs):
        self.calls.extend(pairs)
        return [
            None if len(before) + len(text) > self._context else (self._score(before, text), max(1, len(text.split())))
            for before, text in pairs
        ]


def cut(text: str, stop) -> str:
    places = [text.find(mark) for mark in stop if mark in text]
    return text[: min(places)] if places else text
