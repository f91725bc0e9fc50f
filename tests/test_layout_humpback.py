"""The layout of the two humpback competitions: names, *new*, boxes, points, duplicates and leaks."""

import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from whalebench import WhalebenchError
from whalebench.benchmarks.core.catalog import build_catalog, read_catalog
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.importing.importer import import_photos
from whalebench.benchmarks.importing.layouts.humpback import LAYOUT
from whalebench.benchmarks.importing.layouts.layout import LayoutOptions
from whalebench.benchmarks.overview import catalog_facts
from whalebench.splits.protocols import propose_split
from whalebench.tests.layouts import read_files

TRAIN = "Image,Id\n0000e88ab.jpg,w_f48451c\n0001f9222.jpg,w_c3d896a\n00029d126.jpg,new_whale\n"
BOXES = "Image,x0,y0,x1,y1\n0000e88ab.jpg,20.0,10.0,80.5,40.0\nffffffff0.jpg,1,1,2,2\n"
POINTS = ",".join(f"{number}_{axis}" for number in (*range(1, 10), 0) for axis in "xy")
LANDMARKS = "filename,x,y,w,h,xl,yl,xn,yn,xr,yr,xd,yd\n"
FOUND = "0.5,0.5,1.2,0.5,0.1,0.2,0.5,0.4,0.9,0.2,0.5,0.8\n"


def test_new_whales_are_nobody(tmp_path: Path) -> None:
    found = read_files(LAYOUT, tmp_path, {"train.csv": TRAIN})
    assert [row["identity"] for row in found.table.rows] == ["w_f48451c", "w_c3d896a", ""]
    assert found.table.rows[0]["path"] == "train/0000e88ab.jpg"
    assert {row["species"] for row in found.table.rows} == {"humpback_whale"}
    assert found.table.places[0] == "train.csv, line 2"
    assert found.dataset == "HumpbackWhaleID"


@pytest.mark.parametrize(("image", "photos"), [("0000e88ab", 25_361), ("00029b3a", 9_850)])
def test_counts_that_differ_from_those_of_the_competition_are_said(
    image: str, photos: int, tmp_path: Path
) -> None:
    notes = read_files(LAYOUT, tmp_path, {"train.csv": f"Image,Id\n{image}.jpg,w_f48451c\n"}).notes
    assert notes[0].startswith(f"train.csv is not as published: it has 1 photos (published: {photos:,}), ")


def test_photos_are_found_below_the_table_and_those_of_the_test_are_left_out(tmp_path: Path) -> None:
    files = {"kaggle/train.csv": TRAIN, "kaggle/images/0001f9222.jpg": "", "kaggle/test/00028a005.jpg": ""}
    found = read_files(LAYOUT, tmp_path, files)
    assert found.table.rows[1]["path"] == "kaggle/images/0001f9222.jpg"
    assert "1 photos that kaggle/train.csv does not name, as those of tests, are left out." in found.notes


def test_boxes_are_corners(tmp_path: Path) -> None:
    rows = read_files(LAYOUT, tmp_path, {"train.csv": TRAIN, "bounding_boxes.csv": BOXES}).table.rows
    assert [rows[0][side] for side in ("x0", "y0", "x1", "y1")] == ["20", "10", "80.5", "40"]
    assert rows[1]["x0"] == ""


def test_of_ten_points_four_are_landmarks_and_those_added_later_count(tmp_path: Path) -> None:
    cells = [f"{number}1,{number}2" for number in (*range(1, 10), 0)]
    half = [*cells[:4], ",", *cells[5:]]
    added = [{"class": "Face", "x": 0, "y": 0, "width": 9, "height": 9}]
    added += [{"class": "point", "x": place, "y": place + 0.5} for place in range(4)]
    lines = (f"0000e88ab.jpg,{','.join(cells)}", f"0001f9222.jpg,{','.join(half)}")
    files = {
        "train.csv": TRAIN,
        "keypoints.csv": "\n".join((f"filename,{POINTS}", *lines)),
        "annotations.addition.json": json.dumps(
            [{"class": "image", "filename": "train/00029d126.jpg", "annotations": added}]
        ),
    }
    first, second, third = read_files(LAYOUT, tmp_path, files).table.rows
    names = ("left_tip_x", "notch_y", "right_tip_x", "bottom_y")
    assert [first[name] for name in names] == ["11", "32", "51", "82"]
    assert [second[name] for name in names] == ["11", "32", "", "82"]
    assert [third[name] for name in names] == ["0", "1.5", "2", "3.5"]
    assert "2_x" not in first


def test_landmark_files_are_shares_of_photos_at_hand(tmp_path: Path) -> None:
    files = {
        "train.csv": TRAIN,
        "train/0000e88ab.jpg": "",
        "landmark.train.0.csv": f"{LANDMARKS}0000e88ab.jpg,{FOUND}0001f9222.jpg,{FOUND}",
        "landmark.train.5.csv": f"{LANDMARKS}00029d126.jpg,{FOUND}",
    }
    first, second, third = read_files(LAYOUT, tmp_path, files).table.rows
    assert [first[side] for side in ("x0", "y0", "x1", "y1")] == ["0", "12.5", "100", "37.5"]
    assert (first["left_tip_x"], first["left_tip_y"], first["bottom_y"]) == ("10", "10", "40")
    assert second["x0"] == second["notch_x"] == third["x0"] == third["notch_x"] == ""


