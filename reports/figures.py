"""Pictures as SVG that fetch nothing: intervals, histograms, reliability; a tuning study; the effort."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape as escape_markup
from itertools import accumulate
from math import ceil, floor, isnan, log10
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from whalebench import visible
from whalebench.reports.metrics.breakdown import Effort
from whalebench.reports.metrics.ranking import Floats
from whalebench.reports.wording import between, number, percent

EDGE = 18
"""What is left free round a small picture."""


def escape(text: str) -> str:
    """A text as SVG and HTML hold it: no mark-up, and no character that is none there.

    >>> escape("a < b\\x00")
    'a &lt; b\\\\x00'
    """
    return escape_markup(visible(text))


def element(name: str, content: str = "", /, **attributes: object) -> str:
    """An SVG element; `kind` is its class, underscores in other names are hyphens, empty ones are left out.

    >>> element("circle", kind="after", cx=3, cy=4), element("text", "a &lt; b", text_anchor="end")
    ('<circle class="after" cx="3" cy="4"/>', '<text text-anchor="end">a &lt; b</text>')
    """
    named = {"class" if key == "kind" else key.replace("_", "-"): attributes[key] for key in attributes}
    start = " ".join([name, *(f'{key}="{value}"' for key, value in named.items() if value != "")])
    return f"<{start}>{content}</{name}>" if content else f"<{start}/>"


def line(x1: object, x2: object, y1: object, y2: object, kind: str = "") -> str:
    """A line from x1, y1 to x2, y2."""
    return element("line", kind=kind, x1=x1, x2=x2, y1=y1, y2=y2)


def text(x: object, y: object, content: str, *, faint: bool = False, anchor: str = "") -> str:
    """A text that begins at x, or has its end or middle there."""
    return element("text", escape(content), kind="faint" if faint else "", x=x, y=y, text_anchor=anchor)


def picture(
    width: float, height: float, title: str, parts: Sequence[str], style: str = "", **attributes: str
) -> str:
    """The SVG of that size, with further attributes as `element` takes them."""
    size = {"viewBox": f"0 0 {width} {height}", "width": width, "role": "img"}
    content = "\n".join(["", f"<title>{escape(title)}</title>{style}", *parts, ""])
    return element("svg", content, **attributes, **size)


def shortened(name: str, letters: int) -> str:
    """The name, its end cut off where it has more letters."""
    return name if len(name) <= letters else f"{name[: letters - 1]}…"


class Mark(NamedTuple):
    """A line of a forest: a value with the ends of its interval, NaN where there is none."""

    name: str
    value: float
    low: float
    high: float

    def ends(self) -> tuple[float, float]:
        """The interval, or the value twice where there is none."""
        return (self.value, self.value) if isnan(self.low) else (self.low, self.high)


FOREST_LEFT, FOREST_WIDTH, FOREST_RIGHT, FOREST_LINE = 190, 430, 150, 26
"""Width of names, axis and numbers, and the height of a line."""


def forest(marks: Sequence[Mark]) -> str:
    """An SVG with a line a mark: MAP@5 as a dot, its interval as a bar, on an axis cut to what is needed.

    Empty where no mark has a value.
    """
    marks = [mark for mark in marks if not isnan(mark.value)]
    if not marks:
        return ""
    low = min(floor(10 * min(mark.ends()[0] for mark in marks)) / 10, 0.9)
    width = FOREST_LEFT + FOREST_WIDTH + FOREST_RIGHT
    height = FOREST_LINE * (len(marks) + 1) + 8

    def x(value: float) -> float:
        return round(FOREST_LEFT + FOREST_WIDTH * (value - low) / (1 - low), 1)

    parts = []
    for step in range(round(10 * low), 11):
        at = x(step / 10)
        parts.append(line(at, at, 4, height - FOREST_LINE, kind="grid"))
        parts.append(text(at, height - 8, f"{step / 10:.1f}", faint=True, anchor="middle"))
    for place, mark in enumerate(marks):
        start, end = map(x, mark.ends())
        y, below = (f"{FOREST_LINE * (place + 0.6) + more:.1f}" for more in (0, 4))
        parts.append(
            text(0, below, shortened(mark.name, 26))
            + line(start, end, y, y)
            + element("circle", cx=x(mark.value), cy=y, r=4.5)
            + text(FOREST_LEFT + FOREST_WIDTH + 16, below, between(*mark[1:]), faint=True)
        )
    return picture(width, height, "MAP@5 with its 95 % interval", parts)


OVERLAPS = {"box_iou": "box IoU", "mask_iou": "mask IoU"}
"""Per-query measures that go from 0 to 1 and have a mean, and their names."""
MEASURES = OVERLAPS | {"landmark_error": "landmark error"}
"""All per-query measures that a histogram is drawn of; the others have a median and no upper end."""
BINS = 20
FARTHEST = 0.99
"""The quantile at which the axis of a measure without an upper end ends."""
BARS_WIDTH, BARS_HEIGHT = 220, 70


def measures(queries: pd.DataFrame | None) -> dict[str, Floats]:
    """The defined values of each measure that the per-query table has any of; none without a table."""
    columns = {} if queries is None else {key: queries[key].dropna() for key in MEASURES if key in queries}
    return {key: values.to_numpy(np.float64) for key, values in columns.items() if len(values)}


def histogram_svg(measure: str, values: Floats, name: str) -> str:
    """An SVG of the values, at least one and none negative: a bar a bin, a line at their mean or median.

    The axis ends at 1 for an overlap, else at the 99th percentile, with the number of photos beyond.
    """
    overlap = measure in OVERLAPS
    limit = 1.0 if overlap else float(np.quantile(values, FARTHEST)) or 1.0
    values = np.minimum(values, 1.0) if overlap else values  # an overlap of 1 may be a last digit more
    middle = float(values.mean() if overlap else np.median(values))
    what = f"{MEASURES[measure]}, {f'mean {number(middle, 2)}' if overlap else f'median {percent(middle)}'}"
    above = int((values > limit).sum())
    beyond = f", {above} beyond" if above else ""
    base, right = BARS_HEIGHT + 2.5 * EDGE, EDGE + BARS_WIDTH
    at = round(EDGE + BARS_WIDTH * middle / limit, 1)
    counts = np.histogram(values, BINS, (0, limit))[0].tolist()
    step, most = BARS_WIDTH / BINS, max(*counts, 1)
    bars = []
    for place, count in enumerate(counts):
        if count:
            x, width, height = EDGE + step * place + 0.5, f"{step - 1:.1f}", BARS_HEIGHT * count / most
            y = f"{base - height:.1f}"
            bars.append(element("rect", x=f"{x:.1f}", y=y, width=width, height=f"{height:.1f}"))
    parts = [
        text(EDGE, 13, shortened(name, 36)),
        text(EDGE, 31, what, faint=True),
        *bars,
        line(EDGE, right, base, base, kind="grid"),
        line(at, at, base - BARS_HEIGHT, base + 4),
        text(EDGE, base + 16, "0", faint=True),
        text(right, base + 16, f"{'1' if overlap else percent(limit)}{beyond}", faint=True, anchor="end"),
    ]
    title = f"{name}: {what}; {len(values)} photos{beyond}"
    return picture(BARS_WIDTH + 2 * EDGE, BARS_HEIGHT + 4 * EDGE, title, parts, kind="bars")


SQUARE = 150
"""Width and height of a reliability diagram."""


def reliability_svg(calibration: Mapping[str, Any], name: str) -> str:
    """An SVG of accuracy over confidence in bins of equal mass, before and after calibration.

    On the diagonal confidence and accuracy are equal; below it the method is overconfident. Empty for a
    record without bins.
    """
    bins = {when: calibration.get(f"reliability_{when}") or {"count": []} for when in ("before", "after")}
    if not all(each["count"] for each in bins.values()):
        return ""
    errors = [number(calibration.get(f"test_ece_{when}")) for when in bins]
    what = "ECE {} before, {} after".format(*errors)
    base, right, beside = SQUARE + 2.5 * EDGE, EDGE + SQUARE, EDGE + SQUARE + 6
    ends = [
        (EDGE, base, right, base),
        (right, base, right, base - SQUARE),
        (EDGE, base, right, base - SQUARE),
    ]
    parts = [
        text(EDGE, 13, shortened(name, 30)),
        text(EDGE, 31, what, faint=True),
        *(element("line", kind="grid", x1=x, y1=y, x2=to_x, y2=to_y) for x, y, to_x, to_y in ends),
        *(_curve(each, when, base) for when, each in bins.items()),
        text(EDGE, base + 16, "0", faint=True),
        text(right, base + 16, "confidence 1", faint=True, anchor="end"),
        text(beside, base, "0", faint=True),
        text(beside, base - SQUARE + 10, "1", faint=True),
        text(beside, base - SQUARE / 2, "right", faint=True),
    ]
    side = SQUARE + 5 * EDGE
    title = f"{name}: accuracy over confidence, {what}"
    return picture(side, side, title, parts, kind="reliability")


def _curve(bins: Mapping[str, Sequence[float]], kind: str, base: float) -> str:
    """The bins joined, each with a dot."""
    points = [
        (f"{EDGE + SQUARE * confidence:.1f}", f"{base - SQUARE * accuracy:.1f}")
        for confidence, accuracy in zip(bins["confidence"], bins["accuracy"], strict=True)
    ]
    dots = "".join(element("circle", kind=kind, cx=x, cy=y, r=3) for x, y in points)
    return element("polyline", kind=kind, points=" ".join(map(",".join, points))) + dots


STUDY_WIDTH, STUDY_HEIGHT, STUDY_EDGE, STUDY_ROW, STUDY_NAMES = 620, 220, 44, 22, 190
"""Of the history, what is left free round it, and of a bar with its name."""
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #333 } .faint { fill: #767676; font-size: 11px }
line.grid { stroke: #ddd } .best { fill: none; stroke: #0b6e99; stroke-width: 2 } .default { stroke: #999;
stroke-dasharray: 4 4 } .complete, .bar { fill: #0b6e99 } .pruned { fill: #fff; stroke: #0b6e99 }
.fail { stroke: #b3261e; stroke-width: 2 } rect.paper { fill: #fff }
"""


