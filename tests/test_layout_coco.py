"""The layout `coco`: COCO's and MegaDetector's JSON, boxes in pixels and in shares."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from whalebench.benchmarks.importing.layouts.coco import LAYOUT
from whalebench.benchmarks.importing.layouts.layout import LayoutOptions
from whalebench.benchmarks.importing.layouts.rows import PhotoNames
from whalebench.benchmarks.importing.nobody import identity_of
from whalebench.benchmarks.importing.tables import check_rows, number_columns
from whalebench.tests.layouts import by_image, draw, laid_out, refusal, write_example

IMAGES = [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}]
CATEGORIES = [{"id": 1, "name": "zebra", "keypoints": ["ear", "tail"]}]
ANNOTATIONS: list[dict[str, Any]] = [
    {"id": 7, "image_id": 1, "category_id": 1, "individual_id": "ann", "bbox": [4, 3, 20, 10.5]},
    {"id": 8, "image_id": 2, "category_id": 1, "individual_id": "bob", "bbox": [8, 5, 20, 10]},
]


def coco(
    folder: Path,
    annotations: list[dict[str, Any]] = ANNOTATIONS,
    images: list[dict[str, Any]] = IMAGES,
    categories: list[dict[str, Any]] = CATEGORIES,
    name: str = "annotations.json",
) -> Path:
    """A folder with that COCO file and its photos."""
    document = {"images": images, "annotations": annotations, "categories": categories}
    (folder / name).write_text(json.dumps(document), encoding="utf-8")
    draw(folder, [image["file_name"] for image in images])
    return folder


def detections(folder: Path, images: list[dict[str, Any]], **more: Any) -> Path:
    """A folder with MegaDetector's file of those images, of version 5 unless said otherwise."""
    document = {"images": images, "detection_categories": {"1": "animal", "2": "person"}, **more}
    document.setdefault("info", {"format_version": "1.4", "detector": "md_v5a.0.0.pt"})
    (folder / "md.json").write_text(json.dumps(document), encoding="utf-8")
    return folder


def detection(conf: float, bbox: list[float], category: str = "1") -> dict[str, Any]:
    return {"category": category, "conf": conf, "bbox": bbox}


def test_the_example_is_what_it_says(tmp_path: Path) -> None:
    write_example(LAYOUT, tmp_path)
    rows = by_image(laid_out(LAYOUT, tmp_path))
    assert [row["identity"] for row in rows.values()] == ["ann", "bob"]
    assert [rows["a.jpg"][column] for column in ("x0", "y0", "x1", "y1")] == ["4", "3", "24", "13"]


def test_width_and_height_become_corners(tmp_path: Path) -> None:
    found = laid_out(LAYOUT, coco(tmp_path))
    assert by_image(found) == {
        "a.jpg": {
            "image": "a.jpg",
            "path": "a.jpg",
            "identity": "ann",
            "species": "zebra",
            "x0": "4",
            "y0": "3",
            "x1": "24",
            "y1": "13.5",
        },
        "b.jpg": {
            "image": "b.jpg",
            "path": "b.jpg",
            "identity": "bob",
            "species": "zebra",
            "x0": "8",
            "y0": "5",
            "x1": "28",
            "y1": "15",
        },
    }
    assert found.table.places == ("annotations.json, annotation 7", "annotations.json, annotation 8")
    assert found.notes == ()
    assert check_rows(found.table, number_columns(found.table)) == []


def test_where_and_whose_a_photo_is_comes_along(tmp_path: Path) -> None:
    images = [
        IMAGES[0] | {"location": 12, "license": 0, "rights_holder": "Ann"},
        IMAGES[1] | {"location": "cove", "license": 1},
    ]
    folder = coco(tmp_path, images=images)
    document = json.loads((folder / "annotations.json").read_text())
    document["licenses"] = [{"id": 0, "name": "CC BY 4.0"}, {"id": 1, "name": "Unknown"}]
    (folder / "annotations.json").write_text(json.dumps(document))
    rows = by_image(laid_out(LAYOUT, folder)).values()
    assert [row["place"] for row in rows] == ["12", "cove"]
    assert [row.get("licence") for row in rows] == ["CC BY 4.0", None]
    assert [row.get("rightsholder") for row in rows] == ["Ann", None]


