"""The loop of a sweep: cells to free shares of the machine, and what became of them.

How long a sweep will still take, by what its finished cells took.

Why a cell failed, kept beside the runs until it succeeds: a failed run itself leaves nothing.

The cells of a plan, checked before the first one starts, and what became of each so far.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whalebench import WhalebenchError
from whalebench.benchmarks.core.machine import choose_device
from whalebench.benchmarks.core.progress import (
    SILENT,
    CellNews,
    CellStatus,
    Progress,
    SweepNews,
    SweepWatcher,
)
from whalebench.benchmarks.core.record import read_record
from whalebench.benchmarks.core.workspace import Workspace, atomic_text, is_run_locked
from whalebench.benchmarks.registry import load_benchmark
from whalebench.benchmarks.running.runner import RunRequest, check_seed, run_name
from whalebench.benchmarks.sweeping.plan import Plan
from whalebench.benchmarks.sweeping.workers import PAUSE, Interrupts, Share, Worker, shares, stop
from whalebench.methods.registry import configure, find_method

if TYPE_CHECKING:
    import torch


def seconds_left(cells: Sequence[CellNews], jobs: int) -> float | None:
    """Seconds until the last cell ends with so many at a time; None where none has finished to go by.

    A cell is taken to need the mean of the finished ones of its contestant, else of all.
    """
    finished = [cell for cell in cells if cell.status == "finished" and cell.seconds is not None]
    open_cells = [cell for cell in cells if cell.status in ("waiting", "running")]
    if not open_cells:
        return 0.0
    if not finished:
        return None
    left = [_left(cell, finished) for cell in open_cells]
    longest = max(left)
    return max(longest, sum(left) / jobs)


def _left(cell: CellNews, finished: Sequence[CellNews]) -> float:
    own = [one for one in finished if one.contestant == cell.contestant] or finished
    needed = sum(one.seconds or 0.0 for one in own) / len(own)
    return max(needed - (cell.seconds or 0.0), 0.0) if cell.status == "running" else needed


def read_failure(workspace: Workspace, run: str) -> tuple[CellStatus, str] | None:
    """What the last try of this run came to, failed or missing, and why; None where it left no word."""
    try:
        facts = json.loads(_file(workspace, run).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none, or one that cannot be read: then the run is simply tried again
        return None
    if not isinstance(facts, dict) or not facts.get("reason"):
        return None
    return "missing" if facts.get("status") == "missing" else "failed", str(facts["reason"])


def write_failure(
    workspace: Workspace,
    run: str,
    request: RunRequest,
    reason: str,
    code: int | None,
    status: CellStatus = "failed",
) -> None:
    """Nothing; `cache/failed/RUN.json` says what was asked for, why it failed, and with which exit code."""
    facts = {
        "run": run,
        "status": status,
        "method": request.method,
        "settings": list(request.settings),
        "benchmark": request.benchmark,
        "fold": request.fold,
        "seed": request.seed,
        "reason": reason,
        "exit_code": code,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    atomic_text(_file(workspace, run), json.dumps(facts, indent=2, ensure_ascii=False) + "\n")


def forget_failure(workspace: Workspace, run: str) -> None:
    """Nothing; there is no word of a failure any more."""
    _file(workspace, run).unlink(missing_ok=True)


def _file(workspace: Workspace, run: str) -> Path:
    return workspace.cache / "failed" / f"{run}.json"


DONE: tuple[CellStatus, ...] = ("finished", "unfit")


@dataclass
class Cell:
    """One run of a plan, and where it stands."""

    request: RunRequest
    run: str
    """The name of its folder, whether it is there or not."""
    contestant: str
    """The method with what is set of it and not of all."""
    status: CellStatus = "waiting"
    reason: str = ""
    """Why it failed, does not fit, or what is missing."""
    seconds: float | None = None
    """Wall time so far, and in the end; None where it has not been started."""
    found: bool = False
    """It was finished, or had failed, before this sweep."""
    now: str = ""
    """What it is doing, while it is running."""

    def news(self) -> CellNews:
        """What there is to show of it."""
        return CellNews(
            contestant=self.contestant,
            fold=self.request.fold,
            seed=self.request.seed,
            run=self.run,
            status=self.status,
            reason=self.reason,
            now=self.now,
            seconds=self.seconds,
            found=self.found,
        )

    def document(self) -> dict[str, object]:
        """The cell as `sweep --json` prints it."""
        request = self.request
        return {
            "method": request.method,
            "settings": list(request.settings),
            "benchmark": request.benchmark,
            "fold": request.fold,
            "seed": request.seed,
            "status": self.status,
            "found": self.found,
            "run": self.run,
            "reason": self.reason,
            "seconds": None if self.seconds is None else round(self.seconds, 1),
        }


def cells_of(
    plan: Plan, device: torch.device, asked: str, workspace: Workspace, progress: Progress = SILENT
) -> tuple[Cell, ...]:
    """The cells of a plan, each run once, with one seed of every fold before the next seed.

    `asked` is the device as it was typed. Raises WhalebenchError for a method, setting, fold, seed or
    benchmark that is not there; the benchmark is drawn and split here, so that no two processes do it.
    """
    configured = [
        (one, configure(find_method(one.method), one.settings)) for one in dict.fromkeys(plan.contestants)
    ]
    for seed in plan.seeds:
        check_seed(seed)
    benchmark = load_benchmark(plan.benchmark, workspace, progress, propose=True)
    for fold in plan.folds:
        benchmark.split.parts(fold)
    common = set[str].intersection(*(set(one.settings) for one in plan.contestants))
    cells: dict[str, Cell] = {}
    for seed, fold, (one, config) in product(plan.seeds, plan.folds, configured):
        request = RunRequest(one.method, plan.benchmark, fold, seed, one.settings, asked)
        run = run_name(request, config, benchmark, device.type)
        own = [setting for setting in one.settings if setting not in common]
        cells.setdefault(run, Cell(request, run, " ".join([one.method, *own])))
    for cell in cells.values():
        look(cell, workspace)
    return tuple(cells.values())


def look(cell: Cell, workspace: Workspace) -> None:
    """Nothing; the cell is finished, unfit, missing or failed as the workspace says, else waiting."""
    folder = workspace.runs / cell.run
    failed = read_failure(workspace, cell.run)
    cell.status, cell.reason, cell.found = (*failed, True) if failed else ("waiting", "", False)
    if not folder.exists():
        return
    try:
        record = read_record(folder)
    except WhalebenchError as error:
        cell.status, cell.reason, cell.found = "failed", str(error), True
        return
    cell.status, cell.reason, cell.found = "unfit" if record.unfit else "finished", record.unfit, True
    cell.seconds = sum(record.seconds.values())


def prepare(
    plan: Plan, asked: str, jobs: int | None, workspace: Workspace, progress: Progress = SILENT
) -> tuple[tuple[Cell, ...], tuple[Share, ...]]:
    """The checked cells of a plan on the device asked for, and a share of the machine for each job."""
    device = choose_device(asked)
    dealt = shares(jobs, device, asked)
    return cells_of(plan, device, asked, workspace, progress), dealt


class Sweep:
    """Cells run as processes, one on each share of the machine at a time."""

    def __init__(
        self, cells: Sequence[Cell], shares: Sequence[Share], workspace: Workspace, watcher: SweepWatcher
    ) -> None:
        self.cells, self.seconds, self.stopped = cells, 0.0, False
        self._shares, self._workspace, self._watcher = shares, workspace, watcher
        self._running: dict[int, tuple[Cell, Worker]] = {}
        """By the place of the share they have."""
        self._interrupts = Interrupts()

    def run(self, *, retry: bool = False) -> None:
        """Nothing; each waiting cell has been run, failed ones too with retry, unless it was stopped before.

        Ctrl-C and SIGTERM stop it: `stopped` says so, and what its processes had finished is kept.
        """
        since = time.monotonic()
        for cell in self.cells:
            if cell.status in DONE:
                forget_failure(self._workspace, cell.run)  # of a try before it was run by hand
            elif retry and cell.status in ("missing", "failed"):
                cell.status, cell.reason, cell.found = "waiting", "", False
        with self._interrupts.listening():
            try:
                while self._step() and not self._interrupts.count:
                    time.sleep(PAUSE)
            finally:  # on an error too, no process stays behind
                self._end()
        self.seconds = time.monotonic() - since
        self._watcher.show(self.news())

    def news(self) -> SweepNews:
        """What there is to show now."""
        cells = tuple(cell.news() for cell in self.cells)
        return SweepNews(cells, seconds_left(cells, len(self._shares)))

    def failed(self) -> list[Cell]:
        """The cells that have failed, in this sweep or before it."""
        return [cell for cell in self.cells if cell.status == "failed"]

    def document(self) -> dict[str, Any]:
        """The sweep as `sweep --json` prints it, without its leaderboard."""
        facts = {"seconds": round(self.seconds, 1), "jobs": len(self._shares), "stopped": self.stopped}
        return facts | {"cells": [cell.document() for cell in self.cells]}

    def _step(self) -> bool:
        """Whether anything is running, after ended cells are noted and waiting ones are started."""
        for place, (cell, worker) in list(self._running.items()):
            cell.now, cell.seconds = worker.now, worker.seconds()
            if worker.ended() is not None:
                del self._running[place]
                self._note(cell, worker)
        waiting = iter(self._waiting())
        for place in range(len(self._shares)):
            while place not in self._running and (following := next(waiting, None)):
                self._start(place, following)
        self._watcher.show(self.news())
        return bool(self._running)

    def _waiting(self) -> list[Cell]:
        """The cells to be started, those that someone else is at last: most likely they will be found."""
        cells = [cell for cell in self.cells if cell.status == "waiting"]
        if len(self._running) == len(self._shares):
            return []
        return sorted(cells, key=lambda cell: is_run_locked(self._workspace, cell.run))

    def _start(self, place: int, cell: Cell) -> None:
        """A process for the cell, unless someone else has finished it in the meantime."""
        look(cell, self._workspace)
        if cell.status in DONE:
            return
        # What is there now and is not whole stands in the way of a run.
        force = (self._workspace.runs / cell.run).exists()
        worker = Worker(cell.request, self._workspace, self._shares[place], force=force)
        self._running[place] = cell, worker
        cell.status, cell.reason, cell.found, cell.seconds = "running", "", False, 0.0
        cell.now = worker.now

    def _note(self, cell: Cell, worker: Worker) -> None:
        """Writes down what became of the cell whose process has ended."""
        code = worker.ended()
        if code == 0:
            forget_failure(self._workspace, cell.run)
        look(cell, self._workspace)
        cell.now, cell.seconds, cell.found = "", worker.seconds(), False
        if cell.status in DONE:  # whoever has finished it
            forget_failure(self._workspace, cell.run)
            return
        cell.reason = (cell.reason if code == 0 else "") or worker.reason()
        cell.status = "missing" if worker.missing() else "failed"
        write_failure(self._workspace, cell.run, cell.request, cell.reason, code, cell.status)

    def _end(self) -> None:
        """Stops what is running; what came to its end by then is kept, the rest waits for the next time."""
        self.stopped = bool(self._interrupts.count)
        stop([worker for _, worker in self._running.values()], self._interrupts)
        for cell, worker in self._running.values():
            if worker.ended() == 0:
                self._note(cell, worker)
            else:
                cell.status, cell.now, cell.seconds = "waiting", "", None
        self._running.clear()
