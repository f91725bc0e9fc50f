"""The leaderboard for the terminal, and a picture of it for a README."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape, unescape
from pathlib import Path

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table as RichTable
from rich.text import Text

from whalebench.benchmarks.core.workspace import atomic_text
from whalebench.reports.blocks import Block, notes, section_blocks, summary_block
from whalebench.reports.board import Leaderboard, Table
from whalebench.reports.wording import cells, header, remarks, subtitle, title

LEFT = ("method", "run")
SVG_WIDTH = 92
ENDLESS = 10_000
"""The width of a window in which everything fits."""
TEXT = re.compile(r'x="([\d.]+)"([^>]*)textLength="([\d.]+)"([^>]*)>([^<]+)</text>')


def render(board: Leaderboard, *, folds: bool = True) -> Group:
    """What `rich` prints: each table with its sections, then what intervals and ranks mean, then problems.

    Without `folds`, those of a table are left out where its summaries hold every contestant that has a rank.
    """
    parts: list[RenderableType] = []
    shown = [
        replace(table, sections=()) if not folds and _summed_up(table) else table for table in board.tables
    ]
    for whole, table in zip(board.tables, shown, strict=True):
        parts.append(Text(title(table), style="bold cyan"))
        for summary in table.summaries:
            parts.append(_block(summary_block(summary, table)))
        for section in table.sections:
            lines = [(cells(row, section), row.rank == 1) for row in section.rows]
            parts.append(Numbers(subtitle(section, table), header(section), lines))
            parts += map(_block, section_blocks(section))
        parts += [Text(f"! {remark}", style="yellow") for remark in remarks(whole)]
        parts.append(Text())
    parts += [Text(note, style="dim") for note in notes(replace(board, tables=tuple(shown)))]
    parts += [Text(f"! {problem}", style="red") for problem in board.problems]
    return Group(*parts)


def _summed_up(table: Table) -> bool:
    ranked = {row.contestant for section in table.sections for row in section.rows if row.rank is not None}
    return ranked <= {one.contestant for summary in table.summaries for one in summary.standings}


def to_svg(board: Leaderboard, *, folds: bool = True) -> str:
    """An SVG picture of the rendered tables that fetches nothing from the network; `folds` as in `render`."""
    console = Console(record=True, width=SVG_WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(render(board, folds=folds))
    picture = console.export_svg(title="whalebench report", unique_id="whalebench")
    picture = re.sub(r"@font-face\s*\{[^}]*\}", "", picture)  # rich's fonts come from a network host
    return "\n".join(line.rstrip() for line in TEXT.sub(_tight, picture).splitlines()) + "\n"


def render_svg(board: Leaderboard, file: Path, *, folds: bool = True) -> Path:
    """The file, holding the picture."""
    atomic_text(file, to_svg(board, folds=folds))
    return file


def _tight(match: re.Match[str]) -> str:
    """The SVG text without blanks at its ends, moved by as much: not every viewer keeps leading blanks."""
    start, middle, length, rest, text = match.groups()
    shown = unescape(text)
    cell = float(length) / len(shown)
    x = float(start) + cell * (len(shown) - len(shown.lstrip()))
    shown = shown.strip()
    return f'x="{x:g}"{middle}textLength="{cell * len(shown):g}"{rest}>{escape(shown)}</text>'


def _block(block: Block) -> Numbers:
    return Numbers(block.title, block.header, [(row, False) for row in block.rows])


@dataclass(frozen=True)
class Numbers:
    """A table of texts; in a narrow window intervals go below their numbers, the last column's first.

    So the words of names stay whole as long as may be, and numbers never lose a digit.
    """

    head: str
    names: Sequence[str]
    lines: Sequence[tuple[Sequence[str], bool]]
    """Cells, and whether they are in bold."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        endless = options.update(max_width=ENDLESS)
        for whole in range(len(self.names), -1, -1):
            table = self._table(whole)
            if table.__rich_measure__(console, endless).minimum <= options.max_width:
                yield table
                return
        yield self._table(0, words=False)

    def _table(self, whole: int, *, words: bool = True) -> RichTable:
        """The table, intervals on the line of their numbers in that many columns from the left.

        With `words` those of names stay whole.
        """
        shown = RichTable(
            title=Text(self.head),
            title_justify="left",
            title_style="",
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            pad_edge=False,
            show_edge=False,
        )
        rows = [
            [*texts[:whole], *(text.replace(" [", "\n[") for text in texts[whole:])]
            for texts, _ in self.lines
        ]
        for name, *texts in zip(self.names, *rows, strict=True):
            if name in LEFT:
                least = _longest(" ".join([name, *texts]).split()) if words else 1
                shown.add_column(name, vertical="bottom", overflow="fold", min_width=least)
            else:
                head = name.replace(" ", "\n", 1)
                least = _longest("\n".join([head, *texts]).splitlines())
                shown.add_column(head, justify="right", vertical="bottom", no_wrap=True, min_width=least)
        for row, (_, first) in zip(rows, self.lines, strict=True):
            shown.add_row(*map(Text, row), style="bold" if first else "")
        return shown


def _longest(pieces: Sequence[str]) -> int:
    return max(map(len, pieces), default=0)
