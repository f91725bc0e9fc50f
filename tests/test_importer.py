"""`data import csv`: good tables become catalogs, and everything bad is named with its place and remedy."""

import json
import os
import re
import resource
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from whalebench import CONTROLS, WhalebenchError, cell_text, one_line, visible
from whalebench.benchmarks.core.catalog import read_catalog, read_facts, verify_photos, write_catalog
from whalebench.benchmarks.core.files import digest_file
from whalebench.benchmarks.core.progress import Silent
from whalebench.benchmarks.core.store import decode, inspect_photos, photo_sizes
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.importing import tables
from whalebench.benchmarks.importing.earlier import read_quarantine
from whalebench.benchmarks.importing.importer import ImportResult, import_csv
from whalebench.benchmarks.importing.names import spelling
from whalebench.benchmarks.importing.notes import notes_on
from whalebench.benchmarks.registry import check_content, load_catalog
from whalebench.splits.assignment import group_photos
from whalebench.splits.split import _parse
from whalebench.splits.table import make_table, table_text

HEADER = "image,path,identity"
GOOD = [f"p{index}.jpg,photos/p{index}.jpg,{name}" for index, name in enumerate(["ann", "bob", "ann", ""])]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with four photos of 40x30 pixels and a mask."""
    folder = tmp_path / "source"
    (folder / "photos").mkdir(parents=True)
    pixels = np.arange(30 * 40 * 3, dtype=np.uint32).reshape(30, 40, 3)
    for index in range(4):
        Image.fromarray((pixels * (index + 3) % 251).astype(np.uint8)).save(folder / f"photos/p{index}.jpg")
    Image.new("1", (40, 30)).save(folder / "mask.png")
    Image.new("L", (30, 30)).save(folder / "small.png")
    return folder


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(tmp_path / "workspace")


class Told(Silent):
    """A watcher that keeps what it is told."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.advanced: list[tuple[int, int]] = []

    def stage(self, name: str) -> None:
        self.stages.append(name)

    def advance(self, done: int, total: int) -> None:
        self.advanced.append((done, total))


def table(source: Path, lines: list[str], header: str = HEADER, name: str = "table.csv") -> Path:
    file = source / name
    file.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return file


def refused(file: Path, workspace: Workspace, name: str = "mine") -> str:
    """The sentence with which an import is refused; nothing is left behind."""
    with pytest.raises(WhalebenchError) as caught:
        import_csv(file, name, workspace)
    assert not (workspace.benchmarks / name / "catalog.json").exists()
    return str(caught.value)


def test_a_good_table_becomes_a_catalog(source: Path, workspace: Workspace) -> None:
    header = HEADER + ",encounter,date,x0,y0,x1,y1,tip_x,tip_y,mask,split,colour"
    tails = [
        ",e1,2024-05-31,0,0,40,30,3.5,4,mask.png,train,red",
        ",e1,,,,,,,,,train,",
        ",,2024,1,2,30.5,20,,,,valid,",
        ",,,,,,,-1,2e1,,test,",
    ]
    told = Told()
    file = table(source, [good + tail for good, tail in zip(GOOD, tails, strict=True)][::-1], header)
    result = import_csv(file, "mine", workspace, progress=told)
    folder = workspace.benchmarks / "mine"
    catalog = read_catalog(folder)
    pd.testing.assert_frame_equal(catalog.table, result.catalog.table)
    rows = catalog.table
    assert rows["image"].tolist() == ["p0.jpg", "p1.jpg", "p2.jpg", "p3.jpg"]
    assert rows["identity"].tolist() == ["ann", "bob", "ann", ""]
    assert rows["split"].tolist() == ["train", "train", "valid", "test"]
    assert rows[["x0", "x1", "tip_x"]].iloc[0].tolist() == [0, 40, 3.5]
    assert rows["x0"].isna().tolist() == [False, True, False, True]
    assert rows["tip_y"].iloc[3] == 20
    assert (rows["width"].eq(40) & rows["height"].eq(30)).all()
    assert rows["mask"].tolist() == [str(source / "mask.png"), "", "", ""]
    assert rows["file_digest"].tolist() == [digest_file(Path(path)) for path in rows["path"]]
    assert rows["content_digest"].is_unique
    assert result.notes == (
        "The column 'colour' is not read.",
        "Masks that show no animal: 1 (p0.jpg); correct them if that is not so.",
    )
    assert result.quarantined == read_quarantine(folder) == ()
    assert told.advanced == [(done, 5) for done in range(1, 6)]
    assert told.stages[-1] == "inspect"
    assert read_facts(folder)["source"] == str(file)
    verify_photos(catalog, folder)


