"""Anyone's photos become a benchmark: a table is read, everything is checked, every photo is decoded."""

from __future__ import annotations

import re
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from whalebench import WhalebenchError, table_cell
from whalebench.benchmarks.core.catalog import (
    NAMELESS,
    NO_ENCOUNTER,
    NOT_IDENTIFIED,
    OPTIONAL_TEXT,
    SIZE,
    WHERE_GIVEN,
    Catalog,
    Region,
    Stamp,
    mask_of,
    read_catalog,
    write_catalog,
    write_stamps,
)
from whalebench.benchmarks.core.files import refuse_not_utf8
from whalebench.benchmarks.core.progress import SILENT, Progress
from whalebench.benchmarks.core.remote import url_of
from whalebench.benchmarks.core.store import MAX_PIXELS, Advance, PhotoFacts, inspect_photos
from whalebench.benchmarks.core.workspace import Workspace, atomic_text, benchmark_lock
from whalebench.benchmarks.importing import boxes, tables
from whalebench.benchmarks.importing.aliases import Aliases
from whalebench.benchmarks.importing.dates import EncounterRule, proposal, with_dates, with_encounters
from whalebench.benchmarks.importing.earlier import OLDER, Quarantined, as_before, still_aside
from whalebench.benchmarks.importing.fits import Missing, absent_files, misfits, resolve_paths, unclear_masks
from whalebench.benchmarks.importing.given import Given, given_regions, in_parts, notes_on_boxes, unclear
from whalebench.benchmarks.importing.layouts import LAYOUTS, Layout, LayoutOptions
from whalebench.benchmarks.importing.layouts.layout import Form
from whalebench.benchmarks.importing.names import without_unseen
from whalebench.benchmarks.importing.nobody import name_nobody
from whalebench.benchmarks.importing.notes import notes_on
from whalebench.benchmarks.importing.outlines import with_masks
from whalebench.benchmarks.importing.sources import Source, open_source
from whalebench.benchmarks.importing.tables import TextTable

NO_OPTIONS = LayoutOptions()
COPIES, MASKS = "photos", "masks"
"""The folders of a benchmark with what was copied from an archive, and what was drawn of outlines."""


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
    given: Given = "auto",
    dataset: str = "",
    aliases: Aliases | None = None,
    encounters: EncounterRule | None = None,
    progress: Progress = SILENT,
    max_pixels: int = MAX_PIXELS,
) -> ImportResult:
    """The benchmark `name`, made from the files of a layout that stand in a folder, an archive or a table.

    `place` is its path or, of one at a URL, where that stands once it is fetched (`fetched_path`).

    All problems of its rows are reported in one error. Photos that cannot be decoded are quarantined; absent
    ones are a problem unless `missing` says otherwise. Where boxes are `given` each photo with one is the
    part of its file within it. An archive's photos are copied into the benchmark's folder. dataset is the
    public set that the photos are: weights that were trained on it are marked so. aliases are applied before
    anything is checked, encounters are made where the table names none.
    """
    _check_name(name)
    choices = _Choices(_form(layout, options), missing, given, encounters, max_pixels)
    folder = workspace.benchmarks / name
    with ExitStack() as opened:
        source = opened.enter_context(open_source(place, folder / COPIES, workspace.cache))
        progress.stage("read the layout")
        laid = layout.read(source, options)
        source = opened.enter_context(with_masks(source, laid.outlines, folder / MASKS, progress))
        table, folded = without_unseen(laid.table)
        table, changed, derived = _named(table, options.species, aliases)
        read = _read_photos(source, _check_photos(source, table, choices, progress), choices, progress)
        notes = [*source.notes, *laid.notes, *folded, *changed, *read.notes]
        with benchmark_lock(workspace, name, lambda: progress.stage("wait for benchmark")):
            frame, known = as_before(folder, read.frame, read.from_exif, name)
            quarantined = (*read.quarantined, *still_aside(folder, read.frame, frame))
            opened.close()  # copies move to where the frame says they stand
            listed = pd.DataFrame(quarantined, columns=Quarantined._fields)
            cells = listed.map(table_cell)  # as it is looked at in a spreadsheet
            atomic_text(folder / "quarantine.csv", cells.to_csv(index=False, lineterminator="\n"))
            catalog = write_catalog(
                frame,
                folder,
                name,
                url_of(place) or str(place.absolute()),
                quarantined=len(quarantined),
                dataset=dataset or laid.dataset,
                derived=derived | read.derived if frame is read.frame else read_catalog(folder).derived,
            )
            write_stamps(folder, read.stamps)
    return ImportResult(catalog, quarantined, (*notes, *known))


