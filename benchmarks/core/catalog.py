"""The catalog: one table with a row for each photo, its digest, and the folder it is kept in.

The table says which columns there are and of which type; the digest goes over what the photos show and are
called. A stamp for each photo's file tells later whether it is still the file that was catalogued, without
reading most of them again.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from whalebench import WhalebenchError, __version__
from whalebench.benchmarks.core.workspace import (
    ExistsError,
    atomic_path,
    atomic_text,
    digest_file,
    digest_text,
)

REQUIRED = ("image", "path", "identity")
OPTIONAL_TEXT = ("encounter", "date", "viewpoint", "species", "mask")
BOX = ("x0", "y0", "x1", "y1")
SIZE = ("width", "height")
DIGESTS = ("content_digest", "file_digest")
PARTS = ("train", "valid", "test")
NO_ENCOUNTER = (
    "No encounter is given, so photos of one burst may be learned from and tested on, which flatters every "
    "score; name in the column encounter which photos were taken together."
)
"""What is to be said of a catalog, and of every run on it, that names no encounter."""
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

    @cached_property
    def landmark_names(self) -> tuple[str, ...]:
        """The names of the landmarks, sorted."""
        return landmark_names(self.table.columns)

    @property
    def warnings(self) -> list[str]:
        """What a reader of any score on it should know."""
        return [] if (self.table["encounter"] != "").any() else [NO_ENCOUNTER]

    @cached_property
    def identities(self) -> tuple[str, ...]:
        """The individuals by name, sorted, without the empty name of *new* photos."""
        return tuple(sorted(set(self.table["identity"]) - {""}))


def build_catalog(table: pd.DataFrame, name: str, folder: Path | None = None) -> Catalog:
    """A catalog in memory from rows in any order; columns that are absent are filled as not known.

    Relative paths are taken from `folder`. A column that is no catalog column is dropped.
    """
    for column in REQUIRED:
        if column not in table.columns:
            raise WhalebenchError(f"The catalog {name} has no column {column!r}; add it to the table.")
    complete = complete_table(table)
    image, times = max(Counter(complete["image"]).items(), key=lambda item: item[1], default=("", 0))
    if times > 1:
        raise WhalebenchError(
            f"The catalog {name} holds the image {image!r} {times} times; keep one of them."
        )
    digest = table_digest(complete)
    base = folder.absolute() if folder else Path()
    for column in ("path", "mask"):
        paths = [str(base / value) if value else "" for value in complete[column]]
        complete[column] = pd.Series(paths, dtype="str")
    return Catalog(name, complete, digest)


def write_catalog(
    table: pd.DataFrame,
    folder: Path,
    name: str,
    source: str,
    *,
    quarantined: int = 0,
    dataset: str = "",
) -> Catalog:
    """The catalog as it now stands in `folder`: catalog.parquet, and catalog.json which is written last.

    Paths inside `folder` are stored relative to it, so that a workspace can be moved. dataset is the public
    set that the photos are, where it is said. Raises ExistsError where another catalog stands there.
    """
    catalog = build_catalog(table, name, folder)
    stored = catalog.table.copy()
    undigested = stored.loc[stored["file_digest"] == "", "image"].tolist()
    if undigested:
        raise WhalebenchError(
            f"The photo {undigested[0]} of {name} has no file_digest; give the SHA-256 of its file."
        )
    for column in ("path", "mask"):
        stored[column] = pd.Series([_relative(value, folder) for value in stored[column]], dtype="str")
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
    }
    atomic_text(file, json.dumps(facts, indent=2) + "\n", exclusive=is_new)
    return catalog


def read_facts(folder: Path) -> dict[str, Any]:
    """The content of catalog.json: name, digest, counts, source, when and with which version it was made."""
    file = folder / "catalog.json"
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise WhalebenchError(
            f"There is no catalog in {folder}; import one with `whalebench data import csv FILE --name NAME`."
        ) from error
    except (OSError, ValueError) as error:
        raise WhalebenchError(f"{file} cannot be read: {error}; import the benchmark again.") from error
    if not isinstance(facts, dict) or not {"name", "digest"} <= set(facts):
        raise WhalebenchError(f"{file} does not say name and digest; import the benchmark again.")
    return facts


def read_catalog(folder: Path) -> Catalog:
    """The catalog kept in `folder`; a table that no longer has the digest it was written with is refused."""
    facts = read_facts(folder)
    file = folder / "catalog.parquet"
    try:
        table = pd.read_parquet(file)
    except (OSError, ValueError) as error:  # pyarrow's own errors are among these
        raise WhalebenchError(f"{file} cannot be read: {error}; import the benchmark again.") from error
    catalog = build_catalog(table, str(facts["name"]), folder)
    if catalog.digest != facts["digest"]:
        raise WhalebenchError(
            f"{file} is not the table that was catalogued as {catalog.name} (digest {catalog.digest[:12]}, "
            f"not {str(facts['digest'])[:12]}); restore it, or import what it says now under a new name."
        )
    return catalog


def _relative(value: str, folder: Path) -> str:
    if value and Path(value).is_relative_to(folder.absolute()):
        return Path(value).relative_to(folder.absolute()).as_posix()
    return value


def complete_table(table: pd.DataFrame) -> pd.DataFrame:
    """The rows sorted by image, with all catalog columns in their fixed order and types and no others.

    Texts that are absent become "", numbers NaN, sizes 0. The column `split` stays absent when it is empty.
    """
    images = [str(image) for image in table["image"]]
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
    split = _text(rows, "split")
    if any(split):
        columns["split"] = split
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

    Numbers enter with four decimals, and of a mask only whether there is one.
    """
    parts = []
    for column in sorted(set(table.columns) - {"path", "file_digest"}):
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
    values = table[column].fillna("") if column in table else [""] * len(table)
    return pd.Series(list(map(str, values)), index=table.index, dtype="str")


