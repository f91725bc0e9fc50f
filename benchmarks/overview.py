"""What there is to list: benchmarks, catalogs, splits, methods; and the page of all methods and fields."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import pandas as pd
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from whalebench import WhalebenchError, did_you_mean, one_line
from whalebench.benchmarks.core.catalog import DETAILS, GIVEN, NAMELESS, Catalog, read_facts, regions_of
from whalebench.benchmarks.core.record import read_runs
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.presets import CHOSEN
from whalebench.benchmarks.registry import benchmark_names
from whalebench.methods.method import Choice, Rung, Search
from whalebench.methods.registry import (
    configure,
    declared_class,
    fields_of,
    find_method,
    method_names,
    name_of,
    unloadable,
)
from whalebench.splits.groupings import days_of
from whalebench.splits.split import Split

Row = dict[str, Any]
FIRST = 15
"""Fields of a method that are shown unless all are asked for."""
TOP = 5
"""Values of a column that are shown of a catalog."""


def benchmark_rows(workspace: Workspace) -> list[Row]:
    """A row a benchmark: what is in it, and how many runs it has."""
    runs = [record.benchmark for record in read_runs(workspace.runs).records]
    rows = []
    for name in benchmark_names(workspace):
        folder = workspace.benchmarks / name
        facts: Row = {"source": "drawn by whalebench the first time it is run"}
        if (folder / "catalog.json").exists():
            try:
                facts = {"not_identified_photos": 0} | read_facts(folder)
            except WhalebenchError as error:  # the others are to be seen all the same
                facts = {"source": str(error)}
        kept = ("photos", "individuals", "new_photos", "not_identified_photos", "quarantined", "source")
        rows.append({"name": name} | {key: facts.get(key) for key in kept} | {"runs": runs.count(name)})
    return rows


def catalog_facts(catalog: Catalog) -> Row:
    """What a catalog holds, in numbers."""
    table = catalog.table
    photos = table.loc[table["identity"].isin(catalog.identities), "identity"].value_counts()
    boxes = zip(table["x0"].notna(), regions_of(table), strict=True)
    sides = list(zip(table["width"].tolist(), table["height"].tolist(), strict=True))
    areas = [width * height for width, height in sides]
    facts: Row = {
        "name": catalog.name,
        "digest": catalog.digest,
        "photos": len(table),
        "individuals": len(photos),
        "photos of new individuals": int((table["identity"] == "").sum()),
        "photos not yet identified": len(table) - len(catalog.identified.table),
        "individuals with one photo": int((photos == 1).sum()),
        "most photos of one individual": int(photos.max()) if len(photos) else 0,
        "encounters": int(table.loc[table["encounter"] != "", "encounter"].nunique()),
        "groups of duplicates": len(set(table.get("duplicates", ())) - {""}),
        **({"given": GIVEN} if catalog.has_given_boxes else {}),
        "photos with a box": sum(has_box and region is None for has_box, region in boxes),
        "photos with a mask": int((table["mask"] != "").sum()),
        "landmarks": ", ".join(
            f"{name} ({int(table[f'{name}_x'].notna().sum())} photos)" for name in catalog.landmark_names
        ),
        "smallest photo": "{} x {}".format(*sides[areas.index(min(areas))]),
        "largest photo": "{} x {}".format(*sides[areas.index(max(areas))]),
    }
    return facts | _said_of_photos(catalog) | _viewpoint_facts(table)


def _said_of_photos(catalog: Catalog) -> Row:
    """What is known besides who is on the photos, and what the import made of it; only what is there."""
    from whalebench.benchmarks.correcting import history_rows  # who lists methods need not wait for it

    table, derived = catalog.table, catalog.derived
    facts: Row = {}
    if days := sorted(filter(None, days_of(table))):
        facts["photos with a day"] = f"{len(days):,}, {days[0]} to {days[-1]}"
    facts |= {key: said for key, said in derived.items() if not isinstance(said, Mapping | list)}
    facts |= history_rows(catalog)
    if aliases := derived.get("aliases"):
        rows = sum(names[-1] for names in aliases["names"])
        facts["aliases"] = f"{len(aliases['names']):,} names of {rows:,} photos, by {aliases['file']}"
    return facts | {column: most_common(table[column]) for column in DETAILS if column in table}


def most_common(values: Iterable[str]) -> str:
    """The values that are most frequent, each with its count; empty ones do not count.

    >>> most_common(["left", "right", "left", ""])
    'left (2), right (1)'
    """
    counts = Counter(value for value in values if value)
    shown = [f"{one_line(value, 60)} ({count:,})" for value, count in counts.most_common(TOP)]
    return ", ".join(shown) + (f" and {len(counts) - TOP:,} more" if len(counts) > TOP else "")


def _viewpoint_facts(table: pd.DataFrame) -> Row:
    """Photos and individuals by viewpoint, and individuals that are seen from one only; empty without any.

    A photo without a viewpoint may show any, so its individual is not taken for seen from one only.
    """
    if not (table["viewpoint"] != "").any():
        return {}
    sides = []
    for viewpoint in sorted(set(table["viewpoint"]), key=lambda name: (not name, name)):
        part = table[table["viewpoint"] == viewpoint]
        individuals = len(set(part["identity"]).difference(NAMELESS))
        sides.append(f"{viewpoint or 'not given'} ({len(part)} photos of {individuals} individuals)")
    seen_from = table[~table["identity"].isin(NAMELESS)].groupby("identity")["viewpoint"].agg(set)
    alone = sum(len(each) == 1 and "" not in each for each in seen_from)
    return {"viewpoints": ", ".join(sides), "individuals from one viewpoint only": alone}


def split_rows(split: Split) -> list[Row]:
    """A row a fold and part: photos, individuals, and photos of individuals that are new there."""
    return [
        {"fold": fold["fold"], "part": part} | fold[part]
        for fold in split.counts["folds"]
        for part in ("train", "valid", "test", "gallery")
        if part in fold
    ]


def split_facts(split: Split) -> Row:
    """How a split was made, and what became of individuals that cannot be in two parts."""
    facts: Row = {"protocol": split.protocol, "digest": split.digest} | dict(split.parameters)
    counts = {key.replace("_", " "): value for key, value in split.counts.items() if key != "folds"}
    return facts | counts


def method_rows() -> list[Row]:
    """A row a method: name, what it does, where it comes from, what a recipe's system was said to score.

    Of one that cannot be loaded, why.
    """
    facts, broken = ("summary", "source", "published"), unloadable()
    rows = []
    for name in method_names():
        said = {"summary": broken.get(name, "")}
        said = said if name in broken else {fact: getattr(find_method(name), fact) for fact in facts}
        rows.append({"name": name} | {fact: one_line(said.get(fact, ""), 300) for fact in facts})
    return rows


def ladder_rows(name: str) -> list[Row]:
    """A row a step of the system that a recipe repeats: what it scored, and what takes it here."""
    return [
        {"step": one.step, "published": one.published, "here": one.settings}
        for one in find_method(name_of(name)).ladder
    ]


def field_rows(name: str, word: str = "") -> list[Row]:
    """A row a field of the method: default, what may be given, where tuning looks, what it means, its group.

    A group is what a configuration says of itself, of a part after the part's name. With a word only the
    fields that have it in their name, group or meaning. Raises WhalebenchError where none has.
    """
    method = find_method(name_of(name))
    defaults = configure(method, ()).model_dump(mode="json")
    groups = _groups(method.Config)
    rows = [
        field_row(field, info, reduce(lambda part, key: part[key], field.split("."), defaults))
        | {"group": groups[field]}
        for field, info in fields_of(method.Config)
    ]
    found = [row for row in rows if word.lower() in f"{row['field']} {row['group']} {row['meaning']}".lower()]
    if word and not found:
        hint = did_you_mean(word, [row["field"] for row in rows], "leave it out to see the first of them.")
        raise WhalebenchError(
            f"'{method.name}' has no field with '{one_line(word, 60)}' in what is said: {hint}"
        )
    return found


def first_fields(name: str, rows: Sequence[Row]) -> list[Row]:
    """Of a method's rows the FIRST that matter most, in their order.

    Those that presets choose come before what is tuned, a choice of words or the method's own, and those
    before all others; parts come last.
    """
    own = set(inspect.get_annotations(find_method(name_of(name)).Config))

    def rank(place: int) -> tuple[bool, bool, bool, int]:
        row = rows[place]
        matters = row["search"] or " | " in row["type"] or row["field"] in own
        return "." in row["field"], row["field"] not in CHOSEN, not matters, place

    return [rows[place] for place in sorted(sorted(range(len(rows)), key=rank)[:FIRST])]


def fields_words(
    name: str, rows: Sequence[Row], first: Sequence[Row]
) -> tuple[str, Sequence[Row], list[str]]:
    """The heading of a method's fields, those that are shown, and a line on what others there are."""
    method = find_method(name_of(name))
    about = one_line((method.Config.__doc__ or "").split("\n")[0])
    title = f"{about or f'Fields of `{method.name}`.'} Set them as --set field=value."
    left = [row["field"] for row in rows if row not in first]
    if not left:
        return title, first, []
    parts = Counter(field.partition(".")[0] for field in left if "." in field)
    others = [field for field in left if "." not in field] + [f"{part}.* ({parts[part]})" for part in parts]
    say = f"{len(left)} more, by `whalebench methods {name} --all`, or a word of their name or meaning for it"
    return title, first, [f"{say}: {', '.join(others)}."]


