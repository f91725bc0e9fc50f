"""What the library tells whoever watches; it never prints by itself."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """A watcher of long work."""

    def stage(self, name: str) -> None:
        """The next phase begins."""

    def advance(self, done: int, total: int) -> None:
        """So many pieces of the phase are done."""

    def epoch(
        self, number: int, of: int, loss: float, valid_map_at_5: float, photos_per_second: float, seconds_left: float
    ) -> None:
        """An epoch of training has ended."""


class Silent:
    """Watches without a word."""

    def stage(self, name: str) -> None:
        """Nothing."""

    def advance(self, done: int, total: int) -> None:
        """Nothing."""

    def epoch(
        self, number: int, of: int, loss: float, valid_map_at_5: float, photos_per_second: float, seconds_left: float
    ) -> None:
        """Nothing."""


SILENT = Silent()
