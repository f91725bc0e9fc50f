"""Methods by name: those of this package and those other packages declare as `whalebench.methods`."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from whalebench import RunFailedError, WhalebenchError, did_you_mean, one_line
from whalebench.methods.guests import guest, named
from whalebench.methods.method import Method, MethodConfig

GROUP = "whalebench.methods"
"""The entry-point group; a method's package declares `name = "module:Class"` in it."""
FACTS = ("name", "summary", "source")
"""What every method says of itself."""


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
    return _declared(entry_points, tuple((path, _changed(path)) for path in sys.path))


def _changed(path: str) -> int:
    """When something was last put into a folder or taken away; 0 where there is none."""
    with suppress(OSError):
        return Path(path).stat().st_mtime_ns
    return 0


@lru_cache(4)
def _declared(
    found: Callable[..., Iterable[EntryPoint]], path: tuple[tuple[str, int], ...]
) -> dict[str, tuple[EntryPoint, ...]]:
    """What all packages on the path declare: read once, as it takes longer than most of what asks for it."""
    del path
    points: dict[str, dict[str, EntryPoint]] = {}
    for point in found(group=GROUP):
        points.setdefault(point.name, {})[point.value] = point
    return {name: tuple(declared.values()) for name, declared in points.items()}


def _sentence(method: type[Method], error: ValidationError) -> str:
    first = error.errors()[0]
    field, message = ".".join(map(str, first["loc"])), one_line(first["msg"].removeprefix("Value error, "))
    if not field:
        return f"'{method.name}' cannot be set so: {message}."
    given = one_line(repr(first["input"]), 80)
    return f"'{method.name}' cannot take {field}={given}: {message[0].lower()}{message[1:]}."
