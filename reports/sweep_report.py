"""What a sweep came to: the leaderboard of its runs over folds and seeds, and the cells that have none."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from whalebench.benchmarks.core.progress import CellNews, SweepNews
from whalebench.benchmarks.core.record import plain
from whalebench.reports.board import Leaderboard
from whalebench.reports.leaderboard import leaderboard
from whalebench.reports.listing import table_of
from whalebench.reports.progress import cell_name, cell_table, progress_line
from whalebench.reports.terminal import render
from whalebench.reports.wording import duration
from whalebench.reports.writers import to_rows


def board_of(news: SweepNews, runs_folder: Path) -> Leaderboard | None:
    """The leaderboard of the sweep's own runs, or None where none has finished."""
    runs = {cell.run for cell in news.cells if cell.status in ("finished", "unfit")}
    return leaderboard(runs_folder, runs=runs) if runs else None


def sweep_report(news: SweepNews, board: Leaderboard | None, seconds: float) -> Group:
    """What `rich` prints after a sweep: tables over folds and seeds, failed cells, the wall time."""
    parts: list[RenderableType] = [render(board, folds=False)] if board else []
    parts += _undone(news)
    finished_before = sum(cell.found for cell in news.cells)
    before = f" ({finished_before} of them before)" if finished_before else ""
    parts.append(Text(f"{progress_line(news)}{before}. Wall time {duration(seconds)}."))
    return Group(*parts)


def plan_report(news: SweepNews, jobs: int) -> Group:
    """What `rich` prints of a plan of which nothing is started: every cell, then counts by contestant.

    The names of the runs would not fit on a line; `--json` has them.
    """
    rows = [
        {"method": cell.contestant, "fold": cell.fold, "seed": cell.seed, "status": cell.status}
        for cell in news.cells
    ]
    noun = "process" if jobs == 1 else "processes"
    sentence = f"{progress_line(news)}. Nothing was started; there would be {jobs} {noun} at a time."
    return Group(table_of(rows), cell_table(news.cells), *_undone(news), Text(sentence))


def board_document(board: Leaderboard | None) -> dict[str, list[dict[str, Any]]]:
    """`summary`, one dictionary a contestant over folds and seeds, best first, and `rows`, one a run.

    Rows are as `report --json` prints them; undefined numbers are None.
    """
    summary = [
        plain(
            {"benchmark": table.benchmark, "track": table.track, "folds": summary.folds}
            | asdict(one)
            | {"lead": one.lead._asdict() if one.lead else None}
        )
        for table in (board.tables if board else ())
        for summary in table.summaries
        for one in summary.standings
    ]
    return {"summary": summary, "rows": to_rows(board) if board else []}


def _undone(news: SweepNews) -> list[Text]:
    """A line for the cells of a contestant that failed, or were missing something, for one reason."""
    alike: dict[str, list[CellNews]] = defaultdict(list)
    for cell in news.cells:
        if cell.status in ("missing", "failed"):
            alike[f"{cell.contestant} {_why(cell)}"].append(cell)
    lines = []
    for cells in alike.values():
        more = f" (and {len(cells) - 1} more)" if len(cells) > 1 else ""
        lines.append(Text(f"! {cell_name(cells[0])}{more} {_why(cells[0])}", style="red"))
    if any(cell.found for cells in alike.values() for cell in cells):
        lines.append(Text("What came to nothing before is tried again with --retry.", style="dim"))
    return lines


def _why(cell: CellNews) -> str:
    return f"{'is missing something here' if cell.status == 'missing' else 'failed'}: {cell.reason}"
