"""Methods by name: those of this package and those other packages declare as `whalebench.methods`.

Whoever wrote them, they are guests here: `guest` is the block that their code is at work in.
"""

from __future__ import annotations

import ctypes
import dataclasses
import locale
import os
import re
import signal
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from whalebench import RunFailedError, WhalebenchError, did_you_mean, one_line
from whalebench.methods.method import Method, MethodConfig

GROUP = "whalebench.methods"
"""The entry-point group; a method's package declares `name = "module:Class"` in it."""
FACTS = ("name", "summary", "source")
"""What every method says of itself."""
HARNESS = "whalebench.benchmarks.running.harness"
"""The module by which a method calls back: what comes through it is not the method's doing."""
OURS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGALRM") if hasattr(signal, name)
)
"""Signals whose handlers are put back when a method has been at work."""
STDOUT, STDERR = 1, 2


def method_names() -> tuple[str, ...]:
    """The names of all installed methods, sorted; nothing heavy is imported."""
    return tuple(sorted(_entry_points()))


def find_method(name: str) -> type[Method]:
    """The method of that name; raises WhalebenchError with a suggestion for an unknown one."""
    points = _entry_points()
    if name not in points:
        hint = did_you_mean(name, sorted(points), f"there are {', '.join(sorted(points))}.")
        raise WhalebenchError(
            f"There is no method '{name}': {hint} (A new one is known once its package is installed again.)"
        )
    point, *others = points[name]
    if others:
        raise WhalebenchError(
            f"Two installed packages declare a method '{name}' ({point.value} and {others[0].value}): "
            f"uninstall one of them."
        )
    try:
        with guest(name):
            method = point.load()
    except Exception as error:  # another package's module may raise anything
        cause = error.__cause__ if isinstance(error, RunFailedError) and error.__cause__ else error
        raise WhalebenchError(
            f"Method '{name}' cannot be loaded ({named(cause)}): reinstall its package."
        ) from error
    if not (isinstance(method, type) and issubclass(method, Method)):
        shown = one_line(repr(method), 80)
        raise WhalebenchError(f"Method '{name}' is {shown}, no Method class: ask its package's author.")
    if lacking := [fact for fact in FACTS if not isinstance(getattr(method, fact, None), str)]:
        raise WhalebenchError(
            f"Method '{name}' has no {lacking[0]}: ask its package's author to give the class one, a text."
        )
    return method


def _loaded(name: str) -> type[Method] | None:
    """The method of that name; None where it cannot be loaded, which is no matter to others."""
    try:
        return find_method(name)
    except WhalebenchError:
        return None


def unloadable() -> dict[str, str]:
    """Why installed methods cannot be loaded, by name: a sentence each. All methods are imported."""
    reasons = {}
    for name in method_names():
        try:
            find_method(name)
        except WhalebenchError as error:
            reasons[name] = str(error)
    return reasons


def declared_class(name: str) -> str:
    """Where the method of that name is declared to be, as "module:Class"; empty where none is."""
    return " or ".join(point.value for point in _entry_points().get(name, ()))


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
        raise RunFailedError(f"{name} failed with {named(error)}; --debug shows where.") from error


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
    shown = os.fdopen(os.dup(place), "w", buffering=1) if _watched else sys.stderr
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


def modules_of(method: type[Method], config: MethodConfig) -> tuple[str, ...]:
    """The modules of a configured method: its own, and those of all methods that it or one within it names.

    An `ensemble` names its members in a text, as any method does that wraps others.
    """
    texts = [text for each in _with_inner(config) for text in _texts(each.model_dump())]
    words = {word for text in texts for word in re.split(r"[^\w.-]+", text)}
    others = [loaded for name in method_names() if name in words and (loaded := _loaded(name))]
    classes = [kind for each in (method, *others) for kind in (each, each.Config)]
    return tuple(sorted({kind.__module__ for kind in classes}))


def _with_inner(config: MethodConfig) -> Iterator[MethodConfig]:
    """The configuration and those of all methods within."""
    yield config
    for inner in config.within():
        yield from _with_inner(inner)


def _texts(value: object) -> Iterator[str]:
    """Every text in a value that may hold others."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)
    elif isinstance(value, str):
        yield value


def configure(method: type[Method], settings: Sequence[str]) -> MethodConfig:
    """The method's configuration with `key=value` settings applied over its defaults.

    Raises WhalebenchError naming the field, the value and what is expected.
    """
    for setting in settings:
        key, equals, _ = setting.partition("=")
        if not equals:
            raise WhalebenchError(
                f"--set {setting} has no value: write key=value, for example --set epochs=10."
            )
        _check_field(method, key)
    try:
        with guest(method.name):
            return method.Config.model_validate_strings(by_part(settings))
    except ValidationError as error:
        raise WhalebenchError(_sentence(method, error)) from error
    except WhalebenchError:
        raise
    except Exception as error:  # of what the method checks itself
        raise WhalebenchError(f"'{method.name}' cannot be set so: {named(error)}.") from error


def by_part(settings: Iterable[str]) -> dict[str, Any]:
    """The values of `key=value` settings by key; those of a part, as part.key=value, in a mapping for it."""
    values: dict[str, Any] = {}
    for setting in settings:
        key, _, value = setting.partition("=")
        *parts, field = key.split(".")
        group = values
        for part in parts:
            group = group.setdefault(part, {})
        group[field] = value
    return values


def configure_inner(name: str, settings: str) -> MethodConfig:
    """The configuration of a method within another; its fields are given as backbone=resnet18,epochs=10."""
    return configure(find_method(name), [each for each in settings.split(",") if each])


def fields_of(config: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every field that can be set, with what is known of it; those of a part after its name and a dot."""
    for name, field in config.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from fields_of(kind, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def _check_field(method: type[Method], key: str) -> None:
    fields = sorted(name for name, _ in fields_of(method.Config))
    if key not in fields:
        inside = [name for name in fields if name.startswith(f"{key}.")]
        hint = f"write one of {', '.join(inside)}." if inside else ""
        hint = hint or did_you_mean(key, fields, f"there are {', '.join(fields)}.")
        raise WhalebenchError(f"'{method.name}' has no field '{key}': {hint}")


def _entry_points() -> dict[str, tuple[EntryPoint, ...]]:
    """By name what declares it: more than one where packages are at odds, which is told who asks for it."""
    points: dict[str, dict[str, EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        points.setdefault(point.name, {})[point.value] = point
    return {name: tuple(declared.values()) for name, declared in points.items()}


def _sentence(method: type[Method], error: ValidationError) -> str:
    first = error.errors()[0]
    field, message = ".".join(map(str, first["loc"])), one_line(first["msg"].removeprefix("Value error, "))
    if not field:
        return f"'{method.name}' cannot be set so: {message}."
    given = one_line(repr(first["input"]), 80)
    return f"'{method.name}' cannot take {field}={given}: {message[0].lower()}{message[1:]}."
