"""A request on its way: from its parameters to rows of the running batch, and from their tokens to an answer."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from preceptor.errors import UserError
from preceptor.serving.errors import ApiError, bad
from preceptor.serving.limits import Limits
from preceptor.serving.models import Models, Served
from preceptor.serving.news import Broken, Busy, Closed, Drawn, Inbox, Order, Piece, join
from preceptor.serving.replies import ChatShape, Choice, Head, TextShape
from preceptor.serving.requests import ChatRequest, Request, TextRequest
from preceptor.store.keys import ApiKey
from preceptor.types import Message, Sampling


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request wants of the model: token prompts, `n` answers to each, at most `room` tokens per answer."""

    prompts: Sequence[Sequence[int]]
    n: int
    sampling: Sampling
    stops: Sequence[str]
    top: int | None
    echoed: Sequence[str] | None = None  # the prompts as texts, where they are part of the answers
    messages: Sequence[Message] = ()  # of a chat

    @property
    def room(self) -> int:
        return self.sampling.max_new_tokens

    @property
    def most_tokens(self) -> int:
        return sum(len(prompt) for prompt in self.prompts) + self.n * len(self.prompts) * self.room


def ask_chat(served: Served, request: ChatRequest) -> Asked:
    """Raises ApiError 400 where the parameters do not go together or do not fit the model."""
    top, stops, most = request.top, request.stops, request.most_tokens
    messages = tuple(message.message() for message in request.messages)
    prompt = served.chat_tokens(messages)
    room = _room(served, prompt, most, "messages")
    sampling = request.sampling(room, secrets.randbits(31))
    return Asked([prompt], request.n, sampling, stops, top, messages=messages)


def ask_text(served: Served, request: TextRequest) -> Asked:
    """Raises ApiError 400 as `ask_chat` does."""
    stops = request.stops
    vocabulary = served.running.vocabulary
    prompts: list[list[int]] = []
    texts: list[str] = []
    for prompt in request.prompts:
        tokens = served.text_tokens(prompt) if isinstance(prompt, str) else prompt or [served.chat.eos]
        if max(tokens) >= vocabulary:
            raise bad(f"token {max(tokens)} is not in the vocabulary of {vocabulary}", "prompt")
        _room(served, tokens, request.max_tokens, "prompt")
        prompts.append(tokens)
        texts.append(prompt if isinstance(prompt, str) else served.words.decode(tokens))
    sampling = request.sampling(request.max_tokens, secrets.randbits(31))
    return Asked(prompts, request.n, sampling, stops, request.logprobs, echoed=texts if request.echo else None)


def _room(served: Served, prompt: Sequence[int], most: int | None, param: str) -> int:
    """Tokens an answer may have: `most`, or all that the context leaves."""
    left = served.context - len(prompt)
    if left < (1 if most is None else most):
        wanted = "" if most is None else f" and {most} for the answer"
        raise bad(
            f"the context of {served.name} is {served.context} tokens; the prompt has {len(prompt)}{wanted}",
            param,
            "context_length_exceeded",
        )
    return left if most is None else most


