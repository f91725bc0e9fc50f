"""The leaderboard as files: Markdown to read, CSV to compute with, JSON for programs."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from whalebench.benchmarks.core.workspace import atomic_text
from whalebench.reports.blocks import Block, notes, section_blocks, summary_block
from whalebench.reports.board import Leaderboard, Row
from whalebench.reports.page import to_html
from whalebench.reports.terminal import to_svg
from whalebench.reports.wording import cells, header, remarks, subtitle, title

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


def to_rows(board: Leaderboard) -> list[dict[str, Any]]:
    """One dictionary a row, as `report --json` prints them; undefined numbers are None."""
    return [
        {key: getattr(row, key) for key in KEYS}
        | {"metrics": {key: _defined(value) for key, value in row.metrics.items()}}
        | {key: getattr(row, key) for key in (*MORE, *GROUPS)}
        for row in board.rows
    ]


def to_json(board: Leaderboard) -> str:
    """The rows as one JSON document; undefined numbers are null."""
    return json.dumps(to_rows(board), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def to_csv(board: Leaderboard) -> str:
    """The rows as CSV, a column for each metric and each end of its interval; undefined is empty.

    What only some runs have follows, as `location_box_iou_mean` and `diagnosis_mirrored`.
    """
    rows = [{key: getattr(row, key) for key in KEYS} | row.metrics | _more(row) for row in board.rows]
    names = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_defined(row.get(name)) for name in names] for row in rows)
    return text.getvalue()


def _more(row: Row) -> dict[str, Any]:
    groups = {group: getattr(row, group) or {} for group in GROUPS}
    numbers = {
        f"{group}_{key}": value
        for group, values in groups.items()
        for key, value in values.items()
        if not isinstance(value, dict)  # the bins of a reliability picture fill no cell
    }
    return {key: getattr(row, key) for key in MORE} | numbers


def to_markdown(board: Leaderboard) -> str:
    """The tables as Markdown, with what intervals and ranks mean, and what is missing."""
    lines = ["# Leaderboard", ""]
    for table in board.tables:
        lines += [f"## {_escape(title(table))}", ""]
        for summary in table.summaries:
            lines += _block(summary_block(summary, table))
        for section in table.sections:
            texts = [cells(row, section) for row in section.rows]
            lines += _numbers(subtitle(section, table), header(section), texts)
            for block in section_blocks(section):
                lines += _block(block)
        lines += [line for remark in remarks(table) for line in (f"**Note.** {_escape(remark)}", "")]
    lines += [line for note in notes(board) for line in (_escape(note), "")]
    lines += [line for problem in board.problems for line in (f"**Problem.** {_escape(problem)}", "")]
    return "\n".join(lines).rstrip() + "\n"


def _block(block: Block) -> list[str]:
    return _numbers(block.title, block.header, block.rows)


def _numbers(head: str, names: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    sides = [":---" if name in ("method", "run") else "---:" for name in names]
    body = [_line([_escape(text) for text in texts]) for texts in rows]
    return [_escape(head), "", _line(names), _line(sides), *body, ""]


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


def _defined(value: Any) -> Any:
    return None if isinstance(value, float) and not isfinite(value) else value


def _line(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _escape(text: str) -> str:
    """The text with the characters that Markdown reads as table or mark-up made plain."""
    return "".join(f"\\{letter}" if letter in "\\|*_`<[]" else letter for letter in text)