def verify_photos(catalog: Catalog, folder: Path) -> None:
    """Refuses a catalog whose photos are no longer the files that were catalogued, and names those photos.

    Only files whose size or times differ from the stamps in `folder` are hashed; then the stamps are written
    anew.
    """
    images, paths, digests = (catalog.table[name].tolist() for name in ("image", "path", "file_digest"))
    known = _read_stamps(folder)
    current: dict[str, Stamp] = {}
    unsure: dict[str, Path] = {}
    absent: list[str] = []
    for image, path, digest in zip(images, map(Path, paths), digests, strict=True):
        try:
            current[image] = take_stamp(path, digest)
        except OSError:
            absent.append(image)
            continue
        if known.get(image) != current[image]:
            unsure[image] = path
    with ThreadPoolExecutor() as pool:
        hashed = dict(zip(unsure, pool.map(_digest, unsure.values()), strict=True))
    changed = [image for image, digest in hashed.items() if digest != current[image][0]]
    if absent or changed:
        raise WhalebenchError(_changes(catalog.name, absent, changed))
    if unsure or len(known) != len(current):
        with suppress(WhalebenchError):  # where it cannot be written they are hashed the next time, too
            write_stamps(folder, current)


def take_stamp(path: Path, digest: str = "") -> Stamp:
    """The digest given, with size and times of the file as they are now."""
    status = path.stat()
    # The entry's time, unlike the content's, cannot be set back by hand.
    return (digest, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def write_stamps(folder: Path, stamps: Mapping[str, Stamp]) -> None:
    """Writes the stamps by image, each taken before its file was hashed; they are trusted from now on."""
    atomic_text(folder / STAMPS, json.dumps(stamps, separators=(",", ":")) + "\n")


def _read_stamps(folder: Path) -> dict[str, Stamp]:
    try:
        stamps = json.loads((folder / STAMPS).read_text(encoding="utf-8"))
        return {image: (str(d), int(s), int(m), int(c)) for image, (d, s, m, c) in stamps.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}  # without stamps every photo is hashed, which is slow but safe


def _digest(path: Path) -> str:
    try:
        return digest_file(path)
    except OSError:
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