def _groups(config: Config) -> dict[str, str]:
    """By the name of each field what the configuration that declares it says of itself."""
    declared = {
        name: parent for parent in reversed(_declaring(config)) for name in inspect.get_annotations(parent)
    }
    groups: dict[str, str] = {}
    for name, info in config.model_fields.items():
        part = info.annotation
        if isinstance(part, type) and issubclass(part, BaseModel):
            groups |= {f"{name}.{field}": f"{name}: {said}" for field, said in _groups(part).items()}
        else:
            groups[name] = one_line(
                (inspect.getdoc(declared[name]) or declared[name].__name__).split("\n")[0]
            )
    return groups


def field_row(field: str, info: FieldInfo, default: Any) -> Row:
    """The row of one field, its default given as JSON has it."""
    search = next((mark for mark in info.metadata if isinstance(mark, Search | Choice)), None)
    return {
        "field": field,
        "type": " | ".join(_literals(info.annotation)) or getattr(info.annotation, "__name__", ""),
        "default": default,
        "search": _search_words(search) if search else "",
        "meaning": one_line(info.description or "", 2000),
    }


def _search_words(mark: Search | Choice) -> str:
    if isinstance(mark, Choice):
        return ", ".join(mark.values)
    return f"{mark.low:g} to {mark.high:g}{' (log)' if mark.log else ''}"