def test_several_animals_are_rows_of_one_photo(tmp_path: Path) -> None:
    both = [ANNOTATIONS[0], {**ANNOTATIONS[1], "image_id": 1}]
    found = laid_out(LAYOUT, coco(tmp_path, both))
    rows = by_image(found)
    assert {image: (row["path"], row["identity"]) for image, row in rows.items()} == {
        "a.jpg#7": ("a.jpg", "ann"),
        "a.jpg#8": ("a.jpg", "bob"),
    }
    assert found.notes == ("Photos without an annotation, which are left out: 1.",)


def test_keypoints_are_landmarks_by_their_names(tmp_path: Path) -> None:
    first = {**ANNOTATIONS[0], "keypoints": [1, 2.5, 2, 9, 9, 0]}
    second = {**ANNOTATIONS[1], "keypoints": [3, 4, 1, 0, 7, 2]}
    rows = by_image(laid_out(LAYOUT, coco(tmp_path, [first, second])))
    points = {image: {c: v for c, v in row.items() if c[-2:] in ("_x", "_y")} for image, row in rows.items()}
    assert points == {
        "a.jpg": {"ear_x": "1", "ear_y": "2.5"},
        "b.jpg": {"ear_x": "3", "ear_y": "4", "tail_x": "0", "tail_y": "7"},
    }


def test_identity_by_each_of_the_keys_and_in_attributes(tmp_path: Path) -> None:
    base = {"image_id": 1, "category_id": 1}
    said = [
        {"id": 1, "individual_id": 12, "name": "other", **base},
        {"id": 2, "identity": "ann", **base},
        {"id": 3, "name": "bob", **base},
        {"id": 4, "attributes": {"identity": "cid", "viewpoint": "left"}, **base},
    ]
    rows = by_image(laid_out(LAYOUT, coco(tmp_path, said, IMAGES[:1])))
    assert [row["identity"] for row in rows.values()] == ["12", "ann", "bob", "cid"]
    assert rows["a.jpg#4"]["viewpoint"] == "left"


def test_categories_are_individuals_where_the_user_says_so(tmp_path: Path) -> None:
    plain = [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5]},
        {"id": 2, "image_id": 2, "category_id": 2, "bbox": [1, 1, 5, 5]},
    ]
    folder = coco(tmp_path, plain, categories=[{"id": 1, "name": "ann"}, {"id": 2, "name": "bob"}])
    assert "--column identity=category" in refusal(LAYOUT, folder)
    options = LayoutOptions(columns={"identity": "category"}, species="zebra")
    rows = by_image(laid_out(LAYOUT, folder, options))
    assert [(row["identity"], row["species"]) for row in rows.values()] == [
        ("ann", "zebra"),
        ("bob", "zebra"),
    ]


def test_a_key_that_the_user_names_is_read_or_refused(tmp_path: Path) -> None:
    folder = coco(tmp_path, [{**each, "herd": "north"} for each in ANNOTATIONS])
    rows = by_image(laid_out(LAYOUT, folder, LayoutOptions(columns={"encounter": "herd"})))
    assert [row["encounter"] for row in rows.values()] == ["north", "north"]
    assert "says its encounter as heard" in refusal(
        LAYOUT, folder, LayoutOptions(columns={"encounter": "heard"})
    )
    assert "'x0' cannot be chosen" in refusal(LAYOUT, folder, LayoutOptions(columns={"x0": "left"}))


def test_date_and_sequence_are_the_image_s(tmp_path: Path) -> None:
    images = [
        {**IMAGES[0], "datetime": "2024:05:31 10:00:00", "seq_id": "s1", "name": "a photo"},
        {**IMAGES[1], "date_captured": "last summer"},
    ]
    found = laid_out(LAYOUT, coco(tmp_path, images=images))
    rows = by_image(found)
    assert (rows["a.jpg"]["date"], rows["a.jpg"]["encounter"]) == ("2024-05-31 10:00:00", "s1")
    assert "date" not in rows["b.jpg"]
    assert found.notes == ("Dates that are none of ISO 8601 and are left out: 1.",)


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    more = [
        {"id": 9, "image_id": 1, "category_id": 1, "individual_id": "ann", "iscrowd": 1},
        {"id": 10, "image_id": 99, "category_id": 1, "individual_id": "ann"},
        {"id": 11, "image_id": 1, "category_id": 1, "individual_id": "Unknown"},
        {"id": 12, "image_id": 1, "category_id": 1},
    ]
    outlined = [{**each, "segmentation": [[1, 1, 9, 1, 9, 9]]} for each in ANNOTATIONS]
    found = laid_out(LAYOUT, coco(tmp_path, [*outlined, *more]))
    assert list(by_image(found)) == ["a.jpg#7", "b.jpg", "a.jpg#11", "a.jpg#12"]
    assert [identity_of(row["identity"]) for row in found.table.rows] == ["ann", "bob", "?", "?"]
    assert found.notes == (
        "Annotations of an image_id that no image has, which are left out: 1.",
        "Annotations of a crowd (iscrowd), which are left out: 1.",
    )


