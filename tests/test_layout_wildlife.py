"""The layout `wildlife`: metadata tables of wildlife-datasets."""

from __future__ import annotations

from pathlib import Path

import pytest

from whalebench.benchmarks.importing.layouts.layout import LayoutOptions
from whalebench.benchmarks.importing.layouts.rows import numbers_in
from whalebench.benchmarks.importing.layouts.wildlife import LAYOUT
from whalebench.benchmarks.importing.nobody import identity_of
from whalebench.benchmarks.importing.tables import check_rows, number_columns
from whalebench.tests.layouts import by_image, draw, laid_out, refusal, write_example


def metadata(folder: Path, header: str, *lines: str, name: str = "metadata.csv") -> Path:
    """A folder with that table and two photos."""
    (folder / name).write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    draw(folder, ["images/a.jpg", "images/b.jpg"])
    return folder


def test_the_example_is_what_it_says(tmp_path: Path) -> None:
    write_example(LAYOUT, tmp_path)
    found = laid_out(LAYOUT, tmp_path)
    rows = by_image(found)
    assert rows["1"] == {
        "image": "1",
        "path": "images/a.jpg",
        "identity": "ann",
        "date": "2024-05-31",
        "viewpoint": "left",
        "x0": "4",
        "y0": "3",
        "x1": "24",
        "y1": "13",
    }
    assert rows["2"]["identity"] == "bob"
    assert found.notes == ()
    assert check_rows(found.table, number_columns(found.table)) == []


def test_a_table_as_pandas_writes_it(tmp_path: Path) -> None:
    header = ",image_id,identity,path,bbox,encounter,species,original_split,position,date"
    first = '0,7,ann,images/a.jpg,"[1. 2. 3.5 4.]",e1,zebra,train,left,2024/05/31'
    second = "1,8,bob,images\\b.jpg,nan,,,test,NaN,NaT"
    found = laid_out(LAYOUT, metadata(tmp_path, header, first, second), LayoutOptions(species="horse"))
    rows = by_image(found)
    assert rows["7"] == {
        "image": "7",
        "path": "images/a.jpg",
        "identity": "ann",
        "encounter": "e1",
        "date": "2024-05-31",
        "viewpoint": "left",
        "species": "zebra",
        "split": "train",
        "x0": "1",
        "y0": "2",
        "x1": "4.5",
        "y1": "6",
    }
    assert rows["8"] == {
        "image": "8",
        "path": "images/b.jpg",
        "identity": "bob",
        "species": "horse",
        "split": "test",
    }
    assert found.table.places == ("metadata.csv, line 2", "metadata.csv, line 3")


def test_the_unknown_are_rows_of_nobody(tmp_path: Path) -> None:
    lines = ("1,ann,images/a.jpg", "2,unknown,images/b.jpg", "3,,images/b.jpg")
    found = laid_out(LAYOUT, metadata(tmp_path, "image_id,identity,path", *lines))
    assert [identity_of(row["identity"]) for row in by_image(found).values()] == ["ann", "?", "?"]


def test_a_table_of_unknown_animals_only_is_refused(tmp_path: Path) -> None:
    folder = metadata(tmp_path, "image_id,identity,path", "2,unknown,images/b.jpg")
    assert "metadata.csv in" in refusal(LAYOUT, folder)
    assert "identifies no animal" in refusal(LAYOUT, folder)


def test_a_split_that_is_not_whole_is_not_read(tmp_path: Path) -> None:
    lines = ("1,ann,images/a.jpg,train", "2,bob,images/b.jpg,gallery")
    found = laid_out(LAYOUT, metadata(tmp_path, "image_id,identity,path,split", *lines))
    assert "split" not in found.table.columns
    assert found.notes == ("The published split is not read, as not every row says train, valid or test.",)


def test_original_split_goes_before_split(tmp_path: Path) -> None:
    lines = ("1,ann,images/a.jpg,train,val", "2,bob,images/b.jpg,train,test")
    found = laid_out(LAYOUT, metadata(tmp_path, "image_id,identity,path,split,original_split", *lines))
    assert [row["split"] for row in found.table.rows] == ["valid", "test"]


