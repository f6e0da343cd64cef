"""Conversations of the playground. They live in memory only: what is kept of them, with consent, is in the store."""

import random
import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass, field

from preceptor.types import Message

PER_USER = 30
USERS = 1000


@dataclass(slots=True)
class Side:
    """One answer of a turn."""

    model: str
    text: str
    finish: str
    completion_id: str | None = None  # where it is kept


@dataclass(slots=True)
class Turn:
    """What was said, the answers (left and right, or one), and the vote."""

    said: str
    sides: list[Side]
    prompt_id: str | None = None
    outcome: str = ""  # what became of the prompt; empty without consent
    vote: str | None = None

    @property
    def open(self) -> bool:
        return len(self.sides) == 2 and self.vote is None

    @property
    def better(self) -> Side:
        """The answer with which the conversation goes on: for both models the same."""
        return self.sides[1] if self.vote == "right" else self.sides[0]


@dataclass(slots=True)
class Settings:
    """How the next answers are drawn, and by whom: one model's name, or two, or none for any two."""

    temperature: float = 0.7
    max_tokens: int = 512
    seed: int | None = None
    models: tuple[str, ...] = ()
    blind: bool = True


@dataclass(slots=True)
class Conversation:
    id: str
    settings: Settings
    turns: list[Turn] = field(default_factory=list)

    @property
    def title(self) -> str:
        return " ".join(self.turns[0].said.split())[:60] if self.turns else "New"

    @property
    def voted(self) -> bool:
        return any(turn.vote for turn in self.turns)

    def messages(self, said: str) -> tuple[Message, ...]:
        """The conversation with one more message of the user."""
        out = []
        for turn in self.turns:
            out += [Message(role="user", content=turn.said), Message(role="assistant", content=turn.better.text)]
        return (*out, Message(role="user", content=said))

    def draw(self, names: list[str]) -> list[str]:
        """The models of the next answers: one, or two in an order drawn anew for each question."""
        wanted = [name for name in self.settings.models if name in names]
        if not self.settings.blind or len(names) < 2:
            return wanted[:1] or names[-1:]
        pair = wanted if len(wanted) == 2 else random.sample(names, 2)
        return random.sample(pair, 2)


class Conversations:
    """The last conversations of each user; the oldest make room."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users: OrderedDict[str, OrderedDict[str, Conversation]] = OrderedDict()

    def of(self, user_id: str) -> list[Conversation]:
        """Newest first."""
        with self.lock:
            return list(reversed(self.users.get(user_id, {}).values()))

    def find(self, user_id: str, key: str) -> Conversation | None:
        with self.lock:
            return self.users.get(user_id, {}).get(key)

    def forget(self, user_id: str) -> None:
        with self.lock:
            self.users.pop(user_id, None)

    def new(self, user_id: str, settings: Settings) -> Conversation:
        conversation = Conversation(secrets.token_hex(8), settings)
        with self.lock:
            own = self.users.setdefault(user_id, OrderedDict())
            self.users.move_to_end(user_id)
            own[conversation.id] = conversation
            while len(own) > PER_USER:
                own.popitem(last=False)
            while len(self.users) > USERS:
                self.users.popitem(last=False)
        return conversation
