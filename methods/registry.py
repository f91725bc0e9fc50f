"""Methods by name: those of this package and those other packages declare as `whalebench.methods`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from whalebench import WhalebenchError, did_you_mean
from whalebench.methods.method import Method, MethodConfig

GROUP = "whalebench.methods"
"""The entry-point group; a method's package declares `name = "module:Class"` in it."""


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
    try:
        method = points[name].load()
    except Exception as error:  # another package's module may raise anything
        raise WhalebenchError(
            f"Method '{name}' cannot be loaded ({error}): reinstall its package."
        ) from error
    if not (isinstance(method, type) and issubclass(method, Method)):
        raise WhalebenchError(f"Method '{name}' is {method!r}, no Method class: ask its package's author.")
    return method


def declared_class(name: str) -> str:
    """Where the method of that name is declared to be, as "module:Class"; empty where none is."""
    points = _entry_points()
    return points[name].value if name in points else ""


def modules_of(method: type[Method], config: MethodConfig) -> tuple[str, ...]:
    """The modules of a configured method: its own, and those of all methods that it or one within it names.

    An `ensemble` names its members in a text, as any method does that wraps others.
    """
    texts = [text for each in _with_inner(config) for text in _texts(each.model_dump())]
    words = {word for text in texts for word in re.split(r"[^\w.-]+", text)}
    named = [find_method(name) for name in method_names() if name in words]
    classes = [kind for each in (method, *named) for kind in (each, each.Config)]
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
        return method.Config.model_validate_strings(by_part(settings))
    except ValidationError as error:
        raise WhalebenchError(_sentence(method, error)) from error


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


def _entry_points() -> dict[str, EntryPoint]:
    points: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        if point.name in points and points[point.name].value != point.value:
            raise WhalebenchError(
                f"Two installed packages declare a method '{point.name}' ({points[point.name].value} and "
                f"{point.value}): uninstall one of them."
            )
        points[point.name] = point
    return points


def _sentence(method: type[Method], error: ValidationError) -> str:
    first = error.errors()[0]
    field, message = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
    if not field:
        return f"'{method.name}' cannot be set so: {message}."
    return f"'{method.name}' cannot take {field}={first['input']!r}: {message[0].lower()}{message[1:]}."
