"""Train, validation and test by user: all prompts of a user stand on one side (paper, section 3.2)."""

import hashlib
import math
from collections.abc import Mapping

from preceptor.errors import UserError
from preceptor.types import SPLITS, Split

SHARES: Mapping[Split, float] = {"train": 0.8, "valid": 0.1, "test": 0.1}
CAP = 200  # prompts of one user (paper, section 3.2)


def split_of(key: str, shares: Mapping[Split, float] = SHARES) -> Split:
    """The side of a user (or, where a prompt has none, of its group or its id).

    A hash of `key` alone, so it is the same on every machine and does not change when more data comes.
    """
    point = int.from_bytes(hashlib.sha256(f"split:{key}".encode()).digest()[:8]) / 2**64
    reached = 0.0
    for split in SPLITS:
        reached += shares.get(split, 0.0)
        if point < reached:
            return split
    return next(split for split in reversed(SPLITS) if shares.get(split, 0.0) > 0)  # rounding of the sum


def check_shares(shares: Mapping[Split, float]) -> None:
    """Raises UserError unless the shares name splits, are not negative and add up to 1."""
    for split, share in shares.items():
        if split not in SPLITS:
            raise UserError(f"no split {split!r}; known: {', '.join(SPLITS)}")
        if not 0 <= share <= 1:
            raise UserError(f"the share of {split} is {share}; it should lie between 0 and 1")
    if not math.isclose(sum(shares.values()), 1, abs_tol=1e-9):
        raise UserError(f"the shares of the splits add up to {sum(shares.values()):g}, not to 1")
