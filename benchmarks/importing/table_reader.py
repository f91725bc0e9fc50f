"""Tables as they come: .csv, .tsv and .parquet read into texts, each row with its place in the file."""

import csv
import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from whalebench import WhalebenchError


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
