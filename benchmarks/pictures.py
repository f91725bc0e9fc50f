"""Pictures made of photos: the contact sheet of a catalog, and where a method looks in some photos."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps

from whalebench import WhalebenchError
from whalebench.benchmarks.core.catalog import NOT_IDENTIFIED, Region, regions_of
from whalebench.benchmarks.core.outputs import output_path
from whalebench.benchmarks.core.saliency import heated
from whalebench.benchmarks.core.store import MAX_PIXELS, decode, pixel_limit, read_photo
from whalebench.benchmarks.lettering import write

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}

PAPER, INK, PALE, FRAME = "#f7f5f0", "#1d2b36", "#6d7a83", "#e6e2d8"
_GAP, _TITLE, _LABEL, _CAPTION = 10, 40, 34, 20
"""Of the contact sheet, in pixels."""
WIDE, HIGH, EDGE, HEADER, LINES = 460, 330, 14, 46, 46
"""Of the picture of where a method looks, in pixels: a photo, the edge around it, and the texts above it."""


def picture_format(file: Path, what: str = "picture") -> str:
    """The format that the name of a picture asks for; raises WhalebenchError for another suffix."""
    if file.suffix.lower() not in SUFFIXES:
        raise WhalebenchError(
            f"A {what} cannot be written as {file.name!r}: give a name that ends in .png or .jpg."
        )
    return SUFFIXES[file.suffix.lower()]


def save_picture(picture: Image.Image, file: Path, what: str = "picture") -> None:
    """Writes a picture to where the user says; raises WhalebenchError where it cannot be written."""
    with output_path(file) as part:
        picture.save(part, picture_format(file, what))


def contact_sheet(
    table: pd.DataFrame, file: Path, *, rows: int = 8, columns: int = 6, cell: int = 240, title: str = ""
) -> None:
    """Writes a PNG or JPEG that shows up to `rows` individuals of `table` with `columns` photos each.

    Photos are read from the absolute paths in column `path`. Individuals with the most encounters come first,
    each with photos of all its sides and encounters as evenly as there are; the last row shows *new* ones if
    there are some.
    Raises WhalebenchError for another suffix, a photo that cannot be read, or a table without photos.
    """
    picture_format(file, "contact sheet")
    if table.empty:
        raise WhalebenchError("The catalog has no photos to show: import some first.")
    page = _Page(choose_photos(table, rows, columns), columns, cell, title)
    save_picture(page.sheet, file, "contact sheet")


def choose_photos(table: pd.DataFrame, rows: int, columns: int) -> list[tuple[str, pd.DataFrame]]:
    """The label and the photos of each row of the sheet: the best known individuals first, *new* last.

    Photos of animals that are not identified are left out.
    """
    encounter = table["encounter"] if "encounter" in table else table["image"]
    table = table.assign(encounter=encounter.where(encounter != "", table["image"]))
    table = table if "viewpoint" in table else table.assign(viewpoint="")
    table = table[table["identity"] != NOT_IDENTIFIED]
    known, new = table[table["identity"] != ""], table[table["identity"] == ""]
    count = known.groupby("identity").agg(encounters=("encounter", "nunique"), photos=("image", "size"))
    order = count.sort_values(["encounters", "photos"], ascending=False, kind="stable").index
    chosen = [
        (str(identity), _evenly(known[known["identity"] == identity], columns))
        for identity in order[: rows - (not new.empty)]
    ]
    return chosen if new.empty else [*chosen, ("new", _evenly(new, columns))]


def _evenly(photos: pd.DataFrame, count: int) -> pd.DataFrame:
    """So many photos: each of the side that was shown least before it, and of these of such an encounter."""
    ordered = photos.sort_values(["viewpoint", "encounter", "image"])
    shown_from, met_in = ordered["viewpoint"].tolist(), ordered["encounter"].tolist()
    sides, encounters, rest = Counter[str](), Counter[str](), list(range(len(ordered)))
    chosen: list[int] = []
    while rest and len(chosen) < count:
        chosen.append(min(rest, key=lambda row: (sides[shown_from[row]], encounters[met_in[row]])))
        rest.remove(chosen[-1])
        sides[shown_from[chosen[-1]]] += 1
        encounters[met_in[chosen[-1]]] += 1
    return ordered.iloc[chosen]


class _Page:
    """A sheet of paper with rows of photos on it."""

    def __init__(self, chosen: list[tuple[str, pd.DataFrame]], columns: int, cell: int, title: str) -> None:
        self._cell = cell, cell * 5 // 8
        row = _LABEL + self._cell[1] + _CAPTION
        upper = _GAP + _TITLE * bool(title)
        size = columns * (cell + _GAP) + 3 * _GAP, upper + len(chosen) * row + 2 * _GAP
        self.sheet = Image.new("RGB", size, PAPER)
        within = size[0] - 4 * _GAP
        write(self.sheet, (2 * _GAP, _GAP), within, 24, INK, title)
        for number, (label, photos) in enumerate(chosen):
            write(self.sheet, (2 * _GAP, upper + number * row + 6), within, 17, INK, label)
            records = zip(photos.to_dict("records"), regions_of(photos), strict=True)
            for column, (photo, region) in enumerate(records):
                place = 2 * _GAP + column * (cell + _GAP), upper + number * row + _LABEL
                self._photo(*place, {str(key): photo[key] for key in photo}, region)

    def _photo(self, left: int, upper: int, photo: dict[str, object], region: Region | None) -> None:
        wide, high = self._cell
        ImageDraw.Draw(self.sheet).rectangle((left, upper, left + wide - 1, upper + high - 1), FRAME)
        try:
            with pixel_limit(MAX_PIXELS):
                fitted = ImageOps.contain(read_photo(Path(str(photo["path"])), region=region), self._cell)
        except OSError as error:
            raise WhalebenchError(
                f"Photo {photo['image']} cannot be read from {photo['path']}: put it back, or import again."
            ) from error
        self.sheet.paste(fitted, (left + (wide - fitted.width) // 2, upper + (high - fitted.height) // 2))
        caption = [str(photo[key]) for key in ("image", "date", "viewpoint") if photo.get(key)]
        parts = [part for text in caption for part in (text, "  ")][:-1]
        write(self.sheet, (left, upper + high + 2), wide, 12, PALE, *parts)


@dataclass(frozen=True)
class GalleryPhoto:
    """The photo beside the heat: whom the method answered with, and what of."""

    path: str
    """Empty where there is none to show."""
    title: tuple[str, ...]
    """The answer, and whether it is right, part by part: names are parts of their own."""
    caption: tuple[str, ...]
    region: Region | None = None


@dataclass(frozen=True)
class HeatPhoto:
    """A photo in the picture of where a method looks: one row."""

    path: str
    shape: tuple[int, int]
    """Height and width of the photo."""
    heat: NDArray[np.float64]
    """(height, width) of any one size, over the whole photo."""
    title: tuple[str, ...]
    """Part by part: names are parts of their own."""
    caption: str
    region: Region | None = None
    """The part of its file that it is, where it is no whole one."""
    answer: GalleryPhoto | None = None


def draw_heat(photos: list[HeatPhoto], file: Path, title: str) -> None:
    """Writes the picture, a row a photo; raises WhalebenchError where it cannot be written."""
    fitted = [_fit(photo.shape) for photo in photos]
    answered = [_read_answer(photo.answer) for photo in photos]
    heights = [max(high, beside.height) for (high, _), beside in zip(fitted, answered, strict=True)]
    columns = [EDGE + column * (WIDE + EDGE) for column in range(4)]
    page = Image.new("RGB", (columns[-1], HEADER + sum(high + LINES + EDGE for high in heights)), PAPER)
    write(page, (EDGE, 10), page.width - 2 * EDGE, 18, INK, title)
    upper = HEADER
    for photo, size, beside, high in zip(photos, fitted, answered, heights, strict=True):
        _write_lines(page, (EDGE, upper), 2 * WIDE + EDGE, photo.title, (photo.caption,))
        if photo.answer:
            _write_lines(page, (columns[2], upper), WIDE, photo.answer.title, photo.answer.caption)
        with pixel_limit(MAX_PIXELS):
            pixels = decode(photo.path, (*size, 3), photo.region)
        shown = (Image.fromarray(pixels), Image.fromarray(heated(pixels, photo.heat)), beside)
        for left, picture in zip(columns, shown, strict=False):
            page.paste(picture, (left, upper + LINES - 4))
        upper += high + LINES + EDGE
    save_picture(page, file)


def _read_answer(answer: GalleryPhoto | None) -> Image.Image:
    """The photo beside the heat, as it fits its cell; an empty picture where there is none."""
    if answer is None or not answer.path:
        return Image.new("RGB", (0, 0))
    with pixel_limit(MAX_PIXELS):
        photo = read_photo(Path(answer.path), least=(2 * WIDE, 2 * HIGH), region=answer.region)
    return ImageOps.contain(photo, (WIDE, HIGH))


def _write_lines(
    page: Image.Image, place: tuple[int, int], width: int, title: tuple[str, ...], caption: tuple[str, ...]
) -> None:
    """The two lines above a photo."""
    left, upper = place
    write(page, place, width, 15, INK, *title)
    write(page, (left, upper + 21), width, 13, PALE, *caption)


def _fit(shape: tuple[int, int]) -> tuple[int, int]:
    """Height and width at which a photo fits its cell."""
    high, wide = shape
    scale = min(WIDE / wide, HIGH / high)
    return max(1, round(high * scale)), max(1, round(wide * scale))
