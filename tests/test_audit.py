"""The audit: twins that are planted are found and nothing else; leaks, gate, page, verdicts."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.planted import Planted, as_pairs, draw_animal, plant
from whalebench import WhalebenchError
from whalebench.benchmarks.auditing import auditor
from whalebench.benchmarks.auditing.audit import _by_time, _exact, audit_catalog
from whalebench.benchmarks.auditing.twins import CONFIRMED, find_twins, small_pictures, turned, turned_back
from whalebench.benchmarks.auditing.verdicts import verdicts_in
from whalebench.benchmarks.core.audits import Audit, Pair, find_leaks, read_audit
from whalebench.benchmarks.core.catalog import BOX, build_catalog
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.importing.importer import import_csv
from whalebench.benchmarks.registry import load_catalog, make_split
from whalebench.cli import app
from whalebench.reports.audit_page import audit_page, page_pairs
from whalebench.splits.protocols import propose_split


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    return plant(tmp_path_factory.mktemp("planted"), originals=84, twins=56, seed=0)


def test_planted_twins_are_found_and_nothing_else(planted: Planted) -> None:
    matches = find_twins(small_pictures(planted.paths))
    found = as_pairs(matches.larger, matches.smaller)
    missed = [planted.twins[pair] for pair in planted.twins.keys() - found]
    assert len(missed) <= 0.05 * len(planted.twins), missed
    assert len(found - planted.twins.keys()) <= 0.01 * len(planted.paths)
    assert matches.likeness.min() >= CONFIRMED and (np.diff(matches.likeness) <= 0).all()


def test_large_photos_of_plain_sea_are_told_apart(tmp_path: Path) -> None:
    """Cells of many pixels hold less than a grey level of noise, and the light of all is alike."""
    large = plant(tmp_path, originals=12, twins=12, seed=1, size=(1200, 800))
    matches = find_twins(small_pictures(large.paths))
    assert as_pairs(matches.larger, matches.smaller) == large.twins.keys()


def test_photos_of_one_colour_are_no_twins(tmp_path: Path) -> None:
    files = [str(tmp_path / f"{number}.jpg") for number in range(4)]
    for number, file in enumerate(files):
        Image.new("RGB", (160, 120), (20, 60, 90 + number)).save(file)
    assert len(find_twins(small_pictures(files))) == 0


def test_the_larger_photo_is_cropped_and_turned_to_be_the_other(tmp_path: Path) -> None:
    photo = draw_animal(np.random.default_rng(3))
    wide, high = photo.size
    part = photo.crop((0, 0, round(0.9 * wide), round(0.8 * high))).transpose(Image.Transpose.ROTATE_90)
    for name, image in (("part", part), ("whole", photo)):
        image.save(tmp_path / f"{name}.png")
    matches = find_twins(small_pictures([str(tmp_path / "part.png"), str(tmp_path / "whole.png")]))
    assert (matches.larger.tolist(), matches.smaller.tolist()) == ([1], [0])
    assert np.abs(matches.trims - [[0, 0.2, 0, 0.1]]).max() < 0.02
    assert matches.turns.tolist() == [1]


@pytest.mark.parametrize("turn", range(8))
def test_turning_back_undoes_turning(turn: int) -> None:
    pictures = np.random.default_rng(0).random((2, 4, 4), np.float32)
    assert (turned_back(turned(pictures, turn), turn) == pictures).all()


def test_a_photo_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no photo")
    with pytest.raises(WhalebenchError, match=r"bad\.jpg' cannot be decoded"):
        small_pictures([str(tmp_path / "bad.jpg")])


def table_of(folder: Path) -> pd.DataFrame:
    """Eight individuals with four photos each; of ann1 an exact copy, a mirrored twin called bob, a crop."""
    rng = np.random.default_rng(5)
    rows = []
    for name in ("ann", "bob", "cat", "dan", "eve", "fay", "gus", "hal"):
        for number in range(4):
            file = folder / f"{name}{number}.png"
            draw_animal(rng).save(file)
            date = f"2024-05-{10 + number}T10:00:00"
            rows.append({"image": file.name, "path": str(file), "identity": name, "date": date})
    with Image.open(folder / "ann1.png") as photo:
        photo.save(folder / "ann8.bmp")
        photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "bob9.jpg", quality=80)
        photo.crop((20, 10, 230, 150)).save(folder / "ann9.jpg", quality=80)
    for name in ("ann8.bmp", "ann9.jpg", "bob9.jpg"):
        rows.append({"image": name, "path": str(folder / name), "identity": name[:3], "date": "2024"})
    rows[4]["date"], rows[5]["date"] = "2024-05-10T10:00:00Z", "2024-05-10T10:00:20"
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with the benchmark `eight`."""
    folder = tmp_path_factory.mktemp("eight")
    table_of(folder).to_csv(folder / "eight.csv", index=False)
    workspace = Workspace.open(folder / "workspace")
    import_csv(folder / "eight.csv", "eight", workspace)
    return workspace


