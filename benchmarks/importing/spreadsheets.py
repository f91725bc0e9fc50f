"""What spreadsheets and pandas do to a table: encodings, headers, columns, numbers that are names."""

from __future__ import annotations

import codecs
import io
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

from whalebench import WhalebenchError, did_you_mean, one_line
from whalebench.benchmarks.core.catalog import BOX, OPTIONAL_TEXT, REQUIRED, WHERE_GIVEN

SIDE = "side"
"""Another word for the column viewpoint."""
WORDS = (*REQUIRED, *OPTIONAL_TEXT, *BOX, *WHERE_GIVEN, SIDE)
"""The columns that are read and have a name of their own, all but those of landmarks."""
NUMBERED = (
    *("image", "identity", "encounter", "duplicates", "viewpoint", "species"),
    *("camera", "place", "quality", "date"),
)
"""Columns of names that may be numbers, of years and of numbers."""
HEADER, ABOVE = 1_000_000, 20
"""Letters and lines in which the line of the names of columns is looked for."""
SEPARATOR = re.compile(r'"?sep *= *(.)"?', re.IGNORECASE)
"""How spreadsheets tell each other the separator."""
WHOLE = re.compile(r"\d+(\.0+)?", re.ASCII)
THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}", re.ASCII)
COMMA = re.compile(r"([+-]?\d*),(\d+)", re.ASCII)
C1 = re.compile("[\x80-\x9f]")
"""Characters that Latin-1 has and no text: bytes of these are of another encoding."""


def read_as_text(file: Path) -> tuple[str, tuple[str, ...]]:
    """The text of a file, and a note where its encoding had to be guessed.

    UTF-8 and, where it begins as such, UTF-16. What is neither is Latin-1 as far as that has letters for all
    of its bytes; else WhalebenchError is raised, since old encodings of other scripts cannot be told apart.
    """
    with file.open("rb") as opened:
        is_wide = opened.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    try:
        with file.open(encoding="utf-16" if is_wide else "utf-8-sig", newline="") as opened_text:
            return opened_text.read(), ()
    except UnicodeDecodeError as error:
        problem = f"byte {error.start}: {error.reason}"
    text = "" if is_wide else file.read_text(encoding="latin-1")
    if is_wide or C1.search(text):
        raise WhalebenchError(
            f"{file} is not UTF-8 text ({problem}), and which encoding it has cannot be told; save it as CSV "
            "UTF-8."
        )
    word = next((word for word in re.findall(r"\w+", text) if not word.isascii()), "")
    example = f", as {one_line(word, 40)!r}" if word else ""
    note = f"The table is not UTF-8 and is read as Latin-1{example}: save it as CSV UTF-8 if that is wrong."
    return text, (note,)


def find_header(text: str, file: Path, names: Collection[str]) -> tuple[str, int, int]:
    """The separator, the line with the names of the columns, and how many lines of a title are above it.

    It is the first line that has two of the names that are needed, or else the first of all; the separator is
    that by which it has most of them. Spreadsheets write semicolons in countries with a decimal comma, tabs
    where they are asked for text, and the separator in a line of its own.
    """
    wanted = {name.casefold() for name in names}
    usual = "\t" if file.suffix.lower() == ".tsv" else ","

    def columns(line: str, separator: str) -> tuple[int, int]:
        cells = [cell.strip().strip('"') for cell in line.casefold().split(separator)]
        return len(wanted & set(cells)), len(cells)

    numbered = enumerate(io.StringIO(text[:HEADER], newline=""), 1)
    filled = ((number, line.strip("\r\n")) for number, line in numbered if line.strip())
    lines = list(islice(filled, ABOVE))
    said = SEPARATOR.fullmatch(lines[0][1]) if lines else None
    lines = lines[1:] if said else lines
    separators = said[1] if said else (usual, ",", ";", "\t", "|")
    first = (separators[0], lines[0][0] if lines else 1, 0)
    for above, (number, line) in enumerate(lines):
        separator = max(separators, key=partial(columns, line))
        if above == 0:
            first = separator, number, 0
        if columns(line, separator)[0] >= min(2, len(wanted)):
            return separator, number, above
    return first


