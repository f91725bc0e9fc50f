"""Published annotations: boxes and points in the forms in which they were published, brought to pixels."""

from __future__ import annotations

import json
import math
import posixpath
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from whalebench import WhalebenchError, one_line
from whalebench.benchmarks.core.catalog import BOX
from whalebench.benchmarks.core.store import photo_sizes
from whalebench.benchmarks.importing.layouts.published import Cells
from whalebench.benchmarks.importing.sources import Source
from whalebench.benchmarks.importing.tables import NUMBER, Row, is_number, problem, read_table

Sizes = Mapping[str, tuple[int, int]]
"""Width and height of photos, by image; none of those that are not at hand."""
IMAGES = ("Image", "image", "filename")
CORNER = ("x", "y", "width", "height")
"""Pixels: the upper left corner and the size."""
SHARES = ("x", "y", "w", "h")
"""Shares of the photo: the centre and the size."""
TEXTS = ("bbox", "box")
"""Columns with a whole box, as [[x0 y0 x1 y1]] or x0 y0 x1 y1; of several boxes the first is taken."""


def read_boxes(source: Source, name: str, sizes: Callable[[], Sizes]) -> Cells:
    """The boxes of a published table or of a .json list of annotations, as x0, y0, x1 and y1 in pixels.

    Those in shares need sizes, which are asked for then only. Raises WhalebenchError for another form.
    """
    if name.casefold().endswith(".json"):
        found = {image: marks[0] for image, marks in read_marks(source, name, boxes=True).items()}
        return {image: _box(x, y, x + width, y + height) for image, (x, y, width, height) in found.items()}
    table = read_table(source.path(name), {*IMAGES, *BOX, *CORNER, *SHARES, *TEXTS})
    forms = (BOX, CORNER, SHARES, *((text,) for text in TEXTS))
    form = next((form for form in forms if set(form) <= set(table.columns)), ())
    image = next((column for column in IMAGES if column in table.columns), "")
    if not form or not image:
        raise WhalebenchError(
            f"{source.place}: {name} has the columns {one_line(', '.join(table.columns), 60)}; boxes are "
            f"read from Image,x0,y0,x1,y1, Image,x,y,width,height, image,bbox, or filename,x,y,w,h in shares."
        )
    by_image = sizes() if form == SHARES else {}
    boxes: Cells = {}
    for row, place in zip(table.rows, table.places, strict=True):
        values = _cells(row, form, f"{source.place}: {name}, {place}")
        if form == SHARES:
            values = _in_pixels(values, by_image.get(row[image]))
        elif form == CORNER and values:
            values = (values[0], values[1], values[0] + values[2], values[1] + values[3])
        if values:
            boxes[row[image]] = _box(*values)
    return boxes


def read_points(
    source: Source, name: str, columns: Mapping[str, tuple[str, str]], sizes: Sizes | None = None
) -> Cells:
    """The points of a published table in pixels; columns says by landmark where its x and its y stand.

    With sizes they stand as shares of the photo, and those of photos without a size are absent, as is a point
    without a number. Raises WhalebenchError where a column is absent.
    """
    wanted = [column for pair in columns.values() for column in pair]
    table = read_table(source.path(name), {*IMAGES, *wanted})
    image = next((column for column in IMAGES if column in table.columns), "")
    if absent := [column for column in (image or "Image", *wanted) if column not in table.columns]:
        raise WhalebenchError(
            f"{source.place}: {name} has no column {absent[0]!r}; give the table as published."
        )
    points: Cells = {}
    for row, place in zip(table.rows, table.places, strict=True):
        width, height = (1, 1) if sizes is None else sizes.get(row[image], (0, 0))
        for landmark, pair in columns.items():
            values = _cells(row, pair, f"{source.place}: {name}, {place}")
            if values and width:
                x, y = values
                points.setdefault(row[image], {}).update(point(landmark, x * width, y * height))
    return points


