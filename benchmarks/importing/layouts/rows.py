"""What layouts with boxes have in common: photos found by name, boxes in pixels, rows in one table."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import TypeGuard

from whalebench import WhalebenchError, one_line
from whalebench.benchmarks.core.catalog import BOX, NOT_IDENTIFIED, OPTIONAL_TEXT, REQUIRED, WHERE_GIVEN
from whalebench.benchmarks.core.store import photo_sizes
from whalebench.benchmarks.importing.nobody import identity_of
from whalebench.benchmarks.importing.sources import Source
from whalebench.benchmarks.importing.tables import Row, TextTable, is_date, is_number

Box = tuple[float, float, float, float]
"""Left, top, width and height."""
FIRST = (*REQUIRED, *OPTIONAL_TEXT, *WHERE_GIVEN, *BOX)
"""The columns of a table that is laid out, in this order; landmarks follow."""
PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "val", "validation"), "valid"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""What the parts of a published split are called, and what they are here."""
ROUNDED = 0.01
"""By how much a box in shares may leave its photo and still be taken for one that ends with it."""


class PhotoNames:
    """The files of a source, to be found by what annotations call them."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names: dict[str, str] = {unicodedata.normalize("NFC", name): name for name in names}
        self._alike: defaultdict[str, list[str]] = defaultdict(list)
        for name in self._names:
            self._alike[PurePosixPath(name).name].append(name)

    def find(self, text: str, folder: str = "") -> str:
        """The name of the file that a text means, written as on any system, perhaps from elsewhere.

        First below the folder, then below the source, then the one file that the text ends in or that ends
        in the text. Where there is none the text, as a name that leads nowhere else.
        Raises WhalebenchError where there are several.
        """
        said = PurePosixPath(_relative(text))
        for place in (str(PurePosixPath(folder) / said), str(said)):
            if place in self._names:
                return self._names[place]
        fits = [name for name in self._alike.get(said.name, ()) if _ends_alike(said, PurePosixPath(name))]
        if len(fits) > 1:
            shown = " and ".join(one_line(repr(name), 60) for name in sorted(fits)[:2])
            raise WhalebenchError(
                f"The photo {one_line(repr(text), 80)} may be any of {len(fits)} files, first {shown}; give "
                f"it with its folders."
            )
        return self._names[fits[0]] if fits else str(said)

    def __contains__(self, name: str) -> bool:
        return unicodedata.normalize("NFC", name) in self._names


def _relative(text: str) -> str:
    """The text with slashes, without a drive, a root, and anything up to a step upwards."""
    plain = re.sub(r"^[A-Za-z]:", "", unicodedata.normalize("NFC", text).replace("\\", "/"))
    parts = [part for part in plain.split("/") if part not in ("", ".")]
    upwards = max((place for place, part in enumerate(parts, 1) if part == ".."), default=0)
    return "/".join(parts[upwards:])


def _ends_alike(one: PurePosixPath, other: PurePosixPath) -> bool:
    shared = min(len(one.parts), len(other.parts))
    return shared > 0 and one.parts[-shared:] == other.parts[-shared:]


def box_cells(box: Box) -> Row:
    """The corners of a box as cells x0, y0, x1 and y1; a box in shares of a photo as exactly as they are.

    >>> box_cells((10, 20, 30.5, 40))
    {'x0': '10', 'y0': '20', 'x1': '40.5', 'y1': '60'}
    >>> box_cells((0.0625, 0.5, 0.25, 0.5))
    {'x0': '0.0625', 'y0': '0.5', 'x1': '0.3125', 'y1': '1'}
    """
    left, top, width, height = box
    corners = left, top, left + width, top + height
    digits = 3 if max(corners) > 2 else 9
    return dict(zip(BOX, (number_cell(number, digits) for number in corners), strict=True))


def number_cell(number: float, digits: int = 3) -> str:
    """A number as a cell, to a thousandth of a pixel, or to so many digits.

    >>> number_cell(12.0), number_cell(0.1 + 0.2), number_cell(1234567.5)
    ('12', '0.3', '1234567.5')
    """
    return f"{number:.{digits}f}".rstrip("0").rstrip(".")


def boxes_from_shares(source: Source, boxes: Sequence[tuple[str, Box]]) -> list[Row]:
    """For each photo's name and box in shares of the upright photo the cells of the box in pixels.

    They are empty where the photo is not there or its header cannot be read, which the import says itself.
    A box that leaves its photo by no more than rounding ends with it.
    """
    photos = sorted({name for name, _ in boxes} & set(source.names()))
    sizes = dict(zip(photos, photo_sizes([source.path(name) for name in photos]), strict=True))
    return [box_cells(box_in_pixels(box, size)) if (size := sizes.get(name)) else {} for name, box in boxes]


def box_in_pixels(box: Box, size: tuple[int, int]) -> Box:
    """A box in shares as one in pixels; one that leaves its photo by no more than rounding ends with it."""
    left, top, right, bottom = map(_at_the_edge, (box[0], box[1], box[0] + box[2], box[1] + box[3]))
    width, height = size
    return left * width, top * height, (right - left) * width, (bottom - top) * height


def _at_the_edge(share: float) -> float:
    return min(max(share, 0.0), 1.0) if -ROUNDED <= share <= 1 + ROUNDED else share


def four_numbers(value: object, place: str) -> Box | None:
    """The box in a list of four numbers, None where none is given or it is [0, 0, 0, 0].

    Raises WhalebenchError, naming the place, for anything else.
    """
    if value is None or value == []:
        return None
    if not isinstance(value, list) or len(value) != 4 or not all(is_plain(number) for number in value):
        raise WhalebenchError(
            f"{place} has the bbox {one_line(repr(value), 60)}, which is not four numbers; write [x, y, "
            f"width, height] or leave it out."
        )
    left, top, width, height = map(float, value)
    return (left, top, width, height) if any((left, top, width, height)) else None


def is_plain(value: object) -> TypeGuard[float]:
    """Whether a value of a JSON document is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def date_of(text: str) -> str:
    """The date as ISO 8601 writes it, "" where it is none.

    >>> date_of("2024:05:31 10:00:00"), date_of("2024/05/31"), date_of("0"), date_of("2024-05-31T10:00:00Z")
    ('2024-05-31 10:00:00', '2024-05-31', '', '2024-05-31T10:00:00Z')
    """
    iso = re.sub(r"^(\d{4})[:/](\d\d)[:/](\d\d)", r"\1-\2-\3", text.strip(), flags=re.ASCII)
    return iso if is_date(iso) else ""


