"""The terminal: results on stdout, progress and errors on stderr, one JSON document where it is asked for.

Progress moves as a person likes to watch it: a live bar or table on a terminal, plain lines elsewhere.
"""

from __future__ import annotations

import codecs
import json
import os
import re
import sys
import threading
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from math import isnan
from typing import TYPE_CHECKING, Any, NoReturn, cast

import typer
from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from whalebench import CONTROLS, MissingError, RunFailedError, WhalebenchError, one_line, visible
from whalebench.benchmarks.core.machine import is_program
from whalebench.benchmarks.core.progress import SILENT, CellState, EpochSummary, Progress, SweepState
from whalebench.reports.wording import UNDEFINED, duration

if TYPE_CHECKING:
    from rich import progress as bars


class Terminal(Console):
    """A console on which texts are texts: what others wrote is no mark-up, no command and no picture."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """The pieces of what is printed. Colours are not in their texts: all controls there are others'."""
        for text, style, control in super().render(renderable, options):
            whole = control or text.isprintable() or text == "\n"
            yield Segment(text if whole else "\n".join(map(visible, text.split("\n"))), style, control)


out, err = Terminal(), Terminal(stderr=True)
STAGES = {
    "draw": "Drawing flukes",
    "verify": "Verifying photos",
    "read the layout": "Reading the layout",
    "draw the masks": "Drawing masks from outlines",
    "find the files": "Finding the files",
    "inspect": "Checking photos",
    "compare": "Comparing photos with each other",
    "confirm": "Looking closely at pairs that may be twins",
    "look up": "Looking up details that photos share",
    "confirm parts": "Looking closely at pairs that may be parts of one picture",
    "wait for the server": "Waiting for the server of the study, which does not answer",
    "study of one machine": "Keeping the study on this machine alone; for several give --storage URL",
    "run the best": "Running the best trial and the defaults",
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
    "head": "Learning a head on what is embedded",
    "gallery": "Embedding the gallery",
    "join": "Fusing the members on valid photos",
    "pseudo-labels": "Guessing the labels of test photos",
    "pseudo-masks": "Guessing the masks of test photos",
    "final": "Learning from the networks' features",
    "score": "Scoring test photos",
    "read": "Reading the scores of the runs",
    "combine": "Fusing the scores",
    "judge": "Evaluating on test photos",
    "write": "Writing the record",
    "restore": "Restoring the run",
    "identify": "Identifying photos",
    "without_background": "Scoring without background",
    "without_animal": "Scoring without the animal",
    "mirrored": "Scoring mirrored photos",
    "occlude": "Hiding parts of photos",
    "check": "Checking the method",
    "rescore": "Scoring runs again from what they keep",
    "thumbnails": "Making thumbnails",
    "wait": "Another process is at this run: waiting for it",
    "wait for benchmark": "Another process is at this benchmark: waiting for it",
    "found": "Found this run finished (--force repeats it)",
}
"""What is shown for each stage; one that is not here is shown by its own name."""
PLAIN = {"–": "-", "…": "...", "×": "x", "·": "-", "≥": ">=", "°": " degrees", "†": "+", "‡": "++"}
"""What stands for signs of ours where the output has none of them."""
UsageError = cast("type[typer.BadParameter]", typer.BadParameter.__bases__[0])
"""What Typer raises for what it cannot parse."""
UNLIMITED = 10_000
"""The width of a window in which everything fits."""
REPEATED = 10
"""Seconds between two plain lines on how far a stage is."""
MOST_LETTERS = 300
"""Of a sentence on what went wrong, which is one line."""
PATIENCE = 5.0
"""Seconds that a process takes to end, at most, once all is said."""
REFRESH = 0.25
"""Seconds between two drawings of the live table."""


def show(document: Any, shown: Any, as_json: bool) -> None:
    """Prints the document as JSON, or what `rich` makes of `shown`."""
    if as_json:
        text = json_text(document)
        if not _is_held(text):
            text = json_text(document, in_ascii=True)
        sys.stdout.write(text + os.linesep)
    else:
        # A pipe has no width, unless it is told one: nothing is wrapped or cut there.
        window = out.is_terminal or "COLUMNS" in os.environ
        (out if window else Terminal(file=out.file, width=UNLIMITED)).print(shown, crop=False)


def write_in_any_encoding() -> None:
    """Lets stdout and stderr take every text from now on: what their encoding lacks is replaced or escaped.

    Windows gives a file or a pipe cp1252, a cluster with an old locale Latin-1 or ASCII, and a run of hours
    must not fail for a dash in its summary.
    """
    codecs.register_error("whalebench", _in_other_letters)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="whalebench")