def read_marks(source: Source, name: str, *, boxes: bool = False) -> dict[str, list[tuple[float, ...]]]:
    """The points (x, y) of a .json list of annotations by photo, or its boxes (x, y, width, height).

    The form is that of the labelling tool sloth: [{"filename": ..., "annotations": [{"x": ..., "y": ...}]}].
    Raises WhalebenchError for another one.
    """
    keys = ("x", "y", "width", "height") if boxes else ("x", "y")
    try:
        return {
            posixpath.basename(photo["filename"]): marks
            for photo in json.loads(source.read(name))
            if (
                marks := [
                    tuple(float(mark[key]) for key in keys)
                    for mark in photo["annotations"]
                    if ("width" in mark) == boxes
                ]
            )
        }
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise WhalebenchError(
            f"{source.place}: {name} is no list of annotations ({one_line(repr(error), 80)}); give it as "
            f"it was published."
        ) from error


def point(landmark: str, x: float, y: float) -> dict[str, str]:
    """The cells of a landmark."""
    return {f"{landmark}_x": _text(x), f"{landmark}_y": _text(y)}


def sizes_of(source: Source, photos: Mapping[str, str]) -> Sizes:
    """The sizes of the photos that are at hand; photos are names in the source, by image."""
    names = set(source.names())
    there = [image for image, name in photos.items() if name in names]
    found = photo_sizes([Path(source.path(photos[image])) for image in there])
    return {image: size for image, size in zip(there, found, strict=True) if size}


def fitting(cells: Cells, sizes: Sizes) -> tuple[Cells, list[str]]:
    """The annotations, or none and a note where most leave their photos, as on copies of another size.

    Those that would stay inside are wrong on such copies, too.
    """
    annotated = [image for image in sizes if cells.get(image)]
    larger = [image for image in annotated if _leaves(cells[image], *sizes[image])]
    if len(larger) * 2 <= len(annotated):
        return cells, []
    width, height = sizes[larger[0]]
    note = (
        f"Boxes and points are left out: those of {len(larger):,} of {len(annotated):,} photos leave them, "
        f"first of {one_line(larger[0], 40)} with {width}x{height} pixels, as where copies of the published "
        f"photos were resized or cropped."
    )
    return {image: {} for image in cells}, [note]


def _leaves(cells: Mapping[str, str], width: int, height: int) -> bool:
    """Whether a box or point is more than a pixel to the right of a photo, or below it."""
    ends = {"x": width, "x1": width, "y": height, "y1": height}
    return any(
        float(value) > ends.get(column.split("_")[-1], math.inf) + 1 for column, value in cells.items()
    )


def _cells(row: Row, columns: Sequence[str], place: str) -> tuple[float, ...]:
    """The numbers of some cells, or none where they are empty."""
    if columns[0] in TEXTS:
        found = [match[0] for match in NUMBER.finditer(row[columns[0]])][:4]
        if len(found) not in (0, 4):
            text = "a box has four numbers; correct or empty it"
            raise WhalebenchError(f"{place}, {problem(columns[0], row[columns[0]], text)}.")
        return tuple(map(float, found))
    if not any(row[column] for column in columns):
        return ()
    for column in columns:
        if not is_number(row[column]):
            text = "it is not a number; correct it, or empty all cells of the annotation"
            raise WhalebenchError(f"{place}, {problem(column, row[column], text)}.")
    return tuple(float(row[column]) for column in columns)


def _in_pixels(shares: tuple[float, ...], size: tuple[int, int] | None) -> tuple[float, ...]:
    """Left, top, right and bottom of a box, cut to its photo; none of a photo that is not at hand."""
    if not shares or not size:
        return ()
    x, y, w, h = shares
    ends = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
    return tuple(min(max(end, 0), 1) * side for end, side in zip(ends, size * 2, strict=True))


def _box(*values: float) -> dict[str, str]:
    return {column: _text(value) for column, value in zip(BOX, values, strict=True)}


def _text(value: float) -> str:
    return repr(value).removesuffix(".0")
