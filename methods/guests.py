"""The block that a method's code is at work in: whoever wrote it, it is a guest in the process of a run."""

from __future__ import annotations

import ctypes
import dataclasses
import locale
import os
import signal
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO

from whalebench import RunFailedError, WhalebenchError, one_line
from whalebench.benchmarks.core.code import place_in_plug_in

HARNESS = "whalebench.benchmarks.running.harness"
"""The module by which a method calls back: what comes through it is not the method's doing."""
OURS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGALRM") if hasattr(signal, name)
)
"""Signals whose handlers are put back when a method has been at work."""
STDOUT, STDERR = 1, 2


def named(error: BaseException) -> str:
    """An error that is not ours by its kind and its text, on one line.

    >>> named(KeyError("fin"))
    "KeyError: 'fin'"
    """
    kind, said = type(error).__name__, one_line(error)
    return one_line(f"{kind}: {said}" if said else kind, 120)


@dataclasses.dataclass
class Conduct:
    """How methods behaved while they were watched."""

    file: BinaryIO
    printed: bytes = b""
    """What they printed on stdout."""
    changed: set[str] = dataclasses.field(default_factory=set)
    """What they left changed in the process, as "current folder"."""


_at_work: list[str] = []
"""The method that is a guest right now; one within another is of its party."""
_watched: list[Conduct] = []


@contextmanager
def guest(name: str) -> Iterator[None]:
    """A block that the method's code is at work in, in a process that is the harness's.

    What it prints on stdout, in C too, goes to stderr; current folder, umask, signal handlers, locale,
    warning filters and torch's threads are put back. Raises RunFailedError where it would end or interrupt
    the process; any other error passes, and so does Ctrl-C.
    """
    if _at_work:
        yield
        return
    _at_work.append(name)
    try:
        with ExitStack() as block:
            block.callback(_put_back, _habits())
            block.callback(_put_back_filters, list(warnings.filters))
            block.enter_context(_stdout_to_stderr())
            pressed = block.enter_context(_interrupts_noted())
            try:
                yield
            except Exception:
                raise
            except BaseException as error:
                modules = (
                    frame.f_globals.get("__name__") for frame, _ in traceback.walk_tb(error.__traceback__)
                )
                if HARNESS in modules or (pressed and isinstance(error, KeyboardInterrupt)):
                    raise
                raise RunFailedError(f"{name} gave up with {named(error)}: ask its author why.") from error
    finally:
        _at_work.clear()


@contextmanager
def blamed(name: str) -> Iterator[None]:
    """A block in which what goes wrong is the method's failure: RunFailedError, its name and what it raised.

    What has a sentence already passes.
    """
    try:
        yield
    except WhalebenchError:
        raise
    except Exception as error:
        place = place_in_plug_in(error)
        raise RunFailedError(f"{name} failed with {named(error)}{place}; --debug shows where.") from error


def method_at_work() -> str:
    """The name of the method that is a guest right now, to say whose a mistake is."""
    return _at_work[0] if _at_work else "the method"


@contextmanager
def watch_guests() -> Iterator[Conduct]:
    """A block at whose end it is known how methods behaved in it; what they print is not shown."""
    with tempfile.TemporaryFile() as file:
        _watched.append(Conduct(file))
        try:
            yield _watched[-1]
        finally:
            conduct = _watched.pop()
            file.seek(0)
            conduct.printed = file.read()


@contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """A block in which whatever is written to stdout, or to its descriptor, goes to stderr."""
    _flush()
    place = _watched[-1].file.fileno() if _watched else STDERR
    kept = -1
    with suppress(OSError):  # closed: nothing can be printed there
        kept = os.dup(STDOUT)
        os.dup2(place, STDOUT)
    shown = sys.stderr
    if _watched:
        shown = os.fdopen(os.dup(place), "w", buffering=1, encoding="utf-8", errors="backslashreplace")
    try:
        with redirect_stdout(shown):
            yield
    finally:
        _flush()
        if _watched:
            shown.close()
        if kept >= 0:
            os.dup2(kept, STDOUT)
            os.close(kept)


def _flush() -> None:
    """Hands on what was printed, past `sys.stdout` and by C code, too."""
    for stream in filter(None, (sys.stdout, sys.__stdout__)):
        with suppress(OSError, ValueError):  # it may be closed
            stream.flush()
    with suppress(TypeError):  # Windows has no such library of all that is loaded
        ctypes.CDLL(None).fflush(None)


@contextmanager
def _interrupts_noted() -> Iterator[list[int]]:
    """A block with a list of the Ctrl-C's that fell in it, which are handled as ever."""
    pressed: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield pressed
        return

    def note(number: int, frame: FrameType | None) -> None:
        pressed.append(number)
        before(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield pressed
    finally:
        if signal.getsignal(signal.SIGINT) == note:  # else the method has put in its own, which is put back
            signal.signal(signal.SIGINT, before)


def _habits() -> dict[str, Any]:
    """What a method may change in the process and has to leave as it was, by what it is called."""
    umask = os.umask(0o077)
    os.umask(umask)
    habits: dict[str, Any] = {"umask": umask, "locale": locale.setlocale(locale.LC_ALL)}
    with suppress(OSError):  # someone has removed it
        habits["current folder"] = Path.cwd()
    if threading.current_thread() is threading.main_thread():
        habits["signal handlers"] = {number: signal.getsignal(number) for number in OURS}
    if "torch" in sys.modules:
        habits["threads of torch"] = sys.modules["torch"].get_num_threads()
    return habits


def _put_back(before: Mapping[str, Any]) -> None:
    """Makes the habits again what they were; what was changed is noted where methods are watched."""
    ways: dict[str, Callable[[Any], object]] = {
        "umask": os.umask,
        "locale": lambda name: locale.setlocale(locale.LC_ALL, name),
        "current folder": os.chdir,
        "signal handlers": _put_back_handlers,
        "threads of torch": lambda count: sys.modules["torch"].set_num_threads(count),  # noqa: PLW0108
    }
    after = _habits()
    for habit, value in before.items():
        if after.get(habit) != value:
            with suppress(OSError):
                ways[habit](value)
            if _watched:
                _watched[-1].changed.add(habit)


def _put_back_filters(filters: Sequence[Any]) -> None:
    """Not noted as changed: libraries add to them when they are imported, which may be at any time."""
    if list(warnings.filters) != filters:
        warnings.filters[:] = filters  # type: ignore[index]
        with warnings.catch_warnings():
            pass  # which lets them take effect


def _put_back_handlers(handlers: Mapping[int, Any]) -> None:
    for number, handler in handlers.items():
        if handler is not None and signal.getsignal(number) != handler:
            if number == getattr(signal, "SIGALRM", None):
                signal.alarm(0)  # else it would go off in whatever comes after
            signal.signal(number, handler)
