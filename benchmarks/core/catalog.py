"""The catalog: one table with a row for each photo, its digest, and the folder it is kept in.

The table says which columns there are and of which type; the digest goes over what the photos, and by rule 2
the masks, show and are called. A stamp for each of their files tells later whether it is still the file that
was catalogued, without reading most of them again. catalog.json has digests of the other files and of itself.
"""

import hashlib
import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from whalebench import WhalebenchError, __version__, one_line
from whalebench.benchmarks.core.copies import bring
from whalebench.benchmarks.core.files import (
    differs_from_digest,
    digest_file,
    digest_text,
    parse_json,
    regular_file,
    with_digest,
)
from whalebench.benchmarks.core.remote import fetched_path, is_url, url_of
from whalebench.benchmarks.core.workspace import ExistsError, atomic_path, atomic_text

REQUIRED = ("image", "path", "identity")
OPTIONAL_TEXT = ("encounter", "date", "viewpoint", "species", "mask")
DETAILS = ("camera", "place", "licence", "rightsholder", "quality")
"""Texts on a photo that no method sees."""
WHERE_GIVEN = ("split", *DETAILS, "duplicates")
"""Further texts, whose columns are absent, from the digest as well, where no photo has one."""
BOX = ("x0", "y0", "x1", "y1")
NOT_IDENTIFIED = "?"
"""The identity of an animal that is not identified yet: neither one of the others nor *new*, which is ""."""
NAMELESS = ("", NOT_IDENTIFIED)
"""Identities that name no individual."""
REGION = ("region_x0", "region_y0", "region_x1", "region_y1")
"""The part of its file that a photo is, in whole pixels of the upright file; absent where all are whole."""
Region = tuple[int, int, int, int]
"""Left, top, right and bottom."""
SIZE = ("width", "height")
DIGESTS = ("content_digest", "file_digest")
MASK_DIGESTS = ("mask_content_digest", "mask_file_digest")
"""The same of masks; absent in catalogs by rule 1, where those of a mask's file may be there."""
NOT_COUNTED = ("path", "file_digest", "mask_file_digest")
"""Columns that the digest of a catalog leaves out, since they say where and in which files the photos lie."""
PLAIN_PATH = re.compile("[^/.][^/]*(/[^/.][^/]*)*")
"""A relative path that pathlib leaves as it is: without empty parts, and none that begins with a point."""
OF_FILES = ("image", "path", "file_digest", "mask", "mask_file_digest")
"""Columns that say which files there are."""
RULE = 2
"""The newest rule of digests. By rule 1, that of `flukes` and of older catalogs, it counts of a mask only
whether there is one; by rule 2 what it shows, too."""
LISTED = ("catalog.parquet", "quarantine.csv")
"""Files of a catalog's folder whose digests catalog.json holds."""
FACTS_DIGEST = "facts_digest"
"""Its key for the digest of everything else in it; older ones have none."""
PARTS = ("train", "valid", "test")
NO_ENCOUNTER = (
    "No encounter is given, so photos of one burst may be learned from and tested on, which flatters every "
    "score; name in the column encounter which photos were taken together."
)
"""What is to be said of a catalog, and of every run on it, that names no encounter."""
GIVEN = "Boxes are given: each photo is the part of its file within the box."
"""The same of a catalog some photos of which are parts, since their boxes say which animal is asked about."""
Stamp = tuple[str, int, int, int]
"""A file's SHA-256, its size, and when its content and its entry were last changed (nanoseconds)."""

STAMPS = "photos.stat.json"
"""The file of a catalog's folder that holds the stamps by image."""