def test_duplicates_and_leaks_are_said_and_change_no_name(tmp_path: Path) -> None:
    files = {
        "train.csv": TRAIN,
        "duplicate_ids.csv": "Id,SubId\ngroup_0000,w_f48451c w_c3d896a\n",
        "leaks.csv": "Image,Id\n781c0ad2c.jpg,w_f765256\n",
    }
    found = read_files(LAYOUT, tmp_path, files)
    assert [row["duplicates"] for row in found.table.rows] == ["group_0000", "group_0000", ""]
    assert [row["identity"] for row in found.table.rows] == ["w_f48451c", "w_c3d896a", ""]
    assert "encounter" not in found.table.columns
    groups, leaks = found.notes[-2:]
    assert "no split parts the photos of a group, so that the step `duplicates` gains" in groups
    assert groups.startswith("duplicate_ids.csv says of 1 groups of names (2 names, 2 photos)")
    assert leaks == "leaks.csv names the whales of 1 test photos, which leaked: they are not read."


def test_other_names_are_said_and_taken_where_they_are_asked_for(tmp_path: Path) -> None:
    renamed = TRAIN.replace("w_c3d896a", "group_0000").replace("new_whale", "new_whale_0000")
    files = {"train.csv": TRAIN, "train.v2.csv": renamed}
    found = read_files(LAYOUT, tmp_path, files)
    said = "train.v2.csv names 2 photos otherwise: --column identity=train.v2.csv takes its names."
    assert found.notes[-1] == said
    again = read_files(LAYOUT, tmp_path, files, {"identity": "train.v2.csv"})
    names = [row["identity"] for row in again.table.rows]
    assert names == ["w_f48451c", "group_0000", "new_whale_0000"]
    assert said not in again.notes
    assert again.table.places[0] == "train.v2.csv, line 2"


def test_the_door_lets_options_of_the_layout_through_and_keeps_duplicates(tmp_path: Path) -> None:
    """The two whales of a group are in one part of every split; `data show` counts the groups."""
    lines = [f"{place:08x}a.jpg,{who}" for place, who in enumerate(["a", "b", "c", "c", "d", "d"] * 5)]
    files = {"names.csv": "Image,Id\n" + "\n".join(lines) + "\n"}
    files["duplicate_ids.csv"] = "Id,SubId\ngroup_0000,a b\n"
    for place, line in enumerate(lines):
        file = tmp_path / "photos/train" / line.partition(",")[0]
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 10), (place * 8, 9, 9)).save(file)
    for name, text in files.items():
        (tmp_path / "photos" / name).write_text(text, encoding="utf-8")
    place, options = Workspace(tmp_path / "w"), LayoutOptions({"identity": "names.csv"})
    catalog = import_photos(LAYOUT, tmp_path / "photos", "humps", place, options=options).catalog
    assert read_catalog(place.benchmarks / "humps").digest == catalog.digest
    assert catalog_facts(catalog)["groups of duplicates"] == 1
    split = propose_split(catalog, folds=2)
    of_group = catalog.table["duplicates"] != ""
    assert Counter(catalog.table["identity"][of_group]) == {"a": 5, "b": 5}
    assert len(set(split.table["group"][of_group])) == 1
    without = catalog.table.drop(columns="duplicates")
    assert build_catalog(without, "humps").digest != catalog.digest
    assert build_catalog(without.assign(duplicates=""), "humps").digest == build_catalog(without, "").digest


def test_annotations_of_another_size_are_left_out(tmp_path: Path) -> None:
    wide = BOXES.replace("80.5", "180.5")
    files = {"train.csv": TRAIN, "train/0000e88ab.jpg": "", "bounding_boxes.csv": wide}
    found = read_files(LAYOUT, tmp_path, files)
    assert "x0" not in found.table.columns
    assert found.notes[-1].startswith("Boxes and points are left out: those of 1 of 1 photos leave them")
    assert "100x50" in found.notes[-1]


@pytest.mark.parametrize(
    ("files", "columns", "said"),
    [
        ({"labels.csv": TRAIN}, {}, "has no train.csv with the columns Image,Id"),
        ({"train.csv": TRAIN.replace("Id", "whale")}, {}, "has no column 'Id'"),
        ({"a/train.csv": TRAIN, "b/train.csv": TRAIN}, {}, "has 2 files train.csv (a/train.csv and b/train"),
        ({"train.csv": TRAIN.replace("0001f", "../x")}, {}, "line 3, column Image, value '../x9222.jpg'"),
        ({"train.csv": TRAIN}, {"image": "Image"}, "says nothing to the layout humpback"),
        ({"train.csv": TRAIN}, {"box": "b.csv"}, "has no file 'b.csv' of boxes"),
        ({"train.csv": TRAIN}, {"path": "b"}, "has no photos of train.csv in 'b'"),
        ({"train.csv": TRAIN, "bounding_boxes.csv": BOXES.replace("80.5", "wide")}, {}, "value 'wide'"),
        (
            {"train.csv": TRAIN, "bounding_boxes.csv": "Image,left\na.jpg,1\n"},
            {},
            "has the columns Image, left",
        ),
        ({"train.csv": TRAIN, "annotations.addition.json": "[1]"}, {}, "is no list of annotations"),
        ({"train.csv": TRAIN, "keypoints.csv": "filename,1_x\na.jpg,1\n"}, {}, "has no column '1_y'"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    files: dict[str, str], columns: dict[str, str], said: str, tmp_path: Path
) -> None:
    with pytest.raises(WhalebenchError) as caught:
        read_files(LAYOUT, tmp_path, files, columns)
    message = str(caught.value).replace(str(tmp_path), "PLACE")
    assert said in message
    assert len(message) <= 300
