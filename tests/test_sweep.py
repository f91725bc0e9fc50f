"""A sweep: what it runs, finds, fails and tries again; most of its processes only play the part of a run."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from whalebench import WhalebenchError
from whalebench.benchmarks.core.progress import CellState, SweepState
from whalebench.benchmarks.core.workspace import Workspace, run_lock
from whalebench.benchmarks.launching.launcher import Job
from whalebench.benchmarks.running import workers
from whalebench.benchmarks.running.runner import RunRequest
from whalebench.benchmarks.running.workers import Share, Worker, WorkerPool, local_launcher
from whalebench.benchmarks.sweeping.plan import Plan, contestants_of
from whalebench.benchmarks.sweeping.sweep import Sweep, prepare
from whalebench.reports.many_runs import sweep_report

TINY = ("backbone=test_resnet", "size=32", "epochs=2", "batch_size=8")
STAND_IN = """
import json, os, shutil, signal, sys, time
roles, source, targets = map(json.loads, sys.argv[1:4])
words = sys.argv[4:]
seed = words[words.index("--seed") + 1]
role = roles.get(seed, "finish")
def say(line): print(line, file=sys.stderr, flush=True)
say(f"Training in process {os.getpid()}")
say("epoch 1/2  loss 0.5")
if role == "fail":
    say("Error: the loss is not a number: lower the learning rate.")
    sys.exit(1)
if role == "lack":
    say("Missing: weights cannot be had from the hub: check the network connection.")
    sys.exit(1)
if role == "nothing":
    sys.exit(0)
if role == "long":
    time.sleep(60)
if role == "deaf":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    say("deaf now")
    time.sleep(60)
if role == "cores":
    say("Error: " + ",".join(map(str, sorted(os.sched_getaffinity(0)))) + " " + os.environ["OMP_NUM_THREADS"])
    sys.exit(1)
if "--force" in words:
    shutil.rmtree(targets[seed])
shutil.copytree(source, targets[seed])
if role == "late":
    say("Error: the run cannot be written.")
    sys.exit(1)
