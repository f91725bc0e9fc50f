"""The contact sheet: who is on it, in which order, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from whalebench import WhalebenchError
from whalebench.benchmarks.pictures import choose_photos, contact_sheet


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
