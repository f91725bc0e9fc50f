"""Pictures made of photos: the contact sheet of a catalog, and where a method looks in some photos."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from whalebench import WhalebenchError
from whalebench.benchmarks.core.catalog import NOT_IDENTIFIED, Region, regions_of
from whalebench.benchmarks.core.outputs import output_path
from whalebench.benchmarks.core.store import MAX_PIXELS, decode, pixel_limit, read_photo

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}

PAPER, INK, PALE, FRAME = "#f7f5f0", "#1d2b36", "#6d7a83", "#e6e2d8"
_GAP, _TITLE, _LABEL, _CAPTION = 10, 40, 34, 20
"""Of the contact sheet, in pixels."""
WIDE, HIGH, EDGE, HEADER, LINES = 460, 330, 14, 46, 46
"""Of the picture of where a method looks, in pixels: a photo, the edge around it, and the texts above it."""
FALLS, RISES = (214, 40, 24), (32, 92, 200)
"""Red where hiding costs, blue where it helps."""


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
    with one photo of each encounter before a second of any; the last row shows *new* ones if there are some.
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
    table = table[table["identity"] != NOT_IDENTIFIED]
    known, new = table[table["identity"] != ""], table[table["identity"] == ""]
    count = known.groupby("identity").agg(encounters=("encounter", "nunique"), photos=("image", "size"))
    order = count.sort_values(["encounters", "photos"], ascending=False, kind="stable").index
    chosen = [
        (str(identity), _spread(known[known["identity"] == identity]).head(columns))
        for identity in order[: rows - (not new.empty)]
    ]
    return chosen if new.empty else [*chosen, ("new", _spread(new).head(columns))]


def _spread(photos: pd.DataFrame) -> pd.DataFrame:
    """The photos with one of each encounter before a second of any."""
    photos = photos.sort_values(["encounter", "image"])
    number = photos.groupby("encounter").cumcount()
    return photos.assign(_number=number).sort_values(["_number", "encounter"], kind="stable")


class _Page:
    """A sheet of paper with rows of photos on it."""

    def __init__(self, chosen: list[tuple[str, pd.DataFrame]], columns: int, cell: int, title: str) -> None:
        self._cell = cell, cell * 5 // 8
        row = _LABEL + self._cell[1] + _CAPTION
        upper = _GAP + _TITLE * bool(title)
        size = columns * (cell + _GAP) + 3 * _GAP, upper + len(chosen) * row + 2 * _GAP
        self.sheet = Image.new("RGB", size, PAPER)
        self._pen = ImageDraw.Draw(self.sheet)
        _write(self._pen, 2 * _GAP, _GAP + 4, title, INK, 24)
        for number, (label, photos) in enumerate(chosen):
            _write(self._pen, 2 * _GAP, upper + number * row + 8, label, INK, 17)
            records = zip(photos.to_dict("records"), regions_of(photos), strict=True)
            for column, (photo, region) in enumerate(records):
                place = 2 * _GAP + column * (cell + _GAP), upper + number * row + _LABEL
                self._photo(*place, {str(key): photo[key] for key in photo}, region)

    def _photo(self, left: int, upper: int, photo: dict[str, object], region: Region | None) -> None:
        wide, high = self._cell
        self._pen.rectangle((left, upper, left + wide - 1, upper + high - 1), FRAME)
        try:
            with pixel_limit(MAX_PIXELS):
                fitted = ImageOps.contain(read_photo(Path(str(photo["path"])), region=region), self._cell)
        except OSError as error:
            raise WhalebenchError(
                f"Photo {photo['image']} cannot be read from {photo['path']}: put it back, or import again."
            ) from error
        self.sheet.paste(fitted, (left + (wide - fitted.width) // 2, upper + (high - fitted.height) // 2))
        caption = "  ".join(str(photo[key]) for key in ("image", "date") if photo.get(key))
        _write(self._pen, left, upper + high + 3, caption, PALE, 12)


@dataclass(frozen=True)
class HeatPhoto:
    """A photo in the picture of where a method looks."""

    path: str
    shape: tuple[int, int]
    """Height and width of the photo."""
    heat: NDArray[np.float64]
    """(height, width) of any one size, over the whole photo."""
    title: str
    caption: str
    region: Region | None = None
    """The part of its file that it is, where it is no whole one."""


def draw_heat(photos: list[HeatPhoto], file: Path, title: str) -> None:
    """Writes the picture, a row a photo; raises WhalebenchError where it cannot be written."""
    fitted = [_fit(photo.shape) for photo in photos]
    height = HEADER + sum(high + LINES + EDGE for high, _ in fitted)
    page = Image.new("RGB", (2 * WIDE + 3 * EDGE, height), PAPER)
    pen, upper = ImageDraw.Draw(page), HEADER
    _write(pen, EDGE, 12, title, INK, 18)
    for photo, (high, wide) in zip(photos, fitted, strict=True):
        _write(pen, EDGE, upper, photo.title, INK, 15)
        _write(pen, EDGE, upper + 21, photo.caption, PALE, 13)
        with pixel_limit(MAX_PIXELS):
            pixels = decode(photo.path, (high, wide, 3), photo.region)
        page.paste(Image.fromarray(pixels), (EDGE, upper + LINES - 4))
        page.paste(Image.fromarray(_heated(pixels, photo.heat)), (2 * EDGE + WIDE, upper + LINES - 4))
        upper += high + LINES + EDGE
    save_picture(page, file)


def _heated(pixels: NDArray[np.uint8], heat: NDArray[np.float64]) -> NDArray[np.uint8]:
    """The photo in grey under its heat: the stronger the colour, the more hiding that place does."""
    high, wide = pixels.shape[:2]
    strength = heat / max(float(np.abs(heat).max()), 1e-9)
    smooth = Image.fromarray(strength.astype(np.float32)).resize((wide, high), Image.Resampling.BILINEAR)
    strength = np.asarray(smooth)[:, :, None]
    grey = pixels.mean(axis=2, keepdims=True)
    colour = np.where(strength > 0, FALLS, RISES)
    mixed = grey + (colour - grey) * 0.8 * np.abs(strength)
    return np.broadcast_to(mixed, pixels.shape).round().astype(np.uint8)


def _fit(shape: tuple[int, int]) -> tuple[int, int]:
    """Height and width at which a photo fits its cell."""
    high, wide = shape
    scale = min(WIDE / wide, HIGH / high)
    return max(1, round(high * scale)), max(1, round(wide * scale))


def _write(pen: ImageDraw.ImageDraw, left: int, upper: int, text: str, colour: str, size: int) -> None:
    pen.text((left, upper), text, colour, ImageFont.load_default(size))
