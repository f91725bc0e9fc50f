"""Anyone's photos become a benchmark: a table is read, everything is checked, every photo is decoded."""

from __future__ import annotations

import io
import re
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from whalebench import WhalebenchError, cell_text, one_line, table_cell
from whalebench.benchmarks.core.catalog import (
    OPTIONAL_TEXT,
    SIZE,
    Catalog,
    Stamp,
    build_catalog,
    mask_of,
    read_catalog,
    read_facts,
    read_listed,
    write_catalog,
    write_stamps,
)
from whalebench.benchmarks.core.files import refuse_not_utf8
from whalebench.benchmarks.core.progress import SILENT, Progress
from whalebench.benchmarks.core.store import MAX_PIXELS, Advance, PhotoFacts, inspect_photos
from whalebench.benchmarks.core.workspace import Workspace, atomic_text, benchmark_lock
from whalebench.benchmarks.importing import boxes, tables
from whalebench.benchmarks.importing.fits import Missing, absent_files, misfits, resolve_paths
from whalebench.benchmarks.importing.layouts import LAYOUTS, Layout, LayoutOptions
from whalebench.benchmarks.importing.layouts.layout import Form
from whalebench.benchmarks.importing.names import without_unseen
from whalebench.benchmarks.importing.notes import notes_on
from whalebench.benchmarks.importing.sources import Source, open_source
from whalebench.benchmarks.importing.tables import TextTable

NO_OPTIONS = LayoutOptions()
COPIES = "photos"
"""The folder of a benchmark with what was copied from an archive."""


class Quarantined(NamedTuple):
    """A photo that cannot be used, and why."""

    image: str
    path: str
    reason: str


@dataclass(frozen=True)
class ImportResult:
    """An imported benchmark, the photos left out, and what the user should know."""

    catalog: Catalog
    quarantined: tuple[Quarantined, ...]
    notes: tuple[str, ...]


def import_photos(
    layout: Layout,
    place: Path,
    name: str,
    workspace: Workspace,
    *,
    options: LayoutOptions = NO_OPTIONS,
    missing: Missing = "refuse",
    dataset: str = "",
    progress: Progress = SILENT,
    max_pixels: int = MAX_PIXELS,
) -> ImportResult:
    """The benchmark `name`, made from the files of a layout that stand in a folder, an archive or a table.

    All problems of its rows are reported in one error. Photos that cannot be decoded are quarantined; absent
    ones are a problem unless `missing` says otherwise. An archive's photos are copied into the benchmark's
    folder. dataset is the public set that the photos are: weights that were trained on it are marked so.
    """
    _check_name(name)
    form = _form(layout, options)
    folder = workspace.benchmarks / name
    with ExitStack() as opened:
        source = opened.enter_context(open_source(place, folder / COPIES))
        progress.stage("read the layout")
        laid = layout.read(source, options)
        table, folded = without_unseen(_with_species(laid.table, options.species))
        read = _read_photos(source, table, form, missing, max_pixels, progress)
        notes = [*source.notes, *laid.notes, *folded, *read.notes]
        with benchmark_lock(workspace, name, lambda: progress.stage("wait for benchmark")):
            frame, known = _as_before(folder, read.frame, name)
            opened.close()  # copies move to where the frame says they stand
            listed = pd.DataFrame(read.quarantined, columns=Quarantined._fields)
            cells = listed.map(table_cell)  # as it is looked at in a spreadsheet
            atomic_text(folder / "quarantine.csv", cells.to_csv(index=False, lineterminator="\n"))
            catalog = write_catalog(
                frame,
                folder,
                name,
                str(place.absolute()),
                quarantined=len(read.quarantined),
                dataset=dataset or laid.dataset,
            )
            write_stamps(folder, read.stamps)
    return ImportResult(catalog, read.quarantined, (*notes, *known))


def _form(layout: Layout, options: LayoutOptions) -> Form:
    """How boxes are written; raises WhalebenchError for options that the layout does not take."""
    if layout.takes_columns:
        return options.boxes
    if options.columns:
        raise WhalebenchError(f"The layout {layout.name} has no columns to be named; leave out --column.")
    if options.boxes:
        raise WhalebenchError(
            f"The layout {layout.name} says itself how its boxes are written; leave out --boxes."
        )
    return "corners"


