"""Verdicts on pairs of photos: the CSV that the audit's page gives, or one written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from whalebench import WhalebenchError, cell_text, one_line
from whalebench.benchmarks.core.audits import Images, Verdict
from whalebench.benchmarks.core.catalog import Catalog
from whalebench.benchmarks.importing.tables import read_table

VERDICTS = (*get_args(Verdict), "")


def verdicts_in(file: Path, catalog: Catalog) -> dict[Images, Verdict]:
    """The verdict on each pair of image ids, sorted, that has one.

    Raises WhalebenchError for a file without the columns first, second and verdict, for another verdict, for
    a photo that is not in the catalog, and for a pair with two verdicts.
    """
    table = read_table(file, ("first", "second", "verdict"))
    if absent := {"first", "second", "verdict"} - set(table.columns):
        raise WhalebenchError(
            f"{file} has no column {min(absent)}: give the CSV of the audit's page, or one with the columns "
            f"first, second and verdict."
        )
    known, verdict_of = set(catalog.table["image"]), dict[Images, Any]()
    for row, place in zip(table.rows, table.places, strict=True):
        one, other = sorted(cell_text(row[column]) for column in ("first", "second"))
        verdict = row["verdict"].lower()
        if verdict not in VERDICTS:
            raise WhalebenchError(
                f"{file}, {place}: the verdict {one_line(verdict, 30)!r} is none of yes, no and unsure; "
                f"correct it."
            )
        if unknown := {one, other} - known:
            raise WhalebenchError(
                f"{file}, {place}: there is no photo {one_line(min(unknown), 60)!r} in {catalog.name}; "
                f"give the verdicts on the audit of this benchmark."
            )
        if verdict_of.setdefault((one, other), verdict) != verdict:
            raise WhalebenchError(f"{file}, {place}: this pair has another verdict further up; keep one.")
    return {pair: verdict for pair, verdict in sorted(verdict_of.items()) if verdict}
