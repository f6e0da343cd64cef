"""What the stages read: releases and corpora as token ids."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from preceptor.errors import UserError
from preceptor.intake.releases import freeze, read_corpus, read_release, releases
from preceptor.store import Workspace
from preceptor.text.batches import Blocks, cached_ids, encode_corpus
from preceptor.text.chat import Chat
from preceptor.training import ranks
from preceptor.types import Message, Ranking, Release, content_id


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt and one answer to it, as token ids."""

    prompt: list[int]
    answer: list[int]

    @property
    def tokens(self) -> list[int]:
        return self.prompt + self.answer


@dataclass(frozen=True, slots=True)
class RankedPrompt:
    """A prompt with K ranked answers. `pairs`: (place of the better, place of the worse), ties left out."""

    prompt: list[int]
    answers: list[list[int]]
    pairs: list[tuple[int, int]]
    labeler_id: str
    weight: float = 1.0

    @property
    def rows(self) -> list[list[int]]:
        return [self.prompt + answer for answer in self.answers]


def messages_of(row: dict) -> tuple[Message, ...]:
    return tuple(Message(role=message["role"], content=message["content"]) for message in row["messages"])


def find_release(workspace: Workspace, kind: str, name: str | None, **filters) -> Release:
    """The release `name`, or one frozen now from what the database holds."""
    if name is None:
        return ranks.in_turn(lambda: freeze(workspace, kind, **filters))  # type: ignore[arg-type]
    for release in releases(workspace):
        if release.name == name:
            if release.kind != kind:
                raise UserError(f"the release {name!r} holds {release.kind}, not {kind}")
            return release
    known = ", ".join(r.name for r in releases(workspace) if r.kind == kind) or "none yet"
    raise UserError(f"no release {name!r}; releases of {kind}: {known}")


def read_examples(release: Release, chat: Chat, max_tokens: int) -> tuple[list[Example], int]:
    """Demonstrations as ids, and the number of those left out because they are longer than `max_tokens`."""
    rows = list(read_release(release))
    answers = chat.answers([row["text"] for row in rows])
    examples = [Example(chat.prompt(messages_of(row)), answer) for row, answer in zip(rows, answers)]
    fitting = [example for example in examples if len(example.tokens) <= max_tokens]
    if not fitting:
        raise UserError(f"release {release.name}: no demonstration has at most {max_tokens} tokens")
    return fitting, len(examples) - len(fitting)


def read_rankings(release: Release, chat: Chat, max_tokens: int) -> tuple[list[RankedPrompt], int]:
    """Rankings as ids, and the number of those left out because an answer makes them longer than `max_tokens`."""
    ranked, left_out = [], 0
    for row in read_release(release):
        prompt, ranks = chat.prompt(messages_of(row)), row["ranks"]
        answers = chat.answers(row["answers"])
        if len(prompt) + max(map(len, answers)) > max_tokens:
            left_out += 1
            continue
        places = range(len(ranks))
        pairs = [(i, j) for i in places for j in places if ranks[i] < ranks[j]]
        ranked.append(RankedPrompt(prompt, answers, pairs, row["labeler_id"]))
    if not ranked:
        raise UserError(f"release {release.name}: no ranking whose answers have at most {max_tokens} tokens")
    return ranked, left_out


def read_judgements(release: Release) -> list[Ranking]:
    """The release's rankings as people gave them. An answer is known by its prompt and text, so that labelers who saw
    the same answers meet; equal texts in one ranking are told apart by their order."""
    rankings = []
    for row in read_release(release):
        texts = row["answers"]
        ids = [content_id("c", row["prompt_id"], text, texts[:place].count(text)) for place, text in enumerate(texts)]
        rankings.append(Ranking.of(row["prompt_id"], row["labeler_id"], tuple(ids), tuple(row["ranks"])))
    return rankings


def read_prompts(release: Release, chat: Chat, max_tokens: int) -> tuple[list[list[int]], int]:
    """Prompts as ids, and the number of those left out because they are longer than `max_tokens`."""
    prompts = [chat.prompt(messages_of(row)) for row in read_release(release)]
    fitting = [prompt for prompt in prompts if len(prompt) <= max_tokens]
    if not fitting:
        raise UserError(f"release {release.name}: no prompt has at most {max_tokens} tokens")
    return fitting, len(prompts) - len(fitting)


def corpus_hash(workspace: Workspace, name: str | None) -> dict[str, str]:
    """Corpus name -> sha256, for a run's identity and a model's card."""
    return {c["name"]: c["sha256"] for c in workspace.store.corpora() if name is None or c["name"] == name}


def corpus_ids(workspace: Workspace, name: str | None, chat: Chat, part: str = "train") -> np.ndarray:
    """The ids of a corpus (None: of all), each document followed by the end-of-text token; cached on disk."""
    import hashlib

    key = [sorted(corpus_hash(workspace, name).items()), chat.tokenizer.get_vocab(), part]
    digest = hashlib.sha256(repr(key).encode()).hexdigest()[:16]
    path = workspace.root / "corpus" / "ids" / f"{digest}.npy"
    return cached_ids(path, lambda: encode_corpus(read_corpus(workspace, name, part), chat.tokenizer, chat.eos))


def corpus_blocks(workspace: Workspace, name: str | None, chat: Chat, context: int, part: str = "train") -> Blocks:
    return Blocks(corpus_ids(workspace, name, chat, part), context, f"the {part} part of the corpus {name or '(all)'}")


def held_out_blocks(workspace: Workspace, name: str | None, chat: Chat, context: int) -> Blocks | None:
    """Validation text, in blocks shorter than `context` where there is too little for one; None where there is none."""
    ids = corpus_ids(workspace, name, chat, "valid")
    return Blocks(ids, min(context, len(ids) - 1)) if len(ids) > 1 else None


def split_held_out(items: Sequence, keys: Sequence[str], share: float) -> tuple[list, list]:
    """(kept for training, held out): by a hash of the key, so that the same keys always fall on the same side."""
    import hashlib

    def held(key: str) -> bool:
        return int.from_bytes(hashlib.sha256(f"held-out {key}".encode()).digest()[:4]) < share * 2**32

    train = [item for item, key in zip(items, keys) if not held(key)]
    return train, [item for item, key in zip(items, keys) if held(key)]
