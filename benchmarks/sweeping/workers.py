"""One run of a sweep in a process of its own, started by the command line that a person would type.

How the machine is shared between the processes of a sweep: cores and accelerators, one share each.

A tidy end on Ctrl-C: processes are asked, then told, then killed.

Several workers on this machine: processes of the command line a person would type, and their tidy end.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Protocol

from whalebench import RunFailedError, WhalebenchError
from whalebench.benchmarks.core.machine import CORES
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.running.runner import RunRequest

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
VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Share:
    """What one process may use."""

    threads: int
    cores: tuple[int, ...] = ()
    """The numbers of its own cores; empty where the system does not let us say."""
    accelerator: str = ""
    """The one that it sees, as CUDA_VISIBLE_DEVICES has it; empty: whatever there is."""

    def environment(self) -> dict[str, str]:
        """The environment variables that keep a process to its share."""
        found = dict.fromkeys((*THREADS, CORES), str(self.threads))
        return found | ({VISIBLE: self.accelerator} if self.accelerator else {})

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


def shares(jobs: int | None, device: torch.device, asked: str) -> tuple[Share, ...]:
    """A share for each of so many jobs: as many threads each, cores and accelerators of their own.

    Unless said, there is a job for each accelerator, or for every two cores. Raises WhalebenchError for none.
    """
    if jobs is not None and jobs < 1:
        raise WhalebenchError(f"--jobs {jobs} cannot be: at least one process has to work.")
    ours = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    count = len(ours) or os.cpu_count() or 1
    accelerators = _accelerators(device, asked)
    jobs = jobs or (len(accelerators) or 1 if device.type != "cpu" else max(1, count // 2))
    return deal(jobs, count, ours, accelerators)


def deal(jobs: int, count: int, ours: Sequence[int], accelerators: Sequence[str]) -> tuple[Share, ...]:
    """The shares of `jobs` processes on `count` cores, numbered `ours` where known; more jobs share cores.

    >>> [share.cores for share in deal(2, 5, range(5), ())]
    [(0, 1), (2, 3)]
    """
    # As many threads each, so that a run's numbers do not depend on the share it happened to get.
    threads = max(1, count // jobs)
    return tuple(
        Share(
            threads,
            tuple(ours[(job * threads + own) % count] for own in range(threads)) if ours else (),
            accelerators[job % len(accelerators)] if accelerators else "",
        )
        for job in range(jobs)
    )


def _accelerators(device: torch.device, asked: str) -> list[str]:
    """The accelerators to deal out; none where one was named, or where there are none to choose from."""
    if device.type != "cuda" or asked not in ("auto", "cuda"):
        return []
    import torch

    visible = [name for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    count = torch.cuda.device_count()
    return visible[:count] if visible else [str(index) for index in range(count)]


PATIENCE = 10.0
"""Seconds that processes get to keep what they can, after SIGINT and again after SIGTERM."""
PAUSE = 0.1


class Stoppable(Protocol):
    """A process that can be told to end."""

    def ended(self) -> int | None:
        """The exit code, or None while it runs."""

    def send(self, number: int) -> None:
        """The signal to the process."""

    def wait(self) -> None:
        """Nothing; it has ended."""


class Interrupts:
    """How often this process was asked to stop, by Ctrl-C or SIGTERM, since it began to listen."""

    def __init__(self) -> None:
        self.count = 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """A block in which those signals are counted: none comes between a process and our list of it.

        One that the system was told to ignore (as for `nohup`) is still ignored.
        """
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may say what a signal does
            return
        before = {
            number: signal.getsignal(number)
            for number in (signal.SIGINT, signal.SIGTERM)
            if signal.getsignal(number) != signal.SIG_IGN
        }
        for number in before:
            signal.signal(number, self._note)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.count += 1


def stop(workers: Collection[Stoppable], interrupts: Interrupts, patience: float = PATIENCE) -> None:
    """Nothing; every process has ended: on SIGINT, or on SIGTERM later, or by SIGKILL at the very end.

    One more Ctrl-C while they are waited for kills them at once.
    """
    asked = interrupts.count
    for number in (signal.SIGINT, signal.SIGTERM):
        _send(workers, number)
        until = time.monotonic() + patience
        while time.monotonic() < until and interrupts.count == asked:
            if all(worker.ended() is not None for worker in workers):
                return
            time.sleep(PAUSE)
        if interrupts.count > asked:
            break
    _send(workers, signal.SIGKILL)
    for worker in workers:
        worker.wait()


def _send(workers: Collection[Stoppable], number: int) -> None:
    for worker in workers:
        if worker.ended() is None:
            worker.send(number)


WORKER_PAUSE = 0.5
"""Seconds from one look at the workers to the next."""
WORKER_ERROR, BAD_INPUT = "Error: ", 2
PARENT = "WHALEBENCH_TUNER"
"""The environment variable that tells a worker who asked for it."""


class WorkerProcess:
    """A process that works on a study; what it says is kept in case it fails."""

    def __init__(self, words: Sequence[str], share: Share) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  (closed below)
        with share.pinned():
            self._process = subprocess.Popen(  # noqa: S603  (a list of words, no shell)
                [sys.executable, "-m", "whalebench.cli", *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._said,
                env=os.environ
                | share.environment()
                | {"COLUMNS": "1000", "NO_COLOR": "1", PARENT: str(os.getpid())},
                # Ctrl-C at the terminal is for the first process alone, which passes it on.
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    def ended(self) -> int | None:
        """The exit code, minus the number of the signal that killed it, or None while it runs."""
        return self._process.poll()

    def reason(self) -> str:
        """Why it failed, in a sentence."""
        code = self._process.returncode
        if code < 0:
            return f"A worker was killed by signal {-code}."
        self._said.seek(0)
        lines = [line for line in self._said.read().decode(errors="replace").splitlines() if line.strip()]
        told = [line.removeprefix(WORKER_ERROR) for line in lines if line.startswith(WORKER_ERROR)]
        return told[-1] if told else f"A worker ended with exit code {code}: {(lines or ['silently'])[-1]}"

    def send(self, number: int) -> None:
        """The signal to the process and to those that it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def wait(self) -> None:
        """Nothing; it has ended."""
        self._process.wait()

    def close(self) -> None:
        """Nothing; what it said is forgotten."""
        self._said.close()


