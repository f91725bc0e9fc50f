"""A catalog in pictures: photos by individual and by month, the sizes of photos, and their colours."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from math import ceil, log10
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whalebench.reports.drawings.sheets import Sheet, sheet
from whalebench.reports.drawings.theme import (
    EDGE,
    FAINT,
    MARK,
    SECOND,
    SMALL,
    WIDTH,
    Picture,
    compact,
    listed,
    width_of,
)

LEFT, HEIGHT = 44, 150
"""Pixels for the labels of an upright axis, and of the axes' height."""
SIZES = 400
"""Different sizes of photos that are drawn, the most frequent."""


def bars(title: str, counts: Mapping[str, int], across: str, up: str = "photos") -> Picture:
    """A bar for each count, by its name; where there are many names, only some are written below."""
    names, values = list(counts), list(counts.values())
    most = max(values, default=1)
    with sheet(WIDTH, HEIGHT + 62) as page:
        axes = _axes(page, (-0.5, len(names) - 0.5), (0, 1.05 * most), {}, _steps(most), across, up)
        for place, (name, value) in enumerate(counts.items()):
            (drawn,) = axes.bar([place], [value], 0.85, color=MARK)
            page.hint(drawn, f"{name}: {value:,}")
        room = (WIDTH - LEFT - EDGE) / max(1, len(names))
        every = ceil((width_of(max(names, key=len, default=""), SMALL) + 6) / room) if names else 1
        places = range(0, len(names), every)
        axes.set_xticks([*places], [names[place] for place in places])
        facts = [f"{name}: {value:,}" for name, value in counts.items()]
        return page.picture(title, listed(facts, 12))


def sizes(widths: Sequence[int], heights: Sequence[int]) -> Picture:
    """Photos by width and height on logarithmic axes; the more of one size, the larger its dot."""
    found, counts = np.unique(np.stack([widths, heights], axis=1), axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:SIZES]
    found, counts = found[order], counts[order]
    logs = np.log10(found)
    ticks = {log10(side): compact(side) for side in _sides(int(found.min()), int(found.max()))}
    low, high = min(ticks) - 0.02, max(ticks) + 0.02
    with sheet(WIDTH, HEIGHT + 62) as page:
        axes = _axes(page, (low, high), (low, high), ticks, ticks, "width in pixels", "height")
        for (x, y), (width, height), count in zip(logs, found, counts, strict=True):
            size = 4 + 12 * (count / counts.max()) ** 0.5
            (dot,) = axes.plot([x], [y], "o", color=MARK, alpha=0.6, markersize=size)
            page.hint(dot, f"{width} x {height}: {count:,} photos")
        facts = [f"{w} x {h}: {n:,} photos" for (w, h), n in zip(found, counts, strict=True)]
        return page.picture("Sizes of photos", listed(facts))


def colours(means: NDArray[np.float64]) -> Picture:
    """Photos by brightness and by how far their mean colour is from grey, each in that colour.

    means (photos, 3) are of red, green and blue, from 0 to 1.
    """
    light, cast = means.mean(axis=1), means.max(axis=1) - means.min(axis=1)
    top = max(0.1, ceil(10 * float(cast.max(initial=0.0))) / 10)
    shares = {share / 4: f"{share / 4:.2g}" for share in range(5)}
    with sheet(WIDTH, HEIGHT + 62) as page:
        ticks = {0.0: "0", top / 2: f"{top / 2:.2g}", top: f"{top:.1g}"}
        axes = _axes(page, (-0.02, 1.02), (-0.03 * top, 1.05 * top), shares, ticks, "brightness", "colour")
        for x, y, mean in zip(light, cast, means, strict=True):
            shade = "#{:02x}{:02x}{:02x}".format(*np.round(255 * mean.clip(0, 1)).astype(int).tolist())
            axes.plot([x], [y], "o", color=shade, markersize=6, markeredgecolor=FAINT, markeredgewidth=0.5)
        middle = np.median(light), np.median(cast)
        axes.plot([middle[0]], [middle[1]], "D", color=SECOND, markersize=7)
        grey = float((cast < 1 / 255).mean())
        facts = [f"median brightness {middle[0]:.2f}", f"median distance from grey {middle[1]:.2f}"]
        return page.picture("Mean colours of photos", listed([*facts, f"{grey:.0%} without any colour"]))


def _axes(
    page: Sheet,
    x: tuple[float, float],
    y: tuple[float, float],
    x_ticks: Mapping[float, str],
    y_ticks: Mapping[float, str],
    across: str,
    up: str,
) -> Any:
    page.text(EDGE, 12, up, colour=FAINT, size=SMALL)
    page.text(WIDTH - EDGE, HEIGHT + 54, across, anchor="right", colour=FAINT, size=SMALL)
    return page.axes((LEFT, 20, WIDTH - LEFT - EDGE, HEIGHT), x, y, x_ticks, y_ticks)


def _steps(most: int) -> dict[float, str]:
    """Round ticks from 0 to a count, five at most.

    >>> _steps(93)
    {0: '0', 20: '20', 40: '40', 60: '60', 80: '80'}
    >>> _steps(4)
    {0: '0', 1: '1', 2: '2', 3: '3', 4: '4'}
    """
    power = 10 ** max(0, int(log10(max(1, most))) - 1)
    step = next(step for step in (power * each for each in (1, 2, 5, 10, 20, 50)) if most / step < 5)
    return {tick: compact(tick) for tick in range(0, most + 1, step)}


def _sides(low: int, high: int) -> list[int]:
    """One, two and five times powers of ten, from the last that is not above to the first that is not below.

    >>> _sides(192, 320)
    [100, 200, 500]
    """
    every = [first * 10**power for power in range(7) for first in (1, 2, 5)]
    return [every[place] for place in range(bisect_right(every, low) - 1, bisect_left(every, high) + 1)]
