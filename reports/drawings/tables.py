"""A table of the leaderboard as one picture: its columns as text, the intervals drawn in one of their own."""

from collections.abc import Sequence
from itertools import accumulate
from math import isnan

from whalebench import visible
from whalebench.reports.drawings.contestants import Mark
from whalebench.reports.drawings.sheets import Sheet, sheet
from whalebench.reports.drawings.theme import (
    EDGE,
    FAINT,
    LINE,
    MARK,
    PAPER,
    Anchor,
    Picture,
    listed,
    tenth_ticks,
    tenths,
    width_of,
    wrapped,
)
from whalebench.reports.tables import NAME_COLUMNS

LEAST, MOST = 700, 1000
"""Between which the picture's width lies, but for tables that need more."""
GAP, ROW, SENTENCE, HEAD = 14, 24, 17, 36
DRAWN = 150
"""Width of the column of intervals."""
WIDEST, NARROWEST = 230, 110
"""The most that a column may take, and what the names at least keep."""


def board(
    title: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    marks: Sequence[Mark],
    sentences: Sequence[str],
) -> Picture:
    """The table with its marks, one a row, drawn right of the column MAP@5, and the sentences below it."""
    after = header.index("MAP@5")
    widths = _widths(header, rows)
    lefts = [*accumulate(widths[:-1], lambda left, wide: left + wide + GAP, initial=float(EDGE))]
    lefts = [left + (DRAWN + GAP) * (at > after) for at, left in enumerate(lefts)]
    width = max(LEAST, lefts[-1] + widths[-1] + EDGE)
    lines = [line for sentence in sentences for line in wrapped(sentence, width - 2 * EDGE)]
    below = HEAD + ROW * len(rows) + 34
    with sheet(width, below + SENTENCE * len(lines)) as page:
        page.line((EDGE, width - EDGE), (HEAD - 2, HEAD - 2), color=LINE, linewidth=1)
        columns = list(zip(header, lefts, widths, strict=True))
        for name, left, wide in columns:
            for place, part in enumerate(_head(name)):
                page.text(
                    *_edge(name, left, wide, 13 + 14 * place), part, wide, anchor=_side(name), colour=FAINT
                )
        for place, texts in enumerate(rows):  # row by row, as it is read aloud
            for text, (name, left, wide) in zip(texts, columns, strict=True):
                page.text(*_edge(name, left, wide, HEAD + ROW * place + 16), text, wide, anchor=_side(name))
        _intervals(page, marks, (lefts[after] + widths[after] + GAP, HEAD, DRAWN, ROW * len(rows)))
        for place, line in enumerate(lines):
            page.text(EDGE, below + SENTENCE * place, line, colour=FAINT)
        return page.picture(title, listed([mark.said() for mark in marks if not isnan(mark.value)]))


def _side(name: str) -> Anchor:
    """Names stand to the left, numbers to the right."""
    return "left" if name in NAME_COLUMNS else "right"


def _edge(name: str, left: float, wide: float, y: float) -> tuple[float, float]:
    """Where the texts of a column are anchored."""
    return (left if name in NAME_COLUMNS else left + wide), y


def _head(name: str) -> list[str]:
    """The title of a column in two lines, the last words below the first."""
    first, _, rest = name.partition(" ")
    return [first, rest] if rest else ["", first]


def _widths(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[float]:
    """What each column takes; names are cut where all would take more than `MOST`."""
    columns = [[*_head(name), *map(visible, texts)] for name, *texts in zip(header, *rows, strict=True)]
    widths = [min(WIDEST, max(width_of(text) for text in column) + 1) for column in columns]
    over = sum(widths) + DRAWN + GAP * len(widths) + 2 * EDGE - MOST
    for at, name in enumerate(header):
        if name in NAME_COLUMNS:
            widths[at] = min(widths[at], max(NARROWEST, widths[at] - max(over, 0)))
    return widths


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
