"""Tables of photos: .csv, .tsv and .parquet read as texts, and what is wrong with their rows and files.

Each problem is a sentence with place, value and remedy. No photo is decoded for it.
"""

import csv
import io
import math
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

import pandas as pd

from whalebench import WhalebenchError
from whalebench.benchmarks.core.catalog import (
    BOX,
    DIGESTS,
    OPTIONAL_TEXT,
    PARTS,
    REQUIRED,
    SIZE,
    landmark_names,
)
from whalebench.benchmarks.core.store import photo_sizes

Row = dict[str, str]
Problem = tuple[int, str]
"""The index of a row, and what is wrong with it."""
Missing = Literal["refuse", "quarantine"]

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
NOT_A_NUMBER = ("nan", "inf", "infinity", "none", "null", "na", "n/a")
NOBODY = {"#n/a", "unknown", "unk", "?", "-", "new", "new_whale", "new_individual"}
NOTHING = {"#n/a", "nan", "none", "null", "na", "n/a"}
NO_ENCOUNTER = {"unknown", "unk", "?", "-"}
SHOWN = 20
"""How many problems of a table one error lists."""


@dataclass(frozen=True)
class TextTable:
    """Rows as texts, "" where nothing stands."""

    columns: tuple[str, ...]
    """The column names in the file's order."""
    rows: tuple[dict[str, str], ...]
    """One dictionary a row, by column."""
    places: tuple[str, ...]
    """Where each row stands in the file, such as "line 3"."""


def read_table(file: Path) -> TextTable:
    """The rows of a .csv, .tsv or .parquet file as texts without surrounding blanks.

    A missing number of a .parquet file becomes "", like an empty cell of a .csv file.
    """
    suffix = file.suffix.lower()
    if suffix not in (".csv", ".tsv", ".parquet"):
        raise WhalebenchError(f"{file} is no table that can be read; give a .csv, .tsv or .parquet file.")
    if file.is_dir():
        raise WhalebenchError(f"{file} is a folder; give the table's file.")
    if not file.exists():
        raise WhalebenchError(f"The table {file} does not exist; check its path.")
    table = _read_parquet(file) if suffix == ".parquet" else _read_text(file)
    for column, times in Counter(table.columns).items():
        if not column:
            raise WhalebenchError(
                f"{file} has a column without a name that is not empty; name it or remove it."
            )
        if times > 1:
            raise WhalebenchError(f"{file} has {times} columns {column!r}; keep one of them.")
    if not table.rows:
        raise WhalebenchError(f"{file} has no rows; give a header line and one line for each photo.")
    return table


def _read_text(file: Path) -> TextTable:
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            text = opened.read()
    except UnicodeDecodeError as error:
        raise WhalebenchError(
            f"{file} is not UTF-8 text (byte {error.start}: {error.reason}); save it as CSV UTF-8."
        ) from error
    except OSError as error:
        raise WhalebenchError(f"{file} cannot be read ({error.strerror}); check its permissions.") from error
    if "\0" in text:
        raise WhalebenchError(f"{file} holds NUL characters, so it is no text table; save it as UTF-8.")
    header = text.partition("\n")[0]
    # Spreadsheets in countries with a decimal comma write semicolons.
    comma = ";" if ";" in header and "," not in header else ","
    try:
        lines = list(_lines(text, "\t" if file.suffix.lower() == ".tsv" else comma))
    except csv.Error as error:
        raise WhalebenchError(f"{file} is a broken table: {error}; write it again.") from error
    if not lines:
        raise WhalebenchError(f"{file} is empty; give a header line and one line for each photo.")
    lines = _without_empty_columns(lines)
    columns = tuple(lines[0][1])
    for number, cells in lines[1:]:
        if len(cells) != len(columns):
            raise WhalebenchError(
                f"{file} has {len(cells)} cells in line {number} but {len(columns)} in its header; "
                "add or remove cells, and put a cell that holds a separator in double quotes."
            )
    rows = tuple(dict(zip(columns, cells, strict=True)) for _, cells in lines[1:])
    return TextTable(columns, rows, tuple(f"line {number}" for number, _ in lines[1:]))


