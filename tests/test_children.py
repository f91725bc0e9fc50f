"""No child outlives what started it: workers and what they start end with the pool, however that ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from whalebench import RunFailedError, WhalebenchError
from whalebench.benchmarks.core.durations import read_duration
from whalebench.benchmarks.core.machine import PARENT
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.running import workers
from whalebench.benchmarks.running.workers import Share, WorkerPool, over_limit, run_within
from whalebench.tests.test_guests import install, is_alive

ENDS_WITHIN = 5.0
"""Seconds from the end of what started them to that of the last child."""
CHILD = """
import os, pathlib, signal, subprocess, sys, time
folder, patient = pathlib.Path(sys.argv[1]), sys.argv[2] == "deaf"
if patient:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
nap = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(90)"
grandchild = subprocess.Popen([sys.executable, "-I", "-S", "-c", nap])
(folder / f"{os.getpid()}").touch()
(folder / f"{grandchild.pid}").touch()
time.sleep(0 if sys.argv[2] == "brief" else 90)
"""
"""A worker that has a child of its own, and names both by files."""
POOL = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests run in the background
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # or by nohup
from whalebench.benchmarks.running import workers
workers.PROGRAM = (sys.executable, "-I", "-S", "-c", sys.argv[1])
with workers.WorkerPool([workers.Share(1), workers.Share(1)]) as pool:
    for conduct in ("heeds", "deaf"):
        pool.start([sys.argv[2], conduct])
    while pool.running() and not pool.interrupts:
        time.sleep(0.05)
"""
"""A process with a pool of two workers, as a sweep is one."""


def wait_for(condition: Callable[[], bool], seconds: float) -> float:
    """Seconds until that was so; fails when they are over."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "it did not come to that"
        time.sleep(0.02)
    return time.monotonic() - began


def named(folder: Path) -> list[int]:
    return [int(file.name) for file in folder.iterdir()]


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A process with a pool that is at work, and the folder that names its children and theirs."""
    folder = tmp_path / "children"
    folder.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", POOL, CHILD, str(folder)], start_new_session=True, stderr=subprocess.DEVNULL
    )
    try:
        wait_for(lambda: len(named(folder)) == 4, 120)
        yield process, folder
    finally:
        process.kill()
        process.wait()
        for child in named(folder):
            if is_alive(child):
                os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("name", ["SIGHUP", "SIGINT", "SIGTERM", "SIGKILL"])
def test_no_worker_and_nothing_it_started_works_on(
    pool: tuple[subprocess.Popen[bytes], Path], name: str
) -> None:
    process, folder = pool
    assert all(map(is_alive, named(folder)))
    process.send_signal(getattr(signal, name))
    taken = wait_for(lambda: not any(map(is_alive, named(folder))), 30)
    assert taken < ENDS_WITHIN
    # Whoever can tidies up; one that is killed leaves it to its watcher.
    assert process.wait(30) == (-signal.SIGKILL if name == "SIGKILL" else 0)


def test_what_a_worker_leaves_running_is_ended_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "PROGRAM", (sys.executable, "-I", "-S", "-c", CHILD))
    with WorkerPool([Share(1)]) as pool:
        worker = pool.start([str(tmp_path), "brief"])
        wait_for(lambda: not worker.is_running(), 60)
        wait_for(lambda: not any(map(is_alive, named(tmp_path))), 5)
        assert len(named(tmp_path)) == 2
        assert worker.exit_code() == 0


def test_a_worker_whose_parent_is_gone_when_it_starts_ends_at_once(tmp_path: Path) -> None:
    call = [sys.executable, "-m", "whalebench", "--version"]
    for parent, code in ((str(os.getpid()), 0), ("1234567", 1)):
        ended = subprocess.run(
            call, env=os.environ | {PARENT: parent}, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert (ended.returncode, bool(ended.stdout)) == (code, not code)


DRAWERS = """
import os, pathlib, sys, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from whalebench.benchmarks.core.machine import end_with_parent
if __name__ == "__main__":
    with ProcessPoolExecutor(2, get_context("spawn"), end_with_parent) as pool:
        for number in {pool.submit(os.getpid).result() for _ in range(9)}:
            (pathlib.Path(sys.argv[1]) / str(number)).touch()
        (pathlib.Path(sys.argv[1]) / str(os.getpid())).touch()
        time.sleep(90)
"""
"""A process with a pool of the standard library's, whose workers wait for work."""


def test_a_pool_that_waits_for_work_ends_with_the_process_that_is_killed(tmp_path: Path) -> None:
    script, folder = tmp_path / "drawers.py", tmp_path / "children"
    script.write_text(DRAWERS)
    folder.mkdir()
    process = subprocess.Popen([sys.executable, str(script), str(folder)])
    wait_for(lambda: process.pid in named(folder), 120)
    process.kill()
    process.wait()
    wait_for(lambda: not any(map(is_alive, named(folder))), ENDS_WITHIN)
    assert len(named(folder)) >= 2


# --- a limit of time


def test_a_command_that_takes_too_long_is_ended_whatever_it_is_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "PROGRAM", (sys.executable, "-I", "-S", "-c", CHILD))
    began = time.monotonic()
    with pytest.raises(RunFailedError, match="it was too slow"):
        run_within(1.5, [str(tmp_path), "deaf"], lambda: "it was too slow")
    assert time.monotonic() - began < 1.5 + ENDS_WITHIN
    wait_for(lambda: not any(map(is_alive, named(tmp_path))), ENDS_WITHIN)
    assert run_within(60, [str(tmp_path), "brief"], lambda: "it was too slow") == 0
    monkeypatch.setattr(workers, "PROGRAM", (sys.executable, "-I", "-S", "-c", "import sys; sys.exit(3)"))
    assert run_within(60, [], lambda: "it was too slow") == 3


