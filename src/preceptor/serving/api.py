"""The OpenAI-compatible endpoints as a router that any FastAPI app of this process can join."""

import asyncio
import json
import logging
import secrets
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Any, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response, StreamingResponse

from preceptor.config import ServeConfig
from preceptor.serving.asking import Asked, Flow, as_api_error, ask_chat, ask_text, begin, shape_of
from preceptor.serving.errors import ApiError
from preceptor.serving.limits import Limits
from preceptor.serving.metrics import Metrics
from preceptor.serving.models import Models, Served, unknown_model
from preceptor.serving.pool import Pool
from preceptor.serving.replies import DONE, ChatShape, TextShape, event, usage
from preceptor.serving.requests import ChatRequest, Request, TextRequest, parse
from preceptor.store import Workspace
from preceptor.store.keys import ApiKey, find_key
from preceptor.types import Completion, Prompt

log = logging.getLogger("preceptor.serving")

Result = TypeVar("Result")
THREADS = 8  # looking up keys, writing to the store
WAITING = 100  # tokenising, and waiting for a model to be loaded: apart, so that these never hold up the others


class Gone(Exception):
    """The client hung up."""


class Service:
    """What the endpoints of one server share."""

    def __init__(self, workspace: Workspace, config: ServeConfig):
        self.workspace, self.config = workspace, config
        self.models = Models(workspace, config)
        self.pool = Pool(workspace)
        self.limits = Limits(config)
        self.metrics = Metrics(self.models)

    def close(self) -> None:
        """Finish all running answers and free the models."""
        self.models.close()


def openai_router(
    workspace: Workspace, config: ServeConfig | None = None, *, service: Service | None = None
) -> APIRouter:
    """`/v1/models`, `/v1/models/{id}`, `/v1/chat/completions`, `/v1/completions`, `/metrics`; a key for each of them.

    `service` holds the models; give the playground the same one. It is closed when the app stops.
    """
    service = service or Service(workspace, config or ServeConfig())

    @asynccontextmanager
    async def lifespan(_app: Any) -> AsyncIterator[None]:
        yield
        await to_thread.run_sync(service.close)

    router = APIRouter(route_class=_route(service.metrics), lifespan=lifespan)
    limiters: dict[int, CapacityLimiter] = {}  # made in the event loop that uses them

    async def in_thread(work: Callable[[], Result], threads: int = THREADS) -> Result:
        if threads not in limiters:
            limiters[threads] = CapacityLimiter(threads)
        return await to_thread.run_sync(work, limiter=limiters[threads])

    async def owner(request: HttpRequest) -> ApiKey:
        """The key of a request. Raises ApiError 401 without a valid one, 429 over its limit."""
        return await in_thread(lambda: authorise(service, request))

    @router.get("/v1/models")
    async def list_models(request: HttpRequest) -> Response:
        """Models that can be asked."""
        await owner(request)
        data = await in_thread(lambda: [_card(service.models, name) for name in service.models.names()])
        return JSONResponse({"object": "list", "data": data})

    @router.get("/v1/models/{name}")
    async def get_model(request: HttpRequest, name: str) -> Response:
        """One model."""
        await owner(request)
        if name not in await in_thread(service.models.names):
            raise unknown_model(name)
        return JSONResponse(_card(service.models, name))

    @router.post("/v1/chat/completions", openapi_extra=_body(ChatRequest))
    async def chat_completions(request: HttpRequest) -> Response:
        """The next message of a conversation."""
        key = await owner(request)
        wanted = parse(ChatRequest, await read_body(request, service.config.max_body))
        return await complete(request, key, wanted, lambda served: ask_chat(served, wanted), "chatcmpl")

    @router.post("/v1/completions", openapi_extra=_body(TextRequest))
    async def completions(request: HttpRequest) -> Response:
        """How a text goes on."""
        key = await owner(request)
        wanted = parse(TextRequest, await read_body(request, service.config.max_body))
        return await complete(request, key, wanted, lambda served: ask_text(served, wanted), "cmpl")

    @router.get("/metrics")
    async def metrics(request: HttpRequest) -> Response:
        """Counters for Prometheus."""
        await owner(request)
        text = await in_thread(service.metrics.text)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def complete(
        request: HttpRequest, key: ApiKey, wanted: Request, ask: Callable[[Served], Asked], kind: str
    ) -> Response:
        usage_asked = wanted.usage_asked
        lease, served, asked = await in_thread(lambda: _prepare(service.models, wanted.model, ask), WAITING)
        try:
            chat = isinstance(wanted, ChatRequest)
            flow = begin(service.models, lease, served, asked, kind, strip=chat, key=key, limits=service.limits)
        except BaseException:
            lease.__exit__(None, None, None)
            raise
        try:
            headers, prompt = {}, None
            if isinstance(wanted, ChatRequest) and wanted.store:
                user_id = wanted.safety_identifier or wanted.user or key.name
                meta = {"from": "api", "key": key.id, **({"metadata": wanted.metadata} if wanted.metadata else {})}
                outcome, prompt = await in_thread(lambda: service.pool.offer(asked.messages, user_id, meta))
                service.metrics.prompts.labels(outcome).inc()
                headers["x-preceptor-store"] = outcome
                prompt = prompt if outcome in ("kept", "known") else None
            shape = shape_of(wanted, served)

            async def record(texts: list[tuple[str, str]]) -> None:
                if prompt is not None:
                    rows = _completions(prompt, flow, texts)
                    await in_thread(lambda: service.pool.record(rows))

            if wanted.stream:
                return EventStream(_events(flow, shape, record, usage_asked), headers, lambda: _close(service, flow))
            choices = await unless_gone(request, flow.whole())
            await record([(choice.text, choice.finish or "length") for choice in choices])
            body = flow.head.of(
                shape.whole,
                [shape.choice(index, choice) for index, choice in enumerate(choices)],
                usage=usage(flow.prompt_tokens, flow.answer_tokens),
            )
            response = JSONResponse(body, headers=headers)
        except BaseException:
            _close(service, flow)
            raise
        _close(service, flow)
        return response

    return router