@pytest.mark.parametrize("kind", ["semicolons", "tabs", "parquet", "quoted and marked"])
def test_every_kind_of_table_gives_the_same_catalog(source: Path, workspace: Workspace, kind: str) -> None:
    expected = import_csv(table(source, GOOD), "mine", workspace).catalog.digest
    match kind:
        case "semicolons":
            file = table(source, [line.replace(",", ";") for line in GOOD], HEADER.replace(",", ";"), "a.csv")
        case "tabs":
            file = table(
                source, [line.replace(",", "\t") for line in GOOD], HEADER.replace(",", "\t"), "a.tsv"
            )
        case "parquet":
            file = source / "a.parquet"
            frame = pd.read_csv(table(source, GOOD)).assign(x0=np.nan, y0=np.nan, x1=np.nan, y1=np.nan)
            frame.to_parquet(file)
        case _:
            file = source / "a.csv"
            quoted = ['"' + line.replace(",", '" , "').replace(' , "', ',"') + '"' for line in GOOD]
            file.write_bytes(("\ufeff" + "\r\n\r\n".join([HEADER, *quoted])).encode())
    assert import_csv(file, "other", workspace).catalog.digest == expected


BOX, POINT = ",x0,y0,x1,y1", ",tip_x,tip_y"
BAD = {
    "duplicate id": (
        "",
        "p0.jpg,photos/p1.jpg,bob",
        r"column image, value 'p0.jpg': .* given before, at line 2",
    ),
    "empty id": ("", ",photos/p1.jpg,bob", "column image, value '': it is empty; fill it"),
    "empty path": ("", "p9.jpg,,bob", "column path, value '': it is empty; fill it"),
    "absent file": (
        "",
        "p9.jpg,photos/p9.jpg,bob",
        r"column path, value 'photos/p9.jpg': there is no such file",
    ),
    "a folder": ("", "p9.jpg,photos,bob", "column path, value 'photos': there is no such file"),
    "box outside": (BOX, "p9.jpg,photos/p1.jpg,bob,0,0,41,30", r"column x1, value '41': .*outside .* 40x30"),
    "box negative": (BOX, "p9.jpg,photos/p1.jpg,bob,-1,0,4,30", r"column x0, value '-1': .*outside"),
    "box reversed": (
        BOX,
        "p9.jpg,photos/p1.jpg,bob,9,0,4,30",
        r"column x1, value '4': .*not greater than x0 \(9",
    ),
    "half a box": (BOX, "p9.jpg,photos/p1.jpg,bob,1,,4,30", "column y0, value '': the box is given by half"),
    "box in words": (BOX, "p9.jpg,photos/p1.jpg,bob,a,0,4,30", "column x0, value 'a': it is not a number"),
    "nan box": (BOX, "p9.jpg,photos/p1.jpg,bob,1,0,nan,30", "column x1, value 'nan': it is not finite"),
    "nan landmark": (POINT, "p9.jpg,photos/p1.jpg,bob,NaN,3", "column tip_x, value 'NaN': it is not finite"),
    "infinite landmark": (
        POINT,
        "p9.jpg,photos/p1.jpg,bob,3,-inf",
        "column tip_y, value '-inf': it is not finite",
    ),
    "far landmark": (
        POINT,
        "p9.jpg,photos/p1.jpg,bob,61,3",
        "column tip_x, value '61': .*far outside .* 40x30",
    ),
    "no encounter": (
        ",encounter",
        "p9.jpg,photos/p1.jpg,bob,NA",
        "column encounter, value 'NA': .*names nothing",
    ),
    "unknown encounter": (
        ",encounter",
        "p9.jpg,photos/p1.jpg,bob,?",
        r"column encounter, value '\?': .*nothing",
    ),
    "no viewpoint": (",viewpoint", "p9.jpg,photos/p1.jpg,bob,None", "column viewpoint, .*names nothing"),
    "half a landmark": (
        POINT,
        "p9.jpg,photos/p1.jpg,bob,3,",
        "column tip_y, value '': the landmark tip is given",
    ),
    "absent mask": (
        ",mask",
        "p9.jpg,photos/p1.jpg,bob,m.png",
        "column mask, value 'm.png': there is no such file",
    ),
    "odd mask": (
        ",mask",
        "p9.jpg,photos/p1.jpg,bob,small.png",
        r"column mask, .* 30x30 pixels, its photo 40x30",
    ),
    "split": (
        ",split",
        "p9.jpg,photos/p1.jpg,bob,dev",
        "column split, value 'dev': it is not train, valid or test",
    ),
    "date": (",date", "p9.jpg,photos/p1.jpg,bob,31.5.2024", "column date, value '31.5.2024': .* ISO 8601"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_is_refused_with_its_place(source: Path, workspace: Workspace, case: str) -> None:
    columns, row, expected = BAD[case]
    lines = [line + "," * columns.count(",") for line in GOOD]
    message = refused(table(source, [*lines, row], HEADER + columns), workspace)
    assert re.search(rf"table.csv, line 6, .*{expected}", message)
    assert "\n" not in message


def test_all_problems_come_in_one_error(source: Path, workspace: Workspace) -> None:
    lines = [f"p{index}.jpg,photos/p0.jpg,bob,nan,1" for index in range(5, 30)]
    file = table(source, [f"{GOOD[0]},,", *lines, "p5.jpg,none,,,"], HEADER + POINT)
    with pytest.raises(WhalebenchError) as caught:
        import_csv(file, "mine", workspace)
    assert "table.csv has 27 problems, the first in line 3, column tip_x, value 'nan'" in str(caught.value)
    assert caught.value.__notes__[0].startswith("line 3, column tip_x, value 'nan'")
    assert caught.value.__notes__[-1] == "And 7 more."
    assert len(caught.value.__notes__) == 21


def test_no_file_is_looked_for_where_the_table_is_wrong_as_a_whole(
    source: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = table(source, [GOOD[0]] * 1500)
    monkeypatch.setattr("os.path.isfile", lambda path: pytest.fail(f"{path} was looked for"))
    with pytest.raises(WhalebenchError, match="has 1,000 problems or more, the first in line 3") as caught:
        import_csv(file, "mine", workspace)
    assert caught.value.__notes__[-1] == "And more."
    assert len(tables.check_rows(tables.read_table(file), {})) == 1000  # the rest is not looked at


COLUMNS = {
    "image,path,identty": r"no column 'identity', only image, path, identty \(did you mean 'identty'\?\)",
    "name,file,identity": r"no column 'image', only name, file, identity",
    "Image,IMAGE,path,identity": r"has 2 columns that are 'image' in other capitals",
    "image,path,identity,x0,y0,x1": "half a box: no column 'y1'",
    "image,path,identity,tip_x": "'tip_x' without 'tip_y'",
    "image,path,identity,image": "2 columns 'image'",
}


@pytest.mark.parametrize("header", COLUMNS)
def test_bad_columns_are_refused(source: Path, workspace: Workspace, header: str) -> None:
    message = refused(table(source, ["," * header.count(",") + "x"], header), workspace)
    assert re.search(COLUMNS[header], message)


def test_columns_that_are_not_read_are_noted(source: Path, workspace: Workspace) -> None:
    file = table(source, [f"{line},,5" for line in GOOD], HEADER + ",encountr,width")
    assert import_csv(file, "mine", workspace).notes[:2] == (
        "The column 'encountr' is not read (did you mean 'encounter'?).",
        "The column 'width' is not read: it is measured from the photos.",
    )


FILES = {
    "a.csv": (b"", "a.csv is empty"),
    "b.csv": (b"image,path,identity\n", "b.csv has no rows"),
    "c.csv": (b"image,path,identity\na,b\n", "2 cells in line 2 but 3 in its header"),
    "d.csv": ("image,path,identity\na,b,Zoë\x93".encode("latin-1"), "d.csv is not UTF-8"),
    "e.csv": ("image,path,identity\na,b,c".encode("utf-16-le"), "e.csv holds NUL"),
    "f.parquet": (b"no parquet", "f.parquet is no readable Parquet file"),
    "g.xlsx": (b"", "g.xlsx is no table that can be read"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_bad_file_is_refused(source: Path, workspace: Workspace, name: str) -> None:
    content, expected = FILES[name]
    (source / name).write_bytes(content)
    assert expected in refused(source / name, workspace)


def test_an_absent_file_and_a_folder_are_refused(source: Path, workspace: Workspace) -> None:
    assert "none.csv does not exist" in refused(source / "none.csv", workspace)
    (source / "folder.csv").mkdir()
    assert "folder.csv is a folder" in refused(source / "folder.csv", workspace)


@pytest.mark.parametrize(("name", "expected"), [("My Whales", "small letters"), ("flukes", "embedded")])
def test_a_bad_name_is_refused(source: Path, workspace: Workspace, name: str, expected: str) -> None:
    assert expected in refused(table(source, GOOD), workspace, name)


def spoil(source: Path) -> dict[str, str]:
    """Photos that cannot be used, each with a part of the reason expected."""
    photos = source / "photos"
    (photos / "text.jpg").write_text("this is not a photo")
    (photos / "empty.jpg").touch()
    (photos / "truncated.jpg").write_bytes((photos / "p0.jpg").read_bytes()[:-400])
    Image.fromarray(np.zeros((9, 9), np.float32)).save(photos / "shares.tif")
    Image.new("1", (3000, 3000)).save(photos / "bomb.png")
    return {
        "text.jpg": "not an image",
        "empty.jpg": "file is empty",
        "truncated.jpg": "cannot be decoded (image file is truncated",
        "shares.tif": "of the kind F, not of 8 or 16 bits",
        "bomb.png": "more pixels than the limit",
        "gone.jpg": "file is absent",
    }


def test_unreadable_photos_are_quarantined(source: Path, workspace: Workspace) -> None:
    reasons = spoil(source)
    lines = [f"{name},photos/{name},bob" for name in reasons]
    result: ImportResult = import_csv(
        table(source, GOOD + lines), "mine", workspace, missing="quarantine", max_pixels=2_000_000
    )
    assert result.catalog.table["image"].tolist() == [f"p{index}.jpg" for index in range(4)]
    assert [photo.image for photo in result.quarantined] == list(reasons)
    for photo in result.quarantined:
        assert reasons[photo.image] in photo.reason
        assert photo.path == str(source / "photos" / photo.image)
    folder = workspace.benchmarks / "mine"
    assert read_quarantine(folder) == result.quarantined
    assert json.loads((folder / "catalog.json").read_text())["quarantined"] == len(reasons)


def test_a_photo_with_a_broken_mask_is_quarantined(source: Path, workspace: Workspace) -> None:
    (source / "mask.png").write_bytes((source / "mask.png").read_bytes()[:40])
    lines = [f"{GOOD[0]},", f"{GOOD[1]},", f"{GOOD[2]},mask.png"]
    result = import_csv(table(source, lines, HEADER + ",mask"), "mine", workspace)
    assert [photo.image for photo in result.quarantined] == ["p2.jpg"]
    assert result.quarantined[0].reason.startswith("its mask: ")


def test_a_large_photo_is_no_bomb_and_warns_of_nothing(source: Path) -> None:
    spoil(source)
    before = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (facts,) = inspect_photos([source / "photos/bomb.png"], max_pixels=9_000_000)
    assert not isinstance(facts, str)
    assert (facts.width, facts.height) == (3000, 3000)
    assert before == Image.MAX_IMAGE_PIXELS


def test_width_and_height_follow_the_orientation(source: Path, workspace: Workspace) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(source / "photos/p0.jpg") as photo:
        photo.save(source / "photos/p0.jpg", exif=exif)
    lines = [f"{GOOD[0]},0,0,30,40", f"{GOOD[1]},0,0,40,30"]
    rows = import_csv(table(source, lines, HEADER + BOX), "mine", workspace).catalog.table
    assert rows[["width", "height"]].to_numpy().tolist() == [[30, 40], [40, 30]]
    assert "column y1, value '40'" in refused(
        table(source, [f"{GOOD[0]},0,0,30,40", f"{GOOD[1]},0,0,40,40"], HEADER + BOX), workspace, "other"
    )


def test_too_few_individuals_or_photos_are_refused(source: Path, workspace: Workspace) -> None:
    assert "one individual only (ann)" in refused(table(source, [GOOD[0], GOOD[2], GOOD[3]]), workspace)
    assert "no individual" in refused(table(source, [GOOD[3]]), workspace)
    (source / "photos/p1.jpg").write_text("no photo")
    assert "one individual only (ann) after 1 photo was" in refused(table(source, GOOD), workspace)
    (source / "photos/p0.jpg").write_text("no photo")
    assert "None of the photos" in refused(table(source, GOOD[:2]), workspace)


def test_an_import_is_repeated_only_when_it_is_the_same(source: Path, workspace: Workspace) -> None:
    first = import_csv(table(source, GOOD), "mine", workspace).catalog.digest
    again = import_csv(table(source, GOOD[::-1]), "mine", workspace)
    assert again.catalog.digest == first
    assert again.notes[-1] == "The benchmark mine was imported before with the same content."
    others = {
        "0 photos added, 1 removed": GOOD[:3],
        "other annotations or pixels": [*GOOD[:3], GOOD[3] + "eve"],
    }
    for what, lines in others.items():
        with pytest.raises(
            WhalebenchError, match=rf"mine exists with other content \(.*{what}\); choose another"
        ):
            import_csv(table(source, lines), "mine", workspace)
    assert read_catalog(workspace.benchmarks / "mine").digest == first


def test_photos_with_equal_bytes_are_noted(source: Path, workspace: Workspace) -> None:
    (source / "photos/p3.jpg").write_bytes((source / "photos/p0.jpg").read_bytes())
    assert "very pixels of another: 1;" in import_csv(table(source, GOOD), "mine", workspace).notes[0]


def test_a_photo_that_was_saved_anew_is_the_same_photo(source: Path, workspace: Workspace) -> None:
    with Image.open(source / "photos/p0.jpg") as photo:
        photo.save(source / "photos/p3.png")
    lines = [*GOOD[:3], "p3.png,photos/p3.png,"]
    result = import_csv(table(source, lines), "mine", workspace)
    assert "very pixels of another: 1;" in result.notes[0]
    rows = result.catalog.table.set_index("image")
    assert rows.loc["p0.jpg", "content_digest"] == rows.loc["p3.png", "content_digest"]
    assert rows.loc["p0.jpg", "file_digest"] != rows.loc["p3.png", "file_digest"]
    groups = {group.images for group in group_photos(result.catalog.table)}
    assert ("p0.jpg", "p3.png") in groups


def test_a_benchmark_from_before_keeps_its_digests(source: Path, workspace: Workspace) -> None:
    """It was imported when photos were told apart by their bytes; its split and runs still hold."""
    first = import_csv(table(source, GOOD), "mine", workspace).catalog
    older = first.table.assign(content_digest=first.table["file_digest"])
    folder = workspace.benchmarks / "mine"
    (folder / "catalog.json").unlink()
    before = write_catalog(older, folder, "mine", "before").digest
    assert before != first.digest
    assert load_catalog("mine", workspace).digest == before
    again = import_csv(table(source, GOOD), "mine", workspace)
    assert again.catalog.digest == before == read_catalog(folder).digest
    assert "imported before with the same content, by an older whalebench" in again.notes[-1]


def test_one_photo_of_two_individuals_is_noted_with_their_names(source: Path, workspace: Workspace) -> None:
    (source / "photos/p1.jpg").write_bytes((source / "photos/p0.jpg").read_bytes())
    notes = import_csv(table(source, GOOD), "mine", workspace).notes
    (said,) = [note for note in notes if "different individuals" in note]
    assert "1 times, first p0.jpg of ann and p1.jpg of bob" in said


def test_names_written_in_several_ways_are_noted(source: Path, workspace: Workspace) -> None:
    names = ["Zo\u00eb 7", "zoe\u0308  007", "bob", "bob"]
    lines = [f"p{index}.jpg,photos/p{index}.jpg,{name},E {index}" for index, name in enumerate(names)]
    notes = import_csv(table(source, lines, f"{HEADER},encounter"), "mine", workspace).notes
    (said,) = notes
    assert said.startswith(
        "Column identity has 1 name(s) that are written in several ways, first 'Zo\u00eb 7' and "
    )


def test_an_encounter_with_a_large_share_of_the_photos_is_noted() -> None:
    rows = [
        {"identity": f"w{index % 4}", "encounter": "E" if index < 12 else f"e{index}"} for index in range(60)
    ]
    (said,) = notes_on(rows, {}, {})
    assert said.startswith("The encounter 'E' has 12 of 60 photos, of 4 individual(s)")
    assert notes_on(rows[3:], {}, {}) == []


def test_the_real_right_whales_are_imported(workspace: Workspace) -> None:
    shared = os.environ.get("WHALEBENCH_SHARED")
    if not shared:
        pytest.skip("WHALEBENCH_SHARED does not name a folder with the real photos")
    file = Path(shared) / "data" / "right_whale" / "heads.csv"
    result = import_csv(file, "right-whale-heads", workspace)
    rows = result.catalog.table
    assert (len(rows), len(result.catalog.identities), result.quarantined) == (4544, 447, ())
    assert rows["split"].value_counts().to_dict() == {"train": 3610, "test": 934}


def test_what_spreadsheets_and_other_systems_write_is_read(source: Path, workspace: Workspace) -> None:
    (source / "photos" / "p0.jpg").rename(source / "photos" / "né.jpg")  # the accent as one character
    lines = [line.replace(",", ";").replace("photos/", "photos\\") + ";;" for line in GOOD]
    lines[0] = lines[0].replace("\\p0.jpg", "\\ne\u0301.jpg")  # the accent as two
    result = import_csv(table(source, lines, "image;path;identity;;"), "mine", workspace)
    assert len(result.catalog.table) == 4
    assert any("No encounter is given" in note for note in result.notes)


# --- what a table may be, and what it may hold


SPREADSHEETS = {
    "as pandas writes it": "," + HEADER + "\n" + "\n".join(f"{n},{line}" for n, line in enumerate(GOOD)),
    "with its separator": "sep=;\n" + "\n".join([HEADER, *GOOD]).replace(",", ";"),
    "tabs in a .csv": "\n".join([HEADER, *GOOD]).replace(",", "\t"),
    "of an old Mac": "\r".join([HEADER, *GOOD, ""]),
    "of Windows": "\ufeff" + "\r\n".join([HEADER, *GOOD, ""]),
    "blank lines": "\r\n\n" + "\n\n".join([HEADER, *GOOD]) + "\n\n\n",
}
SPREADSHEETS["a decimal comma"] = "\n".join(
    [HEADER.replace(",", ";") + ";lat,lon", *(line.replace(",", ";") + ";1,5" for line in GOOD)]
)


QUOTED = ['"' + line.replace(",", '","') + '"' for line in (HEADER, *GOOD)]
SPREADSHEETS |= {
    "R's write.csv": "\n".join(f'"{n or ""}",{line}' for n, line in enumerate(QUOTED)),
    "R's write.table": "\n".join([QUOTED[0], *(f'"{n}",{line}' for n, line in enumerate(QUOTED[1:]))]),
    "bars": "\n".join([HEADER, *GOOD]).replace(",", "|"),
    "blanks around commas": "\n".join(QUOTED).replace('","', '" , "'),
    "its separator with blanks": '"SEP = ;"\n' + "\n".join([HEADER, *GOOD]).replace(",", ";"),
    "a title above": "Our whales; all of them\n\n# of 2024\n" + "\n".join([HEADER, *GOOD]),
    "a title below its separator": "sep=,\nOur whales\n" + "\n".join([HEADER, *GOOD]),
}
SAID = {
    "as pandas writes it": "The first column has no name and is not read.",
    "R's write.csv": "The first column has no name and is not read.",
    "R's write.table": "The first column has no name and is not read.",
    "a decimal comma": "The column 'lat,lon' is not read.",
    "a title above": "Lines above the names of the columns are not read: 2.",
    "a title below its separator": "Lines above the names of the columns are not read: 1.",
}


@pytest.mark.parametrize("kind", SPREADSHEETS)
@pytest.mark.parametrize("name", ["other.csv", "other.txt"])
def test_tables_are_read_as_programs_write_them(
    source: Path, workspace: Workspace, kind: str, name: str
) -> None:
    expected = import_csv(table(source, GOOD), "mine", workspace)
    encoding = "utf-16"
    if name == "other.csv":
        encoding = "utf-8-sig" if SPREADSHEETS[kind].startswith("\ufeff") else "utf-8"
    (source / name).write_text(SPREADSHEETS[kind].removeprefix("\ufeff"), encoding=encoding, newline="")
    result = import_csv(source / name, "other", workspace)
    assert result.catalog.digest == expected.catalog.digest
    assert {*result.notes} - {*expected.notes} == ({SAID[kind]} if kind in SAID else set())


def test_days_and_numbers_of_a_parquet_are_those_of_a_csv(source: Path, workspace: Workspace) -> None:
    frame = pd.read_csv(table(source, GOOD)).assign(
        identity=[1.0, 2.0, 1.0, np.nan],
        date=pd.to_datetime(["2024-05-31", None, "2024-06-01", "2024-06-02"]),
        species=pd.Categorical(["a", "b", "a", "b"]),
    )
    for kind in ("days", "times", "years"):
        if kind == "times":
            frame["date"] += pd.Timedelta("10h")
        if kind == "years":
            frame["date"] = [2024.0, np.nan, 2023.0, 2023.0]
        frame.to_csv(source / f"{kind}.csv", index=False)
        frame.to_parquet(source / f"{kind}.parquet")
        made = [
            import_csv(source / f"{kind}.{suffix}", f"{kind}-{suffix}", workspace).catalog
            for suffix in ("csv", "parquet")
        ]
        assert made[0].digest == made[1].digest
        assert made[0].table["date"].str.len().tolist()[0] == {"days": 10, "times": 19, "years": 4}[kind]


def test_a_cell_too_many_is_no_name_of_a_row(source: Path, workspace: Workspace) -> None:
    lines = [line.replace("p0.jpg,", "0,", 1) for line in GOOD]
    lines[0] += ", the old one"
    assert "has 4 cells in line 2 but 3 in its header" in refused(table(source, lines), workspace)


def test_a_comma_of_thousands_is_no_decimal_one(source: Path, workspace: Workspace) -> None:
    lines = [line.replace(",", "\t") + "\t1,5\t2\t3,25\t4" for line in GOOD]
    header = f"{HEADER},x0,y0,x1,y1".replace(",", "\t")
    found = import_csv(table(source, lines, header, "a.tsv"), "mine", workspace).catalog.table
    assert found.loc[0, ["x0", "x1"]].tolist() == [1.5, 3.25]
    lines = [line.replace("3,25", "1,234") for line in lines]
    said = refused(table(source, lines, header, "b.tsv"), workspace, "other")
    assert "column x1, value '1,234': it is not a number" in said


def test_an_index_of_pandas_is_no_column_but_a_named_one_is(source: Path, workspace: Workspace) -> None:
    expected = import_csv(table(source, GOOD), "mine", workspace)
    frame = pd.read_csv(source / "table.csv")
    frame.sample(frac=1, random_state=1).to_parquet(source / "numbered.parquet")
    frame.set_index("image").to_parquet(source / "named.parquet")
    for name in ("numbered", "named"):
        result = import_csv(source / f"{name}.parquet", name, workspace)
        assert result.catalog.digest == expected.catalog.digest
        assert result.notes == expected.notes


def test_a_path_in_other_capitals_is_named(source: Path, workspace: Workspace) -> None:
    said = refused(table(source, [*GOOD, "p9.jpg,Photos/P1.JPG,bob"]), workspace)
    assert "did you mean 'photos/p1.jpg'?" in said
    assert "did you mean" not in refused(table(source, [*GOOD, "p9.jpg,Photos/P99.JPG,bob"]), workspace)


CONTROLLED = [
    "\r",
    "\n",
    "\x1b[31m",
    "\x07",
    "\x7f",
    "\x85",
    "\x9b",
    "\u2028",
    "\u2029",
    "\u202e",
    "\u2066",
    "\ufeff",
]


@pytest.mark.parametrize("letter", CONTROLLED, ids=ascii)
def test_controls_are_refused_in_every_column(source: Path, workspace: Workspace, letter: str) -> None:
    header = [*HEADER.split(","), "encounter", "viewpoint", "species", "mask"]
    rows = [f"{line},,,," for line in GOOD]
    for column in header:
        cells = dict.fromkeys(header, "") | {"image": f"{column}.jpg", "path": "photos/p1.jpg"}
        cells[column] = f"a{letter}b"
        rows.append(",".join(f'"{cells[name]}"' for name in header))
    with pytest.raises(WhalebenchError) as caught:
        import_csv(table(source, rows, ",".join(header)), "mine", workspace)
    said = "\n".join(caught.value.__notes__)
    for column in header:
        assert f", column {column}, value {f'a{letter}b'!r}: it holds the control character" in said
    assert not set(CONTROLS.findall(said)) - {"\n"}


def test_letters_of_all_scripts_are_no_controls(source: Path, workspace: Workspace) -> None:
    names = ["Zoë", "鯨", "می\u200cخواهم", "🐋", "a\u00a0b", "=1+1", "-", "'x"]
    lines = [f"{name}.jpg,photos/p{n % 4}.jpg,{name}x" for n, name in enumerate(names)]
    catalog = import_csv(table(source, lines), "mine", workspace).catalog
    assert set(catalog.table["identity"]) == {f"{name}x" for name in names}
    split = make_table({image: (0, image, -1) for image in catalog.table["image"]})
    pd.testing.assert_frame_equal(_parse(table_text(split), source / "split"), split)


def test_what_is_in_quarantine_is_read_as_it_was_and_no_formula(source: Path, workspace: Workspace) -> None:
    (source / "=bad.jpg").write_text("no photo")
    result = import_csv(table(source, [*GOOD, "=1+1,=bad.jpg,bob", "'=2,=bad.jpg,bob"]), "mine", workspace)
    assert [photo.image for photo in result.quarantined] == ["=1+1", "'=2"]
    assert read_quarantine(workspace.benchmarks / "mine") == result.quarantined
    lines = (workspace.benchmarks / "mine" / "quarantine.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["image", "'=1+1", "''=2"]


@pytest.mark.parametrize(
    ("bound", "most", "what"),
    [("ROWS", 3, "rows"), ("COLUMNS", 3, "columns"), ("CELLS", 15, "cells"), ("BYTES", 60, "bytes")],
)
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_table_that_is_too_large_is_refused_with_the_bound(
    source: Path,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    bound: str,
    most: int,
    what: str,
    suffix: str,
) -> None:
    file = table(source, [f"{line},a" for line in GOOD], HEADER + ",encounter")
    if suffix == "parquet":
        pd.read_csv(file).to_parquet(source / "table.parquet")
        file = source / "table.parquet"
    before = getattr(tables, bound)
    monkeypatch.setattr(tables, bound, most)
    said = refused(file, workspace)
    assert re.search(rf"has [\d,]+ {what}.*, and {most} are the most that a table may have; leave out", said)
    monkeypatch.setattr(tables, bound, before)
    assert len(import_csv(file, "mine", workspace).catalog.table) == 4


def test_a_million_photos_pass() -> None:
    assert min(tables.ROWS, tables.CELLS // 50) >= 1_000_000
    assert tables.BYTES >= 1_000_000 * 1_000


def test_a_parquet_of_many_rows_is_refused_unread(
    source: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {name: pa.repeat("a", 10_000_000) for name in HEADER.split(",")}
    parquet.write_table(pa.table(rows), source / "many.parquet")
    assert (source / "many.parquet").stat().st_size < 100_000
    monkeypatch.setattr(parquet, "read_table", None)
    assert "has 10,000,000 rows, and 2,000,000 are the most" in refused(source / "many.parquet", workspace)


def test_a_text_that_a_parquet_repeats_is_in_memory_once(source: Path) -> None:
    texts = pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), 20_000), ["x" * 1_000_000])
    rows = pa.table(dict.fromkeys(HEADER.split(","), texts))
    parquet.write_table(rows, source / "deep.parquet", compression="zstd", store_schema=False)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    read = tables.read_table(source / "deep.parquet")
    assert len({id(row["path"]) for row in read.rows}) <= 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000  # of 60 GB, in kB


def test_unread_columns_of_a_parquet_may_be_anything(source: Path, workspace: Workspace) -> None:
    expected = import_csv(table(source, GOOD), "mine", workspace).catalog.digest
    nested = {"embedding": [[1.0, 2.0]] * 4, "facts": [{"a": 1}] * 4}
    pd.read_csv(source / "table.csv").assign(**nested).to_parquet(source / "nested.parquet")
    assert import_csv(source / "nested.parquet", "other", workspace).catalog.digest == expected


LONG_CELLS = [
    "1" * 10**6 + "x",
    "+." + "1" * 10**6 + "e",
    "1." * 10**6,
    "1e" * 10**6,
    "." * 10**6,
    " " * 10**6,
]


@pytest.mark.parametrize("number", range(len(LONG_CELLS)))
def test_a_long_cell_takes_no_longer_than_it_is(number: int) -> None:
    text = LONG_CELLS[number]
    before = time.process_time()
    for check in (tables.is_number, tables.is_date, cell_text, visible, one_line, spelling):
        check(text)
    assert time.process_time() - before < 3


def test_a_long_cell_is_refused_and_shown_in_short(source: Path, workspace: Workspace) -> None:
    said = refused(table(source, [*GOOD, f"{'9' * 5000},photos/p1.jpg,bob"]), workspace)
    assert re.search(r"line 6, column image, value '9{60}\.\.\.': it has 5,000 characters, 4,096 are", said)
    said = refused(table(source, [*GOOD, f"{'9' * 200_000},photos/p1.jpg,bob"]), workspace)
    assert "is broken from line 6 on (a cell of more than 131,072 characters); close its quotes" in said


def released(pipe: Path, call: Callable[[], Any]) -> Any:
    """What a call gives back that must not wait for a pipe; where it does, it is let go and that fails."""
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(call()), daemon=True)
    thread.start()
    thread.join(20)
    waited = thread.is_alive()
    while thread.is_alive():  # whoever reads gets an end, so that nothing is left waiting
        with suppress(OSError):
            os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        thread.join(0.1)
    assert not waited
    return answers[0]


def test_a_pipe_is_no_photo_no_mask_and_no_table(source: Path, workspace: Workspace) -> None:
    pipe = source / "pipe.csv"
    os.mkfifo(pipe)
    assert "is a named pipe and is not read" in released(pipe, lambda: inspect_photos([pipe]))[0]
    assert released(pipe, lambda: photo_sizes([pipe])) == [None]
    said = released(pipe, lambda: raised(lambda: decode(str(pipe), (8, 8, 3))))
    assert "is a named pipe" in str(said)
    said = released(pipe, lambda: raised(lambda: tables.read_table(pipe)))
    assert "is a named pipe" in str(said)
    said = released(pipe, lambda: raised(lambda: digest_file(pipe)))
    assert "is a named pipe" in str(said)
    lines = [*GOOD, "p9.jpg,pipe.csv,bob"]
    result = released(pipe, lambda: import_csv(table(source, lines), "mine", workspace, missing="quarantine"))
    assert [photo.image for photo in result.quarantined] == ["p9.jpg"]


def raised(call: Callable[[], Any]) -> Any:
    """What the call raises, or gives back."""
    try:
        return call()
    except WhalebenchError as error:
        return error


def masked_table(source: Path) -> Path:
    for name, left in (("one", 15), ("two", 9)):
        mask = Image.new("L", (40, 30))
        mask.paste(255, (left, 8, 30, 20))
        mask.save(source / f"{name}.png")
    return table(source, [f"{GOOD[0]},one.png", f"{GOOD[1]},two.png", f"{GOOD[2]},"], HEADER + ",mask")


def test_a_catalog_of_before_masks_counted_stays_so(source: Path, workspace: Workspace) -> None:
    file, folder = masked_table(source), workspace.benchmarks / "mine"
    new = import_csv(file, "mine", workspace).catalog
    assert new.rule == 2
    older = new.table.drop(columns=["mask_content_digest", "mask_file_digest"])
    (folder / "catalog.json").unlink()
    before = write_catalog(older, folder, "mine", "by hand")
    assert before.rule == 1 and before.digest != new.digest
    again = import_csv(file, "mine", workspace)
    assert again.catalog.digest == before.digest
    assert "does not count what a mask shows. It stays so" in " ".join(again.notes)
    Image.new("L", (40, 30), 1).save(source / "one.png")
    with pytest.raises(WhalebenchError, match=r"1 photo is changed \(mask of "):  # their files are known now
        verify_photos(read_catalog(folder), folder)


@pytest.mark.parametrize("columns", [["path", "file_digest"], ["mask", "mask_file_digest"]])
def test_rows_that_exchanged_what_they_show_are_named(
    source: Path, workspace: Workspace, columns: list[str]
) -> None:
    """As in a catalog whose own file has no digest; stamps and file digests all hold."""
    catalog = import_csv(masked_table(source), "mine", workspace).catalog
    check_content(catalog)
    rows = catalog.table.copy()
    rows.loc[[0, 1], columns] = rows.loc[[1, 0], columns].to_numpy()
    exchanged = replace(catalog, table=rows)
    verify_photos(exchanged, workspace.benchmarks / "mine")
    with pytest.raises(WhalebenchError, match=r"^2 photos or masks of mine do not show what was catalogued"):
        check_content(exchanged)


def test_a_quarantine_that_was_changed_is_named(source: Path, workspace: Workspace) -> None:
    (source / "mask.png").write_bytes((source / "mask.png").read_bytes()[:40])
    lines = [f"{GOOD[0]},", f"{GOOD[1]},", f"{GOOD[2]},mask.png"]
    import_csv(table(source, lines, HEADER + ",mask"), "mine", workspace)
    file = workspace.benchmarks / "mine" / "quarantine.csv"
    assert len(read_quarantine(file.parent)) == 1
    file.write_text(file.read_text().replace("its mask", "its task"))
    with pytest.raises(WhalebenchError, match=r"quarantine\.csv is not the table .* differs from its digest"):
        read_quarantine(file.parent)
