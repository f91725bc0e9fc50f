"""A sweep: the cells of a plan, each a run that a launcher starts, and what became of them.

Everything is checked before the first cell starts. A failed run leaves nothing behind, so why it failed is
kept in the workspace's cache until the run succeeds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

from whalebench import WhalebenchError
from whalebench.benchmarks.core.files import differs_from_digest, parse_json, with_digest
from whalebench.benchmarks.core.progress import SILENT, CellState, CellStatus, Progress, SweepState
from whalebench.benchmarks.core.record import RunRecord, read_record, read_runs
from whalebench.benchmarks.core.workspace import Workspace, atomic_text, is_run_locked
from whalebench.benchmarks.launching.launcher import Job, Launcher, Task
from whalebench.benchmarks.presets import suits
from whalebench.benchmarks.registry import load_benchmark
from whalebench.benchmarks.running import workers
from whalebench.benchmarks.running.runner import RunRequest, check_seed, code_of, resolved, run_name
from whalebench.benchmarks.sweeping.plan import Contestant, Plan
from whalebench.methods.method import MethodConfig
from whalebench.methods.registry import configure, find_method

ALIKE = ("code_digest", "catalog_digest", "split_digest", "tuning")
"""In what the finished runs of a contestant are equal."""


@dataclass(kw_only=True)
class Cell(CellState):
    """One cell of a sweep with the run that it asks for."""

    request: RunRequest

    @property
    def is_done(self) -> bool:
        """Whether there is an answer: a score, or that the method does not fit."""
        return self.status in ("finished", "unfit")

    def facts(self) -> dict[str, Any]:
        """What it asks for, as JSON says it."""
        names = ("method", "settings", "benchmark", "fold", "seed")
        return {name: getattr(self.request, name) for name in names}

    def document(self) -> dict[str, Any]:
        """The cell as `sweep --json` prints it."""
        return self.facts() | {
            "status": self.status,
            "found": self.ended_before,
            "run": self.run,
            "reason": self.reason,
            "seconds": None if self.seconds is None else round(self.seconds, 1),
        }


class FailureLog:
    """Why runs failed: a file for each in the workspace's `cache/failed`, until it succeeds."""

    def __init__(self, workspace: Workspace) -> None:
        self._folder = workspace.cache / "failed"

    def read(self, run: str) -> tuple[CellStatus, str] | None:
        """What the last try of the run came to, failed or missing, and why; None where nothing is known."""
        try:
            facts = parse_json(self._file(run).read_bytes())
        except (OSError, ValueError):  # none, or one that cannot be read: then the run is simply tried again
            return None
        if not isinstance(facts, dict) or not facts.get("reason") or differs_from_digest(facts):
            return None
        return "missing" if facts.get("status") == "missing" else "failed", str(facts["reason"])

    def write(self, cell: Cell, exit_code: int | None) -> None:
        """Keeps what the cell asked for, why it failed, and the exit code."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        facts = {"run": cell.run, "status": cell.status} | cell.facts()
        facts |= {"reason": cell.reason, "exit_code": exit_code, "created": now}
        text = json.dumps(with_digest(facts), indent=2, ensure_ascii=False)
        atomic_text(self._file(cell.run), text + "\n")

    def forget(self, run: str) -> None:
        """Removes what is kept of the run."""
        self._file(run).unlink(missing_ok=True)

    def _file(self, run: str) -> Path:
        return self._folder / f"{run}.json"


def prepare(
    plan: Plan, launcher: Launcher, workspace: Workspace, progress: Progress = SILENT
) -> tuple[Cell, ...]:
    """The cells of a plan, one seed of every fold before the next seed, for the device of the launcher.

    Raises WhalebenchError for a method, setting, fold, seed or benchmark that is not there. The
    benchmark is drawn and split here, so that no two processes do it. A run that two contestants ask for is
    one cell, by the name of the first.
    """
    requests = _requests(plan, launcher, workspace, progress)
    configured = [(each, request, *_configured(request)) for each, request in requests.items()]
    for seed in plan.seeds:
        check_seed(seed)
    benchmark = load_benchmark(plan.benchmark, workspace, progress, propose=True)
    for fold in plan.folds:
        benchmark.split.parts(fold)
    names = _names(plan)
    cells: dict[str, Cell] = {}
    for seed, fold, (contestant, asked, config, code) in product(plan.seeds, plan.folds, configured):
        request = replace(asked, fold=fold, seed=seed)
        run = run_name(request, config, benchmark, launcher.device_type, code)
        cells.setdefault(run, Cell(names[contestant], fold, seed, run, request=request))
    for cell in cells.values():
        update_status(cell, workspace)
    return tuple(cells.values())


def finished_runs(plan: Plan, workspace: Workspace) -> dict[str, list[RunRecord]]:
    """By contestant of the plan, in its order, its finished runs, on whatever device.

    Of a contestant that ran with several codes or splits, or was tuned, too, they are those like the newest.
    Raises WhalebenchError for a plan with a preset, and for a contestant that has no run.
    """
    if plan.preset:
        raise WhalebenchError(
            f"A plan with the preset {plan.preset} cannot be compared as a ladder, as it asks something else "
            f"of each machine and benchmark: name the runs, as `whalebench compare RUN RUN RUN`."
        )
    there = [run for run in read_runs(workspace.runs).records if run.benchmark == plan.benchmark]
    there = [run for run in there if run.fold in plan.folds and run.seed in plan.seeds and not run.unfit]
    found = {}
    for contestant, name in _names(plan).items():
        asked = resolved(RunRequest(contestant.method, settings=contestant.settings), workspace)
        config = configure(find_method(asked.method), asked.settings).model_dump(mode="json")
        runs = [run for run in there if run.method == asked.method and run.config == config]
        if not runs:
            raise WhalebenchError(f"No run of {name} on {plan.benchmark} is finished: sweep the plan first.")
        newest = max(runs, key=lambda run: run.created)
        found[name] = [
            run for run in runs if all(getattr(run, what) == getattr(newest, what) for what in ALIKE)
        ]
    return found


def _names(plan: Plan) -> dict[Contestant, str]:
    """What each contestant is called: its method and the settings that are not those of all."""
    common = set[str].intersection(*(set(each.settings) for each in plan.contestants))
    return {
        each: " ".join([each.method, *(setting for setting in each.settings if setting not in common)])
        for each in plan.contestants
    }


def _requests(
    plan: Plan, launcher: Launcher, workspace: Workspace, progress: Progress
) -> dict[Contestant, RunRequest]:
    """What each contestant asks for, by the plan's preset where that suits it.

    Raises WhalebenchError for a preset that suits none of them.
    """
    suited = [bool(plan.preset) and suits(plan.preset, find_method(each.method)) for each in plan.contestants]
    asked = {}
    for each, is_suited in zip(plan.contestants, suited, strict=True):
        preset = plan.preset if is_suited or not any(suited) else ""
        request = RunRequest(
            each.method, plan.benchmark, settings=each.settings, device=launcher.device, preset=preset
        )
        asked[each] = resolved(request, workspace, progress, launcher.device_type)
    return asked


def _configured(request: RunRequest) -> tuple[MethodConfig, str]:
    """The configuration that is asked for, and the digest of its code."""
    kind = find_method(request.method)
    config = configure(kind, request.settings)
    return config, code_of(kind, config).digest


def update_status(cell: Cell, workspace: Workspace) -> None:
    """Sets what the workspace says of the cell: finished, unfit, missing or failed, else waiting."""
    folder = workspace.runs / cell.run
    failure = FailureLog(workspace).read(cell.run)
    cell.status, cell.reason, cell.ended_before = (*failure, True) if failure else ("waiting", "", False)
    if not folder.exists():
        return
    cell.ended_before = True
    try:
        record = read_record(folder)
    except WhalebenchError as error:
        cell.status, cell.reason = "failed", str(error)
        return
    cell.status, cell.reason = "unfit" if record.unfit else "finished", record.unfit
    cell.seconds = sum(record.seconds.values())


class Sweep:
    """Runs cells by a launcher, as many at a time as it has room for.

    `show` is called several times a second with how the sweep stands.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        launcher: Launcher,
        workspace: Workspace,
        show: Callable[[SweepState], None],
        limit: float | None = None,
    ) -> None:
        """Each run may take so many seconds, if there is a limit."""
        self.cells, self.seconds, self.stopped = cells, 0.0, False
        self._workspace, self._show, self._limit = workspace, show, limit
        self._failures, self._launcher = FailureLog(workspace), launcher
        self._running: dict[str, tuple[Cell, Task]] = {}
        """By the name of the run."""

    def run(self, *, retry: bool = False) -> None:
        """Runs each waiting cell, failed ones too with retry, until Ctrl-C, SIGTERM or SIGHUP.

        Then `stopped` is true, and what its runs had finished is kept.
        """
        started = time.monotonic()
        for cell in self.cells:
            if cell.is_done:
                self._failures.forget(cell.run)  # of a try before it was run by hand
            elif retry and cell.status in ("missing", "failed"):
                cell.status, cell.reason, cell.ended_before = "waiting", "", False
        with self._launcher:
            try:
                while self._step() and not self._launcher.interrupts:
                    time.sleep(workers.PAUSE)
            finally:  # on an error too, no process stays behind
                self._end()
        self.seconds = time.monotonic() - started
        self._show(self.state())

    def state(self) -> SweepState:
        """How the sweep stands now."""
        return SweepState(self.cells, seconds_left(self.cells, self._launcher.at_work()))

    def failed(self) -> list[Cell]:
        """The cells that have failed, in this sweep or before it."""
        return [cell for cell in self.cells if cell.status == "failed"]

    def document(self) -> dict[str, Any]:
        """The sweep as `sweep --json` prints it, without its leaderboard."""
        facts = {"seconds": round(self.seconds, 1), "jobs": self._launcher.jobs, "stopped": self.stopped}
        return facts | {"cells": [cell.document() for cell in self.cells]}

    def _step(self) -> bool:
        """Closes cells whose process has ended, starts waiting ones, and says whether any is running."""
        for cell, task in list(self._running.values()):
            cell.activity, cell.seconds = task.activity, task.seconds()
            if self._limit is not None and task.is_running() and cell.seconds > self._limit:
                task.end(workers.over_limit(cell.request.method, cell.run, self._limit, self._workspace))
            if not task.is_running():
                del self._running[cell.run]
                self._close(cell, task)
        while self._launcher.has_room() and (following := self._next()):
            self._start(following)
        self._show(self.state())
        return bool(self._running)

    def _next(self) -> Cell | None:
        """A waiting cell, those that another process is at last: most likely they will be found finished."""
        waiting = (cell for cell in self.cells if cell.status == "waiting")
        return min(waiting, key=lambda cell: is_run_locked(self._workspace, cell.run), default=None)

    def _start(self, cell: Cell) -> None:
        """Starts a run for the cell, unless another one has finished it in the meantime."""
        update_status(cell, self._workspace)
        if cell.is_done:
            return
        # What is there now and is not whole stands in the way of a run.
        force = ("--force",) if (self._workspace.runs / cell.run).exists() else ()
        options = ("--json", "--progress", *force)
        task = self._launcher.launch(Job("run", cell.request, self._workspace, options, (cell.run,)))
        self._running[cell.run] = cell, task
        cell.status, cell.reason, cell.ended_before = "running", "", False
        cell.seconds, cell.activity = 0.0, task.activity

    def _close(self, cell: Cell, task: Task) -> None:
        """Sets what became of the cell whose task has ended, and keeps why it failed."""
        code = task.exit_code()
        if code == 0:
            self._failures.forget(cell.run)
        update_status(cell, self._workspace)
        cell.activity, cell.seconds, cell.ended_before = "", task.seconds(), False
        if cell.is_done:  # whoever has finished it
            self._failures.forget(cell.run)
            return
        cell.reason = (cell.reason if code == 0 else "") or task.reason()
        cell.status = "missing" if task.is_missing() else "failed"
        self._failures.write(cell, code)

    def _end(self) -> None:
        """Stops what is running; what came to its end by then is kept, the rest waits for the next time."""
        self.stopped = bool(self._launcher.interrupts)
        self._launcher.stop()
        for cell, task in self._running.values():
            if task.exit_code() == 0:
                self._close(cell, task)
            else:
                cell.status, cell.activity, cell.seconds = "waiting", "", None
        self._running.clear()


def seconds_left(cells: Sequence[CellState], jobs: int) -> float | None:
    """Seconds until the last cell ends with so many at a time; None where none has finished to go by.

    A cell is taken to need the mean of the finished ones of its contestant, else of all.
    """
    remaining = [cell for cell in cells if cell.status in ("waiting", "running")]
    if not remaining:
        return 0.0
    taken: dict[str, list[float]] = {}
    for cell in cells:
        if cell.status == "finished" and cell.seconds is not None:
            taken.setdefault(cell.contestant, []).append(cell.seconds)
    if not taken:
        return None
    overall = fmean(seconds for group in taken.values() for seconds in group)

    def left(cell: CellState) -> float:
        needed = fmean(taken[cell.contestant]) if cell.contestant in taken else overall
        return max(needed - (cell.seconds or 0.0), 0.0) if cell.status == "running" else needed

    each = [left(cell) for cell in remaining]
    return max(*each, sum(each) / jobs)