@dataclass(frozen=True, eq=False)
class Catalog:
    """The photos of one benchmark, sorted by image, with the digest of what they show and are called."""

    name: str
    """The benchmark's name."""
    table: pd.DataFrame
    """One row a photo; "" is an absent text and NaN an absent number. Paths are absolute."""
    digest: str
    """SHA-256 of the rows without name, paths and file digests: the same wherever the photos lie."""
    derived: Mapping[str, Any] = field(default_factory=dict)
    """What its import made of dates, encounters and aliases, and by which rule; no part of the digest."""

    @property
    def rule(self) -> int:
        """Of its digest, see RULE; a catalog without masks has the same one by either."""
        return RULE if "mask_content_digest" in self.table else 1

    @cached_property
    def landmark_names(self) -> tuple[str, ...]:
        """The names of the landmarks, sorted."""
        return landmark_names(self.table.columns)

    @property
    def warnings(self) -> list[str]:
        """What a reader of any score on it should know."""
        no_encounter = not (self.table["encounter"] != "").any()
        return [GIVEN] * self.has_given_boxes + [NO_ENCOUNTER] * no_encounter

    @property
    def has_given_boxes(self) -> bool:
        """Whether photos are parts of their files, see GIVEN."""
        return REGION[0] in self.table

    @cached_property
    def identities(self) -> tuple[str, ...]:
        """The individuals by name, sorted."""
        return tuple(sorted(set(self.table["identity"]).difference(NAMELESS)))

    @property
    def identified(self) -> "Catalog":
        """The same without photos of animals that are NOT_IDENTIFIED: what splits are made of.

        Not kept: a catalog that holds itself would stay in memory while a method is at work.
        """
        known = self.table["identity"] != NOT_IDENTIFIED
        return self if known.all() else replace(self, table=self.table[known].reset_index(drop=True))


def build_catalog(table: pd.DataFrame, name: str, folder: Path | None = None) -> Catalog:
    """A catalog in memory from rows in any order; columns that are absent are filled as not known.

    Relative paths are taken from `folder`, which a workspace's folder of benchmarks holds; of a URL the path
    is where its file stands once it is fetched. A column that is no catalog column is dropped.
    """
    for column in REQUIRED:
        if column not in table.columns:
            raise WhalebenchError(f"The catalog {name} has no column {column!r}; add it to the table.")
    complete = complete_table(table)
    image, times = max(Counter(complete["image"].tolist()).items(), key=lambda item: item[1], default=("", 0))
    if times > 1:
        raise WhalebenchError(
            f"The catalog {name} holds the image {image!r} {times} times; keep one of them."
        )
    digest = table_digest(complete)
    return Catalog(name, _absolute(complete, folder.absolute() if folder else Path()), digest)


