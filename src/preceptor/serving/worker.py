"""One thread per model: it owns the running batch. Answers join between two steps and leave when done or unwanted."""

import logging
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel

from preceptor.errors import UserError
from preceptor.models.logprobs import CHUNK, hidden_states, project
from preceptor.rollout.batch import RunningBatch
from preceptor.serving.answer import Answer
from preceptor.serving.news import Broken, Piece, join

log = logging.getLogger("preceptor.serving")

COLUMNS = 256  # tokens per row the cache starts with; it grows when longer rows come
SMALL = 30_000_000  # parameters; below, threads of the arithmetic cost more than they bring
# Under load, pieces leave in groups: waking the event loop and writing to a socket for each of them would take longer
# than drawing the tokens. One answer alone is never held back; 32 are for 32 ms, which nobody sees.
HOLD = 0.001  # seconds per running answer
GATHER = 8  # new answers join after every (running / GATHER)th step: prefills are cheaper in groups
GAPS = 1.5  # columns of the cache over those of its longest row, past which closing the gaps pays


@dataclass(slots=True, eq=False)
class Score:
    """Texts whose tokens' log-probabilities are wanted, with the `top` likeliest tokens of each place."""

    texts: Sequence[Sequence[int]]
    top: int
    result: Future
    done: list[list[tuple[float, list]]] = field(default_factory=list)


Deliver = Callable[[Sequence[tuple[Hashable, Piece]]], None]


class Worker:
    """Decodes the answers of one model.

    `rows` answers at once share each step; the others wait. All methods may be called from any thread. `deliver` gets
    the pieces, each with its answer's inbox, from the worker's own thread; it is also called, without pieces, when
    `load` has changed.
    """

    def __init__(self, name: str, model: PreTrainedModel, pad: int, *, rows: int, context: int, deliver: Deliver):
        self.name, self.model, self.pad, self.rows, self.deliver = name, model, pad, rows, deliver
        self.columns = min(COLUMNS, context) + 1
        self.changed = threading.Condition()
        self.waiting: deque[Answer] = deque()
        self.scores: deque[Score] = deque()
        self.unwanted: list[Answer] = []
        self.active: dict[int, Answer] = {}  # id of a row -> its answer
        self.closing = False
        self.tokens_drawn = 0
        self.held: list[tuple[Hashable, Piece]] = []
        self.delivered_at = 0.0
        self.told = (0, 0)
        self.thread = threading.Thread(target=self._run, name=f"serve {name}", daemon=True)
        self.thread.start()

    # -- from any thread ------------------------------------------------------------------------------------

    def submit(self, answers: Sequence[Answer]) -> None:
        """Queue answers."""
        with self.changed:
            self.waiting.extend(answers)
            self.changed.notify()

    def score(self, texts: Sequence[Sequence[int]], top: int) -> Future:
        """A future with `score_tokens` of each text; one text a step, so that answers go on meanwhile."""
        work = Score(texts, top, Future())
        with self.changed:
            self.scores.append(work)
            self.changed.notify()
        return work.result

    def cancel(self, answers: Sequence[Answer]) -> None:
        """Nobody wants these any more: their rows are free before the next step."""
        with self.changed:
            self.unwanted += [answer for answer in answers if not answer.finished]
            self.changed.notify()

    def close(self) -> None:
        """Finish what was taken, then end the thread."""
        with self.changed:
            self.closing = True
            self.changed.notify()
        self.thread.join()

    @property
    def load(self) -> tuple[int, int]:
        """Answers that decode, answers and scores that wait."""
        return len(self.active), len(self.waiting) + len(self.scores)

    # -- the thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        if self.model.device.type == "cpu" and self.model.num_parameters() < SMALL:
            torch.set_num_threads(1)  # of this thread
        batch = self._new_batch()
        steps = 0  # since answers joined
        while True:
            steps += 1
            with self.changed:
                while not (self.waiting or self.scores or self.unwanted or self.active or self.closing):
                    self.changed.wait()
                gone, self.unwanted = self.unwanted, []
                wanted = {id(answer) for answer in gone}
                if gone:
                    self.waiting = deque(answer for answer in self.waiting if id(answer) not in wanted)
                if self.closing and not (self.waiting or self.scores or self.active):
                    return
                room = self.rows - len(self.active) + sum(id(answer.row) in self.active for answer in gone)
                if len(self.active) > steps * GATHER:
                    room = 0
                joining = [self.waiting.popleft() for _ in range(min(room, len(self.waiting)))]
                if joining:
                    steps = 0
                score = self.scores.popleft() if self.scores else None
                for answer in joining:
                    self.active[id(answer.row)] = answer
            if score is not None:
                self._score(score)
            try:
                self._drop(batch, gone)
                self._join(batch, joining)
                if self.active:
                    self._step(batch)
            except Exception as error:
                log_error(f"model {self.name}: a step failed", error)
                self._fail(list(self.active.values()), Broken("the model failed; the request was not finished"))
                batch = self._new_batch()
            if self.load != self.told:
                self._send([])
            if not self.active and batch.cache.columns > self.columns:
                batch = self._new_batch()  # gives back the memory that long rows took

    def _new_batch(self) -> RunningBatch:
        return RunningBatch(self.model, self.pad, self.rows, self.columns)

    def _drop(self, batch: RunningBatch, gone: Sequence[Answer]) -> None:
        rows = [answer.row for answer in gone if self._forget(answer)]
        if rows:
            batch.drop(rows)

    def _forget(self, answer: Answer) -> bool:
        return self.active.pop(id(answer.row), None) is not None

    def _join(self, batch: RunningBatch, joining: Sequence[Answer]) -> None:
        if not joining:
            return
        if self.active and batch.cache.column > GAPS * max(map(self._columns, self.active.values())):
            batch.close_gaps()
        try:
            batch.join([answer.row for answer in joining])
        except UserError as error:  # raised before the batch is touched
            self._fail(joining, error)

    @staticmethod
    def _columns(answer: Answer) -> int:
        return len(answer.row.prompt) + len(answer.row.tokens)

    def _fail(self, answers: Sequence[Answer], error: Exception) -> None:
        for answer in answers:
            self._forget(answer)
            answer.finished = True
        self.held += [(answer.inbox, Piece(answer.index, error=error)) for answer in answers]
        self._deliver({answer.inbox for answer in answers})

    def _step(self, batch: RunningBatch) -> None:
        asked = [
            (place, self.active[id(row)])
            for place, row in enumerate(batch.rows)
            if id(row) in self.active and self.active[id(row)].top is not None
        ]
        before = batch.logits[[place for place, _ in asked]] if asked else None
        batch.step()
        likely: dict[int, tuple[float, list]] = {}
        if before is not None:
            chosen = torch.tensor([answer.row.tokens[-1] for _, answer in asked], device=before.device)
            tops = [answer.top or 0 for _, answer in asked]
            likely = {id(answer): one for (_, answer), one in zip(asked, likelihoods(before, chosen, tops))}
        urgent: set[Hashable] = set()  # the first and the last words of an answer do not wait
        stopped = []
        for answer in list(self.active.values()):
            self.tokens_drawn += 1
            logprob, top = likely.get(id(answer), (0.0, ()))
            piece = answer.push(answer.row.tokens[-1], answer.row.finish_reason, logprob, top)
            if piece is None:
                continue
            self.held.append((answer.inbox, piece))
            if piece.finish or not answer.begun:
                urgent.add(answer.inbox)
                answer.begun = True
            if piece.finish:
                if answer.row.finish_reason is None:
                    stopped.append(answer)  # by a stop text, of which the batch knows nothing
                else:
                    self._forget(answer)
        self._drop(batch, stopped)
        self._deliver(urgent)

    def _deliver(self, urgent: set[Hashable]) -> None:
        """Send the pieces for these inboxes, and all others when it is time."""
        now = time.monotonic()
        if now - self.delivered_at >= HOLD * len(self.active):
            news, self.held, self.delivered_at = self.held, [], now
        elif urgent:
            news = [one for one in self.held if one[0] in urgent]
            self.held = [one for one in self.held if one[0] not in urgent]
        else:
            return
        if news:
            self._send(news)

    def _send(self, news: Sequence[tuple[Hashable, Piece]]) -> None:
        """One piece per answer, however many were held."""
        grouped: dict[Hashable, list[Piece]] = {}
        for inbox, piece in news:
            grouped.setdefault(inbox, []).append(piece)
        self.told = self.load
        self.deliver([(inbox, piece) for inbox, pieces in grouped.items() for piece in join(pieces)])

    def _score(self, score: Score) -> None:
        """The next text of a score; it goes back to the front of its queue while texts are left."""
        if score.result.cancelled():
            return
        try:
            score.done.append(score_tokens(self.model, score.texts[len(score.done)], score.top))
        except Exception as error:
            log_error(f"model {self.name}: scoring failed", error)
            if score.result.set_running_or_notify_cancel():
                score.result.set_exception(Broken("the model failed; the request was not finished"))
            return
        if len(score.done) < len(score.texts):
            with self.changed:
                self.scores.appendleft(score)
        elif score.result.set_running_or_notify_cancel():
            score.result.set_result(score.done)


