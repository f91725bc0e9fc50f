"""The leaderboard as one HTML page that needs no network: intervals drawn first, numbers below."""

from html import escape
from math import floor, isnan
from pathlib import Path

from whalebench.benchmarks.record import atomic_text
from whalebench.reports.leaderboard import Leaderboard, Row, Section, Table
from whalebench.reports.wording import cells, explanation, header, remarks, subtitle, title, with_interval

LEFT, WIDTH, RIGHT, HEIGHT = 190, 430, 150, 26
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
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 500; color: var(--faint); } .name { text-align: left; } .first { font-weight: 600; }
p.small { color: var(--faint); max-width: 46rem; }
p.note { border-left: 3px solid var(--mark); padding-left: .7rem; }
svg { max-width: 100%; height: auto; } svg text { fill: var(--ink); font-size: 13px; }
svg .faint { fill: var(--faint); } svg line { stroke: var(--mark); stroke-width: 2; }
svg .grid { stroke: var(--line); stroke-width: 1; } svg circle { fill: var(--mark); }
"""


def to_html(board: Leaderboard) -> str:
    """The page: for each table a plot of the intervals and the numbers, light or dark as the reader likes."""
    parts = [_table(table) for table in board.tables]
    parts.append(f'<p class="small">{escape(explanation())}</p>')
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
    for section in table.sections:
        parts += [f"<h3>{escape(subtitle(section, table))}</h3>", _forest(section), _numbers(section)]
    parts += [f'<p class="note">{escape(remark)}</p>' for remark in remarks(table)]
    return "\n".join(parts)


def _numbers(section: Section) -> str:
    names = header(section)
    kinds = [' class="name"' if name in ("method", "run") else "" for name in names]
    head = "".join(f"<th{kind}>{escape(name)}</th>" for kind, name in zip(kinds, names, strict=True))
    body = []
    for row in section.rows:
        texts = zip(kinds, cells(row, section), strict=True)
        line = "".join(f"<td{kind}>{escape(text)}</td>" for kind, text in texts)
        body.append(f'<tr class="first">{line}</tr>' if row.rank == 1 else f"<tr>{line}</tr>")
    return f'<div class="scroll"><table>\n<tr>{head}</tr>\n' + "\n".join(body) + "\n</table></div>"


def _forest(section: Section) -> str:
    """An SVG with a line a run: MAP@5 as a dot, its interval as a bar, on an axis cut to what is needed."""
    rows = [row for row in section.rows if not isnan(row.metrics["map_at_5"])]
    if not rows:
        return ""
    low = min(floor(10 * min(_ends(row)[0] for row in rows)) / 10, 0.9)
    height = HEIGHT * (len(rows) + 1) + 8
    parts = [f'<svg viewBox="0 0 {LEFT + WIDTH + RIGHT} {height}" width="{LEFT + WIDTH + RIGHT}" role="img">']
    parts.append("<title>MAP@5 of each run with its 95 % interval</title>")
    for step in range(round(10 * low), 11):
        x = _x(step / 10, low)
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="4" y2="{height - HEIGHT}"/>')
        parts.append(
            f'<text class="faint" x="{x}" y="{height - 8}" text-anchor="middle">{step / 10:.1f}</text>'
        )
    parts += [_mark(row, low, HEIGHT * (place + 0.6)) for place, row in enumerate(rows)]
    return "\n".join([*parts, "</svg>"])


def _mark(row: Row, low: float, y: float) -> str:
    start, end = (_x(value, low) for value in _ends(row))
    name = f"{row.method}, seed {row.seed}"
    name = name if len(name) <= 26 else f"{name[:25]}…"
    return (
        f'<text x="0" y="{y + 4:.1f}">{escape(name)}</text>'
        f'<line x1="{start}" x2="{end}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<circle cx="{_x(row.metrics["map_at_5"], low)}" cy="{y:.1f}" r="4.5"/>'
        f'<text class="faint" x="{LEFT + WIDTH + 16}" y="{y + 4:.1f}">'
        f"{escape(with_interval(row.metrics, 'map_at_5'))}</text>"
    )


def _ends(row: Row) -> tuple[float, float]:
    """The interval, or the value twice where there is none."""
    value, low, high = (row.metrics[f"map_at_5{end}"] for end in ("", "_low", "_high"))
    return (value, value) if isnan(low) else (low, high)


def _x(value: float, low: float) -> float:
    return round(LEFT + WIDTH * (value - low) / (1 - low), 1)
