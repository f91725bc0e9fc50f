"""A benchmark that was imported before under the same name: whether it is the same, and what it set aside."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from whalebench import WhalebenchError, cell_text, one_line
from whalebench.benchmarks.core.catalog import DETAILS, build_catalog, read_catalog, read_facts, read_listed

OLDER = ("older_digest", "mask_older_digest")
"""Columns that no catalog keeps: what its digests of photos and masks would be by the decoding of before."""


class Quarantined(NamedTuple):
    """A photo that cannot be used, and why."""

    image: str
    path: str
    reason: str


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


def as_before(
    folder: Path, frame: pd.DataFrame, from_exif: Collection[str], name: str
) -> tuple[pd.DataFrame, list[str]]:
    """The rows as they are to be kept, and a note, where the same catalog stands there already.

    Another one of this name is an error. One that was made by an older rule stays so, and with it its digest,
    its split and its runs; so does one from when some of its photos could not be decoded. `from_exif` are the
    images whose date is from EXIF.
    """
    if not (folder / "catalog.json").exists():
        return frame, []
    there = read_catalog(folder)
    aside = {photo.image for photo in _set_aside(folder)} & set(frame["image"])
    for kept in (frame, frame[~frame["image"].isin(aside)]) if aside else (frame,):
        for older, lacks in _by_older_rules(kept, from_exif):
            if there.digest == build_catalog(older, name).digest:
                return older, [_said_before(name, lacks, len(frame) - len(kept))]
    old, new = set(there.table["image"]), set(frame["image"])
    change = "the same photos with other annotations or pixels"
    if old != new:
        change = f"{len(new - old)} photos added, {len(old - new)} removed"
    raise WhalebenchError(
        f"The benchmark {name} exists with other content ({change}); "
        f"choose another name, or remove {folder} first."
    )


def _by_older_rules(frame: pd.DataFrame, from_exif: Collection[str]) -> Iterator[tuple[pd.DataFrame, str]]:
    """The rows by today's rule and by older ones, each with what a whalebench of that time does not do."""
    content, of_masks = OLDER
    yield frame, ""
    as_decoded = frame.assign(content_digest=frame[content], mask_content_digest=frame[of_masks])
    yield as_decoded, "tell photos apart by transparency and profile, and masks by what they mean"
    columns = (*DETAILS, "duplicates")
    unread = as_decoded.drop(columns=list(columns), errors="ignore")
    dates = frame.get("date", pd.Series("", frame.index))
    unread["date"] = dates.mask(frame["image"].isin(from_exif), "")
    yield unread, "read dates from EXIF, or the columns " + ", ".join(columns)
    for older in (as_decoded, unread):
        unmasked = older.drop(columns="mask_content_digest")
        yield unmasked, "count what a mask shows"
        yield (
            unmasked.assign(content_digest=frame["file_digest"]),
            "know a photo again in a file that was saved anew",
        )


def still_aside(folder: Path, read: pd.DataFrame, kept: pd.DataFrame) -> list[Quarantined]:
    """The photos that an older catalog set aside, and goes on without, though they can be read."""
    left_out = set(read["image"]) - set(kept["image"])
    return [photo for photo in _set_aside(folder) if photo.image in left_out]


def _set_aside(folder: Path) -> tuple[Quarantined, ...]:
    """The photos that are left out of the catalog there; none where the list is damaged, which is mended."""
    try:
        return read_quarantine(folder)
    except WhalebenchError:
        return ()


def _said_before(name: str, lacks: str, added: int) -> str:
    """The note on a benchmark that is there already."""
    note = f"The benchmark {name} was imported before with the same content"
    older = f", by an older whalebench that does not {lacks}" if lacks else ""
    new = f", without {added} photo(s) that could not be used then" if added else ""
    if not older and not new:
        return f"{note}."
    return f"{note}{older}{new}. It stays so: import it under another name to have what is new."
