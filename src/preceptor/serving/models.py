"""The models of a workspace that can answer: listed by name, loaded when first asked for, a few kept in memory."""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from preceptor.config import ServeConfig
from preceptor.errors import UserError
from preceptor.models.load import load_tokenizer
from preceptor.models.save import model_hash
from preceptor.serving.engine import Engine, Running
from preceptor.serving.errors import ApiError, bad
from preceptor.serving.news import Broken
from preceptor.serving.words import Words
from preceptor.store import Workspace
from preceptor.text.chat import Chat
from preceptor.types import Message

Signature = tuple[tuple[str, int, int], ...]


@dataclass(slots=True)
class Served:
    """A model in memory. `id` is `name@hash`, what a completion in the store is recorded under."""

    name: str
    id: str
    signature: Signature
    chat: Chat
    words: Words
    running: Running
    users: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def context(self) -> int:
        """Tokens of prompt and answer at most."""
        return self.running.context

    def chat_tokens(self, messages: Sequence[Message]) -> list[int]:
        """A conversation as tokens. Raises ApiError where the model's chat template refuses it."""
        try:
            with self.lock:
                return self.chat.prompt(messages)
        except Exception as error:  # a template may raise anything; its words are about the messages
            raise bad(f"the chat template of {self.name} refuses these messages: {error}", "messages") from error

    def text_tokens(self, text: str) -> list[int]:
        """A text as tokens; the end-of-text token for an empty one, so that there is something to go on from."""
        with self.lock:
            return self.chat.tokenizer(text)["input_ids"] or [self.chat.eos]


class Models:
    """Call `use(name)` around all work with a model: meanwhile it is not unloaded."""

    def __init__(self, workspace: Workspace, config: ServeConfig):
        self.workspace, self.config = workspace, config
        self.lock = threading.Lock()
        self.loading = threading.Lock()
        self.loaded: dict[str, Served] = {}  # the one used longest ago first
        self.engine: Engine | None = None  # started when the first model is asked for

    def names(self) -> list[str]:
        """Models that write text, by age; reward models do not."""
        return [name for name in self.workspace.models() if self._writes(self.workspace.model(name))]

    def made_at(self, name: str) -> int:
        """Seconds since 1970."""
        return int((self.workspace.model(name) / "config.json").stat().st_mtime)

    @contextmanager
    def use(self, name: str) -> Iterator[Served]:
        """The model `name`, loaded if it is not; blocks meanwhile. Raises ApiError 404, or 500 if it cannot be."""
        served = self._find(name)
        if served is None:
            with self.loading:
                served = self._find(name) or self._load(name)
        try:
            yield served
        finally:
            with self.lock:
                served.users -= 1

    def loads(self) -> dict[str, tuple[int, int, int]]:
        """Per model in memory: answers that decode, that wait, and tokens drawn since it was loaded."""
        with self.lock:
            return {name: (*served.running.load, served.running.tokens_drawn) for name, served in self.loaded.items()}

    def close(self) -> None:
        """Finish all running answers and end the models' process."""
        with self.lock:
            served, self.loaded = list(self.loaded.values()), {}
            engine, self.engine = self.engine, None
        for one in served:
            one.running.close()
        if engine is not None:
            engine.stop()

    def _find(self, name: str) -> Served | None:
        """The loaded model, counted as used; None where it is not loaded or its files were replaced."""
        if name not in self.workspace.models() or not self._writes(self.workspace.model(name)):
            raise ApiError(
                404, f"there is no model {name!r}; see GET /v1/models", param="model", code="model_not_found"
            )
        signature = _signature(self.workspace.model(name))
        with self.lock:
            served = self.loaded.get(name)
            if served is None or served.signature != signature or not served.running.engine.alive:
                return None
            self.loaded[name] = self.loaded.pop(name)
            served.users += 1
            return served

    def _load(self, name: str) -> Served:
        folder = self.workspace.model(name)
        signature = _signature(folder)
        self._make_room(name)
        if self.engine is None or not self.engine.alive:
            self.engine = Engine()
        config = self.config
        try:
            chat = Chat(load_tokenizer(folder))
            running = self.engine.load(name, folder, rows=config.rows, queue=config.queue, context=config.context)
        except (UserError, Broken) as error:
            raise ApiError(500, str(error), param="model") from error
        served = Served(
            name=name,
            id=f"{name}@{model_hash(folder)[:16]}",
            signature=signature,
            chat=chat,
            words=Words(chat.tokenizer),
            running=running,
            users=1,
        )
        with self.lock:
            self.loaded[name] = served
        return served

    def _make_room(self, name: str) -> None:
        with self.lock:
            out = [self.loaded.pop(name)] if name in self.loaded else []  # its files were replaced
            idle = [other for other, served in self.loaded.items() if not served.users]
            while len(self.loaded) >= self.config.loaded:
                if not idle:
                    raise ApiError(
                        429, "all models in memory are busy and there is no room for another", code="busy", seconds=5
                    )
                out.append(self.loaded.pop(idle.pop(0)))
        for served in out:
            served.running.close()

    @staticmethod
    def _writes(folder: Path) -> bool:
        try:
            kinds = json.loads((folder / "config.json").read_text()).get("architectures") or []
        except (OSError, ValueError):
            return False  # being replaced at this moment, or damaged: not served either way
        return not any(kind.endswith("ForSequenceClassification") for kind in kinds)


def unknown_model(name: str) -> ApiError:
    return ApiError(404, f"there is no model {name[:100]!r}; see GET /v1/models", param="model", code="model_not_found")


def _signature(folder: Path) -> Signature:
    files = sorted(folder.glob("*.safetensors"))
    return tuple((path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in files)