EIGHT = {
    ("ann1.png", "ann8.bmp"): ("exact", False),
    ("ann1.png", "ann9.jpg"): ("crop", False),
    ("ann1.png", "bob9.jpg"): ("twin", True),
    ("ann9.jpg", "bob9.jpg"): ("crop", True),
    ("bob0.png", "bob1.png"): ("burst", False),
}


def test_the_audit_names_kinds_and_two_names(place: Workspace) -> None:
    found = auditor.audit("eight", place).audit
    assert {pair.images: (pair.kind, pair.two_names) for pair in found.pairs} == EIGHT
    assert {pair.images: pair.seconds for pair in found.pairs}["bob0.png", "bob1.png"] == 20


def test_an_audit_is_kept_and_a_changed_one_refused(place: Workspace) -> None:
    first = auditor.audit("eight", place).audit
    catalog, folder = load_catalog("eight", place), place.benchmarks / "eight"
    assert read_audit(folder, catalog.digest) == first
    kept = (folder / "audit.json").read_text()
    try:
        (folder / "audit.json").write_text(kept.replace('"burst"', '"twin"'))
        with pytest.raises(WhalebenchError, match="differs from its digest"):
            auditor.audit("eight", place)
        assert auditor.audit("eight", place, force=True).audit == first
    finally:
        (folder / "audit.json").write_text(kept)


def test_an_audit_of_other_photos_is_made_again(place: Workspace) -> None:
    auditor.audit("eight", place)
    other = build_catalog(load_catalog("eight", place).table.assign(identity="zoe"), "eight")
    assert read_audit(place.benchmarks / "eight", other.digest) is None


def test_bursts_without_times_are_of_one_individual(tmp_path: Path) -> None:
    """Two moments of one scene: half of the noise and of the small things in it have changed."""
    rng = np.random.default_rng(0)
    scene = rng.normal(0, 20, (96, 96))
    rows = []
    for number, identity in enumerate(("ann", "ann", "bob", "")):
        pixels = 120 + scene + 0.85 * rng.normal(0, 20, (96, 96))
        file = tmp_path / f"{number}.png"
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(file)
        rows.append({"image": file.name, "path": str(file), "identity": identity})
    found = audit_catalog(build_catalog(pd.DataFrame(rows), "scene"))
    likeness = {pair.images: pair.likeness for pair in found.pairs}
    assert [pair.images for pair in found.pairs if pair.kind == "look"] == [("0.png", "1.png")], likeness


def test_bursts_by_the_clock_are_of_one_name_or_one_camera_and_of_no_two_places() -> None:
    """Each photo is seconds after the one before; a day alone says nothing."""
    rows = [
        ("ann", "00", "nikon", "bay"),  # 0, 1: one individual
        ("ann", "20", "", "bay"),
        ("ann", "40", "nikon", "cape"),  # another place than 1
        ("", "41", "nikon", "cape"),  # 2, 3: one camera, one without a name
        ("bob", "42", "nikon", "cape"),  # 3, 4
        ("cat", "43", "nikon", "cape"),  # two animals, each with its name
        ("", "44", "", ""),  # who knows
    ]
    table = pd.DataFrame(rows, columns=["identity", "date", "camera", "place"])
    table["date"] = "2024-05-31T10:00:" + table["date"]
    table["image"] = [str(place) for place in range(len(table))]
    found = {pair.images: pair.seconds for pair in _by_time(table)}
    assert found == {("0", "1"): 20, ("2", "3"): 1, ("3", "4"): 1}
    assert list(_by_time(table.assign(date="2024-05-31"))) == []
    late = table.assign(date=[f"2024-05-31T1{hour}:00:00" for hour in range(len(table))])
    assert list(_by_time(late)) == []


