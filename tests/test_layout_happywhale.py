"""The layout of Happywhale: spellings of species, boxes of bodies and of fins, whole photos and crops."""

from pathlib import Path

import pytest

from whalebench import WhalebenchError
from whalebench.benchmarks.importing.layouts.happywhale import LAYOUT
from whalebench.benchmarks.importing.layouts.layout import LaidOut
from whalebench.tests.layouts import read_files

SPECIES = ("globis", "pilot_whale", "kiler_whale", "bottlenose_dolpin", "beluga")
TRAIN = "image,species,individual_id\n" + "".join(
    f"{number}.jpg,{species},{number}ee7\n" for number, species in enumerate(SPECIES)
)
FILES = {
    "train.csv": TRAIN,
    "train_images/0.jpg": "",
    "backfin/0.jpg": "",
    "fullbody_train.csv": "image,bbox,conf\n0.jpg,[[ 1  2 30 40]],[0.83]\n1.jpg,,\n",
    "train_backfin.csv": "image,bbox,conf\n0.jpg,[[5 6 9 10] [1 1 2 2]],[0.9 0.1]\n",
    "train2.csv": "image,species,individual_id,box\n0.jpg,globis,0ee7,3 4 30 40\n",
}


def box(found: LaidOut) -> list[str]:
    return [found.table.rows[0].get(side, "") for side in ("x0", "y0", "x1", "y1")]


def test_four_spellings_of_species_are_mended(tmp_path: Path) -> None:
    found = read_files(LAYOUT, tmp_path, {"train.csv": TRAIN})
    pilot = "short_finned_pilot_whale"
    species = [pilot, pilot, "killer_whale", "bottlenose_dolphin", "beluga"]
    assert [row["species"] for row in found.table.rows] == species
    assert found.table.rows[4]["identity"] == "4ee7"  # a name, not the number 4e7
    assert "4 species (published: 26)" in found.notes[0]
    assert found.dataset == "HappyWhale"


@pytest.mark.parametrize(
    ("chosen", "corners"),
    [
        ({}, ["1", "2", "30", "40"]),
        ({"box": "train_backfin.csv"}, ["5", "6", "9", "10"]),
        ({"box": "train2.csv"}, ["3", "4", "30", "40"]),
        ({"path": "backfin"}, ["", "", "", ""]),
    ],
)
def test_boxes_are_those_of_bodies_or_of_the_file_that_is_said(
    chosen: dict[str, str], corners: list[str], tmp_path: Path
) -> None:
    assert box(read_files(LAYOUT, tmp_path, FILES, chosen)) == corners


def test_the_other_boxes_and_crops_are_said(tmp_path: Path) -> None:
    notes = read_files(LAYOUT, tmp_path, FILES).notes[1:]
    assert notes == (
        "Photos are those in train_images; backfin also has photos of these names: --column path=FOLDER "
        "takes another folder's.",
        "Boxes are those of fullbody_train.csv; --column box=FILE takes those of train2.csv, "
        "train_backfin.csv.",
        "fullbody_train.csv has no box of 4 photos.",
        "Back fins are those of train_backfin.csv, by the landmarks fin_upper_left and fin_lower_right: "
        "crop=part looks at them.",
    )


def test_fins_beside_bodies_are_two_landmarks(tmp_path: Path) -> None:
    corners = ("fin_upper_left_x", "fin_upper_left_y", "fin_lower_right_x", "fin_lower_right_y")
    first, second, *_ = read_files(LAYOUT, tmp_path, FILES).table.rows
    assert [first[corner] for corner in corners] == ["5", "6", "9", "10"]
    assert not any(second[corner] for corner in corners)
    fins_alone = read_files(LAYOUT, tmp_path, FILES, {"box": "train_backfin.csv"})
    cropped = read_files(LAYOUT, tmp_path, FILES, {"path": "backfin"})
    assert not {*corners} & {*fins_alone.table.columns, *cropped.table.columns}


def test_crops_of_another_folder_have_no_boxes_of_whole_photos(tmp_path: Path) -> None:
    found = read_files(LAYOUT, tmp_path, FILES, {"path": "backfin/"})
    assert found.table.rows[0]["path"] == "backfin/0.jpg"
    assert any(note.startswith("Boxes and points are of the photos in train_images/") for note in found.notes)
    again = read_files(LAYOUT, tmp_path, FILES, {"path": "backfin", "box": "train_backfin.csv"})
    assert box(again) == ["5", "6", "9", "10"]


def test_half_a_box_is_refused(tmp_path: Path) -> None:
    files = {"train.csv": TRAIN, "fullbody_train.csv": "image,bbox,conf\n0.jpg,[[1 2 3]],[0.8]\n"}
    with pytest.raises(WhalebenchError, match=r"line 2, column bbox, value '\[\[1 2 3\]\]': a box has four"):
        read_files(LAYOUT, tmp_path, files)
