"""The leaderboard as one HTML page that needs no network: intervals drawn first, numbers below."""

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from whalebench.benchmarks.core.workspace import atomic_text
from whalebench.reports.blocks import Block, notes, section_blocks, summary_block
from whalebench.reports.board import Leaderboard, Row, Section, Table
from whalebench.reports.figures import TITLE as RELIABILITY
from whalebench.reports.figures import Mark, forest, histogram_svg, reliability_svg
from whalebench.reports.wording import cells, header, remarks, subtitle, title

NAMES = ("method", "run")
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
    """The page: for each table a plot of the intervals and the numbers, light or dark as the reader likes."""
    parts = [_table(table) for table in board.tables]
    parts += [f'<p class="small">{escape(note)}</p>' for note in notes(board)]
    parts += [f'<p class="note">{escape(problem)}</p>' for problem in board.problems]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>whalebench leaderboard</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        "<h1>Leaderboard</h1>\n" + "\n".join(parts) + "\n</body>\n</html>\n"
    )


def write_html(board: Leaderboard, file: Path) -> Path:
    """The file, holding the page."""
    atomic_text(file, to_html(board))
    return file


def _table(table: Table) -> str:
    parts = [f"<h2>{escape(title(table))}</h2>"]
    for summary in table.summaries:
        marks = [Mark(one.contestant, one.map_at_5, one.low, one.high) for one in summary.standings]
        parts += _block(summary_block(summary, table), forest(marks))
    for section in table.sections:
        parts += [
            f"<h3>{escape(subtitle(section, table))}</h3>",
            forest([_mark(row) for row in section.rows]),
        ]
        lines = [(cells(row, section), row.rank == 1) for row in section.rows]
        parts.append(_numbers(header(section), lines))
        for block in section_blocks(section):
            parts += _block(block)
        parts += [_reliabilities(section), _histograms(section)]
    parts += [f'<p class="note">{escape(remark)}</p>' for remark in remarks(table)]
    return "\n".join(part for part in parts if part)


def _block(block: Block, picture: str = "") -> list[str]:
    numbers = _numbers(block.header, [(row, False) for row in block.rows])
    return [f"<h3>{escape(block.title)}</h3>", picture, numbers]


def _numbers(names: Sequence[str], lines: Iterable[tuple[Sequence[str], bool]]) -> str:
    """A table of texts, those lines in bold that say so."""
    kinds = [' class="name"' if name in NAMES else "" for name in names]
    head = "".join(f"<th{kind}>{escape(name)}</th>" for kind, name in zip(kinds, names, strict=True))
    body = []
    for texts, first in lines:
        line = "".join(f"<td{kind}>{escape(text)}</td>" for kind, text in zip(kinds, texts, strict=True))
        body.append(f'<tr class="first">{line}</tr>' if first else f"<tr>{line}</tr>")
    return f'<div class="scroll"><table>\n<tr>{head}</tr>\n' + "\n".join(body) + "\n</table></div>"


def _mark(row: Row) -> Mark:
    value, low, high = (row.metrics[f"map_at_5{end}"] for end in ("", "_low", "_high"))
    return Mark(_name(row), value, low, high)


def _name(row: Row) -> str:
    return f"{row.contestant}, seed {row.seed}"


def _histograms(section: Section) -> str:
    """How well the animals were found, a picture for each run and measure."""
    return _many([histogram_svg(found, _name(row)) for row in section.rows for found in row.histograms])


def _reliabilities(section: Section) -> str:
    """Whether probabilities are what they say, a picture for each run that says so."""
    pictures = [reliability_svg(row.calibration, _name(row)) for row in section.rows]
    drawn = _many([picture for picture in pictures if picture])
    return f"<h3>{escape(RELIABILITY)}, fold {section.fold}</h3>\n{drawn}" if drawn else ""


def _many(pictures: Sequence[str]) -> str:
    return '<div class="many">\n' + "\n".join(pictures) + "\n</div>" if pictures else ""
