"""The page of all methods and fields, and the page on adding one, say what the code says."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from whalebench.benchmarks.conformance.suite import CHECKS
from whalebench.benchmarks.overview import field_rows, guide_sections
from whalebench.methods.registry import fields_of, find_method, method_names
from whalebench.reports.guide import anchor, methods_page

DOCS = Path(__file__).parents[1] / "docs"
ADD = (DOCS / "add-a-method.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def sections() -> dict[str, list[dict[str, Any]]]:
    return guide_sections()


def code(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page, flags=re.S | re.M)


def test_the_page_is_what_the_methods_say(sections: dict[str, list[dict[str, Any]]]) -> None:
    there = (DOCS / "methods.md").read_text(encoding="utf-8")
    assert there == methods_page(sections), "stale: whalebench methods --markdown docs/methods.md"


@pytest.mark.parametrize("name", method_names())
def test_every_field_of_a_method_is_found_from_its_section(
    name: str, sections: dict[str, list[dict[str, Any]]]
) -> None:
    by_title = {each["title"]: each for kind in sections.values() for each in kind}

    def reachable(title: str, prefix: str = "") -> set[str]:
        names: set[str] = set()
        for each in (title, *by_title[title]["also"]):
            for row in by_title[each]["fields"]:
                own = prefix + row["field"]
                names |= reachable(row["part"], f"{own}.") if row["part"] else {own}
        return names

    assert reachable(name) == {field for field, _ in fields_of(find_method(name).Config)}


def test_a_field_is_said_where_it_is_declared_and_where_its_default_changes(
    sections: dict[str, list[dict[str, Any]]],
) -> None:
    where = {
        name: [each["title"] for kind in sections.values() for each in kind
               for row in each["fields"] if row["field"] == name]
        for name in ("learning_rate", "label_smoothing", "transformer_rate")
    }  # fmt: skip
    assert where["learning_rate"][0] == "Training (shared)"
    assert where["transformer_rate"] == ["stn"]
    (crop,) = (row for each in sections["methods"] if each["title"] == "bbox" for row in each["fields"])
    assert (crop["field"], crop["default"]) == ("crop", "box")


def test_what_a_recipe_sets_at_each_scale_is_said(sections: dict[str, list[dict[str, Any]]]) -> None:
    (recipe,) = (each for each in sections["methods"] if each["title"] == "right-whale-2nd")
    assert recipe["scales"]["full"]["aligner.turns"] == "8"
    assert "At `scale=small`: `backbone=lau_vgg19_thin+lau_resnet19`" in methods_page(sections)


def test_links_within_the_page_lead_to_headings(sections: dict[str, list[dict[str, Any]]]) -> None:
    page = methods_page(sections)
    headings = [anchor(line.lstrip("# ")) for line in page.splitlines() if line.startswith("#")]
    assert len(set(headings)) == len(headings)
    links = re.findall(r"\]\(#([^)]+)\)", page)
    assert len(links) > 20
    assert set(links) <= set(headings)


def test_every_table_has_as_many_cells_as_its_head(sections: dict[str, list[dict[str, Any]]]) -> None:
    width = 0
    for line in methods_page(sections).splitlines():
        if line.startswith("|"):
            width = width or line.count("|")
            assert line.count("|") == width
        else:
            width = 0


def test_values_of_joined_literals_are_listed() -> None:
    types = {row["field"]: row["type"] for row in field_rows("arcface")}
    assert {"average", "gem"} < set(types["pooling"].split(" | "))
    assert types["epochs"] == "int"


def test_the_command_writes_the_page(
    cli: Callable[..., Any], tmp_path: Path, sections: dict[str, list[dict[str, Any]]]
) -> None:
    answer = cli("methods", "--markdown", tmp_path / "page.md")
    assert answer.code == 0
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == methods_page(sections)


def test_the_page_on_adding_a_method_shows_the_example_as_it_is() -> None:
    assert code(ADD, "python") == [(DOCS / "examples" / "mean_colour.py").read_text(encoding="utf-8")]
    (table,) = code(ADD, "toml")
    points = tomllib.loads(table)["project"]["entry-points"]["whalebench.methods"]
    assert points == {"mean-colour": "mean_colour:MeanColour"}


def test_the_page_on_adding_a_method_names_every_check() -> None:
    rows = [line for line in ADD.splitlines() if line.startswith("| ")][1:]
    named = [name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[-2])]
    assert sorted(named) == sorted(CHECKS)
