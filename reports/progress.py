"""Progress of a run and of a sweep for whoever watches: live on a terminal, plain lines elsewhere."""

from __future__ import annotations

import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from contextlib import AbstractContextManager
from math import isnan
from typing import Self

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from whalebench.benchmarks.core.progress import CellNews, EpochNews, SweepNews
from whalebench.reports.wording import UNDEFINED, duration

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
REDRAWN = 0.25
"""Seconds between two drawings of a live table."""
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


def watch(console: Console) -> LiveProgress | PlainProgress:
    """A display of a run that fits the console; use it in a `with` block."""
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
        self._task = self._bar.add_task(stage_words(name), total=None, note="")

    def advance(self, done: int, total: int) -> None:
        """The bar at its new length."""
        if self._task is not None:
            self._bar.update(self._task, completed=done, total=total)

    def epoch(self, news: EpochNews) -> None:
        """The bar one epoch further, with the newest numbers beside it."""
        if self._task is not None:
            self._bar.console.print(_epoch(news), highlight=False)
            self._bar.update(self._task, completed=news.number, total=news.of, note=_time_left(news))


class PlainProgress(AbstractContextManager["PlainProgress"]):
    """A line for each stage and each epoch."""

    def __init__(self, console: Console) -> None:
        self._console, self._stage, self._last = console, "", 0.0

    def __exit__(self, *_: object) -> None:
        return None

    def stage(self, name: str) -> None:
        """The stage on a line of its own."""
        self._stage, self._last = stage_words(name), time.monotonic()
        self._console.print(self._stage, highlight=False)

    def advance(self, done: int, total: int) -> None:
        """How far the stage is, every ten seconds."""
        if time.monotonic() - self._last >= REPEATED:
            self._last = time.monotonic()
            self._console.print(f"{self._stage}: {done} of {total}", highlight=False)

    def epoch(self, news: EpochNews) -> None:
        """The epoch's numbers."""
        self._console.print(f"{_epoch(news)}  {_time_left(news)}", highlight=False)


def _epoch(news: EpochNews) -> str:
    score = "" if isnan(news.valid_map_at_5) else f"valid MAP@5 {news.valid_map_at_5:.3f}  "
    return (
        f"epoch {news.number}/{news.of}  loss {news.loss:.3f}  {score}{news.photos_per_second:.0f} photos/s"
    )


def _time_left(news: EpochNews) -> str:
    """As the harness estimates it: a bar's own estimate forgets epochs longer than half a minute."""
    return f"{duration(news.seconds_left)} left"


def watch_sweep(console: Console, *, quiet: bool = False) -> LiveSweep | PlainSweep:
    """A display of a sweep that fits the console; use it in a `with` block.

    A quiet one prints nothing off a terminal.
    """
    return LiveSweep(console) if console.is_terminal else PlainSweep(None if quiet else console)


class LiveSweep:
    """A table that is drawn anew, a row a contestant."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, transient=True, auto_refresh=False)
        self._last = 0.0

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, news: SweepNews) -> None:
        """The table as it is now, a few times a second."""
        if time.monotonic() - self._last >= REDRAWN:
            self._last = time.monotonic()
            self._live.update(Group(cell_table(news.cells), Text(progress_line(news))), refresh=True)


class PlainSweep(AbstractContextManager["PlainSweep"]):
    """A line for each cell that starts or ends; none without a console."""

    def __init__(self, console: Console | None) -> None:
        self._console = console
        self._before: dict[str, str] = {}

    def __exit__(self, *_: object) -> None:
        return None

    def show(self, news: SweepNews) -> None:
        """What has changed since the last time."""
        for cell in news.cells:
            before = self._before.get(cell.run, cell.status if cell.found else "waiting")
            self._before[cell.run] = cell.status
            if self._console and cell.status != before:
                line = f"{cell_name(cell)}: {_status_words(cell)}"
                end = f" ({progress_line(news)})" if cell.status != "running" else ""
                self._console.print(line + end, highlight=False, markup=False, soft_wrap=True)


def _status_words(cell: CellNews) -> str:
    """What became of a cell, in a few words."""
    match cell.status:
        case "finished":
            return "found finished" if cell.found else f"finished in {duration(cell.seconds or 0.0)}"
        case "unfit":
            return f"does not fit: {cell.reason}"
        case "missing":
            return f"missing here: {cell.reason}"
        case "failed":
            return f"failed: {cell.reason}"
        case "running":
            return "starts"
    return "stopped"


def cell_table(cells: Iterable[CellNews]) -> Table:
    """A row a contestant: how many of its cells are done, running, waiting, failed, and what it does now."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("method", overflow="fold")
    for name in ("done", "running", "waiting", "failed"):
        table.add_column(name, justify="right")
    table.add_column("now", overflow="ellipsis", no_wrap=True)
    by_contestant: dict[str, list[CellNews]] = defaultdict(list)
    for cell in cells:
        by_contestant[cell.contestant].append(cell)
    for name, group in by_contestant.items():
        now = [f"{_place(cell)}: {cell.now}" for cell in group if cell.status == "running"]
        table.add_row(Text(name), *map(str, _counts(group).values()), Text("\n".join(now)))
    return table


def progress_line(news: SweepNews) -> str:
    """How far a sweep is, in a line: cells by what became of them, and the time left."""
    count = _counts(news.cells)
    parts = [f"{count['done']} of {len(news.cells)} done"]
    parts += [f"{count[name]} {name}" for name in ("running", "waiting", "failed") if count[name]]
    if count["running"] or count["waiting"]:
        left = UNDEFINED if news.seconds_left is None else f"about {duration(news.seconds_left)}"
        parts.append(f"time left {left}")
    return ", ".join(parts)


def _counts(cells: Iterable[CellNews]) -> dict[str, int]:
    """How many cells are done, running, waiting and failed.

    One that does not fit, or lacks something of this machine, is done.
    """
    number = Counter(cell.status for cell in cells)
    done = number["finished"] + number["unfit"] + number["missing"]
    return {"done": done} | {name: number[name] for name in ("running", "waiting", "failed")}


def cell_name(cell: CellNews) -> str:
    """The contestant, fold and seed of a cell in words."""
    return f"{cell.contestant}, {_place(cell)}"


def _place(cell: CellNews) -> str:
    return f"fold {cell.fold} seed {cell.seed}"