def test_an_empty_box_is_none(tmp_path: Path) -> None:
    annotations = [{**ANNOTATIONS[0], "bbox": [0, 0, 0, 0]}, {**ANNOTATIONS[1], "bbox": []}]
    assert "x0" not in laid_out(LAYOUT, coco(tmp_path, annotations)).table.columns


def test_photos_of_another_size_than_said_are_noted(tmp_path: Path) -> None:
    images = [{**IMAGES[0], "width": 40, "height": 30}, {**IMAGES[1], "width": 80, "height": 60}]
    (note,) = laid_out(LAYOUT, coco(tmp_path, images=images)).notes
    assert "1, first b.jpg of 40x30 pixels, said to be 80x60" in note


def test_photos_are_found_in_their_folder_and_never_outside(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    images = [
        {"id": 1, "file_name": "C:\\field\\photos\\a.jpg"},
        {"id": 2, "file_name": "../../b.jpg"},
    ]
    document = {"images": images, "annotations": ANNOTATIONS, "categories": CATEGORIES}
    (folder / "annotations").mkdir()
    (folder / "annotations/instances.json").write_text(json.dumps(document), encoding="utf-8")
    draw(folder, ["photos/a.jpg"])
    draw(tmp_path, ["b.jpg"])
    assert [row["path"] for row in by_image(laid_out(LAYOUT, folder)).values()] == ["photos/a.jpg", "b.jpg"]


def test_a_name_that_fits_several_photos_is_refused(tmp_path: Path) -> None:
    folder = coco(tmp_path)
    (folder / "a.jpg").unlink()
    draw(folder, ["x/a.jpg", "y/a.jpg"])
    assert "may be any of 2 files, first 'x/a.jpg' and 'y/a.jpg'" in refusal(LAYOUT, folder)


def test_names_are_found_however_accents_are_coded() -> None:
    photos = PhotoNames(["Zoe\u0308/1.jpg"])
    assert photos.find("Zo\u00eb/1.jpg") == "Zoe\u0308/1.jpg"
    assert photos.find("sub/../Zo\u00eb/1.jpg") == "Zoe\u0308/1.jpg"


def test_files_of_the_parts_of_a_split(tmp_path: Path) -> None:
    coco(tmp_path, ANNOTATIONS[:1], IMAGES[:1], name="instances_train2020.json")
    coco(tmp_path, ANNOTATIONS[1:], IMAGES[1:], name="instances_val2020.json")
    rows = by_image(laid_out(LAYOUT, tmp_path))
    assert {image: row["split"] for image, row in rows.items()} == {"a.jpg": "train", "b.jpg": "valid"}


def test_two_files_that_are_no_split_are_refused(tmp_path: Path) -> None:
    coco(tmp_path, name="one.json")
    coco(tmp_path, name="two.json")
    assert "has 2 files of annotations, one.json and two.json" in refusal(LAYOUT, tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no COCO file"),
        ('{"a": 1}', "has no COCO file"),
        ("[" * 100 + "]" * 100, "more than 64 levels"),
        ('{"images": [NaN], "annotations": []}', "is not finite"),
        ('{"images": [1], "annotations": []}', "images that are no list of objects"),
        ('{"images": [{"id": [1]}], "annotations": []}', "which is no number or text"),
        ('{"images": [{"id": 1}, {"id": 1}], "annotations": []}', "has the id 1 among its images, twice"),
        ('{"images": [], "annotations": []}', "says its identity as individual_id or identity or name"),
    ],
)
def test_what_is_no_coco_file_is_a_sentence(tmp_path: Path, text: str, said: str) -> None:
    if text:
        (tmp_path / "x.json").write_text(text, encoding="utf-8")
    assert said in refusal(LAYOUT, tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"bbox": [1, 2, 3]}, "annotation 7 has the bbox [1, 2, 3], which is not four numbers"),
        ({"bbox": [1, 2, "3", 4]}, "which is not four numbers"),
        ({"keypoints": [1, 2, 2]}, "keypoints that are not x, y, v for each name"),
        ({"keypoints": [1, 2, 2, "a", 2, 2]}, "keypoints that are not numbers"),
    ],
)
def test_what_is_no_annotation_is_a_sentence(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    assert said in refusal(LAYOUT, coco(tmp_path, [{**ANNOTATIONS[0], **change}, ANNOTATIONS[1]]))


def test_shares_become_pixels_of_the_upright_photo(tmp_path: Path) -> None:
    draw(tmp_path, ["ann/1.jpg"])
    draw(tmp_path, ["bob/1.jpg"], turned=True)
    box = [0.25, 0.1, 0.5, 0.9001]
    images = [{"file": f"{name}/1.jpg", "detections": [detection(0.9, box)]} for name in ("ann", "bob")]
    rows = by_image(laid_out(LAYOUT, detections(tmp_path, images), LayoutOptions(species="zebra")))
    assert rows["ann/1.jpg"] == {
        "image": "ann/1.jpg",
        "path": "ann/1.jpg",
        "identity": "ann",
        "species": "zebra",
        "x0": "10",
        "y0": "3",
        "x1": "30",
        "y1": "30",
    }
    assert [rows["bob/1.jpg"][column] for column in ("x0", "y0", "x1", "y1")] == ["7.5", "4", "22.5", "40"]


def test_detections_below_the_threshold_are_left_out_and_counted(tmp_path: Path) -> None:
    draw(tmp_path, [f"ann/{number}.jpg" for number in range(4)])
    box = [0.1, 0.1, 0.5, 0.5]
    images: list[dict[str, Any]] = [
        {"file": "ann/0.jpg", "detections": [detection(0.2, box), detection(0.19, box)]},
        {"file": "ann/1.jpg", "detections": [detection(0.1, box), detection(0.9, box, "2")]},
        {"file": "ann/2.jpg", "detections": [detection(0.9, box), detection(0.8, box)]},
        {"file": "ann/3.jpg", "detections": None, "failure": "image access failure"},
    ]
    found = laid_out(LAYOUT, detections(tmp_path, images))
    assert {image: "x0" in row for image, row in by_image(found).items()} == {
        "ann/0.jpg": True,
        "ann/1.jpg": False,
    }
    assert found.notes[1:] == (
        "Detections below 0.2, which are left out: 2.",
        "Detections of no animal, which are left out: 1.",
        "Photos without a detected animal, which have no box: 1.",
        "Photos of several animals, left out as their folder names one of them only: 1.",
        "Photos that MegaDetector could not read, which are left out: 1.",
    )


@pytest.mark.parametrize(
    ("info", "threshold"),
    [
        ({"detector": "md_v5a.0.0.pt"}, "0.2"),
        ({"detector": "md_v4.1.0.pb"}, "0.8"),
        ({}, "0.8"),
        ({"detector": "x", "detector_metadata": {"typical_detection_threshold": 0.35}}, "0.35"),
    ],
)
def test_the_threshold_is_the_one_that_the_file_recommends(
    tmp_path: Path, info: dict[str, Any], threshold: str
) -> None:
    draw(tmp_path, ["ann/0.jpg"])
    images = [{"file": "ann/0.jpg", "detections": [detection(0.05, [0.1, 0.1, 0.5, 0.5])]}]
    notes = laid_out(LAYOUT, detections(tmp_path, images, info=info)).notes
    assert f"Detections below {threshold}, which are left out: 1." in notes


def test_a_list_of_photos_has_corners_in_pixels(tmp_path: Path) -> None:
    draw(tmp_path, ["ann/0.jpg"])
    one = {"category": "animal", "confidence": 0.93, "bbox": [4.5, 3, 20, 10]}
    (tmp_path / "md.json").write_text(json.dumps([{"file": "ann/0.jpg", "detections": [one]}]))
    (row,) = by_image(laid_out(LAYOUT, tmp_path)).values()
    assert [row[column] for column in ("x0", "y0", "x1", "y1")] == ["4.5", "3", "20", "10"]


def test_photos_in_no_folder_name_nobody(tmp_path: Path) -> None:
    draw(tmp_path, ["0.jpg"])
    images = [{"file": "0.jpg", "detections": []}]
    assert "names no individuals, so each must have its folder" in refusal(
        LAYOUT, detections(tmp_path, images)
    )
    options = LayoutOptions(columns={"identity": "name"})
    assert "leave --column out" in refusal(LAYOUT, detections(tmp_path, images), options)


def test_a_detection_without_confidence_is_a_sentence(tmp_path: Path) -> None:
    images = [{"file": "ann/0.jpg", "detections": [{"category": "1", "bbox": [0, 0, 1, 1]}]}]
    assert "without a conf" in refusal(LAYOUT, detections(tmp_path, images))
