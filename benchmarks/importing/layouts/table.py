"""A table with a row for each photo: .csv, .tsv or .parquet, as pandas and spreadsheets write them."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from whalebench import WhalebenchError, one_line
from whalebench.benchmarks.importing.layouts.layout import LaidOut, Layout, LayoutOptions
from whalebench.benchmarks.importing.sources import FileSource, FolderSource, Source
from whalebench.benchmarks.importing.spreadsheets import SIDE
from whalebench.benchmarks.importing.tables import Row, TextTable, problem, read_table, refuse

SUFFIXES = (".csv", ".tsv", ".parquet")


def read_photos(source: Source, options: LayoutOptions) -> LaidOut:
    """The rows of the one table of a source; the photos stand where it says, seen from its own folder.

    Where it has no column path, the image ids are file names, which are looked for in all folders below.
    Raises WhalebenchError where there is no table or more than one, or a name that fits several files.
    """
    name = _table_name(source)
    table = _read(source, name, options.columns)
    notes = list(table.notes)
    given = "path" if "path" in table.columns else "image"
    for column in {"image", "path"} - set(table.columns):
        if given in table.columns:  # else the check of the columns says that both are absent
            table = _with_column(table, column, given)
            notes.append(f"There is no column {column}: it is taken from the column {given}.")
    if given == "image" and "path" in table.columns:
        rows = _looked_for(source, posixpath.dirname(name), table.rows)
    else:
        rows = _seen_from(source, posixpath.dirname(name), table.rows)
    return LaidOut(replace(table, rows=tuple(rows), notes=()), tuple(notes))


def _table_name(source: Source) -> str:
    """The table that is nearest to the top; a file is one whatever it is called."""
    names = source.names()
    if type(source) is FileSource:
        return names[0]
    tables = [name for name in names if PurePosixPath(name).suffix.lower() in SUFFIXES]
    top = min((name.count("/") for name in tables), default=0)
    tables = [name for name in tables if name.count("/") == top]
    if len(tables) != 1:
        kind = "a folder" if source.place.is_dir() else "an archive"
        what = f"the tables {one_line(', '.join(tables), 100)}" if tables else "no .csv, .tsv or .parquet"
        remedy = "give the path of the one that is meant" if tables else "add one, or give another layout"
        raise WhalebenchError(f"{source.place} is {kind} with {what}; {remedy}.")
    return tables[0]


def _read(source: Source, name: str, columns: Mapping[str, str]) -> TextTable:
    """The table; a copy out of an archive is called in sentences what it is in there."""
    if type(source) is FileSource:
        return _with_viewpoint(read_table(source.place, given=columns), source.place)
    path = source.path(name)
    try:
        return _with_viewpoint(read_table(path, given=columns), path)
    except WhalebenchError as error:
        raise WhalebenchError(str(error).replace(str(path), f"{source.place}/{name}")) from error


def _with_viewpoint(table: TextTable, file: Path) -> TextTable:
    """The table with its column side, another word for viewpoint, as that; the two may not differ."""
    if SIDE not in table.columns:
        return table
    refuse(
        file,
        table,
        [
            (
                index,
                problem(
                    SIDE,
                    row[SIDE],
                    f"its viewpoint is {row['viewpoint']!r}, which is the same; keep one of them",
                ),
            )
            for index, row in enumerate(table.rows)
            if row[SIDE] and row.get("viewpoint", row[SIDE]) not in ("", row[SIDE])
        ],
    )
    columns = dict.fromkeys("viewpoint" if column == SIDE else column for column in table.columns)
    rows = (
        {column: cell for column, cell in row.items() if column != SIDE}
        | {"viewpoint": row.get("viewpoint") or row[SIDE]}
        for row in table.rows
    )
    return replace(table, columns=tuple(columns), rows=tuple(rows))


def _with_column(table: TextTable, column: str, like: str) -> TextTable:
    rows = tuple(row | {column: row[like]} for row in table.rows)
    return replace(table, columns=(*table.columns, column), rows=rows)


def _seen_from(source: Source, folder: str, rows: Iterable[Row]) -> Iterable[Row]:
    """The rows with paths and masks as names in the source, where the table is not at its top."""
    if not folder:
        return rows
    known = set(source.names())

    def named(cell: str) -> str:
        below = posixpath.normpath(posixpath.join(folder, cell.replace("\\", "/")))
        return cell if not cell or (below not in known and cell in known) else below

    return [
        row | {column: named(row[column]) for column in ("path", "mask") if column in row} for row in rows
    ]


def _looked_for(source: Source, folder: str, rows: Iterable[Row]) -> Iterable[Row]:
    """The rows with the names of the files that are called like their images, with any ending."""
    below = FolderSource(source.place.absolute().parent) if type(source) is FileSource else source
    called: dict[str, list[str]] = defaultdict(list)
    known = below.names()
    for name in known:
        called[posixpath.basename(name)].append(name)
        called[PurePosixPath(name).stem].append(name)
    at_place = set(known)

    def found(image: str) -> str:
        near = posixpath.join(folder, image)
        fits = [near] if near in at_place else sorted(set(called.get(image, ())))
        if len(fits) > 1:
            raise WhalebenchError(
                f"{source.place} has several files for the image {one_line(image, 40)!r}, "
                f"{one_line(' and '.join(fits[:2]), 120)}; add a column path that says which is meant."
            )
        return fits[0] if fits else near

    rows = list(_seen_from(source, folder, rows))
    return [row | {"path": found(row["image"])} for row in rows]


_ROWS = (
    ("image", "path", "identity"),
    ("1", "photos/1.jpg", "Ada"),
    ("2", "photos/2.jpg", "Ben"),
    ("3", "photos/3.jpg", ""),
)
_COLUMNS = "--column image=Image,identity=Id where its columns have other names"
CSV = Layout(
    name="csv",
    summary=f"a table with a row for each photo; {_COLUMNS}",
    example="\n".join(map(",".join, _ROWS)) + "\n",
    read=read_photos,
    takes_columns=True,
    takes_boxes=True,
)
TSV = replace(CSV, name="tsv", summary="the same with tabs", example="\n".join(map("\t".join, _ROWS)) + "\n")
PARQUET = replace(
    CSV,
    name="parquet",
    summary="the same as Parquet, as pandas writes it",
    example='table.to_parquet("photos.parquet")\n',
)
