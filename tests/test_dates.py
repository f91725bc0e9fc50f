"""Dates of photos, from the table and from EXIF, and the encounters that are made of them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from whalebench import WhalebenchError
from whalebench.benchmarks.core.catalog import NO_ENCOUNTER, read_catalog, read_facts
from whalebench.benchmarks.core.exif import date_taken
from whalebench.benchmarks.core.store import inspect_photos
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.importing import importer
from whalebench.benchmarks.importing.dates import encounters, proposal, read_rule
from whalebench.benchmarks.importing.importer import ImportResult, import_csv
from whalebench.benchmarks.overview import catalog_facts
from whalebench.benchmarks.registry import load_benchmark
from whalebench.splits.protocols import propose_split

ORIGINAL, DIGITIZED, CHANGED = 36867, 36868, 306
ZONE, DIGITIZED_ZONE, INNER, LENS, SPEED = 36881, 36882, 0x8769, 42036, 34855
Row = dict[str, str]


def draw(file: Path, tags: Mapping[int, Any] | None = None, outer: Mapping[int, Any] | None = None) -> Path:
    """A photo whose EXIF has those tags where cameras put them, and others in its outer directory."""
    file.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    for tag, value in (outer or {}).items():
        exif[tag] = value
    if tags:
        exif.get_ifd(INNER).update(tags)
    colour = tuple(hash(file.name) // step % 256 for step in (1, 256, 65536))
    Image.new("RGB", (12, 9), colour).save(file, exif=exif.tobytes())
    return file


def taken(file: Path) -> str:
    with Image.open(file) as image:
        return date_taken(image)


TAGS: dict[str, tuple[dict[int, Any], str]] = {
    "original": ({ORIGINAL: "2019:07:04 10:22:33"}, "2019-07-04T10:22:33"),
    "digitized": ({DIGITIZED: "2019:07:04 10:22:33"}, "2019-07-04T10:22:33"),
    "both": ({ORIGINAL: "2019:07:04 10:22:33", DIGITIZED: "2021:01:02 03:04:05"}, "2019-07-04T10:22:33"),
    "unset and digitized": (
        {ORIGINAL: "0000:00:00 00:00:00", ZONE: "+09:00", DIGITIZED: "2021:01:02 03:04:05"},
        "2021-01-02T03:04:05",
    ),
    "with a zone": ({ORIGINAL: "2019:07:04 10:22:33", ZONE: "+02:00"}, "2019-07-04T10:22:33+02:00"),
    "with the zone of another": (
        {ORIGINAL: "2019:07:04 10:22:33", DIGITIZED_ZONE: "+02:00"},
        "2019-07-04T10:22:33",
    ),
    "in no zone": ({ORIGINAL: "2019:07:04 10:22:33", ZONE: "   :  "}, "2019-07-04T10:22:33"),
    "in UTC": ({ORIGINAL: "2019:07:04 10:22:33", ZONE: "Z"}, "2019-07-04T10:22:33+00:00"),
    "parts of a second": ({ORIGINAL: "2019:07:04 10:22:33.25"}, "2019-07-04T10:22:33"),
    "as other programs": ({ORIGINAL: "2019-07-04T10:22:33\0"}, "2019-07-04T10:22:33"),
    "old": ({ORIGINAL: "1975:08:02 12:00:00"}, "1975-08-02T12:00:00"),
    "an evening": ({ORIGINAL: "2000:01:01 18:30:00"}, "2000-01-01T18:30:00"),
    "all zeros": ({ORIGINAL: "0000:00:00 00:00:00"}, ""),
    "blanks": ({ORIGINAL: "    :  :     :  :  "}, ""),
    "epoch": ({ORIGINAL: "1970:01:01 01:00:00"}, ""),
    "reset": ({ORIGINAL: "2000:01:01 00:00:12"}, ""),
    "reset to another year": ({ORIGINAL: "2012:01:01 00:00:00"}, ""),
    "thirteenth month": ({ORIGINAL: "2019:13:04 10:22:33"}, ""),
    "25 o'clock": ({ORIGINAL: "2019:12:04 25:22:33"}, ""),
    "far ahead": ({ORIGINAL: "2999:12:04 05:22:33"}, ""),
    "no date": ({ORIGINAL: "yesterday"}, ""),
    "a number": ({ORIGINAL: 20190704}, ""),
    "among mistyped tags": (
        {LENS: 7.5, SPEED: "fast", 37500: "note", ORIGINAL: "2019:07:04 10:22:33"},
        "2019-07-04T10:22:33",
    ),
}


@pytest.mark.parametrize("case", TAGS)
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_the_time_is_what_exif_says_of_it(tmp_path: Path, case: str, suffix: str) -> None:
    tags, expected = TAGS[case]
    file = draw(tmp_path / f"one{suffix}", tags, {CHANGED: "2020:02:02 20:20:20"})
    assert taken(file) == expected
    (fact,) = inspect_photos([file])
    assert not isinstance(fact, str)
    assert fact.taken == expected


def test_a_time_of_tomorrow_in_another_zone_is_one_and_of_next_week_is_none(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    for hours, is_one in ((14, True), (24 * 7, False)):
        text = (now + timedelta(hours=hours)).strftime("%Y:%m:%d %H:%M:%S")
        assert bool(taken(draw(tmp_path / "one.jpg", {ORIGINAL: text}))) == is_one


@pytest.mark.parametrize("place", range(0, 60, 3))
def test_a_broken_directory_of_tags_is_never_fatal(tmp_path: Path, place: int) -> None:
    """Each byte in turn is changed where the directory is, and what comes out is a date or none."""
    file = draw(tmp_path / "one.jpg", {ORIGINAL: "2019:07:04 10:22:33"}, {CHANGED: "2020:02:02 20:20:20"})
    content = bytearray(file.read_bytes())
    content[content.index(b"Exif\0\0") + 6 + place] ^= 0xFF
    file.write_bytes(content)
    (fact,) = inspect_photos([file])
    assert not isinstance(fact, str), fact
    assert fact.taken in ("", "2019-07-04T10:22:33")


@pytest.mark.parametrize("kind", range(1, 14))
def test_a_mistyped_pointer_to_the_tags_is_never_fatal(tmp_path: Path, kind: int) -> None:
    """As a signed number it leads to before the file."""
    file = draw(tmp_path / "one.jpg", {ORIGINAL: "2019:07:04 10:22:33"})
    content = bytearray(file.read_bytes())
    place = content.index(INNER.to_bytes(2, "big"))
    content[place + 2 : place + 12] = kind.to_bytes(2, "big") + (1).to_bytes(4, "big") + b"\xff\xff\xff\xf0"
    file.write_bytes(content)
    (fact,) = inspect_photos([file])
    assert not isinstance(fact, str), fact
    assert fact.taken == ""


# --- dates of a table


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(tmp_path / "workspace")


def write(folder: Path, photos: Mapping[str, str], columns: str = "", cells: Mapping[str, str] = {}) -> Path:
    """A table with a row for each photo, of two individuals in turn; each has its time in EXIF, or none."""
    lines = ["image,path,identity" + columns]
    for number, (image, time) in enumerate(photos.items()):
        draw(folder / image, {ORIGINAL: time.replace("-", ":").replace("T", " ")} if time else None)
        lines.append(
            f"{image},{image},{('ann', 'bob')[number % 2]}{cells.get(image, ',' * columns.count(','))}"
        )
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    return folder / "table.csv"


def column(result: ImportResult, name: str) -> Row:
    table = result.catalog.table
    return dict(zip(table["image"], table[name], strict=True))


PHOTOS = {
    "a.jpg": "2019-07-04T10:00:00",
    "b.jpg": "2019-07-04T11:30:00",
    "c.jpg": "2019-07-04T15:00:00",
    "d.jpg": "",
}


def test_exif_dates_photos_that_the_table_does_not(tmp_path: Path, workspace: Workspace) -> None:
    result = import_csv(
        write(tmp_path, PHOTOS, ",date", {"b.jpg": ",2019-07", "d.jpg": ",2018"}), "mine", workspace
    )
    dates = {"a.jpg": PHOTOS["a.jpg"], "b.jpg": "2019-07", "c.jpg": PHOTOS["c.jpg"], "d.jpg": "2018"}
    assert column(result, "date") == dates
    assert "Dates that are from EXIF, where the table has none: 2 of 4." in result.notes
    assert not any("differs" in note for note in result.notes)
    folder = workspace.benchmarks / "mine"
    assert read_facts(folder)["derived"] == {"dates from EXIF": 2}
    facts = catalog_facts(read_catalog(folder))
    assert facts["dates from EXIF"] == 2
    assert facts["photos with a day"] == "2, 2019-07-04 to 2019-07-04"


def test_a_table_without_dates_gets_the_column_and_one_without_exif_none(
    tmp_path: Path, workspace: Workspace
) -> None:
    assert column(import_csv(write(tmp_path / "x", PHOTOS), "mine", workspace), "date") == PHOTOS
    plain = import_csv(write(tmp_path / "y", dict.fromkeys(PHOTOS, "")), "plain", workspace)
    assert set(plain.catalog.table["date"]) == {""}
    assert "derived" not in read_facts(workspace.benchmarks / "plain")
    assert not any("EXIF" in note or "--encounters" in note for note in plain.notes)


@pytest.mark.parametrize(
    ("date", "differs"),
    [
        ("2019-07-05T10:00:00", False),
        ("2019-07-05T10:00:01", True),
        ("2019-07-05T10:00:00-08:00", False),
        ("2019-07-03", False),
        ("2019-07-02", True),
        ("2019-07-05", False),
        ("2019-07-06", True),
        ("2019-06", True),
        ("2019-08", True),
        ("2019", False),
        ("2020", True),
        ("0001-01-01", True),
        ("9999-12-31T23:59:59+14:00", True),
    ],
)
def test_a_date_of_the_table_wins_and_more_than_a_day_is_noted(
    tmp_path: Path, workspace: Workspace, date: str, differs: bool
) -> None:
    cells = {"a.jpg": f",{date}"}
    result = import_csv(write(tmp_path, PHOTOS, ",date", cells), "mine", workspace)
    assert column(result, "date")["a.jpg"] == date
    noted = [note for note in result.notes if "differs" in note]
    assert bool(noted) == differs
    if differs:
        assert noted == [
            f"EXIF differs by more than a day from 1 dates of the table, which count: first a.jpg, {date} "
            f"and 2019-07-04T10:00:00 by EXIF. See which clock was wrong."
        ]


def test_a_benchmark_of_before_stays_as_it_was(
    tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older version read neither dates from EXIF nor the column place; its catalog keeps its digest."""
    table = write(tmp_path, PHOTOS, ",place", {"a.jpg": ",cove"})
    with monkeypatch.context() as older:
        older.setattr(importer, "WHERE_GIVEN", ("split",))
        older.setattr("whalebench.benchmarks.core.exif.TAKEN", ())
        before = import_csv(table, "mine", workspace).catalog
    assert "place" not in before.table and set(before.table["date"]) == {""}
    again = import_csv(table, "mine", workspace)
    assert again.catalog.digest == before.digest
    assert "does not read dates from EXIF, or the columns camera, place" in again.notes[-1]
    assert catalog_facts(again.catalog).get("dates from EXIF") is None
    assert import_csv(table, "other", workspace).catalog.digest != before.digest


