"""What goes between the server and the models' process: orders for answers one way, pieces of them the other."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Literal

from preceptor.types import Sampling

Finish = Literal["stop", "length"]


class Busy(Exception):
    """The queue is full. `seconds`: about how long until there is room."""

    def __init__(self, seconds: float):
        super().__init__(seconds)
        self.seconds = seconds


class Closed(Exception):
    """The model takes no more work."""


class Broken(Exception):
    """The model failed on this request."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """One answer that is wanted. `index`: among those of its request; `number`: fixes its draws, with the seed.

    `stops`: the answer ends before the first of these texts. `strip`: it has no white space at its ends. `top`: how
    many likely tokens to report with each one drawn; none: no log-probabilities. `offset`: characters before the
    answer (an echoed prompt), for the places of its tokens.
    """

    prompt: Sequence[int]
    sampling: Sampling
    index: int = 0
    number: int = 0
    stops: Sequence[str] = ()
    strip: bool = False
    top: int | None = None
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Drawn:
    """A token, its log-probability in nats at temperature 1, and the likeliest tokens in its place with theirs.

    The first token of a text has no log-probability.
    """

    token: int
    logprob: float | None
    top: Sequence[tuple[int, float]]
    start: int  # characters of the answer before it


@dataclass(slots=True)
class Piece:
    """News of an answer: more text, the tokens it came from where asked for, and at its end why it ended."""

    index: int = 0  # of the answer among those of its request
    text: str = ""
    drawn: list[Drawn] = field(default_factory=list)
    finish: Finish | None = None
    error: Exception | None = None
    tokens: int = 0  # of the whole answer so far, shown or not


class Inbox:
    """Where the pieces of a request arrive: in the event loop that made it, or in a plain thread without one."""

    def __init__(self) -> None:
        self.pieces: Any
        try:
            self.loop = asyncio.get_running_loop()
            self.pieces = asyncio.Queue()
        except RuntimeError:
            self.loop = None
            self.pieces = SimpleQueue()


def deliver(news: Sequence[tuple[Inbox, Piece]]) -> None:
    """Hand over pieces from another thread; each event loop is woken once."""
    loops: dict[asyncio.AbstractEventLoop, list[tuple[Inbox, Piece]]] = {}
    for inbox, piece in news:
        if inbox.loop is None:
            inbox.pieces.put(piece)
        else:
            loops.setdefault(inbox.loop, []).append((inbox, piece))
    for loop, own in loops.items():
        if not loop.is_closed():
            loop.call_soon_threadsafe(_put, own)


def _put(news: list[tuple[Inbox, Piece]]) -> None:
    for inbox, piece in news:
        inbox.pieces.put_nowait(piece)


def join(pieces: Sequence[Piece]) -> list[Piece]:
    """The same news with one piece per answer."""
    joined: dict[int, Piece] = {}
    for piece in pieces:
        old = joined.setdefault(piece.index, piece)
        if old is not piece:
            old.text += piece.text
            old.drawn += piece.drawn
            old.finish, old.error, old.tokens = piece.finish, piece.error, piece.tokens
    return list(joined.values())