def is_identified(identity: str) -> bool:
    """Whether a cell names an individual, or a *new* one; an empty one of these layouts does not.

    >>> is_identified("Unknown"), is_identified(""), is_identified("ann"), is_identified("new_whale")
    (False, False, True, True)
    """
    return bool(identity) and identity_of(identity) != NOT_IDENTIFIED


def name_images(rows: Sequence[Row], marks: Sequence[str]) -> None:
    """Gives each row its image id: the photo's path, and #mark behind it where a photo has several rows."""
    times = Counter(row["path"] for row in rows)
    for row, mark in zip(rows, marks, strict=True):
        row["image"] = row["path"] if times[row["path"]] == 1 else f"{row['path']}#{mark}"


def table_of(rows: Sequence[Mapping[str, str]], places: Sequence[str]) -> TextTable:
    """The table of rows that have some of the catalog's columns; a column that no row fills is left out."""
    filled = {column for row in rows for column, cell in row.items() if cell}
    landmarks = sorted(filled - set(FIRST))
    pairs = {f"{name[:-1]}{axis}" for name in landmarks for axis in "xy"}  # never half a landmark
    columns = (*(name for name in FIRST if name in filled or name in REQUIRED), *sorted(pairs))
    return TextTable(
        columns, tuple({column: row.get(column, "") for column in columns} for row in rows), tuple(places)
    )


def numbers_in(text: str) -> list[float] | None:
    """The numbers of a list that is written as text, by Python or numpy; None where it is no such list.

    >>> numbers_in("[1, 2.5]"), numbers_in("[1. 2.]"), numbers_in("a"), numbers_in("[]")
    ([1.0, 2.5], [1.0, 2.0], None, [])
    """
    inner = re.fullmatch(r"[\[(](.*)[\])]", text.strip(), re.DOTALL)
    cells = re.split(r"[,\s]+", inner[1].strip()) if inner and inner[1].strip() else []
    return [float(cell) for cell in cells] if inner and all(map(is_number, cells)) else None