def import_csv(file: Path, name: str, workspace: Workspace, **how: Any) -> ImportResult:
    """`import_photos` of a table with the catalog's columns."""
    return import_photos(LAYOUTS["csv"], file, name, workspace, **how)


@dataclass(frozen=True)
class _Read:
    """The photos of a table as they were found to be."""

    frame: pd.DataFrame
    """The catalog's rows."""
    quarantined: tuple[Quarantined, ...]
    stamps: dict[str, Stamp]
    notes: list[str]


def _read_photos(
    source: Source, table: TextTable, form: Form, missing: Missing, max_pixels: int, progress: Progress
) -> _Read:
    """Checks the rows, then decodes the photos and masks that they name."""
    place = source.place
    named = (row.get(column, "") for row in table.rows for column in ("path", "mask"))
    refuse_not_utf8([str(place.absolute()), *named])
    notes = [*boxes.on_other_names(table.columns), *tables.check_columns(table, place)]
    boxes.check_form(form, table, place)
    table = boxes.as_corners(table, form)
    if not form:
        boxes.refuse_other_forms(source, table)
    problems = tables.check_rows(table, tables.number_columns(table))
    if len(problems) >= tables.MANY:  # the table is wrong as a whole: no file of it is looked for
        tables.refuse(place, table, problems)
    progress.stage("find the files")
    source.fetch([row.get(column, "") for row in table.rows for column in ("path", "mask")], progress.advance)
    photos, masks = resolve_paths(table, "path", source), resolve_paths(table, "mask", source)
    problems += absent_files(source, table, photos, masks, missing)
    table, in_shares = boxes.in_pixels(table, photos)
    tables.refuse(place, table, problems + misfits(table, photos, masks, max_pixels))

    progress.stage("inspect")
    facts, mask_facts = _decode(photos, masks, max_pixels, progress.advance)
    photos, masks = [source.kept(path) for path in photos], [source.kept(path) for path in masks]
    left_out = {index: fact for index, fact in enumerate(facts) if isinstance(fact, str)}
    kept = {index: fact for index, fact in enumerate(facts) if not isinstance(fact, str)}
    quarantined = tuple(Quarantined(table.rows[i]["image"], photos[i], left_out[i]) for i in left_out)
    _check_enough(place, table, kept, quarantined)
    images = [row["image"] for row in table.rows]
    stamps = {images[index]: fact.stamp for index, fact in kept.items()}
    stamps |= {mask_of(images[index]): fact.stamp for index, fact in mask_facts.items() if index in kept}
    frame = _frame(table, kept, photos, masks, mask_facts)
    doubts = boxes.notes_on_boxes(table.rows, kept, form)
    return _Read(frame, quarantined, stamps, [*notes, *in_shares, *notes_on(table.rows, kept), *doubts])


def _with_species(table: TextTable, species: str) -> TextTable:
    """The table with this species where a row names none."""
    if not species:
        return table
    rows = tuple(row | {"species": row.get("species") or species} for row in table.rows)
    return replace(table, columns=tuple(dict.fromkeys((*table.columns, "species"))), rows=rows)


def read_quarantine(folder: Path) -> tuple[Quarantined, ...]:
    """The photos left out of the catalog in `folder`, as its quarantine.csv lists them.

    Raises WhalebenchError for a list that is not what was written, or that cannot be read.
    """
    file = folder / "quarantine.csv"
    if not file.exists():
        return ()
    try:
        content = io.BytesIO(read_listed(folder, file.name, read_facts(folder)))
        table = pd.read_csv(content, dtype="str", keep_default_na=False, lineterminator="\n")
        return tuple(map(Quarantined._make, table.map(cell_text).itertuples(index=False)))
    except (OSError, ValueError, TypeError) as error:
        raise WhalebenchError(
            f"{file} cannot be read ({one_line(error, 80)}); restore it, or import the benchmark again."
        ) from error


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,99}", name):
        raise WhalebenchError(
            f"{name!r} cannot name a benchmark; use small letters, digits and hyphens, such as right-whales; "
            f"a hundred at most."
        )
    if name == "flukes":
        raise WhalebenchError("The name 'flukes' is that of the embedded benchmark; choose another name.")