def tuning_svg(document: Mapping[str, Any]) -> str:
    """An SVG of a study: a dot a trial in the order they ended in, a bar a field by how much it mattered.

    The document is that of `tune --json`. Full dots are complete trials, hollow ones were pruned after their
    last epoch, crosses failed. The line is the best complete one so far, the dashed one the defaults.
    """
    bars = document["importance"]
    top = STUDY_EDGE + STUDY_HEIGHT + 40
    width, height = STUDY_WIDTH + 2 * STUDY_EDGE, top + (STUDY_ROW * (len(bars) + 1) + 16 if bars else 0)
    title = "{method} on {benchmark}, fold {fold}, seed {seed}: {budget}".format_map(document)
    parts = [
        element("rect", kind="paper", width="100%", height="100%"),
        text(STUDY_EDGE, 22, title),
        *_history(document["trials"]),
        *_importance(bars, top + 16),
    ]
    style, namespace = f"<style>{STYLE}</style>", "http://www.w3.org/2000/svg"
    return picture(width, height, title, parts, style, xmlns=namespace) + "\n"


def _history(trials: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The axis, the best complete trial so far, what the defaults scored, and a mark a trial."""
    scored = [trial["valid_map_at_5"] for trial in trials if trial["valid_map_at_5"] is not None]
    low = floor(10 * min(scored, default=0.0)) / 10
    high = max(ceil(10 * max(scored, default=1.0)) / 10, low + 0.1)
    base, right = STUDY_EDGE + STUDY_HEIGHT, STUDY_EDGE + STUDY_WIDTH

    def y(value: float) -> float:
        return round(STUDY_EDGE + STUDY_HEIGHT * (high - value) / (high - low), 1)

    def x(place: int) -> float:
        return round(STUDY_EDGE + STUDY_WIDTH * (place + 0.5) / len(trials), 1)

    for step in range(round(10 * low), round(10 * high) + 1):
        at = y(step / 10)
        yield line(STUDY_EDGE, right, at, at, kind="grid")
        yield text(STUDY_EDGE - 8, at + 4, f"{step / 10:.1f}", faint=True, anchor="end")
    yield text(STUDY_EDGE, base + 18, "MAP@5 on valid, trial by trial", faint=True)
    values = [trial["valid_map_at_5"] if trial["state"] == "complete" else None for trial in trials]
    best = list(accumulate(values, lambda one, other: other if one is None else max(one, other or 0.0)))
    points = [f"{x(place)},{y(value)}" for place, value in enumerate(best) if value is not None]
    if points:
        yield element("polyline", kind="best", points=" ".join(points))
    default = next((v for v, trial in zip(values, trials, strict=True) if not trial["settings"]), None)
    if default is not None:
        label = text(right, y(default) - 4, "defaults", faint=True, anchor="end")
        yield line(STUDY_EDGE, right, y(default), y(default), kind="default") + label
    yield from (_trial(trial, x(place), base, y) for place, trial in enumerate(trials))


def _trial(trial: Mapping[str, Any], x: float, base: float, y: Callable[[float], float]) -> str:
    """A dot at the height of its score, or a cross at the base for a trial that failed."""
    value, settings = trial["valid_map_at_5"], " ".join(trial["settings"]) or "the defaults"
    hint = f"<title>trial {trial['number']}: {escape(settings)}</title>"
    if value is None or trial["state"] == "fail":
        return element("path", hint, kind="fail", d=f"M{x - 4} {base - 4}l8 8m0 -8l-8 8")
    return element("circle", hint, kind=trial["state"], cx=x, cy=y(value), r=4)


def _importance(bars: Mapping[str, float], top: int) -> Iterator[str]:
    """A line a field: its name, a bar, and its share in percent."""
    if bars:
        yield text(STUDY_EDGE, top, "What mattered: share of how much valid MAP@5 varied", faint=True)
    start, right = STUDY_EDGE + STUDY_NAMES, STUDY_EDGE + STUDY_WIDTH
    for place, (name, share) in enumerate(bars.items(), start=1):
        y, width = top + STUDY_ROW * place, f"{(STUDY_WIDTH - STUDY_NAMES - 50) * share:.1f}"
        bar = element("rect", kind="bar", x=start, y=y - 11, width=width, height=12)
        percentage = text(right, y, f"{100 * share:.0f} %", faint=True, anchor="end")
        yield text(STUDY_EDGE, y, name) + bar + percentage


def effort_svg(
    name: str, curve: Mapping[str, Sequence[float]], effort: Sequence[Effort], *, alone: bool = True
) -> str:
    """An SVG of the share of matches found over the candidates looked at, on a logarithmic axis.

    Dots are 90, 95 and 99 % of the matches, lines their intervals. Unless it stands `alone`, in a file of its
    own, it is small and has the style of its page.
    """
    wide, high = (STUDY_WIDTH, STUDY_HEIGHT) if alone else (BARS_WIDTH, SQUARE)
    base, right = STUDY_EDGE + high, STUDY_EDGE + wide
    most = max([10.0, *curve["candidates"]])

    def x(candidates: float) -> float:
        return round(STUDY_EDGE + wide * log10(candidates) / log10(most), 1)

    def y(found: float) -> float:
        return round(base - high * found, 1)

    parts = [text(STUDY_EDGE if alone else 0, 22, shortened(name, 80 if alone else 36))]
    for share in (0, 0.5, 0.9, 1):
        parts.append(line(STUDY_EDGE, right, y(share), y(share), kind="grid"))
        parts.append(text(STUDY_EDGE - 8, y(share) + 4, f"{share:.0%}", faint=True, anchor="end"))
    for power in range(int(log10(most)) + 1):
        parts.append(text(x(10**power), base + 18, f"{10**power:,}", faint=True, anchor="middle"))
    found = [0.0, *curve["found"]]
    steps = [f"{x(k)},{y(found[n])} {x(k)},{y(found[n + 1])}" for n, k in enumerate(curve["candidates"])]
    parts.append(element("polyline", kind="best", points=" ".join(steps)))
    for one in effort:
        if not isnan(one.low):
            parts.append(line(x(one.low), x(one.high), y(one.share), y(one.share), kind="best"))
        hint = f"<title>{one.share:.0%} of the matches: {one.candidates} candidates</title>"
        parts.append(element("circle", hint, kind="bar", cx=x(one.candidates), cy=y(one.share), r=4))
    width, height = wide + 2 * STUDY_EDGE, high + 2.5 * STUDY_EDGE
    title = "Share of the matches found by looking at so many candidates a photo"
    if not alone:
        return picture(width, height, f"{name}: {title}", parts)
    parts.insert(0, element("rect", kind="paper", width="100%", height="100%"))
    parts.append(text(right, base + 34, title, faint=True, anchor="end"))
    style, namespace = f"<style>{STYLE}</style>", "http://www.w3.org/2000/svg"
    return picture(width, height, title, parts, style, xmlns=namespace) + "\n"
