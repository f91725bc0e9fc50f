"""Whether what rows name is there and fits its photo: the files, and boxes, landmarks and masks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from whalebench import one_line
from whalebench.benchmarks.core.catalog import BOX, landmark_names
from whalebench.benchmarks.core.store import PhotoFacts, photo_sizes
from whalebench.benchmarks.importing.sources import Source
from whalebench.benchmarks.importing.tables import SHOWN, Problem, Row, TextTable, is_number, problem

Missing = Literal["refuse", "quarantine"]
"""What becomes of photos that are absent."""


def resolve_paths(table: TextTable, column: str, source: Source) -> list[str]:
    """The path in each row's column, as the source has it now, "" where the cell is empty."""
    return [str(source.path(row[column])) if row.get(column) else "" for row in table.rows]


def absent_files(
    source: Source, table: TextTable, photos: list[str], masks: list[str], missing: Missing
) -> list[Problem]:
    """The rows whose photo (where that is to be refused) or mask is no file, each with its problem."""
    problems: list[Problem] = []
    for index, (photo, mask) in enumerate(zip(photos, masks, strict=True)):
        if photo and missing == "refuse" and not os.path.isfile(photo):  # noqa: PTH113 (ten times quicker)
            meant = source.spelled(table.rows[index]["path"]) if len(problems) < SHOWN else ""
            text = f"there is no such file at {one_line(photo, 120)}"
            text += f" (did you mean {meant!r}?)" if meant else ""
            text += "; correct the path, or add --missing quarantine"
            problems.append((index, problem("path", table.rows[index]["path"], text)))
        if mask and not os.path.isfile(mask):  # noqa: PTH113
            text = f"there is no such file at {one_line(mask, 120)}; correct the path or empty the cell"
            problems.append((index, problem("mask", table.rows[index]["mask"], text)))
    return problems


def misfits(table: TextTable, photos: list[str], masks: list[str], max_pixels: int) -> list[Problem]:
    """The rows whose box or landmarks leave their photo, or whose mask has another size than their photo."""
    points = landmark_names(table.columns)
    columns = ("x0", *(f"{name}_x" for name in points))
    chosen = [index for index, row in enumerate(table.rows) if masks[index] or any(map(row.get, columns))]
    sizes = photo_sizes([Path(photos[index]) for index in chosen], max_pixels=max_pixels)
    of_masks = photo_sizes([Path(masks[index]) for index in chosen], max_pixels=max_pixels)
    problems: list[Problem] = []
    for index, size, mask_size in zip(chosen, sizes, of_masks, strict=True):
        if size is None:
            continue  # an unreadable photo is quarantined later, with its reason
        row = table.rows[index]
        outside = (_box_outside(row, *size), *(_point_outside(row, name, *size) for name in points))
        problems += [(index, text) for text in outside if text]
        if mask_size and mask_size != size:
            text = f"it has {mask_size[0]}x{mask_size[1]} pixels, its photo {size[0]}x{size[1]}; replace it"
            problems.append((index, problem("mask", row["mask"], text)))
    return problems


def unclear_masks(table: TextTable, masks: Mapping[int, PhotoFacts]) -> list[Problem]:
    """The rows whose mask could mean several things, as one of labels, of colours or of dark shades."""
    text = "it does not say which of its values are the animal; make it 255 on the animal and 0 elsewhere"
    return [
        (index, problem("mask", table.rows[index]["mask"], text))
        for index, mask in masks.items()
        if "unclear" in mask.remarks
    ]


def _box_outside(row: Row, width: int, height: int) -> str:
    """The problem of a box that leaves its photo by more than half a pixel, or "" when there is none."""
    if not row.get("x0") or not all(is_number(row[column]) for column in BOX):
        return ""
    for column, least, most in (("x0", 0, width), ("y0", 0, height), ("x1", 0, width), ("y1", 0, height)):
        if not least - 0.5 <= float(row[column]) <= most + 0.5:
            text = f"the box is outside its photo of {width}x{height} pixels; correct the box"
            return problem(column, row[column], text)
    return ""


def _point_outside(row: Row, name: str, width: int, height: int) -> str:
    """The problem of a landmark further outside its photo than half the photo, or "" when there is none."""
    for axis, side in (("x", width), ("y", height)):
        value = row.get(f"{name}_{axis}", "")
        if is_number(value) and not -side / 2 <= float(value) <= 1.5 * side:
            text = f"the landmark is far outside its photo of {width}x{height} pixels; correct it"
            return problem(f"{name}_{axis}", value, text)
    return ""
