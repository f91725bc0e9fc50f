"""Boxes that may be written in another way than as corners in pixels: read so, or refused with what fits.

What decides is a table as a whole: a single box may be anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from whalebench import WhalebenchError, one_line
from whalebench.benchmarks.core.catalog import BOX, landmark_names
from whalebench.benchmarks.core.store import PhotoFacts, photo_sizes
from whalebench.benchmarks.importing.layouts.layout import Form
from whalebench.benchmarks.importing.layouts.rows import ROUNDED, box_cells, box_in_pixels, number_cell
from whalebench.benchmarks.importing.sources import Source
from whalebench.benchmarks.importing.tables import Row, TextTable, is_number

FORMS = {
    "corners": "x0, y0, x1, y1",
    "size": "left, top, width, height (COCO)",
    "centre": "centre x, centre y, width, height (YOLO)",
}
Array = npt.NDArray[np.float64]
OTHER_NAMES: tuple[tuple[tuple[str, str, str, str], Form], ...] = (
    (("x1", "y1", "x2", "y2"), "corners"),
    (("xmin", "ymin", "xmax", "ymax"), "corners"),
    (("x_min", "y_min", "x_max", "y_max"), "corners"),
    (("left", "top", "right", "bottom"), "corners"),
    (("x", "y", "w", "h"), "size"),
    (("x", "y", "width", "height"), "size"),
    (("left", "top", "width", "height"), "size"),
    (("bbox_x", "bbox_y", "bbox_w", "bbox_h"), "size"),
    (("bbox_x", "bbox_y", "bbox_width", "bbox_height"), "size"),
    (("x_center", "y_center", "width", "height"), "centre"),
    (("x_center", "y_center", "w", "h"), "centre"),
    (("x_centre", "y_centre", "width", "height"), "centre"),
    (("x_centre", "y_centre", "w", "h"), "centre"),
)
"""What other programs call the four numbers of a box, and what they are then."""
LARGEST_SHARE = 1.5
"""No box in pixels has only numbers below; one in shares may leave its photo a bit."""
LOOKED_AT = 200
"""Photos whose sizes are read to say in which form boxes would fit."""
FEW, MOST = 5, 0.7
"""Boxes of which nobody can say that all lie in one quarter of their photos, and the share that is most."""
TINY, PER_CENT = 4, 100
"""Pixels that are no animal, and the largest number of a box in per cent."""


def on_other_names(columns: Sequence[str]) -> list[str]:
    """A note on columns that are called as boxes are elsewhere, where there are none of the catalog's names.

    Raises WhalebenchError where some of them have the catalog's names by chance.
    """
    theirs = {column.casefold(): column for column in columns}
    for names, form in OTHER_NAMES:
        if BOX[0] not in columns and set(names) <= set(theirs):
            pairs = ",".join(f"{ours}={theirs[name]}" for ours, name in zip(BOX, names, strict=True))
            said = f"look like boxes: add --column {pairs} --boxes {form}"
            if set(BOX) & set(names):
                raise WhalebenchError(f"The columns {', '.join(names)} {said}.")
            return [f"The columns {', '.join(names)} {said} to have them read."]
    return []


def check_form(form: Form, table: TextTable, place: Path) -> None:
    """Raises WhalebenchError where a form is given and the table has no boxes."""
    if form in ("size", "centre") and BOX[0] not in table.columns:
        raise WhalebenchError(
            f"{place} has no columns x0, y0, x1 and y1 for --boxes; say which they are, as --column "
            "x0=x,y0=y,x1=w,y1=h, or leave --boxes out."
        )


def as_corners(table: TextTable, form: Form) -> TextTable:
    """The table with corners for boxes of the form, in the unit that they are written in.

    Rows without four numbers stay as they are.
    """
    if form in ("", "corners"):
        return table
    boxes, places = _boxes(table.rows)
    rows = list(table.rows)
    for index, corners in zip(places, _corners(boxes, form).tolist(), strict=True):
        if all(is_number(rows[index][column]) for column in BOX):
            rows[index] = rows[index] | dict(zip(BOX, (f"{number:.12g}" for number in corners), strict=True))
    return replace(table, rows=tuple(rows))


def refuse_other_forms(source: Source, table: TextTable) -> None:
    """Raises WhalebenchError for boxes that cannot all be corners in pixels where they fit as something else.

    Those are shares of the photo, and such as end before they begin.
    """
    boxes, places = _boxes(table.rows)
    if not len(boxes):
        return
    shares = are_shares(table.rows)
    backwards = np.flatnonzero((boxes[:, 2:] <= boxes[:, :2]).any(1))
    if not shares and (len(boxes) < FEW or not len(backwards)):
        return
    chosen = np.linspace(0, len(boxes) - 1, min(len(boxes), LOOKED_AT)).astype(int)
    sizes = np.ones((len(boxes), 2)) * np.inf
    if shares:
        sizes[:] = 1
    else:
        photos = [source.path(table.rows[places[index]]["path"]) for index in chosen]
        sizes[chosen] = [size or (np.inf, np.inf) for size in photo_sizes(photos)]
    likely = _rather(boxes, sizes) if shares else ()
    fitting = likely or [form for form in FORMS if _fit(boxes, form, sizes, ROUNDED if shares else 0.5)]
    first = 0 if shares else int(backwards[0])
    shown = f"first {', '.join(f'{number:g}' for number in boxes[first])} in {table.places[places[first]]}"
    options = " or ".join(f"--boxes {form} ({FORMS[form]})" for form in fitting)
    if shares:
        add = f"; add {options}, or" if fitting else ";"
        raise WhalebenchError(
            f"{source.place}: all boxes ({len(boxes):,}) are below 1, {shown}: these look like shares of the "
            f"photo (MegaDetector, YOLO){add} multiply by its width and height."
        )
    if fitting:
        raise WhalebenchError(
            f"{source.place}: {len(backwards):,} of {len(boxes):,} boxes end before they begin, {shown}, and "
            f"all fit in another form; add {options}."
        )


def are_shares(rows: Sequence[Row], columns: Sequence[str] = BOX) -> bool:
    """Whether all numbers in these columns are shares of a photo: not above 1, or by a bit.

    A landmark at 0 or 1 may be one in pixels.
    """
    whole = {"0"} if columns is BOX else {"0", "1"}
    is_some = False
    for row in rows:
        for column in columns:
            if is_number(text := row.get(column, "")):
                if not -LARGEST_SHARE / 3 <= float(text) <= LARGEST_SHARE:
                    return False
                is_some = is_some or f"{float(text):g}" not in whole
    return is_some


def in_pixels(table: TextTable, photos: Sequence[str]) -> tuple[TextTable, list[str]]:
    """The table with boxes and landmarks in pixels, and a note, where they are shares of the photos' sides.

    A box that leaves its photo by no more than rounding ends with it. Where a photo's size cannot be read the
    cells are empty.
    """
    points = [f"{name}_{axis}" for name in landmark_names(table.columns) for axis in "xy"]
    groups = {"Boxes": BOX, "Landmarks": tuple(points)}
    shares = {what: columns for what, columns in groups.items() if are_shares(table.rows, columns)}
    if not shares:
        return table, []
    sizes = photo_sizes([Path(photo) for photo in photos])
    rows = list(table.rows)
    for columns in shares.values():
        pixels = _box_pixels if columns is BOX else _point_pixels
        for index, (row, size) in enumerate(zip(rows, sizes, strict=True)):
            given = [column for column in columns if row.get(column)]
            if all(is_number(row[column]) for column in given):
                rows[index] = row | (pixels(row, given, size) if size else dict.fromkeys(given, ""))
    notes = [f"{what} are in shares of the photo, and are read as such." for what in shares]
    return replace(table, rows=tuple(rows)), notes


def _box_pixels(row: Row, given: Sequence[str], size: tuple[int, int]) -> Row:
    if len(given) < len(BOX):
        return {}
    x0, y0, x1, y1 = (float(row[column]) for column in BOX)
    return box_cells(box_in_pixels((x0, y0, x1 - x0, y1 - y0), size))


def _point_pixels(row: Row, given: Sequence[str], size: tuple[int, int]) -> Row:
    return {column: number_cell(float(row[column]) * size[column[-1] == "y"]) for column in given}


def notes_on_boxes(rows: Sequence[Row], kept: Mapping[int, PhotoFacts], form: Form) -> Iterator[str]:
    """A sentence on boxes that are very likely no corners in pixels, of the rows in `kept`."""
    indices = sorted(kept)
    boxes, places = _boxes([rows[index] for index in indices])
    if not len(boxes):
        return
    sizes = np.array([(kept[indices[place]].width, kept[indices[place]].height) for place in places], float)
    meant = () if form else _rather(boxes, sizes)
    for other in meant:
        yield (
            f"As corners nearly all {len(boxes):,} boxes lie in one quarter of their photos, and as "
            f"{FORMS[other]} all fit, too: add --boxes {other} if that is meant, or --boxes corners if not."
        )
    small = np.flatnonzero((boxes[:, 2:] - boxes[:, :2] < TINY).any(1) & (sizes > 2 * TINY).all(1))
    if len(small):
        image = one_line(repr(rows[indices[places[small[0]]]]["image"]), 60)
        yield (
            f"{len(small):,} of {len(boxes):,} boxes are narrower than {TINY} pixels, first that of {image}: "
            "correct them if they are no corners in pixels, or say with --boxes what else they are."
        )
    if len(boxes) >= FEW and boxes.max() <= PER_CENT and (sizes >= 2 * PER_CENT).all():
        yield (
            f"No box has a number above {PER_CENT}, in photos of {sizes.min():g} pixels and more: divide "
            f"them by {PER_CENT} and add --boxes corners if they are per cent."
        )


def _rather(boxes: Array, sizes: Array) -> tuple[Form, ...]:
    """The form in which boxes fit that as corners lie in one quarter of their photos, as animals do not.

    The sum of both ends of a box is the photo's side where the box is in the middle.
    """
    if len(boxes) < FEW:
        return ()
    off = (boxes[:, :2] + boxes[:, 2:]) / sizes - 1
    margin = 0.005
    # A box that begins at the edge is the same as corners and as size there.
    upper_left = ((off < -margin) & (boxes[:, :2] > margin * sizes)).any(1)
    lower_right = (off > margin).all(1)
    tolerance = 0.005 * sizes
    if upper_left.mean() > MOST and _fit(boxes, "size", sizes, tolerance):
        return ("size",)
    return ("centre",) if lower_right.mean() > MOST and _fit(boxes, "centre", sizes, tolerance) else ()


def _boxes(rows: Sequence[Row]) -> tuple[Array, list[int]]:
    """The boxes of rows with four numbers, as (n, 4), and the places of these rows."""
    array = np.array([_numbers(row) for row in rows], float).reshape(-1, 4)
    finite = np.isfinite(array).all(1)
    return array[finite], np.flatnonzero(finite).tolist()


def _numbers(row: Row) -> tuple[float, ...]:
    try:
        return float(row["x0"]), float(row["y0"]), float(row["x1"]), float(row["y1"])
    except (KeyError, ValueError):  # no column, or no number, which another check says
        return (np.nan,) * 4


def _corners(boxes: Array, form: str) -> Array:
    start, end = boxes[:, :2], boxes[:, 2:]
    with np.errstate(over="ignore"):  # what is not finite then is refused with its row
        if form == "centre":
            start = start - end / 2
        return np.hstack([start, end if form == "corners" else start + end])


def _fit(boxes: Array, form: str, sizes: Array, tolerance: Array | float) -> bool:
    """Whether all boxes, read so, lie in their photos and are larger than nothing."""
    corners = _corners(boxes, form)
    start, end = corners[:, :2], corners[:, 2:]
    return bool(((start >= -tolerance) & (end <= sizes + tolerance) & (end > start)).all())
