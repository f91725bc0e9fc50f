"""What can be wrong between a table's rows and the files they name, seen without decoding a photo."""

import os
import unicodedata
from pathlib import Path
from typing import Literal

from whalebench.benchmarks.importing.table_checks import box_outside, point_outside, problem
from whalebench.benchmarks.importing.table_reader import TextTable
from whalebench.benchmarks.inspection import photo_sizes
from whalebench.benchmarks.table import landmark_names

Missing = Literal["refuse", "quarantine"]


def resolve(table: TextTable, column: str, file: Path) -> list[str]:
    """The absolute path in each row's column, "" where the cell is empty; relative to the table's folder."""
    folder = file.absolute().parent
    return [_existing(folder, row[column]) if row.get(column) else "" for row in table.rows]


def _existing(folder: Path, text: str) -> str:
    """The path as it is written, or as another system would have written it where only that exists."""
    path = str(folder / text)
    if os.path.isfile(path):  # noqa: PTH113 (ten times quicker)
        return path
    slashed = text.replace("\\", "/")
    forms = (slashed, *(unicodedata.normalize(form, slashed) for form in ("NFC", "NFD")))
    others = (str(folder / form) for form in forms)
    return next((other for other in others if os.path.isfile(other)), path)  # noqa: PTH113


def absent_files(
    table: TextTable, photos: list[str], masks: list[str], missing: Missing
) -> list[tuple[int, str]]:
    """The rows whose photo (where that is to be refused) or mask is no file, each with its problem."""
    problems = []
    for index, (photo, mask) in enumerate(zip(photos, masks, strict=True)):
        if photo and missing == "refuse" and not os.path.isfile(photo):  # noqa: PTH113 (ten times quicker)
            text = f"there is no such file at {photo}; correct the path, or add --missing quarantine"
            problems.append((index, problem("path", table.rows[index]["path"], text)))
        if mask and not os.path.isfile(mask):  # noqa: PTH113
            text = f"there is no such file at {mask}; correct the path or empty the cell"
            problems.append((index, problem("mask", table.rows[index]["mask"], text)))
    return problems


def misfits(table: TextTable, photos: list[str], masks: list[str], max_pixels: int) -> list[tuple[int, str]]:
    """The rows whose box or landmarks leave their photo, or whose mask has another size than their photo."""
    points = landmark_names(table.columns)
    columns = ("x0", *(f"{name}_x" for name in points))
    chosen = [index for index, row in enumerate(table.rows) if masks[index] or any(map(row.get, columns))]
    sizes = photo_sizes([Path(photos[index]) for index in chosen], max_pixels=max_pixels)
    masked = [index for index in chosen if masks[index]]
    found = photo_sizes([Path(masks[index]) for index in masked], max_pixels=max_pixels)
    mask_sizes = dict(zip(masked, found, strict=True))
    problems = []
    for index, size in zip(chosen, sizes, strict=True):
        if size is None:
            continue  # an unreadable photo is quarantined later, with its reason
        row = table.rows[index]
        outside = (box_outside(row, *size), *(point_outside(row, name, *size) for name in points))
        problems += [(index, text) for text in outside if text]
        mask_size = mask_sizes.get(index) or size
        if mask_size != size:
            text = f"it has {mask_size[0]}x{mask_size[1]} pixels, its photo {size[0]}x{size[1]}; replace it"
            problems.append((index, problem("mask", row["mask"], text)))
    return problems
