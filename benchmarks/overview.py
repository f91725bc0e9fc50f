"""What there is, as plain rows for whoever shows it: benchmarks, methods, splits, this machine."""

from __future__ import annotations

import shutil
from functools import reduce
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from whalebench.benchmarks.catalog import Catalog, read_facts
from whalebench.benchmarks.machine import hardware, versions
from whalebench.benchmarks.record import read_runs
from whalebench.benchmarks.registry import benchmark_names
from whalebench.benchmarks.workspace import Workspace
from whalebench.methods.method import Choice, Search
from whalebench.methods.registry import configure, fields_of, find_method, method_names
from whalebench.splits.store import Split

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
        import torch  # noqa: PLC0415  (seconds to import; a broken torch is found here)
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
        from torchvision.transforms.v2 import functional  # noqa: F401, PLC0415
    except (ImportError, OSError, RuntimeError) as error:
        # The usual reason: a torch and a torchvision that were not made for each other.
        remedy = "install both with one pip command and no version"
        return _doctor_row("torchvision with torch", str(error), False, remedy)
    return _doctor_row("torchvision with torch", "works", True, "")