def _form(layout: Layout, options: LayoutOptions) -> Form:
    """How boxes are written; raises WhalebenchError for options that the layout does not take."""
    if options.columns and not layout.takes_columns:
        raise WhalebenchError(f"The layout {layout.name} has no columns to be named; leave out --column.")
    if layout.takes_boxes:
        return options.boxes
    if options.boxes:
        raise WhalebenchError(
            f"The layout {layout.name} says itself how its boxes are written; leave out --boxes."
        )
    return "corners"


def import_csv(file: Path, name: str, workspace: Workspace, **how: Any) -> ImportResult:
    """`import_photos` of a table with the catalog's columns."""
    return import_photos(LAYOUTS["csv"], file, name, workspace, **how)


def read_unnamed(
    source: Source, table: TextTable, *, in_boxes: bool, headers: bool, progress: Progress = SILENT
) -> ReadPhotos:
    """The photos of a table whose individuals nobody need know, read as for a benchmark.

    Absent ones are set aside like unreadable ones. With `in_boxes` each with a box is the part within it;
    `headers` is as in `inspect_photos`. Raises WhalebenchError for rows that cannot be, and where no photo is
    left.
    """
    if "identity" not in table.columns:
        rows = tuple(row | {"identity": NOT_IDENTIFIED} for row in table.rows)
        table = replace(table, columns=(*table.columns, "identity"), rows=rows)
    given: Given = "box" if in_boxes and any(row.get("x0") for row in table.rows) else "auto"
    choices = _Choices("", "quarantine", given, None, MAX_PIXELS, named=False, headers=headers)
    table, folded = without_unseen(table)
    read = _read_photos(source, _check_photos(source, table, choices, progress), choices, progress)
    return replace(read, notes=[*folded, *read.notes])


@dataclass(frozen=True)
class ReadPhotos:
    """The photos of a table as they were found to be."""

    frame: pd.DataFrame
    """The catalog's rows."""
    quarantined: tuple[Quarantined, ...]
    stamps: dict[str, Stamp]
    notes: list[str]
    derived: dict[str, Any]
    """As in `Catalog`."""
    from_exif: frozenset[str]
    """The images whose dates are from EXIF."""


@dataclass(frozen=True)
class _Choices:
    """What the user says of the rows, see `import_photos`."""

    form: Form
    missing: Missing
    given: Given
    encounters: EncounterRule | None
    max_pixels: int
    named: bool = True
    """Whether two individuals must be named, as in a benchmark."""
    headers: bool = False
    """As in `inspect_photos`."""


@dataclass(frozen=True)
class _Checked:
    """Rows in which nothing is wrong, as far as can be told before photos are decoded."""

    table: TextTable
    photos: list[str]
    """The path of each row's photo now."""
    masks: list[str]
    """And of its mask, "" for none."""
    regions: list[Region | None]
    notes: list[str]


def _check_photos(source: Source, table: TextTable, choices: _Choices, progress: Progress) -> _Checked:
    """The rows, checked, beside the files that they name; raises WhalebenchError with all problems."""
    place, named = source.place, [row.get(column, "") for row in table.rows for column in ("path", "mask")]
    refuse_not_utf8([str(place.absolute()), *named])
    notes = [*boxes.on_other_names(table.columns), *tables.check_columns(table, place)]
    table, of_nobody = name_nobody(table)
    boxes.check_form(choices.form, table, place)
    table = boxes.as_corners(table, choices.form)
    if not choices.form:
        boxes.refuse_other_forms(source, table)
    problems = tables.check_rows(table, tables.number_columns(table))
    if len(problems) >= tables.MANY:  # the table is wrong as a whole: no file of it is looked for
        tables.refuse(place, table, problems)
    progress.stage("find the files")
    source.fetch(named, progress.advance)
    photos, masks = resolve_paths(table, "path", source), resolve_paths(table, "mask", source)
    problems += absent_files(source, table, photos, masks, choices.missing)
    table, in_shares = boxes.in_pixels(table, photos)
    regions = given_regions(table, photos, choices.given)
    problems += unclear(table, photos, regions)
    tables.refuse(place, table, problems + misfits(table, photos, masks, choices.max_pixels))
    _check_enough(place, table, range(len(table.rows)), (), choices)  # before hours of decoding
    notes += [*of_nobody, *in_shares, *notes_on_boxes(table, photos, regions)] if choices.named else in_shares
    return _Checked(table, photos, masks, regions, notes)


