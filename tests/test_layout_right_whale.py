"""The layout of NOAA's right whales: labels, two sets of boxes, points of a table and of two lists."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from whalebench.benchmarks.importing.layouts import humpback
from whalebench.benchmarks.importing.layouts.layout import LaidOut, Layout, LayoutOptions
from whalebench.benchmarks.importing.layouts.right_whale import LAYOUT
from whalebench.benchmarks.importing.sources import FolderSource
from whalebench.tests.layouts import read_files

TRAIN = "Image,whaleID\nw_7812.jpg,whale_48813\nw_4598.jpg,whale_09913\n"
VINH = "Image,whaleID,x,y,width,height\nw_7812.jpg,whale_48813,10.5,20,30,15.25\n"
OTHER = ",Image,whaleID,x,y,width,height\n0,w_7812.jpg,whale_48813,11,21,29,14\n"
POINTS = "Image,whaleID,bonnet_tip_x,bonnet_tip_y,blowhead_x,blowhead_y\n"
POINTS += "w_7812.jpg,whale_48813,30.12345,25,20,24\n"
FILES = {
    "train.csv": TRAIN,
    "imgs/w_7812.jpg": "",
    "imgs/w_1947.jpg": "",
    "train_with_annotations_vinh.csv": VINH,
    "train_with_annotations.csv": OTHER,
    "train_with_points.csv": POINTS,
}


def cells(found: LaidOut, *columns: str) -> list[str]:
    return [found.table.rows[0][column] for column in columns]


def sloth(x: float, y: float, **size: float) -> str:
    """A list of annotations with one mark on the first photo."""
    mark = {"class": "point", "x": x, "y": y, **size}
    return json.dumps([{"annotations": [mark], "class": "image", "filename": "w_7812.jpg"}])


def test_labels_boxes_and_points_come_together(tmp_path: Path) -> None:
    found = read_files(LAYOUT, tmp_path, FILES)
    assert cells(found, "identity", "path") == ["whale_48813", "imgs/w_7812.jpg"]
    assert cells(found, "x0", "y0", "x1", "y1") == ["10.5", "20", "40.5", "35.25"]
    assert cells(found, "bonnet_x", "bonnet_y", "blowhead_x", "blowhead_y") == ["30.12345", "25", "20", "24"]
    assert len(found.table.rows) == 2  # the photo of the test is no row
    assert found.notes == (
        "train.csv is not as published: it has 2 photos (published: 4,544), 2 individuals (published: 447), "
        "2 individuals with one photo (published: 24).",
        "1 photos that train.csv does not name, as those of tests, are left out.",
        "Boxes are those of train_with_annotations_vinh.csv; --column box=FILE takes those of "
        "train_with_annotations.csv.",
    )
    assert found.dataset == "NOAARightWhale"


def test_the_other_boxes_are_taken_where_they_are_said(tmp_path: Path) -> None:
    found = read_files(LAYOUT, tmp_path, FILES, {"box": "train_with_annotations.csv"})
    assert cells(found, "x0", "y0", "x1", "y1") == ["11", "21", "40", "35"]


def test_lists_of_marks_are_read_where_there_are_no_tables(tmp_path: Path) -> None:
    files = {
        "train.csv": TRAIN,
        "points1.json": sloth(7, 8),
        "points2.json": sloth(5, 6.5),
        "whale_faces_Vinh.json": sloth(1, 2, width=3, height=4),
    }
    found = read_files(LAYOUT, tmp_path, files)
    assert cells(found, "bonnet_x", "bonnet_y", "blowhead_x", "blowhead_y") == ["7", "8", "5", "6.5"]
    assert cells(found, "x0", "y0", "x1", "y1") == ["1", "2", "4", "6"]


def test_annotations_of_larger_photos_are_left_out_of_copies(tmp_path: Path) -> None:
    far = POINTS.replace("30.12345", "1668.2")
    found = read_files(LAYOUT, tmp_path, {**FILES, "train_with_points.csv": far})
    assert found.table.columns == ("image", "path", "identity", "species")
    assert "first of w_7812.jpg with 100x50 pixels" in found.notes[-1]


@pytest.mark.parametrize(
    ("layout", "folder", "numbers"),
    [
        (humpback.LAYOUT, "humpback", (25_360, 5_004, 2_073, 9_664)),
        (LAYOUT, "right_whale_original", (4_544, 447, 24, 0)),
    ],
)
def test_the_published_tables_have_the_published_counts(
    layout: Layout, folder: str, numbers: tuple[int, ...]
) -> None:
    shared = os.environ.get("WHALEBENCH_SHARED")
    if not shared:
        pytest.skip("WHALEBENCH_SHARED does not name a folder with the published tables")
    rows = layout.read(FolderSource(Path(shared) / "data" / folder), LayoutOptions()).table.rows
    shown = Counter(row["identity"] for row in rows)
    new = shown.pop("", 0)
    assert (len(rows), len(shown), sum(number == 1 for number in shown.values()), new) == numbers
    if folder == "humpback":
        assert len({row["duplicates"] for row in rows} - {""}) == 89
