"""A sweep as a person likes to watch it, and what it came to: its leaderboard, and the cells that failed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from whalebench.benchmarks.core.progress import CellState, SweepState
from whalebench.benchmarks.core.record import plain
from whalebench.reports.board import Leaderboard
from whalebench.reports.leaderboard import leaderboard
from whalebench.reports.listing import table_of
from whalebench.reports.terminal import render
from whalebench.reports.wording import UNDEFINED, duration
from whalebench.reports.writers import to_rows

REFRESH = 0.25
"""Seconds between two drawings of the live table."""


@contextmanager
def watch_sweep(console: Console, *, quiet: bool = False) -> Iterator[Callable[[SweepState], None]]:
    """A block with a function that shows a sweep as fits the console; if quiet, on a terminal only."""
    if not console.is_terminal:
        yield PlainSweep(None if quiet else console).show
        return
    with Live(console=console, transient=True, auto_refresh=False) as live:
        yield LiveSweep(live).show


class LiveSweep:
    """A table that is drawn anew, a row a contestant."""

    def __init__(self, live: Live) -> None:
        self._live, self._last = live, 0.0

    def show(self, state: SweepState) -> None:
        """Draws the table as it is now, a few times a second."""
        if time.monotonic() - self._last >= REFRESH:
            self._last = time.monotonic()
            self._live.update(Group(_cell_table(state.cells), Text(progress_line(state))), refresh=True)


class PlainSweep:
    """A line for each cell that starts or ends; none without a console."""

    def __init__(self, console: Console | None) -> None:
        self._console = console
        self._before: dict[str, str] = {}

    def show(self, state: SweepState) -> None:
        """Prints what has changed since the last time."""
        for cell in state.cells:
            before = self._before.get(cell.run, cell.status if cell.ended_before else "waiting")
            self._before[cell.run] = cell.status
            if self._console and cell.status != before:
                line = f"{_cell_name(cell)}: {_cell_words(cell)}"
                end = f" ({progress_line(state)})" if cell.status != "running" else ""
                self._console.print(line + end, highlight=False, markup=False, soft_wrap=True)


def board_of(cells: Iterable[CellState], runs_folder: Path) -> Leaderboard | None:
    """The leaderboard of the sweep's own runs, or None where none has finished."""
    runs = {cell.run for cell in cells if cell.status in ("finished", "unfit")}
    return leaderboard(runs_folder, runs=runs) if runs else None


def sweep_report(state: SweepState, board: Leaderboard | None, seconds: float) -> Group:
    """What `rich` prints after a sweep: tables over folds and seeds, failed cells, the wall time."""
    parts: list[RenderableType] = [render(board, folds=False)] if board else []
    parts += _failure_lines(state.cells)
    count = sum(cell.ended_before for cell in state.cells)
    before = f" ({count} of them before)" if count else ""
    parts.append(Text(f"{progress_line(state)}{before}. Wall time {duration(seconds)}."))
    return Group(*parts)


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
    return Group(table_of(rows), _cell_table(state.cells), *_failure_lines(state.cells), end)


def board_document(board: Leaderboard | None) -> dict[str, list[dict[str, Any]]]:
    """`summary`, one dictionary a contestant over folds and seeds, best first; and the `rows` of single runs.

    The rows are those of `report --json`; undefined numbers are None.
    """
    summary = [
        plain(
            {"benchmark": table.benchmark, "track": table.track, "folds": over_folds.folds}
            | asdict(standing)
            | {"lead": standing.lead._asdict() if standing.lead else None}
        )
        for table in (board.tables if board else ())
        for over_folds in table.summaries
        for standing in over_folds.standings
    ]
    return {"summary": summary, "rows": to_rows(board) if board else []}


def progress_line(state: SweepState) -> str:
    """How far a sweep is, in a line: cells by what became of them, and the time left."""
    count = _counts(state.cells)
    parts = [f"{count['done']} of {len(state.cells)} done"]
    parts += [f"{count[name]} {name}" for name in ("running", "waiting", "failed") if count[name]]
    if count["running"] or count["waiting"]:
        left = UNDEFINED if state.seconds_left is None else f"about {duration(state.seconds_left)}"
        parts.append(f"time left {left}")
    return ", ".join(parts)


def _cell_table(cells: Iterable[CellState]) -> Table:
    """A row a contestant: how many of its cells are done, running, waiting, failed, and what it does now."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("method", overflow="fold")
    for name in ("done", "running", "waiting", "failed"):
        table.add_column(name, justify="right")
    table.add_column("now", overflow="ellipsis", no_wrap=True)
    by_contestant: dict[str, list[CellState]] = {}
    for cell in cells:
        by_contestant.setdefault(cell.contestant, []).append(cell)
    for name, group in by_contestant.items():
        now = [f"{_place(cell)}: {cell.activity}" for cell in group if cell.status == "running"]
        table.add_row(Text(name), *map(str, _counts(group).values()), Text("\n".join(now)))
    return table


def _counts(cells: Iterable[CellState]) -> dict[str, int]:
    """How many cells are done, running, waiting and failed.

    One that does not fit, or lacks something of this machine, is done.
    """
    number = Counter(cell.status for cell in cells)
    done = number["finished"] + number["unfit"] + number["missing"]
    return {"done": done} | {name: number[name] for name in ("running", "waiting", "failed")}


def _cell_name(cell: CellState) -> str:
    return f"{cell.contestant}, {_place(cell)}"


def _place(cell: CellState) -> str:
    return f"fold {cell.fold} seed {cell.seed}"


def _cell_words(cell: CellState) -> str:
    """What became of a cell, in a few words."""
    match cell.status:
        case "finished":
            return "found finished" if cell.ended_before else f"finished in {duration(cell.seconds or 0.0)}"
        case "unfit":
            return f"does not fit: {cell.reason}"
        case "missing":
            return f"missing here: {cell.reason}"
        case "failed":
            return f"failed: {cell.reason}"
        case "running":
            return "starts"
    return "stopped"


def _failure_lines(cells: Iterable[CellState]) -> list[Text]:
    """A line for the cells of a contestant that came to nothing for one reason."""
    alike: dict[tuple[str, str], list[CellState]] = {}
    for cell in cells:
        if cell.status in ("missing", "failed"):
            what = "is missing something here" if cell.status == "missing" else "failed"
            alike.setdefault((cell.contestant, f"{what}: {cell.reason}"), []).append(cell)
    lines = []
    for (_, why), group in alike.items():
        more = f" (and {len(group) - 1} more)" if len(group) > 1 else ""
        lines.append(Text(f"! {_cell_name(group[0])}{more} {why}", style="red"))
    if any(cell.ended_before for group in alike.values() for cell in group):
        lines.append(Text("What came to nothing before is tried again with --retry.", style="dim"))
    return lines