# --- encounters


def rows(*cells: str) -> list[Row]:
    """Rows of date, place, camera and encounter."""
    names = ("date", "place", "camera", "encounter")
    return [dict(zip(names, (*cell.split(","), "", "", ""), strict=False)) for cell in cells]


def parts(found: list[Row], gap: str = "2h") -> list[set[int]]:
    """The encounters as sets of rows, by their first row."""
    made: dict[str, set[int]] = defaultdict(set)
    for index, name in encounters(found, range(len(found)), read_rule(gap)).items():
        made[name].add(index)
    return sorted(made.values(), key=min)


DAY = "2024-05-31"
GAPS: dict[str, tuple[str, list[str], list[set[int]]]] = {
    "chained by gaps": (
        "2h",
        [f"{DAY}T10:00", f"{DAY}T14:00", f"{DAY}T12:00", f"{DAY}T16:00:01", f"{DAY}T17:00"],
        [{0, 1, 2}, {3, 4}],
    ),
    "shorter": ("30min", [f"{DAY}T10:00", f"{DAY}T10:30", f"{DAY}T11:01"], [{0, 1}, {2}]),
    "seconds": ("90s", [f"{DAY}T10:00", f"{DAY}T10:01:30", f"{DAY}T10:03:01"], [{0, 1}, {2}]),
    "over midnight": ("2h", ["2024-05-31T23:30", "2024-06-01T00:30"], [{0, 1}]),
    "apart by place": ("2h", [f"{DAY}T10:00,a", f"{DAY}T10:00,b", f"{DAY}T11:00,a"], [{0, 2}, {1}]),
    "a place before a camera": (
        "2h",
        [f"{DAY}T10:00,a,1", f"{DAY}T10:30,a,2", f"{DAY}T10:30,,1", f"{DAY}T10:30,,2", f"{DAY}T10:45,,2"],
        [{0, 1}, {2}, {3, 4}],
    ),
    "a camera called as a place": ("2h", [f"{DAY}T10:00,a", f"{DAY}T10:00,,a"], [{0}, {1}]),
    "a place called as a camera": ("2h", [f"{DAY}T10:00,camera a", f"{DAY}T18:00,,a"], [{0}, {1}]),
    "by day": ("2h", [DAY, DAY, "2024-06-01", f"{DAY},a"], [{0, 1}, {2}, {3}]),
    "by days that follow each other": ("1d", [DAY, "2024-06-01", "2024-06-03"], [{0, 1}, {2}]),
    "days apart from times": ("2h", [DAY, f"{DAY}T00:30", f"{DAY}T01:00"], [{0}, {1, 2}]),
    "without a day": ("2h", ["2024", "2024-05", "", f"{DAY}T10:00"], [{3}]),
    "in zones": ("2h", [f"{DAY}T10:00+02:00", f"{DAY}T09:30Z", f"{DAY}T12:00+02:00"], [{0, 1, 2}]),
    "zones that tell them apart": ("2h", [f"{DAY}T10:00+10:00", f"{DAY}T10:00Z"], [{0}, {1}]),
    "some in zones": ("2h", [f"{DAY}T10:00+10:00", f"{DAY}T10:30"], [{0, 1}]),
    "the first and the last year": (
        "2h",
        ["0001-01-01T00:00+14:00", "9999-12-31T23:59-14:00"],
        [{0}, {1}],
    ),
    "those of the table": (
        "2h",
        [f"{DAY}T10:00,,,dive 1", f"{DAY}T10:10", f"{DAY}T10:20"],
        [{1, 2}],
    ),
}