@dataclass(slots=True)
class Flow:
    """The answers of one request. Use `pieces` or `whole`, then `close`, whatever happened."""

    served: Served
    lease: AbstractContextManager
    asked: Asked
    key: ApiKey | None
    limits: Limits | None
    inbox: Inbox
    head: Head
    tokens: list[int]  # of each answer so far
    left: int  # answers that are not complete
    requests: list[int] = field(default_factory=list)  # what the model's process knows this under
    scored: Future | None = None
    started: float = field(default_factory=time.monotonic)
    first_after: float | None = None
    closed: bool = False

    @property
    def prompt_tokens(self) -> int:
        return sum(len(prompt) for prompt in self.asked.prompts)

    @property
    def answer_tokens(self) -> int:
        return sum(self.tokens)

    @property
    def finished(self) -> bool:
        return not self.left

    async def pieces(self) -> AsyncIterator[Piece]:
        """News of all answers as they come; those of one answer that came together are one piece."""
        for piece in await self._echoes():
            yield piece
        while self.left:
            for piece in await self._next():
                if piece.error is not None:
                    raise as_api_error(piece.error)
                self.tokens[piece.index] = piece.tokens
                self.left -= piece.finish is not None
                yield piece

    async def whole(self) -> list[Choice]:
        count = len(self.asked.prompts) * self.asked.n
        choices = [Choice(drawn=None if self.asked.top is None else []) for _ in range(count)]
        async for piece in self.pieces():
            choice = choices[piece.index]
            choice.text += piece.text
            if choice.drawn is not None:
                choice.drawn += piece.drawn
            choice.finish = piece.finish or choice.finish
        return choices

    def close(self) -> None:
        """Free the rows, give back what was not used, let the model go."""
        if self.closed:
            return
        self.closed = True
        self.cancel()
        if self.key is not None and self.limits is not None:
            used = self.prompt_tokens + self.answer_tokens
            self.limits.give_back_tokens(self.key, self.asked.most_tokens - used)
        self.lease.__exit__(None, None, None)

    def cancel(self) -> None:
        """Free the rows of what is not complete."""
        for request in self.requests:
            self.served.running.cancel(request)
        if self.scored is not None:
            self.scored.cancel()

    async def _next(self) -> list[Piece]:
        """All pieces that have arrived, joined per answer; waits for the first."""
        arrived = [await self.inbox.pieces.get()]
        while not self.inbox.pieces.empty():
            arrived.append(self.inbox.pieces.get_nowait())
        if self.first_after is None:
            self.first_after = time.monotonic() - self.started
        return join(arrived)

    async def _echoes(self) -> list[Piece]:
        """The prompts as the first piece of each answer, and the whole of it where no token is wanted."""
        finish = None if self.asked.room else "length"
        if self.asked.echoed is None:
            return [] if finish is None else [Piece(index, finish=finish) for index in range(self._count())]
        drawn: list[list[Drawn]] = [[] for _ in self.asked.prompts]
        if self.scored is not None:
            try:
                scores = await asyncio.wrap_future(self.scored)
            except Exception as error:
                raise as_api_error(error) from error
            drawn = [self._prompt_drawn(prompt, score) for prompt, score in zip(self.asked.prompts, scores)]
        n = self.asked.n
        return [
            Piece(index, self.asked.echoed[index // n], list(drawn[index // n]), finish)
            for index in range(self._count())
        ]

    def _count(self) -> int:
        return len(self.asked.prompts) * self.asked.n

    def _prompt_drawn(self, prompt: Sequence[int], score: Sequence[tuple[float, list]]) -> list[Drawn]:
        reader, start, out = self.served.words.reader(), 0, []
        for token, (logprob, top) in zip(prompt, [(None, []), *score]):
            out.append(Drawn(token, logprob, top, start))
            start += len(reader.push(token))
        return out


def begin(
    models: Models,
    lease: AbstractContextManager,
    served: Served,
    asked: Asked,
    kind: str,
    *,
    strip: bool,
    key: ApiKey | None = None,
    limits: Limits | None = None,
) -> Flow:
    """Hand a request to its model. Must run in the event loop that will read it. Raises ApiError 429 or 400."""
    count = len(asked.prompts) * asked.n
    config = models.config
    if count > config.rows + config.queue:
        raise bad(f"{count} answers in one request; this server takes {config.rows + config.queue} at most", "n")
    if key is not None and limits is not None:
        limits.take_tokens(key, asked.most_tokens)
    orders = [
        Order(
            prompt=asked.prompts[index // asked.n],
            sampling=asked.sampling,
            index=index,
            number=index,
            stops=asked.stops,
            strip=strip,
            top=asked.top,
            offset=len(asked.echoed[index // asked.n]) if asked.echoed is not None else 0,
        )
        for index in range(count if asked.room else 0)
    ]
    head = Head(f"{kind}-{secrets.token_hex(12)}", int(time.time()), served.name, f"fp_{served.id.split('@')[-1]}")
    flow = Flow(served, lease, asked, key, limits, Inbox(), head, [0] * count, len(orders))
    try:
        if asked.echoed is not None and asked.top is not None:
            request, flow.scored = served.running.score(asked.prompts, asked.top)
            flow.requests.append(request)
        if orders:
            flow.requests.append(served.running.submit(flow.inbox, orders))
    except (Broken, Busy, Closed) as error:
        flow.cancel()
        if key is not None and limits is not None:
            limits.give_back_tokens(key, asked.most_tokens)
        raise as_api_error(error) from error
    return flow


def as_api_error(error: Exception) -> ApiError:
    """What a worker says, in the words and statuses of the API."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, Busy):
        return ApiError(
            429, "the queue of this model is full; try again soon", code="queue_full", seconds=error.seconds
        )
    if isinstance(error, Closed):
        return ApiError(503, "the server is stopping", code="stopping", seconds=5)
    if isinstance(error, UserError):
        return bad(str(error))
    return ApiError(500, "the model failed; the request was not finished")


def shape_of(request: Request, served: Served) -> ChatShape | TextShape:
    return ChatShape(served.words) if isinstance(request, ChatRequest) else TextShape(served.words)
