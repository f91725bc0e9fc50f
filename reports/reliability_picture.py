"""Whether probabilities are what they say, drawn for the page as inline SVG (a reliability diagram)."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from whalebench.reports.plots import EDGE, short
from whalebench.reports.wording import number

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
            *(_line(found, when, base) for when, found in bins.items() if found),
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


def _line(bins: Mapping[str, Sequence[float]], when: str, base: float) -> str:
    """The bins joined, each with a dot."""
    places = [
        (f"{EDGE + SIDE * said:.1f}", f"{base - SIDE * right:.1f}")
        for said, right in zip(bins["confidence"], bins["accuracy"], strict=True)
    ]
    dots = "".join(f'<circle class="{when}" cx="{x}" cy="{y}" r="3"/>' for x, y in places)
    return f'<polyline class="{when}" points="{" ".join(map(",".join, places))}"/>{dots}'