class EventStream(StreamingResponse):
    """Server-sent events; `closing` runs at the end, however it comes: even a client that left before the start."""

    def __init__(self, events: AsyncIterator[bytes], headers: dict[str, str], closing: Callable[[], None]):
        headers = {"cache-control": "no-store", "x-accel-buffering": "no", **headers}
        super().__init__(events, headers=headers, media_type="text/event-stream")
        self.closing = closing

    async def __call__(self, scope, receive, send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.closing()


async def _events(
    flow: Flow,
    shape: ChatShape | TextShape,
    record: Callable[[list[tuple[str, str]]], Awaitable[None]],
    usage_asked: bool,
) -> AsyncIterator[bytes]:
    """The stream of an answer. What the store shall keep of it is kept before its last words are sent."""
    more = {"usage": None} if usage_asked else {}
    logprobs = flow.asked.top is not None
    count = len(flow.asked.prompts) * flow.asked.n
    texts = [""] * count
    finishes = [""] * count
    for index in range(count):
        opening = shape.opening(index)
        if opening is not None:
            yield event(flow.head.of(shape.part, [opening], **more))
    try:
        async for piece in flow.pieces():
            texts[piece.index] += piece.text
            drawn = piece.drawn if logprobs else None
            if piece.text or drawn:
                yield event(flow.head.of(shape.part, [shape.chunk(piece.index, piece.text, drawn, None)], **more))
            if piece.finish:
                finishes[piece.index] = piece.finish
                if all(finishes):
                    await record(list(zip(texts, finishes)))
                yield event(flow.head.of(shape.part, [shape.chunk(piece.index, "", None, piece.finish)], **more))
    except ApiError as error:
        yield event(error.body)
        return
    if usage_asked:
        yield event(flow.head.of(shape.part, [], usage=usage(flow.prompt_tokens, flow.answer_tokens)))
    yield DONE


def _prepare(models: Models, name: str, ask: Callable[[Served], Asked]) -> tuple[AbstractContextManager, Served, Asked]:
    lease = models.use(name)
    served = lease.__enter__()
    try:
        return lease, served, ask(served)
    except BaseException:
        lease.__exit__(None, None, None)
        raise


def _close(service: Service, flow: Flow) -> None:
    if not flow.closed:
        metrics = service.metrics
        metrics.tokens.labels(flow.served.name, "prompt").inc(flow.prompt_tokens)
        metrics.tokens.labels(flow.served.name, "answer").inc(flow.answer_tokens)
        metrics.whole.observe(time.monotonic() - flow.started)
        if flow.first_after is not None:
            metrics.first.observe(flow.first_after)
        if not flow.finished:
            metrics.abandoned.inc()
    flow.close()


def _completions(prompt: Prompt, flow: Flow, texts: list[tuple[str, str]]) -> list[Completion]:
    return [
        Completion.of(
            prompt.id,
            flow.served.id,
            text,
            index=index,
            sampling=flow.asked.sampling,
            finish_reason="stop" if finish == "stop" else "length",
        )
        for index, (text, finish) in enumerate(texts)
    ]


def authorise(service: Service, request: HttpRequest) -> ApiKey:
    """The key in `Authorization: Bearer ...`, counted against its limit of requests. Raises ApiError 401 or 429."""
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    key = find_key(service.workspace.store, secret.strip()) if scheme.lower() == "bearer" and secret.strip() else None
    if key is None:
        said = "this API key is not valid" if secret else "an API key is needed: Authorization: Bearer KEY"
        raise ApiError(401, f"{said}; make one with: preceptor keys add NAME", code="invalid_api_key")
    service.limits.take_request(key)
    return key


async def read_body(request: HttpRequest, limit: int) -> bytes:
    """The body of a request. Raises ApiError 413 as soon as it is longer than `limit` bytes."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise ApiError(413, f"the body is longer than {limit} bytes")
        parts.append(part)
    return b"".join(parts)


async def unless_gone(request: HttpRequest, work: Awaitable[Result]) -> Result:
    """The result of `work`; Gone, and `work` cancelled, when the client hangs up first."""

    async def hang_up() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task, watch = asyncio.ensure_future(work), asyncio.ensure_future(hang_up())
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Gone
        return task.result()
    finally:
        task.cancel()
        watch.cancel()


def _card(models: Models, name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": models.made_at(name), "owned_by": "preceptor"}


def _body(kind: type[Request]) -> dict[str, Any]:
    """The OpenAPI description of a body that the endpoint reads by itself."""
    schema = kind.model_json_schema(ref_template="#/components/schemas/{model}")
    parts = schema.pop("$defs", {})
    text = json.dumps(schema)
    for name, part in parts.items():
        text = text.replace(json.dumps({"$ref": f"#/components/schemas/{name}"}), json.dumps(part))
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": json.loads(text)}}}}


def _route(metrics: Metrics) -> type[APIRoute]:
    """Routes that give every answer an `x-request-id`, errors OpenAI's shape, and the log a line without any text."""

    class Route(APIRoute):
        def get_route_handler(self) -> Callable[[HttpRequest], Awaitable[Response]]:
            handle = super().get_route_handler()

            async def guarded(request: HttpRequest) -> Response:
                started, number = time.monotonic(), f"req_{secrets.token_hex(12)}"
                try:
                    response = await handle(request)
                except ApiError as error:
                    response = error.response()
                except Gone:
                    response = Response(status_code=499)
                except Exception as error:
                    where = "".join(traceback.format_tb(error.__traceback__))
                    log.error("%s %s failed: %s\n%s", number, self.path, type(error).__name__, where)
                    response = as_api_error(error).response()
                response.headers["x-request-id"] = number
                metrics.requests.labels(self.path, response.status_code).inc()
                milliseconds = 1000 * (time.monotonic() - started)
                log.info("%s %s %s %s %.0f ms", number, request.method, self.path, response.status_code, milliseconds)
                return response

            return guarded

    return Route
