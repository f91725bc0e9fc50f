"""Photos that are in no benchmark: read from files, folders and tables, and decoded for as long as needed.

Only headers are looked at before the photos are decoded at the size that is asked for, so that none is
decoded twice; one that turns out to be broken then is a problem, and no error.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from whalebench import WhalebenchError, one_line
from whalebench.benchmarks.core.catalog import Catalog, build_catalog, regions_of
from whalebench.benchmarks.core.progress import SILENT, Progress
from whalebench.benchmarks.core.store import PhotoStore
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.importing.importer import read_unnamed
from whalebench.benchmarks.importing.layouts import LAYOUTS, LayoutOptions
from whalebench.benchmarks.importing.layouts.folder import SUFFIXES
from whalebench.benchmarks.importing.layouts.table import SUFFIXES as TABLES
from whalebench.benchmarks.importing.sources import FileSource, FolderSource
from whalebench.benchmarks.importing.tables import Row, TextTable

NEW_PHOTOS = "new photos"
"""What their catalog is called in sentences."""


@dataclass(frozen=True, eq=False)
class NewPhotos:
    """Photos that are in no benchmark."""

    catalog: Catalog
    """A row each, by the columns of every catalog, sorted by image; content digests are those of files."""
    problems: list[str] = field(default_factory=list)
    """A sentence for each photo that cannot be used."""
    notes: list[str] = field(default_factory=list)
    """What the user should know of the others."""

    @property
    def table(self) -> pd.DataFrame:
        """The catalog's."""
        return self.catalog.table


def read_new_photos(
    paths: Sequence[Path],
    progress: Progress = SILENT,
    *,
    in_boxes: bool = False,
    headers: bool = True,
) -> NewPhotos:
    """The photos of files, of all folders below a folder, and of tables with the columns of every catalog.

    A table needs image or path; it may name encounter, viewpoint (or side), date, species, a box x0 to y1,
    landmarks, a mask, and the identity. A photo of a file is called by its path as it is given. With
    `in_boxes` each photo with a box is the part within it, as in the run's benchmark; else it is where one
    file has several rows with different boxes. Unless `headers` alone are read, photos are decoded whole and
    content digests say what they show. Raises WhalebenchError for rows that cannot be, and where nothing can
    be used.
    """
    if not paths:
        raise WhalebenchError("No photos are given: name files, folders, or a table of photos.")
    tables = [_table_of(Path(path)) for path in paths]
    columns = tuple(dict.fromkeys(column for table in tables for column in table.columns))
    rows, places = _joined(tables, columns)
    table = TextTable(columns, rows, places)
    read = read_unnamed(
        FileSource(Path(paths[0])), table, in_boxes=in_boxes, headers=headers, progress=progress
    )
    problems = [f"{one_line(one.path, 160)} is left out: {one.reason}." for one in read.quarantined]
    notes = [note for each in tables for note in each.notes]
    return NewPhotos(build_catalog(read.frame, NEW_PHOTOS), problems, [*notes, *read.notes])


def _joined(tables: Sequence[TextTable], columns: Sequence[str]) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    """The rows of all tables and their places; a file that is named twice counts once."""
    rows: list[Row] = []
    places: list[str] = []
    seen: set[tuple[str, ...]] = set()
    for table in tables:
        for row, place in zip(table.rows, table.places, strict=True):
            complete = {column: row.get(column, "") for column in columns}
            if (key := tuple(complete.values())) not in seen:
                rows.append(complete)
                places.append(place)
            seen.add(key)
    return tuple(rows), tuple(places)


def _table_of(path: Path) -> TextTable:
    """The rows of what a path leads to, with absolute paths."""
    if path.suffix.lower() in TABLES:
        laid, source = LAYOUTS["csv"].read(FileSource(path), LayoutOptions()), FileSource(path)
        files = [column for column in ("path", "mask") if column in laid.table.columns]
        found = (
            {name: str(source.path(row[name])) if row[name] else "" for name in files}
            for row in laid.table.rows
        )
        rows = tuple(row | here for row, here in zip(laid.table.rows, found, strict=True))
        return replace(laid.table, rows=rows, notes=laid.notes)
    names = [""]
    if path.is_dir():
        names = [name for name in FolderSource(path).names() if Path(name).suffix.lower() in SUFFIXES]
        if not names:
            raise WhalebenchError(f"{path} is a folder without a photo: give one that holds some.")
    given = [path / name if name else path for name in names]
    rows = tuple({"image": file.as_posix(), "path": str(file.absolute())} for file in given)
    return TextTable(("image", "path"), rows, tuple(f"photo {one_line(row['image'], 80)}" for row in rows))


@contextmanager
def decoded(
    new: NewPhotos, workspace: Workspace, progress: Progress = SILENT
) -> Iterator[tuple[PhotoStore, dict[int, str]]]:
    """The store of the photos, and what it fills: by row why a photo could not be decoded.

    Its arrays are in the workspace's cache as long as the block lasts.
    """
    table = new.table
    broken: dict[int, str] = {}
    paths, digests, masks = (tuple(table[column]) for column in ("path", "file_digest", "mask"))
    with TemporaryDirectory(dir=workspace.cache, prefix="new-photos-") as folder:
        yield (
            PhotoStore(
                Path(folder),
                paths,
                digests,
                masks,
                regions_of(table),
                tell=progress.stage,
                failed=broken.__setitem__,
            ),
            broken,
        )
