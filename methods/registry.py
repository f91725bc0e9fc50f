"""Methods by name: those of this package, those other packages declare as `whalebench.methods`, and files.

A file with one Method class is a method, too: it is loaded from its path, and known by its name from then on.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from importlib.machinery import SourceFileLoader
from importlib.metadata import EntryPoint, entry_points
from importlib.util import module_from_spec, spec_from_loader
from inspect import isabstract
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from whalebench import RunFailedError, WhalebenchError, did_you_mean, one_line
from whalebench.benchmarks.core.code import GROUP, OF_FILE, place_in_plug_in
from whalebench.benchmarks.core.files import regular_file
from whalebench.methods.guests import guest, named
from whalebench.methods.method import Method, MethodConfig, PartConfig

FACTS = ("name", "summary", "source")
"""What every method says of itself."""
SUFFIX = ".py"
"""How a method ends that is given by its file."""
NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,79}", re.ASCII)
"""A method's name, which folders are called by."""


class MethodFile(NamedTuple):
    """A file that a method was loaded from."""

    path: Path
    text: bytes
    """What it said then."""
    method: type[Method]


_files: dict[str, MethodFile] = {}
"""Those loaded in this process, by the names of their methods."""


def method_names() -> tuple[str, ...]:
    """The names of all installed methods, sorted; nothing heavy is imported."""
    return tuple(sorted(_entry_points()))


def find_method(name: str) -> type[Method]:
    """The method of that name; raises WhalebenchError with a suggestion for an unknown one."""
    if name in _files:
        return _files[name].method
    points = _entry_points()
    if name not in points:
        hint = did_you_mean(name, sorted(points), f"there are {', '.join(sorted(points))}.")
        raise WhalebenchError(
            f"There is no method '{name}': {hint} (A new one is known once its package is installed again, "
            f"or by its file.)"
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
    if lacking := _lacking(method):
        raise WhalebenchError(
            f"Method '{name}' has no {lacking}: ask its package's author to give the class one, a text."
        )
    return method


def _lacking(method: type[Method]) -> str:
    """The first thing that the method does not say of itself; empty where it says all."""
    return next((fact for fact in FACTS if not isinstance(getattr(method, fact, None), str)), "")


def name_of(method: str) -> str:
    """The name of a method that is given by it, or by its file, as ./my_method.py, which is loaded then.

    A file is loaded again when it says something else. Raises WhalebenchError for one that cannot be loaded,
    holds no method or several, or one that is called as another.
    """
    if not method.endswith(SUFFIX):
        return method
    path = Path(method).resolve()
    try:
        text = regular_file(path).read_bytes()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise WhalebenchError(
            f"The method {method} cannot be read ({why}): give the path of a Python file, or a method's name."
        ) from error
    for name, file in list(_files.items()):
        if file.path == path and file.text == text:
            return name
        if file.path == path or not file.path.exists():
            del _files[name]
    found = _only_method(path, _load(path, text))
    _refuse_taken(found.name, path)
    _files[found.name] = MethodFile(path, text, found)
    return found.name


def file_of(name: str) -> Path | None:
    """The file that the method of that name was loaded from; None for an installed one."""
    return _files[name].path if name in _files else None


def _load(path: Path, text: bytes) -> ModuleType:
    """The file as a module, made of this text: no compiled one is looked for or left behind."""
    name = OF_FILE + re.sub(r"\W", "_", path.stem)
    other = next((file.path for file in _files.values() if file.method.__module__ == name), None)
    if other:
        raise WhalebenchError(f"{path} and {other} are files of one name: rename one of them.")
    loader = SourceFileLoader(name, str(path))
    spec = spec_from_loader(name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    sys.modules[name] = module  # by which its classes and its code are found
    try:
        with guest(path.name):
            exec(loader.source_to_code(text, str(path)), module.__dict__)  # noqa: S102  (what the user asks for)
    except Exception as error:  # the file's own
        del sys.modules[name]
        cause = error.__cause__ if isinstance(error, RunFailedError) and error.__cause__ else error
        raise WhalebenchError(
            f"{path} cannot be loaded, by an error of its own: {named(cause)}{place_in_plug_in(cause)}."
        ) from error
    return module


def _only_method(path: Path, module: ModuleType) -> type[Method]:
    """The one method that is defined in the module of a file."""
    defined = [
        kind
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Method) and kind.__module__ == module.__name__
    ]
    methods = [kind for kind in dict.fromkeys(defined) if not isabstract(kind)] or defined
    if not methods:
        raise WhalebenchError(
            f"{path} defines no Method class: write one (docs/add-a-method.md), or give the file that does."
        )
    if len(methods) > 1:
        names = one_line(", ".join(kind.__name__ for kind in methods), 80)
        raise WhalebenchError(f"{path} defines several methods ({names}): leave one in each file.")
    if lacking := _lacking(methods[0]):
        raise WhalebenchError(
            f"{methods[0].__name__} in {path} has no {lacking}: give the class one, a text."
        )
    return methods[0]


def _refuse_taken(name: str, path: Path) -> None:
    """Raises WhalebenchError for a name that a method of a file cannot have."""
    if NAME.fullmatch(name) is None or name.endswith(SUFFIX):
        shown = one_line(repr(name), 80)
        raise WhalebenchError(
            f"The method in {path} cannot be called {shown}: use letters, digits, - and _ in its name."
        )
    other = f"an installed one ({declared_class(name)})" if name in _entry_points() else ""
    if other := str(file_of(name) or other):
        raise WhalebenchError(
            f"The method in {path} is called '{name}', as {other} is: give it another name."
        )


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
    if name in _files:
        kind = _files[name].method
        return f"{kind.__module__}:{kind.__qualname__}"
    return " or ".join(point.value for point in _entry_points().get(name, ()))


def modules_of(method: type[Method], config: MethodConfig) -> tuple[str, ...]:
    """The modules of a configured method: its own, and those of all methods that it or one within it names.

    An `ensemble` names its members in a text, as any method does that wraps others.
    """
    texts = [text for each in _with_inner(config) for text in _texts(each.model_dump())]
    words = {word for text in texts for word in re.split(r"[^\w.-]+", text)}
    names = (*method_names(), *_files)
    others = [loaded for name in names if name in words and (loaded := _loaded(name))]
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
        part, _, field = key.rpartition(".")
        if why := _former(method.Config, part).get(field):
            raise WhalebenchError(f"'{method.name}' has no field '{key}' any more: {why}; leave it out.")
        inside = [name for name in fields if name.startswith(f"{key}.")]
        hint = f"write one of {', '.join(inside)}." if inside else ""
        hint = hint or did_you_mean(key, fields, f"there are {', '.join(fields)}.")
        raise WhalebenchError(f"'{method.name}' has no field '{key}': {hint}")


def _former(config: type[BaseModel], part: str) -> Mapping[str, str]:
    """The former fields of a part of the configuration, by its name with dots; of the whole by ""."""
    for name in part.split(".") if part else ():
        field = config.model_fields.get(name)
        kind = field and field.annotation
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            return {}
        config = kind
    return config.former if issubclass(config, PartConfig) else {}


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
