"""What the library tells whoever watches; it never prints by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


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
