"""Prompts that say the same: a long common prefix (paper, appendix A.2), then MinHash for near-duplicates."""

import hashlib
import re
from collections.abc import Iterable

import numpy as np
from datasketch import MinHash

PREFIX = 200  # characters; the paper does not say how long its "long common prefix" is
PERMUTATIONS, BANDS = 128, 8  # 8 bands of 16 rows: half of the pairs with a Jaccard similarity of 0.86 meet
THRESHOLD = 0.9
SHINGLE = 5  # words

_SPACE = re.compile(r"\s+")


def normalised(text: str) -> str:
    """Lower case, with every run of white space as one blank."""
    return _SPACE.sub(" ", text).strip().lower()


def shingles(text: str) -> Iterable[bytes]:
    """Every run of five words; a shorter text is one shingle."""
    words = normalised(text).split(" ")
    return {" ".join(words[i : i + SHINGLE]).encode() for i in range(max(1, len(words) - SHINGLE + 1))}


class CommonPrefix:
    """Finds an earlier prompt with the same first 200 characters (the whole text of a shorter one).

    About 150 bytes of memory for each prompt.
    """

    def __init__(self) -> None:
        self.first: dict[bytes, str] = {}

    def find_or_add(self, key: str, text: str) -> str | None:
        """The key of an earlier prompt with this prefix; None, and remembered, where there is none."""
        found = self.first.setdefault(_prefix(text), key)
        return None if found == key else found

    def forget(self, text: str) -> None:
        self.first.pop(_prefix(text), None)


def _prefix(text: str) -> bytes:
    return hashlib.blake2b(normalised(text)[:PREFIX].encode("utf-8", "replace"), digest_size=12).digest()


class NearDuplicates:
    """Finds an earlier prompt whose estimated Jaccard similarity of five-word shingles reaches the threshold.

    About 2 kB of memory for each prompt.
    """

    def __init__(self, threshold: float = THRESHOLD):
        self.threshold = threshold
        self.keys: list[str] = []
        self.signatures: list[bytes] = []
        self.bands: dict[bytes, list[int]] = {}

    def find_or_add(self, key: str, text: str) -> str | None:
        """The key of an earlier near-duplicate; None, and remembered, where there is none."""
        sketch = MinHash(num_perm=PERMUTATIONS, seed=1)
        sketch.update_batch(list(shingles(text)))
        signature = sketch.hashvalues.astype(np.uint32)
        marks = [bytes([band]) + part.tobytes() for band, part in enumerate(signature.reshape(BANDS, -1))]
        marks = [hashlib.blake2b(mark, digest_size=8).digest() for mark in marks]
        for place in sorted({place for mark in marks for place in self.bands.get(mark, ())}):
            other = np.frombuffer(self.signatures[place], dtype=np.uint32)
            if self.keys[place] != key and float(np.mean(other == signature)) >= self.threshold:
                return self.keys[place]
        for mark in marks:
            self.bands.setdefault(mark, []).append(len(self.keys))
        self.keys.append(key)
        self.signatures.append(signature.tobytes())
        return None
