"""The launcher of this machine: worker processes, each on its own share of it, and the pool that ends them.

A sweep and a study with several workers start the commands that a person would type. The pool gives each
process its cores and accelerator, and stops all of them, and what they have started, after Ctrl-C or an
error. Where the pool's own process is killed, its watcher does: a process that waits for just that.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from whalebench import RunFailedError
from whalebench.benchmarks.core.durations import duration_words, read_duration
from whalebench.benchmarks.core.machine import CORES, PARENT, choose_device, cores
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.launching.launcher import PATIENCE, Job, Launcher, Task, check_jobs
from whalebench.benchmarks.running.runner import TRAININGS, UNFINISHED, RunRequest, goes_on
from whalebench.methods.registry import name_of

if TYPE_CHECKING:
    import torch

THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
"""What the numerical libraries take their number of threads from."""
COLOURED = ("FORCE_COLOR", "TTY_COMPATIBLE")
"""What makes lines anything but plain."""
VISIBLE = "CUDA_VISIBLE_DEVICES"
PROGRAM = (sys.executable, "-m", "whalebench")
"""What starts the command line."""
PAUSE = 0.1
"""Seconds from one look at the workers to the next."""
WATCHER = """
import os, signal, sys, time
groups = set()
for line in sys.stdin:
    (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
for number, pause in ((signal.SIGINT, float(sys.argv[1])), (signal.SIGKILL, 0.0)):
    for group in groups:
        try:
            os.killpg(group, number)
        except OSError:
            pass
    time.sleep(pause if groups else 0.0)
"""
"""A program that is told the groups of processes on its stdin, and ends those left when that is closed.

The system closes it, whatever becomes of the process at the other end."""
INTERRUPTED = 130
"""The exit code of a command after Ctrl-C."""


@dataclass(frozen=True)
class Share:
    """What one worker may use of the machine."""

    threads: int
    cores: tuple[int, ...] = ()
    """The numbers of its own cores; empty where the system does not let us say."""
    accelerator: str = ""
    """The one that it sees, as CUDA_VISIBLE_DEVICES has it; empty: whatever there is."""

    def environment(self) -> dict[str, str]:
        """This environment with what keeps a process to its share, and what makes it print plain lines."""
        variables = dict(os.environ) | self.variables()
        variables |= {
            "COLUMNS": "1000",
            "NO_COLOR": "1",
            "PYTHONUNBUFFERED": "1",
            "PYTHONIOENCODING": "utf-8",
        }
        return {key: value for key, value in variables.items() if key not in COLOURED}

    def variables(self) -> dict[str, str]:
        """What of the environment keeps a process to its share."""
        of_accelerator = {VISIBLE: self.accelerator} if self.accelerator else {}
        return dict.fromkeys((*THREADS, CORES), str(self.threads)) | of_accelerator

    @contextmanager
    def pinned(self) -> Iterator[None]:
        """A block in which this thread is on the cores of the share, and so is a process that it starts."""
        if not self.cores:
            yield
            return
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, self.cores)
        try:
            yield
        finally:
            os.sched_setaffinity(0, before)


def local_launcher(jobs: int | None, requested: str) -> WorkerPool:
    """The launcher of this machine: so many workers at a time, on the device of the requested name.

    Unless given, there is one for each accelerator, or for every two cores. Raises WhalebenchError for none,
    and for a device that is not here.
    """
    device = choose_device(requested)
    return WorkerPool(share_machine(jobs, device, requested), requested, device.type)


def share_machine(jobs: int | None, device: torch.device, requested: str) -> tuple[Share, ...]:
    """A share for each of so many workers, on the device that was chosen for the requested name."""
    if jobs is not None:
        check_jobs(jobs)
    given, count = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [], cores()
    numbered = given if len(given) == count else []  # of fewer than it is given nobody says which
    accelerators = _accelerators(device, requested)
    jobs = jobs or (len(accelerators) or 1 if device.type != "cpu" else max(1, count // 2))
    return divide(jobs, count, numbered, accelerators)


def divide(jobs: int, count: int, cores: Sequence[int], accelerators: Sequence[str]) -> tuple[Share, ...]:
    """Equal shares of `count` cores, numbered `cores` where known; more workers than cores share them.

    >>> [share.cores for share in divide(2, 5, range(5), ())]
    [(0, 1), (2, 3)]
    """
    # As many threads each, so that a run's numbers do not depend on the share it happened to get.
    threads = max(1, count // jobs)
    return tuple(
        Share(
            threads,
            tuple(cores[(job * threads + thread) % count] for thread in range(threads)) if cores else (),
            accelerators[job % len(accelerators)] if accelerators else "",
        )
        for job in range(jobs)
    )


def _accelerators(device: torch.device, requested: str) -> list[str]:
    """The accelerators to share out; none where one was named, or where there are none to choose from."""
    if device.type != "cuda" or requested not in ("auto", "cuda"):
        return []
    import torch

    visible = [name for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    count = torch.cuda.device_count()
    return visible[:count] if visible else [str(index) for index in range(count)]


def over_limit(method: str, runs: str, limit: float, workspace: Workspace) -> str:
    """That a run was ended because its time was over, and what is kept; `runs` is a pattern of its name."""
    kept = (workspace.cache / UNFINISHED).glob(f"{runs}/{TRAININGS}")
    return (
        f"{method} was ended after {duration_words(limit)} (--time-limit). Asked for again it "
        f"{goes_on(kept)}: give it longer, or leave the limit out."
    )


class Worker(Task):
    """A process of the command line, and what it starts.

    Without a share it has the whole machine, and the terminal for itself.
    """

    def __init__(
        self, arguments: Sequence[str], share: Share | None, secrets: Mapping[str, str] | None = None
    ) -> None:
        """The secrets are told it by its environment, which others cannot read as they can its arguments."""
        super().__init__()
        environment = share.environment() if share else dict(os.environ)
        with share.pinned() if share else nullcontext():
            self._process = subprocess.Popen(  # noqa: S603  (a list of words, no shell)
                [*PROGRAM, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL if share else None,
                stderr=subprocess.PIPE if share else None,
                env=environment | {PARENT: str(os.getpid())} | dict(secrets or {}),
                text=True,
                encoding="utf-8",
                errors="replace",
                # Ctrl-C at the terminal is for the first process alone, which passes it on; and what this one
                # starts is of its group.
                start_new_session=True,
            )
        self.group = self._process.pid
        self._is_cleared = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def is_running(self) -> bool:
        """Whether it has not ended; what it has left running is ended, too."""
        if self._process.poll() is None:
            return True
        if not self._is_cleared:
            self._is_cleared = True
            self.send(signal.SIGKILL)
        return False

    def exit_code(self) -> int | None:
        """The exit code, minus the number of the signal that killed it, or None while it runs."""
        if not self.is_running():
            self._reader.join(timeout=5)  # what it said last is the reason
        return self._process.returncode

    def send(self, number: int) -> None:
        """Sends the signal to the process and to those that it started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def wait(self) -> None:
        """Returns when the process has ended."""
        self._process.wait()

    def end(self, reason: str) -> None:
        """Ends the process and all that it has started, at once, for that reason."""
        self._ended_by = reason
        self.send(signal.SIGKILL)
        self.wait()

    def _read(self) -> None:
        if self._process.stderr is None:  # it is the terminal's
            return
        with self._process.stderr as lines:
            for line in lines:
                self.hear(line)


def run_within(limit: float, arguments: Sequence[str], reason: Callable[[], str]) -> int:
    """The exit code of a command that is given so many seconds.

    Raises RunFailedError, with the reason, where they are over: then it was ended, whatever it was at, in C
    code as well, and so was all that it had started. After Ctrl-C, of which the command has told, 130.
    """
    with WorkerPool([None]) as pool:
        worker = pool.start(arguments)
        while worker.is_running() and not pool.interrupts:
            if worker.seconds() > limit:
                worker.end("")
                raise RunFailedError(reason())
            time.sleep(PAUSE)
    if pool.interrupts:
        return INTERRUPTED
    code = worker.exit_code() or 0
    if code < 0:
        raise RunFailedError(worker.reason())
    return code


def run_limited(request: RunRequest, limit: str, workspace: Workspace, flags: Sequence[str]) -> int:
    """The exit code of `whalebench run` in a process that is ended after the limit; see `run_within`."""
    seconds, name = read_duration(limit, "--time-limit"), name_of(request.method)
    request, runs = replace(request, method=name), f"{name}-{request.benchmark}-*"
    words = Job("run", request, workspace, tuple(flags)).arguments()
    return run_within(seconds, words, lambda: over_limit(request.method, runs, seconds, workspace))


class WorkerPool(Launcher):
    """Workers, at most one on each share of the machine; what they start does not outlive it either."""

    def __init__(
        self, shares: Sequence[Share | None], device: str = "auto", device_type: str = "cpu"
    ) -> None:
        super().__init__(len(shares))
        self.shares, self.device, self.device_type = shares, device, device_type
        self._workers: dict[int, Worker] = {}
        """The newest worker on each share, by the share's place."""
        self._watcher: subprocess.Popen[str] | None = None

    def _open(self) -> None:
        self._watcher = subprocess.Popen(  # noqa: S603
            [sys.executable, "-I", "-S", "-c", WATCHER, str(PATIENCE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )

    def launch(self, job: Job) -> Worker:
        """The job as a process on the first free share."""
        return self.start(job.arguments(), job.secrets)

    def start(self, arguments: Sequence[str], secrets: Mapping[str, str] | None = None) -> Worker:
        """A new worker on the first free share; the secrets are variables of its environment alone."""
        busy = self.running()
        place = next(place for place in range(len(self.shares)) if self._workers.get(place) not in busy)
        if place in self._workers:
            self._tell(f"-{self._workers[place].group}")
        worker = self._workers[place] = Worker(arguments, self.shares[place], secrets)
        self._tell(f"+{worker.group}")
        return worker

    def running(self) -> list[Worker]:
        """The workers that have not ended."""
        return [worker for worker in self._workers.values() if worker.is_running()]

    def stop(self, patience: float = PATIENCE) -> None:
        """Ends every worker: by SIGINT, or SIGKILL at the end, as one more Ctrl-C does at once."""
        before = self.interrupts
        self._send(signal.SIGINT)
        until = time.monotonic() + patience
        while self.running() and self.interrupts == before and time.monotonic() < until:
            time.sleep(PAUSE)
        self._send(signal.SIGKILL)
        for worker in self._workers.values():
            worker.wait()
            worker.is_running()  # ends what it has left

    def _tell(self, line: str) -> None:
        """Tells the watcher of a group of processes that there is, or is no more."""
        if self._watcher is not None and self._watcher.stdin is not None:
            with suppress(OSError):  # someone has killed it
                self._watcher.stdin.write(f"{line}\n")
                self._watcher.stdin.flush()

    def _close(self) -> None:
        for worker in self._workers.values():
            self._tell(f"-{worker.group}")
        if self._watcher is not None:
            with suppress(OSError):
                self._watcher.communicate()

    def _send(self, number: int) -> None:
        for worker in self.running():
            worker.send(number)
