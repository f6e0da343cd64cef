"""One answer in the making: its text as it may be shown, its stop strings, its log-probabilities, who waits for it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Literal

from preceptor.rollout.batch import Row
from preceptor.serving.words import Words

Finish = Literal["stop", "length"]


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


class Inbox:
    """Where the pieces of an answer arrive: in the event loop that made it, or in a plain thread without one."""

    def __init__(self) -> None:
        try:
            self.loop = asyncio.get_running_loop()
            self.pieces = asyncio.Queue()
        except RuntimeError:
            self.loop = None
            self.pieces = SimpleQueue()


def deliver(news: list[tuple[Inbox, Piece]]) -> None:
    """Hand over pieces from a worker's thread; each event loop is woken once."""
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


class Answer:
    """Feed it a row's tokens with `push`; it gives pieces whose texts, put together, are the answer.

    `stop`: the answer ends before the first of these texts. `strip`: it has no white space at its ends. `top`: how
    many likely tokens to report with each one drawn; none: no log-probabilities. Pieces carry `index` into `inbox`;
    `offset` is the number of characters before the answer (an echoed prompt), for the places of its tokens.
    """

    def __init__(
        self,
        words: Words,
        row: Row,
        inbox: Inbox,
        *,
        index: int = 0,
        stop: Sequence[str] = (),
        strip: bool = False,
        top: int | None = None,
        offset: int = 0,
    ):
        self.row, self.inbox, self.index = row, inbox, index
        self.stop, self.strip, self.top, self.offset = stop, strip, top, offset
        self.reader = words.reader()
        self.text = ""  # all that was read
        self.sent = 0  # characters of it that were given out, or left out at the front
        self.held: list[Drawn] = []
        self.begun = self.finished = False

    def push(self, token: int, finish: Finish | None, logprob: float = 0.0, top: Sequence = ()) -> Piece | None:
        """What there is to show after one more token; None when nothing is. After a piece with `finish` no more."""
        before = len(self.text)
        self.text += self.reader.push(token)
        if finish:
            self.text += self.reader.flush()
        if self.top is not None:
            self.held.append(Drawn(token, logprob, top, self.offset + before))
        cut = self._stop_at(before)
        if cut is not None:
            self.text, finish = self.text[:cut], "stop"
        if finish is None:
            end = len(self.text) - self._may_be_stop()
            if self.strip:
                end = len(self.text[:end].rstrip())
        else:
            end = len(self.text.rstrip()) if self.strip else len(self.text)
        if self.strip and self.sent == 0:
            self.sent = min(end, len(self.text) - len(self.text.lstrip()))
        text = self.text[self.sent : end]
        self.sent = max(self.sent, end)
        if finish is None:
            drawn = [one for one in self.held if one.start - self.offset < self.sent]
        else:
            drawn = [one for one in self.held if cut is None or one.start - self.offset < cut]
            self.finished = True
        self.held = self.held[len(drawn) :]
        return Piece(self.index, text, drawn, finish) if text or drawn or finish else None

    def _stop_at(self, before: int) -> int | None:
        """Where the first stop text begins, if one is complete; only what came after `before` is new."""
        places = [self.text.find(stop, max(0, before - len(stop) + 1)) for stop in self.stop]
        return min((place for place in places if place >= 0), default=None)

    def _may_be_stop(self) -> int:
        """Characters at the end that may be the beginning of a stop text."""
        longest = 0
        for stop in self.stop:
            for size in range(min(len(stop) - 1, len(self.text)), longest, -1):
                if self.text.endswith(stop[:size]):
                    longest = size
                    break
        return longest