def _read_photos(source: Source, checked: _Checked, choices: _Choices, progress: Progress) -> ReadPhotos:
    """Decodes the photos and masks of checked rows, and what is to be said of them."""
    table, regions = checked.table, checked.regions
    progress.stage("inspect")
    facts, mask_facts = _decode(checked, choices, progress.advance)
    tables.refuse(source.place, table, unclear_masks(table, mask_facts))
    photos, masks = ([source.kept(path) for path in paths] for paths in (checked.photos, checked.masks))
    left_out = {index: fact for index, fact in enumerate(facts) if isinstance(fact, str)}
    kept = {index: fact for index, fact in enumerate(facts) if not isinstance(fact, str)}
    quarantined = tuple(Quarantined(table.rows[i]["image"], photos[i], left_out[i]) for i in left_out)
    _check_enough(source.place, table, kept, quarantined, choices)
    images = [row["image"] for row in table.rows]
    stamps = {images[index]: fact.stamp for index, fact in kept.items()}
    stamps |= {mask_of(images[index]): fact.stamp for index, fact in mask_facts.items() if index in kept}
    dated = with_dates(table, kept)
    seen = notes_on(dated.table.rows, kept, mask_facts)
    table, met, derived = _in_encounters(dated.table, kept, choices.encounters, seen)
    derived |= {"dates from EXIF": len(dated.found)} if dated.found else {}
    whole = {index: fact for index, fact in kept.items() if regions[index] is None}
    frame = in_parts(_frame(table, kept, photos, masks, mask_facts), [regions[index] for index in kept])
    of_photos = [*met, *boxes.notes_on_boxes(table.rows, whole, choices.form)] if choices.named else []
    notes = [*checked.notes, *dated.notes, *of_photos]
    from_exif = frozenset(images[index] for index in dated.found)
    return ReadPhotos(frame, quarantined, stamps, notes, derived, from_exif)


def _in_encounters(
    table: TextTable, kept: dict[int, PhotoFacts], rule: EncounterRule | None, seen: list[str]
) -> tuple[TextTable, list[str], dict[str, Any]]:
    """The table with the encounters of a rule, or as it is with a proposal; notes, and what was derived.

    Notes that were `seen` before stay, but for the one that there is no encounter.
    """
    if rule is None:
        return table, [*seen, *proposal(table.rows, kept)], {}
    met, notes = with_encounters(table, kept, rule)
    if met is table:
        return table, [*seen, *notes], {}
    return met, [*(note for note in seen if note != NO_ENCOUNTER), *notes], {"encounters by": rule.words()}


def _named(
    table: TextTable, species: str, aliases: Aliases | None
) -> tuple[TextTable, list[str], dict[str, Any]]:
    """The table with this species where a row names none, and one name an animal; notes; what was derived."""
    if species:
        rows = tuple(row | {"species": row.get("species") or species} for row in table.rows)
        table = replace(table, columns=tuple(dict.fromkeys((*table.columns, "species"))), rows=rows)
    if not aliases:
        return table, [], {}
    table, notes, facts = aliases.apply(table)
    return table, notes, {"aliases": facts}


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,99}", name):
        raise WhalebenchError(
            f"{name!r} cannot name a benchmark; use small letters, digits and hyphens, such as right-whales; "
            f"a hundred at most."
        )
    if name == "flukes":
        raise WhalebenchError("The name 'flukes' is that of the embedded benchmark; choose another name.")


def _decode(
    checked: _Checked, choices: _Choices, progress: Advance | None
) -> tuple[list[PhotoFacts | str], dict[int, PhotoFacts]]:
    """The facts of each photo, or why it or its mask cannot be used; and those of masks by place."""
    photos = checked.photos
    masked = [index for index, mask in enumerate(checked.masks) if mask]
    paths = [Path(path) for path in (*photos, *(checked.masks[index] for index in masked))]
    parts = [*checked.regions, *(checked.regions[index] for index in masked)]
    facts = inspect_photos(
        paths,
        parts,
        masks=len(masked),
        max_pixels=choices.max_pixels,
        progress=progress,
        headers=choices.headers,
    )
    of_masks: dict[int, PhotoFacts] = {}
    for index, mask_fact in zip(masked, facts[len(photos) :], strict=True):
        if not isinstance(mask_fact, str):
            of_masks[index] = mask_fact
        elif not isinstance(facts[index], str):
            facts[index] = f"its mask: {mask_fact}"
    return facts[: len(photos)], of_masks


def _check_enough(
    file: Path,
    table: TextTable,
    kept: Collection[int],
    quarantined: tuple[Quarantined, ...],
    choices: _Choices,
) -> None:
    if not kept:
        raise WhalebenchError(
            f"None of the photos of {file} can be used, the first ({quarantined[0].path}) because "
            f"{quarantined[0].reason}; replace the files."
        )
    individuals = sorted({table.rows[index]["identity"] for index in kept}.difference(NAMELESS))
    if choices.named and len(individuals) < 2:
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
    """The catalog rows of the photos kept, and in the columns OLDER what their digests were before."""
    rows = [table.rows[index] for index in kept]
    columns: dict[str, list[str] | list[int] | list[float | None]] = {
        column: [row[column] for row in rows]
        for column in ("image", "identity", *OPTIONAL_TEXT, *WHERE_GIVEN)
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
    columns[OLDER[0]] = [fact.older for fact in kept.values()]
    columns[OLDER[1]] = [mask.older if mask else "" for mask in shown]
    return pd.DataFrame(columns)
