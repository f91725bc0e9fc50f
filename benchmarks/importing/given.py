"""Several animals in one photo: the box of a row says which one is asked about, so the row is that part.

A box is given then: a part of the question, which a method sees as it sees the photo, and no annotation of
test photos that it would have to find by itself.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import pandas as pd

from whalebench import WhalebenchError
from whalebench.benchmarks.core.catalog import BOX, NOT_IDENTIFIED, REGION, SIZE, Region, landmark_names
from whalebench.benchmarks.importing.tables import Problem, Row, TextTable, is_number, problem

Given = Literal["auto", "box", "none"]
"""Whether boxes are given: where files have rows that only their boxes tell apart, always, or never."""
TWO = 2


def given_regions(table: TextTable, photos: Sequence[str], given: Given) -> list[Region | None]:
    """The part of its file that each row is, and None for the whole one; photos are the rows' files.

    By `auto` rows are parts where any file has rows with different boxes, or with one box and different
    names. Raises WhalebenchError where boxes are to be given and no row has one.
    """
    regions = [_region(row) for row in table.rows]
    if given == "box" and not any(regions):
        raise WhalebenchError(
            "--given box takes each photo to be the part within its box, but no row has x0, y0, x1 and y1; "
            "add them, or leave out --given."
        )
    files = _shared(photos).values()
    several = (len({regions[index] for index in rows} - {None}) > 1 for rows in files)
    if given == "none" or (given == "auto" and not any(several) and not any(_alike(table, photos, regions))):
        return [None] * len(regions)
    return regions


def unclear(table: TextTable, photos: Sequence[str], regions: Sequence[Region | None]) -> list[Problem]:
    """The rows, where boxes are given, of which their box does not tell which animal they ask about."""
    if not any(regions):
        return []
    problems = []
    for index in _alike(table, photos, regions):
        text = "another row of its file has this box and another name, so which animal it asks about cannot "
        text += "be told; correct one of them, or add --given none"
        problems.append((index, problem("x0", table.rows[index]["x0"], text)))
    for rows in _shared(photos).values():
        asked = _asked(table, rows)
        without = [index for index in asked if regions[index] is None]
        for index in without if len(_names(table, asked)) > 1 else ():
            text = "its file has several rows and this one no box, so which animal it asks about cannot be "
            text += "told; fill x0, y0, x1 and y1, or add --given none"
            problems.append((index, problem("x0", "", text)))
    return problems


def notes_on_boxes(table: TextTable, photos: Sequence[str], regions: Sequence[Region | None]) -> list[str]:
    """What becomes of photos of several animals: that boxes are given, or how far whole photos can get."""
    if any(regions):
        parts = [photo for photo, region in zip(photos, regions, strict=True) if region]
        return [
            f"Boxes are given: {len(parts):,} rows are the parts of {len(set(parts)):,} files within their "
            f"boxes, and those of one file share a group in every split; --given none takes photos whole."
        ]
    files = [_asked(table, rows) for rows in _shared(photos).values()]
    several = [rows for rows in files if told_apart([table.rows[index] for index in rows])]
    several = [rows for rows in several if len(_names(table, rows)) > 1]
    if not several:
        return []
    most = sum(max(Counter(table.rows[index]["identity"] for index in rows).values()) for rows in several)
    all_rows = len(_asked(table, range(len(photos))))
    bound = (all_rows - sum(map(len, several)) + most) / all_rows
    count, both = ("two", "both") if all(len(rows) == TWO for rows in several) else ("several", "all")
    return [
        f"{len(several):,} photos show {count} annotated animals each ({count} rows of one file with "
        f"different boxes): whole-photo methods give {both} rows the same answer, so top-1 cannot exceed "
        f"{math.ceil(bound * 1000) / 1000:g}."
    ]


def told_apart(rows: Sequence[Row]) -> bool:
    """Whether several rows are of one file, and each has a box that no other has."""
    boxes = [tuple(row.get(column, "") for column in BOX) for row in rows]
    one_file = len({row["path"] for row in rows}) == 1
    return one_file and all(map(all, boxes)) and len(set(boxes)) == len(boxes) > 1


def in_parts(frame: pd.DataFrame, regions: Sequence[Region | None]) -> pd.DataFrame:
    """Rows of a catalog with boxes and landmarks in the frames of their parts; the same where none is one.

    The box of a part is all of it, as wide and high as it was found to be.
    """
    if not any(regions):
        return frame
    is_part = np.array([region is not None for region in regions])
    corner = np.array([region[:2] if region else (0, 0) for region in regions], np.float64)
    size = frame[list(SIZE)].to_numpy(np.float64)
    columns = {
        f"{name}_{axis}": pd.to_numeric(frame[f"{name}_{axis}"]) - corner[:, place]
        for name in landmark_names(frame.columns)
        for place, axis in enumerate("xy")
    }
    places = np.where(is_part[:, None], np.hstack([corner, corner + size]), np.nan)
    whole = np.hstack([np.zeros_like(size), size])
    for place, column in enumerate(BOX):
        columns[column] = pd.to_numeric(frame[column]).where(~is_part, whole[:, place])
    return frame.assign(**columns, **dict(zip(REGION, places.T, strict=True)))


def _region(row: Row) -> Region | None:
    """The whole pixels that a row's box touches, None for no box."""
    cells = [row.get(column, "") for column in BOX]
    if not all(map(is_number, cells)):
        return None
    left, top, right, bottom = map(float, cells)
    return max(0, math.floor(left)), max(0, math.floor(top)), math.ceil(right), math.ceil(bottom)


def _shared(photos: Sequence[str]) -> dict[str, list[int]]:
    """The rows of each file that has several."""
    rows_of: dict[str, list[int]] = defaultdict(list)
    for index, photo in enumerate(photos):
        rows_of[photo].append(index)
    return {photo: rows for photo, rows in rows_of.items() if photo and len(rows) > 1}


def _asked(table: TextTable, rows: Sequence[int]) -> list[int]:
    """Those of the rows that ask who the animal is: of one that nobody has identified no answer is known."""
    return [index for index in rows if table.rows[index]["identity"] != NOT_IDENTIFIED]


def _names(table: TextTable, rows: Sequence[int]) -> set[str]:
    return {table.rows[index]["identity"] for index in rows}


def _alike(table: TextTable, photos: Sequence[str], regions: Sequence[Region | None]) -> Iterator[int]:
    """The rows that have the box of a row before, of the same file, and another name."""
    for rows in _shared(photos).values():
        first: dict[Region, str] = {}
        for index in _asked(table, rows):
            name = table.rows[index]["identity"]
            if (region := regions[index]) and first.setdefault(region, name) != name:
                yield index
