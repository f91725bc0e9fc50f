"""What the library tells whoever watches it work; it never prints by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol


@dataclass(frozen=True)
class EpochSummary:
    """How a training stands after an epoch."""

    number: int
    """From 1."""
    of: int
    loss: float
    valid_map_at_5: float
    """NaN where the epoch was not validated."""
    photos_per_second: float
    seconds_left: float
    """Until the last epoch ends, at the pace so far."""


class Progress(Protocol):
    """A watcher of long work."""

    def stage(self, name: str) -> None:
        """The next phase begins."""

    def advance(self, done: int, total: int) -> None:
        """So many pieces of the phase are done."""

    def epoch(self, summary: EpochSummary) -> None:
        """An epoch of training has ended."""


class Silent:
    """A watcher that shows nothing."""

    def stage(self, name: str) -> None:
        """Shows nothing."""

    def advance(self, done: int, total: int) -> None:
        """Shows nothing."""

    def epoch(self, summary: EpochSummary) -> None:
        """Shows nothing."""


SILENT = Silent()


CellStatus = Literal["waiting", "running", "finished", "unfit", "missing", "failed"]
"""unfit: the benchmark lacks what the method needs, which is an answer; missing: this machine lacks a package
or a download; failed: the run went wrong. The last two are tried again when asked."""


@dataclass
class CellState:
    """One cell of a sweep, a contestant on one fold with one seed, and how it stands."""

    contestant: str
    """The method, with the settings that not all contestants have."""
    fold: int
    seed: int
    run: str
    """The name of its run, whether that is there or not."""
    status: CellStatus = "waiting"
    reason: str = ""
    """Why it failed, does not fit, or what is missing."""
    activity: str = ""
    """What it is doing, while it is running."""
    seconds: float | None = None
    """Wall time so far, and in the end; None where it has not been started."""
    ended_before: bool = False
    """It had finished or failed before this sweep."""


@dataclass(frozen=True)
class SweepState:
    """How a sweep stands."""

    cells: Sequence[CellState]
    seconds_left: float | None
    """None where nothing has finished to go by."""
