"""Everything that can be wrong with the rows of a table, each as a sentence with place, value and remedy."""

import math
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from whalebench import WhalebenchError
from whalebench.benchmarks.importing.table_reader import TextTable
from whalebench.benchmarks.table import BOX, PARTS

Row = dict[str, str]

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
NOT_A_NUMBER = ("nan", "inf", "infinity", "none", "null", "na", "n/a")
NOBODY = {"#n/a", "unknown", "unk", "?", "-", "new", "new_whale", "new_individual"}
NOTHING = {"#n/a", "nan", "none", "null", "na", "n/a"}
NO_ENCOUNTER = {"unknown", "unk", "?", "-"}
SHOWN = 20


def check_rows(table: TextTable, wholes: dict[str, str]) -> list[tuple[int, str]]:
    """All problems of the rows that can be seen without opening a photo, each with its row's index.

    `wholes` are the columns of numbers, each with the box or landmark it is a part of.
    """
    problems: list[tuple[int, str]] = []
    first: dict[str, str] = {}
    for index, (row, place) in enumerate(zip(table.rows, table.places, strict=True)):
        image = row["image"]
        if image and image in first:
            text = f"this image id was given before, at {first[image]}; give each photo its own"
            text += ", for example its path"
            problems.append((index, problem("image", image, text)))
        first.setdefault(image, place)
        found = [*_text_problems(row), *_number_problems(row, wholes), *_box_order(row)]
        problems += [(index, text) for text in found]
    return problems


def box_outside(row: Row, width: int, height: int) -> str:
    """The problem of a box that leaves its photo by more than half a pixel, or "" when there is none."""
    if not row.get("x0") or not all(is_number(row[column]) for column in BOX):
        return ""
    for column, least, most in (("x0", 0, width), ("y0", 0, height), ("x1", 0, width), ("y1", 0, height)):
        if not least - 0.5 <= float(row[column]) <= most + 0.5:
            text = f"the box is outside its photo of {width}x{height} pixels; correct the box"
            return problem(column, row[column], text)
    return ""


def point_outside(row: Row, name: str, width: int, height: int) -> str:
    """The problem of a landmark further outside its photo than half the photo, or "" when there is none."""
    for axis, side in (("x", width), ("y", height)):
        value = row.get(f"{name}_{axis}", "")
        if is_number(value) and not -side / 2 <= float(value) <= 1.5 * side:
            text = f"the landmark is far outside its photo of {width}x{height} pixels; correct it"
            return problem(f"{name}_{axis}", value, text)
    return ""


def refuse(file: Path, table: TextTable, problems: list[tuple[int, str]]) -> None:
    """Nothing when there is no problem; else one error with the first twenty, in the order of the rows."""
    if not problems:
        return
    in_order = sorted(problems, key=lambda found: found[0])
    lines = [f"{table.places[index]}, {text}." for index, text in in_order]
    if len(lines) == 1:
        raise WhalebenchError(f"{file}, {lines[0]}")
    more = [f"and {len(lines) - SHOWN} more."] if len(lines) > SHOWN else []
    text = "\n  ".join([f"{file} has {len(lines)} problems:", *lines[:SHOWN], *more])
    raise WhalebenchError(text)


def problem(column: str, value: str, text: str) -> str:
    """A problem as it is printed after its place: the column, the value, why it cannot be and what to do."""
    return f"column {column}, value {value!r}: {text}"


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