def _lines(text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """The non-empty rows, each with the line it starts on."""
    reader = csv.reader(io.StringIO(text), delimiter=separator)
    start = 1
    for cells in reader:
        stripped = [cell.strip() for cell in cells]
        if any(stripped):
            yield start, stripped
        start = reader.line_num + 1


def _without_empty_columns(lines: list[tuple[int, list[str]]]) -> list[tuple[int, list[str]]]:
    """The lines without the nameless empty cells that spreadsheets leave at the right."""
    named = max((place for place, name in enumerate(lines[0][1], 1) if name), default=0)
    ends = (max((place for place, cell in enumerate(cells, 1) if cell), default=0) for _, cells in lines)
    return [(number, cells[: max(named, end)]) for (number, cells), end in zip(lines, ends, strict=True)]


def _read_parquet(file: Path) -> TextTable:
    try:
        frame = pd.read_parquet(file)
    except (OSError, ValueError, TypeError) as error:
        raise WhalebenchError(f"{file} is no readable Parquet file ({error}); write it again.") from error
    columns = tuple(str(column) for column in frame.columns)
    texts = [_texts(frame.iloc[:, position]) for position in range(len(columns))]
    rows = tuple(dict(zip(columns, cells, strict=True)) for cells in zip(*texts, strict=True))
    return TextTable(columns, rows, tuple(f"row {number}" for number in range(1, len(rows) + 1)))


def _texts(values: "pd.Series[str]") -> list[str]:
    absent = values.isna().tolist()
    return ["" if gone else _text(value) for value, gone in zip(values.tolist(), absent, strict=True)]


def _text(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # a column of whole numbers with a gap is read as floats
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    return str(value).strip()


def check_columns(table: TextTable, file: Path) -> list[str]:
    """Notes on the columns that are not read; a needed column that is absent is an error."""
    known = {*REQUIRED, *OPTIONAL_TEXT, *BOX, "split"}
    for column in REQUIRED:
        if column not in table.columns:
            raise WhalebenchError(
                f"{file} has no column {column!r}, only {', '.join(table.columns)}"
                f"{_meant(column, set(table.columns) - known)}; add the column or rename one."
            )
    _refuse_halves(table, file)
    points = {f"{name}_{axis}" for name in landmark_names(table.columns) for axis in "xy"}
    notes = []
    for column in table.columns:
        if column in (*SIZE, *DIGESTS):
            notes.append(f"The column {column!r} is not read: it is measured from the photos.")
        elif column not in known | points:
            notes.append(f"The column {column!r} is not read{_meant(column, known - set(table.columns))}.")
    return notes


def number_columns(table: TextTable) -> dict[str, str]:
    """For each column of numbers what it belongs to: "box" or the landmark's name."""
    points = {f"{name}_{axis}": f"landmark {name}" for name in landmark_names(table.columns) for axis in "xy"}
    return points | (dict.fromkeys(BOX, "box") if BOX[0] in table.columns else {})


def _refuse_halves(table: TextTable, file: Path) -> None:
    absent = [column for column in BOX if column not in table.columns]
    if 0 < len(absent) < len(BOX):
        raise WhalebenchError(
            f"{file} has half a box: no column {absent[0]!r}; a box needs x0, y0, x1 and y1."
        )
    for column in table.columns:
        other = column[:-1] + {"x": "y", "y": "x"}.get(column[-1:], "")
        if column[-2:] in ("_x", "_y") and other not in table.columns:
            raise WhalebenchError(f"{file} has {column!r} without {other!r}; add it or rename the column.")


def _meant(name: str, options: set[str]) -> str:
    lower = {option.lower(): option for option in sorted(options)}
    close = get_close_matches(name.lower(), lower, n=1, cutoff=0.7)
    return f" (did you mean {lower[close[0]]!r}?)" if close else ""


def check_rows(table: TextTable, wholes: dict[str, str]) -> list[Problem]:
    """All problems of the rows that can be seen without opening a photo, each with its row's index.

    `wholes` are the columns of numbers, each with the box or landmark it is a part of.
    """
    problems: list[Problem] = []
    first: dict[str, str] = {}
    for index, (row, place) in enumerate(zip(table.rows, table.places, strict=True)):
        image = row["image"]
        if image and image in first:
            text = f"this image id was given before, at {first[image]}; give each photo its own"
            text += ", for example its path"
            problems.append((index, problem("image", image, text)))
        first.setdefault(image, place)
        texts = [*_text_problems(row), *_number_problems(row, wholes), *_box_order(row)]
        problems += [(index, text) for text in texts]
    return problems


def _text_problems(row: Row) -> Iterator[str]:
    for column in ("image", "path"):
        if not row[column]:
            yield problem(column, "", "it is empty; fill it or remove the row")
    if row["identity"].casefold() in (NOBODY | set(NOT_A_NUMBER)):
        text = "this is no individual's name; leave the cell empty when it is none of the catalog's"
        yield problem("identity", row["identity"], text)
    for column in ("encounter", "viewpoint", "species"):
        if row.get(column, "").casefold() in NOTHING | (NO_ENCOUNTER if column == "encounter" else set()):
            text = "this names nothing, and photos that share it would count as one; leave the cell empty"
            yield problem(column, row[column], text)
    if row.get("split", "") not in ("", *PARTS):
        yield problem("split", row["split"], "it is not train, valid or test; write one of them")
    if row.get("date") and not is_date(row["date"]):
        yield problem(
            "date", row["date"], "it is no ISO 8601 date; write it as text like 2024-05-31, or empty the cell"
        )


def _number_problems(row: Row, wholes: dict[str, str]) -> Iterator[str]:
    given = {whole for column, whole in wholes.items() if row[column]}
    for column, whole in wholes.items():
        text = row[column]
        if not text and whole in given:
            yield problem(
                column, "", f"the {whole} is given by half; fill the cell or empty all of the {whole}"
            )
        elif text and not is_number(text):
            kind = "not finite" if text.lower().lstrip("+-") in NOT_A_NUMBER else "not a number"
            remedy = "write pixels with a decimal point, or empty the cell if not annotated"
            yield problem(column, text, f"it is {kind}; {remedy}")


def _box_order(row: Row) -> Iterator[str]:
    for low, high in (("x0", "x1"), ("y0", "y1")):
        ends = (row.get(low, ""), row.get(high, ""))
        if all(map(is_number, ends)) and float(ends[1]) <= float(ends[0]):
            yield problem(high, ends[1], f"it is not greater than {low} ({ends[0]}); correct the box")


def is_number(text: str) -> bool:
    """Whether a text is a finite number in plain or scientific notation.

    >>> [is_number(text) for text in ("12.5", "-1e3", "nan", "1e999", "1_000", "")]
    [True, True, False, False, False, False]
    """
    return NUMBER.fullmatch(text) is not None and math.isfinite(float(text))


def is_date(text: str) -> bool:
    """Whether a text is a date of ISO 8601: a year, a month, a day, or a day with a time.

    >>> [is_date(text) for text in ("2024", "2024-05-31", "2024-05-31T10:00", "31.5.2024", "2024-13")]
    [True, True, True, False, False]
    """
    if re.fullmatch(r"\d{4}", text, re.ASCII):
        return True
    try:
        datetime.fromisoformat(f"{text}-01" if re.fullmatch(r"\d{4}-\d\d", text, re.ASCII) else text)
    except ValueError:
        return False
    return True


def resolve_paths(table: TextTable, column: str, file: Path) -> list[str]:
    """The absolute path in each row's column, "" where the cell is empty; relative to the table's folder."""
    folder = file.absolute().parent
    return [_existing_path(folder, row[column]) if row.get(column) else "" for row in table.rows]


def _existing_path(folder: Path, text: str) -> str:
    """The path as it is written, or as another system would have written it where only that exists."""
    path = str(folder / text)
    if os.path.isfile(path):  # noqa: PTH113 (ten times quicker)
        return path
    slashed = text.replace("\\", "/")
    forms = (slashed, *(unicodedata.normalize(form, slashed) for form in ("NFC", "NFD")))
    others = (str(folder / form) for form in forms)
    return next((other for other in others if os.path.isfile(other)), path)  # noqa: PTH113


def absent_files(table: TextTable, photos: list[str], masks: list[str], missing: Missing) -> list[Problem]:
    """The rows whose photo (where that is to be refused) or mask is no file, each with its problem."""
    problems: list[Problem] = []
    for index, (photo, mask) in enumerate(zip(photos, masks, strict=True)):
        if photo and missing == "refuse" and not os.path.isfile(photo):  # noqa: PTH113 (ten times quicker)
            text = f"there is no such file at {photo}; correct the path, or add --missing quarantine"
            problems.append((index, problem("path", table.rows[index]["path"], text)))
        if mask and not os.path.isfile(mask):  # noqa: PTH113
            text = f"there is no such file at {mask}; correct the path or empty the cell"
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


def problem(column: str, value: str, text: str) -> str:
    """A problem as it is printed after its place: the column, the value, why it cannot be and what to do."""
    return f"column {column}, value {value!r}: {text}"


def refuse(file: Path, table: TextTable, problems: list[Problem]) -> None:
    """Raises one error with the first twenty problems in the order of the rows, where there are any."""
    if not problems:
        return
    in_order = sorted(problems, key=lambda problem: problem[0])
    lines = [f"{table.places[index]}, {text}." for index, text in in_order]
    if len(lines) == 1:
        raise WhalebenchError(f"{file}, {lines[0]}")
    more = [f"and {len(lines) - SHOWN} more."] if len(lines) > SHOWN else []
    raise WhalebenchError("\n  ".join([f"{file} has {len(lines)} problems:", *lines[:SHOWN], *more]))
