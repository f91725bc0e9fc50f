"""Several workers on this machine: processes of the command line a person would type, and their tidy end."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

from whalebench import RunFailedError, WhalebenchError
from whalebench.benchmarks.sweeping.shares import Share
from whalebench.benchmarks.sweeping.stopping import Interrupts, stop

PAUSE = 0.5
"""Seconds from one look at the workers to the next."""
ERROR, BAD_INPUT = "Error: ", 2
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
        told = [line.removeprefix(ERROR) for line in lines if line.startswith(ERROR)]
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
                time.sleep(PAUSE)
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
