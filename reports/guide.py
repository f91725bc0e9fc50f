"""The page that names every method and every field, as Markdown."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from whalebench.reports.wording import UNDEFINED, typed

Section = Mapping[str, Any]

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


def methods_page(sections: Mapping[str, Sequence[Section]]) -> str:
    """The page of the sections that `benchmarks.guide` gives: a table of methods, then the fields of each."""
    rows = [
        (f"[{each['title']}](#{anchor(each['title'])})", each["summary"], each["source"], each["published"])
        for each in sections["methods"]
    ]
    blocks = [HEAD, _table(("method", "what it does", "paper or system", "published score"), rows)]
    blocks += [_section(each, f"## `{each['title']}`") for each in sections["methods"]]
    for kind, head in (("shared", SHARED), ("parts", PARTS)):
        blocks += [head, *(_section(each, f"### {each['title']}") for each in sections[kind])]
    return "\n".join(blocks)


def anchor(title: str) -> str:
    """The name by which a heading is linked to.

    >>> anchor("Training (shared)")
    'training-shared'
    """
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _section(section: Section, heading: str) -> str:
    """Heading, summary, the sections whose fields it shares, what a recipe sets, the table of fields."""
    summary = section["summary"].rstrip(".")
    blocks = [heading, f"{summary[:1].upper()}{summary[1:]}."]
    if section["also"]:
        links = ", ".join(f"[{title}](#{anchor(title)})" for title in section["also"])
        blocks.append(f"Also the fields of {links}.")
    for scale, values in section.get("scales", {}).items():
        settings = " ".join(f"`{name}={value}`" for name, value in values.items())
        blocks.append(f"At `scale={scale}`: {settings or 'the defaults'}.")
    rows = [
        (f"`{each['field']}`", _default(each), _values(each), each["meaning"]) for each in section["fields"]
    ]
    if rows:
        blocks.append(_table(("field", "default", "values", "meaning"), rows).rstrip())
    return "\n\n".join(blocks) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(cell.replace('|', '&#124;') or UNDEFINED for cell in row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def _default(row: Mapping[str, Any]) -> str:
    value = row["default"]
    if row["part"]:
        return " ".join(f"`{key}={typed(inner)}`" for key, inner in value.items())
    return "" if value in (None, "") else f"`{typed(value)}`"


def _values(row: Mapping[str, Any]) -> str:
    """The words that are allowed, where tuning looks, or the part whose fields there are."""
    if row["part"]:
        return f"[{row['part']}](#{anchor(row['part'])})"
    words = ", ".join(f"`{word}`" for word in row["type"].split(" | ")) if " | " in row["type"] else ""
    tuned = f"tuned in {row['search']}" if row["search"] else ""
    return "; ".join(filter(None, (words, tuned)))
