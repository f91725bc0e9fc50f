"""A tidy end on Ctrl-C: processes are asked, then told, then killed."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

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
