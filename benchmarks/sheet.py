"""Pictures made of photos: how they are written, and the contact sheet that shows a catalog at one glance."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont, ImageOps

from whalebench import WhalebenchError
from whalebench.benchmarks.core.store import MAX_PIXELS, open_photo, pixel_limit
from whalebench.benchmarks.core.workspace import atomic_path

if TYPE_CHECKING:
    import pandas as pd


SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}

PAPER, INK, PALE, _FRAME = "#f7f5f0", "#1d2b36", "#6d7a83", "#e6e2d8"
_GAP, _TITLE, _LABEL, _CAPTION = 10, 40, 34, 20


def picture_format(file: Path, what: str = "picture") -> str:
    """The format that the name of a picture asks for; raises WhalebenchError for another suffix."""
    if file.suffix.lower() not in SUFFIXES:
        raise WhalebenchError(
            f"A {what} cannot be written as {file.name!r}: give a name that ends in .png or .jpg."
        )
    return SUFFIXES[file.suffix.lower()]


def save_picture(picture: Image.Image, file: Path, what: str = "picture") -> None:
    """Writes a picture to a file, whole or not at all; raises WhalebenchError where it cannot be written."""
    try:
        with atomic_path(file) as part:
            picture.save(part, picture_format(file, what))
    except OSError as error:
        raise WhalebenchError(
            f"The {what} cannot be written to {file} ({error.strerror}): name a writable folder."
        ) from error


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
    """The label and the photos of each row of the sheet: the best known individuals first, *new* last."""
    encounter = table["encounter"] if "encounter" in table else table["image"]
    table = table.assign(encounter=encounter.where(encounter != "", table["image"]))
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
        self._text(2 * _GAP, _GAP + 4, title, INK, 24)
        for number, (label, photos) in enumerate(chosen):
            self._text(2 * _GAP, upper + number * row + 8, label, INK, 17)
            for column, photo in enumerate(photos.to_dict("records")):
                left = 2 * _GAP + column * (cell + _GAP)
                self._photo(left, upper + number * row + _LABEL, {str(key): photo[key] for key in photo})

    def _photo(self, left: int, upper: int, photo: dict[str, object]) -> None:
        wide, high = self._cell
        self._pen.rectangle((left, upper, left + wide - 1, upper + high - 1), _FRAME)
        try:
            with pixel_limit(MAX_PIXELS), open_photo(Path(str(photo["path"]))) as stored:
                fitted = ImageOps.contain(ImageOps.exif_transpose(stored).convert("RGB"), self._cell)
        except OSError as error:
            raise WhalebenchError(
                f"Photo {photo['image']} cannot be read from {photo['path']}: put it back, or import again."
            ) from error
        self.sheet.paste(fitted, (left + (wide - fitted.width) // 2, upper + (high - fitted.height) // 2))
        caption = "  ".join(str(photo[key]) for key in ("image", "date") if photo.get(key))
        self._text(left, upper + high + 3, caption, PALE, 12)

    def _text(self, left: int, upper: int, text: str, colour: str, size: int) -> None:
        self._pen.text((left, upper), text, colour, ImageFont.load_default(size))