def is_orphan() -> bool:
    """Whether this is a worker of which nobody knows any more: the process that asked for it was killed."""
    # Its number comes with the command: it may be gone before a worker can look who that is.
    return PARENT in os.environ and os.environ[PARENT] != str(os.getppid())


def work_together(words: Sequence[str], shares: Sequence[Share], look: Callable[[], None]) -> None:
    """Nothing; a worker for each share has worked until the budget was spent. `look` is called meanwhile.

    The words are those of the command; each worker is told its number. One that is killed is missed by nobody
    but the clock. Raises WhalebenchError or RunFailedError with the reason where all have failed, and
    KeyboardInterrupt, when all have ended, after Ctrl-C.
    """
    interrupts = Interrupts()
    workers: list[WorkerProcess] = []
    with interrupts.listening():
        try:
            for number, share in enumerate(shares):
                workers.append(WorkerProcess([*words, "--worker", str(number)], share))
            while not interrupts.count and any(worker.ended() is None for worker in workers):
                look()
                time.sleep(WORKER_PAUSE)
        finally:
            stop(workers, interrupts)
        codes = [worker.ended() for worker in workers]
        reasons = [worker.reason() for worker, code in zip(workers, codes, strict=True) if code]
        for worker in workers:
            worker.close()
    if interrupts.count:
        raise KeyboardInterrupt
    if all(codes):
        raise (WhalebenchError if BAD_INPUT in codes else RunFailedError)(reasons[0])


EPOCH = re.compile(r"epoch \d+/\d+")
ERROR, MISSING = "Error: ", "Missing: "
KEPT = 20
"""Last lines of what the process said, in case it fails."""


class Worker:
    """A process that runs one request; what it says is read as it goes."""

    def __init__(self, request: RunRequest, workspace: Workspace, share: Share, *, force: bool) -> None:
        self.now = self._stage = "starting"
        """What it is doing, for a person to read."""
        self._since = time.monotonic()
        self._lines: deque[str] = deque(maxlen=KEPT)
        with share.pinned():
            self._process = subprocess.Popen(  # noqa: S603  (a list of words, no shell)
                command(request, workspace, force=force),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=_environment(share),
                text=True,
                encoding="utf-8",
                errors="replace",
                # Ctrl-C at the terminal is for the sweep alone, which passes it on.
                start_new_session=True,
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def ended(self) -> int | None:
        """The exit code, minus the number of the signal that killed it, or None while it runs."""
        code = self._process.poll()
        if code is not None:
            self._reader.join(timeout=5)  # what it said last is the reason
        return code

    def seconds(self) -> float:
        """How long it has been running, or ran."""
        return time.monotonic() - self._since

    def reason(self) -> str:
        """Why it failed, in a sentence."""
        code = self._process.returncode
        if code < 0:
            hint = ": out of memory?" if -code == signal.SIGKILL else ""
            return f"killed by signal {-code}{hint}"
        if told := [line for line in self._lines if line.startswith((ERROR, MISSING))]:
            return told[-1].partition(": ")[2]
        last = f", its last words: {self._lines[-1]}" if self._lines else ""
        return f"ended with exit code {code}, without a record or a reason{last}"

    def missing(self) -> bool:
        """Whether it failed because this machine lacks a package or a download."""
        return any(line.startswith(MISSING) for line in self._lines)

    def send(self, number: int) -> None:
        """The signal to the process and to those that it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    def wait(self) -> None:
        """Nothing; it has ended."""
        self._process.wait()

    def _read(self) -> None:
        assert self._process.stderr is not None  # it is a pipe, see above
        with self._process.stderr as lines:
            for line in lines:
                if said := line.strip():
                    self._lines.append(said)
                    self.now = self._doing(said)

    def _doing(self, said: str) -> str:
        """What a line of progress says, an epoch after its stage."""
        if found := EPOCH.match(said):
            return f"{self._stage}, {found[0]}"
        self._stage = said.split(":", maxsplit=1)[0]
        return said


def command(request: RunRequest, workspace: Workspace, *, force: bool = False) -> list[str]:
    """The command line of a request, as a list of words."""
    words = [sys.executable, "-m", "whalebench.cli", "run", request.method]
    words += ["--benchmark", request.benchmark, "--fold", str(request.fold), "--seed", str(request.seed)]
    words += [f"--set={setting}" for setting in request.settings]
    words += ["--device", request.device, "--workspace", str(workspace.root), "--json", "--progress"]
    return [*words, "--force"] if force else words


def _environment(share: Share) -> dict[str, str]:
    """The environment with the share, and without what makes plain lines anything else."""
    kept = {key: value for key, value in os.environ.items() if key not in ("FORCE_COLOR", "TTY_COMPATIBLE")}
    return kept | share.environment() | {"COLUMNS": "1000", "NO_COLOR": "1", "PYTHONUNBUFFERED": "1"}