def _decode(
    photos: list[str], masks: list[str], max_pixels: int, progress: Advance | None
) -> tuple[list[PhotoFacts | str], dict[int, PhotoFacts]]:
    """The facts of each photo, or why it or its mask cannot be used; and those of masks by place."""
    masked = [index for index, mask in enumerate(masks) if mask]
    paths = [Path(path) for path in (*photos, *(masks[index] for index in masked))]
    facts = inspect_photos(paths, max_pixels=max_pixels, progress=progress)
    of_masks: dict[int, PhotoFacts] = {}
    for index, mask_fact in zip(masked, facts[len(photos) :], strict=True):
        if not isinstance(mask_fact, str):
            of_masks[index] = mask_fact
        elif not isinstance(facts[index], str):
            facts[index] = f"its mask: {mask_fact}"
    return facts[: len(photos)], of_masks


def _check_enough(
    file: Path, table: TextTable, kept: dict[int, PhotoFacts], quarantined: tuple[Quarantined, ...]
) -> None:
    if not kept:
        raise WhalebenchError(
            f"None of the photos of {file} can be used, the first ({quarantined[0].path}) because "
            f"{quarantined[0].reason}; replace the files."
        )
    individuals = sorted({table.rows[index]["identity"] for index in kept} - {""})
    if len(individuals) < 2:
        named = f"one individual only ({individuals[0]})" if individuals else "no individual"
        number = "1 photo was" if len(quarantined) == 1 else f"{len(quarantined)} photos were"
        lost = f" after {number} quarantined" if quarantined else ""
        raise WhalebenchError(
            f"{file} has {named}{lost}; a benchmark needs at least two; name them in the column identity."
        )


def _frame(
    table: TextTable,
    kept: dict[int, PhotoFacts],
    photos: list[str],
    masks: list[str],
    mask_facts: dict[int, PhotoFacts],
) -> pd.DataFrame:
    """The catalog rows of the photos kept."""
    rows = [table.rows[index] for index in kept]
    columns: dict[str, list[str] | list[int] | list[float | None]] = {
        column: [row[column] for row in rows]
        for column in ("image", "identity", *OPTIONAL_TEXT, "split")
        if column in table.columns
    }
    for column in tables.number_columns(table):
        columns[column] = [float(row[column]) if row[column] else None for row in rows]
    columns |= {"path": [photos[index] for index in kept], "mask": [masks[index] for index in kept]}
    columns |= {size: [getattr(fact, size) for fact in kept.values()] for size in SIZE}
    columns["content_digest"] = [fact.content for fact in kept.values()]
    columns["file_digest"] = [fact.digest for fact in kept.values()]
    shown = [mask_facts.get(index) for index in kept]
    columns["mask_content_digest"] = [mask.content if mask else "" for mask in shown]
    columns["mask_file_digest"] = [mask.digest if mask else "" for mask in shown]
    return pd.DataFrame(columns)


def _as_before(folder: Path, frame: pd.DataFrame, name: str) -> tuple[pd.DataFrame, list[str]]:
    """The rows as they are to be kept, and a note, where the same catalog stands there already.

    Another one of this name is an error. One that was made when photos were told apart by the bytes of their
    files, or masks not at all, stays so, and with it its digest, its split and its runs.
    """
    if not (folder / "catalog.json").exists():
        return frame, []
    there = read_catalog(folder)
    note = f"The benchmark {name} was imported before with the same content"
    if there.digest == build_catalog(frame, name).digest:
        return frame, [f"{note}."]
    by_rule_1 = frame.drop(columns="mask_content_digest")
    by_bytes = by_rule_1.assign(content_digest=frame["file_digest"])
    for older, lacks in (
        (by_rule_1, "count what a mask shows"),
        (by_bytes, "know a photo again in a file that was saved anew"),
    ):
        if there.digest == build_catalog(older, name).digest:
            return older, [
                f"{note}, by an older whalebench that does not {lacks}. It stays so: import it under another "
                f"name to have it do so."
            ]
    old, new = set(there.table["image"]), set(frame["image"])
    change = "the same photos with other annotations or pixels"
    if old != new:
        change = f"{len(new - old)} photos added, {len(old - new)} removed"
    raise WhalebenchError(
        f"The benchmark {name} exists with other content ({change}); "
        f"choose another name, or remove {folder} first."
    )
