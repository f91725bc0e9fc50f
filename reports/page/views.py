"""A table as its template takes it: cells with what they are sorted by, rows with what is drawn of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import floor, isnan
from typing import NamedTuple

from whalebench.reports.tables import NAME_COLUMNS, Cell, Grid, RowFacts

NUMBER = re.compile(r"[+-]?\d[\d,]*\.?\d*(e-?\d+)?")
"""What a cell begins with that is sorted as a number."""
STEPS = 10
"""The axis of MAP@5 begins at a tenth."""


class CellView(NamedTuple):
    """A cell of the page."""

    text: str
    sort: float | None
    """What it is sorted by; None by its text, behind all numbers."""
    name: bool
    """Whether it names its row."""
    href: str = ""
    """The anchor that it leads to; empty for none."""


class Bar(NamedTuple):
    """An interval on an axis from 0 to 100; without ends a tick alone."""

    value: float
    low: float | None
    high: float | None


class RowView(NamedTuple):
    """A row of the page."""

    cells: tuple[CellView, ...]
    first: bool
    track: str
    marks: str
    score: Bar | None
    ranks: Bar | None
    command: str
    label: str


class TableView(NamedTuple):
    """A table of the page, with what can be left out of it."""

    anchor: str
    title: str
    header: tuple[tuple[str, bool], ...]
    """The columns, and whether they hold names."""
    rows: tuple[RowView, ...]
    tracks: tuple[tuple[str, str], ...]
    """The tracks that rows may be filtered by, with their words; empty where there is one."""
    marks: tuple[str, ...]
    axis: tuple[str, str] | None
    """Ends of the axis of the intervals; None where none are drawn."""
    floors: tuple[float, ...]
    """Places of the floors on it."""
    ranked: int
    """How many ranks the axis of ranks has; 0 where none are drawn."""
    commands: bool


def table_view(
    grid: Grid, anchor: str, links: Mapping[str, str], tracks: Mapping[str, str] | None = None
) -> TableView:
    """The grid as a page shows it.

    `links` are the anchors of what rows stand for, by their name; `tracks` the words of the letters, where
    rows are to be filtered.
    """
    facts = grid.facts or (RowFacts(),) * len(grid.rows)
    low = _axis([one.interval for one in facts if one.interval])
    named = next((place for place, name in enumerate(grid.header) if name == "run"), None)
    if named is None:
        named = next((place for place, name in enumerate(grid.header) if name in NAME_COLUMNS), 0)
    most = max((one.ranks[1] for one in facts if one.ranks), default=0)
    rows = tuple(
        RowView(
            tuple(
                CellView(
                    text, _sorted_by(text), place == named, links.get(fact.anchor, "") * (place == named)
                )
                for place, text in enumerate(texts)
            ),
            number in grid.best,
            fact.track,
            "|".join(fact.marks),
            _bar(fact.interval, low) if fact.interval else None,
            _ranks(fact.ranks, most) if fact.ranks and most > 1 else None,
            fact.command,
            fact.anchor,
        )
        for number, (texts, fact) in enumerate(zip(grid.rows, facts, strict=True))
    )
    shown = dict.fromkeys(one.track for one in facts if one.track)
    marks = tuple(dict.fromkeys(mark for one in facts for mark in one.marks))
    drawn = any(one.interval for one in facts)
    return TableView(
        anchor,
        grid.title,
        tuple((name, name in NAME_COLUMNS or place == named) for place, name in enumerate(grid.header)),
        rows,
        tuple((letter, tracks[letter]) for letter in shown if letter in tracks) if tracks else (),
        marks if tracks else (),
        (f"{low:.1f}", "1.0") if drawn else None,
        tuple(_place(one.interval[0], low) for one in facts if one.interval and "floor" in one.marks),
        most if most > 1 else 0,
        any(one.command for one in facts),
    )


def _sorted_by(text: str) -> float | None:
    """The number of a cell, or that with which its text begins, behind a letter of a track."""
    if isinstance(text, Cell):
        return None if text.number is None or isnan(text.number) else text.number
    found = NUMBER.match(text)
    return float(found[0].replace(",", "")) if found else None


def _axis(intervals: Sequence[tuple[float, float, float]]) -> float:
    """The tenth at which an axis of scores begins."""
    ends = [value if isnan(low) else min(value, low) for value, low, _ in intervals if not isnan(value)]
    return max(0.0, min(floor(STEPS * min(ends, default=0.0)) / STEPS, 0.9))


def _place(value: float, low: float) -> float:
    return round(100 * (value - low) / (1 - low), 1)


def _bar(interval: tuple[float, float, float], low: float) -> Bar | None:
    value, *ends = interval
    if isnan(value):
        return None
    if any(map(isnan, ends)):
        return Bar(_place(value, low), None, None)
    return Bar(_place(value, low), _place(ends[0], low), _place(ends[1], low))


def _ranks(ranks: tuple[int, int], most: int) -> Bar:
    """From the left edge of the first rank that it may have to the right edge of the last one."""
    return Bar(0, round(100 * (ranks[0] - 1) / most, 1), round(100 * ranks[1] / most, 1))
