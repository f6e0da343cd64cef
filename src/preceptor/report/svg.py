"""Drawing: a canvas that writes SVG with the stylesheet's classes, scales, ticks, and the five marks.

Written by hand and not by a plotting library: every element has a class instead of a style, so one drawing serves
both themes and a strict content policy, and one figure takes a millisecond.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from preceptor.report.data import Role
from preceptor.report.words import MINUS

WIDE, NARROW = 736, 358
_CHARACTER = 6.5  # pixels of one character of 12 px sans, on average and rather too wide


@dataclass(frozen=True)
class Look:
    """How a series is drawn: colour, mark, and classes of its line."""

    colour: str
    mark: str
    line: str


LOOKS: dict[Role, Look] = {
    "ppo-ptx": Look("a", "disc", "w3"),
    "ppo": Look("b", "diamond", "w2"),
    "sft": Look("c", "triangle", "w2 d2"),
    "prompted": Look("d", "square", "w1 d3"),
    "base": Look("d", "ring", "w1 d1"),
    "other": Look("d", "cross", "w1"),
}


@dataclass(frozen=True)
class Scale:
    """A straight map from values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def held(self, value: float) -> float:
        """As a call, but a value outside (an infinite end of an interval) stops at the edge."""
        return self(min(max(value, self.low), self.high))


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers that cover low to high, `about` of them."""
    if high <= low:
        margin = abs(low) * 0.1 or 1.0
        low, high = low - margin, high + margin
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(factor for factor in (1, 2, 2.5, 5, 10) if raw <= factor * power * 1.0001)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def tick_labels(values: Sequence[float]) -> list[str]:
    """With just as many digits as the step between them needs."""
    step = values[1] - values[0] if len(values) > 1 else 1.0
    digits = next((d for d in range(8) if abs(step * 10**d - round(step * 10**d)) < 1e-6), 8)
    return [f"{value:,.{digits}f}".replace("-", MINUS) if abs(value) > step / 1e6 else "0" for value in values]


def text_width(text: str, role: Role = "other") -> float:
    """Pixels, a guess on the wide side; labels of the model under test are bold."""
    return len(text) * _CHARACTER * (1.14 if LOOKS[role].colour == "a" else 1.0)


def apart(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """The places moved as little as needed to lie `gap` apart, inside low to high where they fit."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    moved = [places[i] for i in order]
    for i in range(1, len(moved)):
        moved[i] = max(moved[i], moved[i - 1] + gap)
    if moved and moved[-1] > high:
        moved[-1] = high
        for i in range(len(moved) - 2, -1, -1):
            moved[i] = min(moved[i], moved[i + 1] - gap)
    shift = max(0.0, low - moved[0]) if moved else 0.0
    result = [0.0] * len(places)
    for place, i in zip(moved, order, strict=True):
        result[i] = place + shift
    return result


class Canvas:
    """Collects elements; `svg` closes it. Places are pixels from the top left corner."""

    def __init__(self, width: int, height: float) -> None:
        self.width, self.height = width, height
        self.parts: list[str] = []

    def text(self, x: float, y: float, words: str, classes: str = "", anchor: str = "") -> None:
        kind = f' class="{classes}"' if classes else ""
        where = f' text-anchor="{anchor}"' if anchor else ""
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}"{kind}{where}>{escape(words)}</text>')

    def line(self, x1: float, y1: float, x2: float, y2: float, classes: str) -> None:
        self.parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{classes}"/>')

    def path(self, points: Sequence[tuple[float, float]], classes: str, closed: bool = False) -> None:
        steps = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        self.parts.append(f'<path d="M{steps}{"Z" if closed else ""}" class="{classes}"/>')

    def mark(self, x: float, y: float, role: Role, turn: int = 0) -> None:
        """`turn` counts the series of one role: the second has a dot in its mark, all further ones a bar through it."""
        look = LOOKS[role]
        c = look.colour
        self._face(x, y, look)
        inner = "f-o c-o" if look.mark in ("disc", "triangle") else f"f-{c} c-{c}"
        if turn == 1:
            self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="1.3" class="{inner} w1"/>')
        elif turn > 1:
            self.line(x, y - 7, x, y + 7, f"c-{c} w2")

    def _face(self, x: float, y: float, look: Look) -> None:
        c = look.colour
        if look.mark == "disc":
            self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" class="f-{c} c-{c} w1"/>')
        elif look.mark == "ring":
            self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" class="f-o c-{c} w2"/>')
        elif look.mark == "diamond":
            self.path([(x, y - 5), (x + 5, y), (x, y + 5), (x - 5, y)], f"f-o c-{c} w2", closed=True)
        elif look.mark == "triangle":
            self.path([(x, y - 4.8), (x + 4.8, y + 3.8), (x - 4.8, y + 3.8)], f"f-{c} c-{c} w1", closed=True)
        elif look.mark == "square":
            self.parts.append(
                f'<rect x="{x - 3.8:.1f}" y="{y - 3.8:.1f}" width="7.6" height="7.6" class="f-o c-{c} w2"/>'
            )
        else:
            self.path([(x - 4, y - 4), (x + 4, y + 4)], f"l c-{c} w2")
            self.path([(x - 4, y + 4), (x + 4, y - 4)], f"l c-{c} w2")

    def label(self, x: float, y: float, lines: Sequence[str], role: Role, turn: int = 0) -> None:
        """A mark and the name of its series, in its colour; `y` is the middle of the first line."""
        self.mark(x + 4, y, role, turn)
        for row, words in enumerate(lines):
            self.text(x + 14, y + 4 + 14 * row, words, f"x-{LOOKS[role].colour}")

    def svg(self, shown: str, says: str) -> str:
        """`shown` is for-wide or for-narrow; `says` is what a reader hears instead of the picture."""
        size = f'viewBox="0 0 {self.width} {self.height:.0f}" width="{self.width}" height="{self.height:.0f}"'
        said = escape(says, quote=True)
        return f'<svg class="{shown}" {size} role="img" aria-label="{said}">{"".join(self.parts)}</svg>'
