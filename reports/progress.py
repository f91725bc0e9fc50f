"""Progress of a run as a person likes to watch it: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import isnan

from rich import progress as bars
from rich.console import Console

from whalebench.benchmarks.core.progress import EpochSummary, Progress
from whalebench.reports.wording import duration

STAGES = {
    "draw": "Drawing flukes",
    "verify": "Verifying photos",
    "inspect": "Checking photos",
    "decode": "Decoding photos",
    "learn": "Learning",
    "localizer": "Learning to find boxes",
    "aligner": "Learning to find landmarks",
    "segmenter": "Learning to find masks",
    "transformer": "Learning where to look",
    "crop": "Finding the animals",
    "train": "Training",
    "gallery": "Embedding the gallery",
    "pseudo-labels": "Guessing the labels of test photos",
    "final": "Learning from the networks' features",
    "score": "Scoring test photos",
    "write": "Writing the record",
    "restore": "Restoring the run",
    "without_background": "Scoring without background",
    "without_animal": "Scoring without the animal",
    "mirrored": "Scoring mirrored photos",
    "occlude": "Hiding parts of photos",
    "check": "Checking the method",
    "wait": "Another process is at this run: waiting for it",
    "found": "Found this run finished (--force repeats it)",
}
"""What is shown for each phase; a phase that is not here is shown by its own name."""


@contextmanager
def watch(console: Console) -> Iterator[Progress]:
    """A block in which progress is shown as fits the console."""
    if not console.is_terminal:
        yield PlainProgress(console)
        return
    columns = (
        bars.TextColumn("[bold]{task.description}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TextColumn("{task.fields[note]}"),
    )
    with bars.Progress(*columns, console=console, transient=True) as bar:
        yield LiveProgress(bar)


class LiveProgress:
    """One line that moves, and a line that stays for each epoch."""

    def __init__(self, bar: bars.Progress) -> None:
        self._bar = bar
        self._task: bars.TaskID | None = None

    def stage(self, name: str) -> None:
        """Shows a new bar, without length until the first piece is done."""
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(_stage_words(name), total=None, note="")

    def advance(self, done: int, total: int) -> None:
        """Moves the bar."""
        if self._task is not None:
            self._bar.update(self._task, completed=done, total=total)

    def epoch(self, summary: EpochSummary) -> None:
        """Prints the epoch's numbers, and moves the bar by an epoch."""
        if self._task is not None:
            self._bar.console.print(_epoch_words(summary), highlight=False)
            self._bar.update(self._task, completed=summary.number, total=summary.of, note=_time_left(summary))


class PlainProgress:
    """A line for each phase and each epoch."""

    def __init__(self, console: Console) -> None:
        self._console, self._stage, self._last = console, "", 0.0

    def stage(self, name: str) -> None:
        """Prints the phase's name."""
        self._stage, self._last = _stage_words(name), time.monotonic()
        self._console.print(self._stage, highlight=False)

    def advance(self, done: int, total: int) -> None:
        """Prints how far the phase is, every ten seconds."""
        if time.monotonic() - self._last >= 10:
            self._last = time.monotonic()
            self._console.print(f"{self._stage}: {done} of {total}", highlight=False)

    def epoch(self, summary: EpochSummary) -> None:
        """Prints the epoch's numbers."""
        self._console.print(f"{_epoch_words(summary)}  {_time_left(summary)}", highlight=False)


def _stage_words(name: str) -> str:
    """The phase in words; that of one of several trainings as in "Training, cycle 2"."""
    parts = re.fullmatch(r"([\w.]+)\.(\w+)", name)
    if name in STAGES or parts is None:
        return STAGES.get(name, name)
    which = parts[1].replace("_", " ").replace(".", ", ")
    return f"{STAGES.get(parts[2], parts[2])}, {which}"


def _epoch_words(summary: EpochSummary) -> str:
    words = [f"epoch {summary.number}/{summary.of}", f"loss {summary.loss:.3f}"]
    if not isnan(summary.valid_map_at_5):
        words.append(f"valid MAP@5 {summary.valid_map_at_5:.3f}")
    return "  ".join([*words, f"{summary.photos_per_second:.0f} photos/s"])


def _time_left(summary: EpochSummary) -> str:
    """As the harness estimates it: a bar's own estimate forgets epochs longer than half a minute."""
    return f"{duration(summary.seconds_left)} left"
