"""The layout `camtrap-dp`: packages of camera trap studies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from whalebench.benchmarks.importing.layouts.camtrap import LAYOUT
from whalebench.benchmarks.importing.layouts.layout import LayoutOptions
from whalebench.benchmarks.importing.nobody import identity_of
from whalebench.benchmarks.importing.tables import check_rows, number_columns
from whalebench.tests.layouts import by_image, draw, laid_out, refusal, write_example

MEDIA = (
    "mediaID,deploymentID,captureMethod,timestamp,filePath,filePublic,fileMediatype",
    "m1,d1,activityDetection,2024-05-31T10:00:00Z,media/a.jpg,true,image/jpeg",
    "m2,d2,activityDetection,2024-06-01T10:00:00+02:00,media/b.jpg,true,image/jpeg",
    "m3,d2,activityDetection,2024-06-01T10:00:00+02:00,media/c.mp4,true,video/mp4",
    "m4,d2,activityDetection,2024-06-01T10:00:00+02:00,https://example.org/d.jpg,true,image/jpeg",
)
FIELDS = (
    "observationID,deploymentID,mediaID,eventID,observationLevel,observationType,scientificName,individualID,"
    "bboxX,bboxY,bboxWidth,bboxHeight"
)
CREDITS = {
    "licenses": [{"name": "CC0-1.0", "scope": "data"}, {"name": "CC-BY-4.0", "scope": "media"}],
    "contributors": [{"title": "Bob", "role": "contact"}, {"title": "Ann & Co", "role": "rightsHolder"}],
}
GOOD = (
    "o1,d1,m1,e1,media,animal,Equus quagga,ann,0.1,0.2,0.5,0.4",
    "o2,d2,m2,e2,media,animal,,bob,,,,",
)


def package(folder: Path, *observations: str, fields: str = FIELDS, media: tuple[str, ...] = MEDIA) -> Path:
    """A folder with a package of those observations, and two photos."""
    names = ("deployments", "media", "observations")
    resources = [{"name": name, "path": f"{name}.csv"} for name in names]
    (folder / "datapackage.json").write_text(json.dumps({"resources": resources} | CREDITS), encoding="utf-8")
    deployments = ("deploymentID,locationID,locationName,cameraID", "d1,l1,waterhole,trap 7", "d2,l2,,")
    for name, lines in zip(names, (deployments, media, (fields, *observations)), strict=True):
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    draw(folder, ["media/a.jpg", "media/b.jpg"])
    return folder


def test_the_example_is_what_it_says(tmp_path: Path) -> None:
    write_example(LAYOUT, tmp_path)
    found = laid_out(LAYOUT, tmp_path)
    assert by_image(found)["media/a.jpg"] == {
        "image": "media/a.jpg",
        "path": "media/a.jpg",
        "identity": "ann",
        "encounter": "e1",
        "date": "2024-05-31T10:00:00Z",
        "place": "waterhole",
        "x0": "4",
        "y0": "3",
        "x1": "24",
        "y1": "15",
    }
    assert found.notes == ()
    assert check_rows(found.table, number_columns(found.table)) == []


def test_observations_become_rows(tmp_path: Path) -> None:
    found = laid_out(LAYOUT, package(tmp_path, *GOOD), LayoutOptions(species="Equus"))
    assert by_image(found) == {
        "media/a.jpg": {
            "image": "media/a.jpg",
            "path": "media/a.jpg",
            "identity": "ann",
            "encounter": "e1",
            "date": "2024-05-31T10:00:00Z",
            "species": "Equus quagga",
            "place": "waterhole",
            "camera": "trap 7",
            "licence": "CC-BY-4.0",
            "rightsholder": "Ann & Co",
            "x0": "4",
            "y0": "6",
            "x1": "24",
            "y1": "18",
        },
        "media/b.jpg": {
            "image": "media/b.jpg",
            "path": "media/b.jpg",
            "identity": "bob",
            "encounter": "e2",
            "date": "2024-06-01T10:00:00+02:00",
            "species": "Equus",
            "place": "l2",
            "licence": "CC-BY-4.0",
            "rightsholder": "Ann & Co",
        },
    }
    assert found.table.places == ("observations, line 2", "observations, line 3")
    assert found.notes == ()


def test_several_animals_are_rows_of_one_photo(tmp_path: Path) -> None:
    both = (GOOD[0], "o2,d1,m1,e1,media,animal,,bob,0.5,0.5,0.5,0.5")
    rows = by_image(laid_out(LAYOUT, package(tmp_path, *both)))
    assert {image: row["identity"] for image, row in rows.items()} == {
        "media/a.jpg#o1": "ann",
        "media/a.jpg#o2": "bob",
    }


def test_one_individual_seen_twice_on_a_photo_is_one_row(tmp_path: Path) -> None:
    twice = (
        GOOD[1],
        "o3,d2,m2,e2,media,animal,,bob,0.1,0.2,0.5,0.4",
        "o4,d2,m2,e2,media,animal,,bob,0.2,0.2,0.5,0.4",
    )
    found = laid_out(LAYOUT, package(tmp_path, *twice))
    (row,) = by_image(found).values()
    assert row["x0"] == "4"
    assert "Further observations of an animal on the same photo, which count once: 2." in found.notes


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    others = (
        "o3,d1,m1,e1,media,blank,,,,,,",
        "o4,d1,,e1,event,animal,,ann,,,,",
        "o5,d1,m9,e1,media,animal,,ann,,,,",
        "o6,d1,m3,e1,media,animal,,ann,,,,",
        "o7,d1,m4,e1,media,animal,,ann,,,,",
        "o8,d1,m1,e1,media,animal,,,,,,",
        "o9,d1,m1,e1,media,animal,,unknown,,,,",
    )
    found = laid_out(LAYOUT, package(tmp_path, *GOOD, *others))
    assert list(by_image(found)) == ["media/a.jpg#o1", "media/b.jpg", "media/a.jpg#o8"]
    assert [identity_of(row["identity"]) for row in found.table.rows] == ["ann", "bob", "?"]
    assert found.notes == (
        "Observations of no animal, which are left out: 1.",
        "Observations of events and not of photos, which are left out: 1.",
        "Observations of a mediaID that no medium has, which are left out: 1.",
        "Observations on videos or sounds, which are left out: 1.",
        "Observations on photos at an address and not in the package, which are left out: 1.",
        "Further observations of an animal on the same photo, which count once: 1.",
    )


def test_a_package_in_a_folder_of_the_source(tmp_path: Path) -> None:
    (tmp_path / "export").mkdir()
    package(tmp_path / "export", *GOOD)
    rows = by_image(laid_out(LAYOUT, tmp_path))
    assert [row["path"] for row in rows.values()] == ["export/media/a.jpg", "export/media/b.jpg"]


def test_a_package_that_identifies_no_animal_is_refused(tmp_path: Path) -> None:
    folder = package(tmp_path, "o8,d1,m1,e1,media,animal,,,,,,")
    assert "identifies no animal: none of its 1 observations" in refusal(LAYOUT, folder)


def test_what_is_no_package_is_a_sentence(tmp_path: Path) -> None:
    assert "has no datapackage.json" in refusal(LAYOUT, tmp_path)
    package(tmp_path, *GOOD)
    (tmp_path / "media.csv").unlink()
    assert "has no resource 'media'" in refusal(LAYOUT, tmp_path)
    (tmp_path / "datapackage.json").write_text("{", encoding="utf-8")
    assert "is no readable JSON" in refusal(LAYOUT, tmp_path)


def test_fields_of_another_version_are_a_sentence(tmp_path: Path) -> None:
    fields = FIELDS.replace("individualID", "individual_id")
    assert "has no field 'individualID'" in refusal(LAYOUT, package(tmp_path, *GOOD, fields=fields))


@pytest.mark.parametrize("box", ["10,20,50,40", "0.1,,0.5,0.4", "0.1,a,0.5,0.4"])
def test_a_box_that_is_no_shares_is_a_sentence(tmp_path: Path, box: str) -> None:
    line = f"o1,d1,m1,e1,media,animal,,ann,{box}"
    assert refusal(LAYOUT, package(tmp_path, line)).startswith("observations, line 2 has the box ")
