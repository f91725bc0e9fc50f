"""Tables of photos: .csv, .tsv and .parquet read as texts, and what is wrong with their rows.

Each problem is a sentence with place, value and remedy. No photo is looked at for it.
"""

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from difflib import get_close_matches
from itertools import chain, islice
from pathlib import Path
from typing import Any

from whalebench import CONTROLS, WhalebenchError, one_line
from whalebench.benchmarks.core.catalog import (
    BOX,
    DETAILS,
    DIGESTS,
    OPTIONAL_TEXT,
    PARTS,
    REQUIRED,
    SIZE,
    WHERE_GIVEN,
    landmark_names,
)
from whalebench.benchmarks.core.files import regular_file
from whalebench.benchmarks.importing import spreadsheets

Row = dict[str, str]
Problem = tuple[int, str]
"""The index of a row, and what is wrong with it."""

# Each digit can be taken by one part of it only, so that long cells take no longer than they are.
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
NOT_A_NUMBER = ("nan", "inf", "infinity", "none", "null", "na", "n/a")
NOTHING = {"#n/a", "nan", "none", "null", "na", "n/a"}
NO_ENCOUNTER = {"unknown", "unk", "?", "-"}
SHOWN, MANY = 20, 1000
"""How many problems of a table one error lists, and how many are looked for."""
ROWS, COLUMNS, CELLS, BYTES = 2_000_000, 10_000, 100_000_000, 4 * 2**30
"""The most that one table may have; CELLS are those of columns that are read. A million photos take about
1.5 GB of memory while they are read."""
LONGEST = 60
"""Letters of a value that are shown."""
LETTERS = 4_096
"""The most letters of a cell that is read: the longest path that systems know."""
NAMED = ("image", "path", "identity", *OPTIONAL_TEXT, *WHERE_GIVEN)
"""The columns of texts that are read."""
INDEX = re.compile(r"__index_level_\d+__")
"""What pandas calls the numbers of rows."""


@dataclass(frozen=True)
class TextTable:
    """Rows as texts, "" where nothing stands."""

    columns: tuple[str, ...]
    """The column names in the file's order."""
    rows: tuple[dict[str, str], ...]
    """One dictionary a row, by column."""
    places: tuple[str, ...]
    """Where each row stands in the file, such as "line 3"."""
    notes: tuple[str, ...] = ()
    """Sentences on what was read as something else than it is written."""


def read_table(file: Path, names: Collection[str] = (), given: Mapping[str, str] | None = None) -> TextTable:
    """The rows of a .csv, .tsv or .parquet file as texts without surrounding blanks.

    Only columns that are read are in them: those of the names, or else the catalog's, which may be written in
    any capitals, or under the name that is `given` for them, as {"image": "Image"}. A missing number of a
    .parquet file becomes "", like an empty cell of a .csv file. Raises WhalebenchError for what is no such
    file, and for one that is larger than ROWS, COLUMNS, CELLS or BYTES, before it is read where the file says
    so itself.
    """
    suffix = file.suffix.lower()
    if suffix not in (".csv", ".tsv", ".txt", ".parquet"):
        raise WhalebenchError(f"{file} is no table that can be read; give a .csv, .tsv or .parquet file.")
    try:
        _bound(file, regular_file(file).stat().st_size, BYTES, "bytes")
        table = (_read_parquet if suffix == ".parquet" else _read_text)(file, names, given or {})
    except FileNotFoundError as error:
        raise WhalebenchError(f"The table {file} does not exist; check its path.") from error
    except OSError as error:
        why = one_line(error.strerror or error, 100)
        raise WhalebenchError(f"{file} cannot be read ({why}); check its permissions.") from error
    if not table.rows:
        raise WhalebenchError(f"{file} has no rows; give a header line and one line for each photo.")
    notes = table.notes + spreadsheets.unwrap(table.rows)
    return replace(table, notes=notes if names else notes + spreadsheets.whole_names(table.rows))


def _bound(file: Path, number: int, limit: int, what: str) -> None:
    if number > limit:
        raise WhalebenchError(
            f"{file} has {number:,} {what}, and {limit:,} are the most that a table may have; leave out what "
            f"is not read, or import it in parts."
        )


def _read_columns(columns: tuple[str, ...], file: Path, names: Collection[str]) -> dict[str, int]:
    """The columns that are read, each with its place; raises WhalebenchError for names that cannot be."""
    _bound(file, len(columns), COLUMNS, "columns")
    for column, times in Counter(columns).items():
        if not column and (times > 1 or columns[0]):
            raise WhalebenchError(
                f"{file} has a column without a name that is not empty; name it or remove it."
            )
        if times > 1:
            raise WhalebenchError(f"{file} has {times} columns {column!r}; keep one of them.")
    points = (f"{name}_{axis}" for name in landmark_names(columns) for axis in "xy")
    kept = set(names) or {*spreadsheets.WORDS, *points}
    for column in sorted(kept):
        if CONTROLS.search(column) or len(column) > LETTERS:
            raise WhalebenchError(f"{file} has a column {_shown(column)}, which is no name; rename it.")
    return {column: place for place, column in enumerate(columns) if column in kept}