@pytest.mark.parametrize(
    ("first", "second", "points"),
    [
        (
            "[1, 2, 3, 4]",
            "[5, 6, 7, 8]",
            {"point1_x": "1", "point1_y": "2", "point2_x": "3", "point2_y": "4"},
        ),
        ("[1, 2, 0, 3, 4, 2]", "[5, 6, 1, 7, 8, 2]", {"point2_x": "3", "point2_y": "4"}),
        ("[1, 2, 3]", "[5, 6, 7]", {}),
        ("[1, 2, 3, 4]", "[5, 6]", {}),
    ],
)
def test_keypoints_without_names_are_numbered(
    tmp_path: Path, first: str, second: str, points: dict[str, str]
) -> None:
    lines = (f'1,ann,images/a.jpg,"{first}"', f'2,bob,images/b.jpg,"{second}"')
    found = laid_out(LAYOUT, metadata(tmp_path, "image_id,identity,path,keypoints", *lines))
    row = by_image(found)["1"]
    assert {column: cell for column, cell in row.items() if column.startswith("point")} == points
    assert ("have no names" in found.notes[0]) == bool(points)
    assert ("are not read" in found.notes[0]) != bool(points)


def test_a_segmentation_is_a_mask_where_it_is_a_file(tmp_path: Path) -> None:
    lines = ("1,ann,images/a.jpg,masks/a.png", '2,bob,images/b.jpg,"[1, 2, 3, 4, 5, 6]"')
    folder = metadata(tmp_path, "image_id,identity,path,segmentation", *lines)
    draw(folder, ["masks/a.png"])
    found = laid_out(LAYOUT, folder)
    assert [row["mask"] for row in found.table.rows] == ["masks/a.png", ""]
    assert found.notes == ("Segmentations that are no file of a mask and are not read: 1.",)


def test_what_is_not_read_is_noted(tmp_path: Path) -> None:
    lines = ("1,ann,images/a.jpg,4,May,Seals", "2,bob,images/b.jpg,5,2024-01-01,Seals")
    found = laid_out(LAYOUT, metadata(tmp_path, "image_id,identity,path,age,date,dataset", *lines))
    assert found.dataset == "Seals"
    assert found.notes == (
        "Dates that are none of ISO 8601 and are left out: 1.",
        "Columns that are not read: age.",
    )


def test_frames_of_a_video_are_one_encounter(tmp_path: Path) -> None:
    lines = ("1,ann,images/a.jpg,3", "2,bob,images/b.jpg,")
    found = laid_out(LAYOUT, metadata(tmp_path, "image_id,identity,path,video", *lines))
    assert [row["encounter"] for row in found.table.rows] == ["video 3", ""]


def test_metadata_goes_before_other_tables(tmp_path: Path) -> None:
    metadata(tmp_path, "image_id,identity,path", "1,ann,images/a.jpg")
    metadata(tmp_path, "image_id,identity,path", "1,bob,images/a.jpg", name="copy.csv")
    assert by_image(laid_out(LAYOUT, tmp_path))["1"]["identity"] == "ann"
    (tmp_path / "metadata.csv").rename(tmp_path / "mine.csv")
    assert "has 2 tables with the columns image_id, identity, path, copy.csv and mine" in refusal(
        LAYOUT, tmp_path
    )


def test_what_is_no_such_table_is_a_sentence(tmp_path: Path) -> None:
    assert "none of its 0 .csv files has the columns image_id, identity, path" in refusal(LAYOUT, tmp_path)
    metadata(tmp_path, "image,identity,path", "1,ann,images/a.jpg")
    assert "none of its 1 .csv files" in refusal(LAYOUT, tmp_path)


@pytest.mark.parametrize("box", ["[1, 2, 3]", "[1, 2, 3, x]", "1, 2, 3, 4"])
def test_what_is_no_box_is_a_sentence(tmp_path: Path, box: str) -> None:
    folder = metadata(tmp_path, "image_id,identity,path,bbox", f'1,ann,images/a.jpg,"{box}"')
    assert refusal(LAYOUT, folder).startswith(
        f"metadata.csv, line 2 has the bbox {box!r}, which is not [x, y"
    )


def test_lists_of_numpy_and_long_ones() -> None:
    assert numbers_in("[1.e+00 2.]") == [1, 2]
    assert numbers_in("(1, 2)") == [1, 2]
    assert numbers_in("[1, inf]") is None