def _in_other_letters(error: UnicodeError) -> tuple[str | bytes, int]:
    """Plain signs for ours, and escapes for letters of others; see `codecs.register_error`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    if sign := PLAIN.get(error.object[error.start]):
        return sign, error.start + 1
    error.end = error.start + 1
    return codecs.backslashreplace_errors(error)


def _is_held(text: str) -> bool:
    """Whether the encoding of stdout has all letters of the text."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def json_text(document: Any, *, in_ascii: bool = False) -> str:
    """The document as strict JSON that a terminal can be given, too: controls are escapes in its texts.

    With `in_ascii` all that is not ASCII is an escape.
    """
    text = json.dumps(document, indent=2, ensure_ascii=in_ascii, allow_nan=False)
    return CONTROLS.sub(lambda found: found[0] if found[0] == "\n" else f"\\u{ord(found[0]):04x}", text)


def show_written(*files: object) -> None:
    """Says which files were written."""
    out.print("Written: " + ", ".join(map(str, files)), style="dim", soft_wrap=True)


def show_problems(sentences: Iterable[str]) -> None:
    """Says what could not be done."""
    for sentence in sentences:
        err.print(f"! {one_line(sentence, MOST_LETTERS)}", style="yellow", highlight=False, soft_wrap=True)


def stopped(sentence: str) -> None:
    """Says that the work was interrupted, and how it is taken up again."""
    err.print(f"Stopped. {sentence}", style="yellow", highlight=False, soft_wrap=True)


def exit_with_sentence(command: Callable[[], object], *, debug: bool) -> None:
    """Runs the command; an error ends the process with a sentence and 1 (it failed) or 2 (wrong use).

    What cannot be parsed is a sentence like any other, not a page of usage. With `debug` the traceback stands
    before the sentence.
    """
    try:
        raise SystemExit(command())
    except UsageError as error:
        if not (words := error.format_message().strip()):  # nothing was typed: the help is shown already
            raise SystemExit(error.exit_code) from None
        typed = error.ctx.command_path if error.ctx else "whalebench"
        _exit(f"Error: {one_line(words)} See `{typed} --help`.", 2, debug)
    except WhalebenchError as error:
        show_problems(getattr(error, "__notes__", ()))
        kind = "Missing" if isinstance(error, MissingError) else "Error"
        _exit(f"{kind}: {error}", 1 if isinstance(error, RunFailedError) else 2, debug)
    except OSError as error:  # what the system refuses a library, or what is printed to
        from whalebench.benchmarks.core.workspace import NO_ROOM

        place, said = error.filename or "The output", error.strerror or one_line(error)
        hint = "free some space" if error.errno in NO_ROOM else "--debug shows where"
        _exit(f"Error: {place} cannot be used ({said}): {hint}.", 1, debug)
    except UnicodeEncodeError as error:  # a name of a file, where Python is told that they are in old letters
        name = one_line(repr(error.object), 80)
        why = f"{name} cannot be written as {error.encoding}: set PYTHONUTF8=1, or LC_ALL=C.UTF-8."
        _exit(f"Error: {why}", 2, debug)
    except MemoryError:
        _exit("Error: there is too little memory: lower batch_size, or close other programs.", 1, debug)
    except Exception as error:  # the last resort
        from whalebench.benchmarks.core.code import place_in_plug_in

        cause, place = f"{type(error).__name__}: {one_line(error)}", place_in_plug_in(error)
        whose = "which is the plug-in's own error" if place else "and please report it"
        _exit(f"Error: {cause}{place}. Add --debug to see where, {whose}.", 1, debug)
    finally:
        ended = sys.exception()
        _leave(ended.code if isinstance(ended, SystemExit) else int(ended is not None))


def _exit(sentence: str, code: int, debug: bool) -> NoReturn:
    if debug:
        for line in without_secrets(traceback.format_exc()).splitlines():
            sys.stderr.write("".join(c if c.isprintable() else ascii(c)[1:-1] for c in line) + os.linesep)
    shown = one_line(without_secrets(sentence), MOST_LETTERS)
    err.print(shown, style="red", highlight=False, soft_wrap=True)
    raise SystemExit(code)


def without_secrets(text: str) -> str:
    """A text without the passwords and queries of URLs in it.

    >>> without_secrets("no x://ann:se@cret@host/db?password=secret here")
    'no x://***@host/db?password=*** here'
    """
    text = re.sub(r"(\w://)[^\s'\"]*@", r"\1***@", text)
    return re.sub(r"([?&][\w-]+=)[^\s&'\"]+", r"\1***", text)


def _leave(code: object) -> None:
    """Sees to it that the process ends, and with this code, whatever a method has left running in it.

    What is printed from now on goes to stderr; threads and children have some seconds after the last word.
    """
    if not is_program(getattr(sys.modules["__main__"], "__file__", None)):
        return  # a process that goes on, as that of the tests

    def end() -> None:
        threading.main_thread().join()
        time.sleep(PATIENCE)
        processes = sys.modules.get("multiprocessing")
        for child in processes.active_children() if processes else ():
            child.kill()
            child.join(PATIENCE)
        os._exit(code if isinstance(code, int) else int(bool(code)))

    try:
        sys.stdout.flush()
        os.dup2(2, 1)
    except OSError:  # nobody reads it: what is left of it is not for stderr
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    threading.Thread(target=end, name="end", daemon=True).start()