def _read_text(file: Path, names: Collection[str], given: Mapping[str, str]) -> TextTable:
    text, notes = spreadsheets.read_as_text(file)
    if "\0" in text:
        raise WhalebenchError(f"{file} holds NUL characters, so it is no text table; save it as UTF-8.")
    separator, place, above = spreadsheets.find_header(text, file, names or (*REQUIRED, *given.values()))
    lines = _lines(text, separator, file, place)
    header = next(lines, None)
    if header is None:
        raise WhalebenchError(f"{file} is empty; give a header line and one line for each photo.")
    if above:
        notes += (f"Lines above the names of the columns are not read: {above}.",)
    columns = tuple(header[1][: _last(header[1])])  # spreadsheets leave empty columns at the right
    peeked = list(islice(lines, 2))
    if peeked and all(cells[0].isdigit() and len(cells) == len(header[1]) + 1 for _, cells in peeked):
        columns = ("", *columns)  # R numbers the rows, and does not name the column of that
    columns = columns if names else spreadsheets.catalog_columns(columns, given, file)
    kept = _read_columns(columns, file, names)
    has_commas = separator in ";\t"
    numbers = {column for column in kept if has_commas and (column in BOX or column[-2:] in ("_x", "_y"))}
    rows, places = [], []
    for number, cells in chain(peeked, lines):
        width = max(len(columns), _last(cells))
        if len(cells) < width or width > len(columns):
            raise WhalebenchError(
                f"{file} has {len(cells[:width])} cells in line {number} but {len(columns)} in its header; "
                "add or remove cells, and put a cell that holds a separator in double quotes."
            )
        row = {column: cells[place] for column, place in kept.items()}
        rows.append(row | {column: spreadsheets.decimal_point(row[column], separator) for column in numbers})
        places.append(f"line {number}")
        _bound(file, len(rows), ROWS, "rows or more")
        _bound(file, len(rows) * len(kept), CELLS, "cells or more")
    return TextTable(columns, tuple(rows), tuple(places), notes)


def _last(cells: list[str]) -> int:
    """How many cells there are up to the last one that is not empty."""
    return max((place for place, cell in enumerate(cells, 1) if cell), default=0)