def _literals(annotation: Any) -> list[str]:
    """The values that a Literal allows, or several of them put together."""
    if get_origin(annotation) is Literal:
        return [str(value) for value in get_args(annotation)]
    if get_origin(annotation) not in (Union, UnionType):
        return []
    return [value for part in get_args(annotation) for value in _literals(part)]


HEAD = """# Methods and their fields

Written by `whalebench methods --markdown docs/methods.md` from the methods themselves; a test fails when it
is stale. A field is set as `--set field=value`, that of a part after the name of the field that holds it and
a dot (`--set localizer.epochs=20`). [add-a-method.md](add-a-method.md) says how to add a method.
"""
SHARED = """## Shared fields

What methods have in common, each said once; a method with another default says so in its own table.
"""
PARTS = """## Parts

Configurations within a configuration: their fields are set after the name of the field that holds them.
"""
PACKAGE = "whalebench."
"""How the modules of this package begin; methods of other packages are not in the guide."""

Config = type[BaseModel]


def methods_page() -> str:
    """The page of this package's methods and their fields as Markdown, each field where it is declared.

    A table of methods comes first, then a section for each method, for each class that several inherit from,
    and for each part.
    """
    methods = [find_method(name) for name in method_names() if declared_class(name).startswith(PACKAGE)]
    titles: dict[Config, str] = {method.Config: method.name for method in methods}
    inherited = {config for method in methods for config in _declaring(method.Config)}
    shared = sorted(inherited - set(titles), key=lambda config: (len(config.__mro__), config.__name__))
    parts = sorted(_parts(inherited) - inherited, key=lambda config: config.__name__)
    for configs, kind in ((shared, "shared"), (parts, "part")):
        titles |= {config: f"{config.__name__.removesuffix('Config')} ({kind})" for config in configs}
    rows = [(_link(each.name), each.summary, each.source, each.published) for each in methods]
    blocks = [HEAD, _table(("method", "what it does", "paper or system", "published score"), rows)]
    blocks += [
        _section(method.Config, titles, f"## `{method.name}`", method.summary, method.ladder)
        for method in methods
    ]
    for configs, head in ((shared, SHARED), (parts, PARTS)):
        blocks += [head, *(_section(config, titles, f"### {titles[config]}") for config in configs)]
    return "\n".join(blocks)


