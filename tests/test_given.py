"""Several animals in one photo: where boxes say who is asked about, each row is the part within its box."""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image

from whalebench import WhalebenchError
from whalebench.benchmarks.auditing.audit import audit_catalog
from whalebench.benchmarks.auditing.auditor import thumbnails
from whalebench.benchmarks.core.catalog import BOX, GIVEN, REGION, build_catalog, read_facts, regions_of
from whalebench.benchmarks.core.store import decode, inspect_photos
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.explaining import explain as explaining
from whalebench.benchmarks.importing.importer import ImportResult, import_csv, import_photos
from whalebench.benchmarks.importing.layouts import LAYOUTS
from whalebench.benchmarks.overview import catalog_facts
from whalebench.benchmarks.pictures import HeatPhoto, contact_sheet, draw_heat
from whalebench.benchmarks.registry import check_content, load_benchmark
from whalebench.benchmarks.running import runner
from whalebench.benchmarks.running.folds import fold_views
from whalebench.splits.protocols import PROTOCOLS, propose_split

FILES, INDIVIDUALS = 12, 4
WIDE, HIGH = 32, 24
"""Of the part with one animal; a photo is two such parts side by side, and four pixels between them."""
BOXES = {"a": (0, 0, WIDE, HIGH), "b": (WIDE + 4, 0, 2 * WIDE + 4, HIGH)}


def draw(folder: Path) -> pd.DataFrame:
    """Twelve photos of two animals each, left and right of a gap, and the row of each animal."""
    rng = np.random.default_rng(11)
    patterns = rng.integers(0, 256, (INDIVIDUALS, 3, 4, 3))
    rows = []
    for number in range(FILES):
        shown = number % INDIVIDUALS, (number + 1 + number // INDIVIDUALS) % INDIVIDUALS
        halves = [
            np.kron(patterns[who], np.ones((8, 8, 1))) + rng.normal(0, 9, (HIGH, WIDE, 3)) for who in shown
        ]
        pixels = np.concatenate([halves[0], np.zeros((HIGH, 4, 3)), halves[1]], axis=1)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"p{number:02d}.png")
        mask = np.zeros((HIGH, 2 * WIDE + 4), np.uint8)
        mask[4:12, WIDE + 4 + 8 : WIDE + 4 + 20] = 255
        Image.fromarray(mask).save(folder / "mask.png")
        for (side, box), who in zip(BOXES.items(), shown, strict=True):
            row = {"image": f"p{number:02d}{side}", "path": f"p{number:02d}.png", "identity": f"w{who}"}
            row |= {"encounter": f"e{number}{side}", "mask": "mask.png"}
            row |= dict(zip(BOX, box, strict=True))
            rows.append(row | {"tip_x": box[0] + 5.5, "tip_y": 3})
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    folder = tmp_path_factory.mktemp("two")
    rows = draw(folder)
    rows.to_csv(folder / "table.csv", index=False)
    return folder, rows


@pytest.fixture(scope="module")
def shared(drawn: tuple[Path, pd.DataFrame]) -> tuple[Workspace, ImportResult]:
    """A workspace with the benchmark `two`, which tests leave as it is."""
    workspace = Workspace.open(drawn[0] / "workspace")
    return workspace, import_csv(drawn[0] / "table.csv", "two", workspace)


def imported(
    drawn: tuple[Path, pd.DataFrame], tmp_path: Path, rows: pd.DataFrame | None = None, **how: Any
) -> ImportResult:
    """What becomes of some rows of the drawn photos."""
    rows = drawn[1] if rows is None else rows
    rows.to_csv(drawn[0] / "some.csv", index=False)
    return import_csv(drawn[0] / "some.csv", "some", Workspace.open(tmp_path / "workspace"), **how)


def half(folder: Path, image: str) -> NDArray[np.uint8]:
    """The pixels of the animal that a row asks about."""
    box = BOXES[image[-1]]
    return np.asarray(Image.open(folder / f"{image[:3]}.png").crop(box))