def _absolute(table: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """The table with paths that are taken from the folder where they are relative."""
    for column in ("path", "mask"):
        table[column] = pd.Series(absolute_paths(folder, table[column].tolist()), dtype="str")
    return table


def absolute_paths(folder: Path, paths: Iterable[str]) -> list[str]:
    """What `str(folder / path)` gives of each, "" of an empty one; most, as they are many, without a Path.

    Of a URL it is where its file stands once it is fetched.
    """
    before, cache = str(folder / "x")[:-1], folder.parent.parent / "cache"
    plain = PLAIN_PATH.fullmatch if os.sep == "/" else lambda _: None

    def absolute(path: str) -> str:
        return str(fetched_path(path, cache) if is_url(path) else folder / path)

    return [path and (before + path if plain(path) else absolute(path)) for path in paths]


def write_catalog(
    table: pd.DataFrame,
    folder: Path,
    name: str,
    source: str,
    *,
    quarantined: int = 0,
    dataset: str = "",
    derived: Mapping[str, Any] | None = None,
) -> Catalog:
    """The catalog as it now stands in `folder`: catalog.parquet, and catalog.json which is written last.

    Paths inside `folder` are stored relative to it, so that a workspace can be moved. dataset is the public
    set that the photos are, where it is said; `derived` is as in `Catalog`. Raises ExistsError where another
    catalog stands there.
    """
    catalog = build_catalog(table, name, folder)
    stored = catalog.table.copy()
    undigested = stored.loc[stored["file_digest"] == "", "image"].tolist()
    if undigested:
        raise WhalebenchError(
            f"The photo {undigested[0]} of {name} has no file_digest; give the SHA-256 of its file."
        )
    inside = f"{folder.absolute()}/"  # texts: of a million photos paths take half a minute
    for column in ("path", "mask"):
        kept = [url_of(path) or path.removeprefix(inside) for path in stored[column]]
        stored[column] = pd.Series(kept, dtype="str")
    file = folder / "catalog.json"
    is_new = not file.exists()
    if not is_new and read_facts(folder)["digest"] != catalog.digest:
        raise ExistsError(f"{file} is that of another catalog, and a catalog is never replaced.")
    with atomic_path(folder / "catalog.parquet") as temporary:
        stored.to_parquet(temporary, index=False)
    facts = {
        "name": name,
        "digest": catalog.digest,
        "photos": len(stored),
        "individuals": len(catalog.identities),
        "new_photos": int((stored["identity"] == "").sum()),
        "quarantined": quarantined,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "source": source,
        "dataset": dataset,
        "tool_version": __version__,
        "rule": catalog.rule,
        "files": {name: digest_file(folder / name) for name in LISTED if (folder / name).exists()},
    }
    if derived:
        facts["derived"] = dict(derived)
    if not_identified := len(stored) - len(catalog.identified.table):
        facts["not_identified_photos"] = not_identified
    if catalog.has_given_boxes:
        facts["given"] = "box"
    facts = with_digest(facts, FACTS_DIGEST)
    atomic_text(file, json.dumps(facts, indent=2) + "\n", exclusive=is_new)
    return replace(catalog, derived=derived or {})


def read_facts(folder: Path) -> dict[str, Any]:
    """The content of catalog.json: name, digest, counts, source, when and with which version it was made.

    Raises WhalebenchError for one that cannot be read, or differs from its own digest.
    """
    file, again = folder / "catalog.json", "restore it, or import the benchmark again"
    try:
        facts = parse_json(regular_file(file).read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise WhalebenchError(
            f"There is no catalog in {folder}; import one with `whalebench data import csv FILE --name NAME`."
        ) from error
    except (OSError, ValueError) as error:
        raise WhalebenchError(f"{file} cannot be read: {one_line(error, 80)}; {again}.") from error
    if not isinstance(facts, dict) or not {"name", "digest"} <= set(facts):
        raise WhalebenchError(f"{file} does not say name and digest; {again}.")
    if differs_from_digest(facts, FACTS_DIGEST) or not isinstance(facts.get("files", {}), dict):
        raise WhalebenchError(f"{file} differs from its digest, so it is not what was written; {again}.")
    if facts.get("rule", 1) not in range(RULE + 1):
        raise WhalebenchError(
            f"{file} has a digest by rule {one_line(facts['rule'], 20)}, this whalebench knows rules up to "
            f"{RULE}; install the version that made it."
        )
    return facts


def read_listed(folder: Path, name: str, facts: Mapping[str, Any]) -> bytes:
    """The bytes of one of the LISTED files, found to be those that were written; OSError where it is absent.

    Older catalogs have no digest of it.
    """
    content = regular_file(folder / name).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if facts.get("files", {}).get(name, digest) != digest:
        raise WhalebenchError(
            f"{folder / name} is not the table that was catalogued as {one_line(facts['name'], 60)}: it "
            f"differs from its digest; restore it, or import the benchmark again."
        )
    return content


def read_catalog(folder: Path) -> Catalog:
    """The catalog kept in `folder`; a table that no longer has the digest it was written with is refused."""
    import pyarrow as pa

    facts = read_facts(folder)
    file = folder / "catalog.parquet"
    try:
        table = pd.read_parquet(io.BytesIO(read_listed(folder, file.name, facts)))
        catalog = build_catalog(table, str(facts["name"]), folder)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, pa.ArrowException) as error:
        reason = one_line(error, 80)
        raise WhalebenchError(f"{file} cannot be read: {reason}; import the benchmark again.") from error
    if catalog.digest != facts["digest"]:
        raise WhalebenchError(
            f"{file} is not the table that was catalogued as {catalog.name} (digest {catalog.digest[:12]}, "
            f"not {one_line(facts['digest'], 12)}); restore it, or import what it says now under a new name."
        )
    return replace(catalog, derived=facts.get("derived", {}))


def complete_table(table: pd.DataFrame) -> pd.DataFrame:
    """The rows sorted by image, with all catalog columns in their fixed order and types and no others.

    Texts that are absent become "", numbers NaN, sizes 0. Those of WHERE_GIVEN, MASK_DIGESTS and REGION stay
    absent when they are empty.
    """
    images = [str(image) for image in table["image"].tolist()]
    # Python's order of code points, so that no library's collation decides.
    rows = table.iloc[sorted(range(len(images)), key=images.__getitem__)].reset_index(drop=True)
    columns: dict[str, Any] = {column: _text(rows, column) for column in (*REQUIRED, *OPTIONAL_TEXT)}
    for column in (*BOX, *(f"{name}_{axis}" for name in landmark_names(rows.columns) for axis in "xy")):
        columns[column] = pd.to_numeric(rows[column]) if column in rows else pd.Series(np.nan, rows.index)
        columns[column] = columns[column].astype("float64")
    for column in SIZE:
        columns[column] = rows[column].astype("int64") if column in rows else pd.Series(0, rows.index)
    for column in DIGESTS:
        columns[column] = _text(rows, column)
    for column in (*WHERE_GIVEN, *MASK_DIGESTS):
        if column in rows and any(values := _text(rows, column)):
            columns[column] = values
    if REGION[0] in rows and rows[REGION[0]].notna().any():
        columns |= {column: rows[column].astype("float64") for column in REGION}
    return pd.DataFrame(columns)


def landmark_names(columns: Iterable[str]) -> tuple[str, ...]:
    """The names for which there is both a `<name>_x` and a `<name>_y` column, sorted.

    >>> landmark_names(["x0", "notch_y", "notch_x", "tip_x"])
    ('notch',)
    """
    held = set(columns)
    return tuple(sorted(name[:-2] for name in held if name.endswith("_x") and f"{name[:-2]}_y" in held))


def table_digest(table: pd.DataFrame) -> str:
    """The SHA-256 of a complete table's rows, whatever the order of columns, without paths and file digests.

    Numbers enter with four decimals. Of a mask it counts whether there is one, and where the table says what
    the masks show, which is rule 2, that.
    """
    parts = []
    for column in sorted(set(table.columns) - set(NOT_COUNTED)):
        values = table[column]
        if column == "mask":
            texts = ["yes" if value else "" for value in values]
        elif values.dtype.kind == "f":
            # Adding zero turns a rounded -0.0 into 0.0.
            rounded = np.round(values.to_numpy(dtype=np.float64), 4) + 0.0
            texts = ["" if text == "nan" else text for text in map("{:.4f}".format, rounded.tolist())]
        else:
            texts = [str(value) for value in values.tolist()]
        parts.append(json.dumps([column, texts]))
    return digest_text("\n".join(parts))


def _text(table: pd.DataFrame, column: str) -> "pd.Series[str]":
    # A list first: a column of texts is slow to go through one by one.
    values = table[column].fillna("").tolist() if column in table else [""] * len(table)
    return pd.Series(list(map(str, values)), index=table.index, dtype="str")


def regions_of(table: pd.DataFrame) -> tuple[Region | None, ...]:
    """The part of its file that each photo of a table is, and each of their masks; None for a whole one."""
    if REGION[0] not in table:
        return (None,) * len(table)
    rows = table[list(REGION)].to_numpy(np.float64).tolist()
    whole = table[REGION[0]].isna().tolist()
    return tuple(
        None if is_whole else (int(left), int(top), int(right), int(bottom))
        for is_whole, (left, top, right, bottom) in zip(whole, rows, strict=True)
    )


def catalogued_files(table: pd.DataFrame) -> Iterator[tuple[str, str, str]]:
    """Name, path and SHA-256 of each photo's file, then of each mask's whose digest is known."""
    images = table["image"].tolist()
    yield from zip(images, table["path"].tolist(), table["file_digest"].tolist(), strict=True)
    if "mask_file_digest" in table:
        of_masks = zip(images, table["mask"].tolist(), table["mask_file_digest"].tolist(), strict=True)
        yield from ((mask_of(image), path, digest) for image, path, digest in of_masks if digest)


def mask_of(image: str) -> str:
    """What the mask of a photo is called among photos."""
    return f"mask of {image}"


def verify_kept_photos(folder: Path) -> None:
    """As `verify_photos`, of a catalog whose table is known to be the one that was verified before.

    Of that only the columns are read that say where the files are.
    """
    import pyarrow.parquet

    file = folder / "catalog.parquet"
    there = set(pyarrow.parquet.read_schema(file).names)
    table = pd.read_parquet(file, columns=[name for name in OF_FILES if name in there])
    verify_photos(Catalog(folder.name, _absolute(table, folder.absolute()), ""), folder)


def verify_photos(catalog: Catalog, folder: Path) -> None:
    """Refuses a catalog whose photos or masks are no longer the files that were catalogued, and names those.

    Those at a URL are fetched first, once. Only files whose size or times differ from the stamps in `folder`
    are hashed; then the stamps are written anew.
    """
    known = _read_stamps(folder)
    files = tuple(catalogued_files(catalog.table))
    current, absent = _take_stamps(files)
    if absent:
        bring(path for name, path, _ in files if name not in current)
        fetched, absent = _take_stamps([file for file in files if file[0] not in current])
        current |= fetched
    unsure = {name: path for name, path, _ in files if name in current and known.get(name) != current[name]}
    with ThreadPoolExecutor() as pool:
        hashed = dict(zip(unsure, pool.map(_digest, unsure.values()), strict=True))
    changed = [name for name, digest in hashed.items() if digest != current[name][0]]
    if absent or changed:
        raise WhalebenchError(_changes(catalog.name, absent, changed))
    if unsure or len(known) != len(current):
        with suppress(WhalebenchError):  # where it cannot be written they are hashed the next time, too
            write_stamps(folder, current)


def _take_stamps(files: Iterable[tuple[str, str, str]]) -> tuple[dict[str, Stamp], list[str]]:
    """The stamps of files by name, and the names of those that are absent."""
    stamps, absent = {}, []
    for name, path, digest in files:
        try:
            stamps[name] = take_stamp(path, digest)
        except OSError:
            absent.append(name)
    return stamps, absent


def take_stamp(path: str | Path, digest: str = "") -> Stamp:
    """The digest given, with size and times of the file as they are now."""
    status = os.stat(path)  # noqa: PTH116  (a Path for each of thousands of files takes longer than this)
    # The entry's time, unlike the content's, cannot be set back by hand.
    return (digest, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def write_stamps(folder: Path, stamps: Mapping[str, Stamp]) -> None:
    """Writes the stamps by image, each taken before its file was hashed; they are trusted from now on."""
    atomic_text(folder / STAMPS, json.dumps(stamps, separators=(",", ":")) + "\n")


def _read_stamps(folder: Path) -> dict[str, Stamp]:
    try:
        stamps = json.loads(regular_file(folder / STAMPS).read_bytes())
        return {image: (str(d), int(s), int(m), int(c)) for image, (d, s, m, c) in stamps.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, WhalebenchError):
        return {}  # without stamps every photo is hashed, which is slow but safe


def _digest(path: str) -> str:
    try:
        return digest_file(regular_file(Path(path)))
    except (OSError, WhalebenchError):
        return ""


def _changes(name: str, absent: list[str], changed: list[str]) -> str:
    parts = []
    for what, images in (("gone", absent), ("changed", changed)):
        if images:
            more = f" and {len(images) - 5} more" if len(images) > 5 else ""
            number = "1 photo is" if len(images) == 1 else f"{len(images)} photos are"
            parts.append(f"{number} {what} ({', '.join(images[:5])}{more})")
    return (
        f"The photos of {name} are not those that were catalogued: {'; '.join(parts)}; "
        "restore the files, or import the benchmark again under a new name."
    )
