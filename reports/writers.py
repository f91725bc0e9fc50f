"""The leaderboard rendered: for the terminal, Markdown, LaTeX and SVG to read, CSV and JSON to compute.

The terminal begins with a line a contestant and ends with the essential; files hold everything.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from math import nan
from pathlib import Path
from typing import Any

from whalebench import WhalebenchError, table_cell, visible
from whalebench.benchmarks.core.outputs import check_output, write_output
from whalebench.benchmarks.core.record import METRIC_KEYS, plain
from whalebench.benchmarks.core.workspace import atomic_text
from whalebench.reports.board import Leaderboard, Row
from whalebench.reports.console import json_text
from whalebench.reports.document import Chapter, board_document
from whalebench.reports.tables import NAME_COLUMNS, Grid
from whalebench.reports.wording import UNDEFINED, listed, spans

KEYS = ("rank", "method", "benchmark", "track", "fold", "seed", "run", "oracle", "transductive")
MORE = (
    "contestant",
    "rank_low",
    "rank_high",
    "probability_best",
    "floor_map_at_5",
    "looks",
    "photos_seen",
    "code_digest",
    "photos_per_second",
    "seconds",
    "created",
    "catalog_digest",
    "split_digest",
    "problem",
    "unfit",
    "seen",
    "warnings",
)
GROUPS = ("location", "diagnosis", "calibration", "grouping", "leak_inflation", "leaks", "without_leaks")
"""Numbers by name that only some rows have."""


def write_reports(
    board: Leaderboard,
    folder: Path,
    *,
    page: tuple[Path, str] | None = None,
    csv_file: Path | None = None,
    svg: Path | None = None,
) -> tuple[list[Path], list[str]]:
    """Writes leaderboard.md, .csv and .json into the folder and the other files: those written, and problems.

    `page` is the file of a page with its text. A folder that cannot be written is a problem, since the board
    can be read without; another file is an error.
    """
    for wanted in filter(None, (page and page[0], csv_file, svg)):
        check_output(wanted)
    named: list[Path] = []
    if page:  # these first: where one cannot be written nothing is
        write_output(*page)
        named.append(page[0])
    for file, text_of in ((csv_file, to_csv), (svg, to_svg)):
        if file:
            write_output(file, text_of(board))
            named.append(file)
    written: list[Path] = []
    problems: list[str] = []
    texts = {"leaderboard.md": to_markdown(board), "leaderboard.csv": to_csv(board)}
    texts["leaderboard.json"] = to_json(board)
    try:
        for name, text in texts.items():
            atomic_text(folder / name, text)
            written.append(folder / name)
    except WhalebenchError as error:
        problems.append(f"The reports were not written into the workspace: {error}")
    return [*written, *named], problems


def to_svg(board: Leaderboard) -> str:
    """The main table as an SVG picture that fetches nothing from the network, its intervals drawn.

    Raises WhalebenchError where there are tables of several benchmarks or splits.
    """
    from whalebench.reports.drawings.contestants import Mark
    from whalebench.reports.drawings.posters import board as drawn
    from whalebench.reports.drawings.theme import standalone

    if len(board.tables) > 1:
        titles = listed(table.title for table in board.tables)
        raise WhalebenchError(f"A picture has one table, and there are {titles}: choose with --benchmark.")
    (chapter,) = board_document(board, details=False).chapters
    grid = chapter.main
    marks = [Mark(facts.anchor, *(facts.interval or (nan, nan, nan))) for facts in grid.facts]
    said = (*chapter.key, *chapter.essential, *chapter.warnings)
    return standalone(drawn(chapter.title, grid.header, grid.rows, marks, said)) + "\n"


def to_rows(board: Leaderboard) -> list[dict[str, Any]]:
    """One dictionary a run, as `report --json` prints them; undefined numbers are None.

    With `buckets`, `effort` and `effort_curve` of those that were broken down.
    """
    return [
        plain(
            _values(row, KEYS)
            | {"metrics": row.metrics}
            | _values(row, (*MORE, *GROUPS))
            | (row.breakdown.document() if row.breakdown else {})
        )
        for row in board.rows
    ]


def contestant_rows(board: Leaderboard) -> list[dict[str, Any]]:
    """One dictionary a contestant, best first, then the floors; undefined numbers are NaN.

    `low` and `high` are the ends of the interval of `map_at_5`; what a floor has not is not there.
    """
    rows: list[dict[str, Any]] = []
    for table in board.tables:
        for one in table.contestants:
            facts: dict[str, Any] = {"benchmark": table.title, "contestant": one.name, "place": one.place}
            facts |= {
                "track": one.group.track if one.group else "",
                "folds": spans(one.folds),
                "runs": len(one.rows),
            }
            value, low, high = one.standing[1:4] if one.standing else (nan, nan, nan)
            means = {key: one.mean(key) for key in METRIC_KEYS if key != "map_at_5"}
            rows.append(facts | {"map_at_5": value, "low": low, "high": high} | means)
        for floor in table.floors:
            facts = {"benchmark": table.title, "contestant": f"{floor.name} (floor)", "place": UNDEFINED}
            facts |= floor._asdict() | {"folds": spans(floor.folds), "runs": 0}
            rows.append({key: value for key, value in facts.items() if key != "name"})
    return rows


def to_json(board: Leaderboard) -> str:
    """The rows as one JSON document; undefined numbers are null."""
    return json_text(to_rows(board)) + "\n"


def to_csv(board: Leaderboard) -> str:
    """The rows as CSV, a column for each metric and each end of its interval; undefined is empty.

    What only some runs have follows, as `location_box_iou_mean` and `diagnosis_mirrored`. A text that a
    spreadsheet would compute has an apostrophe before it; `whalebench.cell_text` takes it away.
    """
    rows = []
    for row in board.rows:
        groups = {
            f"{group}_{key}": value
            for group, values in _values(row, GROUPS).items()
            for key, value in (values or {}).items()
            if not isinstance(value, dict)  # the bins of a reliability diagram fill no cell
        }
        values = {"warnings": " ".join(row.record.warnings)}
        rows.append(_values(row, KEYS) | {**row.metrics} | _values(row, MORE) | values | groups)
    names = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(_cell, names))
    writer.writerows([_cell(row.get(name)) for name in names] for row in rows)
    return text.getvalue()


def _cell(value: object) -> object:
    """The value as a cell: numbers as they are, texts as `table_cell` keeps them, controls as escapes."""
    value = plain(value)
    return table_cell(visible(value)) if isinstance(value, str) else value


def _values(row: Row, keys: Sequence[str]) -> dict[str, Any]:
    """The row's values, or those of its record where the row has none of its own."""
    return {key: getattr(row if hasattr(row, key) else row.record, key) for key in keys}