def test_each_row_is_the_part_within_its_box(
    drawn: tuple[Path, pd.DataFrame], shared: tuple[Workspace, ImportResult]
) -> None:
    workspace, made = shared
    table = made.catalog.table
    assert (table["width"].eq(WIDE) & table["height"].eq(HIGH)).all()
    assert table.loc[1, list(REGION)].tolist() == list(BOXES["b"])
    assert set(map(tuple, table[list(BOX)].to_numpy().tolist())) == {(0, 0, WIDE, HIGH)}
    assert (table["tip_x"].eq(5.5) & table["tip_y"].eq(3)).all()
    assert table["content_digest"].is_unique
    assert table["file_digest"].nunique() == FILES
    store = load_benchmark("two", workspace, propose=True).store
    pixels, masks = store.pixels((HIGH, WIDE)), store.masks((HIGH, WIDE))
    for row, image in enumerate(table["image"]):
        assert np.array_equal(pixels[row], half(drawn[0], image)), image
    assert not masks[::2].any()
    assert masks[1, 4:12, 8:20].all()
    assert masks[1].sum() == 255 * 8 * 12
    check_content(made.catalog)


def test_that_boxes_are_given_is_said(
    shared: tuple[Workspace, ImportResult], cli: Callable[..., Any]
) -> None:
    workspace, made = shared
    assert made.notes == (
        "Boxes are given: 24 rows are the parts of 12 files within their boxes, and those of one file share "
        "a group in every split; --given none takes photos whole.",
    )
    assert made.catalog.warnings == [GIVEN]
    assert read_facts(workspace.benchmarks / "two")["given"] == "box"
    assert catalog_facts(made.catalog)["given"] == GIVEN
    assert catalog_facts(made.catalog)["photos with a box"] == 0
    shown = cli("data", "show", "two", "--workspace", str(workspace.root))
    assert "each photo is the part of its file within the box" in " ".join(shown.out.split())


@pytest.mark.parametrize("kind", ["parquet", "coco", "zip"])
def test_all_layouts_and_archives_give_the_same_benchmark(
    drawn: tuple[Path, pd.DataFrame], shared: tuple[Workspace, ImportResult], tmp_path: Path, kind: str
) -> None:
    folder, rows = drawn
    expected, place, layout = shared[1].catalog, folder / "other.parquet", kind
    rows.to_parquet(place)
    if kind == "coco":
        place = tmp_path / "coco"
        place.mkdir()
        expected = build_catalog(expected.table.drop(columns=["mask", "mask_content_digest"]), "two")
        (place / "two.json").write_text(json.dumps(_coco(rows)), encoding="utf-8")
        for file in folder.glob("p*.png"):
            shutil.copy(file, place)
    elif kind == "zip":
        layout, inside = "csv", tmp_path / "inside"
        inside.mkdir()
        for file in (*folder.glob("*.png"), folder / "table.csv"):
            shutil.copy(file, inside)
        place = Path(shutil.make_archive(str(tmp_path / "two"), "zip", inside))
        shutil.rmtree(inside)
    workspace = Workspace.open(tmp_path / "workspace")
    made = import_photos(LAYOUTS[layout], place, "other", workspace).catalog
    assert regions_of(made.table) == regions_of(expected.table)
    same = made.table.assign(image=expected.table["image"])
    assert build_catalog(same, "other").digest == expected.digest
    check_content(made)


def _coco(rows: pd.DataFrame) -> dict[str, Any]:
    numbers = rows["path"].str[1:3].astype(int).tolist()
    return {
        "images": [{"id": number, "file_name": f"p{number:02d}.png"} for number in sorted(set(numbers))],
        "categories": [{"id": 1, "name": "animal", "keypoints": ["tip"]}],
        "annotations": [
            {
                "id": place,
                "image_id": number,
                "category_id": 1,
                "name": row["identity"],
                "encounter": row["encounter"],
                "bbox": [row["x0"], row["y0"], row["x1"] - row["x0"], row["y1"] - row["y0"]],
                "keypoints": [row["tip_x"], row["tip_y"], 2],
            }
            for place, (number, row) in enumerate(zip(numbers, rows.to_dict("records"), strict=True), 100)
        ],
    }


APART = [each for each in PROTOCOLS if each not in ("auto", "published", "disjoint")]
"""In a disjoint split whoever shares a photo would be in one part, and here that is everybody."""


