"""Photos in folders: one folder an individual, named after it, whatever stands in it."""

from __future__ import annotations

from pathlib import PurePosixPath

from whalebench import WhalebenchError, one_line
from whalebench.benchmarks.importing.layouts.layout import LaidOut, Layout, LayoutOptions
from whalebench.benchmarks.importing.sources import Source
from whalebench.benchmarks.importing.tables import TextTable

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".webp", ".bmp", ".gif", ".jp2", ".avif")
)
"""How files end that are photos; others are no part of the benchmark."""
PARTS = {"train": "train", "valid": "valid", "val": "valid", "validation": "valid", "test": "test"}
"""Folders around those of the individuals that say which part of a published split they are."""
COLUMNS = ("image", "path", "identity")


def read_folders(source: Source, options: LayoutOptions) -> LaidOut:
    """A row for each photo: its individual is the first folder on its way, its image id the whole way.

    Folders that are alone around all others are passed over, and those called train, valid and test are the
    published split. Photos in no folder are left out.
    Raises WhalebenchError where no photo stands in a folder.
    """
    photos = [name for name in source.names() if PurePosixPath(name).suffix.lower() in SUFFIXES]
    ways = {name: PurePosixPath(name).parts for name in photos}
    depth = _folders_around(list(ways.values()))
    has_parts = _is_split({way[depth].casefold() for way in ways.values() if len(way) > depth + 1})
    first = depth + has_parts
    inside = {name: way for name, way in ways.items() if len(way) > first + 1}
    if not inside:
        raise WhalebenchError(
            f"{source.place} has no photo in a folder; put the photos of each individual into a folder that "
            "is named after it."
        )
    rows = tuple(
        {"image": name, "path": name, "identity": way[first].strip()} for name, way in inside.items()
    )
    columns = (*COLUMNS, "split") if has_parts else COLUMNS
    if has_parts:
        rows = tuple(row | {"split": PARTS[inside[row["image"]][depth].casefold()]} for row in rows)
    table = TextTable(columns, rows, tuple(f"photo {one_line(name, 80)}" for name in inside))
    return LaidOut(table, tuple(_notes(ways, inside, first)))


def _folders_around(ways: list[tuple[str, ...]]) -> int:
    """How many folders are on the way to every photo, each alone where it stands and without a photo."""
    depth = 0
    while len({way[depth] for way in ways}) == 1 and all(len(way) > depth + 2 for way in ways):
        depth += 1
    return depth


def _is_split(folders: set[str]) -> bool:
    return {"train", "test"} <= folders <= PARTS.keys()


def _notes(ways: dict[str, tuple[str, ...]], inside: dict[str, tuple[str, ...]], first: int) -> list[str]:
    """Sentences on what the folders may have meant otherwise."""
    notes = []
    if loose := [name for name in ways if name not in inside]:
        notes.append(
            f"Photos that stand in no individual's folder are left out: {len(loose)}, first "
            f"{one_line(loose[0], 80)}."
        )
    deeper = [way for way in inside.values() if len(way) > first + 2]
    if deeper:
        example = "/".join(deeper[0][first:-1])
        notes.append(
            f"Folders within an individual's folder count as its own ({len(deeper)} photos, first "
            f"{one_line(example, 80)} as {one_line(deeper[0][first], 40)!r}): use the layout csv if they do "
            "not."
        )
    return notes


LAYOUT = Layout(
    name="folder",
    summary="one folder an individual, named after it; unknown, or new_whale for those that are no other's",
    example="""\
photos/
  Ada/     one.jpg  two.jpg
  Ben/     one.jpg  2024/three.jpg
  unknown/ four.jpg
""",
    read=read_folders,
)
