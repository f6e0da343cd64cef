"""What an evaluation asks of a model. Anything with these three methods can be measured."""

from collections.abc import Sequence
from typing import Protocol

from preceptor.types import Message


class Subject(Protocol):
    """A model under evaluation.

    `hash` names its weights: results are cached under it, so two models must never share one. Every method gives
    None for an item that the model cannot take in (longer than its context); it is then left out and counted.
    """

    name: str
    hash: str

    def generate(
        self,
        prompts: list[str],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        stop: tuple[str, ...] = (),
        seed: int = 0,
    ) -> list[str | None]:
        """Raw continuations, no chat template. Each ends before the first of the `stop` strings."""
        ...

    def answer(
        self,
        conversations: list[list[Message]],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        stop: tuple[str, ...] = (),
        seed: int = 0,
    ) -> list[str | None]:
        """The assistant's next turn, through the chat template.

        A conversation whose last message is the assistant's is continued inside that message (a prefilled answer);
        the text returned does not repeat the prefill.
        """
        ...

    def loglikelihood(self, pairs: list[tuple[str, str]]) -> list[tuple[float, int] | None]:
        """For each (context, continuation): the sum of log-probabilities in nats, and the number of tokens,
        of the continuation given the context. The context may be empty."""
        ...


def choice_scores(subject: Subject, asked: Sequence[tuple[str, Sequence[str]]]) -> list[list[tuple[float, int]] | None]:
    """For each (context, choices): the `loglikelihood` of every choice after a space; None when one of them is."""
    found = iter(subject.loglikelihood([(context, f" {choice}") for context, choices in asked for choice in choices]))
    rows = [[next(found) for _ in choices] for _, choices in asked]
    return [None if None in row else row for row in rows]  # type: ignore[misc]
