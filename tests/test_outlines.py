"""Masks from outlines: polygons and run lengths of COCO, drawn as files of a benchmark."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from whalebench import WhalebenchError
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.importing.importer import ImportResult, import_photos
from whalebench.benchmarks.importing.layouts import LAYOUTS
from whalebench.benchmarks.importing.outlines import filled
from whalebench.tests.layouts import SIZE, draw

WIDTH, HEIGHT = SIZE
SQUARE = [[4, 3, 24, 3, 24, 13, 4, 13]]
PACKED = {"size": [4, 3], "counts": "1234"}
"""Run lengths 1, 2, 3, 6: the fourth is written as 4 and added to the second."""


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(tmp_path / "workspace")


def coco(folder: Path, *segmentations: Any, **said: int) -> Path:
    """A folder of a COCO file whose annotations have these outlines, each of a photo and an individual."""
    images = [{"id": n, "file_name": f"{n}.png", **said} for n in range(len(segmentations))]
    annotations = [
        {"id": n, "image_id": n, "individual_id": f"w{n % 2}", "segmentation": outline}
        for n, outline in enumerate(segmentations)
    ]
    draw(folder, [image["file_name"] for image in images])
    content = json.dumps({"images": images, "annotations": annotations, "categories": []})
    (folder / "coco.json").write_text(content, encoding="utf-8")
    return folder


def imported(place: Path, workspace: Workspace) -> ImportResult:
    return import_photos(LAYOUTS["coco"], place, "mine", workspace)


def test_a_polygon_holds_the_pixels_whose_centres_are_within() -> None:
    mask = filled(SQUARE, WIDTH, HEIGHT)
    assert mask.shape == (HEIGHT, WIDTH) and mask[3:13, 4:24].all() and mask.sum() == 200
    triangle = filled([[0, 0, 20, 0, 0, 20]], 20, 20)
    y, x = np.mgrid[:20, :20] + 0.5
    assert (triangle == (x + y < 20)).all() or (triangle == (x + y <= 20)).all()
    both = filled([SQUARE[0], [30, 20, 99, 20, 99, 99, 30, 99]], WIDTH, HEIGHT)  # beyond the edges
    assert both.sum() == 200 + 10 * 10 and both[20:, 30:].all()


def test_run_lengths_go_down_the_columns_and_may_be_packed() -> None:
    plain = filled({"size": [4, 3], "counts": [1, 2, 3, 6]}, 3, 4)
    assert plain.T.ravel().astype(int).tolist() == [0, 1, 1, 0, 0, 0, 1, 1, 1, 1, 1, 1]
    assert (filled(PACKED, 3, 4) == plain).all()


@pytest.mark.parametrize(
    ("outline", "why"),
    [
        ([[1, 2, 3, 4]], "three points"),
        ([[1, 2, 3, 4, 5, None]], "could not|three points"),
        ([[1, 2, 3, 4, 5, "x"]], "could not"),
        ("polygon", "neither polygons nor run lengths"),
        ({"size": [4, 3], "counts": [1, 2]}, "size is not that of the photo"),
        ({"size": [HEIGHT, WIDTH], "counts": [1, 2]}, "do not add up"),
        ({"size": [HEIGHT, WIDTH], "counts": [-1, HEIGHT * WIDTH + 1]}, "do not add up"),
        ({"size": [HEIGHT, WIDTH], "counts": "\t"}, "no packed text"),
        ({"size": [HEIGHT, WIDTH], "counts": "o" * 40}, "no packed text"),
        ({"size": [HEIGHT, WIDTH]}, "do not add up"),
    ],
)
def test_what_is_no_outline_is_a_sentence(
    outline: Any, why: str, tmp_path: Path, workspace: Workspace
) -> None:
    folder = coco(tmp_path / "photos", SQUARE, outline)
    with pytest.raises(WhalebenchError, match=f"coco.json, annotation 1 has an outline .*{why}"):
        imported(folder, workspace)
    assert not (workspace.benchmarks / "mine").exists()


@pytest.mark.parametrize("is_archive", [False, True])
def test_masks_stand_in_the_benchmark(is_archive: bool, tmp_path: Path, workspace: Workspace) -> None:
    place = folder = coco(tmp_path / "photos", SQUARE, [], SQUARE)
    if is_archive:
        place = tmp_path / "photos.zip"
        with zipfile.ZipFile(place, "w") as archive:
            for file in folder.iterdir():
                archive.write(file, file.name)
    catalog = imported(place, workspace).catalog
    masks = catalog.table["mask"].tolist()
    assert [bool(mask) for mask in masks] == [True, False, True]
    drawn = np.asarray(Image.open(masks[0]).convert("L"))
    assert (drawn[3:13, 4:24] == 255).all() and (drawn > 0).sum() == 200
    assert Path(masks[0]).is_relative_to(workspace.benchmarks / "mine" / "masks")
    assert imported(place, workspace).catalog.digest == catalog.digest


def test_outlines_for_other_sizes_are_left_out(tmp_path: Path, workspace: Workspace) -> None:
    found = imported(coco(tmp_path / "photos", SQUARE, SQUARE, width=WIDTH * 2, height=HEIGHT * 2), workspace)
    assert found.catalog.table["mask"].tolist() == ["", ""]
    assert any("Outlines of photos" in note and note.endswith(": 2.") for note in found.notes)
