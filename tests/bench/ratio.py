"""What a measurement comes to: a ratio, and what it has to be; and how two things are timed in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Ratio:
    """Two medians of one quantity, ours and another's, and the ratio that they must have."""

    what: str
    ours: float
    theirs: float
    """1 where nothing is compared and the target is of ours alone."""
    unit: str
    target: float
    at_least: bool
    """Whether the ratio must be the target or more; else the target or less."""

    @property
    def ratio(self) -> float:
        """Ours by theirs."""
        return self.ours / self.theirs

    @property
    def holds(self) -> bool:
        """Whether the ratio is as it must be."""
        return self.ratio >= self.target if self.at_least else self.ratio <= self.target


class Skipped(Exception):
    """What a subject raises that cannot be measured here; its text says why."""


def alternate(
    contestants: Mapping[str, Callable[[], object]], rounds: int = 5, warm_up: int = 1
) -> dict[str, list[float]]:
    """Seconds of each call, by name: a round calls each once, in turn, the first rounds uncounted."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(-warm_up, rounds):
        for name, call in contestants.items():
            started = time.perf_counter()
            call()
            if number >= 0:
                seconds[name].append(time.perf_counter() - started)
    return seconds
