"""Remembers what a model said, so that an evaluation that was killed asks nothing twice.

One JSON-lines file per model under the cache folder. A line is written when its batch is done; a line torn by a kill
is dropped when the file is read again.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from preceptor.evaluation.subject import Subject
from preceptor.types import Message

BATCH = 256


class Recorded:
    """A `Subject` that asks another one only what is not on file. `asked` counts what it had to ask.

    `left_out` turns true when an item came back without an answer, for it was too long; such items are not on file.
    """

    def __init__(self, subject: Subject, folder: Path, progress: Callable[[int], None] | None = None) -> None:
        self.name, self.hash = subject.name, subject.hash
        self._subject, self._progress = subject, progress
        self._path = folder / f"said-{subject.hash[:16]}.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        self._known = _read(self._path)
        self.asked = 0
        self.left_out = False

    def generate(
        self,
        prompts: list[str],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        stop: tuple[str, ...] = (),
        seed: int = 0,
    ) -> list[str | None]:
        settings = {"max_new_tokens": max_new_tokens, "temperature": temperature, "stop": stop}
        return self._drawn("generate", prompts, prompts, settings, seed)

    def answer(
        self,
        conversations: list[list[Message]],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        stop: tuple[str, ...] = (),
        seed: int = 0,
    ) -> list[str | None]:
        settings = {"max_new_tokens": max_new_tokens, "temperature": temperature, "stop": stop}
        asked = [[(message.role, message.content) for message in talk] for talk in conversations]
        return self._drawn("answer", conversations, asked, settings, seed)

    def loglikelihood(self, pairs: list[tuple[str, str]]) -> list[tuple[float, int] | None]:
        keys = [_key("loglikelihood", pair) for pair in pairs]
        # Sorted by context, so that what follows the same one is asked together; the longest contexts first.
        order = sorted(range(len(pairs)), key=lambda place: (-len(pairs[place][0]), pairs[place][0], place))
        found = self._fill(keys, lambda places: self._subject.loglikelihood([pairs[place] for place in places]), order)
        return [None if one is None else (one[0], one[1]) for one in found]

    def _drawn(self, method: str, items: Sequence, plain: Sequence, settings: dict, seed: int) -> list[str | None]:
        # A drawn answer depends on its row and seed; a greedy one on its prompt alone, so it is asked once.
        draw = settings["temperature"] > 0
        keys = [_key(method, [item, settings, [seed, row] if draw else None]) for row, item in enumerate(plain)]
        ask = getattr(self._subject, method)

        def more(places: Sequence[int]) -> list[str]:
            return ask([items[place] for place in places], seed=seed + places[0], **settings)

        # Those of like length together, for they run together; drawn ones keep their order, on which the draws depend.
        order = range(len(plain)) if draw else sorted(range(len(plain)), key=lambda place: len(str(plain[place])))
        return self._fill(keys, more, order)

    def _fill(
        self, keys: Sequence[str], ask: Callable[[Sequence[int]], Sequence[Any]], order: Sequence[int]
    ) -> list[Any]:
        new = [place for place in order if keys[place] not in self._known]
        new = list({keys[place]: place for place in reversed(new)}.values())[::-1]
        for start in range(0, len(new), BATCH):
            places = new[start : start + BATCH]
            said = ask(places)
            if len(said) != len(places):
                raise ValueError(f"{self.name} gave {len(said)} replies to {len(places)} questions")
            self._keep([(keys[place], value) for place, value in zip(places, said) if value is not None])
            self.left_out = self.left_out or any(value is None for value in said)
            self.asked += len(places)
            if self._progress is not None:
                self._progress(len(places))
        return [self._known.get(key) for key in keys]

    def _keep(self, rows: Sequence[tuple[str, Any]]) -> None:
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write("".join(json.dumps([key, value], ensure_ascii=False) + "\n" for key, value in rows))
        self._known.update(rows)


def _key(method: str, what: Any) -> str:
    return hashlib.sha256(json.dumps([method, what], ensure_ascii=False).encode()).hexdigest()[:32]


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    known = {}
    for line in lines:
        try:
            key, value = json.loads(line)
        except (ValueError, TypeError):
            continue  # the empty end, or a line that a kill tore: it is asked again
        if isinstance(key, str):
            known[key] = value
    if lines and lines[-1]:  # torn: what is appended must start on a line of its own
        with path.open("a", encoding="utf-8") as stream:
            stream.write("\n")
    return known
