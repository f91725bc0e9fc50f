"""Every method and every field of its configuration, each field once: where the class that declares it is."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from whalebench.benchmarks.overview import Row, field_row
from whalebench.methods.method import Method
from whalebench.methods.registry import find_method, method_names

OWN = "whalebench."
"""How the modules of this package begin; methods of other packages are not in the guide."""


def guide_sections() -> dict[str, list[Row]]:
    """Sections by kind: "methods", "shared" (fields of several), "parts" (set after a name and a dot).

    A section has title, summary, fields and titles of the sections whose fields it has, too; a method's also
    source, published and, for a recipe, what it sets at each scale.
    """
    every = [find_method(name) for name in method_names()]
    methods = [method for method in every if method.__module__.startswith(OWN)]
    titles: dict[type[BaseModel], str] = {method.Config: method.name for method in methods}
    whole = {kind for method in methods for kind in _family(method.Config)}
    shared = sorted(whole - set(titles), key=lambda kind: (len(kind.__mro__), kind.__name__))
    titles |= {kind: f"{_noun(kind)} (shared)" for kind in shared}
    parts = sorted(_parts(whole) - set(titles), key=lambda kind: kind.__name__)
    titles |= {kind: f"{_noun(kind)} (part)" for kind in parts}
    return {
        "methods": [_method(method, titles) for method in methods],
        "shared": [_section(kind, titles) for kind in shared],
        "parts": [_section(kind, titles) for kind in parts],
    }


def _method(method: type[Method], titles: Mapping[type[BaseModel], str]) -> Row:
    scales = getattr(method.Config, "scales", {})
    facts = {"summary": method.summary, "source": method.source, "published": method.published}
    at_scale = {scale: _flat(values) for scale, values in scales.items()}
    return _section(method.Config, titles) | facts | {"title": method.name, "scales": at_scale}


def _section(kind: type[BaseModel], titles: Mapping[type[BaseModel], str]) -> Row:
    own = [name for name in inspect.get_annotations(kind) if name in kind.model_fields]
    return {
        "title": titles[kind],
        "summary": (inspect.getdoc(kind) or "").split("\n")[0],
        "also": [titles[parent] for parent in _family(kind)[1:]],
        "fields": [_field(name, kind.model_fields[name], titles) for name in own],
    }


def _field(name: str, info: FieldInfo, titles: Mapping[type[BaseModel], str]) -> Row:
    default = info.get_default(call_default_factory=True)
    part = type(default) if isinstance(default, BaseModel) else None
    if part is None:
        return field_row(name, info, to_jsonable_python(default)) | {"part": ""}
    # Of a part only what is not its own default is said.
    usual, here = (to_jsonable_python(each) for each in (part(), default))
    differs = {key: value for key, value in here.items() if value != usual[key]}
    return field_row(name, info, differs) | {"part": titles[part]}


def _family(kind: type[BaseModel]) -> list[type[BaseModel]]:
    """The class and its parents, as far as they declare fields."""
    parents = [parent for parent in kind.__mro__ if issubclass(parent, BaseModel)]
    return [
        parent
        for parent in parents
        if parent is kind or set(inspect.get_annotations(parent)) & set(parent.model_fields)
    ]


def _parts(kinds: Iterable[type[BaseModel]]) -> set[type[BaseModel]]:
    """The configurations that are fields of these, with their parents; those within parts, too."""
    found: set[type[BaseModel]] = set()
    waiting = list(kinds)
    while waiting:
        for info in waiting.pop().model_fields.values():
            kind = info.annotation
            if isinstance(kind, type) and issubclass(kind, BaseModel) and kind not in found:
                new = set(_family(kind)) - found
                found |= new
                waiting += new
    return found


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Values by the names that are typed, those of parts after a name and a dot."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        more = _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: str(value)}
        flat |= more
    return flat


def _noun(kind: type[BaseModel]) -> str:
    return kind.__name__.removesuffix("Config")