@pytest.mark.parametrize("protocol", APART)
def test_no_split_cuts_a_file(protocol: str) -> None:
    rows = [
        {
            "image": f"{number:03d}{side}",
            "identity": f"w{(number + place * (number % 7)) % 20:02d}",
            "date": f"2024-{1 + number // 20:02d}-{1 + number % 20:02d}",
            "file_digest": f"{number}",
        }
        for number in range(120)
        for place, side in enumerate("ab")
    ]
    table = pd.DataFrame(rows).assign(path=lambda each: each["file_digest"], viewpoint="left")
    table[list(REGION)] = (0, 0, 9, 9)
    of = build_catalog(table.assign(content_digest=table["image"], encounter=table["image"]), "two")
    split = propose_split(of, protocol=protocol)
    assert split.table["group"].tolist() == [image for image in of.table["image"][::2] for _ in range(2)]
    folds = split.table.groupby(of.table["path"])[["fold", "valid"]].nunique()
    assert (folds == 1).all().all()


def test_two_rows_of_a_photo_get_different_scores(
    shared: tuple[Workspace, ImportResult],
    tiny_settings: tuple[str, ...],
    cli: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    workspace = shared[0]
    request = runner.RunRequest("softmax", "two", settings=tiny_settings, device="cpu")
    record = runner.run(request, workspace)
    queries = pd.read_parquet(workspace.runs / record.run / "predictions.parquet")
    by_file = queries.groupby(queries["image"].str[:3])
    assert (by_file["image"].count() == 2).all()
    assert (by_file["score_1"].nunique() == 2).all()
    assert record.warnings[0] == GIVEN
    for command in (["report", "--benchmark", "two"], ["show", record.run]):
        said = cli(*command, "--workspace", str(workspace.root)).out
        assert "Boxes are given: each photo is the part of its file" in " ".join(said.split())
    image = next(image for image in queries["image"] if image.endswith("b"))
    shown: list[HeatPhoto] = []
    monkeypatch.setattr(explaining, "draw_heat", lambda photos, *_: shown.extend(photos))
    explaining.explain(record.run, workspace, images=[image], box=0.5)
    assert [(photo.region, photo.shape) for photo in shown] == [(BOXES["b"], (HIGH, WIDE))]
    views = fold_views(load_benchmark("two", workspace), 0)
    assert views.test.annotations is None
    assert set(map(tuple, views.test.shapes.tolist())) == {(HIGH, WIDE)}


# --- whole photos


def test_photos_may_be_taken_whole(drawn: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
    made = imported(drawn, tmp_path, given="none")
    table = made.catalog.table
    assert REGION[0] not in table
    assert table["width"].eq(2 * WIDE + 4).all()
    assert table.loc[1, ["x0", "tip_x"]].tolist() == [WIDE + 4, WIDE + 4 + 5.5]
    assert made.catalog.warnings == []
    assert made.notes == (
        "12 photos show two annotated animals each (two rows of one file with different boxes): whole-photo "
        "methods give both rows the same answer, so top-1 cannot exceed 0.5.",
        "Photos with the very pixels of another: 12; they share a group in every split.",
    )


def test_parts_and_whole_photos_are_decoded_apart(drawn: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
    workspace = Workspace.open(tmp_path / "workspace")
    for name in ("box", "none"):
        import_csv(drawn[0] / "table.csv", name, workspace, given=name)
    stores = [load_benchmark(name, workspace, propose=True).store for name in ("box", "none", "box")]
    parts, whole, again = (store.pixels((HIGH, WIDE)) for store in stores)
    assert np.array_equal(parts, again)
    assert np.array_equal(whole[0], whole[1])
    assert not np.array_equal(parts[0], parts[1])
    of_parts, of_whole, _ = (store.masks((HIGH, WIDE)) for store in stores)
    assert np.array_equal(of_whole[0], of_whole[1])
    assert not of_parts[0].any()


def test_how_far_whole_photos_get_counts_the_photos_of_one_animal(
    drawn: tuple[Path, pd.DataFrame], tmp_path: Path
) -> None:
    kept = drawn[1].drop(index=range(7, 24, 2))  # 3 files of two rows, 9 of one
    extra = drawn[1].iloc[[0]].assign(image="more", identity="w3", x0=2)
    made = imported(drawn, tmp_path, pd.concat([kept, extra]), given="none")
    assert "3 photos show several annotated animals each (several rows of one file" in made.notes[0]
    assert made.notes[0].endswith("all rows the same answer, so top-1 cannot exceed 0.75.")  # 12 of 16


def test_one_box_a_photo_is_an_annotation(drawn: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
    rows = drawn[1].iloc[::2]
    made = imported(drawn, tmp_path, rows)
    assert REGION[0] not in made.catalog.table
    assert "given" not in read_facts(tmp_path / "workspace" / "benchmarks" / "some")
    assert "given" not in catalog_facts(made.catalog)
    assert catalog_facts(made.catalog)["photos with a box"] == 12
    assert made.catalog.digest == imported(drawn, tmp_path / "again", rows, given="none").catalog.digest
    given = imported(drawn, tmp_path / "given", rows, given="box")
    assert given.catalog.has_given_boxes
    assert given.catalog.table["width"].eq(WIDE).all()


def test_a_row_twice_makes_no_box_given(drawn: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
    rows = drawn[1].iloc[::2]
    made = imported(drawn, tmp_path, pd.concat([rows, rows.iloc[[0]].assign(image="again")]))
    assert not made.catalog.has_given_boxes


def test_without_a_box_nothing_can_be_given(drawn: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
    bare = drawn[1].drop(columns=list(BOX))
    with pytest.raises(WhalebenchError, match=r"--given box .* no row has x0, y0, x1 and y1; add them"):
        imported(drawn, tmp_path, bare, given="box")
    said = imported(drawn, tmp_path, bare).notes[1]
    assert "very same photo is said to show different individuals 12 times" in said
    assert "give each row the box of its animal, and --given box" in said


# --- rows of which nobody can tell which animal they ask about


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dict.fromkeys(BOX, np.nan), "several rows and this one no box"),
        (dict(zip(BOX, BOXES["a"], strict=True)), "has this box and another name"),
    ],
)
def test_a_row_that_its_box_does_not_tell_apart_is_refused(
    drawn: tuple[Path, pd.DataFrame], tmp_path: Path, change: dict[str, float], said: str
) -> None:
    rows = drawn[1].copy()
    rows.loc[3, list(change)] = change.values()
    with pytest.raises(WhalebenchError, match=f"line 5, column x0, .*{said}.*--given none") as caught:
        imported(drawn, tmp_path, rows)
    assert len(str(caught.value).split(", column", 1)[1]) <= 300
    assert not imported(drawn, tmp_path, rows, given="none").catalog.has_given_boxes
    rows.loc[3, "identity"] = "unknown"  # nobody asks who it is
    made = imported(drawn, tmp_path / "unknown", rows)
    assert made.catalog.has_given_boxes
    rows.loc[3, "identity"] = rows.loc[2, "identity"]  # or it is the same one
    assert imported(drawn, tmp_path / "same", rows).catalog.has_given_boxes


def test_an_animal_nobody_identified_makes_the_box_of_the_other_given(
    drawn: tuple[Path, pd.DataFrame], tmp_path: Path
) -> None:
    rows = drawn[1].drop(index=range(3, 24, 2))
    rows.loc[1, "identity"] = "unidentified"
    table = imported(drawn, tmp_path, rows).catalog.table
    assert table["width"].tolist() == [WIDE] * 13
    assert table["identity"].tolist()[:2] == ["w0", "?"]


def test_rows_without_a_box_and_of_a_file_of_their_own_stay_whole(
    drawn: tuple[Path, pd.DataFrame], tmp_path: Path
) -> None:
    rows = drawn[1].drop(index=1)
    rows.loc[0, list(BOX)] = np.nan
    made = imported(drawn, tmp_path, rows)
    table = made.catalog.table
    assert regions_of(table)[:3] == (None, BOXES["a"], BOXES["b"])
    assert table["width"].tolist()[:3] == [2 * WIDE + 4, WIDE, WIDE]
    assert table["x0"].isna().tolist()[:3] == [True, False, False]
    assert table.loc[0, "tip_x"] == 5.5
    check_content(made.catalog)


# --- pixels


def test_the_part_is_of_the_upright_photo_and_ends_with_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    upright = Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its left side
    file = tmp_path / "turned.png"
    upright.transpose(Image.Transpose.ROTATE_90).save(file, exif=exif)
    region = (21, 4, 31, 18)
    (facts,) = inspect_photos([file], [region])
    assert not isinstance(facts, str)
    assert (facts.width, facts.height) == (9, 14)
    expected = np.asarray(upright)[4:18, 21:30]
    assert np.array_equal(decode(str(file), (14, 9, 3), region), expected)
    (outside,) = inspect_photos([file], [(30, 0, 31, 9)])
    assert outside == "its box has no pixel within the photo of 30x20 pixels"


def test_a_box_takes_every_pixel_it_touches(drawn: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
    rows = drawn[1].astype(dict.fromkeys(BOX, float))
    rows.loc[0, list(BOX)] = (-0.4, 1.5, 10.2, HIGH + 0.4)
    table = imported(drawn, tmp_path, rows).catalog.table
    assert regions_of(table)[0] == (0, 1, 11, HIGH)
    assert table.loc[0, ["width", "height", "tip_x", "tip_y"]].tolist() == [11, HIGH - 1, 5.5, 2]


def test_a_large_photo_is_reduced_for_whole_ones_only(tmp_path: Path) -> None:
    pixels = np.zeros((400, 800, 3), np.uint8)
    pixels[:, 400:] = 255
    Image.fromarray(pixels).save(tmp_path / "large.jpg", quality=95)
    assert decode(str(tmp_path / "large.jpg"), (8, 8, 3), (400, 0, 800, 400)).min() > 245
    assert decode(str(tmp_path / "large.jpg"), (8, 8, 3), (0, 0, 400, 400)).max() < 10


def test_a_changed_file_or_region_is_found(drawn: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
    catalog = imported(drawn, tmp_path).catalog
    table = catalog.table.copy()
    table.loc[[0, 1], list(REGION)] = table.loc[[1, 0], list(REGION)].to_numpy()
    changed = build_catalog(table, "some")
    assert changed.digest != catalog.digest
    with pytest.raises(WhalebenchError, match=r"do not show what was catalogued .*p00a, .*p00b"):
        check_content(changed)


def test_the_audit_compares_parts(drawn: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
    folder, rows = drawn
    Image.fromarray(half(folder, "p00b")).save(folder / "copy.jpg", quality=90)
    copy = rows.iloc[[1]].assign(image="copy", path="copy.jpg", **dict.fromkeys((*BOX, "mask"), None))
    made = imported(drawn, tmp_path, pd.concat([rows, copy], ignore_index=True))
    found = {pair.images: pair.kind for pair in audit_catalog(made.catalog).pairs}
    assert found["copy", "p00b"] == "twin"


def test_pictures_are_of_the_part(shared: tuple[Workspace, ImportResult], tmp_path: Path) -> None:
    catalog = shared[1].catalog
    uri = thumbnails(catalog, ["p00b"])["p00b"].partition(",")[2]
    assert Image.open(io.BytesIO(base64.b64decode(uri))).size == (WIDE, HIGH)
    contact_sheet(catalog.table.iloc[[1]], tmp_path / "part.png", cell=WIDE, rows=1, columns=1)
    contact_sheet(
        catalog.table.iloc[[1]].drop(columns=list(REGION)),
        tmp_path / "whole.png",
        cell=WIDE,
        rows=1,
        columns=1,
    )
    part, whole = (np.asarray(Image.open(tmp_path / name)) for name in ("part.png", "whole.png"))
    assert not np.array_equal(part, whole)
    row = catalog.table.iloc[1]
    heat = HeatPhoto(row["path"], (HIGH, WIDE), np.zeros((2, 2)), (), "", regions_of(catalog.table)[1])
    draw_heat([heat], tmp_path / "heat.png", "")
    drawn = Image.open(tmp_path / "heat.png")
    left = np.asarray(drawn)[88:-14, 14:474].astype(float).mean(axis=(0, 1))
    shown = np.asarray(Image.open(row["path"]).crop(BOXES["b"])).astype(float).mean(axis=(0, 1))
    assert np.abs(left - shown).max() < 20
