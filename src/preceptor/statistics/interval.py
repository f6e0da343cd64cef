"""A number, what it rests on, and how far it may be off. Standard library only."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """An estimate with its 95 % interval.

    `n` counts what was judged (comparisons, answers, items); `clusters` counts what was drawn independently
    (prompts). An end that nothing is known about is infinite for a mean, and 0 or 1 for a share.
    """

    value: float
    low: float
    high: float
    n: int
    clusters: int

    def above(self, line: float) -> bool:
        """The whole interval lies above `line`."""
        return self.low > line

    def below(self, line: float) -> bool:
        return self.high < line

    def flipped(self) -> "Interval":
        """The same share seen from the other side: 1 - share."""
        return Interval(value=1 - self.value, low=1 - self.high, high=1 - self.low, n=self.n, clusters=self.clusters)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; an infinite end is written as null."""
        ends = {"low": self.low, "high": self.high}
        shown = {name: end if math.isfinite(end) else None for name, end in ends.items()}
        return {"value": self.value, **shown, "n": self.n, "clusters": self.clusters}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Interval":
        low, high = data["low"], data["high"]
        return Interval(
            value=data["value"],
            low=-math.inf if low is None else low,
            high=math.inf if high is None else high,
            n=data["n"],
            clusters=data["clusters"],
        )
