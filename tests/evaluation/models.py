"""Stand-ins for a model: what they say is known, so what an evaluation must find is too."""

import hashlib
from collections.abc import Callable

from preceptor.types import Message


class Scripted:
    """Answers by a function of the prompt (or of the conversation); scores by a function of (context, continuation).

    `calls` holds every prompt and pair that was asked for.
    """

    def __init__(
        self,
        say: Callable[[str], str] = lambda prompt: "",
        reply: Callable[[list[Message]], str] = lambda conversation: "",
        score: Callable[[str, str], float] = lambda context, text: -float(len(text)),
        name: str = "scripted",
    ) -> None:
        self.name, self.hash = name, hashlib.sha256(name.encode()).hexdigest()
        self._say, self._reply, self._score = say, reply, score
        self.calls: list = []

    def generate(self, prompts, *, max_new_tokens, temperature=0.0, stop=(), seed=0):
        self.calls.extend(prompts)
        return [cut(self._say(prompt), stop) for prompt in prompts]

    def answer(self, conversations, *, max_new_tokens, temperature=0.0, stop=(), seed=0):
        self.calls.extend(conversations)
        return [cut(self._reply(conversation), stop) for conversation in conversations]

    def loglikelihood(self, pairs):
        self.calls.extend(pairs)
        return [(self._score(context, text), max(1, len(text.split()))) for context, text in pairs]


def cut(text: str, stop) -> str:
    places = [text.find(mark) for mark in stop if mark in text]
    return text[: min(places)] if places else text
