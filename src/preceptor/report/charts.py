"""The two charts of the report: lines over an axis, and rows of dots with intervals. Each is drawn at two widths."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from preceptor.report.data import Role
from preceptor.report.svg import LOOKS, NARROW, WIDE, Canvas, Scale, apart, text_width, tick_labels, ticks
from preceptor.report.words import wrap
from preceptor.statistics.interval import Interval


@dataclass(frozen=True, kw_only=True)
class Line:
    """A series: `x` and `y` of the same length; `low` and `high` draw bars."""

    label: str
    role: Role
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    marks: bool = True


@dataclass(frozen=True, kw_only=True)
class Axes:
    """Titles, and what must be inside. `x_ticks` are (place, word) where round numbers will not do; `y_line` and
    `x_line` are dotted lines with a word; `spread` sets series that share an x 9 px apart."""

    y_title: str
    x_title: str
    y_inside: Sequence[float] = ()
    x_inside: Sequence[float] = ()
    x_ticks: Sequence[tuple[float, str]] = ()
    y_line: tuple[float, str] | None = None
    x_line: tuple[float, str] | None = None
    spread: bool = False
    height: int = 300


def line_chart(lines: Sequence[Line], axes: Axes, says: str) -> str:
    """Both widths, one after the other; the stylesheet shows one."""
    return _lines(lines, axes, WIDE).svg("for-wide", says) + _lines(lines, axes, NARROW).svg("for-narrow", says)


def _lines(lines: Sequence[Line], axes: Axes, width: int) -> Canvas:
    names = [wrap(line.label, 20 if width == WIDE else 12) for line in lines]
    room = max(text_width(word, line.role) for line, name in zip(lines, names, strict=True) for word in name) + 24
    values = [v for line in lines for part in (line.y, line.low, line.high) for v in part if math.isfinite(v)]
    values += axes.y_inside
    marks = ticks(min(values), max(values))
    words = tick_labels(marks)
    left = max(text_width(word) for word in words) + 10
    title = _title(axes.y_title, width)
    top = 16.0 + 14 * len(title)
    bottom = top + axes.height - 30
    canvas = Canvas(width, bottom + 48)
    right = width - room
    y = Scale(marks[0], marks[-1], bottom, top)
    places = [v for line in lines for v in line.x] + list(axes.x_inside) + [place for place, _ in axes.x_ticks]
    gap = 9.0 if axes.spread else 0.0
    inset = 16 + gap * (len(lines) - 1) / 2 if axes.x_ticks else 0.0
    if axes.x_ticks:
        low, high = min(places), max(places)
        middle = (left + right) / 2
        x = Scale(low, high, left + inset, right - inset) if high > low else Scale(low, low + 1, middle, middle + 1)
        x_marks = list(axes.x_ticks)
    else:
        round_marks = ticks(min(places), max(places), 6 if width == WIDE else 4)
        x = Scale(round_marks[0], round_marks[-1], left, right)
        x_marks = list(zip(round_marks, tick_labels(round_marks), strict=True))

    for i, words_of_title in enumerate(title):
        canvas.text(0, 12 + 14 * i, words_of_title, "t-strong")
    for mark, word in zip(marks, words, strict=True):
        canvas.line(left, y(mark), right, y(mark), "g-grid")
        canvas.text(left - 6, y(mark) + 4, word, "t-quiet", "end")
    canvas.line(left, bottom, right, bottom, "g-axis")
    for mark, word in x_marks:
        canvas.line(x(mark), bottom, x(mark), bottom + 4, "g-axis")
        canvas.text(x(mark), bottom + 18, word, anchor="middle")
    half = text_width(axes.x_title) / 2
    canvas.text(min(max((left + right) / 2, half), width - half), bottom + 42, axes.x_title, "t-quiet", "middle")
    if axes.y_line is not None:
        canvas.line(left, y(axes.y_line[0]), right, y(axes.y_line[0]), "g-ref")
        canvas.text(left + 4, y(axes.y_line[0]) - 5, axes.y_line[1], "t-quiet")
    if axes.x_line is not None:
        at, word = x(axes.x_line[0]), axes.x_line[1]
        canvas.line(at, top, at, bottom, "g-ref")
        outside = at + 6 + text_width(word) > right
        canvas.text(at - 6 if outside else at + 6, bottom - 8, word, "t-quiet", "end" if outside else "")

    ends = []
    for i, line in enumerate(lines):
        shift = gap * (i - (len(lines) - 1) / 2)
        points = [(x(a) + shift, y(b)) for a, b in zip(line.x, line.y, strict=True)]
        look = LOOKS[line.role]
        if len(points) > 1:
            canvas.path(points, f"l c-{look.colour} {look.line}")
        ends.append(points[-1])
    for i, line in enumerate(lines):
        shift = gap * (i - (len(lines) - 1) / 2)
        for a, low, high in zip(line.x, line.low, line.high, strict=False):
            canvas.line(x(a) + shift, y.held(low), x(a) + shift, y.held(high), f"c-{LOOKS[line.role].colour} w2")
        if line.marks:
            for a, b in zip(line.x, line.y, strict=True):
                canvas.mark(x(a) + shift, y(b), line.role)
    for line, name, (end, height), place in zip(
        lines, names, ends, _label_places(names, ends, top, bottom), strict=True
    ):
        if right - end > 24 or abs(place - height) > 12:
            canvas.line(end + 7, height, right + 4, place, "g-grid")
        canvas.label(right + 8, place, name, line.role)
    return canvas


def _title(text: str, width: int) -> list[str]:
    """In bold, so about 7.4 pixels a character."""
    return wrap(text, int(width / 7.4))


def _label_places(names: Sequence[list[str]], ends: Sequence[tuple[float, float]], top: float, bottom: float):
    gap = 31.0 if any(len(name) > 1 for name in names) else 17.0
    return apart([height for _, height in ends], gap, top, bottom)


@dataclass(frozen=True, kw_only=True)
class Dot:
    role: Role
    series: str
    interval: Interval


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a dot chart. `note` stands at its right end (an n, a unit)."""

    label: str
    dots: Sequence[Dot]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class DotAxis:
    """`scale` multiplies what is drawn (100 for percent); `line` is a reference (value, word).

    Nothing is drawn outside `bounds`, which shares have by nature: a bar that goes on stops there. `order` names the
    series in the order of `key`: two of one role get different marks.
    """

    title: str
    scale: float = 1.0
    inside: Sequence[float] = ()
    bounds: tuple[float, float] | None = None
    line: tuple[float, str] | None = None
    key: Sequence[tuple[Role, str]] = field(default_factory=tuple)
    order: Sequence[str] = ()

    def turns(self) -> list[int]:
        """For each entry of the key: how many of its role stand before it."""
        roles = [role for role, _ in self.key]
        return [roles[:place].count(role) for place, role in enumerate(roles)]


