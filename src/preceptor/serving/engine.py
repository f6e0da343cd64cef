"""The server's side of the models' process: it is started, spoken to, and started anew after a crash."""

import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from socket import socketpair
from typing import Any

from preceptor.serving.news import Broken, Busy, Closed, Inbox, Order, Piece, deliver

MEMORY = 0.9  # of the running mean of seconds per answer
LOST = "the process of the models ended; the request was not finished"


class Engine:
    """The process. All methods may be called from any thread. Raises Broken where the process is gone."""

    def __init__(self) -> None:
        ours, theirs = socketpair()
        with theirs:
            command = [sys.executable, "-P", "-m", "preceptor.serving.process", str(theirs.fileno())]
            self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        self.connection = Connection(ours.detach())
        self.sending, self.lock = threading.Lock(), threading.Lock()
        self.numbers = itertools.count()
        self.models: dict[int, Running] = {}
        self.replies: dict[int, Future] = {}
        self.alive = True
        threading.Thread(target=self._read, name="models", daemon=True).start()

    def load(self, name: str, folder: Path, *, rows: int, queue: int, context: int | None) -> "Running":
        """Load a model; blocks meanwhile. Raises UserError where its folder cannot be loaded."""
        running = Running(self, next(self.numbers), rows=rows, queue=queue)
        self.models[running.number] = running
        try:
            found = self.ask("load", running.number, name, folder, rows, context).result()
        except BaseException:
            del self.models[running.number]
            raise
        running.context, running.vocabulary = found["context"], found["vocabulary"]
        return running

    def ask(self, command: str, *more: Any) -> Future:
        """Send a command that is answered; a future of the answer."""
        number, future = self.expect()
        self.send(command, number, *more)
        return future

    def expect(self) -> tuple[int, Future]:
        """A number, and a future of the reply that will come under it."""
        number, future = next(self.numbers), Future()
        with self.lock:
            if not self.alive:
                raise Broken(LOST)
            self.replies[number] = future
        return number, future

    def forget(self, number: int) -> None:
        """Nobody waits for the reply under this number any more."""
        with self.lock:
            self.replies.pop(number, None)

    def send(self, *message: Any) -> None:
        try:
            with self.sending:
                self.connection.send(message)
        except OSError as error:
            raise Broken(LOST) from error

    def stop(self) -> None:
        """End the process; close the models first."""
        with suppress(Broken):
            self.send("end")
        self.process.wait()

    def _read(self) -> None:
        while True:
            try:
                kind, number, *more = self.connection.recv()
            except (EOFError, OSError):
                break
            if kind == "news":
                if number in self.models:
                    self.models[number].receive(*more)
                continue
            with self.lock:
                future = self.replies.pop(number, None)
            if future is not None:
                settle(future, more[0])
        with self.lock:
            self.alive = False
            replies, self.replies = list(self.replies.values()), {}
        for future in replies:
            settle(future, Broken(LOST))
        for model in list(self.models.values()):
            model.lose()
        self.process.wait()


def settle(future: Future, result: Any) -> None:
    """Unless nobody waits any more."""
    if not future.set_running_or_notify_cancel():
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)


@dataclass(slots=True)
class Asked:
    """A request under way: who waits for it, and for how many answers still."""

    inbox: Inbox
    left: int
    since: float


class Running:
    """A loaded model. `rows` answers decode together, `queue` more may wait; `load`: how many do so now."""

    def __init__(self, engine: Engine, number: int, *, rows: int, queue: int):
        self.engine, self.number, self.rows, self.queue = engine, number, rows, queue
        self.context = self.vocabulary = 0
        self.lock = threading.Lock()
        self.asked: dict[int, Asked] = {}
        self.scores: set[int] = set()
        self.closing = False
        self.load: tuple[int, int] = (0, 0)
        self.tokens_drawn = 0
        self.answer_seconds = 1.0

    def submit(self, inbox: Inbox, orders: Sequence[Order]) -> int:
        """Order answers, all or none; the number is for `cancel`. Pieces arrive in the inbox.

        Raises Busy when there is no room, Closed after `close`, Broken where the process is gone.
        """
        with self.lock:
            self._check(len(orders))
            request = next(self.engine.numbers)
            self.asked[request] = Asked(inbox, len(orders), time.monotonic())
        self.engine.send("submit", self.number, request, orders)
        return request

    def score(self, texts: Sequence[Sequence[int]], top: int) -> tuple[int, Future]:
        """A future of `score_tokens` of each text, and a number for `cancel`. Raises as `submit` does."""
        with self.lock:
            self._check(1)
            request, future = self.engine.expect()
            self.scores.add(request)
        future.add_done_callback(lambda done: done.cancelled() or self.scores.discard(request))
        self.engine.send("score", self.number, request, texts, top)
        return request, future

    def cancel(self, request: int) -> None:
        """Nobody wants this any more: its rows are free before the next step."""
        with self.lock:
            wanted = self.asked.pop(request, None) is not None or request in self.scores
            self.scores.discard(request)
        if wanted:
            self.engine.forget(request)
            with suppress(Broken):  # then it is gone, and the rows with it
                self.engine.send("cancel", self.number, request)

    def close(self) -> None:
        """Finish what was taken, then free the model."""
        with self.lock:
            self.closing = True
        try:
            self.engine.ask("close", self.number).result()
        except Broken:
            return  # the process is gone, and the model with it
        self.engine.models.pop(self.number, None)

    def receive(self, load: tuple[int, int], drawn: int, news: Sequence[tuple[int, Piece]]) -> None:
        """What the process says about this model."""
        out = []
        with self.lock:
            self.load, self.tokens_drawn = load, drawn
            for request, piece in news:
                asked = self.asked.get(request)
                if asked is None:
                    continue  # cancelled while it was on its way
                if piece.finish or piece.error:
                    asked.left -= 1
                    taken = time.monotonic() - asked.since
                    self.answer_seconds = MEMORY * self.answer_seconds + (1 - MEMORY) * taken
                    if not asked.left:
                        del self.asked[request]
                out.append((asked.inbox, piece))
        deliver(out)

    def lose(self) -> None:
        """The process is gone: tell everybody who waits."""
        with self.lock:
            self.closing, self.load = True, (0, 0)
            asked, self.asked = self.asked, {}
        deliver([(one.inbox, Piece(error=Broken(LOST))) for one in asked.values()])

    def _check(self, count: int) -> None:
        if self.closing:
            raise Closed
        if sum(one.left for one in self.asked.values()) + len(self.scores) + count > self.rows + self.queue:
            raise Busy(min(60.0, self.answer_seconds))
