"""The models' process: `python -m preceptor.serving.process FD`, started by `engine.Engine`.

Steps of a model and answers over HTTP would take turns in one Python process; apart, they use two cores. Commands come
over the socket FD, replies and pieces of answers go back. It ends when the socket does, whatever became of the server.
"""

import os
import signal
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from preceptor.models.load import load_policy, load_tokenizer
from preceptor.serving.answer import Answer
from preceptor.serving.news import Broken, Order
from preceptor.serving.words import Words
from preceptor.serving.worker import Worker, log_error
from preceptor.text.chat import Chat

# Seconds after which a thread that computes lets another one run; Python's 5 ms would hold up commands for longer than
# a step takes.
SWITCH = 0.0005


@dataclass(slots=True)
class Loaded:
    """A model that answers. `asked`: the answers, or the score, of each request that is not done."""

    worker: Worker
    words: Words
    end: frozenset[int]
    asked: dict[int, list[Answer] | Future] = field(default_factory=dict)


class Process:
    """Does what the commands say: `load`, `close`, `submit`, `score`, `cancel`, and `end`."""

    def __init__(self, connection: Connection):
        self.connection = connection
        self.sending = threading.Lock()
        self.models: dict[int, Loaded] = {}

    def run(self) -> None:
        """Until the other side is gone."""
        while True:
            try:
                command, *more = self.connection.recv()
            except (EOFError, OSError):
                return
            if command == "end":
                return
            getattr(self, command)(*more)

    def send(self, *message: Any) -> None:
        with self.sending:
            self.connection.send(message)

    # -- commands -------------------------------------------------------------------------------------------

    def load(self, reply: int, number: int, name: str, folder: Path, rows: int, context: int | None) -> None:
        """In a thread, so that the other models go on."""

        def work() -> dict[str, int]:
            chat, model = Chat(load_tokenizer(folder)), load_policy(folder)
            most = min(context or 2**31, context_of(model))
            worker = Worker(
                name, model, chat.pad, rows=rows, context=most, deliver=lambda news: self._tell(number, news)
            )
            self.models[number] = Loaded(worker, Words(chat.tokenizer), stop_tokens(model, chat))
            return {"context": most, "vocabulary": model.config.get_text_config().vocab_size}

        self._in_thread(reply, work)

    def close(self, reply: int, number: int) -> None:
        """Finish what was taken."""

        def work() -> None:
            self.models[number].worker.close()
            del self.models[number]

        self._in_thread(reply, work)

    def submit(self, number: int, request: int, orders: Sequence[Order]) -> None:
        loaded = self.models[number]
        answers = [Answer(loaded.words, order, request, loaded.end) for order in orders]
        loaded.asked[request] = answers
        loaded.worker.submit(answers)

    def score(self, number: int, request: int, texts: Sequence[Sequence[int]], top: int) -> None:
        asked = self.models[number].asked
        asked[request] = future = self.models[number].worker.score(texts, top)

        def done(future: Future) -> None:
            asked.pop(request, None)
            if not future.cancelled():
                error = future.exception()
                self.send("reply", request, error or future.result())

        future.add_done_callback(done)

    def cancel(self, number: int, request: int) -> None:
        """Of a request that may be finished already, on a model that may be closed already."""
        if number not in self.models:
            return
        asked = self.models[number].asked.pop(request, None)
        if isinstance(asked, Future):
            asked.cancel()
        elif asked is not None:
            self.models[number].worker.cancel(asked)

    # -- replies --------------------------------------------------------------------------------------------

    def _tell(self, number: int, news: Sequence[tuple[Any, Any]]) -> None:
        loaded = self.models[number]
        for request, piece in news:
            answers = loaded.asked.get(request)
            ended = piece.finish or piece.error
            if ended and isinstance(answers, list) and all(answer.finished for answer in answers):
                loaded.asked.pop(request, None)
        self.send("news", number, loaded.worker.load, loaded.worker.tokens_drawn, news)

    def _in_thread(self, reply: int, work: Any) -> None:
        def run() -> None:
            try:
                result = work()
            except Exception as error:
                log_error("the models' process", error)
                result = error if type(error).__module__ == "preceptor.errors" else Broken(type(error).__name__)
            self.send("reply", reply, result)

        threading.Thread(target=run, daemon=True).start()


def context_of(model) -> int:
    """The most tokens of prompt and answer: what the model's config allows, and its window of attention if narrower."""
    config = model.config.get_text_config()
    names = ("max_position_embeddings", "n_positions", "max_seq_len")
    context = next((int(value) for name in names if (value := getattr(config, name, None))), 2048)
    sliding = any("sliding" in kind for kind in getattr(config, "layer_types", None) or [])
    return min(context, config.sliding_window) if sliding else context


def stop_tokens(model, chat: Chat) -> frozenset[int]:
    """The end-of-text token, and the others that the model's generation config ends at."""
    more = model.generation_config.eos_token_id if model.generation_config is not None else None
    return frozenset([chat.eos, *(more if isinstance(more, list) else [] if more is None else [more])])


def main() -> None:
    # Ctrl-C and SIGTERM reach the whole group; the server drains first, then hangs up.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.setswitchinterval(SWITCH)
    Process(Connection(int(sys.argv[1]))).run()
    os._exit(0)  # the threads may be in the middle of a step that nobody wants


if __name__ == "__main__":
    main()
