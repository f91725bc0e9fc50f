"""The terminal: results on stdout, progress and errors on stderr, one JSON document where it is asked for."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from rich.console import Console

from whalebench import MissingError, RunFailedError, WhalebenchError
from whalebench.benchmarks.core.progress import SILENT, Progress

out, err = Console(), Console(stderr=True)


@contextmanager
def progress_shown(*, quiet: bool) -> Iterator[Progress]:
    """Progress on stderr while the block runs; nothing where `quiet` and stderr is no terminal."""
    from whalebench.reports.progress import watch

    if quiet and not err.is_terminal:
        yield SILENT
        return
    with watch(err) as progress:
        yield progress


def show(document: Any, shown: Any, as_json: bool) -> None:
    """Prints the document as JSON, or what `rich` makes of `shown`."""
    if as_json:
        sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + os.linesep)
    else:
        out.print(shown)


def show_written(*files: object) -> None:
    """Says which files were written."""
    out.print("Written: " + ", ".join(map(str, files)), style="dim", soft_wrap=True)


def stopped(sentence: str) -> None:
    """Says that the work was interrupted, and how it is taken up again."""
    err.print(f"Stopped. {sentence}", style="yellow", highlight=False, soft_wrap=True)


def exit_with_sentence(command: Callable[[], object], *, debug: bool) -> None:
    """Runs the command; an error ends the process with a sentence and 1 (it failed) or 2 (wrong use).

    With `debug` the traceback stands before the sentence.
    """
    try:
        command()
    except WhalebenchError as error:
        kind = "Missing" if isinstance(error, MissingError) else "Error"
        _exit(f"{kind}: {error}", 1 if isinstance(error, RunFailedError) else 2, debug)
    except Exception as error:  # the last resort
        cause = f"{type(error).__name__}: {error}"
        _exit(f"Error: {cause}. Add --debug to see where, and please report it.", 1, debug)


def _exit(sentence: str, code: int, debug: bool) -> NoReturn:
    if debug:
        traceback.print_exc()
    err.print(sentence, style="red", markup=False, highlight=False, soft_wrap=True)
    raise SystemExit(code)
