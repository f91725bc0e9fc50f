"""The leaderboard rendered: for the terminal, as Markdown, HTML and SVG to read, CSV and JSON to compute."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape, unescape
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from whalebench.benchmarks.core.record import plain
from whalebench.benchmarks.core.workspace import atomic_text
from whalebench.reports.board import Leaderboard, Row
from whalebench.reports.document import NAME_COLUMNS, Chapter, Grid, Pictures, board_document

KEYS = ("rank", "method", "benchmark", "track", "fold", "seed", "run", "oracle", "transductive")
MORE = (
    "contestant",
    "photos_per_second",
    "seconds",
    "created",
    "catalog_digest",
    "split_digest",
    "problem",
    "unfit",
    "seen",
)
GROUPS = ("location", "diagnosis", "calibration")
"""Numbers by name that only some rows have."""
SVG_WIDTH = 92
UNLIMITED = 10_000
"""The width of a window in which everything fits."""
TEXT = re.compile(r'x="([\d.]+)"([^>]*)textLength="([\d.]+)"([^>]*)>([^<]+)</text>')


def write_reports(
    board: Leaderboard,
    folder: Path,
    *,
    html: Path | None = None,
    csv_file: Path | None = None,
    svg: Path | None = None,
) -> list[Path]:
    """Writes leaderboard.md, .csv and .json into the folder, then the other files, and gives all back."""
    texts = {folder / "leaderboard.md": to_markdown(board)}
    texts |= {folder / "leaderboard.csv": to_csv(board), folder / "leaderboard.json": to_json(board)}
    for file, text_of in ((html, to_html), (csv_file, to_csv), (svg, to_svg)):
        if file:
            texts[file] = text_of(board)
    for file, text in texts.items():
        atomic_text(file, text)
    return list(texts)


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


def to_rows(board: Leaderboard) -> list[dict[str, Any]]:
    """One dictionary a row, as `report --json` prints them; undefined numbers are None."""
    return [
        _values(row, KEYS) | {"metrics": plain(row.metrics)} | _values(row, (*MORE, *GROUPS))
        for row in board.rows
    ]


def to_json(board: Leaderboard) -> str:
    """The rows as one JSON document; undefined numbers are null."""
    return json.dumps(to_rows(board), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def to_csv(board: Leaderboard) -> str:
    """The rows as CSV, a column for each metric and each end of its interval; undefined is empty.

    What only some runs have follows, as `location_box_iou_mean` and `diagnosis_mirrored`.
    """
    rows = []
    for row in board.rows:
        groups = {
            f"{group}_{key}": value
            for group, values in _values(row, GROUPS).items()
            for key, value in (values or {}).items()
            if not isinstance(value, dict)  # the bins of a reliability diagram fill no cell
        }
        rows.append(_values(row, KEYS) | row.metrics | _values(row, MORE) | groups)
    names = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([plain(row.get(name)) for name in names] for row in rows)
    return text.getvalue()


def _values(row: Row, keys: Sequence[str]) -> dict[str, Any]:
    """The row's values, or those of its record where the row has none of its own."""
    return {key: getattr(row if hasattr(row, key) else row.record, key) for key in keys}


def to_markdown(board: Leaderboard) -> str:
    """The document of the leaderboard as Markdown, without its pictures."""
    document = board_document(board)
    blocks = ["# Leaderboard"]
    for chapter in document.chapters:
        blocks.append(f"## {_escaped(chapter.title)}")
        for grid in chapter.grids:
            blocks += [_escaped(grid.title), _markdown_table(grid)]
        blocks += [f"**Note.** {_escaped(remark)}" for remark in chapter.remarks]
    blocks += map(_escaped, document.legend)
    blocks += [f"**Problem.** {_escaped(problem)}" for problem in document.problems]
    return "\n\n".join(blocks) + "\n"


def _markdown_table(grid: Grid) -> str:
    sides = [":---" if name in NAME_COLUMNS else "---:" for name in grid.header]
    rows = [grid.header, sides, *(map(_escaped, row) for row in grid.rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _escaped(text: str) -> str:
    """The text with the characters that Markdown reads as table or mark-up made plain."""
    return "".join(f"\\{letter}" if letter in "\\|*_`<[]" else letter for letter in text)


STYLE = """
:root { color-scheme: light dark; --ink: #1d2b36; --paper: #fbfcfd; --faint: #8796a1; --line: #dde4e9;
  --mark: #0b6e99; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #dfe8ee; --paper: #10181e; --faint: #7c8d99; --line: #2a3843; --mark: #58b7e0; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2.5rem; }
h3 { font-size: 1rem; font-weight: 500; }
.scroll { overflow-x: auto; } .many { display: flex; flex-wrap: wrap; gap: 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 500; color: var(--faint); } .name { text-align: left; } .first { font-weight: 600; }
p.small { color: var(--faint); max-width: 46rem; }
p.note { border-left: 3px solid var(--mark); padding-left: .7rem; }
svg { max-width: 100%; height: auto; } svg text { fill: var(--ink); font-size: 13px; }
svg .faint { fill: var(--faint); } svg line { stroke: var(--mark); stroke-width: 2; }
svg .grid { stroke: var(--line); stroke-width: 1; } svg circle { fill: var(--mark); }
svg rect { fill: var(--faint); opacity: .6; }
svg .before { fill: none; stroke: var(--faint); stroke-width: 1.5; } svg polyline { fill: none; }
svg polyline.after { stroke: var(--mark); stroke-width: 2; }
"""


def to_html(board: Leaderboard) -> str:
    """The document of the leaderboard as a page that needs no network, light or dark as the reader likes.

    Intervals are drawn first, numbers below them.
    """
    document = board_document(board)
    parts = [part for chapter in document.chapters for part in _chapter(chapter)]
    parts += [_paragraph("small", sentence) for sentence in document.legend]
    parts += [_paragraph("note", problem) for problem in document.problems]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>whalebench leaderboard</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        "<h1>Leaderboard</h1>\n" + "\n".join(filter(None, parts)) + "\n</body>\n</html>\n"
    )


def _chapter(chapter: Chapter) -> list[str]:
    parts = [f"<h2>{escape(chapter.title)}</h2>"]
    for part in chapter.parts:
        parts.append(f"<h3>{escape(part.title)}</h3>" if part.title else "")
        if isinstance(part, Pictures):
            parts += ['<div class="many">', *part.drawings, "</div>"]
        else:
            parts += [part.forest, _html_table(part)]
    return [*parts, *(_paragraph("note", remark) for remark in chapter.remarks)]


def _html_table(grid: Grid) -> str:
    """The grid as a table, the rows of rank 1 in bold."""
    sides = [' class="name"' if name in NAME_COLUMNS else "" for name in grid.header]

    def line(cell: str, texts: Sequence[str], kind: str = "") -> str:
        cells = (f"<{cell}{side}>{escape(text)}</{cell}>" for side, text in zip(sides, texts, strict=True))
        return f"<tr{kind}>{''.join(cells)}</tr>"

    firsts = [' class="first"' if place in grid.best else "" for place in range(len(grid.rows))]
    body = [line("td", row, first) for row, first in zip(grid.rows, firsts, strict=True)]
    return "\n".join(['<div class="scroll"><table>', line("th", grid.header), *body, "</table></div>"])


def _paragraph(kind: str, text: str) -> str:
    return f'<p class="{kind}">{escape(text)}</p>'
