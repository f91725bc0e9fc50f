"""The columns camera, place, licence, rightsholder and quality, and side as another word for viewpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from whalebench import WhalebenchError
from whalebench.benchmarks.auditing.auditor import credits_of
from whalebench.benchmarks.core.catalog import DETAILS, build_catalog, read_catalog
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.importing.importer import import_csv
from whalebench.benchmarks.overview import catalog_facts, most_common


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(tmp_path / "workspace")


def write(folder: Path, header: str, *cells: str) -> Path:
    """A table of a photo for each of the cells, of two individuals in turn."""
    lines = [f"image,path,identity{header}"]
    for number, cell in enumerate(cells):
        Image.new("RGB", (12, 9), (number * 40, 0, 0)).save(folder / f"{number}.png")
        lines.append(f"{number},{number}.png,{('ann', 'bob')[number % 2]}{cell}")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    return folder / "table.csv"


def test_details_are_kept_and_counted(tmp_path: Path, workspace: Workspace, cli: Callable[..., Any]) -> None:
    header = ",Camera,place,licence,rightsholder,quality,side"
    cells = (",trap 7,cove,CC BY 4.0,Ann,3,left", ",trap 7,,CC BY 4.0,,2.5,", ",trap 8,cove,,Bob,good,right")
    answer = cli(
        *("data", "import", "csv", write(tmp_path, header, *cells), "--name", "mine"),
        *("--json", "--workspace", workspace.root),
    )
    assert answer.code == 0, answer.err
    assert not any("is not read" in note for note in json.loads(answer.out)["notes"])
    table = read_catalog(workspace.benchmarks / "mine").table
    assert table["camera"].tolist() == ["trap 7", "trap 7", "trap 8"]
    assert table["place"].tolist() == ["cove", "", "cove"]
    assert table["rightsholder"].tolist() == ["Ann", "", "Bob"]
    assert table["quality"].tolist() == ["3", "2.5", "good"]
    assert table["viewpoint"].tolist() == ["left", "", "right"]
    facts = json.loads(cli("data", "show", "mine", "--json", "--workspace", workspace.root).out)
    assert facts["camera"] == "trap 7 (2), trap 8 (1)"
    assert facts["licence"] == "CC BY 4.0 (2)"
    catalog = read_catalog(workspace.benchmarks / "mine")
    assert credits_of(catalog, {"0", "1"}) == {"0": "Ann, CC BY 4.0", "1": "CC BY 4.0"}


def test_names_of_cameras_and_places_are_read_as_others_are(tmp_path: Path, workspace: Workspace) -> None:
    table = write(tmp_path, ",camera,place", ",7.0,Cove", ",12.0,cove", ",,")
    result = import_csv(table, "mine", workspace)
    assert result.catalog.table["camera"].tolist() == ["7", "12", ""]
    assert "Column camera has whole numbers written as 12.0: read as 12." in result.notes
    assert any("Column place has 1 name(s) that are written in several ways" in note for note in result.notes)


def test_a_digest_counts_details_only_where_there_are_any(tmp_path: Path, workspace: Workspace) -> None:
    plain = import_csv(write(tmp_path, "", "", ""), "plain", workspace).catalog
    header = "".join(f",{column}" for column in DETAILS)
    empty = import_csv(write(tmp_path, header, "," * 5, "," * 5), "empty", workspace).catalog
    assert empty.digest == plain.digest
    assert not {*DETAILS} & {*empty.table.columns}
    assert "camera" not in catalog_facts(empty) and credits_of(empty, {"0"}) == {}
    for column in DETAILS:
        more = build_catalog(plain.table.assign(**{column: ["", "x"]}), "more")
        assert more.digest != plain.digest


def test_side_and_viewpoint_may_not_differ(tmp_path: Path, workspace: Workspace) -> None:
    table = write(tmp_path, ",side,viewpoint", ",left,left", ",,right", ",left,", ",,")
    assert import_csv(table, "mine", workspace).catalog.table["viewpoint"].tolist() == [
        "left",
        "right",
        "left",
        "",
    ]
    table = write(tmp_path, ",side,viewpoint", ",left,left", ",left,right")
    with pytest.raises(WhalebenchError, match="line 3, column side, value 'left': its viewpoint is 'right'"):
        import_csv(table, "other", workspace)


@pytest.mark.parametrize(
    ("column", "value", "sentence"),
    [
        ("place", "nan", "this names nothing; leave the cell empty"),
        ("licence", "None", "this names nothing; leave the cell empty"),
        ("camera", "a\x07b", "it holds the control character"),
        ("quality", "9" * 5000, "it has 5,000 characters"),
    ],
)
def test_details_are_checked_as_other_texts(
    tmp_path: Path, workspace: Workspace, column: str, value: str, sentence: str
) -> None:
    with pytest.raises(WhalebenchError, match=f"column {column}, value .*{sentence}"):
        import_csv(write(tmp_path, f",{column}", f",{value}", ","), "mine", workspace)


def test_the_most_frequent_values_come_first_and_the_rest_is_counted() -> None:
    values = [*"aabbbcdefg", ""]
    assert most_common(values) == "b (3), a (2), c (1), d (1), e (1) and 2 more"
