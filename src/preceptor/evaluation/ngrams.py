"""A small text classifier: logistic regression on hashed bags of features. Trains in seconds on one core.

It is what we can train from a benchmark's own data without downloading a model: a judge with known errors, to be
used with its measured agreement beside it.
"""

import hashlib
import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from scipy import sparse
from scipy.optimize import minimize
from scipy.special import expit

from preceptor.errors import UserError

VERSION = "1"


def words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+(?:'[^\W_]+)?|[?!]", text.lower().replace("’", "'"))


def word_grams(text: str, longest: int = 2, prefix: str = "") -> list[str]:
    """Word n-grams up to `longest`, with marks for the start and the end."""
    tokens = ["<", *words(text), ">"]
    return [
        prefix + " ".join(tokens[start : start + size])
        for size in range(1, longest + 1)
        for start in range(len(tokens) - size + 1)
    ]


def letter_grams(text: str, sizes: Sequence[int] = (3, 4), prefix: str = "#") -> list[str]:
    """Letter n-grams within words, which see through endings and odd spellings."""
    return [
        prefix + padded[start : start + size]
        for padded in (f" {word} " for word in words(text))
        for size in sizes
        for start in range(len(padded) - size + 1)
    ]


def _matrix(bags: Iterable[Iterable[str]], bits: int) -> sparse.csr_matrix:
    """Each bag as a row of length 1: hashed features, present or not, and a constant in the last column."""
    size = 1 << bits
    ends, places = [0], []
    for bag in bags:
        places.extend({zlib.crc32(feature.encode()) % size for feature in bag})
        ends.append(len(places))
    counts = np.diff(ends)
    values = np.repeat(1 / np.sqrt(np.maximum(counts, 1)), counts)
    rows = sparse.csr_matrix((values, np.array(places, dtype=np.int64), np.array(ends)), shape=(len(counts), size))
    return sparse.hstack([rows, np.ones((len(counts), 1))], format="csr")


@dataclass(frozen=True, kw_only=True)
class NgramClassifier:
    """Probability of yes for a bag of features. `weights`: (2**bits + 1,), the last one the intercept."""

    weights: np.ndarray
    bits: int

    @staticmethod
    def fit(
        bags: Sequence[Iterable[str]], targets: Sequence[float], *, strength: float = 3.0, bits: int = 18
    ) -> "NgramClassifier":
        """Least logistic loss plus |weights|^2 / (2 strength), the intercept free. Targets lie in 0..1; shares will do.

        Deterministic. A ValueError when no target differs from the others, for then there is nothing to learn.
        """
        wanted = np.asarray(targets, dtype=float)
        if not len(wanted) or np.ptp(wanted) == 0:
            raise ValueError("a classifier needs examples of both kinds")
        rows = _matrix(bags, bits)
        free = np.ones(rows.shape[1])
        free[-1] = 0.0

        def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
            logits = rows @ weights
            value = float(np.sum(np.logaddexp(0, logits) - wanted * logits) + (free * weights**2).sum() / 2 / strength)
            return value, rows.T @ (expit(logits) - wanted) + free * weights / strength

        found = minimize(loss, np.zeros(rows.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 200})
        return NgramClassifier(weights=found.x.astype(np.float32), bits=bits)

    def probability(self, bags: Sequence[Iterable[str]]) -> np.ndarray:
        """Shape (bags,)."""
        return expit(_matrix(bags, self.bits) @ self.weights.astype(float))

    @property
    def hash(self) -> str:
        return hashlib.sha256(VERSION.encode() + self.weights.tobytes()).hexdigest()

    def save(self, path: Path) -> None:
        """One .npz file, written whole or not at all."""
        part = path.with_name(path.name + ".part")
        with part.open("wb") as stream:
            np.savez_compressed(stream, weights=self.weights, bits=self.bits)
        part.replace(path)

    @staticmethod
    def load(path: Path) -> "NgramClassifier":
        try:
            with np.load(path, allow_pickle=False) as stored:
                weights, bits = stored["weights"], int(stored["bits"])
        except (OSError, ValueError, KeyError, TypeError, BadZipFile) as error:
            raise UserError(f"{path}: not a saved classifier: {error}") from None
        if weights.shape != ((1 << bits) + 1,):
            raise UserError(f"{path}: not a saved classifier: its weights have shape {weights.shape}")
        return NgramClassifier(weights=weights, bits=bits)