HANGS = """
import ctypes, time
from whalebench.methods.method import Method, MethodConfig

class Plugin(Method):
    "Sleeps in C with the lock of the interpreter held, so that no code of Python runs any more."
    name, summary, source, Config = "hangs", "never ends", "nowhere", MethodConfig

    def learn(self, train, valid, harness):
        ctypes.PyDLL(None).sleep(600)

    def score(self, photos):
        return None
"""


def test_a_method_that_hangs_in_c_is_a_failed_run_and_a_failed_cell(
    tmp_path: Path, shared_tiny: Workspace, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{install(tmp_path, HANGS, 'hangs', module='guest_hangs')}{os.pathsep}"
                       + os.environ.get("PYTHONPATH", ""))  # fmt: skip
    monkeypatch.syspath_prepend(str(tmp_path))
    place = ("--benchmark", "tiny", "--workspace", shared_tiny.root)
    said = (
        "hangs was ended after 6 s (--time-limit). Asked for again it had kept nothing yet, and begins anew"
    )
    answer = cli("run", "hangs", "--time-limit", "6s", *place)
    assert answer.code == 1
    assert answer.err.splitlines()[-1].startswith(f"Error: {said}")
    swept = cli("sweep", "hangs", "--time-limit", "6s", "--jobs", "1", "--json", *place)
    assert swept.code == 1
    (cell,) = json.loads(swept.out)["cells"]
    assert cell["status"] == "failed"
    assert cell["reason"].startswith(said)
    assert not list(shared_tiny.runs.glob("hangs-*"))


def test_what_is_kept_is_said(tiny: Workspace) -> None:
    assert "had kept nothing" in over_limit("softmax", "softmax-*", 90.0, tiny)
    folder = tiny.cache / "unfinished" / "softmax-tiny-fold0-seed0-12345678"
    folder.mkdir(parents=True)
    (folder / "training-1.safetensors").touch()
    said = over_limit("softmax", "softmax-*", 90.0, tiny)
    assert said == (
        "softmax was ended after 1.5 min (--time-limit). Asked for again it goes on from its last "
        "checkpoint: give it longer, or leave the limit out."
    )


def test_a_limit_is_a_duration(cli: Callable[..., Any], shared_tiny: Workspace) -> None:
    given = {"30m": 1800.0, "2h": 7200.0, "45s": 45.0, "1.5 min": 90.0, "1d": 86_400.0}
    assert {text: read_duration(text, "--time-limit") for text in given} == given
    for wrong in ("", "30", "0s", "-1h", "1w", "h", "9" * 40 + "h", "٣h", "1h\x1b[2J"):
        with pytest.raises(WhalebenchError, match="is no duration: write it as 2h") as caught:
            read_duration(wrong, "--time-limit")
        assert str(caught.value).isprintable()
    for command in ("run", "sweep"):
        answer = cli(command, "softmax", "--time-limit", "soon", "--workspace", shared_tiny.root)
        assert answer.code == 2
        assert "--time-limit soon is no duration" in answer.err


SLOW = """
import os, pathlib, subprocess, sys, time
import numpy as np, torch
from whalebench.methods.method import Epoch, Method, MethodConfig

class Plugin(Method):
    "Learns nothing in six slow epochs, with a process beside it, as a loader of data has them."
    name, summary, source, Config = "slow", "takes its time", "nowhere", MethodConfig

    def learn(self, train, valid, harness):
        helper = subprocess.Popen([sys.executable, "-I", "-S", "-c", "import time; time.sleep(300)"])
        for process in (os.getpid(), helper.pid):
            (pathlib.Path(os.environ["CHILDREN"]) / str(process)).touch()
        harness.fitted("all", train.known())
        harness.stage("train")
        self.net, self.individuals = torch.nn.Linear(1, 1), len(train.identities)
        for number in range(harness.resume({"net": self.net}) + 1, 7):
            time.sleep(float(os.environ["PACE"]))
            harness.epoch(Epoch(number, 6, 0.5, 0.1, 10, 1.0))
        helper.kill()
        helper.wait()

    def score(self, photos):
        return np.random.default_rng(0).random((len(photos), self.individuals), np.float32)
"""


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="threads are counted by the cores there")
def test_a_sweep_that_is_killed_ends_its_runs_and_they_go_on_later(
    tiny: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Callable[..., Any]
) -> None:
    folder, path = tmp_path / "children", install(tmp_path, SLOW, "slow", module="guest_slow")
    folder.mkdir()
    monkeypatch.delitem(sys.modules, "guest_slow", raising=False)
    monkeypatch.syspath_prepend(str(path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("CHILDREN", str(folder))
    monkeypatch.setenv("PACE", "1.5")
    words = ["slow", "--benchmark", "tiny", "--device", "cpu", "--workspace", str(tiny.root)]
    jobs = str(len(os.sched_getaffinity(0)))  # so that a run has one thread, here as there
    command = [sys.executable, "-m", "whalebench", "sweep", *words, "--jobs", jobs]
    sweep = subprocess.Popen(command, start_new_session=True)
    kept = tiny.cache / "unfinished"
    try:
        wait_for(lambda: any(kept.glob("slow-*/training-1.safetensors")), 300)
        assert all(map(is_alive, named(folder))) and len(named(folder)) == 2
        sweep.kill()
        assert wait_for(lambda: not any(map(is_alive, named(folder))), 30) < ENDS_WITHIN
    finally:
        sweep.kill()
        sweep.wait()
    assert not list(tiny.runs.iterdir())
    monkeypatch.setenv("PACE", "0")
    answer = cli("run", *words)
    assert answer.code == 0, answer.err
    assert "Training, taken up after epoch" in answer.err
