"""The leaderboard as files: Markdown to read, CSV to compute with, JSON for programs."""

import csv
import io
import json
from math import isfinite
from pathlib import Path
from typing import Any

from whalebench.benchmarks.record import atomic_text
from whalebench.reports.leaderboard import Leaderboard, Row
from whalebench.reports.page import to_html
from whalebench.reports.terminal import to_svg
from whalebench.reports.wording import cells, explanation, header, remarks, subtitle, title

KEYS = ("rank", "method", "benchmark", "track", "fold", "seed", "run", "oracle", "transductive")
MORE = ("photos_per_second", "seconds", "created", "catalog_digest", "split_digest", "problem")


def to_rows(board: Leaderboard) -> list[dict[str, Any]]:
    """One dictionary a row, as `report --json` prints them; undefined numbers are None."""
    return [
        {key: getattr(row, key) for key in KEYS}
        | {"metrics": {key: _defined(value) for key, value in row.metrics.items()}}
        | {key: getattr(row, key) for key in MORE}
        for row in board.rows
    ]


def to_json(board: Leaderboard) -> str:
    """The rows as one JSON document; undefined numbers are null."""
    return json.dumps(to_rows(board), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def to_csv(board: Leaderboard) -> str:
    """The rows as CSV, a column for each metric and each end of its interval; undefined is empty."""
    names = list(dict.fromkeys(key for row in board.rows for key in row.metrics))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*KEYS, *names, *MORE])
    for row in board.rows:
        writer.writerow(
            [*_values(row, KEYS), *(_defined(row.metrics.get(name)) for name in names), *_values(row, MORE)]
        )
    return text.getvalue()


def to_markdown(board: Leaderboard) -> str:
    """The tables as Markdown, with what intervals and ranks mean, and what is missing."""
    lines = ["# Leaderboard", ""]
    for table in board.tables:
        lines += [f"## {_escape(title(table))}", ""]
        for section in table.sections:
            names = header(section)
            lines += [_escape(subtitle(section, table)), "", _line(names)]
            lines.append(_line([":---" if name in ("method", "run") else "---:" for name in names]))
            lines += [_line([_escape(cell) for cell in cells(row, section)]) for row in section.rows]
            lines.append("")
        lines += [line for remark in remarks(table) for line in (f"**Note.** {_escape(remark)}", "")]
    lines += [explanation(), ""]
    lines += [line for problem in board.problems for line in (f"**Problem.** {_escape(problem)}", "")]
    return "\n".join(lines).rstrip() + "\n"


def write_reports(
    board: Leaderboard,
    folder: Path,
    *,
    html: Path | None = None,
    csv_file: Path | None = None,
    svg: Path | None = None,
) -> list[Path]:
    """The files written: leaderboard.md, .csv and .json in the folder, then the others that are asked for."""
    texts = {folder / "leaderboard.md": to_markdown(board)}
    texts |= {folder / "leaderboard.csv": to_csv(board), folder / "leaderboard.json": to_json(board)}
    texts |= {file: to_html(board) for file in (html,) if file}
    texts |= {file: to_csv(board) for file in (csv_file,) if file}
    texts |= {file: to_svg(board) for file in (svg,) if file}
    for file, text in texts.items():
        atomic_text(file, text)
    return list(texts)


def _values(row: Row, keys: tuple[str, ...]) -> list[Any]:
    return [_defined(getattr(row, key)) for key in keys]


def _defined(value: Any) -> Any:
    return None if isinstance(value, float) and not isfinite(value) else value


def _line(texts: list[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _escape(text: str) -> str:
    """The text with the characters that Markdown reads as table or mark-up made plain."""
    return "".join(f"\\{letter}" if letter in "\\|*_`<[]" else letter for letter in text)
