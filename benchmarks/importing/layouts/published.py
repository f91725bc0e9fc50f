"""What layouts of published sets share: files found by name, labels read, photos told, counts compared."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from whalebench import WhalebenchError, one_line
from whalebench.benchmarks.importing.layouts.layout import LayoutOptions
from whalebench.benchmarks.importing.sources import Source
from whalebench.benchmarks.importing.tables import TextTable, read_table

Cells = dict[str, dict[str, str]]
"""Further cells of the table, by image and column."""
PHOTOS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")


@dataclass(frozen=True)
class Labels:
    """The photos that a set names, in the order of its table."""

    name: str
    """The table in the source."""
    images: tuple[str, ...]
    """File names of the photos, without folders."""
    identities: tuple[str, ...]
    """Whom each shows; "" for *new*, an animal that is none of the named ones."""
    species: tuple[str, ...]
    places: tuple[str, ...]
    """Where each stands, as "train.csv, line 2"."""


def find(source: Source, file: str) -> str:
    """The name in the source of a file in any folder, the one nearest to the top; "" where there is none.

    Raises WhalebenchError where several are equally near.
    """
    wanted = file.casefold()
    found = [name for name in source.names() if posixpath.basename(name).casefold() == wanted]
    top = min((name.count("/") for name in found), default=0)
    nearest = [name for name in found if name.count("/") == top]
    if len(nearest) > 1:
        raise WhalebenchError(
            f"{source.place} has {len(nearest)} files {file} ({one_line(' and '.join(nearest), 80)}); give "
            f"the folder of one of them."
        )
    return nearest[0] if nearest else ""


def read_rows(source: Source, name: str, columns: Sequence[str]) -> TextTable:
    """The rows of a table with these columns; raises WhalebenchError where one is absent."""
    table = read_table(source.path(name), columns)
    for column in columns:
        if column not in table.columns:
            raise WhalebenchError(
                f"{source.place}: {name} has no column {column!r}, but "
                f"{one_line(', '.join(table.columns), 80)}; give the table as it was published."
            )
    return table


def read_labels(
    source: Source,
    columns: Sequence[str],
    options: LayoutOptions,
    *,
    new: str = "",
    species: str = "",
    spellings: Mapping[str, str] | None = None,
) -> Labels:
    """The labels of train.csv, or the option's table, whose columns of images, of individuals and maybe of
    species are given.

    new is the word for an animal without a name, species that of all where there is no column, spellings what
    is put in place of a species. Raises WhalebenchError where there is no such table.
    """
    file = posixpath.basename(options.columns.get("identity", "train.csv"))
    name = find(source, file)
    if not name:
        raise WhalebenchError(
            f"{source.place} has no {one_line(file, 60)} with the columns {','.join(columns)}; give the "
            f"folder or archive that holds it."
        )
    table = read_rows(source, name, columns)
    image, identity, *kinds = columns
    places = tuple(f"{name}, {place}" for place in table.places)
    for row, place in zip(table.rows, places, strict=True):
        if posixpath.basename(row[image].replace("\\", "/")) != row[image] or row[image] in (".", ".."):
            raise WhalebenchError(
                f"{source.place}: {place}, column {image}, value {one_line(repr(row[image]), 60)}: it is no "
                f"name of a file; remove its folders."
            )
    said = [row[kinds[0]] if kinds else species for row in table.rows]
    return Labels(
        name,
        tuple(row[image] for row in table.rows),
        tuple("" if row[identity] == new else row[identity] for row in table.rows),
        tuple((spellings or {}).get(word, word) for word in said),
        places,
    )


def refuse_columns(options: LayoutOptions, layout: str) -> None:
    """Raises WhalebenchError for an option that a published layout has no use for."""
    for column in options.columns:
        if column not in ("box", "identity", "path"):
            raise WhalebenchError(
                f"--column {column}=... says nothing to the layout {layout}, whose columns are known; it "
                f"takes identity=FILE (whose names), box=FILE (whose boxes) and path=FOLDER (whose photos)."
            )


def photo_names(
    source: Source, labels: Labels, usual: str, options: LayoutOptions
) -> tuple[dict[str, str], list[str]]:
    """The name in the source of each labelled photo, and notes; one that is not there is named in its folder.

    The folder is that of the option `path`, or else the one called as usual, or the one with most of them.
    Raises WhalebenchError for an option `path` that is no folder with photos of the table.
    """
    wanted = set(labels.images)
    photos = [name for name in source.names() if name.casefold().endswith(PHOTOS)]
    held = Counter(posixpath.dirname(name) for name in photos if posixpath.basename(name) in wanted)
    chosen = options.columns.get("path", "").strip("/")
    if chosen and chosen not in held:
        raise WhalebenchError(
            f"{source.place} has no photos of {labels.name} in {one_line(repr(chosen), 60)}, but in "
            f"{one_line(', '.join(sorted(held)) or 'no folder', 80)}; give --column path=FOLDER with one."
        )
    beside = posixpath.join(posixpath.dirname(labels.name), usual)
    folder = chosen or max(
        held, key=lambda name: (posixpath.basename(name) == usual, held[name]), default=beside
    )
    notes = []
    if others := sorted(set(held) - {folder}):
        notes.append(
            f"Photos are those in {folder or 'the top folder'}; {one_line(', '.join(others), 80)} also has "
            f"photos of these names: --column path=FOLDER takes another folder's."
        )
    if is_cropped(options, usual):
        notes.append(
            f"Boxes and points are of the photos in {usual}/ and left out for those in {folder}; boxes of "
            f"these can be given as --column box=FILE."
        )
    unnamed = sum(posixpath.basename(name) not in wanted for name in photos)
    if unnamed:
        notes.append(f"{unnamed:,} photos that {labels.name} does not name, as those of tests, are left out.")
    return {image: posixpath.join(folder, image) for image in labels.images}, notes


def is_cropped(options: LayoutOptions, usual: str) -> bool:
    """Whether photos of another folder are asked for than that which annotations were published for."""
    return posixpath.basename(options.columns.get("path", usual).strip("/")) != usual


def box_file(
    source: Source, options: LayoutOptions, files: Iterable[str], usual: str
) -> tuple[str, list[str]]:
    """The name of the file whose boxes are taken, the option's or the first there is, and a note of others.

    "" where there is none, and for cropped photos. Raises WhalebenchError for an option that names no file.
    """
    there = [name for file in files if (name := find(source, file))]
    if chosen := options.columns.get("box", ""):
        name = find(source, posixpath.basename(chosen))
        if not name:
            raise WhalebenchError(
                f"{source.place} has no file {chosen!r} of boxes; give one as --column box=FILE, as "
                f"{there[0] if there else 'boxes.csv'}."
            )
        return name, []
    if not there or is_cropped(options, usual):
        return "", []
    others = ", ".join(map(posixpath.basename, there[1:]))
    note = f"Boxes are those of {there[0]}; --column box=FILE takes those of {one_line(others, 100)}."
    return there[0], [note] if others else []


def count_notes(labels: Labels, published: Mapping[str, int]) -> list[str]:
    """A sentence where counts differ from the published ones, which are some of those of `counts`."""
    found = counts(labels)
    differing = [
        f"{found[what]:,} {what} (published: {number:,})"
        for what, number in published.items()
        if found[what] != number
    ]
    return [f"{labels.name} is not as published: it has {', '.join(differing)}."] if differing else []


def counts(labels: Labels) -> dict[str, int]:
    """How many photos, individuals, individuals with one photo, new photos and species there are."""
    shown = Counter(labels.identities)
    new = shown.pop("", 0)
    return {
        "photos": len(labels.images),
        "individuals": len(shown),
        "individuals with one photo": sum(number == 1 for number in shown.values()),
        "new photos": new,
        "species": len(set(labels.species)),
    }


def merged(labels: Labels, *annotations: Cells) -> Cells:
    """The cells of all annotations by labelled photo; those of other photos are left out."""
    cells: Cells = {image: {} for image in labels.images}
    for annotation in annotations:
        for image in cells.keys() & annotation.keys():
            cells[image].update(annotation[image])
    return cells


def lay_out(labels: Labels, photos: Mapping[str, str], cells: Cells) -> TextTable:
    """The table with the columns of the catalog, and the cells."""
    named = dict.fromkeys(column for image in labels.images for column in cells[image])
    columns = ("image", "path", "identity", "species", *named)
    rows = tuple(
        {"image": image, "path": photos[image], "identity": identity, "species": species}
        | {column: cells[image].get(column, "") for column in named}
        for image, identity, species in zip(labels.images, labels.identities, labels.species, strict=True)
    )
    return TextTable(columns, rows, labels.places)