def test_two_animals_in_one_photo_are_no_pair_and_one_with_two_labels_is(tmp_path: Path) -> None:
    boxes = {"a": (0, 0, 40, 40), "b": (60, 0, 100, 40), "c": (2, 0, 42, 40)}
    rows = [
        {"image": name, "path": "", "identity": name, "content_digest": "same"}
        | dict(zip(BOX, box, strict=True))
        for name, box in boxes.items()
    ]
    pairs = list(_exact(build_catalog(pd.DataFrame(rows), "two").table))
    assert [pair.images for pair in pairs] == [("a", "c")]
    assert pairs[0].two_labels and not pairs[0].two_names


def test_a_pair_leaks_in_the_folds_that_test_one_of_it(place: Workspace) -> None:
    catalog = load_catalog("eight", place)
    split = propose_split(catalog, folds=2, valid_share=0.2)
    fold_of = dict(zip(split.table["image"], split.table["fold"], strict=True))
    images = sorted(fold_of)
    pairs = tuple(Pair(one, two, "twin", 0.9, "", "") for one in images for two in images if one < two)
    leaks = find_leaks(Audit("eight", catalog.digest, len(images), pairs), fold_of)
    for fold in split.folds:
        parts = split.parts(fold)
        test, other = set(parts.test), {*parts.train, *parts.valid}
        expected = {pair for pair in pairs if len(test & {*pair.images}) == len(other & {*pair.images}) == 1}
        assert set(leaks.of_fold[fold]) == expected and expected
        assert leaks.tested[fold] == test & {image for pair in expected for image in pair.images}


def call(*arguments: str, place: Workspace) -> tuple[int, dict[str, object]]:
    from typer.testing import CliRunner

    result = CliRunner().invoke(app, ["data", "audit", *arguments, "--json", "--workspace", str(place.root)])
    return result.exit_code, json.loads(result.stdout or "{}")


def test_the_gate_closes_until_the_groups_are_kept(place: Workspace, tmp_path: Path) -> None:
    """No split: an error. A split that tears pairs: 1. All rejected, or kept in one part: 0."""
    with pytest.raises(WhalebenchError, match="no split that could have leaks"):
        auditor.audit("eight", place, need_split=True)
    stem = place.benchmarks / "eight" / "split"
    try:
        make_split("eight", place, protocol="auto", folds=2, singles="train", valid_share=0.12, seed=0)
        code, document = call("eight", "--gate", place=place)
        assert code == 1 and sum(document["leaks"].values()) > 0  # type: ignore[attr-defined]
        assert call("eight", place=place)[0] == 0
        write_verdicts(tmp_path / "no.csv", "no")
        code, document = call("eight", "--gate", "--verdicts", str(tmp_path / "no.csv"), place=place)
        assert (code, document["rejected"], document["pairs"]) == (0, len(EIGHT), [])
        # They are kept: the gate stays open, and another verdict closes it again.
        assert call("eight", "--gate", place=place)[0] == 0
        write_verdicts(tmp_path / "unsure.csv", "unsure")
        code, document = call("eight", "--gate", "--verdicts", str(tmp_path / "unsure.csv"), place=place)
        assert (code, document["rejected"], document["unseen"]) == (1, 0, len(EIGHT) - 1)
    finally:
        for suffix in (".csv", ".json"):
            stem.with_suffix(suffix).unlink(missing_ok=True)
    write_verdicts(tmp_path / "yes.csv", "yes")
    asked = {"protocol": "auto", "folds": 2, "singles": "train", "valid_share": 0.12, "seed": 0}
    made = make_split("eight", place, groups=tmp_path / "yes.csv", **asked)  # type: ignore[arg-type]
    try:
        assert call("eight", "--gate", place=place)[0] == 0
        group_of = dict(zip(made.table["image"], made.table["group"], strict=True))
        assert all(group_of[one] == group_of[other] for one, other in EIGHT)
    finally:
        for suffix in (".csv", ".json"):
            stem.with_suffix(suffix).unlink()


