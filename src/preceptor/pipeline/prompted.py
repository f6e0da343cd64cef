"""The baseline that costs no training: a base model behind a few demonstrations (section 3.5 of the paper).

Several prefixes are made of demonstrations; the one whose answers the reward model likes best on validation prompts is
taken.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from preceptor.errors import UserError
from preceptor.rollout.subject import LocalSubject
from preceptor.store import Workspace
from preceptor.types import Message, Prompt

PREFIXES = 4
SHOTS = 6  # demonstrations in a prefix, at most
ROOM = 0.5  # of the context that a prefix may take
VALIDATION = 64  # prompts on which a prefix is chosen


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """`scores`: the reward model's mean score with each prefix tried, in their order."""

    prefix: str
    scores: tuple[float, ...]


class Prompted:
    """A `Subject` that answers conversations as text behind a prefix, without the model's chat template."""

    def __init__(self, subject: LocalSubject, prefix: str) -> None:
        self._subject, self._prefix = subject, prefix
        self.name, self.hash = f"{subject.name}, prompted", subject.hash
        self.generate, self.loglikelihood = subject.generate, subject.loglikelihood

    def answer(
        self,
        conversations: list[list[Message]],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        stop: tuple[str, ...] = (),
        seed: int = 0,
    ) -> list[str | None]:
        texts = [self._prefix + _told(talk) for talk in conversations]
        said = self._subject.generate(
            texts, max_new_tokens=max_new_tokens, temperature=temperature, stop=("\n\n", *stop), seed=seed
        )
        return [None if text is None else text.strip() for text in said]


def _told(talk: Sequence[Message]) -> str:
    names = {"user": "User", "assistant": "Assistant", "system": "Instructions"}
    return "\n\n".join(f"{names[message.role]}: {message.content}" for message in talk) + "\n\nAssistant:"


def choose_prefix(
    workspace: Workspace,
    subject: LocalSubject,
    judge: Callable[[Sequence[Prompt], Sequence[str]], Sequence[float]],
    *,
    max_new_tokens: int,
    seed: int = 0,
) -> Chosen:
    """The best of `PREFIXES` prefixes by the judge's mean score on prompts of validation users."""
    demonstrations = list(workspace.store.demonstrations(split="train"))
    prompts = list(workspace.store.prompts(split="valid", consented=True))[:VALIDATION]
    if not demonstrations:
        raise UserError("no demonstrations to make a few-shot prefix of; see preceptor import demonstrations")
    if not prompts:
        raise UserError("no prompts in the split valid to choose a few-shot prefix on; see preceptor import prompts")
    tried = []
    for number in range(PREFIXES):
        prefix = _prefix(demonstrations, subject, random.Random(f"prefix {seed} {number}"))
        talks = [list(prompt.messages) for prompt in prompts]
        said = Prompted(subject, prefix).answer(talks, max_new_tokens=max_new_tokens, temperature=1.0, seed=seed)
        kept = [(prompt, text) for prompt, text in zip(prompts, said) if text is not None]
        if not kept:
            raise UserError(f"no validation prompt fits into the context of {subject.name} behind a few-shot prefix")
        scores = judge([prompt for prompt, _ in kept], [text for _, text in kept])
        tried.append((float(sum(scores) / len(kept)), prefix))
    return Chosen(prefix=max(tried)[1], scores=tuple(score for score, _ in tried))


def _prefix(demonstrations: Sequence, subject: LocalSubject, chance: random.Random) -> str:
    """Demonstrations in random order, as many as fit into `ROOM` of the context, `SHOTS` at most."""
    room = int(ROOM * (subject.context or 2048))
    text, shots = "", 0
    for demonstration, prompt in chance.sample(demonstrations, len(demonstrations)):
        shown = " ".join(demonstration.text.split())  # a blank line ends an answer, so none may stand in one
        longer = text + _told(prompt.messages) + f" {shown}\n\n"
        if len(subject.chat.tokenizer(longer)["input_ids"]) > room:
            continue
        text, shots = longer, shots + 1
        if shots == SHOTS:
            break
    return text
