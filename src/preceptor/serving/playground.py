"""The playground: talk to one model, or to two without knowing which is which, and vote.

It joins the app that knows who is signed in, and takes from it: the user of a request, the posted form, the page frame.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

from anyio import to_thread
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response

from preceptor.serving.api import EventStream, Service, unless_gone
from preceptor.serving.asking import Asked, Flow, begin
from preceptor.serving.conversations import Conversation, Conversations, Settings, Side, Turn
from preceptor.serving.errors import ApiError, bad
from preceptor.serving.models import Served
from preceptor.serving.news import Piece
from preceptor.serving.replies import event
from preceptor.store.consent import VOTES, add_vote, consent_of, set_consent
from preceptor.types import Completion, Sampling

HERE = Path(__file__).parent
TEMPLATES = HERE / "templates"
CONSENT = "playground-1"  # version of the sentence on the page
LETTERS = ("left", "right")


class Person(Protocol):
    """Who is signed in. `labeler_id` signs the votes."""

    id: str
    labeler_id: str


class Form(Protocol):
    """A posted form that was checked to come from a page of ours."""

    def get(self, name: str, default: str = "") -> str: ...


def playground_router(
    service: Service,
    *,
    current_user: Callable[[Request], Person],
    posted: Callable[[Request], Awaitable[Form]],
    render: Callable[..., Response],
    forget: Callable[[str], object],
) -> APIRouter:
    """`/playground`. `current_user` raises what its app answers strangers with; `render(request, template, status,
    **values)` makes a page from `playground.html` in TEMPLATES, whose frame is the app's own `base.html`.
    `forget(user_id)` deletes what the store and its releases hold of a user.
    """
    router = APIRouter(include_in_schema=False)
    talks = Conversations()
    store = service.workspace.store

    def page(
        request: Request, person: Person, talk: Conversation | None, settings: Settings, status: int = 200, **more: Any
    ) -> Response:
        values = {
            "talk": talk,
            "talks": talks.of(person.id),
            "settings": settings,
            "names": service.models.names(),
            "consent": consent_of(store, person.id) is not None,
            "problem": "",
            "draft": "",
            "forgotten": "forgotten" in request.query_params,
        }
        return render(request, "playground.html", status, **values | more)

    @router.get("/playground/playground.js")
    def script() -> Response:
        return FileResponse(HERE / "static" / "playground.js", media_type="text/javascript")

    @router.get("/playground")
    def fresh(request: Request, mode: str = "pair") -> Response:
        person = current_user(request)
        return page(request, person, None, Settings(blind=mode != "one"))

    @router.get("/playground/{key}")
    def show(request: Request, key: str) -> Response:
        person = current_user(request)
        talk = talks.find(person.id, key)
        if talk is None:
            return RedirectResponse("/playground", 303)  # it lived in the memory of a server that was restarted
        return page(request, person, talk, talk.settings)

    @router.post("/playground/consent")
    async def consent(request: Request) -> Response:
        person, form = await _who(request)
        version = CONSENT if form.get("consent") else None
        await to_thread.run_sync(set_consent, store, person.id, version)
        return _back(person, form)

    @router.post("/playground/forget")
    async def forget_me(request: Request) -> Response:
        """All that this person sent: prompts, what was made of them, their lines in releases, their consent."""
        person, form = await _who(request)
        if not form.get("sure"):
            return _back(person, form)
        await to_thread.run_sync(forget, person.id)
        talks.forget(person.id)
        return RedirectResponse("/playground?forgotten=yes", 303)

    @router.post("/playground/say")
    async def say(request: Request) -> Response:
        """Without a script: the page comes back when the answers are complete."""
        person, form = await _who(request)
        settings = Settings()
        try:
            settings = settings_of(form)
            talk, said = _open(person, form, settings)
            asking = Asking(service, talk, said)
            await asking.begin()
            try:
                await unless_gone(request, asking.all())
            finally:
                asking.close()
            await to_thread.run_sync(_keep, person, talk, asking)
        except ApiError as error:
            talk = talks.find(person.id, form.get("talk"))
            status, more = error.status, {"problem": error.message, "draft": form.get("say")}
            return await to_thread.run_sync(lambda: page(request, person, talk, settings, status, **more))
        return RedirectResponse(f"/playground/{talk.id}", 303)

    @router.post("/playground/stream")
    async def stream(request: Request) -> Response:
        """For the page's script: the words of both sides as events, then where the whole page is."""
        person, form = await _who(request)
        try:
            talk, said = _open(person, form, settings_of(form))
            asking = Asking(service, talk, said)
            await asking.begin()
        except ApiError as error:
            return error.response()

        async def events() -> AsyncIterator[bytes]:
            try:
                async for words in asking.paced():
                    yield event(words)
                await to_thread.run_sync(_keep, person, talk, asking)
                yield event({"done": f"/playground/{talk.id}"})
            except ApiError as error:
                yield event({"problem": error.message})

        return EventStream(events(), {}, asking.close)

    @router.post("/playground/{key}/vote")
    async def vote(request: Request, key: str) -> Response:
        """Counts once per turn, and only when both answers are complete, which is when the turn exists."""
        person, form = await _who(request)
        talk = talks.find(person.id, key)
        choice = form.get("vote")
        if talk is not None and talk.turns and talk.turns[-1].open and choice in VOTES:
            turn = talk.turns[-1]
            sides = [side.completion_id for side in turn.sides]
            if turn.prompt_id is not None and all(sides):
                await to_thread.run_sync(add_vote, store, turn.prompt_id, person.labeler_id, sides, choice)
            turn.vote = choice
        return RedirectResponse(f"/playground/{key}" if talk else "/playground", 303)

    async def _who(request: Request) -> tuple[Person, Form]:
        person = await to_thread.run_sync(current_user, request)
        return person, await posted(request)

    def _back(person: Person, form: Form) -> Response:
        talk = talks.find(person.id, form.get("talk"))
        return RedirectResponse(f"/playground/{talk.id}" if talk else "/playground", 303)

    def _open(person: Person, form: Form, settings: Settings) -> tuple[Conversation, str]:
        said = form.get("say").strip()
        if not said:
            raise bad("There is no message yet. Write one, then send it.")
        talk = talks.find(person.id, form.get("talk")) or talks.new(person.id, settings)
        if talk.turns and talk.turns[-1].open:
            raise bad("Vote on the last two answers first, or begin a new conversation.")
        talk.settings = settings
        return talk, said

    def _keep(person: Person, talk: Conversation, asking: "Asking") -> None:
        """The complete turn, first into the store where the person agreed to that, then into the conversation."""
        turn = Turn(asking.said, asking.sides())
        version = consent_of(store, person.id)
        if version is not None:
            meta = {"from": "playground", "consent": version}
            turn.outcome, prompt = service.pool.offer(asking.messages, person.id, meta)
            service.metrics.prompts.labels(turn.outcome).inc()
            if turn.outcome in ("kept", "known"):
                turn.prompt_id = prompt.id
                completions = asking.completions(prompt.id)
                service.pool.record(completions)
                for side, completion in zip(turn.sides, completions):
                    side.completion_id = completion.id
        talk.turns.append(turn)

    return router


