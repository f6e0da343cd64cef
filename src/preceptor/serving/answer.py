"""One answer in the making: its text as it may be shown, its stop strings, its log-probabilities, who waits for it."""

from collections.abc import Hashable, Sequence

from preceptor.rollout.batch import Row
from preceptor.serving.news import Drawn, Finish, Order, Piece
from preceptor.serving.words import Words


class Answer:
    """Feed it a row's tokens with `push`; it gives pieces whose texts, put together, are the answer.

    `inbox` says whom the pieces are for; `end` are the tokens that end an answer.
    """

    def __init__(self, words: Words, order: Order, inbox: Hashable, end: frozenset[int]):
        self.row = Row(prompt=order.prompt, sampling=order.sampling, number=order.number, stop=end)
        self.inbox, self.index = inbox, order.index
        self.stop, self.strip, self.top, self.offset = order.stops, order.strip, order.top, order.offset
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
        if not (text or drawn or finish):
            return None
        return Piece(self.index, text, drawn, finish, tokens=len(self.row.tokens))

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
