"""Aliases: names of one animal become one when photos are imported."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from whalebench import WhalebenchError
from whalebench.benchmarks.core.catalog import read_catalog, read_facts
from whalebench.benchmarks.core.files import digest_file
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.importing.aliases import read_aliases
from whalebench.benchmarks.importing.importer import ImportResult, import_csv

ROWS = ("1,A-12,seal", "2,A12,seal", "3,Ada,seal", "4,Ben,seal", "5,A-12,whale", "6,Ben,whale")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(tmp_path / "workspace")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    for number, row in enumerate(ROWS):
        Image.new("RGB", (12, 9), (number * 40, 0, 0)).save(tmp_path / f"{row[0]}.png")
    lines = ("image,path,identity,species", *(f"{row[0]},{row[0]}.png{row[1:]}" for row in ROWS))
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "table.csv"


def aliases(table: Path, *lines: str, header: str = "alias,identity,species") -> Path:
    file = table.with_name("aliases.csv")
    file.write_text("\n".join([header, *lines]) + "\n")
    return file


def imported(table: Path, workspace: Workspace, file: Path) -> ImportResult:
    return import_csv(table, "mine", workspace, aliases=read_aliases(file))


def names(result: ImportResult) -> list[str]:
    return result.catalog.table["identity"].tolist()


def test_names_of_one_animal_become_one(table: Path, workspace: Workspace) -> None:
    file = aliases(table, "A-12,Ada", "A12,Ada", "A12,Ada", "Ada,Ada", "Zoe,Ben", header="alias,identity")
    result = imported(table, workspace, file)
    assert names(result) == ["Ada", "Ada", "Ada", "Ben", "Ada", "Ben"]
    assert (
        "Aliases changed the identity of 3 rows, 2 names in all: first 'A-12', which is now 'Ada'."
        in result.notes
    )
    assert "1 of 3 aliases are no identity of the table, first 'Zoe'." in result.notes
    kept = read_facts(workspace.benchmarks / "mine")["derived"]["aliases"]
    assert kept == {
        "file": "aliases.csv",
        "digest": digest_file(file),
        "names": [["A-12", "Ada", "", 2], ["A12", "Ada", "", 1]],
    }


def test_names_are_per_species_where_that_is_said(table: Path, workspace: Workspace) -> None:
    result = imported(table, workspace, aliases(table, "A-12,Ada,seal", "A-12,Ahab,whale", "Ben,Bo,orca"))
    assert names(result) == ["Ada", "A12", "Ada", "Ben", "Ahab", "Ben"]
    assert "1 of 3 aliases are no identity of the table, first 'Ben' of orca." in result.notes


def test_an_alias_of_one_species_is_no_chain_with_that_of_another(table: Path, workspace: Workspace) -> None:
    result = imported(table, workspace, aliases(table, "A12,Ben,seal", "Ben,Bo,whale"))
    assert names(result) == ["A-12", "Ben", "Ada", "Ben", "A-12", "Bo"]


def test_a_table_in_latin_1_is_read_with_a_note(table: Path, workspace: Workspace) -> None:
    file = aliases(table)
    file.write_bytes("alias,identity\nA12,J\u00f8rgen\n".encode("latin-1"))
    result = imported(table, workspace, file)
    assert names(result)[1] == "J\u00f8rgen"
    assert any(note.startswith("aliases.csv: The table is not UTF-8") for note in result.notes)


def test_aliases_that_fit_nothing_change_nothing(table: Path, workspace: Workspace) -> None:
    result = imported(table, workspace, aliases(table, "Zoe,Ada,"))
    assert names(result) == [row.split(",")[1] for row in ROWS]
    assert "No row has an alias as its identity: none was changed." in result.notes


WRONG = {
    "a chain": (("A12,A-12,", "A-12,Ada,"), "line 2: 'A12' and 'A-12' are a chain that goes on to 'Ada'"),
    "a circle": (("A12,Ada,", "Ada,A12,"), "line 2: 'A12' and 'Ada' are each an alias of the other"),
    "a circle of three": (("a,b,", "b,c,", "c,a,"), "line 2: 'a' and 'b' are a chain that goes on to 'c'"),
    "a chain of one species": (("A12,A-12,seal", "A-12,Ada,"), "are a chain that goes on to 'Ada'"),
    "two animals": (("A12,Ada,", "A12,Ben,"), "line 2: 'A12' is 'Ada' here and 'Ben' elsewhere; keep one"),
    "two animals of a species": (("A12,Ada,seal", "A12,Ben,"), "say of which species each is"),
    "no name": (("A12,,",), "line 2: the cell identity is empty"),
    "no alias": ((",Ada,",), "line 2: the cell alias is empty"),
}


@pytest.mark.parametrize("case", WRONG)
def test_aliases_that_cannot_be_are_refused(table: Path, case: str) -> None:
    lines, sentence = WRONG[case]
    with pytest.raises(WhalebenchError) as caught:
        read_aliases(aliases(table, *lines))
    assert sentence in str(caught.value)
    assert len(str(caught.value)) - len(str(table.parent)) <= 300


def test_another_table_is_refused(table: Path) -> None:
    with pytest.raises(
        WhalebenchError, match="has no column 'alias', only name, identity; aliases are read from"
    ):
        read_aliases(aliases(table, "A12,Ada", header="name,identity"))


def test_the_command_takes_aliases(table: Path, workspace: Workspace, cli: Callable[..., Any]) -> None:
    file, place = aliases(table, "A-12,Ada,seal"), ("--workspace", workspace.root)
    answer = cli("data", "import", "csv", table, "--name", "mine", "--aliases", file, "--json", *place)
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["aliases"] == "1 names of 1 photos, by aliases.csv"
    assert json.loads(cli("data", "show", "mine", "--json", *place).out)["aliases"].startswith("1 names")
    assert read_catalog(workspace.benchmarks / "mine").table["identity"].tolist()[0] == "Ada"
    wrong = cli("data", "import", "csv", table, "--name", "two", "--aliases", table, *place)
    assert wrong.code == 2 and "has no column 'alias'" in wrong.err


def test_groups_of_names_are_aliases_of_the_groups_name(table: Path, workspace: Workspace) -> None:
    """As Humpback 2019's list has them; a group that is one name by now binds no split any more."""
    rows = table.read_text().splitlines()
    groups = ("duplicates", "pair", "", "pair", "other", "", "other")
    table.write_text("\n".join(f"{row},{group}" for row, group in zip(rows, groups, strict=True)) + "\n")
    assert set(import_csv(table, "before", workspace).catalog.table["duplicates"]) == {"", "pair", "other"}
    file = aliases(table, "group_0,A-12 Ada", header="Id,SubId")
    result = imported(table, workspace, file)
    assert names(result) == ["group_0", "A12", "group_0", "Ben", "group_0", "Ben"]
    assert "duplicates" not in result.catalog.table.columns
    again = import_csv(
        table, "half", workspace, aliases=read_aliases(aliases(table, "g,A12", header="Id,SubId"))
    )
    assert again.catalog.table["duplicates"].tolist() == ["pair", "", "pair", "", "", ""]
