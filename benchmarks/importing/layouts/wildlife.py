"""The layout `wildlife`: a metadata table of the wildlife-datasets package, with the photos that it names.

Columns image_id, identity, path; bbox is [x, y, width, height] in pixels, an unidentified animal is "unknown"
(https://wildlifedatasets.github.io/wildlife-datasets/dataframe/).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from whalebench import WhalebenchError, one_line
from whalebench.benchmarks.core.catalog import NOT_IDENTIFIED
from whalebench.benchmarks.importing.layouts.layout import LaidOut, Layout, LayoutOptions
from whalebench.benchmarks.importing.layouts.rows import (
    PARTS,
    PhotoNames,
    box_cells,
    date_of,
    is_identified,
    number_cell,
    numbers_in,
    table_of,
)
from whalebench.benchmarks.importing.sources import Source
from whalebench.benchmarks.importing.tables import Row, TextTable, read_table

NEEDED = ("image_id", "identity", "path")
OTHERS = ("bbox", "date", "encounter", "video", "orientation", "position", "species", "keypoints")
PARTED = ("original_split", "split")
"""The columns of a published split, the first one counts."""
READ = (*NEEDED, *OTHERS, *PARTED, "segmentation", "dataset")
KNOWN = ("metadata.csv", "annotations.csv")
"""What the table is called where there are several."""
NOTHING = {"nan", "none", "null", "[]", "nat"}
"""Cells in which nothing stands, as pandas writes them."""
SHOWN = 8
"""Columns that are not read which one note names."""


def read(source: Source, options: LayoutOptions) -> LaidOut:
    """One row a row of the table.

    Raises WhalebenchError where no table has the columns image_id, identity and path, or several have, and
    where it identifies no animal.
    """
    name, table = _table(source)
    photos = PhotoNames(source.names())
    counts: Counter[str] = Counter()
    rows: list[Row] = []
    places: list[str] = []
    points = _point_form([numbers_in(_cell(row, "keypoints")) for row in table.rows])
    parts = _parts(table)
    for row, place in zip(table.rows, table.places, strict=True):
        where = f"{name}, {place}"
        cells = _cells(row, where, photos, str(PurePosixPath(name).parent))
        cells["split"] = parts.get(_part_cell(row), "")
        cells["species"] = cells["species"] or options.species
        counts["dates"] += bool(_cell(row, "date")) and not cells["date"]
        counts["outlines"] += bool(_cell(row, "segmentation")) and not cells["mask"]
        rows.append(cells | _landmarks(_cell(row, "keypoints"), points))
        places.append(where)
    if not any(is_identified(row["identity"]) for row in rows):
        raise WhalebenchError(
            f"{name} in {source.place} identifies no animal; give one whose identity is known."
        )
    notes = (*_notes(counts), *_unread(table, points, parts))
    return LaidOut(table_of(rows, places), notes, _dataset(table))


def _table(source: Source) -> tuple[str, TextTable]:
    """The name of the table and its rows."""
    names = [name for name in source.names() if name.lower().endswith(".csv")]
    known = [name for name in names if PurePosixPath(name).name in KNOWN]
    tables = {name: read_table(source.path(name), READ) for name in known or names[:SHOWN]}
    fitting = {name: table for name, table in tables.items() if set(NEEDED) <= set(table.columns)}
    if not fitting:
        raise WhalebenchError(
            f"{source.place} has no table of wildlife-datasets: none of its {len(names)} .csv files has the "
            f"columns {', '.join(NEEDED)}; write the dataframe to metadata.csv."
        )
    if len(fitting) > 1:
        shown = " and ".join(one_line(name, 60) for name in list(fitting)[:2])
        raise WhalebenchError(
            f"{source.place} has {len(fitting)} tables with the columns {', '.join(NEEDED)}, {shown}; leave "
            f"one of them there."
        )
    return next(iter(fitting.items()))


def _cell(row: Row, column: str) -> str:
    text = row.get(column, "").strip()
    return "" if text.casefold() in NOTHING else text


def _cells(row: Row, where: str, photos: PhotoNames, folder: str) -> Row:
    """The cells of a row by the catalog's columns, without landmarks and part."""
    mask = photos.find(_cell(row, "segmentation"), folder) if _is_name(_cell(row, "segmentation")) else ""
    video = _cell(row, "video")
    return {
        "image": _cell(row, "image_id"),
        "path": photos.find(row["path"], folder),
        "identity": _cell(row, "identity") or NOT_IDENTIFIED,
        "encounter": _cell(row, "encounter") or (f"video {video}" if video else ""),
        "date": date_of(_cell(row, "date")),
        "viewpoint": _cell(row, "orientation") or _cell(row, "position"),
        "species": _cell(row, "species"),
        "mask": mask if mask in photos else "",
        **_box(_cell(row, "bbox"), where),
    }