"""
"""What stands in for the command line: it plays the role of its seed; a finished run is copied."""

Roles = dict[int, str]
"""By seed, what the process does."""


Show = Callable[[SweepState], None]


@pytest.fixture
def place(shared_tiny: Workspace) -> Iterator[Workspace]:
    """The shared workspace, with its one finished run of softmax (seed 0) and no other after the test."""
    before = {folder.name for folder in shared_tiny.runs.iterdir()}
    yield shared_tiny
    for folder in shared_tiny.runs.iterdir():
        if folder.name not in before:
            shutil.rmtree(folder)
    shutil.rmtree(shared_tiny.cache / "failed", ignore_errors=True)


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch, place: Workspace) -> Callable[[Roles], None]:
    """Says which roles the processes of a sweep play from now on; any other seed finishes."""
    cells = prepare(plan(0, 1, 2, 3), local_launcher(1, "cpu"), place)
    runs = {cell.seed: str(place.runs / cell.run) for cell in cells}

    def cast(roles: Roles) -> None:
        facts = (roles, runs[0], runs)
        program = (sys.executable, "-I", "-S", "-c", STAND_IN, *map(json.dumps, facts))
        monkeypatch.setattr(workers, "PROGRAM", program)

    cast({})
    return cast


def plan(*seeds: int) -> Plan:
    return Plan(contestants_of(["softmax"], TINY), "tiny", (0,), seeds)


def sweep(
    place: Workspace, *seeds: int, show: Show = lambda state: None, jobs: int = 1, retry: bool = False
) -> Sweep:
    launcher = local_launcher(jobs, "cpu")
    sweeping = Sweep(prepare(plan(*seeds), launcher, place), launcher, place, show)
    sweeping.run(retry=retry)
    return sweeping


def start(pool: WorkerPool, place: Workspace) -> Worker:
    return pool.launch(Job("run", RunRequest("softmax", "tiny", seed=1), place))


def process_of(cell: CellState) -> int | None:
    """The number of the process that is in an epoch of the cell."""
    told = re.fullmatch(r"Training in process (\d+), epoch 1/2", cell.activity)
    return int(told[1]) if told else None


def statuses(one: Sweep) -> list[str]:
    return [cell.status for cell in one.cells]


def left(place: Workspace) -> list[str]:
    """The sentences of failed runs in the workspace."""
    files = sorted((place.cache / "failed").glob("*.json"))
    return [json.loads(file.read_text(encoding="utf-8"))["reason"] for file in files]


# --- with the run itself


def test_one_command_runs_what_is_missing_and_prints_the_leaderboard(
    place: Workspace, cli: Callable[..., Any]
) -> None:
    settings = [f"--set={setting}" for setting in TINY]
    words = ("sweep", "softmax", "softmax", "--benchmark", "tiny", "--seeds", "0-1", *settings)
    words = (*words, "--device", "cpu", "--jobs", "2", "--workspace", place.root)
    first = cli(*words, "--json")
    assert first.code == 0, first.err
    document = json.loads(first.out)
    cells = document["cells"]
    assert [(cell["seed"], cell["status"], cell["found"]) for cell in cells] == [
        (0, "finished", True),
        (1, "finished", False),
    ]
    assert all((place.runs / cell["run"] / "record.json").is_file() for cell in cells)
    assert cells[1]["seconds"] > 0
    assert [row["run"] for row in document["rows"]] and len(document["summary"]) == 1
    assert document["summary"][0]["seeds"] == [2, 2]
    assert document["summary"][0]["seed_spread"] is not None
    picture = place.root / "board.svg"
    shown = cli(*words, "--svg", picture)
    assert shown.code == 0
    assert "softmax" in picture.read_text(encoding="utf-8")
    picture.unlink()
    for word in ("A –", "2 × 1", "2 of 2 done (2 of them before)", "Wall time"):
        assert word in shown.out


# --- with a stand-in


def test_a_failed_cell_keeps_its_reason_and_is_tried_again_only_when_asked(
    place: Workspace, play: Callable[[Roles], None]
) -> None:
    play({1: "fail"})
    assert statuses(first := sweep(place, 1, 2)) == ["failed", "finished"]
    assert first.cells[0].reason == "the loss is not a number: lower the learning rate."
    assert left(place) == [first.cells[0].reason]
    play({})
    again = sweep(place, 1, 2)
    assert statuses(again) == ["failed", "finished"]
    assert [cell.ended_before for cell in again.cells] == [True, True]
    assert again.cells[0].reason == first.cells[0].reason
    assert statuses(sweep(place, 1, 2, retry=True)) == ["finished", "finished"]
    assert left(place) == []


def test_a_cell_that_another_process_finished_is_finished_though_its_own_failed(
    place: Workspace, play: Callable[[Roles], None]
) -> None:
    play({1: "late"})
    (cell,) = sweep(place, 1).cells
    assert (cell.status, cell.reason, cell.ended_before) == ("finished", "", False)
    assert left(place) == []


def test_cells_that_someone_is_at_come_last(place: Workspace, play: Callable[[Roles], None]) -> None:
    order: list[str] = []

    def note(state: SweepState) -> None:
        order.extend(cell.run for cell in state.cells if cell.status == "running" and cell.run not in order)

    cells = prepare(plan(1, 2, 3), local_launcher(1, "cpu"), place)
    with run_lock(place, cells[0].run, lambda: None):
        sweep(place, 1, 2, 3, show=note)
    assert order == [cells[1].run, cells[2].run, cells[0].run]


def test_a_process_that_leaves_no_run_has_failed(place: Workspace, play: Callable[[Roles], None]) -> None:
    play({1: "nothing"})
    (cell,) = sweep(place, 1).cells
    assert cell.status == "failed"
    assert "exit code 0, without a record" in cell.reason


def test_a_killed_process_is_a_failed_cell_and_the_others_go_on(
    place: Workspace, play: Callable[[Roles], None]
) -> None:
    play({1: "long"})

    def kill(state: SweepState) -> None:
        if process := process_of(state.cells[0]):
            os.kill(process, signal.SIGKILL)

    killed = sweep(place, 1, 2, show=kill)
    assert statuses(killed) == ["failed", "finished"]
    assert killed.cells[0].reason == "killed by signal 9: out of memory?"
    assert left(place) == [killed.cells[0].reason]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_stops_and_the_same_command_goes_on(
    place: Workspace, play: Callable[[Roles], None], number: signal.Signals
) -> None:
    play({1: "long"})
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests run in the background
    asked: list[int] = []

    def interrupt(state: SweepState) -> None:
        if not asked and (process := process_of(state.cells[0])):
            asked.append(process)
            os.kill(os.getpid(), number)

    try:
        stopped = sweep(place, 1, 2, show=interrupt)
    finally:
        signal.signal(signal.SIGINT, before)
    assert stopped.stopped
    assert statuses(stopped) == ["waiting", "waiting"]
    assert left(place) == []
    with pytest.raises(ProcessLookupError):
        os.kill(asked[0], 0)
    play({})
    assert statuses(sweep(place, 1, 2)) == ["finished", "finished"]


def test_a_process_that_does_not_listen_is_killed(place: Workspace, play: Callable[[Roles], None]) -> None:
    play({1: "deaf"})
    with WorkerPool([Share(1)]) as pool:
        worker = start(pool, place)
        while worker.activity != "deaf now":
            assert worker.exit_code() is None
            time.sleep(0.02)
        assert not pool.has_room()
        pool.stop(patience=0.2)
    assert worker.exit_code() == -signal.SIGKILL
    assert pool.has_room()


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="cores are not shared out here")
def test_a_process_is_on_the_cores_of_its_share_alone(
    place: Workspace, play: Callable[[Roles], None]
) -> None:
    play({1: "cores"})
    ours = os.sched_getaffinity(0)
    one = max(ours)
    with WorkerPool([Share(1, (one,))]) as pool:
        worker = start(pool, place)
        while pool.running():
            time.sleep(0.02)
    assert worker.reason() == f"{one} 1"
    assert os.sched_getaffinity(0) == ours


def test_what_someone_else_finished_meanwhile_is_not_repeated(
    place: Workspace, play: Callable[[Roles], None]
) -> None:
    launcher = local_launcher(1, "cpu")
    cells = prepare(plan(1, 2), launcher, place)
    (cell,) = prepare(plan(0), local_launcher(1, "cpu"), place)
    finished = place.runs / cell.run
    late = Sweep(cells, launcher, place, lambda state: None)
    for cell in cells:
        shutil.copytree(finished, place.runs / cell.run)
    play({1: "fail", 2: "fail"})
    late.run()
    assert [(cell.status, cell.ended_before) for cell in cells] == [("finished", True)] * 2


def test_a_run_that_is_damaged_is_failed_and_may_be_tried_again(
    place: Workspace, play: Callable[[Roles], None]
) -> None:
    (cell,) = prepare(plan(1), local_launcher(1, "cpu"), place)
    folder = place.runs / cell.run
    folder.mkdir()
    (folder / "record.json").write_text("{", encoding="utf-8")
    (cell,) = sweep(place, 1).cells
    assert cell.status == "failed" and "is not JSON" in cell.reason
    assert statuses(sweep(place, 1, retry=True)) == ["finished"]  # over what is there


def test_an_error_of_the_watcher_leaves_no_process(place: Workspace, play: Callable[[Roles], None]) -> None:
    play({1: "long"})
    processes: list[int] = []

    def broken(state: SweepState) -> None:
        if process := process_of(state.cells[0]):
            processes.append(process)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        sweep(place, 1, show=broken)
    with pytest.raises(ProcessLookupError):
        os.kill(processes[0], 0)
    assert threading.current_thread() is threading.main_thread()


def test_everything_is_checked_before_the_first_cell_starts(
    place: Workspace, cli: Callable[..., Any]
) -> None:
    wrong = {
        "There is no method 'softmaxx'": ("softmax", "softmaxx"),
        "has no field 'epoch'": ("softmax", "--set", "epoch=1"),
        "'7'": ("softmax", "--folds", "0,7"),
        "no benchmark 'tin'": ("softmax", "--benchmark", "tin"),
        "--jobs 0": ("softmax", "--jobs", "0"),
        "seed 9999999999": ("softmax", "--seeds", "9999999999"),
        "device 'warp'": ("softmax", "--device", "warp"),
        "no method to sweep": (),
    }
    before = sorted(place.runs.iterdir())
    for said, words in wrong.items():
        benchmark = () if "--benchmark" in words else ("--benchmark", "tiny")
        answer = cli("sweep", *words, *benchmark, "--workspace", place.root)
        assert answer.code == 2, (said, answer)
        assert said.strip("'") in answer.err
    assert sorted(place.runs.iterdir()) == before


def test_a_dry_run_starts_nothing(
    place: Workspace, cli: Callable[..., Any], play: Callable[[Roles], None]
) -> None:
    play({1: "fail"})
    settings = [f"--set={setting}" for setting in TINY]
    words = (
        "sweep",
        "softmax",
        "--benchmark",
        "tiny",
        "--seeds",
        "0-1",
        "--dry-run",
        "--device",
        "cpu",
        *settings,
    )
    answer = cli(*words, "--json", "--workspace", place.root)
    assert answer.code == 0, answer.err
    assert [cell["status"] for cell in json.loads(answer.out)["cells"]] == ["finished", "waiting"]
    shown = cli(*words, "--workspace", place.root).out
    assert "Nothing was started" in shown
    assert sum(line.split()[-1:] in (["finished"], ["waiting"]) for line in shown.splitlines()) == 2


def test_a_run_is_named_by_what_it_is_run_with_and_steps_that_share_one_are_told(
    place: Workspace, cli: Callable[..., Any], tmp_path: Path
) -> None:
    step = '[[methods]]\nname = "softmax"\nsettings = {{ {} }}\n'
    steps = ("epochs = 1", "epochs = 3", 'epochs = 1, crop = "box"')
    file = tmp_path / "steps.toml"
    file.write_text("".join(step.format(settings) for settings in steps), encoding="utf-8")
    settings = [f"--set={setting}" for setting in TINY]
    words = ("sweep", "--plan", file, "--benchmark", "tiny", "--device", "cpu", "--dry-run", *settings)
    answer = cli(*words, "--workspace", place.root)
    assert answer.code == 0, answer.err
    said = "! 1 step of the plan asks for the same run as another, because --set gives them the same fields: "
    assert answer.err.count(f"{said}{' '.join(TINY)}.") == answer.err.count("asks for the same run") == 1
    assert "softmax crop=box" in answer.out and "epochs=" not in answer.out
    document = json.loads(cli(*words, "--json", "--workspace", place.root).out)
    assert [cell["settings"] for cell in document["cells"]] == [[*TINY], ["crop=box", *TINY]]


def test_the_exit_code_says_that_a_cell_failed(
    place: Workspace, cli: Callable[..., Any], play: Callable[[Roles], None]
) -> None:
    play({1: "fail"})
    settings = [f"--set={setting}" for setting in TINY]
    words = ("sweep", "softmax", "--benchmark", "tiny", "--seeds", "0-1", "--device", "cpu", *settings)
    answer = cli(*words, "--workspace", place.root)
    assert answer.code == 1
    assert "softmax, fold 0 seed 1 failed: the loss is not a number" in answer.out
    assert "softmax, fold 0 seed 1: starts" in answer.err
    with pytest.raises(WhalebenchError, match="from one to 1,000 processes"):
        local_launcher(0, "cpu")


def test_cells_that_failed_for_one_reason_share_a_line() -> None:
    failed = [
        CellState("softmax", 0, seed, f"run{seed}", "failed", reason=reason)
        for seed, reason in enumerate(("too hot", "too hot", "too cold"))
    ]
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(sweep_report(SweepState(tuple(failed), None), None, 1.0))
    said = [line for line in console.export_text().splitlines() if line.startswith("!")]
    assert said == [
        "! softmax, fold 0 seed 0 (and 1 more) failed: too hot",
        "! softmax, fold 0 seed 2 failed: too cold",
    ]


def test_what_this_machine_lacks_is_no_failure_and_is_tried_again_when_asked(
    place: Workspace, play: Callable[[Roles], None]
) -> None:
    play({3: "lack"})
    first = sweep(place, 3)
    assert statuses(first) == ["missing"]
    assert first.failed() == []
    assert first.cells[0].reason.startswith("weights cannot be had")
    again = sweep(place, 3)
    assert (statuses(again), again.cells[0].ended_before) == (["missing"], True)
    play({3: "finish"})
    assert statuses(sweep(place, 3, retry=True)) == ["finished"]
    assert left(place) == []