def write_verdicts(file: Path, verdict: str) -> None:
    with file.open("w", newline="") as opened:
        csv.writer(opened).writerows(
            [("first", "second", "verdict"), *((two, one, verdict) for one, two in EIGHT)]
        )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("first,second\nann0.png,ann1.png\n", "no column verdict"),
        ("first,second,verdict\nann0.png,ann1.png,maybe\n", "'maybe' is none of yes, no and unsure"),
        ("first,second,verdict\nann0.png,zoe.png,yes\n", "no photo 'zoe.png'"),
        ("first,second,verdict\nann0.png,ann1.png,yes\nann1.png,ann0.png,no\n", "another verdict"),
    ],
)
def test_verdicts_that_cannot_be_are_refused(
    text: str, complaint: str, place: Workspace, tmp_path: Path
) -> None:
    (tmp_path / "verdicts.csv").write_text(text)
    with pytest.raises(WhalebenchError, match=complaint):
        verdicts_in(tmp_path / "verdicts.csv", load_catalog("eight", place))


def test_a_formula_is_read_as_the_photo_that_it_stands_for(tmp_path: Path) -> None:
    rows = [{"image": name, "path": "", "identity": ""} for name in ("=a.jpg", "b.jpg")]
    (tmp_path / "verdicts.csv").write_text("first,second,verdict\n'=a.jpg,b.jpg,Yes\n")
    verdicts = verdicts_in(tmp_path / "verdicts.csv", build_catalog(pd.DataFrame(rows), "odd"))
    assert verdicts == {("=a.jpg", "b.jpg"): "yes"}


def test_the_page_needs_no_other_file_and_no_name_acts_in_it() -> None:
    evil = "</script><script>alert(1)</script>"
    pair = Pair(evil, "b&amp;.jpg", "twin", 0.8, "<b>ann", "bob", turn=5)
    made = Audit("eight", "0" * 64, 2, (pair,)).document()
    document = {
        "name": "<i>eight",
        "audit_digest": made["digest"],
        "credits": {evil: "<u>Ann, CC BY 4.0"},
        "kinds": {"twin": 1},
        "two_names": 1,
        "two_labels": 0,
        "rejected": 0,
        "unseen": 1,
        "pairs": [
            made["pairs"][0] | {"two_names": True, "two_labels": False, "leaks_in": [1], "verdict": "no"}
        ],
    }
    page = audit_page(
        document, {evil: "data:image/jpeg;base64,AA==", "b&amp;.jpg": "data:image/jpeg;base64,BB=="}
    )
    assert page.count("Photo: &lt;u&gt;Ann, CC BY 4.0") == page.count("Photo: ") == 1
    assert evil not in page and "<b>ann" not in page and "<i>eight" not in page
    assert re.findall(r"(?:src|href)=(?!\"(?:data:|#))", page) == [] and "://" not in page
    held = json.loads(re.search(r'id="audit">(.*?)</script>', page)[1])  # type: ignore[index]
    assert [(row["first"], row["second"]) for row in held["pairs"]] == [(evil, "b&amp;.jpg")]
    assert "turned by 90°, mirrored, two names: &lt;b&gt;ann and bob, leaks in fold 1" in page


def test_pairs_that_leak_are_shown_first() -> None:
    pairs = [
        {"two_names": two_names, "two_labels": two_labels, "leaks_in": leaks}
        for two_names, two_labels, leaks in ((0, 0, []), (1, 0, []), (0, 1, []), (0, 0, [0]))
    ]
    assert page_pairs({"pairs": pairs}) == [pairs[3], pairs[1], pairs[2], pairs[0]]
