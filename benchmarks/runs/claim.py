"""Who is at a run: one process at a time, so that none does what another one is doing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from whalebench.benchmarks.turns import is_taken, turn
from whalebench.benchmarks.workspace import Workspace


def claimed(workspace: Workspace, run: str, waits: Callable[[], None]) -> AbstractContextManager[None]:
    """A block in which no other process of this machine is at the run; `waits` is called where one is."""
    lock = _lock(workspace, run)
    lock.parent.mkdir(exist_ok=True)
    return turn(lock, waits)


def is_claimed(workspace: Workspace, run: str) -> bool:
    """Whether a process is at the run right now."""
    return is_taken(_lock(workspace, run))


def _lock(workspace: Workspace, run: str) -> Path:
    return workspace.cache / "claimed" / run