def to_markdown(board: Leaderboard) -> str:
    """The document as Markdown, without its pictures: main tables first, notes at the end."""
    document = board_document(board)
    blocks = ["# Leaderboard"]
    for chapter in document.chapters:
        blocks += [f"## {_escaped(chapter.title)}", _markdown_table(chapter.main)]
        blocks += ["\n".join(f"- {_escaped(sentence)}" for sentence in chapter.key)]
        blocks += map(_escaped, chapter.essential)
        blocks += [f"**Warning.** {_escaped(warning)}" for warning in chapter.warnings]
    for chapter in document.chapters:
        blocks.append(f"## {_escaped(chapter.title)}: the runs")
        for part in chapter.details:
            blocks += [_escaped(part.title), _markdown_table(part)]
        blocks += [f"**Warning.** {_escaped(doubt)}" for doubt in chapter.doubts]
    blocks += ["## Notes", *map(_escaped, document.notes())]
    blocks += [f"**Problem.** {_escaped(problem)}" for problem in document.problems]
    return "\n\n".join(blocks) + "\n"


def _markdown_table(grid: Grid) -> str:
    sides = [":---" if name in NAME_COLUMNS else "---:" for name in grid.header]
    rows = [grid.header, sides, *(map(_escaped, row) for row in grid.rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _escaped(text: str) -> str:
    """The text with the characters that Markdown reads as table or mark-up made plain."""
    return "".join(f"\\{letter}" if letter in "\\|*_`<[]" else letter for letter in visible(text))


LATEX = {letter: f"\\{letter}" for letter in "&%$#_{}"}
LATEX |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
LATEX |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}"}
LATEX |= {
    "–": "--",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "†": r"\dag{}",
    "‡": r"\ddag{}",
    "*": r"\textasteriskcentered{}",
}
"""What LaTeX reads as mark-up, or has no letter for in its plain fonts, as it is to be written."""


def to_latex(board: Leaderboard) -> str:
    """The main tables in LaTeX (package booktabs), what stands below them as their captions."""
    return "\n".join(_latex_table(chapter) for chapter in board_document(board, details=False).chapters)


def _latex_table(chapter: Chapter) -> str:
    grid = chapter.main
    sides = "".join("l" if name in NAME_COLUMNS else "r" for name in grid.header)
    lines = [" & ".join(map(_latex, row)) + r" \\" for row in (grid.header, *grid.rows)]
    sentences = [chapter.title, *chapter.key, *chapter.essential, *chapter.warnings]
    caption = " ".join(f"{sentence.rstrip('.')}." for sentence in sentences)
    parts = [r"\begin{table}", r"\centering", rf"\caption{{{_latex(caption)}}}"]
    parts += [
        rf"\begin{{tabular}}{{{sides}}}",
        r"\toprule",
        lines[0],
        r"\midrule",
        *lines[1:],
        r"\bottomrule",
    ]
    return "\n".join([*parts, r"\end{tabular}", r"\end{table}", ""])


def _latex(text: str) -> str:
    """The text as LaTeX prints it; a bracket at the start of a cell would be read as an option.

    >>> _latex("50 % of a_b [0.1, 0.2]")
    '50 \\\\% of a\\\\_b {[}0.1, 0.2{]}'
    """
    letters = (LATEX.get(letter, f"{{{letter}}}" if letter in "[]" else letter) for letter in visible(text))
    return "".join(letters)
