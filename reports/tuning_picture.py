"""A picture of a study: what each trial scored on valid, the best so far, and which fields mattered."""

from collections.abc import Mapping, Sequence
from html import escape
from itertools import accumulate
from math import ceil, floor
from pathlib import Path
from typing import Any

from whalebench.benchmarks.record import atomic_text

WIDTH, TALL, EDGE, ROW = 620, 220, 44, 22
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
    height = EDGE + TALL + 40 + (ROW * (len(bars) + 1) + 16 if bars else 0)
    title = "{method} on {benchmark}, fold {fold}, seed {seed}: {budget}".format_map(document)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH + 2 * EDGE} {height}" '
            f'width="{WIDTH + 2 * EDGE}" role="img">',
            f"<title>{escape(title)}</title><style>{STYLE}</style>",
            '<rect class="paper" width="100%" height="100%"/>',
            f'<text x="{EDGE}" y="22">{escape(title)}</text>',
            *_history(document["trials"]),
            *_importance(bars, EDGE + TALL + 56),
            "</svg>\n",
        ]
    )


def _history(trials: Sequence[Mapping[str, Any]]) -> list[str]:
    scored = [trial["valid_map_at_5"] for trial in trials if trial["valid_map_at_5"] is not None]
    low = floor(10 * min(scored, default=0.0)) / 10
    high = max(ceil(10 * max(scored, default=1.0)) / 10, low + 0.1)

    def y(value: float) -> float:
        return round(EDGE + TALL * (high - value) / (high - low), 1)

    def x(place: int) -> float:
        return round(EDGE + WIDTH * (place + 0.5) / len(trials), 1)

    parts = []
    for step in range(round(10 * low), round(10 * high) + 1):
        parts.append(
            f'<line class="grid" x1="{EDGE}" x2="{EDGE + WIDTH}" y1="{y(step / 10)}" y2="{y(step / 10)}"/>'
        )
        parts.append(
            f'<text class="faint" x="{EDGE - 8}" y="{y(step / 10) + 4}" text-anchor="end">{step / 10:.1f}'
            "</text>"
        )
    base = EDGE + TALL + 18
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
        base = EDGE + TALL
        return f'<path class="fail" d="M{x - 4} {base - 4}l8 8m0 -8l-8 8">{said}</path>'
    return f'<circle class="{trial["state"]}" cx="{x}" cy="{y(value)}" r="4">{said}</circle>'


def _importance(bars: Sequence[tuple[str, float]], top: int) -> list[str]:
    if not bars:
        return []
    parts = [
        f'<text class="faint" x="{EDGE}" y="{top}">What mattered: share of how much valid MAP@5 varied</text>'
    ]
    for place, (name, share) in enumerate(bars, start=1):
        y, long = top + ROW * place, (WIDTH - NAMES - 50) * share
        parts.append(
            f'<text x="{EDGE}" y="{y}">{escape(name)}</text>'
            f'<rect class="bar" x="{EDGE + NAMES}" y="{y - 11}" width="{long:.1f}" height="12"/>'
            f'<text class="faint" x="{EDGE + WIDTH}" y="{y}" text-anchor="end">{100 * share:.0f} %</text>'
        )
    return parts