class Asking:
    """One message on its way to one model or two."""

    def __init__(self, service: Service, talk: Conversation, said: str):
        self.service, self.talk, self.said = service, talk, said
        self.messages = talk.messages(said)
        self.flows: list[Flow] = []
        self.texts: list[str] = []
        self.finishes: list[str] = []
        self.seed = talk.settings.seed if talk.settings.seed is not None else secrets.randbits(31)

    async def begin(self) -> None:
        """Hand the message to the models. Raises ApiError, and nothing runs."""
        names = self.talk.draw(await to_thread.run_sync(self.service.models.names))
        if not names:
            raise ApiError(404, "There is no model yet. Train one, or import one, then come back.")
        try:
            for name in names:
                lease = self.service.models.use(name)
                served = await to_thread.run_sync(lease.__enter__)
                try:
                    asked = await to_thread.run_sync(self._asked, served)
                    flow = begin(self.service.models, lease, served, asked, "play", strip=True)
                except BaseException:
                    lease.__exit__(None, None, None)
                    raise
                self.flows.append(flow)
        except BaseException:
            self.close()
            raise
        self.texts, self.finishes = [""] * len(names), [""] * len(names)

    def _asked(self, served: Served) -> Asked:
        prompt = served.chat_tokens(self.messages)
        room = min(self.talk.settings.max_tokens, served.context - len(prompt))
        if room < 1:
            raise bad("This conversation fills what a model can read at once. Begin a new one.")
        settings = self.talk.settings
        sampling = Sampling(temperature=settings.temperature, max_new_tokens=room, seed=self.seed % 2**31)
        return Asked([prompt], 1, sampling, (), None, messages=self.messages)

    async def all(self) -> None:
        """Wait until every answer is complete."""
        async for _ in self.paced():
            pass

    async def paced(self) -> AsyncIterator[dict[str, str]]:
        """New words of each side. While both write, neither is ahead of the other: speed gives no model away."""
        queue: asyncio.Queue[tuple[int, Piece | Exception]] = asyncio.Queue()

        async def read(side: int, flow: Flow) -> None:
            try:
                async for piece in flow.pieces():
                    queue.put_nowait((side, piece))
            except ApiError as error:
                queue.put_nowait((side, error))

        readers = [asyncio.ensure_future(read(side, flow)) for side, flow in enumerate(self.flows)]
        shown = [0] * len(self.flows)
        try:
            while not all(self.finishes):
                side, piece = await queue.get()
                if isinstance(piece, Exception):
                    raise piece
                self.texts[side] += piece.text
                self.finishes[side] = piece.finish or ""
                writing = [len(text) for text, finish in zip(self.texts, self.finishes) if not finish]
                upto = min(writing, default=max(map(len, self.texts)))
                words = {}
                for place, text in enumerate(self.texts):
                    if len(text[:upto]) > shown[place]:
                        words[LETTERS[place]] = text[shown[place] : upto]
                        shown[place] = len(text[:upto])
                if words:
                    yield words
        finally:
            for reader in readers:
                reader.cancel()

    def close(self) -> None:
        for flow in self.flows:
            flow.close()

    def sides(self) -> list[Side]:
        return [
            Side(flow.served.name, text, finish) for flow, text, finish in zip(self.flows, self.texts, self.finishes)
        ]

    def completions(self, prompt_id: str) -> list[Completion]:
        return [
            Completion.of(
                prompt_id,
                flow.served.id,
                text,
                index=index,
                sampling=flow.asked.sampling,
                finish_reason="stop" if finish == "stop" else "length",
            )
            for index, (flow, text, finish) in enumerate(zip(self.flows, self.texts, self.finishes))
        ]


def settings_of(form: Form) -> Settings:
    """The settings beside the conversation. Raises ApiError in the page's words."""
    try:
        temperature = float(form.get("temperature", "0.7") or 0.7)
        most = int(form.get("max_tokens", "512") or 512)
        seed = int(form.get("seed")) if form.get("seed").strip() else None
    except ValueError as error:
        raise bad("Temperature, longest answer and seed are numbers. Nothing was sent.") from error
    if not 0 <= temperature <= 2:
        raise bad("The temperature goes from 0 to 2. Nothing was sent.")
    if not 1 <= most <= 2048:
        raise bad("The longest answer goes from 1 to 2048 tokens. Nothing was sent.")
    names = tuple(name for name in (form.get("first"), form.get("second")) if name)
    blind = form.get("mode", "pair") != "one"
    if blind and len(names) == 2 and names[0] == names[1]:
        raise bad("Choose two different models, or any two. Nothing was sent.")
    return Settings(temperature, most, seed, names, blind)
