"""Turns: what one process at a time may do, on one machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # not on every system; then nobody waits
    fcntl = None  # type: ignore[assignment]

CAN_LOCK = fcntl is not None
"""Whether this system has such locks."""


@contextmanager
def turn(lock: Path, waits: Callable[[], None] = lambda: None) -> Iterator[None]:
    """A block that one process at a time is in; `waits` is called where another one is in it.

    The system lets go of the lock of a process that is killed. The file is gone when nobody is in the block.
    """
    if not CAN_LOCK:
        yield
        return
    while True:
        with _opened(lock) as file:
            if not _taken(file):
                waits()
                fcntl.flock(file, fcntl.LOCK_EX)
            if not _is(file, lock):  # the one before has deleted it: what is locked is no longer there
                continue
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
            return


def is_taken(lock: Path) -> bool:
    """Whether a process is in the block of that lock right now."""
    if not CAN_LOCK:
        return False
    try:
        with lock.open() as file:
            return not _taken(file)
    except FileNotFoundError:
        return False


def _opened(lock: Path) -> IO[str]:
    try:
        return lock.open("a")
    except PermissionError:  # of another user, who is in the block: to be waited for, it need not be written
        return lock.open()


def _taken(file: IO[str]) -> bool:
    """Whether the lock is this process's now, or this file system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _is(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