@pytest.mark.parametrize("case", GAPS)
def test_encounters_are_chains_of_one_place(case: str) -> None:
    gap, cells, expected = GAPS[case]
    assert parts(rows(*cells), gap) == expected


def test_an_encounter_is_called_by_its_beginning_and_as_no_other_one() -> None:
    found = rows(f"{DAY}T11:00,cove", f"{DAY}T10:30,cove", f"{DAY}T10:00,,,{DAY}T10:30 cove", DAY)
    assert encounters(found, range(4), read_rule("2h")) == {
        0: f"{DAY}T10:30 cove'",
        1: f"{DAY}T10:30 cove'",
        3: DAY,
    }


def test_rows_without_a_usable_photo_make_no_encounter() -> None:
    found = rows(f"{DAY}T10:00", f"{DAY}T11:30", f"{DAY}T13:00")
    assert encounters(found, [0, 2], read_rule("2h")) == {0: f"{DAY}T10:00", 2: f"{DAY}T13:00"}


def test_encounters_are_proposed_where_they_would_join_photos(tmp_path: Path, workspace: Workspace) -> None:
    result = import_csv(write(tmp_path, PHOTOS), "mine", workspace)
    assert (
        "Dates are known: --encounters 2h would make 2 encounters of 3 photos, the largest of 2, none of "
        "which a fold would cut."
    ) in result.notes
    assert list(proposal(rows(f"{DAY}T10:00", f"{DAY}T13:00"), range(2))) == []
    assert list(proposal(rows(f"{DAY}T10:00,,,dive", f"{DAY}T10:10,,,dive"), range(2))) == []