def _section(
    config: Config,
    titles: Mapping[Config, str],
    heading: str,
    summary: str = "",
    ladder: Sequence[Rung] = (),
) -> str:
    """Heading, summary, inherited fields, what a recipe sets, its ladder, the table of declared fields."""
    summary = (summary or (inspect.getdoc(config) or "").split("\n")[0]).rstrip(".")
    blocks = [heading, f"{summary[:1].upper()}{summary[1:]}."]
    if parents := _declaring(config)[1:]:
        blocks.append(f"Also the fields of {', '.join(_link(titles[parent]) for parent in parents)}.")
    for scale, values in getattr(config, "scales", {}).items():
        settings = " ".join(f"`{name}={value}`" for name, value in _flat(values).items())
        blocks.append(f"At `scale={scale}`: {settings or 'the defaults'}.")
    declared = [name for name in inspect.get_annotations(config) if name in config.model_fields]
    rows = [_field_cells(name, config.model_fields[name], titles) for name in declared]
    if ladder:
        cells = [
            (rung.step, rung.published, f"`{rung.settings}`" if "=" in rung.settings else rung.settings)
            for rung in ladder
        ]
        blocks.append(_table(("step of the system", "published", "here"), cells).rstrip())
    if rows:
        blocks.append(_table(("field", "default", "values", "meaning"), rows).rstrip())
    return "\n\n".join(blocks) + "\n"


def _field_cells(name: str, info: FieldInfo, titles: Mapping[Config, str]) -> tuple[str, ...]:
    """Name, default, allowed values or where tuning looks, and meaning; of a part, a link to its fields."""
    default = info.get_default(call_default_factory=True)
    row = field_row(name, info, to_jsonable_python(default))
    if isinstance(default, BaseModel):
        # Of a part only what is not its own default is said.
        usual = to_jsonable_python(type(default)())
        differs = {key: value for key, value in row["default"].items() if value != usual[key]}
        shown = " ".join(f"`{key}={_typed(value)}`" for key, value in differs.items())
        values = _link(titles[type(default)])
    else:
        shown = "" if default in (None, "") else f"`{_typed(row['default'])}`"
        words = ", ".join(f"`{word}`" for word in row["type"].split(" | ")) if " | " in row["type"] else ""
        tuned = f"tuned in {row['search']}" if row["search"] else ""
        values = "; ".join(filter(None, (words, tuned)))
    return f"`{name}`", shown, values, row["meaning"]


def _declaring(config: Config) -> list[Config]:
    """The class and those of its parents that declare fields."""
    return [
        parent
        for parent in config.__mro__
        if issubclass(parent, BaseModel)
        and (parent is config or set(inspect.get_annotations(parent)) & set(parent.model_fields))
    ]


def _parts(configs: Iterable[Config]) -> set[Config]:
    """The configurations that are fields of these, with their parents; those within parts, too."""
    parts: set[Config] = set()
    waiting = list(configs)
    while waiting:
        for info in waiting.pop().model_fields.values():
            part = info.annotation
            if isinstance(part, type) and issubclass(part, BaseModel) and part not in parts:
                new = set(_declaring(part)) - parts
                parts |= new
                waiting += new
    return parts


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Values by the names that are typed, those of parts after a name and a dot."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        is_part = isinstance(value, Mapping)
        flat |= _flat(value, f"{prefix}{name}.") if is_part else {prefix + name: str(value)}
    return flat


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(cell.replace('|', '&#124;') or '–' for cell in row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def _link(title: str) -> str:
    """A link to the heading of that title.

    >>> _link("Training (shared)")
    '[Training (shared)](#training-shared)'
    """
    anchor = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
    return f"[{title}](#{anchor})"


def _typed(value: Any) -> str:
    """A value as it is typed on the command line.

    >>> [_typed(value) for value in ([80, 128], True, 0.5)]
    ['80x128', 'true', '0.5']
    """
    if isinstance(value, list):
        return "x".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
