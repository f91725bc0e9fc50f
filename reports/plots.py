"""Drawings of the page as inline SVG: intervals as a forest of lines, and histograms."""

from collections.abc import Sequence
from html import escape
from math import floor, isnan
from typing import NamedTuple

from whalebench.reports.location import OVERLAPS, TITLES, Histogram
from whalebench.reports.wording import between, number, percent

LEFT, WIDTH, RIGHT, HEIGHT = 190, 430, 150, 26
BARS, TALL, EDGE = 220, 70, 18
"""Width and height of the bars of a histogram, and what is left free round them."""


class Mark(NamedTuple):
    """A line of a forest: a value with the ends of its interval, NaN where there is none."""

    name: str
    value: float
    low: float
    high: float

    def ends(self) -> tuple[float, float]:
        """The interval, or the value twice where there is none."""
        return (self.value, self.value) if isnan(self.low) else (self.low, self.high)


def forest(marks: Sequence[Mark]) -> str:
    """An SVG with a line a mark: MAP@5 as a dot, its interval as a bar, on an axis cut to what is needed.

    Empty where no mark has a value.
    """
    marks = [mark for mark in marks if not isnan(mark.value)]
    if not marks:
        return ""
    low = min(floor(10 * min(mark.ends()[0] for mark in marks)) / 10, 0.9)
    height = HEIGHT * (len(marks) + 1) + 8
    parts = [f'<svg viewBox="0 0 {LEFT + WIDTH + RIGHT} {height}" width="{LEFT + WIDTH + RIGHT}" role="img">']
    parts.append("<title>MAP@5 with its 95 % interval</title>")
    for step in range(round(10 * low), 11):
        x = _x(step / 10, low)
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="4" y2="{height - HEIGHT}"/>')
        parts.append(
            f'<text class="faint" x="{x}" y="{height - 8}" text-anchor="middle">{step / 10:.1f}</text>'
        )
    parts += [_line(mark, low, HEIGHT * (place + 0.6)) for place, mark in enumerate(marks)]
    return "\n".join([*parts, "</svg>"])


def _line(mark: Mark, low: float, y: float) -> str:
    start, end = (_x(value, low) for value in mark.ends())
    return (
        f'<text x="0" y="{y + 4:.1f}">{escape(short(mark.name, 26))}</text>'
        f'<line x1="{start}" x2="{end}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<circle cx="{_x(mark.value, low)}" cy="{y:.1f}" r="4.5"/>'
        f'<text class="faint" x="{LEFT + WIDTH + 16}" y="{y + 4:.1f}">'
        f"{escape(between(mark.value, mark.low, mark.high))}</text>"
    )


def _x(value: float, low: float) -> float:
    return round(LEFT + WIDTH * (value - low) / (1 - low), 1)


def short(name: str, letters: int) -> str:
    """The name, its end cut off where it has more letters."""
    return name if len(name) <= letters else f"{name[: letters - 1]}…"


def histogram_svg(found: Histogram, name: str) -> str:
    """An SVG of one histogram: a bar a bin, a line at the mean or median, and how many photos lie beyond."""
    overlap = found.key in OVERLAPS
    said = f"mean {number(found.middle, 2)}" if overlap else f"median {percent(found.middle)}"
    end = "1" if overlap else percent(found.limit)
    beyond = f", {found.beyond} beyond" if found.beyond else ""
    width, height = BARS + 2 * EDGE, TALL + 4 * EDGE
    base = TALL + 2.5 * EDGE
    at = round(EDGE + BARS * found.middle / found.limit, 1)
    what = f"{TITLES[found.key]}, {said}"
    return "\n".join(
        [
            f'<svg class="bars" viewBox="0 0 {width} {height}" width="{width}" role="img">',
            f"<title>{escape(f'{name}: {what}; {found.photos} photos{beyond}')}</title>",
            f'<text x="{EDGE}" y="13">{escape(short(name, 36))}</text>',
            f'<text class="faint" x="{EDGE}" y="31">{escape(what)}</text>',
            *_bars(found.counts, base),
            f'<line class="grid" x1="{EDGE}" x2="{EDGE + BARS}" y1="{base}" y2="{base}"/>',
            f'<line x1="{at}" x2="{at}" y1="{base - TALL}" y2="{base + 4}"/>',
            f'<text class="faint" x="{EDGE}" y="{base + 16}">0</text>',
            f'<text class="faint" x="{EDGE + BARS}" y="{base + 16}" text-anchor="end">{end}{beyond}</text>',
            "</svg>",
        ]
    )


def _bars(counts: Sequence[int], base: float) -> list[str]:
    step, most = BARS / len(counts), max(counts)
    heights = [TALL * count / max(most, 1) for count in counts]
    return [
        f'<rect x="{EDGE + step * place + 0.5:.1f}" y="{base - height:.1f}" width="{step - 1:.1f}" '
        f'height="{height:.1f}"/>'
        for place, height in enumerate(heights)
        if height
    ]
