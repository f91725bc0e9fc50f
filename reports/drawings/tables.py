"""A table of the leaderboard as one picture: its columns as text, the intervals drawn in one of their own."""

from collections.abc import Sequence
from math import isnan
from textwrap import wrap

from whalebench import visible
from whalebench.reports.drawings.contestants import Mark
from whalebench.reports.drawings.theme import (
    EDGE,
    FAINT,
    LINE,
    MARK,
    PAPER,
    TEXT,
    Picture,
    Sheet,
    listed,
    sheet,
    tenth_ticks,
    tenths,
    width_of,
)
from whalebench.reports.tables import NAME_COLUMNS

LEAST, MOST = 700, 1000
"""Between which the picture's width lies."""
GAP, ROW, SENTENCE = 16, 24, 17
DRAWN = 180
"""Width of the column of intervals."""
NAME = 230
"""The most that a column of texts may take."""


def board(
    title: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    marks: Sequence[Mark],
    sentences: Sequence[str],
) -> Picture:
    """The table with its marks, one a row, drawn right of the column MAP@5, and the sentences below it."""
    widths = [
        min(NAME, max(width_of(visible(row[at]), TEXT) for row in (header, *rows)) + 2)
        for at in range(len(header))
    ]
    after = header.index("MAP@5") if "MAP@5" in header else len(header) - 1
    lefts = [
        EDGE + sum(widths[:at]) + GAP * at + (DRAWN + GAP if at > after else 0)
        for at in range(len(header) + 1)
    ]
    width = min(max(LEAST, lefts[-1] - GAP + EDGE), MOST)
    lines = [line for sentence in sentences for line in wrap(visible(sentence), int((width - 2 * EDGE) / 7))]
    top = ROW + 6
    table = ROW * len(rows)
    with sheet(width, top + table + 30 + SENTENCE * len(lines)) as page:
        for place, row in enumerate((header, *rows)):
            y = ROW * place + 16 + (6 if place else 0)
            colour = {} if place else {"colour": FAINT}
            for name, text, left, wide in zip(header, row, lefts, widths, strict=False):
                if name in NAME_COLUMNS:
                    page.text(left, y, text, wide, **colour)
                else:
                    page.text(left + wide, y, text, wide, anchor="right", **colour)
        page.line((EDGE, width - EDGE), (top - 4, top - 4), color=LINE, linewidth=1)
        _intervals(page, marks, (lefts[after] + widths[after] + GAP, top, DRAWN, table))
        for place, line in enumerate(lines):
            page.text(EDGE, top + table + 40 + SENTENCE * place - 6, line, colour=FAINT)
        return page.picture(title, listed([mark.said() for mark in marks if not isnan(mark.value)]))


def _intervals(page: Sheet, marks: Sequence[Mark], box: tuple[float, float, float, float]) -> None:
    """A dot and a bar a row."""
    low, high = tenths([end for mark in marks for end in mark.ends() if not isnan(end)])
    ticks = tenth_ticks(low, high)
    axes = page.axes(box, (low, high), (len(marks), 0), ticks)
    axes.grid(axis="x", color=LINE, linewidth=1)
    for place, mark in enumerate(marks):
        if not isnan(mark.value):
            axes.plot(mark.ends(), (place + 0.5,) * 2, color=MARK, linewidth=3)
            (dot,) = axes.plot(
                [mark.value], [place + 0.5], "o", color=MARK, markersize=8, markeredgecolor=PAPER
            )
            page.hint(dot, mark.said())