def _is_name(text: str) -> bool:
    """Whether a segmentation is the name of a mask and no list of points or run lengths."""
    return bool(text) and text[0] not in "[({" and bool(PurePosixPath(text).suffix)


def _box(text: str, where: str) -> Row:
    numbers = numbers_in(text) if text else []
    if numbers is None or len(numbers) not in (0, 4):
        raise WhalebenchError(
            f"{where} has the bbox {one_line(repr(text), 60)}, which is not [x, y, width, height]; correct "
            f"it or leave it empty."
        )
    return box_cells((numbers[0], numbers[1], numbers[2], numbers[3])) if numbers else {}


def _part_cell(row: Row) -> str:
    return next((cell for column in PARTED if (cell := _cell(row, column))), "")


def _parts(table: TextTable) -> dict[str, str]:
    """The parts that the table's words mean, none where a row has no word or one that is no part's."""
    words = {_part_cell(row) for row in table.rows if is_identified(_cell(row, "identity"))}
    return (
        {word: PARTS[word.casefold()] for word in words}
        if {w.casefold() for w in words} <= set(PARTS)
        else {}
    )


def _point_form(lists: Sequence[list[float] | None]) -> int:
    """How many numbers a keypoint has: 3 where each third one is 0, 1 or 2, else 2; 0 where neither fits."""
    given = [numbers for numbers in lists if numbers]
    if not given or len({len(numbers) for numbers in given}) > 1:
        return 0
    length = len(given[0])
    if length % 3 == 0 and all(set(numbers[2::3]) <= {0, 1, 2} for numbers in given):
        return 3
    return 2 if length % 2 == 0 else 0


def _landmarks(text: str, form: int) -> Row:
    """The cells of keypoints, which have numbers only; one whose third number is 0 is not there."""
    numbers = (numbers_in(text) or []) if form else []
    cells: Row = {}
    for number, place in enumerate(range(0, len(numbers), form or 1), 1):
        if form == 2 or numbers[place + 2]:
            cells[f"point{number}_x"] = number_cell(numbers[place])
            cells[f"point{number}_y"] = number_cell(numbers[place + 1])
    return cells


def _dataset(table: TextTable) -> str:
    names = {_cell(row, "dataset") for row in table.rows}
    return names.pop() if len(names) == 1 else ""


def _notes(counts: Counter[str]) -> Iterator[str]:
    for what, sentence in {
        "dates": "Dates that are none of ISO 8601 and are left out: {}.",
        "outlines": "Segmentations that are no file of a mask and are not read: {}.",
    }.items():
        if counts[what]:
            yield sentence.format(f"{counts[what]:,}")


def _unread(table: TextTable, points: int, parts: dict[str, str]) -> Iterator[str]:
    """What the columns of the table hold and no column of the catalog."""
    others = [column for column in table.columns if column and column not in READ]
    if others:
        more = f" and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
        yield f"Columns that are not read: {one_line(', '.join(others[:SHOWN]))}{more}."
    if points:
        yield f"The keypoints have no names and are called point1, point2 and so on ({points} numbers each)."
    elif any(numbers_in(_cell(row, "keypoints")) for row in table.rows):
        yield "The keypoints are not read: rows have different numbers of them, or neither x, y nor x, y, v."
    if not parts and any(map(_part_cell, table.rows)):
        yield "The published split is not read, as not every row says train, valid or test."


EXAMPLE = """\
metadata.csv
  image_id,identity,path,bbox,date,orientation
  1,ann,images/a.jpg,"[4, 3, 20, 10]",2024-05-31,left
  2,bob,images/b.jpg,"[8, 5, 20, 10]",2024-06-01,right
images/a.jpg
images/b.jpg
"""

LAYOUT = Layout(
    "wildlife",
    "a metadata table of wildlife-datasets: image_id, identity, path, bbox [x, y, width, height] in pixels",
    EXAMPLE,
    read,
)
