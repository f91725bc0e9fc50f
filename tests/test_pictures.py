"""Pictures made of photos: who is on the contact sheet, names of every script, the answer beside the heat."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageColor

from whalebench import WhalebenchError
from whalebench.benchmarks import lettering
from whalebench.benchmarks.pictures import (
    EDGE,
    HEADER,
    LINES,
    PAPER,
    WIDE,
    GalleryPhoto,
    HeatPhoto,
    choose_photos,
    contact_sheet,
    draw_heat,
)

LONG = "x" * 300
NAMES = (
    "Мария",
    "Ирина",
    "Ελένη",
    "حوت",
    "نور",
    "שלום",
    "鯨",
    "鮫",
    "고래",
    "e\u0301",
    "a\x1bb",
    "a\u200bb",
    "ab",
)


@pytest.fixture
def table(tmp_path: Path) -> pd.DataFrame:
    """Individual a in two encounters, b in one, and two *new* photos; each photo of its own colour."""
    rows = [
        ("a1.png", "a", "e1", "#ff0000"),
        ("a2.png", "a", "e1", "#00ff00"),
        ("a3.png", "a", "e2", "#0000ff"),
        ("b1.png", "b", "", "#ffff00"),
        ("n1.png", "", "e4", "#ff00ff"),
        ("n2.png", "", "e5", "#00ffff"),
    ]
    table = pd.DataFrame(rows, columns=["image", "identity", "encounter", "colour"])
    table["path"] = [str(tmp_path / image) for image in table["image"]]
    for path, colour in zip(table["path"], table["colour"], strict=True):
        Image.new("RGB", (64, 40), colour).save(path)
    return table


def test_most_encounters_first_one_photo_of_each_and_new_last(table: pd.DataFrame) -> None:
    chosen = [(label, list(photos["image"])) for label, photos in choose_photos(table, rows=3, columns=2)]
    assert chosen == [("a", ["a1.png", "a3.png"]), ("b", ["b1.png"]), ("new", ["n1.png", "n2.png"])]


def test_rows_are_as_many_as_asked_for(table: pd.DataFrame) -> None:
    assert [label for label, _ in choose_photos(table, rows=2, columns=3)] == ["a", "new"]
    known = table[table["identity"] != ""].drop(columns="encounter")
    assert [label for label, _ in choose_photos(known, rows=9, columns=3)] == ["a", "b"]


@pytest.mark.parametrize("name", ["sheet.png", "sheet.jpg", "SHEET.JPEG"])
def test_the_chosen_photos_are_on_the_sheet(table: pd.DataFrame, tmp_path: Path, name: str) -> None:
    contact_sheet(table, tmp_path / name, rows=3, columns=2, cell=80, title="whales")
    with Image.open(tmp_path / name) as sheet:
        colours = sheet.convert("RGB").quantize(64).convert("RGB").getcolors(1 << 20) or []
    big = [colour for count, colour in colours if count > 1500]
    for red, green, blue in [(255, 0, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255), (0, 255, 255)]:
        assert any(abs(red - r) + abs(green - g) + abs(blue - b) < 60 for r, g, b in big)  # type: ignore[misc]
    assert not any(abs(r) + abs(255 - g) + abs(b) < 60 for r, g, b in big)  # type: ignore[misc]
    assert {path.name for path in tmp_path.iterdir()} == {*table["image"], name}


def test_what_it_refuses(table: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(WhalebenchError, match=r"'sheet\.gif'.*\.png or \.jpg"):
        contact_sheet(table, tmp_path / "sheet.gif")
    with pytest.raises(WhalebenchError, match="no photos to show"):
        contact_sheet(table.head(0), tmp_path / "sheet.png")
    with pytest.raises(WhalebenchError, match="cannot be written"):
        contact_sheet(table, tmp_path / "a1.png" / "sheet.png")
    Path(table["path"][0]).write_text("not a photo")
    with pytest.raises(WhalebenchError, match=r"a1\.png cannot be read"):
        contact_sheet(table, tmp_path / "sheet.png")


def test_sides_and_encounters_are_sampled_evenly() -> None:
    rows = [(f"l{number:02d}", f"e{number // 6}", "left") for number in range(48)]
    rows += [(f"r{number}", f"e{number % 3}", "right") for number in range(6)]
    table = pd.DataFrame(rows, columns=["image", "encounter", "viewpoint"]).assign(identity="a")
    [(_, photos)] = choose_photos(table, rows=1, columns=8)
    assert Counter(photos["viewpoint"]) == {"left": 4, "right": 4}
    assert max(Counter(photos["encounter"]).values()) == 2
    assert photos["encounter"].nunique() == 5
    [(_, few)] = choose_photos(table.iloc[46:52], rows=1, columns=9)
    assert Counter(few["viewpoint"]) == {"left": 2, "right": 4}
    assert list(choose_photos(table.sample(frac=1, random_state=1), 1, 8)[0][1]["image"]) == list(
        photos["image"]
    )


@pytest.mark.parametrize("word", ["x", "鯨", "حوت", "W \u0301"], ids=ascii)
def test_captions_and_labels_stay_in_their_place(table: pd.DataFrame, tmp_path: Path, word: str) -> None:
    name = word * 100
    table = table.assign(image=name + table["image"], identity=table["identity"].replace("a", name))
    table = table.assign(viewpoint="left", date="2024-05-06")
    contact_sheet(table, tmp_path / "sheet.png", rows=3, columns=2, cell=160, title=name)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    paper = np.all(sheet == ImageColor.getrgb(PAPER), axis=2)
    assert paper[:, 20 + 160 : 20 + 170].all(axis=1)[50 + 34 :].sum() > 0.7 * len(paper[84:])
    captions = slice(50 + 34 + 100, 50 + 34 + 120)
    assert not paper[captions, 20:180].all()
    assert paper[captions, 180:190].all()
    assert paper[:, :20].all()
    assert paper[:, -20:].all()


# --- letters


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """A machine without fonts of its own."""

    monkeypatch.setattr(lettering, "_system_fonts", lambda: ())
    lettering._font_of.cache_clear()
    lettering._font.cache_clear()
    yield monkeypatch
    lettering._font_of.cache_clear()
    lettering._font.cache_clear()


def draws_letter_by_letter(patch: pytest.MonkeyPatch, *, joins: bool = False) -> None:
    """As with a Pillow that has no libraqm."""
    patch.setattr(lettering, "_joins_letters", lambda: joins)
    lettering._font.cache_clear()


def drawn(*parts: str, width: int = 400, size: int = 20) -> NDArray[np.uint8]:
    """Where a line of text has ink: (height, width)."""
    page = Image.new("L", (width + 40, 90), "white")
    lettering.write(page, (20, 30), width, size, "black", *parts)
    ink = 255 - np.asarray(page)
    assert not ink[:, :20].any()
    assert not ink[:, 20 + width :].any()
    assert not ink[:30].any()
    assert not ink[60:].any()
    return ink[30:60, 20 : 20 + width]


def test_no_two_names_look_equal() -> None:
    pictures = [drawn(name) for name in NAMES]
    assert all(picture.any() for picture in pictures)
    assert len({picture.tobytes() for picture in pictures}) == len(NAMES)
    assert np.array_equal(drawn("a\x1bb"), drawn("a\\x1bb"))


def test_what_no_font_has_stands_as_its_code(alone: pytest.MonkeyPatch) -> None:
    assert np.array_equal(drawn("鯨の"), drawn("\\u9be8\\u306e"))
    assert np.array_equal(drawn("🐋"), drawn("\\U0001f40b"))
    assert np.array_equal(drawn("a\u200bb\u00a0c"), drawn("a\\u200bb\\xa0c"))
    assert not np.array_equal(drawn("Кит"), drawn("\\u041a\\u0438\\u0442"))
    assert len({drawn(name).tobytes() for name in NAMES}) == len(NAMES)


def test_a_font_of_the_machine_draws_what_the_first_lacks(alone: pytest.MonkeyPatch) -> None:
    other = str(Path(lettering._own_font()).with_name("STIXGeneral.ttf"))
    letter = chr(min(lettering._codes(other) - lettering._codes(lettering._own_font())))
    as_code = drawn("a", letter, "b")
    alone.setattr(lettering, "_system_fonts", lambda: (other,))
    lettering._font_of.cache_clear()
    seen = drawn("a", letter, "b")
    assert seen.any()
    assert not np.array_equal(seen, as_code)
    assert np.array_equal(seen[:, :8], drawn("a")[:, :8])


@pytest.mark.parametrize("joins", [True, False])
@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("אבג", "גבא"),
        ("אב 12-34 גד", "דג 12-34 בא"),
        ("אב.jpg", "jpg.בא"),
        ("abc אב גד, def", "abc דג בא, def"),
        ("a 12, 34", "a 12, 34"),
        ("אב!", "!בא"),
        ("גb\u05b8אd", "dאb\u05b8ג"),
    ],
    ids=ascii,
)
def test_text_from_right_to_left_is_in_order(
    alone: pytest.MonkeyPatch, text: str, seen: str, *, joins: bool
) -> None:
    """As it is seen letter by letter, which Hebrew allows: none changes its shape beside others."""
    if joins and not lettering._joins_letters():
        pytest.skip("this Pillow has no libraqm and fribidi")
    draws_letter_by_letter(alone, joins=joins)
    ordered = drawn(text)
    draws_letter_by_letter(alone)
    alone.setattr(lettering, "bidi_levels", lambda directions: [0] * len(directions))
    if joins:  # libraqm moves letters by parts of a pixel
        assert alike(ordered, drawn(seen)) > (0.8 if text == seen else alike(ordered, drawn(text)) + 0.05)
    else:
        assert np.array_equal(ordered, drawn(seen))


def alike(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """How much ink two lines have in the same columns, give or take a pixel: 1 for equal ones."""
    soft = [np.convolve(ink.sum(axis=0, dtype=float), [1, 2, 1], "same") for ink in (first, second)]
    return float(np.corrcoef(*soft)[0, 1])


def test_letters_of_arabic_join_where_pillow_can_join_them(alone: pytest.MonkeyPatch) -> None:
    if not lettering._joins_letters():
        pytest.skip("this Pillow has no libraqm and fribidi")
    joined = drawn("حوت")
    draws_letter_by_letter(alone)
    apart = drawn("حوت")
    assert apart.any()
    assert not np.array_equal(joined, apart)


@pytest.mark.parametrize("letter", ["x", "鯨", "ت", "é"])
def test_a_long_name_keeps_its_beginning_and_its_end(letter: str) -> None:
    parts = [lettering._letters(part) for part in (f"first{letter * 300}last", "  ", "2024-05-06")]
    name, blank, date = lettering.fit(parts, 240, 12)
    text = "".join(each.text for each in name)
    assert text.startswith("first")
    assert text.endswith("last")
    assert text.count("…") == 1
    assert (blank, date) == (parts[1], parts[2])
    width = sum(lettering._width(part, 12) for part in (name, blank, date))
    assert 210 < width <= 240


def test_a_short_name_beside_a_long_one_is_whole_and_several_long_ones_share() -> None:
    def fit(*texts: str) -> list[str]:
        fitted = lettering.fit([lettering._letters(text) for text in texts], 200, 12)
        assert sum(lettering._width(part, 12) for part in fitted) <= 200
        return ["".join(each.text for each in part) for part in fitted]

    assert fit("ann", "bea") == ["ann", "bea"]
    assert fit(LONG, "bea")[1] == "bea"
    assert all("…" in text and len(text) > 5 for text in fit(LONG, LONG, LONG))


# --- the answer beside the heat


def test_the_answer_stands_beside_photo_and_heat_and_no_text_leaves_its_place(
    table: pd.DataFrame, tmp_path: Path
) -> None:
    heat = np.zeros((6, 9))
    heat[0, 0] = 2.0
    first, second = table["path"].iloc[:2]
    beside = GalleryPhoto(second, ("answer: ", LONG, ", wrong: it is ", LONG), ("nearest photo of ", LONG))
    photo = HeatPhoto(first, (40, 64), heat, (LONG, "    ", LONG), LONG, None, beside)
    none = HeatPhoto(first, (40, 64), heat, ("b",), "", None, GalleryPhoto("", ("answer: new",), ("none",)))
    draw_heat([photo, none], tmp_path / "heat.png", LONG)
    page: NDArray[Any] = np.asarray(Image.open(tmp_path / "heat.png")).astype(int)
    left, middle, right = (EDGE + column * (WIDE + EDGE) for column in range(3))
    row = HEADER + LINES - 4
    assert page[row + 40, left + 200].tolist() == [255, 0, 0]
    assert page[row + 40, right + 200].tolist() == [0, 255, 0]
    assert page[row + 200, middle + 400].tolist() == [85, 85, 85]
    assert page[row + 5, middle + 5].tolist() != [85, 85, 85]
    paper = np.all(page == ImageColor.getrgb(PAPER), axis=2)
    assert paper[:, :EDGE].all()
    assert paper[:, -EDGE:].all()
    assert paper[HEADER : HEADER + LINES - 4, right - EDGE : right].all()
    lower = row + 40 * WIDE // 64 + 4 + EDGE
    assert paper[lower + LINES :, right:].all()
    assert not paper[lower : lower + LINES, right:].all()
