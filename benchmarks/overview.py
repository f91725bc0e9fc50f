"""What there is, as plain rows for whoever shows it: benchmarks, methods, splits, this machine.

Every method and every field of its configuration, each field once: where the class that declares it is.
"""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Iterable, Mapping
from functools import reduce
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from whalebench.benchmarks.core.catalog import Catalog, read_facts
from whalebench.benchmarks.core.machine import hardware, versions
from whalebench.benchmarks.core.record import read_runs
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.registry import benchmark_names
from whalebench.methods.method import Choice, Method, Search
from whalebench.methods.registry import configure, fields_of, find_method, method_names
from whalebench.splits.split import Split

Row = dict[str, Any]


def benchmark_rows(workspace: Workspace) -> list[Row]:
    """A row a benchmark: what is in it, and how many runs it has."""
    runs = [record.benchmark for record in read_runs(workspace.runs).records]
    rows = []
    for name in benchmark_names(workspace):
        folder = workspace.benchmarks / name
        if (folder / "catalog.json").exists():
            facts = read_facts(folder)
        else:
            facts = {"source": "drawn by whalebench the first time it is run"}
        kept = ("photos", "individuals", "new_photos", "quarantined", "source")
        rows.append({"name": name} | {key: facts.get(key) for key in kept} | {"runs": runs.count(name)})
    return rows


def catalog_facts(catalog: Catalog) -> Row:
    """What a catalog holds, in numbers."""
    table = catalog.table
    photos = table.loc[table["identity"] != "", "identity"].value_counts()
    annotated = table["x0"].notna()
    sides = list(zip(table["width"].tolist(), table["height"].tolist(), strict=True))
    areas = [width * height for width, height in sides]
    return {
        "name": catalog.name,
        "digest": catalog.digest,
        "photos": len(table),
        "individuals": len(photos),
        "photos of new individuals": int((table["identity"] == "").sum()),
        "individuals with one photo": int((photos == 1).sum()),
        "most photos of one individual": int(photos.max()) if len(photos) else 0,
        "encounters": int(table.loc[table["encounter"] != "", "encounter"].nunique()),
        "photos with a box": int(annotated.sum()),
        "photos with a mask": int((table["mask"] != "").sum()),
        "landmarks": ", ".join(
            f"{name} ({int(table[f'{name}_x'].notna().sum())} photos)" for name in catalog.landmark_names
        ),
        "smallest photo": "{} x {}".format(*sides[areas.index(min(areas))]),
        "largest photo": "{} x {}".format(*sides[areas.index(max(areas))]),
    }


def split_rows(split: Split) -> list[Row]:
    """A row a fold and part: photos, individuals, and photos of individuals that are new there."""
    return [
        {"fold": fold["fold"], "part": part} | fold[part]
        for fold in split.counts["folds"]
        for part in ("train", "valid", "test")
    ]


def split_facts(split: Split) -> Row:
    """How a split was made, and what became of individuals that cannot be in two parts."""
    facts: Row = {"protocol": split.protocol, "digest": split.digest} | dict(split.parameters)
    counts = {key.replace("_", " "): value for key, value in split.counts.items() if key != "folds"}
    return facts | counts


def method_rows() -> list[Row]:
    """A row a method: name, what it does, where it comes from, what a recipe's system was said to score."""
    rows = []
    for name in method_names():
        method = find_method(name)
        facts = {"summary": method.summary, "source": method.source, "published": method.published}
        rows.append({"name": name} | facts)
    return rows


def field_rows(name: str) -> list[Row]:
    """A row a field of the method: its default, what may be given, where tuning looks, what it means."""
    method = find_method(name)
    defaults = configure(method, ()).model_dump(mode="json")
    return [field_row(field, info, _default(defaults, field)) for field, info in fields_of(method.Config)]


def field_row(field: str, info: FieldInfo, default: Any) -> Row:
    """The row of one field, its default given as JSON has it."""
    search = next((mark for mark in info.metadata if isinstance(mark, Search | Choice)), None)
    kind = getattr(info.annotation, "__name__", "")
    values = _words(info.annotation)
    return {
        "field": field,
        "type": " | ".join(values) if values else kind,
        "default": default,
        "search": _searched(search) if search else "",
        "meaning": " ".join((info.description or "").split()),
    }


def _searched(mark: Search | Choice) -> str:
    if isinstance(mark, Choice):
        return ", ".join(mark.values)
    return f"{mark.low:g} to {mark.high:g}{' (log)' if mark.log else ''}"


def _words(kind: Any) -> list[str]:
    """The values that a Literal allows, or several of them put together."""
    if get_origin(kind) is Literal:
        return [str(value) for value in get_args(kind)]
    parts = [_words(part) for part in get_args(kind)] if get_origin(kind) in (Union, UnionType) else []
    return [word for part in parts for word in part]


def _default(defaults: Row, field: str) -> Any:
    """The default of a field, or of a part's field after its name and a dot."""
    return reduce(lambda group, name: group[name], field.split("."), defaults)


def doctor_rows(workspace: Workspace) -> list[Row]:
    """What this machine has, and whether it is enough."""
    free = shutil.disk_usage(workspace.root).free / 2**30
    facts: Row = {**versions(), **hardware("auto"), "workspace": str(workspace.root)}
    del facts["device"]
    rows = [_doctor_row(key, value, value != "absent", "pip install it") for key, value in facts.items()]
    rows.append(_doctor_row("free disk", f"{free:.1f} GiB", free > 1, "free at least 1 GiB"))
    return [*rows, _accelerator_row(), _vision_row()]


def _doctor_row(what: str, found: object, ok: bool, remedy: str) -> Row:
    return {"what": what, "found": found, "ok": ok, "remedy": "" if ok else remedy}


def _accelerator_row() -> Row:
    try:
        import torch
    except (ImportError, OSError) as error:
        return _doctor_row("torch", f"does not start: {error}", False, "pip install --force-reinstall torch")
    found = "none: runs on the processor"
    if torch.cuda.is_available():
        found = torch.cuda.get_device_name(0)
    elif torch.backends.mps.is_available():
        found = "Apple MPS"
    return _doctor_row("accelerator", found, True, "")


def _vision_row() -> Row:
    try:
        from torchvision.transforms.v2 import functional  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        # The usual reason: a torch and a torchvision that were not made for each other.
        remedy = "install both with one pip command and no version"
        return _doctor_row("torchvision with torch", str(error), False, remedy)
    return _doctor_row("torchvision with torch", "works", True, "")


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
