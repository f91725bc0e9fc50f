"""What the library tells whoever watches; it never prints by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol


@dataclass(frozen=True)
class EpochNews:
    """What there is to show after an epoch."""

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

    def epoch(self, news: EpochNews) -> None:
        """An epoch of training has ended."""


class Silent:
    """Watches without a word."""

    def stage(self, name: str) -> None:
        """Nothing."""

    def advance(self, done: int, total: int) -> None:
        """Nothing."""

    def epoch(self, news: EpochNews) -> None:
        """Nothing."""


SILENT = Silent()


CellStatus = Literal["waiting", "running", "finished", "unfit", "missing", "failed"]
"""unfit: the benchmark lacks what the method needs, which is an answer; missing: this machine lacks a package
or a download; failed: the run went wrong. The last two are tried again when asked."""


@dataclass(frozen=True)
class CellNews:
    """What there is to show of one cell of a sweep."""

    contestant: str
    """The method with what is set of it and not of all."""
    fold: int
    seed: int
    run: str
    status: CellStatus
    reason: str = ""
    """Why it failed, does not fit, or what is missing."""
    now: str = ""
    """What it is doing, while it is running."""
    seconds: float | None = None
    """So far, or that it took; None where it has not been started."""
    found: bool = False
    """It was finished, or had failed, before this sweep."""


@dataclass(frozen=True)
class SweepNews:
    """What there is to show of a sweep."""

    cells: tuple[CellNews, ...]
    seconds_left: float | None
    """None where nothing has finished to go by."""


class SweepWatcher(Protocol):
    """A watcher of a sweep."""

    def show(self, news: SweepNews) -> None:
        """How the sweep stands now; called several times a second."""