@torch.inference_mode()
def score_tokens(model: PreTrainedModel, tokens: Sequence[int], top: int) -> list[tuple[float, list]]:
    """For tokens 2, 3, ...: the log-probability in nats given those before, and the `top` likeliest with theirs."""
    if len(tokens) < 2:
        return []
    ids = torch.tensor([list(tokens)], device=model.device)
    hidden = hidden_states(model, ids)[0, :-1]
    size = max(1, CHUNK // model.config.get_text_config().vocab_size)
    out = []
    for states, targets in zip(hidden.split(size), ids[0, 1:].split(size)):
        out += likelihoods(project(model, states), targets, [top] * len(targets))
    return out


@torch.inference_mode()
def likelihoods(logits: Tensor, chosen: Tensor, tops: Sequence[int]) -> list[tuple[float, list]]:
    """Per row of logits [R, V]: the log-probability of `chosen` [R] at temperature 1, and the likeliest tokens."""
    logprobs = torch.log_softmax(logits.float(), -1)
    own = logprobs.gather(-1, chosen[:, None])[:, 0].tolist()
    values, ids = logprobs.topk(min(max(tops), logprobs.shape[-1]), -1)
    rows = zip(own, ids.tolist(), values.tolist(), tops)
    return [(logprob, list(zip(tokens[:top], nats[:top]))) for logprob, tokens, nats, top in rows]


def log_error(what: str, error: Exception) -> None:
    """The kind of the error and where it happened, without its message, which may hold words of a prompt."""
    where = "".join(traceback.format_tb(error.__traceback__))
    log.error("%s: %s\n%s", what, type(error).__name__, where)
