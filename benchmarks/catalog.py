"""The catalog: one table with a row for each photo, its digest, and the folder it is kept in."""

import json
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from whalebench import WhalebenchError, __version__
from whalebench.benchmarks.table import REQUIRED, complete_table, landmark_names, table_digest
from whalebench.benchmarks.verification import verify_files
from whalebench.benchmarks.workspace import atomic_path, atomic_text


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

    @cached_property
    def identities(self) -> tuple[str, ...]:
        """The individuals by name, sorted, without the empty name of *new* photos."""
        return tuple(sorted(set(self.table["identity"]) - {""}))

    @cached_property
    def has_boxes(self) -> bool:
        """Whether at least one photo has a box."""
        return bool(self.table["x0"].notna().any())


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
    for column in ("path", "mask"):
        complete[column] = pd.Series([_absolute(value, folder) for value in complete[column]], dtype="str")
    return Catalog(name, complete, digest)


def write_catalog(
    catalog_table: pd.DataFrame,
    folder: Path,
    name: str,
    source: str,
    *,
    quarantined: int = 0,
    dataset: str = "",
) -> Catalog:
    """The catalog as it now stands in `folder`: catalog.parquet, and catalog.json which is written last.

    Paths inside `folder` are stored relative to it, so that a workspace can be moved. dataset is the public
    set that the photos are, where it is said.
    """
    catalog = build_catalog(catalog_table, name, folder)
    stored = catalog.table.copy()
    undigested = stored.loc[stored["file_digest"] == "", "image"].tolist()
    if undigested:
        raise WhalebenchError(
            f"The photo {undigested[0]} of {name} has no file_digest; give the SHA-256 of its file."
        )
    for column in ("path", "mask"):
        stored[column] = pd.Series([_relative(value, folder) for value in stored[column]], dtype="str")
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
    atomic_text(folder / "catalog.json", json.dumps(facts, indent=2) + "\n")
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


def verify_photos(catalog: Catalog, folder: Path) -> None:
    """Nothing when every photo is still the file that was catalogued; else an error that names the photos.

    Files are hashed again only when their size or times are not those kept in `folder`/photos.stat.json.
    """
    images, paths, digests = (catalog.table[name].tolist() for name in ("image", "path", "file_digest"))
    verify_files(catalog.name, images, [Path(path) for path in paths], digests, folder)


def _absolute(value: str, folder: Path | None) -> str:
    if not value or folder is None or Path(value).is_absolute():
        return value
    return str(folder.absolute() / value)


def _relative(value: str, folder: Path) -> str:
    if value and Path(value).is_relative_to(folder.absolute()):
        return Path(value).relative_to(folder.absolute()).as_posix()
    return value
