"""What can be wrong with the columns of a table, before its rows are looked at."""

from difflib import get_close_matches
from pathlib import Path

from whalebench import WhalebenchError
from whalebench.benchmarks.importing.table_reader import TextTable
from whalebench.benchmarks.table import BOX, DIGESTS, OPTIONAL_TEXT, REQUIRED, SIZE, landmark_names


def check_columns(table: TextTable, file: Path) -> list[str]:
    """Notes on the columns that are not read; an absent column that is needed is an error."""
    known = {*REQUIRED, *OPTIONAL_TEXT, *BOX, "split"}
    for column in REQUIRED:
        if column not in table.columns:
            raise WhalebenchError(
                f"{file} has no column {column!r}, only {', '.join(table.columns)}"
                f"{_meant(column, set(table.columns) - known)}; add the column or rename one."
            )
    _check_halves(table, file)
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


def _check_halves(table: TextTable, file: Path) -> None:
    held = set(table.columns)
    absent = [column for column in BOX if column not in held]
    if 0 < len(absent) < len(BOX):
        raise WhalebenchError(
            f"{file} has half a box: no column {absent[0]!r}; a box needs x0, y0, x1 and y1."
        )
    for column in table.columns:
        other = column[:-1] + {"x": "y", "y": "x"}.get(column[-1:], "")
        if column[-2:] in ("_x", "_y") and other not in held:
            raise WhalebenchError(f"{file} has {column!r} without {other!r}; add it or rename the column.")


def _meant(name: str, options: set[str]) -> str:
    lower = {option.lower(): option for option in sorted(options)}
    close = get_close_matches(name.lower(), lower, n=1, cutoff=0.7)
    return f" (did you mean {lower[close[0]]!r}?)" if close else ""