def test_the_command_makes_encounters_that_no_fold_cuts(
    tmp_path: Path, workspace: Workspace, cli: Callable[..., Any]
) -> None:
    photos = {
        f"{name}{day}{minute}.jpg": f"2019-07-{day:02}T10:{minute:02}:00"
        for name in "ab"
        for day in range(1, 9)
        for minute in range(2)
    }
    place = ("--workspace", workspace.root)
    table = write(tmp_path, photos, ",encounter", {"a10.jpg": ",dive 1", "b10.jpg": ",dive 1"})
    answer = cli("data", "import", "csv", table, "--name", "mine", "--encounters", "2 h", "--json", *place)
    assert answer.code == 0, answer.err
    document = json.loads(answer.out)
    assert "--encounters 2h made 8 encounters of 30 photos, the largest of 4." in document["notes"]
    assert not any("would make" in note or "No encounter" in note for note in document["notes"])
    assert document["encounters"] == 9
    rule = "photos of one place, else camera, at most 2h apart; days alone by day"
    assert document["encounters by"] == rule
    shown = json.loads(cli("data", "show", "mine", "--json", *place).out)
    assert shown["encounters by"] == rule and shown["dates from EXIF"] == 32
    catalog = read_catalog(workspace.benchmarks / "mine")
    met = catalog.table.set_index("image")["encounter"]
    assert met["a10.jpg"] == met["b10.jpg"] == "dive 1"
    assert met["a11.jpg"] == met["b11.jpg"] == "2019-07-01T10:01:00"
    split = propose_split(catalog, folds=2)
    assert split.protocol == "stratified-encounters"
    fold = pd.Series(split.table["fold"].tolist(), split.table["image"])
    assert fold.groupby(met).nunique().max() == 1


