"""The page of all methods and fields, and the page on adding one, say what the code says."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from whalebench.benchmarks.conformance.suite import CHECKS
from whalebench.benchmarks.overview import field_rows, methods_page
from whalebench.methods.registry import fields_of, find_method, method_names

DOCS = Path(__file__).parents[1] / "docs"
ADD = (DOCS / "add-a-method.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page() -> str:
    return methods_page()


def code(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page, flags=re.S | re.M)


def test_the_page_is_what_the_methods_say(page: str) -> None:
    there = (DOCS / "methods.md").read_text(encoding="utf-8")
    assert there == page, "stale: whalebench methods --markdown docs/methods.md"


def test_every_field_of_a_method_is_found_from_its_section(page: str) -> None:
    parts = re.split(r"^##+ (.+)\n", page, flags=re.M)[1:]
    sections = dict(zip((title.strip("`") for title in parts[::2]), parts[1::2], strict=True))

    def reachable(title: str, prefix: str = "") -> set[str]:
        also = re.search(r"^Also the fields of (.+)$", sections[title], re.M)
        names: set[str] = set()
        for each in (title, *(re.findall(r"\[([^]]+)\]", also[1]) if also else ())):
            for name, values in re.findall(r"^\| `(\w+)` \|[^|]*\|([^|]*)\|", sections[each], re.M):
                part = re.search(r"\[([^]]+ \(part\))\]", values)
                names |= reachable(part[1], f"{prefix}{name}.") if part else {prefix + name}
        return names

    for name in method_names():
        assert reachable(name) == {field for field, _ in fields_of(find_method(name).Config)}, name


def test_a_field_is_said_where_it_is_declared_and_where_its_default_changes(page: str) -> None:
    assert page.count("| `transformer_rate` |") == 1
    assert len(re.findall(r"^\| `crop` \| `box` \|", page, re.M)) == 1  # of bbox


def test_what_a_recipe_sets_at_each_scale_is_said(page: str) -> None:
    assert "At `scale=small`: `backbone=lau_vgg19_thin+lau_resnet19`" in page
    assert re.search(r"^At `scale=full`: .*`aligner.turns=8`", page, re.M)


def test_links_within_the_page_lead_to_headings(page: str) -> None:
    headings = [
        re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower()).replace(" ", "-")  # as GitHub makes anchors
        for line in page.splitlines()
        if line.startswith("#")
    ]
    assert len(set(headings)) == len(headings)
    links = re.findall(r"\]\(#([^)]+)\)", page)
    assert len(links) > 20
    assert set(links) <= set(headings)


def test_every_table_has_as_many_cells_as_its_head(page: str) -> None:
    width = 0
    for line in page.splitlines():
        if line.startswith("|"):
            width = width or line.count("|")
            assert line.count("|") == width
        else:
            width = 0


def test_values_of_joined_literals_are_listed() -> None:
    types = {row["field"]: row["type"] for row in field_rows("arcface")}
    assert {"average", "gem"} < set(types["pooling"].split(" | "))
    assert types["epochs"] == "int"


def test_the_command_writes_the_page(cli: Callable[..., Any], tmp_path: Path, page: str) -> None:
    answer = cli("methods", "--markdown", tmp_path / "page.md")
    assert answer.code == 0
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == page


def test_the_page_on_adding_a_method_shows_the_example_as_it_is() -> None:
    assert code(ADD, "python") == [(DOCS / "examples" / "mean_colour.py").read_text(encoding="utf-8")]
    (table,) = code(ADD, "toml")
    points = tomllib.loads(table)["project"]["entry-points"]["whalebench.methods"]
    assert points == {"mean-colour": "mean_colour:MeanColour"}


def test_the_page_on_adding_a_method_names_every_check() -> None:
    rows = [line for line in ADD.splitlines() if line.startswith("| ")][1:]
    named = [name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[-2])]
    assert sorted(named) == sorted(CHECKS)
