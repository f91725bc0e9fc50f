"""Drawings of the page as inline SVG: intervals as a forest of lines, and histograms.

A picture of a study: what each trial scored on valid, the best so far, and which fields mattered.

Whether probabilities are what they say, drawn for the page as inline SVG (a reliability diagram).
"""

from collections.abc import Mapping, Sequence
from html import escape
from itertools import accumulate
from math import ceil, floor, isnan
from pathlib import Path
from typing import Any, NamedTuple

from whalebench.benchmarks.core.workspace import atomic_text
from whalebench.reports.board import OVERLAPS, TITLES, Histogram
from whalebench.reports.wording import between, number, percent

HISTORY_WIDTH, HISTORY_HEIGHT, HISTORY_EDGE, ROW = 620, 220, 44, 22
"""Of the history, what is left free round it, and of a bar with its name."""
NAMES = 190
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #333 } .faint { fill: #767676; font-size: 11px }
line.grid { stroke: #ddd } .best { fill: none; stroke: #0b6e99; stroke-width: 2 } .default { stroke: #999;
stroke-dasharray: 4 4 } .complete, .bar { fill: #0b6e99 } .pruned { fill: #fff; stroke: #0b6e99 }
.fail { stroke: #b3261e; stroke-width: 2 } rect.paper { fill: #fff }
"""


def write_picture(document: Mapping[str, Any], file: Path) -> Path:
    """The file, holding the picture of the document that `tune --json` prints."""
    atomic_text(file, tuning_svg(document))
    return file


def tuning_svg(document: Mapping[str, Any]) -> str:
    """An SVG that fetches nothing: a dot a trial in the order they ended in, a bar a field.

    Full dots are complete trials, hollow ones were pruned after their last epoch, crosses failed. The line
    is the best complete one so far, the dashed one the defaults.
    """
    bars = list(document["importance"].items())
    height = HISTORY_EDGE + HISTORY_HEIGHT + 40 + (ROW * (len(bars) + 1) + 16 if bars else 0)
    title = "{method} on {benchmark}, fold {fold}, seed {seed}: {budget}".format_map(document)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH + 2 * EDGE} {height}" '
            f'width="{WIDTH + 2 * EDGE}" role="img">',
            f"<title>{escape(title)}</title><style>{STYLE}</style>",
            '<rect class="paper" width="100%" height="100%"/>',
            f'<text x="{EDGE}" y="22">{escape(title)}</text>',
            *_history(document["trials"]),
            *_importance(bars, HISTORY_EDGE + HISTORY_HEIGHT + 56),
            "</svg>\n",
        ]
    )


def _history(trials: Sequence[Mapping[str, Any]]) -> list[str]:
    scored = [trial["valid_map_at_5"] for trial in trials if trial["valid_map_at_5"] is not None]
    low = floor(10 * min(scored, default=0.0)) / 10
    high = max(ceil(10 * max(scored, default=1.0)) / 10, low + 0.1)

    def y(value: float) -> float:
        return round(HISTORY_EDGE + HISTORY_HEIGHT * (high - value) / (high - low), 1)

    def x(place: int) -> float:
        return round(HISTORY_EDGE + HISTORY_WIDTH * (place + 0.5) / len(trials), 1)

    parts = []
    for step in range(round(10 * low), round(10 * high) + 1):
        parts.append(
            f'<line class="grid" x1="{EDGE}" x2="{EDGE + WIDTH}" y1="{y(step / 10)}" y2="{y(step / 10)}"/>'
        )
        parts.append(
            f'<text class="faint" x="{EDGE - 8}" y="{y(step / 10) + 4}" text-anchor="end">{step / 10:.1f}'
            "</text>"
        )
    base = HISTORY_EDGE + HISTORY_HEIGHT + 18
    parts.append(f'<text class="faint" x="{EDGE}" y="{base}">MAP@5 on valid, trial by trial</text>')
    parts += _lines(trials, x, y)
    parts += [_dot(trial, x(place), y) for place, trial in enumerate(trials)]
    return parts


def _lines(trials: Sequence[Mapping[str, Any]], x: Any, y: Any) -> list[str]:
    """The best complete trial so far, and what the defaults scored."""
    values = [trial["valid_map_at_5"] if trial["state"] == "complete" else None for trial in trials]
    best = list(accumulate(values, lambda one, other: other if one is None else max(one, other or 0.0)))
    points = [f"{x(place)},{y(value)}" for place, value in enumerate(best) if value is not None]
    parts = [f'<polyline class="best" points="{" ".join(points)}"/>'] if points else []
    default = next((v for v, trial in zip(values, trials, strict=True) if not trial["settings"]), None)
    if default is not None:
        parts.append(
            f'<line class="default" x1="{EDGE}" x2="{EDGE + WIDTH}" y1="{y(default)}" y2="{y(default)}"/>'
            f'<text class="faint" x="{EDGE + WIDTH}" y="{y(default) - 4}" text-anchor="end">defaults</text>'
        )
    return parts


def _dot(trial: Mapping[str, Any], x: float, y: Any) -> str:
    value, settings = trial["valid_map_at_5"], " ".join(trial["settings"]) or "the defaults"
    said = f"<title>trial {trial['number']}: {escape(settings)}</title>"
    if value is None or trial["state"] == "fail":
        base = HISTORY_EDGE + HISTORY_HEIGHT
        return f'<path class="fail" d="M{x - 4} {base - 4}l8 8m0 -8l-8 8">{said}</path>'
    return f'<circle class="{trial["state"]}" cx="{x}" cy="{y(value)}" r="4">{said}</circle>'


def _importance(bars: Sequence[tuple[str, float]], top: int) -> list[str]:
    if not bars:
        return []
    parts = [
        f'<text class="faint" x="{EDGE}" y="{top}">What mattered: share of how much valid MAP@5 varied</text>'
    ]
    for place, (name, share) in enumerate(bars, start=1):
        y, long = top + ROW * place, (HISTORY_WIDTH - NAMES - 50) * share
        parts.append(
            f'<text x="{EDGE}" y="{y}">{escape(name)}</text>'
            f'<rect class="bar" x="{EDGE + NAMES}" y="{y - 11}" width="{long:.1f}" height="12"/>'
            f'<text class="faint" x="{EDGE + WIDTH}" y="{y}" text-anchor="end">{100 * share:.0f} %</text>'
        )
    return parts


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


TITLE = "How many answers are right, by confidence, before (hollow) and after calibration"
SIDE = 150
"""Width and height of the square."""


def reliability_svg(calibration: Mapping[str, Any], name: str) -> str:
    """An SVG of accuracy over confidence in bins of equal mass, before and after calibration.

    On the diagonal probabilities are what they say; below it they say too much. Empty for a record that does
    not say.
    """
    bins = {when: calibration.get(f"reliability_{when}") for when in ("before", "after")}
    if not all(found and found["count"] for found in bins.values()):
        return ""
    errors = [number(calibration.get(f"test_ece_{when}")) for when in bins]
    what = "ECE {} before, {} after".format(*errors)
    width, height, base = SIDE + 5 * EDGE, SIDE + 5 * EDGE, SIDE + 2.5 * EDGE
    return "\n".join(
        [
            f'<svg class="reliability" viewBox="0 0 {width} {height}" width="{width}" role="img">',
            f"<title>{escape(f'{name}: accuracy over confidence, {what}')}</title>",
            f'<text x="{EDGE}" y="13">{escape(short(name, 30))}</text>',
            f'<text class="faint" x="{EDGE}" y="31">{escape(what)}</text>',
            *_frame(base),
            *(_reliability_line(found, when, base) for when, found in bins.items() if found),
            f'<text class="faint" x="{EDGE}" y="{base + 16}">0</text>',
            f'<text class="faint" x="{EDGE + SIDE}" y="{base + 16}" text-anchor="end">confidence 1</text>',
            f'<text class="faint" x="{EDGE + SIDE + 6}" y="{base}">0</text>',
            f'<text class="faint" x="{EDGE + SIDE + 6}" y="{base - SIDE + 10}">1</text>',
            f'<text class="faint" x="{EDGE + SIDE + 6}" y="{base - SIDE / 2}">right</text>',
            "</svg>",
        ]
    )


def _frame(base: float) -> list[str]:
    """The lower and the right edge, and the diagonal."""
    left, right, top = EDGE, EDGE + SIDE, base - SIDE
    ends = [(left, base, right, base), (right, base, right, top), (left, base, right, top)]
    return [f'<line class="grid" x1="{x}" y1="{y}" x2="{to_x}" y2="{to_y}"/>' for x, y, to_x, to_y in ends]


def _reliability_line(bins: Mapping[str, Sequence[float]], when: str, base: float) -> str:
    """The bins joined, each with a dot."""
    places = [
        (f"{EDGE + SIDE * said:.1f}", f"{base - SIDE * right:.1f}")
        for said, right in zip(bins["confidence"], bins["accuracy"], strict=True)
    ]
    dots = "".join(f'<circle class="{when}" cx="{x}" cy="{y}" r="3"/>' for x, y in places)
    return f'<polyline class="{when}" points="{" ".join(map(",".join, places))}"/>{dots}'
