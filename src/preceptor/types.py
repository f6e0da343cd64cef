"""The nouns of Preceptor. Standard library only; every other module meets here.

All are frozen, keyword-only dataclasses. An id is a string; ids made by `content_id` follow from the
content alone, so importing a file twice adds nothing.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Split = Literal["train", "valid", "test"]
Cohort = Literal["training", "held-out"]
Purpose = Literal["training", "evaluation"]
FinishReason = Literal["stop", "length"]
Source = Literal["customer", "plain", "few-shot", "user-based"]

SPLITS: tuple[Split, ...] = ("train", "valid", "test")

# Table 1 of the paper.
USE_CASES = (
    "generation",
    "open qa",
    "brainstorming",
    "chat",
    "rewrite",
    "summarization",
    "classification",
    "other",
    "closed qa",
    "extract",
)

# The binary fields of Table 3, in its order. "satisfies_constraint" is the one whose Yes is good.
FLAGS = (
    "fails_task",
    "inappropriate_for_customer_assistant",
    "hallucination",
    "satisfies_constraint",
    "sexual_content",
    "violent_content",
    "encourages_harm",
    "denigrates_protected_class",
    "harmful_advice",
    "expresses_opinion",
    "expresses_moral_judgment",
)

RED_TEAM = "red team"  # what a prompt's meta["wanted_for"] says of an attack


def is_red_team(meta: Mapping[str, Any]) -> bool:
    """Whether a prompt with this `meta` was written, or imported, to make a model do what it should refuse."""
    return RED_TEAM in str(meta.get("wanted_for", "")).lower().replace("-", " ")


def content_id(prefix: str, *parts: Any) -> str:
    """An id that follows from `parts` alone: `prefix` and 80 bits of SHA-256 in hex."""
    text = json.dumps(parts, ensure_ascii=False, sort_keys=True, default=str)
    return f"{prefix}_{hashlib.sha256(text.encode()).hexdigest()[:20]}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """One instruction from one user; several messages when it continues a conversation."""

    id: str
    messages: tuple[Message, ...]
    user_id: str | None = None
    source: Source = "customer"
    split: Split = "train"
    use_case: str | None = None
    consent: bool = True
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The conversation as plain text: the lone message itself, or one `role: content` line each."""
        if len(self.messages) == 1:
            return self.messages[0].content
        return "\n".join(f"{message.role}: {message.content}" for message in self.messages)

    @property
    def red_team(self) -> bool:
        return is_red_team(self.meta)

    @staticmethod
    def of(text: str, *, user_id: str | None = None, **rest: Any) -> "Prompt":
        """A one-message prompt whose id follows from its text and user."""
        return Prompt.chat((Message(role="user", content=text),), user_id=user_id, **rest)

    @staticmethod
    def chat(messages: tuple[Message, ...], *, user_id: str | None = None, **rest: Any) -> "Prompt":
        """A prompt of several messages whose id follows from them and the user."""
        key = content_id("p", [(message.role, message.content) for message in messages], user_id)
        return Prompt(id=key, messages=messages, user_id=user_id, **rest)


@dataclass(frozen=True, kw_only=True, slots=True)
class Demonstration:
    """An ideal answer written by a labeler."""

    id: str
    prompt_id: str
    labeler_id: str
    text: str
    rubric: str = "training-1"
    seconds: float | None = None

    @staticmethod
    def of(prompt_id: str, labeler_id: str, text: str, **rest: Any) -> "Demonstration":
        key = content_id("d", prompt_id, labeler_id, text)
        return Demonstration(id=key, prompt_id=prompt_id, labeler_id=labeler_id, text=text, **rest)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How an answer was drawn. `temperature` 0 is greedy; `seed` and the row's number fix every draw."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 256
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """A model's answer."""

    id: str
    prompt_id: str
    model_id: str
    text: str
    sampling: Sampling = field(default_factory=Sampling)
    finish_reason: FinishReason = "stop"

    @staticmethod
    def of(prompt_id: str, model_id: str, text: str, *, index: int = 0, **rest: Any) -> "Completion":
        """`index` tells the samples of one prompt apart, for two of them may have the same text."""
        key = content_id("c", prompt_id, model_id, text, index, str(rest.get("sampling", "")))
        return Completion(id=key, prompt_id=prompt_id, model_id=model_id, text=text, **rest)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rating:
    """Table 3 for one answer: overall quality 1-7 and the flags a labeler answered (absent = not asked)."""

    id: str
    completion_id: str
    labeler_id: str
    quality: int
    flags: Mapping[str, bool] = field(default_factory=dict)
    notes: str = ""
    rubric: str = "training-1"
    seconds: float | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 7:
            raise ValueError(f"quality is {self.quality}; it goes from 1 (worst) to 7 (best)")
        unknown = set(self.flags) - set(FLAGS)
        if unknown:
            raise ValueError(f"unknown flag {sorted(unknown)[0]!r}; known: {', '.join(FLAGS)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranking:
    """One labeler's order over the completions of a prompt. Rank 1 is best; equal ranks are ties."""

    id: str
    prompt_id: str
    labeler_id: str
    completion_ids: tuple[str, ...]
    ranks: tuple[int, ...]
    rubric: str = "training-1"
    seconds: float | None = None

    def __post_init__(self) -> None:
        if len(self.completion_ids) < 2:
            raise ValueError(f"a ranking needs at least 2 completions, this one has {len(self.completion_ids)}")
        if len(self.ranks) != len(self.completion_ids):
            raise ValueError(f"{len(self.completion_ids)} completions but {len(self.ranks)} ranks")
        if len(set(self.completion_ids)) != len(self.completion_ids):
            raise ValueError("a completion is listed twice")
        if min(self.ranks) < 1:
            raise ValueError(f"rank {min(self.ranks)}; ranks start at 1 (best)")

    @staticmethod
    def of(prompt_id: str, labeler_id: str, completion_ids: tuple[str, ...], ranks: tuple[int, ...], **rest: Any):
        key = content_id("r", prompt_id, labeler_id, completion_ids, ranks)
        return Ranking(
            id=key, prompt_id=prompt_id, labeler_id=labeler_id, completion_ids=completion_ids, ranks=ranks, **rest
        )

    def comparisons(self) -> list[tuple[int, int]]:
        """Every pair that is not tied, as (place of the better, place of the worse) in `completion_ids`."""
        return comparisons(self.ranks)


def comparisons(ranks: Sequence[int]) -> list[tuple[int, int]]:
    """Every pair of places that is not tied, the better one first."""
    places = range(len(ranks))
    return [(i, j) for i in places for j in places if ranks[i] < ranks[j]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Labeler:
    """A person, or a simulated one."""

    id: str
    name: str = ""
    cohort: Cohort = "training"
    simulated: bool = False
    screening: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rubric:
    """One version of the instructions to labelers."""

    id: str
    purpose: Purpose
    version: int
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Episode:
    """One rollout in PPO: what the policy was given, what it drew, and how likely each draw was (nats)."""

    prompt_tokens: tuple[int, ...]
    answer_tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """A frozen file of data: training reads this, never the live database."""

    name: str
    kind: str
    path: str
    sha256: str
    rows: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelCard:
    """What a model folder was made from: its lineage."""

    name: str
    stage: str
    parents: Mapping[str, str] = field(default_factory=dict)  # role -> "name@sha256 of its weights"
    releases: Mapping[str, str] = field(default_factory=dict)  # name -> sha256
    config: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    parameters: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
