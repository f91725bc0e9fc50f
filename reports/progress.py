"""Progress of a run as a person likes to watch it: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import re
import time
from math import isnan
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from whalebench.benchmarks.progress import EpochNews
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


def watch(console: Console) -> LiveProgress | PlainProgress:
    """A progress display that fits the console; use it in a `with` block."""
    return LiveProgress(console) if console.is_terminal else PlainProgress(console)


class LiveProgress:
    """One line that moves, and a line that stays for each epoch."""

    def __init__(self, console: Console) -> None:
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def stage(self, name: str) -> None:
        """A new bar, without length until the first piece is done."""
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(_said(name), total=None, note="")

    def advance(self, done: int, total: int) -> None:
        """The bar at its new length."""
        if self._task is not None:
            self._bar.update(self._task, completed=done, total=total)

    def epoch(self, news: EpochNews) -> None:
        """The bar one epoch further, with the newest numbers beside it."""
        if self._task is not None:
            self._bar.console.print(_line(news), highlight=False)
            self._bar.update(self._task, completed=news.number, total=news.of, note=_left(news))


class PlainProgress:
    """A line for each phase and each epoch."""

    def __init__(self, console: Console) -> None:
        self._console, self._stage, self._last = console, "", 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def stage(self, name: str) -> None:
        """The phase's name on a line of its own."""
        self._stage, self._last = _said(name), time.monotonic()
        self._console.print(self._stage, highlight=False)

    def advance(self, done: int, total: int) -> None:
        """How far the phase is, every ten seconds."""
        if time.monotonic() - self._last >= 10:
            self._last = time.monotonic()
            self._console.print(f"{self._stage}: {done} of {total}", highlight=False)

    def epoch(self, news: EpochNews) -> None:
        """The epoch's numbers."""
        self._console.print(f"{_line(news)}  {_left(news)}", highlight=False)


def _said(name: str) -> str:
    """The phase in words; that of one of several trainings as in "Training, cycle 2"."""
    parts = re.fullmatch(r"([\w.]+)\.(\w+)", name)
    if name in STAGES or parts is None:
        return STAGES.get(name, name)
    which = parts[1].replace("_", " ").replace(".", ", ")
    return f"{STAGES.get(parts[2], parts[2])}, {which}"


def _line(news: EpochNews) -> str:
    score = "" if isnan(news.valid_map_at_5) else f"valid MAP@5 {news.valid_map_at_5:.3f}  "
    return (
        f"epoch {news.number}/{news.of}  loss {news.loss:.3f}  {score}{news.photos_per_second:.0f} photos/s"
    )


def _left(news: EpochNews) -> str:
    """Said by the harness: a bar's own estimate forgets epochs longer than half a minute."""
    return f"{duration(news.seconds_left)} left"
