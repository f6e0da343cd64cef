"""The dashboard's figures as SVG, each drawn for a wide and for a narrow page. Classes only, no style attributes."""

from collections.abc import Mapping, Sequence
from datetime import date

from markupsafe import Markup, escape

from preceptor.statistics.agreement import Agreement

PAPER = 72.6  # per cent; agreement among the paper's training labelers
Day = tuple[date, int, int]


def both(draw, label: str) -> Markup:
    """The figure at the two widths the stylesheet knows."""
    return Markup("").join(
        Markup('<svg class="{}" viewBox="0 0 {} {}" width="{}" height="{}" role="img" aria-label="{}">{}</svg>').format(
            name, width, height, width, height, label, Markup(body)
        )
        for name, (width, height, body) in (("for-wide", draw(True)), ("for-narrow", draw(False)))
    )


def throughput(days: Sequence[Day]) -> Markup:
    """Bars of submissions per day: rankings filled, everything else drawn on top in outline."""
    top = max((first + second for _, first, second in days), default=0)
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10**9) if step * 3 >= top)

    def draw(wide: bool) -> tuple[int, int, str]:
        width, base = (520, 162) if wide else (358, 156)
        slot = (width - 30) / max(len(days), 1)
        y = lambda count: base - (base - 40) * count / (3 * step)  # noqa: E731
        out = [
            '<text x="0" y="12" class="t-strong">Submitted per day</text>'
            '<rect x="0" y="21" width="9" height="9" class="f-a"/><text x="14" y="30">rankings</text>'
            '<rect x="78" y="21" width="9" height="9" class="f-o c-a w1"/><text x="92" y="30">other work</text>'
        ]
        for count in range(0, 3 * step + 1, step):
            line = "g-axis" if count == 0 else "g-grid"
            out.append(f'<line x1="30" y1="{y(count):.1f}" x2="{width}" y2="{y(count):.1f}" class="{line}"/>')
            out.append(f'<text x="24" y="{y(count) + 4:.1f}" class="t-quiet" text-anchor="end">{count}</text>')
        for place, (day, rankings, others) in enumerate(days):
            x = 31 + place * slot
            if rankings:
                height = base - y(rankings)
                out.append(
                    f'<rect x="{x:.1f}" y="{y(rankings):.1f}" width="{slot - 2.5:.1f}" '
                    f'height="{height:.1f}" class="f-a"/>'
                )
            if others:
                height = y(rankings) - y(rankings + others)
                out.append(
                    f'<rect x="{x + 0.6:.1f}" y="{y(rankings + others):.1f}" width="{slot - 3.7:.1f}" '
                    f'height="{height:.1f}" class="f-o c-a w1"/>'
                )
            if day.weekday() == 0:
                out.append(f'<text x="{x:.1f}" y="{base + 17}">{day.day} {day:%b}</text>')
        return width, base + 34, "".join(out)

    total = sum(first + second for _, first, second in days)
    return both(draw, f"Submissions per day over {len(days)} days, {total} in all, at most {top} on one day.")


def agreement(groups: Mapping[str, Agreement]) -> Markup:
    """A dot and its 95 % interval for each group, with the paper's figure as a dotted line."""
    shown = {name: found for name, found in groups.items() if found.pairs and found.value == found.value}
    ends = [value for found in shown.values() for value in (found.low, found.high, found.value) if value == value]
    low = min([50, *(10 * int(10 * end) for end in ends)])
    high = 100

    def draw(wide: bool) -> tuple[int, int, str]:
        width = 736 if wide else 358
        left, right = (172, 646) if wide else (8, 344)
        row = 32 if wide else 44
        bottom = (36 if wide else 38) + row * len(shown)
        x = lambda percent: left + (right - left) * (percent - low) / (high - low)  # noqa: E731
        out = ['<text x="0" y="12" class="t-strong">Pairs ranked the same way, %</text>']
        for tick in range(low, high + 1, 10):
            out.append(f'<line x1="{x(tick):.1f}" y1="26" x2="{x(tick):.1f}" y2="{bottom}" class="g-grid"/>')
            out.append(f'<text x="{x(tick):.1f}" y="{bottom + 16}" text-anchor="middle">{tick}</text>')
        out.append(f'<line x1="{x(PAPER):.1f}" y1="22" x2="{x(PAPER):.1f}" y2="{bottom}" class="g-ref"/>')
        out.append(
            f'<text x="{x(PAPER):.1f}" y="{bottom + 34}" class="t-quiet" text-anchor="middle">'
            f"{PAPER} = the paper’s training labelers</text>"
        )
        for place, (name, found) in enumerate(shown.items()):
            y = (44 if wide else 60) + row * place
            text_y = y + 4 if wide else y - 14
            out.append(f'<text x="0" y="{text_y}">{escape(name)}</text>')
            out.append(f'<text x="{width}" y="{text_y}" class="t-quiet" text-anchor="end">{found.pairs:,} pairs</text>')
            if found.low == found.low:
                out.append(
                    f'<line x1="{x(100 * found.low):.1f}" y1="{y}" x2="{x(100 * found.high):.1f}" y2="{y}" '
                    'class="c-a w2"/>'
                )
            out.append(f'<circle cx="{x(100 * found.value):.1f}" cy="{y}" r="4" class="f-a c-a w1"/>')
        return width, bottom + 40, "".join(out)

    said = "; ".join(f"{name} {100 * found.value:.0f} percent" for name, found in shown.items())
    return both(draw, f"Agreement by group with 95 percent intervals: {said or 'nothing to show yet'}.")


def dot(found: Agreement, mean: float) -> Markup:
    """One labeler's agreement on a small scale from 50 to 100 %, the mean of all as a dotted line."""
    x = lambda share: 2 + 116 * min(max((share - 0.5) / 0.5, 0), 1)  # noqa: E731
    out = ['<line x1="2" y1="8" x2="118" y2="8" class="g-grid"/>']
    if mean == mean:
        out.append(f'<line x1="{x(mean):.1f}" y1="1" x2="{x(mean):.1f}" y2="15" class="g-ref"/>')
    if found.low == found.low:
        out.append(f'<line x1="{x(found.low):.1f}" y1="8" x2="{x(found.high):.1f}" y2="8" class="c-a w2"/>')
    if found.value == found.value:
        out.append(f'<circle cx="{x(found.value):.1f}" cy="8" r="3.6" class="f-a"/>')
    return Markup('<svg viewBox="0 0 120 16" width="120" height="16" aria-hidden="true">{}</svg>').format(
        Markup("".join(out))
    )


def week(per_day: Sequence[int], today: int) -> Markup:
    """Items on each day of this week."""
    top = max([*per_day, 1])
    out = ['<line x1="0" y1="78.5" x2="268" y2="78.5" class="g-axis"/>']
    for day, count in enumerate(per_day):
        x, height = 4 + 38 * day, 60 * count / top
        middle = x + 13
        if count:
            fill = "f-a" if day == today else "f-d"
            out.append(f'<rect x="{x}" y="{78 - height:.1f}" width="26" height="{height:.1f}" class="{fill}"/>')
            out.append(f'<text x="{middle}" y="{72 - height:.1f}" text-anchor="middle">{count}</text>')
        weight = "t-strong" if day == today else "t-quiet"
        name = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")[day]
        out.append(f'<text x="{middle}" y="95" class="{weight}" text-anchor="middle">{name}</text>')
    label = f"Items per day this week, Monday to Sunday: {', '.join(map(str, per_day))}"
    return Markup('<svg viewBox="0 0 270 100" width="270" height="100" role="img" aria-label="{}">{}</svg>').format(
        label, Markup("".join(out))
    )
