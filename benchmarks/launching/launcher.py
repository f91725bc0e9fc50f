"""What launchers have in common: a job is started as a task, which says what it does and how it ended.

A sweep and a study with several workers know no more than this of where their commands work. `WorkerPool`
is the launcher of this machine; a cluster's is one file beside this one.
"""

from __future__ import annotations

import re
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Self

from whalebench import WhalebenchError, one_line
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.running.runner import RunRequest
from whalebench.methods.registry import file_of

STOPS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""What asks a launcher to stop: Ctrl-C, the system, and a terminal that closes."""
LAST_LINES = 20
"""How many lines of a task's stderr are kept, in case it fails."""
EPOCH = re.compile(r"epoch \d+/\d+")
ERROR, MISSING = "Error: ", "Missing: "
MOST_JOBS = 1000
PATIENCE = 3.0
"""Seconds that tasks get to save what they can, from SIGINT to SIGKILL."""
TRIES = 3
"""How often a job is started where the nodes that it is on are lost."""


@dataclass(frozen=True)
class Job:
    """A command of the command line that is to work somewhere."""

    command: str
    request: RunRequest
    workspace: Workspace
    options: tuple[str, ...] = ()
    """What it is told beside the request."""
    runs: tuple[str, ...] = ()
    """The names of the runs that it leaves, which are brought to the workspace."""
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Variables of its environment, which others cannot read as they can its arguments."""

    def arguments(self, root: Path | None = None, method_file: str = "") -> list[str]:
        """The words behind the program's name; in another workspace, and with a method's file elsewhere."""
        request = self.request
        return [
            self.command,
            method_file or str(file_of(request.method) or request.method),
            *("--benchmark", request.benchmark, "--fold", str(request.fold), "--seed", str(request.seed)),
            *(f"--set={setting}" for setting in request.settings),
            *(("--preset", request.preset) if request.preset else ()),
            *(("--devices", str(request.devices)) if request.devices != 1 else ()),
            *("--device", request.device, "--workspace", str(root or self.workspace.address)),
            *self.options,
        ]


class Task(ABC):
    """A command at work somewhere; what it says on stderr is heard line by line."""

    def __init__(self) -> None:
        self.activity = self._stage = "starting"
        """What it is doing, for a person to read."""
        self._started: float | None = time.monotonic()
        self._ended_by = ""
        self._lines: deque[str] = deque(maxlen=LAST_LINES)

    @abstractmethod
    def is_running(self) -> bool:
        """Whether it has not ended."""

    @abstractmethod
    def exit_code(self) -> int | None:
        """The exit code, minus the number of the signal that killed it, or None while it runs."""

    @abstractmethod
    def end(self, reason: str) -> None:
        """Ends it and all that it has started, at once, for that reason."""

    def seconds(self) -> float:
        """How long it has been at work, or was; 0 while it waits for a place."""
        return 0.0 if self._started is None else time.monotonic() - self._started

    def is_at_work(self) -> bool:
        """Whether it is running, and does not wait for a place."""
        return self._started is not None and self.is_running()

    def reason(self) -> str:
        """Why it failed, in a sentence."""
        if self._ended_by:
            return self._ended_by
        code = self.exit_code() or 0
        if code < 0:
            hint = ": out of memory?" if -code == signal.SIGKILL else ""
            return f"killed by signal {-code}{hint}"
        if errors := [line for line in self._lines if line.startswith((ERROR, MISSING))]:
            return errors[-1].partition(": ")[2]
        last = f", its last words: {self._lines[-1]}" if self._lines else ""
        return f"ended with exit code {code}, without a record or a reason{last}"

    def is_missing(self) -> bool:
        """Whether it failed because its machine lacks a package or a download."""
        return any(line.startswith(MISSING) for line in self._lines)

    def hear(self, text: str) -> None:
        """Takes in a line of its stderr."""
        # A method prints there, too: what is shown of it must not control the terminal.
        if line := one_line(text, 300):
            self._lines.append(line)
            epoch = EPOCH.match(line)  # is shown after the stage that it belongs to
            self.activity = f"{self._stage}, {epoch[0]}" if epoch else line
            self._stage = self._stage if epoch else line.split(":", maxsplit=1)[0]


class Launcher(ABC):
    """Starts jobs, so many at a time; no task outlives its `with` block.

    In the block signals to stop are only counted, so that none comes between the start of a task and its
    entry here. One that the system was told to ignore (as by `nohup`) is still ignored.
    """

    device = "auto"
    """The device that a job is told to use."""
    device_type = "cpu"
    """Its type, which is part of a run's name."""

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self.interrupts = 0
        """How often this process was asked to stop."""
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._open()  # first: libraries that it imports set handlers of their own
        if threading.current_thread() is threading.main_thread():  # no other may say what a signal does
            for number in STOPS:
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._handlers[number] = signal.signal(number, self._count)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
        finally:
            self._close()
            for number, handler in self._handlers.items():
                signal.signal(number, handler)

    @abstractmethod
    def launch(self, job: Job) -> Task:
        """The job, started or waiting for its place."""

    @abstractmethod
    def running(self) -> list[Any]:
        """The tasks that have not ended."""

    @abstractmethod
    def stop(self, patience: float = PATIENCE) -> None:
        """Ends every task, after so many seconds by force."""

    def has_room(self) -> bool:
        """Whether one more may be started."""
        return len(self.running()) < self.jobs

    def at_work(self) -> int:
        """How many tasks are at work at a time, to go by."""
        return self.jobs

    @abstractmethod
    def _open(self) -> None:
        """Gets ready to start jobs; raises WhalebenchError or MissingError where that cannot be."""

    @abstractmethod
    def _close(self) -> None:
        """Lets go of what was got ready."""

    def _count(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.interrupts += 1


@dataclass(frozen=True)
class Resources:
    """What each run on a cluster may use: declared, so that its numbers do not depend on the node."""

    cpus: int = 2
    gpus: int = 0
    memory: int | None = None
    """Bytes; None for whatever there is."""

    def words(self) -> str:
        """As a person reads it.

        >>> Resources(4, 1, 8 * 10**9).words()
        '4 CPUs, 1 GPU, 8.0 GB of memory'
        """
        parts = [f"{self.cpus} CPU{'s' * (self.cpus != 1)}"]
        parts += [f"{self.gpus} GPU{'s' * (self.gpus != 1)}"] if self.gpus else []
        parts += [f"{self.memory / 1e9:.1f} GB of memory"] if self.memory else []
        return ", ".join(parts)


class RemoteLauncher(Launcher):
    """A launcher whose tasks work on other machines, each with the resources declared."""

    def __init__(self, jobs: int, device: str, resources: Resources) -> None:
        """Raises WhalebenchError for a device that a run would not have there."""
        super().__init__(jobs)
        self.resources = resources
        self.device = ("cuda" if resources.gpus else "cpu") if device == "auto" else device
        self.device_type = self.device.partition(":")[0]
        if (self.device_type != "cpu") != bool(resources.gpus):
            raise WhalebenchError(
                f"--device {device} and --gpus {resources.gpus} cannot both be: a run on a node has the GPUs "
                f"that are declared for it; leave --device out."
            )
        self._tasks: list[Task] = []
        self._most = 1

    def running(self) -> list[Task]:
        """The tasks that have not ended, those waiting for a node among them."""
        self._tasks = [task for task in self._tasks if task.is_running()]
        return self._tasks

    def at_work(self) -> int:
        """The most tasks that were on nodes at the same time so far."""
        self._most = max(self._most, sum(task.is_at_work() for task in self._tasks))
        return self._most

    def stop(self, patience: float = PATIENCE) -> None:
        """Ends every task."""
        for task in self.running():
            task.end("it was stopped")


def check_jobs(jobs: int) -> None:
    """Raises WhalebenchError for a number of workers that is none, or a slip of the keyboard."""
    if not 1 <= jobs <= MOST_JOBS:
        raise WhalebenchError(f"--jobs {jobs} cannot be: from one to {MOST_JOBS:,} processes can work.")