def catalog_columns(columns: Sequence[str], given: Mapping[str, str], file: Path) -> tuple[str, ...]:
    """The columns of a file by the catalog's names: those that were given, then in any capitals.

    Raises WhalebenchError for a name that was given and that the file or the catalog does not have.
    """
    named: dict[int, str] = {}
    for ours, theirs in given.items():
        if ours not in WORDS and not re.fullmatch(r"\w+_[xy]", ours):
            hint = did_you_mean(ours, WORDS, f"there are {', '.join(WORDS)}, and those of landmarks.")
            raise WhalebenchError(f"--column {one_line(ours, 60)}: the catalog has no such column; {hint}")
        place = _place(columns, theirs, file)
        if place in named:
            raise WhalebenchError(f"--column: {theirs!r} cannot be {named[place]} and {ours}; give it once.")
        named[place] = ours
    taken = set(named.values()) | set(columns)
    counts = Counter(column.casefold() for column in columns)
    for place, column in enumerate(columns):
        lower = column.casefold()
        ours = lower if lower in WORDS else re.sub("_[XY]$", lambda axis: axis[0].lower(), column)
        if ours in taken or place in named or not (ours in WORDS or ours != column):
            continue
        if counts[lower] > 1:
            raise WhalebenchError(
                f"{file} has {counts[lower]} columns that are {ours!r} in other capitals; keep one, or "
                f"say which with --column {ours}=NAME."
            )
        named[place] = ours
    # A column whose name was given to another one is not read, and is said to be so.
    aside = {column: f"{column} (as it was)" for column in given}
    return tuple(named.get(place, aside.get(column, column)) for place, column in enumerate(columns))


def _place(columns: Sequence[str], name: str, file: Path) -> int:
    """Where the column stands; capitals count only where several are alike."""
    alike = [place for place, column in enumerate(columns) if column.casefold() == name.casefold()]
    exact = [place for place in alike if columns[place] == name] or alike
    if len(exact) != 1:
        there = f"there are {one_line(', '.join(columns), 80)}."
        hint = did_you_mean(name, columns, there) if not exact else "name it in its capitals."
        how_many = f"{len(exact)} columns" if exact else "no column"
        raise WhalebenchError(f"{file} has {how_many} {one_line(name, 60)!r}; {hint}")
    return exact[0]


def unwrap(rows: Sequence[dict[str, str]]) -> tuple[str, ...]:
    """Takes away the formula by which a spreadsheet keeps a text from being a number; a note on each column.

    >>> row = {"image": '="007"', "identity": "=1+1"}
    >>> unwrap([row])
    ('Column image has texts as formulas, in 1 row(s): ="007" is read as 007.',)
    >>> row
    {'image': '007', 'identity': '=1+1'}
    """
    counts: Counter[str] = Counter()
    first: dict[str, str] = {}
    for row in rows:
        for column, cell in row.items():
            if cell[:2] == '="' and cell[-1] == '"' and len(cell) > 2:
                counts[column] += 1
                first.setdefault(column, cell)
                row[column] = cell[2:-1]
    return tuple(
        f"Column {column} has texts as formulas, in {counts[column]} row(s): {one_line(cell, 60)} is read as "
        f"{one_line(cell[2:-1], 60)}."
        for column, cell in first.items()
    )


def whole_names(rows: Sequence[dict[str, str]]) -> tuple[str, ...]:
    """Changes names that are numbers in all rows, and decimal ones in some, into whole ones; notes on that.

    pandas writes the numbers of a column with a gap as 12.0.
    """
    notes = []
    for column in NUMBERED:
        texts = {row[column] for row in rows if row.get(column)}
        decimal = sorted(text for text in texts if "." in text)
        if decimal and all(map(WHOLE.fullmatch, texts)):
            for row in rows:
                if column in row:
                    row[column] = row[column].partition(".")[0]
            first = decimal[0]
            notes.append(
                f"Column {column} has whole numbers written as {one_line(first, 40)}: read as "
                f"{one_line(first.partition('.')[0], 40)}."
            )
    return tuple(notes)


def decimal_point(text: str, separator: str = ";") -> str:
    """A number with a decimal comma with a point instead; another text as it is.

    Where tabs separate a comma may be that of thousands, and such a number is left for a person to look at.

    >>> decimal_point("12,5"), decimal_point("1,2,3"), decimal_point("1,234"), decimal_point("1,234", "\\t")
    ('12.5', '1,2,3', '1.234', '1,234')
    """
    is_clear = separator == ";" or not THOUSANDS.fullmatch(text)
    return COMMA.sub(r"\1.\2", text) if is_clear and COMMA.fullmatch(text) else text