def dot_chart(rows: Sequence[Row], axis: DotAxis, says: str) -> str:
    """A dot and its 95 % interval for each value; several dots of a row lie 9 px under one another."""
    return _dots(rows, axis, WIDE).svg("for-wide", says) + _dots(rows, axis, NARROW).svg("for-narrow", says)


def _dots(rows: Sequence[Row], axis: DotAxis, width: int) -> Canvas:
    wide = width == WIDE
    names = [wrap(row.label, 30 if wide else max(16, 50 - len(row.note)), 3) for row in rows]
    left = max(120.0, max(text_width(word) for name in names for word in name) + 20) if wide else 14.0
    room = max((text_width(row.note) for row in rows), default=0) if wide else 0
    right = width - (room + 24 if room else 14)
    values = [axis.scale * end for row in rows for dot in row.dots for end in _ends(dot.interval)]
    values += [axis.scale * value for value in axis.inside]
    if axis.line is not None:
        values.append(axis.scale * axis.line[0])
    if axis.bounds is not None:
        values = [min(max(value, axis.scale * axis.bounds[0]), axis.scale * axis.bounds[1]) for value in values]
    turns = dict(zip(axis.order, axis.turns()))
    marks = ticks(min(values), max(values), 6 if wide else 4)
    x = Scale(marks[0], marks[-1], left, right)

    key_lines = _key_lines(axis, width)
    title = _title(axis.title, width)
    top = 10.0 + 14 * len(title) + 18 * len(key_lines)
    heights = [max(14 * len(name), 9 * len(row.dots)) + 14 for name, row in zip(names, rows, strict=True)]
    if not wide:
        heights = [14 * len(name) + 9 * len(row.dots) + 22 for name, row in zip(names, rows, strict=True)]
    bottom = top + sum(heights) + 4
    canvas = Canvas(width, bottom + (42 if axis.line and axis.line[1] else 26))
    for i, words_of_title in enumerate(title):
        canvas.text(0, 12 + 14 * i, words_of_title, "t-strong")
    for row, items in enumerate(key_lines):
        at = 0.0
        for role, word, turn in items:
            canvas.label(at, 15 + 14 * len(title) + 18 * row, [word], role, turn)
            at += text_width(word, role) + 34
    bands = [(top, bottom)] if wide else _bands(top, names, heights)
    for mark, word in zip(marks, tick_labels(marks), strict=True):
        for start, end in bands:
            canvas.line(x(mark), start, x(mark), end, "g-grid")
        canvas.text(x(mark), bottom + 16, word, anchor="middle")
    if axis.line is not None:
        at = x(axis.scale * axis.line[0])
        for start, end in bands:
            canvas.line(at, start, at, end, "g-ref")
        half = text_width(axis.line[1]) / 2
        canvas.text(min(max(at, half), width - half), bottom + 34, axis.line[1], "t-quiet", "middle")

    y = top
    for row, name, height in zip(rows, names, heights, strict=True):
        middle = y + height / 2
        first = middle - 7 * (len(name) - 1) + 4 if wide else y + 14
        for i, word in enumerate(name):
            canvas.text(0, first + 14 * i, word)
        if row.note:
            canvas.text(width, middle + 4 if wide else y + 14, row.note, "t-quiet", "end")
        start = middle - 4.5 * (len(row.dots) - 1) if wide else y + 14 * len(name) + 13
        for i, dot in enumerate(row.dots):
            at = start + 9 * i
            low, high = (x.held(axis.scale * end) for end in (dot.interval.low, dot.interval.high))
            canvas.line(low, at, high, at, f"c-{LOOKS[dot.role].colour} w2")
            canvas.mark(x.held(axis.scale * dot.interval.value), at, dot.role, turns.get(dot.series, 0))
        y += height
        if len(rows) > 1 and max(len(r.dots) for r in rows) > 1 and row is not rows[-1]:
            canvas.line(0, y, width, y, "g-grid")
    return canvas


def _bands(top: float, names: Sequence[list[str]], heights: Sequence[float]) -> list[tuple[float, float]]:
    """Where grid lines run when names stand above their dots: beside the dots only, never through a name."""
    bands = []
    for name, height in zip(names, heights, strict=True):
        bands.append((top + 14 * len(name) + 6, top + height))
        top += height
    return bands


def _ends(interval: Interval) -> list[float]:
    """The value and the ends that are finite: an infinite end must not stretch the axis."""
    return [end for end in (interval.low, interval.value, interval.high) if math.isfinite(end)]


def _key_lines(axis: DotAxis, width: int) -> list[list[tuple[Role, str, int]]]:
    lines: list[list[tuple[Role, str, int]]] = []
    used = float(width)
    for (role, name), turn in zip(axis.key, axis.turns(), strict=True):
        word = wrap(name, int((width - 40) / 7.4), 1)[0]
        need = text_width(word, role) + 34
        if used + need > width:
            lines.append([])
            used = 0.0
        lines[-1].append((role, word, turn))
        used += need
    return lines
