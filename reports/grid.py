"""Tables of texts, and how they fit a window of any width."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from whalebench.reports.console import UNLIMITED

NAME_COLUMNS = ("method", "run")
"""Columns of names, which stand to the left; all others are numbers."""


class Grid(NamedTuple):
    """A table of texts below a title."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    legend: tuple[str, ...] = ()
    """What its columns mean, a sentence or two each."""
    best: frozenset[int] = frozenset()
    """Places of the rows that may be the best, shown in bold."""
    forest: str = ""
    """Its intervals as an SVG, shown above it on the page; empty for none."""
    optional: tuple[str, ...] = ()
    """Columns that a narrow window may do without, the first one first."""

    def without(self, names: Collection[str]) -> Grid:
        """The grid without the columns of these names."""
        kept = [place for place, name in enumerate(self.header) if name not in names]
        header, *rows = (tuple(texts[place] for place in kept) for texts in (self.header, *self.rows))
        return self._replace(header=header, rows=tuple(rows))


@dataclass(frozen=True)
class FittedGrid:
    """A grid that fits the window: a narrow one does without the columns that are optional.

    Where that is not enough names are broken between words, then intervals go below their numbers, the last
    column's first. So words stay whole as long as may be, and numbers never lose a digit.
    """

    grid: Grid

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        unlimited = options.update(max_width=UNLIMITED)

        def fits(table: Table) -> bool:
            return table.__rich_measure__(console, unlimited).minimum <= options.max_width

        *others, last = self._tables()
        table, without = next((one for one in others if fits(one[0])), last)
        if self.grid.title:
            yield Text(self.grid.title)
        yield table
        if without:
            yield Text(f"In a wider window: {', '.join(without)}.", style="dim")

    def _tables(self) -> Iterator[tuple[Table, tuple[str, ...]]]:
        """The tables to try, the best first, each with the columns that it does without."""
        optional = self.grid.optional
        for names in ("line", "words"):
            for number in range(len(optional) + 1) if optional or names == "words" else ():
                without = optional[:number]
                yield FittedGrid(self.grid.without(without)).table(names=names), without
        narrow = FittedGrid(self.grid.without(optional))
        for whole in range(len(narrow.grid.header), -1, -1):
            yield narrow.table(whole, names="words"), optional
        yield narrow.table(0, names="letters"), optional

    def table(self, whole: int = UNLIMITED, *, names: Literal["line", "words", "letters"] = "line") -> Table:
        """The table, intervals on the line of their numbers in that many columns from the left.

        Names may be broken nowhere, between words, or between letters.
        """
        table = Table(
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            pad_edge=False,
            show_edge=False,
        )
        rows = [
            [*texts[:whole], *(text.replace(" [", "\n[") for text in texts[whole:])]
            for texts in self.grid.rows
        ]
        for name, *texts in zip(self.grid.header, *rows, strict=True):
            if name in NAME_COLUMNS:
                pieces = {"line": [name, *texts], "words": " ".join([name, *texts]).split(), "letters": ["."]}
                table.add_column(name, vertical="bottom", overflow="fold", min_width=_longest(pieces[names]))
            else:
                head = name.replace(" ", "\n", 1)
                least = _longest("\n".join([head, *texts]).splitlines())
                table.add_column(head, justify="right", vertical="bottom", no_wrap=True, min_width=least)
        for place, row in enumerate(rows):
            table.add_row(*map(Text, row), style="bold" if place in self.grid.best else "")
        return table


def _longest(pieces: Sequence[str]) -> int:
    return max(map(len, pieces), default=0)
