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
    "network": "Loading the network",
    "keypoints": "Detecting key points",
    "first individuals": "Training on the individuals with most photos",
    "train": "Training",
    "gallery": "Embedding the gallery",
    "join": "Fusing the members on valid photos",
    "pseudo-labels": "Guessing the labels of test photos",
    "final": "Learning from the networks' features",
    "score": "Scoring test photos",
    "read": "Reading the scores of the runs",
    "combine": "Fusing the scores",
    "judge": "Evaluating on test photos",
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
"""What is shown for each stage; one that is not here is shown by its own name."""
REPEATED = 10
"""Seconds between two plain lines on how far a stage is."""


def stage_words(name: str) -> str:
    """A stage in words, that of one of several trainings and what the harness adds behind a comma included.

    >>> stage_words("cycle_2.train"), stage_words("train, taken up after epoch 3")
    ('Training, cycle 2', 'Training, taken up after epoch 3')
    """
    head, *rest = name.split(", ", 1)
    if re.fullmatch(r"[\w. -]+", head) is None:  # a sentence
        return name
    *where, stage = head.split(".")
    return ", ".join([STAGES.get(stage, stage), *(part.replace("_", " ") for part in where), *rest])


@contextmanager
def watch(console: Console) -> Iterator[Progress]:
    """A block in which the progress of a run is shown as fits the console."""
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
        self._task = self._bar.add_task(stage_words(name), total=None, note="")

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
    """A line for each stage and each epoch."""

    def __init__(self, console: Console) -> None:
        self._console, self._stage, self._last = console, "", 0.0

    def stage(self, name: str) -> None:
        """Prints the stage."""
        self._stage, self._last = stage_words(name), time.monotonic()
        self._console.print(self._stage, highlight=False)

    def advance(self, done: int, total: int) -> None:
        """Prints how far the stage is, every ten seconds."""
        if time.monotonic() - self._last >= REPEATED:
            self._last = time.monotonic()
            self._console.print(f"{self._stage}: {done} of {total}", highlight=False)

    def epoch(self, summary: EpochSummary) -> None:
        """Prints the epoch's numbers."""
        self._console.print(f"{_epoch_words(summary)}  {_time_left(summary)}", highlight=False)


def _epoch_words(summary: EpochSummary) -> str:
    words = [f"epoch {summary.number}/{summary.of}", f"loss {summary.loss:.3f}"]
    if not isnan(summary.valid_map_at_5):
        words.append(f"valid MAP@5 {summary.valid_map_at_5:.3f}")
    return "  ".join([*words, f"{summary.photos_per_second:.0f} photos/s"])


def _time_left(summary: EpochSummary) -> str:
    """As the harness estimates it: a bar's own estimate forgets epochs longer than half a minute."""
    return f"{duration(summary.seconds_left)} left"
