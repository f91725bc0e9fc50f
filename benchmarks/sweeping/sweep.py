"""The loop of a sweep: cells to free shares of the machine, and what became of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from whalebench.benchmarks.machine import choose_device
from whalebench.benchmarks.progress import SILENT, Progress, SweepNews, SweepWatcher
from whalebench.benchmarks.runs.claim import is_claimed
from whalebench.benchmarks.sweeping.cells import DONE, Cell, cells_of, look
from whalebench.benchmarks.sweeping.estimate import seconds_left
from whalebench.benchmarks.sweeping.failures import forget_failure, write_failure
from whalebench.benchmarks.sweeping.plan import Plan
from whalebench.benchmarks.sweeping.shares import Share, shares
from whalebench.benchmarks.sweeping.stopping import PAUSE, Interrupts, stop
from whalebench.benchmarks.sweeping.workers import Worker
from whalebench.benchmarks.workspace import Workspace


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
        return sorted(cells, key=lambda cell: is_claimed(self._workspace, cell.run))

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
