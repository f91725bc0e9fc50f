"""Boxes that are no corners in pixels: refused with the reading that fits, read so with --boxes, or noted."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from whalebench import WhalebenchError
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.importing.boxes import Array, Form
from whalebench.benchmarks.importing.importer import ImportResult, import_photos
from whalebench.benchmarks.importing.layouts import LAYOUTS, LayoutOptions

WIDTH, HEIGHT, PHOTOS = 96, 72, 12
SIDES = np.array([WIDTH, HEIGHT, WIDTH, HEIGHT])


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos, each of other pixels."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(PHOTOS):
        Image.new("RGB", (WIDTH, HEIGHT), (number, 0, 99)).save(folder / f"{number}.png")
    return folder


def corners(seed: int) -> Array:
    """Boxes of any size, anywhere."""
    rng = np.random.default_rng(seed)
    size = rng.uniform(0.1, 0.9, (PHOTOS, 2)) * SIDES[:2]
    start = rng.uniform(0, 1, (PHOTOS, 2)) * (SIDES[:2] - size)
    return np.hstack([start, start + size])


def large_corners(seed: int) -> Array:
    """Boxes that take more than half of each side, near the middle."""
    rng = np.random.default_rng(seed)
    size = rng.uniform(0.6, 0.9, (PHOTOS, 2)) * SIDES[:2]
    start = rng.uniform(0.7, 1, (PHOTOS, 2)) * (SIDES[:2] - size) / 2
    return np.hstack([start, start + size])


def written(boxes: Array, form: str) -> Array:
    """The numbers by which a form writes these corners."""
    size = boxes[:, 2:] - boxes[:, :2]
    start = {"corners": boxes[:, :2], "size": boxes[:, :2], "centre": boxes[:, :2] + size / 2}[form]
    return np.hstack([start, boxes[:, 2:] if form == "corners" else size])


def bring(
    photos: Path, boxes: Any, place: Path, form: Form = "", header: str = "x0,y0,x1,y1", **options: Any
) -> ImportResult:
    cells = [",".join(f"{number:.7g}" if number == number else "" for number in box) for box in boxes]
    rows = [f"{number},{number}.png,w{number % 3},{four}" for number, four in enumerate(cells)]
    table = photos / f"{place.name}.csv"
    table.write_text("\n".join([f"image,path,identity,{header}", *rows]))
    how = LayoutOptions(boxes=form, **options)
    return import_photos(LAYOUTS["csv"], table, "mine", Workspace.open(place), options=how)


def corners_of(result: ImportResult) -> Array:
    table = result.catalog.table
    return table.loc[table["image"].astype(int).argsort(), ["x0", "y0", "x1", "y1"]].to_numpy(float)


def said(result: ImportResult) -> list[str]:
    return [note for note in result.notes if not note.startswith("No encounter")]


@pytest.mark.parametrize("unit", ["pixels", "shares"])
@pytest.mark.parametrize("form", ["corners", "size", "centre"])
def test_a_form_that_is_given_is_read(photos: Path, tmp_path: Path, form: Form, unit: str) -> None:
    boxes = corners(1)
    numbers = written(boxes, form) / (SIDES if unit == "shares" else 1)
    result = bring(photos, numbers, tmp_path, form)
    np.testing.assert_allclose(corners_of(result), boxes, atol=2e-3)
    shares = ["Boxes are in shares of the photo, and are read as such."] if unit == "shares" else []
    assert said(result) == shares


@pytest.mark.parametrize("form", ["corners", "size", "centre"])
def test_shares_are_refused_with_the_form_that_fits(photos: Path, tmp_path: Path, form: str) -> None:
    boxes = corners(2)
    with pytest.raises(WhalebenchError, match=r"all boxes \(12\) are below 1, first .* in line 2:") as caught:
        bring(photos, written(boxes, form) / SIDES, tmp_path)
    sentence = str(caught.value)
    assert f"--boxes {form}" in sentence
    assert "or multiply by its width and height" in sentence
    assert len(sentence.replace(str(photos), "")) <= 300


def test_whole_photos_in_shares_are_shares(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(WhalebenchError, match="these look like shares of the photo"):
        bring(photos, [(0, 0, 1, 1)] * PHOTOS, tmp_path)
    result = bring(photos, [(0.5, 0.5, 1, 1)] * PHOTOS, tmp_path, "centre")
    assert (corners_of(result) == [0, 0, WIDTH, HEIGHT]).all()


@pytest.mark.parametrize("form", ["size", "centre"])
def test_boxes_that_end_before_they_begin_are_refused_with_the_form_that_fits(
    photos: Path, tmp_path: Path, form: str
) -> None:
    numbers = written(corners(3), form)
    assert (numbers[:, 2:] <= numbers[:, :2]).any()
    with pytest.raises(WhalebenchError, match=r"of 12 boxes end before they begin, first") as caught:
        bring(photos, numbers, tmp_path)
    assert f"add --boxes {form}" in str(caught.value)


def test_a_box_that_no_form_fits_is_refused_by_its_row(photos: Path, tmp_path: Path) -> None:
    boxes = large_corners(4)
    boxes[5] = (90, 10, 80, 300)
    with pytest.raises(WhalebenchError, match=r"line 7, column x1, value '80': it is not greater than x0"):
        bring(photos, boxes, tmp_path)


@pytest.mark.parametrize("form", ["size", "centre"])
def test_boxes_that_could_be_corners_and_fit_better_otherwise_are_noted(
    photos: Path, tmp_path: Path, form: Form
) -> None:
    numbers = written(large_corners(5), form)
    assert (numbers[:, 2:] > numbers[:, :2]).all(), "nothing proves that these are no corners"
    (note,) = said(bring(photos, numbers, tmp_path / "a"))
    assert note.startswith("As corners nearly all 12 boxes lie in one quarter of their photos")
    assert f"add --boxes {form} if that is meant, or --boxes corners if not" in note
    assert said(bring(photos, numbers, tmp_path / "b", "corners")) == []


def test_a_constant_size_is_noted_too(photos: Path, tmp_path: Path) -> None:
    (note,) = said(bring(photos, [(9, 6, 78, 60)] * PHOTOS, tmp_path))
    assert "add --boxes size if that is meant" in note


@pytest.mark.parametrize("seed", range(5))
def test_corners_are_not_doubted(photos: Path, tmp_path: Path, seed: int) -> None:
    assert said(bring(photos, corners(seed), tmp_path)) == []


@pytest.mark.parametrize("box", [(0, 0, WIDTH, HEIGHT), (9, 6, WIDTH - 9, HEIGHT - 6)])
def test_whole_photos_and_centred_boxes_are_not_doubted(
    photos: Path, tmp_path: Path, box: tuple[int, ...]
) -> None:
    assert said(bring(photos, [box] * PHOTOS, tmp_path)) == []


def test_small_boxes_are_noted(photos: Path, tmp_path: Path) -> None:
    boxes = corners(6)
    boxes[[3, 7], 2:] = boxes[[3, 7], :2] + 2
    (note,) = said(bring(photos, boxes, tmp_path))
    assert note.startswith("2 of 12 boxes are narrower than 4 pixels, first that of '3'")


def test_per_cent_are_noted(tmp_path: Path) -> None:
    for number in range(PHOTOS):
        Image.new("RGB", (400, 300), (number, 0, 0)).save(tmp_path / f"{number}.png")
    boxes = corners(7) / SIDES * 100
    notes = said(bring(tmp_path, boxes, tmp_path / "workspace", "corners"))
    assert [note.split(",")[0] for note in notes] == ["No box has a number above 100"]


def test_photos_without_a_box_and_bad_cells_stay(photos: Path, tmp_path: Path) -> None:
    boxes = corners(8) / SIDES
    boxes[2] = np.nan
    found = corners_of(bring(photos, boxes, tmp_path / "a", "corners"))
    assert np.isnan(found[2]).all()
    assert not np.isnan(np.delete(found, 2, 0)).any()
    boxes[2] = (0.1, np.nan, 0.5, 0.5)
    with pytest.raises(WhalebenchError, match="line 4, column y0, value '': the box is given by half"):
        bring(photos, boxes, tmp_path / "b", "size")


def test_landmarks_in_shares_are_read_as_such(photos: Path, tmp_path: Path) -> None:
    points = np.tile([0.25, 0.5], (PHOTOS, 1))
    points[0] = np.nan
    result = bring(photos, points, tmp_path, header="tip_x,tip_y")
    table = result.catalog.table.set_index("image")
    assert table.loc["1", ["tip_x", "tip_y"]].tolist() == [WIDTH / 4, HEIGHT / 2]
    assert np.isnan(table.loc["0", "tip_x"])
    assert said(result) == ["Landmarks are in shares of the photo, and are read as such."]
    pixels = bring(photos, np.tile([0, 1], (PHOTOS, 1)), tmp_path / "b", header="tip_x,tip_y")
    assert pixels.catalog.table["tip_y"].eq(1).all()


@pytest.mark.parametrize(
    ("header", "option"),
    [
        ("x,y,w,h", "--column x0=x,y0=y,x1=w,y1=h --boxes size"),
        ("x_center,y_center,Width,Height", "--boxes centre"),
        ("xmin,ymin,xmax,ymax", "--column x0=xmin,y0=ymin,x1=xmax,y1=ymax --boxes corners"),
    ],
)
def test_boxes_by_other_names_are_noted_with_the_option(
    photos: Path, tmp_path: Path, header: str, option: str
) -> None:
    form = option.rpartition(" ")[2]
    numbers = written(corners(9), form)
    result = bring(photos, numbers, tmp_path / "a", header=header)
    assert result.catalog.table["x0"].isna().all()
    assert option in next(note for note in result.notes if "look like boxes" in note)
    columns = dict(zip(("x0", "y0", "x1", "y1"), header.split(","), strict=True))
    read = bring(photos, numbers, tmp_path / "b", form, header=header, columns=columns)  # type: ignore[arg-type]
    np.testing.assert_allclose(corners_of(read), corners(9), atol=2e-3)


def test_corners_that_are_called_by_half_of_our_names_are_refused_with_the_option(
    photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(WhalebenchError, match="add --column x0=x1,y0=y1,x1=x2,y1=y2 --boxes corners"):
        bring(photos, corners(9), tmp_path, header="x1,y1,x2,y2")
    columns = {"x0": "x1", "y0": "y1", "x1": "x2", "y1": "y2"}
    read = bring(photos, corners(9), tmp_path, "corners", header="x1,y1,x2,y2", columns=columns)
    np.testing.assert_allclose(corners_of(read), corners(9), atol=2e-3)


@pytest.mark.parametrize("form", ["", "size", "centre"])
def test_numbers_that_are_too_large_are_refused_with_their_row(
    photos: Path, tmp_path: Path, form: Form
) -> None:
    boxes = corners(11)
    boxes[4] = (1.7e308, 1, 1.7e308, 5)
    with pytest.raises(WhalebenchError, match="line 6, column x"):
        bring(photos, boxes, tmp_path, form)


def test_a_box_of_coco_in_shares_is_read_as_such(photos: Path, tmp_path: Path) -> None:
    boxes = written(corners(10), "size") / SIDES
    images = [{"id": number, "file_name": f"{number}.png"} for number in range(PHOTOS)]
    each = [
        {"id": number, "image_id": number, "name": f"w{number % 3}", "bbox": box}
        for number, box in enumerate(boxes.tolist())
    ]
    (photos / "coco.json").write_text(json.dumps({"images": images, "annotations": each, "categories": []}))
    result = import_photos(LAYOUTS["coco"], photos, "mine", Workspace.open(tmp_path))
    (photos / "coco.json").unlink()
    found = result.catalog.table.sort_values(
        "path", key=lambda paths: paths.str.extract(r"(\d+)\.png")[0].astype(int)
    )
    np.testing.assert_allclose(found[["x0", "y0", "x1", "y1"]], corners(10), atol=2e-3)
    assert "Boxes are in shares of the photo, and are read as such." in result.notes


def test_a_form_without_boxes_and_of_another_layout_is_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(WhalebenchError, match="has no columns x0, y0, x1 and y1 for --boxes; say which"):
        bring(photos, corners(9), tmp_path, "size", header="a,b,c,d")
    with pytest.raises(WhalebenchError, match="folder says itself how its boxes are written; leave out"):
        import_photos(
            LAYOUTS["folder"], photos, "mine", Workspace.open(tmp_path), options=LayoutOptions(boxes="size")
        )
