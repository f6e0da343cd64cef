"""Rows of token ids as tensors, with little padding, and a corpus as blocks of equal length."""

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from preceptor.errors import UserError

DOCUMENTS = 512  # tokenised at once


def pad_right(rows: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Rows as one tensor [B, T] with padding at the right, and their lengths [B].

    Attention is causal, so no real token ever sees the padding: no mask is needed, and none is made.
    """
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.full((len(rows), int(lengths.max())), pad, dtype=torch.long)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.as_tensor(row, dtype=torch.long)
    return ids, lengths


def by_length(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Places 0..n-1 in groups of `size`, similar lengths together, the longest group first."""
    order = sorted(range(len(lengths)), key=lambda place: (-lengths[place], place))
    for start in range(0, len(order), size):
        yield order[start : start + size]


@lru_cache(maxsize=8)
def shuffled(n: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of 0..n-1 that depends on (seed, epoch) alone, so that a resumed run goes on in the same order."""
    order = np.random.default_rng([seed, epoch]).permutation(n)
    order.flags.writeable = False  # callers share it
    return order


def batch_places(n: int, size: int, seed: int, step: int) -> np.ndarray:
    """The places of optimizer step `step` in an endless sequence of shuffled passes over n rows."""
    first, places = step * size, []
    while len(places) < size:
        epoch, offset = divmod(first + len(places), n)
        places.extend(shuffled(n, seed, epoch)[offset : offset + size - len(places)])
    return np.array(places)


def epoch_places(n: int, size: int, seed: int, step: int) -> np.ndarray:
    """The places of optimizer step `step` where every pass over n rows takes ceil(n / size) steps and uses each row
    once; the last batch of a pass may be smaller."""
    epoch, batch = divmod(step, -(-n // size))
    return shuffled(n, seed, epoch)[batch * size : (batch + 1) * size]


def encode_corpus(documents: Iterable[str], tokenizer, eos: int) -> np.ndarray:
    """All documents as one row of ids, each followed by the end-of-text token."""
    parts: list[np.ndarray] = []
    kind = np.uint16 if len(tokenizer) < 2**16 else np.uint32
    batch: list[str] = []

    def flush() -> None:
        for ids in tokenizer(batch, add_special_tokens=False)["input_ids"] if batch else ():
            parts.append(np.array([*ids, eos], dtype=kind))
        batch.clear()

    for document in documents:
        batch.append(document)
        if len(batch) == DOCUMENTS:
            flush()
    flush()
    return np.concatenate(parts) if parts else np.empty(0, dtype=kind)


class Blocks:
    """A corpus cut into blocks of `context` + 1 ids that overlap by one: inputs and their targets."""

    def __init__(self, ids: np.ndarray, context: int, name: str = "the corpus"):
        self.ids, self.context = ids, context
        self.count = (len(ids) - 1) // context
        if self.count < 1:
            raise UserError(f"{name} has {len(ids)} tokens; at least {context + 1} are needed for one block")

    def __len__(self) -> int:
        return self.count

    def take(self, places: Iterable[int]) -> Tensor:
        """Blocks [B, context + 1]."""
        rows = [self.ids[p * self.context : p * self.context + self.context + 1].astype(np.int64) for p in places]
        return torch.from_numpy(np.stack(rows))


def cached_ids(path: Path, make) -> np.ndarray:
    """The array at `path`, memory-mapped; made by `make()` and written there first when it does not exist."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        with open(temporary, "wb") as file:
            np.save(file, make())
        temporary.rename(path)
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserError(f"{path} holds no token ids ({error}); remove it, and it is made again") from error
