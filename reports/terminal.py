"""The leaderboard for the terminal, and a picture of it for a README."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape, unescape
from pathlib import Path

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from whalebench.benchmarks.core.workspace import atomic_text
from whalebench.reports.board import Leaderboard
from whalebench.reports.document import NAME_COLUMNS, Grid, board_document

SVG_WIDTH = 92
UNLIMITED = 10_000
"""The width of a window in which everything fits."""
TEXT = re.compile(r'x="([\d.]+)"([^>]*)textLength="([\d.]+)"([^>]*)>([^<]+)</text>')


def render(board: Leaderboard, *, folds: bool = True) -> Group:
    """What `rich` prints of a leaderboard; `folds` as in `board_document`."""
    document = board_document(board, folds=folds)
    parts: list[RenderableType] = []
    for chapter in document.chapters:
        parts.append(Text(chapter.title, style="bold cyan"))
        parts += map(FittedGrid, chapter.grids)
        parts += [Text(f"! {remark}", style="yellow") for remark in chapter.remarks]
        parts.append(Text())
    parts += [Text(sentence, style="dim") for sentence in document.legend]
    parts += [Text(f"! {problem}", style="red") for problem in document.problems]
    return Group(*parts)


def to_svg(board: Leaderboard, *, folds: bool = True) -> str:
    """An SVG picture of the rendered tables that fetches nothing from the network; `folds` as in `render`."""
    console = Console(record=True, width=SVG_WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(render(board, folds=folds))
    picture = console.export_svg(title="whalebench report", unique_id="whalebench")
    picture = re.sub(r"@font-face\s*\{[^}]*\}", "", picture)  # rich's fonts come from a network host
    return "\n".join(line.rstrip() for line in TEXT.sub(_stripped, picture).splitlines()) + "\n"


def render_svg(board: Leaderboard, file: Path, *, folds: bool = True) -> Path:
    """Writes the picture, and gives back the file."""
    atomic_text(file, to_svg(board, folds=folds))
    return file


def _stripped(match: re.Match[str]) -> str:
    """The SVG text without blanks at its ends, moved by as much: not every viewer keeps leading blanks."""
    start, middle, length, rest, content = match.groups()
    content = unescape(content)
    cell = float(length) / len(content)
    x = float(start) + cell * (len(content) - len(content.lstrip()))
    content = content.strip()
    return f'x="{x:g}"{middle}textLength="{cell * len(content):g}"{rest}>{escape(content)}</text>'


@dataclass(frozen=True)
class FittedGrid:
    """A grid that fits the window: in a narrow one intervals go below their numbers, the last column's first.

    So the words of names stay whole as long as may be, and numbers never lose a digit.
    """

    grid: Grid

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        unlimited = options.update(max_width=UNLIMITED)
        for whole in range(len(self.grid.header), -1, -1):
            table = self._table(whole)
            if table.__rich_measure__(console, unlimited).minimum <= options.max_width:
                yield table
                return
        yield self._table(0, words=False)

    def _table(self, whole: int, *, words: bool = True) -> Table:
        """The table, intervals on the line of their numbers in that many columns from the left.

        With `words` those of names stay whole.
        """
        table = Table(
            title=Text(self.grid.title),
            title_justify="left",
            title_style="",
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
                least = _longest(" ".join([name, *texts]).split()) if words else 1
                table.add_column(name, vertical="bottom", overflow="fold", min_width=least)
            else:
                head = name.replace(" ", "\n", 1)
                least = _longest("\n".join([head, *texts]).splitlines())
                table.add_column(head, justify="right", vertical="bottom", no_wrap=True, min_width=least)
        for place, row in enumerate(rows):
            table.add_row(*map(Text, row), style="bold" if place in self.grid.best else "")
        return table


def _longest(pieces: Sequence[str]) -> int:
    return max(map(len, pieces), default=0)