@contextmanager
def progress_shown(console: Console = err, *, quiet: bool = False) -> Iterator[Progress]:
    """The progress of a run while the block runs; nothing where `quiet` and the console is no terminal."""
    if not console.is_terminal:
        yield SILENT if quiet else PlainProgress(console)
        return
    from rich import progress as bars

    columns = (
        bars.TextColumn("{task.description}", style="bold", markup=False),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TextColumn("{task.fields[note]}", markup=False),
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
            numbers, left = _epoch_words(summary)
            self._bar.console.print(numbers, highlight=False)
            self._bar.update(self._task, completed=summary.number, total=summary.of, note=left)


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
        self._console.print("  ".join(_epoch_words(summary)), highlight=False)


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


def _epoch_words(summary: EpochSummary) -> tuple[str, str]:
    """The numbers, and the time left by the harness: a bar's own estimate forgets epochs above 30 seconds."""
    words = [f"epoch {summary.number}/{summary.of}", f"loss {summary.loss:.3f}"]
    if not isnan(summary.valid_map_at_5):
        words.append(f"valid MAP@5 {summary.valid_map_at_5:.3f}")
    words.append(f"{summary.photos_per_second:.0f} photos/s")
    return "  ".join(words), f"{duration(summary.seconds_left)} left"


@contextmanager
def watch_sweep(console: Console = err, *, quiet: bool = False) -> Iterator[Callable[[SweepState], None]]:
    """A block with a function that shows a sweep as fits the console; if quiet, on a terminal only.

    On a terminal that is a table with a row a contestant, drawn anew a few times a second; elsewhere a line
    for each cell that has started or ended since the last call.
    """
    before: dict[str, str] = {}
    last = 0.0

    def print_changes(state: SweepState) -> None:
        for cell in state.cells:
            status = before.get(cell.run, cell.status if cell.ended_before else "waiting")
            before[cell.run] = cell.status
            if not quiet and cell.status != status:
                words = f"{cell_name(cell)}: {_cell_words(cell)}"
                end = f" ({progress_line(state)})" if cell.status != "running" else ""
                console.print(words + end, highlight=False, markup=False, soft_wrap=True)

    if not console.is_terminal:
        yield print_changes
        return
    from rich.live import Live

    with Live(console=console, transient=True, auto_refresh=False) as live:

        def draw(state: SweepState) -> None:
            nonlocal last
            if time.monotonic() - last >= REFRESH:
                last = time.monotonic()
                live.update(Group(cell_table(state.cells), Text(progress_line(state))), refresh=True)

        yield draw


def progress_line(state: SweepState) -> str:
    """How far a sweep is, in a line: cells by what became of them, and the time left."""
    count = _counts(state.cells)
    parts = [f"{count['done']} of {len(state.cells)} done"]
    parts += [f"{count[name]} {name}" for name in ("running", "waiting", "failed") if count[name]]
    if count["running"] or count["waiting"]:
        left = UNDEFINED if state.seconds_left is None else f"about {duration(state.seconds_left)}"
        parts.append(f"time left {left}")
    return ", ".join(parts)


def cell_table(cells: Iterable[CellState]) -> Table:
    """A row a contestant: how many of its cells are done, running, waiting, failed, and what it does now."""
    by_contestant: dict[str, list[CellState]] = defaultdict(list)
    for cell in cells:
        by_contestant[cell.contestant].append(cell)
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("method", overflow="fold")
    for name in _counts([]):
        table.add_column(name, justify="right")
    table.add_column("now", overflow="ellipsis", no_wrap=True)
    for name, group in by_contestant.items():
        now = [f"{_fold_and_seed(cell)}: {cell.activity}" for cell in group if cell.status == "running"]
        table.add_row(Text(name), *map(str, _counts(group).values()), Text("\n".join(now)))
    return table


def _counts(cells: Iterable[CellState]) -> dict[str, int]:
    """How many cells are done (not fit, or missing something here, among them), running, waiting, failed."""
    number = Counter(cell.status for cell in cells)
    done = number["finished"] + number["unfit"] + number["missing"]
    return {"done": done} | {name: number[name] for name in ("running", "waiting", "failed")}


def cell_name(cell: CellState) -> str:
    """Contestant, fold and seed of a cell."""
    return f"{cell.contestant}, {_fold_and_seed(cell)}"


def _fold_and_seed(cell: CellState) -> str:
    return f"fold {cell.fold} seed {cell.seed}"


def _cell_words(cell: CellState) -> str:
    """What became of a cell, in a few words."""
    match cell.status:
        case "finished":
            return "found finished" if cell.ended_before else f"finished in {duration(cell.seconds or 0.0)}"
        case "running":
            return "starts"
        case "waiting":
            return "stopped"
    kind = {"unfit": "does not fit", "missing": "missing here", "failed": "failed"}[cell.status]
    return f"{kind}: {cell.reason}"
