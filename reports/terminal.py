"""The leaderboard for the terminal, and a picture of it for a README."""

import io
import re
from html import escape, unescape
from pathlib import Path

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from whalebench.benchmarks.record import atomic_text
from whalebench.reports.leaderboard import Leaderboard, Section
from whalebench.reports.leaderboard import Table as BoardTable
from whalebench.reports.wording import cells, explanation, header, remarks, subtitle, title

LEFT = ("method", "run")
SVG_WIDTH = 92
TEXT = re.compile(r'x="([\d.]+)"([^>]*)textLength="([\d.]+)"([^>]*)>([^<]+)</text>')


def render(board: Leaderboard) -> Group:
    """What `rich` prints: each table with its sections, then what intervals and ranks mean, then problems."""
    parts: list[RenderableType] = []
    for table in board.tables:
        parts.append(Text(title(table), style="bold cyan"))
        parts += [_section(section, table) for section in table.sections]
        parts += [Text(f"! {remark}", style="yellow") for remark in remarks(table)]
        parts.append(Text())
    parts.append(Text(explanation(), style="dim"))
    parts += [Text(f"! {problem}", style="red") for problem in board.problems]
    return Group(*parts)


def to_svg(board: Leaderboard) -> str:
    """An SVG picture of the rendered tables that fetches nothing from the network."""
    console = Console(record=True, width=SVG_WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(render(board))
    picture = console.export_svg(title="whalebench report", unique_id="whalebench")
    picture = re.sub(r"@font-face\s*\{[^}]*\}", "", picture)  # rich's fonts come from a network host
    return "\n".join(line.rstrip() for line in TEXT.sub(_tight, picture).splitlines()) + "\n"


def render_svg(board: Leaderboard, file: Path) -> Path:
    """The file, holding the picture."""
    atomic_text(file, to_svg(board))
    return file


def _tight(match: re.Match[str]) -> str:
    """The SVG text without blanks at its ends, moved by as much: not every viewer keeps leading blanks."""
    start, middle, length, rest, text = match.groups()
    shown = unescape(text)
    cell = float(length) / len(shown)
    x = float(start) + cell * (len(shown) - len(shown.lstrip()))
    shown = shown.strip()
    return f'x="{x:g}"{middle}textLength="{cell * len(shown):g}"{rest}>{escape(shown)}</text>'


def _section(section: Section, table: BoardTable) -> RichTable:
    head = subtitle(section, table)
    shown = RichTable(
        title=head, title_justify="left", title_style="", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for name in header(section):
        if name in LEFT:  # may wrap, so that the numbers never lose a digit in a narrow window
            shown.add_column(name, justify="left", overflow="fold")
        else:
            shown.add_column(name.replace(" ", "\n", 1), justify="right", vertical="bottom", no_wrap=True)
    for row in section.rows:
        shown.add_row(*map(Text, cells(row, section)), style="bold" if row.rank == 1 else "")
    return shown
