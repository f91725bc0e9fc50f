"""Names that are written in several ways, and those of several animals: noted, folded where that is safe."""

import time
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.importing.importer import ImportResult, import_photos
from whalebench.benchmarks.importing.layouts import LAYOUTS
from whalebench.benchmarks.importing.names import spelling, without_unseen
from whalebench.benchmarks.importing.notes import notes_on
from whalebench.benchmarks.importing.tables import TextTable

ALIKE = {
    "floats": ("12", "12.0"),
    "leading zeros": ("W7", "W007"),
    "hyphen and dash": ("A-4", "A\u20134"),
    "minus": ("A-4", "A\u22124"),
    "underscore": ("Old Scar", "Old_Scar"),
    "hyphen and blank": ("Old Scar", "old-scar"),
    "no-break blank": ("Old Scar", "Old\u00a0Scar"),
    "Cyrillic": ("A 9", "\u0410 9"),
    "small Cyrillic": ("pace", "\u0440\u0430\u0441\u0435"),
    "Greek": ("HOPE", "\u0397\u039f\u03a1\u0395"),
    "full width": ("W7", "\uff37\uff17"),
    "accents": ("Zo\u00eb", "Zoe"),
    "how accents are coded": ("Zo\u00eb", "Zoe\u0308"),
    "apostrophes": ("O'Neil", "O\u2019Neil"),
    "an apostrophe for a text": ("0031", "'0031"),
    "a joiner": ("W7", "W7\u200d"),
}
DIFFERENT = [
    ("A4", "A-4 b"),
    ("1.05", "1.5"),
    ("W10", "W1"),
    ("A", "B"),
    ("12.5", "12"),
    ("\u9be8", "\u9be8\u9be8"),
]


@pytest.mark.parametrize("kind", ALIKE)
def test_one_name_in_two_ways_is_noted(kind: str) -> None:
    one, other = ALIKE[kind]
    rows = [{"identity": name, "encounter": f"e{place}"} for place, name in enumerate((one, other, "x", one))]
    (note,) = notes_on(rows, {}, {})
    assert note.startswith("Column identity has 1 name(s) that are written in several ways, first ")
    told = note.partition("first ")[2].partition(", which count")[0].split(" and ")
    assert len(set(told)) == 2, "names that look the same cannot be told apart"
    assert len(note) <= 300


@pytest.mark.parametrize("names", DIFFERENT)
def test_other_names_stay_others(names: tuple[str, str]) -> None:
    assert spelling(names[0]) != spelling(names[1])


def test_letters_that_look_the_same_are_shown_by_their_codes() -> None:
    rows = [{"identity": name, "encounter": name} for name in ("A 9", "\u0410 9")]
    assert r"first 'A 9' and '\u0410 9'" in notes_on(rows, {}, {})[0]


def bring(folder: Path, names: list[str], suffix: str, place: Path) -> ImportResult:
    for number, name in enumerate(names):
        file = folder / (f"{name}/{number}.png" if suffix == "folder" else f"{number}.png")
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9), (number, 0, 0)).save(file)
    if suffix == "folder":
        return import_photos(LAYOUTS["folder"], folder, "mine", Workspace.open(place))
    frame = pd.DataFrame({"image": range(len(names)), "identity": names})
    frame["path"] = frame["image"].astype(str) + ".png"
    table = folder / f"t.{suffix}"
    frame.to_csv(table, index=False) if suffix == "csv" else frame.to_parquet(table)
    return import_photos(LAYOUTS[suffix], table, "mine", Workspace.open(place))


@pytest.mark.parametrize("suffix", ["csv", "parquet", "folder"])
def test_characters_that_nobody_sees_are_taken_away(tmp_path: Path, suffix: str) -> None:
    names = ["W7", "W7\u200b", "W\u00ad7", "\u06cc\u200c\u062e", "W7\u200b"]
    result = bring(tmp_path / "p", names, suffix, tmp_path / "w")
    assert result.catalog.identities == ("W7", "\u06cc\u200c\u062e")
    said = [note for note in result.notes if "nobody sees" in note]
    assert said == [
        r"Column identity has characters that nobody sees in 3 row(s): 'W7\u200b' is read as 'W7'."
    ]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_formulas_around_names_are_taken_away(tmp_path: Path, suffix: str) -> None:
    result = bring(tmp_path / "p", ["0031", '="0031"', "=1+1", '="0032"'], suffix, tmp_path / "w")
    assert result.catalog.identities == ("0031", "0032", "=1+1")
    assert 'Column identity has texts as formulas, in 2 row(s): ="0031" is read as 0031.' in result.notes


def test_one_number_of_two_species_is_noted() -> None:
    rows = [
        {"identity": identity, "species": species, "encounter": f"{identity}{species}"}
        for identity in ("001", "002", "003")
        for species in ("humpback", "blue")
    ]
    (note,) = notes_on(rows, {}, {})
    assert note == (
        "3 individual(s) are of two species each, first '001' (blue, humpback): write the species into the "
        "identity if these are different animals."
    )
    rows += [{"identity": "", "species": name, "encounter": name} for name in ("fin", "minke")]
    assert "first '001'" in notes_on(rows, {}, {})[0]
    three = [*rows, {"identity": "001", "species": "fin", "encounter": "e"}]
    assert "of several species, first '001' (blue, fin, humpback)" in notes_on(three, {}, {})[0]


def test_a_species_in_two_spellings_is_one() -> None:
    rows = [{"identity": "1", "species": name, "encounter": "e"} for name in ("Blue whale", "blue_whale", "")]
    (note,) = notes_on(rows, {}, {})
    assert note.startswith("Column species has 1 name(s) that are written in several ways")


def test_shortened_numbers_are_noted() -> None:
    rows = [{"identity": name, "encounter": f"{place}"} for place, name in enumerate(("1.2E+05", "1E5", "7"))]
    (note,) = notes_on(rows, {}, {})
    assert "has 1 name(s) as spreadsheets shorten long numbers, first '1.2E+05'" in note


def test_many_names_take_no_time() -> None:
    rows = [
        {"identity": f"W\u00eb {number % 50_000}", "encounter": f"E-{number % 30_000:05}", "species": "a"}
        for number in range(100_000)
    ]
    before = time.process_time()
    table, _ = without_unseen(TextTable(("identity",), tuple(rows), ()))
    assert notes_on(table.rows, {}, {}) == []
    assert time.process_time() - before < 4, "on a machine that is busy; a second on one that is not"