def _lines(text: str, separator: str, file: Path, place: int) -> Iterator[tuple[int, list[str]]]:
    """The non-empty rows from a line on, each with the line it starts on; line ends as on any system."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
    start = 1
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if any(stripped) and start >= place:
                yield start, stripped
            start = reader.line_num + 1
    except csv.Error as error:
        most = csv.field_size_limit()
        what = f"a cell of more than {most:,} characters" if "field limit" in str(error) else one_line(error)
        raise WhalebenchError(
            f"{file} is broken from line {start} on ({what}); close its quotes, or shorten the cell."
        ) from error


def _read_parquet(file: Path, names: Collection[str], given: Mapping[str, str]) -> TextTable:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file) as opened:
            theirs = tuple(name for name in opened.schema_arrow.names if not INDEX.fullmatch(name))
            columns = theirs if names else spreadsheets.catalog_columns(theirs, given, file)
            kept = _read_columns(columns, file, names)
            read = [theirs[place] for place in kept.values()]
            strings = [name for name in read if _is_string(opened.schema_arrow.field(name).type)]
            _bound_parquet(file, opened.metadata, read)
        # As a dictionary each text is there once, however often it is repeated.
        table = parquet.read_table(file, columns=read, read_dictionary=strings, use_threads=False)
        texts = [_texts(table[name]) for name in read]
    except (pa.ArrowException, OSError, ValueError, TypeError, NotImplementedError, MemoryError) as error:
        why = one_line(error, 100)
        raise WhalebenchError(f"{file} is no readable Parquet file ({why}); write it again.") from error
    rows = tuple(dict(zip(kept, cells, strict=True)) for cells in zip(*texts, strict=True))
    return TextTable(columns, rows, tuple(f"row {number}" for number in range(1, len(rows) + 1)))


def _is_string(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _bound_parquet(file: Path, metadata: Any, kept: list[str]) -> None:
    """Refuses a table by what it says of itself: it may be a thousand times as large as its file."""
    _bound(file, metadata.num_rows, ROWS, "rows")
    _bound(file, metadata.num_rows * len(kept), CELLS, "cells")
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    chunks = (group.column(place) for group in groups for place in range(metadata.num_columns))
    sizes = (each.total_uncompressed_size for each in chunks if each.path_in_schema.split(".")[0] in kept)
    _bound(file, sum(sizes), BYTES, "bytes when unpacked")


def _texts(column: Any) -> list[str]:
    """The cells of a column of Arrow as texts, equal ones of a dictionary being one text in memory."""
    import pyarrow as pa

    if not pa.types.is_dictionary(column.type):
        values = column.to_pandas()
        absent = values.isna().tolist()
        if (
            pa.types.is_timestamp(column.type)
            and not column.type.tz
            and (values.dropna().dt.normalize() == values.dropna()).all()
        ):
            values = values.dt.date  # as pandas writes days into a .csv file
        return ["" if gone else _text(value) for value, gone in zip(values.tolist(), absent, strict=True)]
    texts: list[str] = []
    for chunk in column.chunks:
        known = ["" if value is None else _text(value) for value in chunk.dictionary.to_pylist()]
        texts += ["" if place is None else known[place] for place in chunk.indices.to_pylist()]
    return texts


def _text(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # a column of whole numbers with a gap is read as floats
    return str(value).strip()


def check_columns(table: TextTable, file: Path) -> list[str]:
    """Notes on the columns that are not read; a needed column that is absent is an error."""
    known = {*REQUIRED, *OPTIONAL_TEXT, *WHERE_GIVEN, *BOX}
    for column in REQUIRED:
        if column not in table.columns:
            raise WhalebenchError(
                f"{file} has no column {column!r}, only {one_line(', '.join(table.columns), 80)}"
                f"{_meant(column, set(table.columns) - known)}; add the column or rename one."
            )
    _refuse_halves(table, file)
    points = {f"{name}_{axis}" for name in landmark_names(table.columns) for axis in "xy"}
    notes = []
    for column in table.columns:
        if not column:
            notes.append("The first column has no name and is not read.")
        elif column in (*SIZE, *DIGESTS):
            notes.append(f"The column {column!r} is not read: it is measured from the photos.")
        elif column not in known | points:
            notes.append(
                f"The column {_shown(column)} is not read{_meant(column, known - set(table.columns))}."
            )
    if len(notes) > SHOWN:
        notes = [*notes[:SHOWN], f"And {len(notes) - SHOWN} more columns are not read."]
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
    """The problems of the rows that can be seen without opening a photo, each with its row's index.

    All of them, or the first thousand or so: such a table is wrong as a whole.
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
        if len(problems) >= MANY:
            break
    return problems


def _text_problems(row: Row) -> Iterator[str]:
    for column in NAMED:
        value = row.get(column, "")
        if len(value) > LETTERS:
            text = f"it has {len(value):,} characters, {LETTERS:,} are the most; shorten it"
            yield problem(column, value, text)
        elif not value.isprintable() and (found := CONTROLS.search(value)):
            text = f"it holds the control character {ascii(found[0])[1:-1]}, which no name does; remove it"
            yield problem(column, value, text)
    for column in ("image", "path"):
        if not row[column]:
            yield problem(column, "", "it is empty; fill it or remove the row")
    for column in ("encounter", "duplicates", "viewpoint", "species", *DETAILS):
        if row.get(column, "").casefold() in NOTHING | (NO_ENCOUNTER if column == "encounter" else set()):
            shared = "" if column in DETAILS else ", and photos that share it would count as one"
            yield problem(column, row[column], f"this names nothing{shared}; leave the cell empty")
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
        return text != "0000"
    try:
        datetime.fromisoformat(f"{text}-01" if re.fullmatch(r"\d{4}-\d\d", text, re.ASCII) else text)
    except ValueError:
        return False
    return True


def problem(column: str, value: str, text: str) -> str:
    """A problem as it is printed after its place: the column, the value, why it cannot be and what to do."""
    return f"column {column}, value {_shown(value)}: {text}"


def _shown(value: str) -> str:
    """A value in quotes, as far as it fits into a sentence."""
    return repr(value if len(value) <= LONGEST else f"{value[:LONGEST]}...")


def refuse(file: Path, table: TextTable, problems: list[Problem]) -> None:
    """Raises one error where there are problems; its notes are the first twenty in the order of the rows."""
    if not problems:
        return
    in_order = sorted(problems, key=lambda problem: problem[0])
    lines = [f"{table.places[index]}, {text}." for index, text in in_order]
    if len(lines) == 1:
        raise WhalebenchError(f"{file}, {lines[0]}")
    count = f"{MANY:,} problems or more" if len(lines) >= MANY else f"{len(lines)} problems"
    error = WhalebenchError(f"{file} has {count}, the first in {lines[0]}")
    for line in lines[:SHOWN]:
        error.add_note(line)
    if len(lines) > SHOWN:
        error.add_note(f"And {len(lines) - SHOWN} more." if len(lines) < MANY else "And more.")
    raise error
