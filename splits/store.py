"""Splits on disk: a CSV and a JSON sidecar, made once; a changed one, or a changed catalog, is refused."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pandas as pd

from whalebench import WhalebenchError, __version__
from whalebench.benchmarks.core.catalog import Catalog
from whalebench.benchmarks.core.workspace import atomic_text, digest_text
from whalebench.splits.split import COLUMNS, Split, check_split, column_digests, make_table, table_text

SIDECAR = frozenset(
    ("protocol", "parameters", "catalog_digest", "split_digest", "counts", "warnings", "catalog_columns")
)
"""What the JSON beside a split must hold."""


def committed_stem(name: str) -> Path | None:
    """Where the split of an embedded benchmark lies, without suffix; None when none is committed."""
    stem = Path(__file__).parent / "committed" / name
    return stem if _with(stem, ".json").is_file() else None


def write_split(split: Split, stem: Path) -> None:
    """Writes the split to `stem`.csv and `stem`.json; a different one there is not overwritten."""
    text = table_text(split.table)
    sidecar = {
        "protocol": split.protocol,
        "parameters": split.parameters,
        "catalog_digest": split.catalog_digest,
        "split_digest": split.digest,
        "tool_version": __version__,
        "counts": split.counts,
        "warnings": list(split.warnings),
        "catalog_columns": split.catalog_columns,
    }
    if _with(stem, ".json").exists():
        there = _read_sidecar(stem)
        same = (there["split_digest"], there["catalog_digest"]) == (split.digest, split.catalog_digest)
        if same and _read_text(stem) == text:
            return
        raise WhalebenchError(
            f"{_with(stem, '.csv')} is another split, and a split is made once; to make a new one, remove it "
            "and its .json, knowing that runs on it can then no longer be compared."
        )
    atomic_text(_with(stem, ".csv"), text)
    atomic_text(_with(stem, ".json"), json.dumps(sidecar, indent=2) + "\n")  # last: complete or absent


def read_split(stem: Path, catalog: Catalog) -> Split:
    """The split kept at `stem`, checked again; when it or the catalog was changed, an error says what."""
    sidecar = _read_sidecar(stem)
    text = _read_text(stem)
    if digest_text(text) != sidecar["split_digest"]:
        raise WhalebenchError(
            f"{_with(stem, '.csv')} was edited after the split was made; restore it, since scores on a "
            "changed split cannot be compared."
        )
    table = _parse(text, stem)
    if sidecar["catalog_digest"] != catalog.digest:
        raise WhalebenchError(
            f"The split {stem.name} was made for another catalog than {catalog.name} is now: "
            f"{_changes(table, sidecar['catalog_columns'], catalog)}; restore the catalog, or import the "
            "changed one under a new name and make its split."
        )
    check_split(table, catalog, sidecar["protocol"], sidecar["parameters"])
    return Split(
        table=table,
        protocol=sidecar["protocol"],
        parameters=sidecar["parameters"],
        catalog_digest=sidecar["catalog_digest"],
        digest=sidecar["split_digest"],
        counts=sidecar["counts"],
        warnings=tuple(sidecar["warnings"]),
        catalog_columns=sidecar["catalog_columns"],
    )


def _read_sidecar(stem: Path) -> dict[str, Any]:
    file = _with(stem, ".json")
    try:
        sidecar = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise WhalebenchError(
            f"There is no split at {file}; make one with `whalebench split make {stem.parent.name}`."
        ) from error
    except (OSError, ValueError) as error:
        raise WhalebenchError(f"{file} cannot be read ({error}); restore it.") from error
    absent = SIDECAR - set(sidecar if isinstance(sidecar, dict) else ())
    if absent:
        raise WhalebenchError(f"{file} does not say {', '.join(sorted(absent))}; restore it.")
    return dict(sidecar)


def _read_text(stem: Path) -> str:
    file = _with(stem, ".csv")
    try:
        with file.open(encoding="utf-8", newline="") as opened:
            return opened.read()
    except (OSError, ValueError) as error:
        raise WhalebenchError(f"{file} cannot be read ({error}); restore it.") from error


def _parse(text: str, stem: Path) -> pd.DataFrame:
    reader = csv.reader(io.StringIO(text))
    try:
        header, *rows = list(reader)
        table = make_table({image: (int(fold), group, int(valid)) for image, fold, group, valid in rows})
    except ValueError as error:
        raise WhalebenchError(f"{_with(stem, '.csv')} is no split ({error}); restore it.") from error
    if tuple(header) != COLUMNS:
        raise WhalebenchError(f"{_with(stem, '.csv')} has not the columns {', '.join(COLUMNS)}; restore it.")
    return table


def _changes(table: pd.DataFrame, columns: dict[str, str], catalog: Catalog) -> str:
    """Which photos or columns differ between the catalog and the one that the split was made for."""
    before, now = set(table["image"]), set(catalog.table["image"])
    parts = []
    for word, images in (("added", sorted(now - before)), ("removed", sorted(before - now))):
        if images:
            more = ", ..." if len(images) > 3 else ""
            photos = "1 photo" if len(images) == 1 else f"{len(images)} photos"
            parts.append(f"{photos} {word} ({', '.join(images[:3])}{more})")
    if not parts:
        current = column_digests(catalog.table)
        names = sorted(name for name in {*columns, *current} if columns.get(name) != current.get(name))
        parts.append(f"the same photos with other values of {', '.join(names) or 'a mask'}")
    return " and ".join(parts)


def _with(stem: Path, suffix: str) -> Path:
    return stem.with_name(stem.name + suffix)