@pytest.mark.parametrize("gap", ["soon", "2", "0h", "-2h", "2 weeks"])
def test_a_gap_that_is_none_is_refused(
    tmp_path: Path, workspace: Workspace, cli: Callable[..., Any], gap: str
) -> None:
    table = write(tmp_path, PHOTOS)
    answer = cli(
        "data", "import", "csv", table, "--name", "mine", f"--encounters={gap}", "--workspace", workspace.root
    )
    assert answer.code == 2
    assert f"--encounters {gap} is no duration" in answer.err
    with pytest.raises(WhalebenchError):
        read_catalog(workspace.benchmarks / "mine")


def test_encounters_that_cannot_be_made_are_said(tmp_path: Path, workspace: Workspace) -> None:
    table = write(tmp_path, dict.fromkeys(PHOTOS, ""))
    result = import_csv(table, "mine", workspace, encounters=read_rule("2h"))
    assert result.notes[-1].startswith("--encounters 2h made none: no photo without an encounter has a day")
    assert result.catalog.derived == {}


def test_photos_without_a_day_are_counted(tmp_path: Path, workspace: Workspace) -> None:
    result = import_csv(write(tmp_path, PHOTOS), "mine", workspace, encounters=read_rule("4h"))
    assert "--encounters 4h made 1 encounters of 3 photos, the largest of 3." in result.notes
    assert "Photos without a day are in no encounter: 1." in result.notes
    assert NO_ENCOUNTER not in result.notes


def test_a_large_encounter_that_was_made_is_no_slip_of_the_table(
    tmp_path: Path, workspace: Workspace
) -> None:
    photos = {f"{number}.png": f"2019-07-04T10:{number:02}:00" for number in range(12)}
    result = import_csv(write(tmp_path, photos), "mine", workspace, encounters=read_rule("2h"))
    assert "--encounters 2h made 1 encounters of 12 photos, the largest of 12." in result.notes
    assert not any("leave the cell empty" in note for note in result.notes)


def test_a_split_that_ignores_dates_is_marked_wherever_its_scores_are_shown(
    tmp_path: Path, workspace: Workspace, cli: Callable[..., Any], tiny_settings: tuple[str, ...]
) -> None:
    photos = {f"{name}{day}{minute}.png": "" for day in range(1, 5) for minute in range(6) for name in "ab"}
    photos = {image: f"2019-07-0{image[1]}T10:0{image[2]}:00" for image in photos}
    place = ("--workspace", workspace.root)
    import_csv(write(tmp_path, photos), "mine", workspace)
    cli("split", "make", "mine", "--protocol", "stratified-encounters", "--folds", 2, *place)
    cli("split", "make", "mine@encounter-grouped", "--protocol", "encounter-grouped", "--folds", 2, *place)
    settings = [f"--set={setting}" for setting in (*tiny_settings, "epochs=1")]
    ran = cli("run", "softmax", "--benchmark", "mine", *settings, *place)
    assert ran.code == 0, ran.err
    mark = "of 48 tested photos have a photo of the same individual from the same day in train"
    page = tmp_path / "page.html"
    said = {
        "run": ran.out,
        "split": cli("split", "show", "mine", *place).out,
        "show": cli("show", "softmax-mine-", *place).out,
        "report": cli("report", "--benchmark", "mine", "--html", page, *place).out,
        "page": page.read_text(),
    }
    assert {where for where, text in said.items() if mark not in " ".join(text.split())} == set()
    assert "the same day" not in cli("split", "show", "mine@encounter-grouped", *place).out
    assert load_benchmark("mine@encounter-grouped", workspace).warnings == []
    assert load_benchmark("mine", workspace).warnings[0] == NO_ENCOUNTER
