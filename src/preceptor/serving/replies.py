"""What the endpoints give: OpenAI's objects, whole and in pieces."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from preceptor.serving.news import Drawn, Finish
from preceptor.serving.words import Words

DONE = b"data: [DONE]\n\n"
LOWEST = -9999.0  # stands for minus infinity, which JSON cannot say


def event(data: dict) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


@dataclass(slots=True)
class Choice:
    """One answer so far."""

    text: str = ""
    drawn: list[Drawn] | None = None
    finish: Finish | None = None


@dataclass(frozen=True, slots=True)
class Head:
    """What every object of a request carries."""

    id: str
    created: int
    model: str
    fingerprint: str

    def of(self, kind: str, choices: list[dict], **more: Any) -> dict:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
            **more,
        }


def usage(prompt: int, completion: int) -> dict:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


class ChatShape:
    """chat.completion and chat.completion.chunk"""

    whole, part = "chat.completion", "chat.completion.chunk"

    def __init__(self, words: Words):
        self.words = words

    def opening(self, index: int) -> dict | None:
        """The first chunk of an answer says who speaks."""
        return _chunk(index, {"role": "assistant", "content": "", "refusal": None}, None, None)

    def chunk(self, index: int, text: str, drawn: Sequence[Drawn] | None, finish: Finish | None) -> dict:
        delta = {"content": text} if text or finish is None else {}
        return _chunk(index, delta, self.logprobs(drawn), finish)

    def choice(self, index: int, choice: Choice) -> dict:
        message = {"role": "assistant", "content": choice.text, "refusal": None}
        return {
            "index": index,
            "message": message,
            "logprobs": self.logprobs(choice.drawn),
            "finish_reason": choice.finish,
        }

    def logprobs(self, drawn: Sequence[Drawn] | None) -> dict | None:
        if drawn is None:
            return None
        content = [
            self._one(one.token, one.logprob) | {"top_logprobs": [self._one(*pair) for pair in one.top]}
            for one in drawn
        ]
        return {"content": content, "refusal": None}

    def _one(self, token: int, logprob: float | None) -> dict:
        return {
            "token": self.words.label(token),
            "logprob": max(logprob or 0.0, LOWEST),
            "bytes": list(self.words.bytes_of(token)),
        }


class TextShape:
    """text_completion, whole and in chunks"""

    whole = part = "text_completion"

    def __init__(self, words: Words):
        self.words = words

    def opening(self, _index: int) -> dict | None:
        return None

    def chunk(self, index: int, text: str, drawn: Sequence[Drawn] | None, finish: Finish | None) -> dict:
        return {"index": index, "text": text, "logprobs": self.logprobs(drawn), "finish_reason": finish}

    def choice(self, index: int, choice: Choice) -> dict:
        return self.chunk(index, choice.text, choice.drawn, choice.finish)

    def logprobs(self, drawn: Sequence[Drawn] | None) -> dict | None:
        """The first token of an echoed prompt has no log-probability: null, as in OpenAI's API."""
        if drawn is None:
            return None
        return {
            "tokens": [self.words.label(one.token) for one in drawn],
            "token_logprobs": [None if one.logprob is None else max(one.logprob, LOWEST) for one in drawn],
            "top_logprobs": [None if one.logprob is None else self._top(one) for one in drawn],
            "text_offset": [one.start for one in drawn],
        }

    def _top(self, one: Drawn) -> dict[str, float]:
        """The likeliest tokens and the drawn one; of two that read the same, the likelier counts."""
        top: dict[str, float] = {}
        for token, logprob in (*one.top, (one.token, one.logprob or 0.0)):
            label = self.words.label(token)
            top[label] = max(top.get(label, LOWEST), logprob)
        return top


def _chunk(index: int, delta: dict, logprobs: dict | None, finish: Finish | None) -> dict:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
