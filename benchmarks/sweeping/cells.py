"""The cells of a plan, checked before the first one starts, and what became of each so far."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from whalebench import WhalebenchError
from whalebench.benchmarks.progress import SILENT, CellNews, CellStatus, Progress
from whalebench.benchmarks.record import read_record
from whalebench.benchmarks.registry import load_benchmark
from whalebench.benchmarks.runner import RunRequest, check_seed, run_name
from whalebench.benchmarks.sweeping.failures import read_failure
from whalebench.benchmarks.sweeping.plan import Plan
from whalebench.benchmarks.workspace import Workspace
from whalebench.methods.registry import configure, find_method

if TYPE_CHECKING:
    import torch

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
