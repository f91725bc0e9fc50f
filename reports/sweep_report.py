"""What a sweep came to, or would: its leaderboard, and the cells that failed."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from whalebench.benchmarks.core.progress import CellState, SweepState
from whalebench.benchmarks.core.record import plain
from whalebench.reports.board import Leaderboard
from whalebench.reports.console import cell_name, cell_table, progress_line
from whalebench.reports.leaderboard import leaderboard
from whalebench.reports.listing import table_of
from whalebench.reports.wording import METRICS, duration
from whalebench.reports.writers import render, to_rows


def board_of(cells: Iterable[CellState], runs_folder: Path) -> Leaderboard | None:
    """The leaderboard of the sweep's own runs, or None where none has finished."""
    runs = {cell.run for cell in cells if cell.status in ("finished", "unfit")}
    return leaderboard(runs_folder, runs=runs) if runs else None


def sweep_report(state: SweepState, board: Leaderboard | None, seconds: float) -> Group:
    """What `rich` prints after a sweep: its leaderboard, failed cells, the wall time."""
    tables: list[RenderableType] = [render(board)] if board else []
    count = sum(cell.ended_before for cell in state.cells)
    before = f" ({count} of them before)" if count else ""
    end = Text(f"{progress_line(state)}{before}. Wall time {duration(seconds)}.")
    return Group(*tables, *_failure_lines(state.cells), end)


def plan_report(state: SweepState, jobs: int) -> Group:
    """What `rich` prints of a plan of which nothing is started: every cell, then counts by contestant.

    The names of the runs would not fit on a line; `--json` has them.
    """
    rows = [
        {"method": cell.contestant, "fold": cell.fold, "seed": cell.seed, "status": cell.status}
        for cell in state.cells
    ]
    noun = "process" if jobs == 1 else "processes"
    end = Text(f"{progress_line(state)}. Nothing was started; there would be {jobs} {noun} at a time.")
    return Group(table_of(rows), cell_table(state.cells), *_failure_lines(state.cells), end)


def board_json(board: Leaderboard | None) -> dict[str, list[dict[str, Any]]]:
    """`summary`, one dictionary a contestant over folds and seeds, best first; and the `rows` of single runs.

    The rows are those of `report --json`; undefined numbers are None.
    """
    if board is None:
        return {"summary": [], "rows": []}
    summary = [
        plain(
            {"benchmark": table.title, "track": one.group.track, "folds": one.group.folds}
            | one.standing._asdict()
            | {key: one.mean(key) for key in METRICS}
        )
        for table in board.tables
        for one in table.contestants
        if one.group and one.standing
    ]
    return {"summary": summary, "rows": to_rows(board)}


def _failure_lines(cells: Iterable[CellState]) -> list[Text]:
    """A line for the cells of a contestant that came to nothing for one reason."""
    alike: dict[tuple[str, str], list[CellState]] = defaultdict(list)
    for cell in cells:
        if cell.status in ("missing", "failed"):
            what = "is missing something here" if cell.status == "missing" else "failed"
            alike[cell.contestant, f"{what}: {cell.reason}"].append(cell)
    lines = []
    for (_, why), group in alike.items():
        more = f" (and {len(group) - 1} more)" if len(group) > 1 else ""
        lines.append(Text(f"! {cell_name(group[0])}{more} {why}", style="red"))
    if any(cell.ended_before for group in alike.values() for cell in group):
        lines.append(Text("What came to nothing before is tried again with --retry.", style="dim"))
    return lines
