"""A split: which photo is tested, validated on or learned from in each fold, and its files.

It is made once and then immutable: a CSV and a JSON sidecar, which has a digest of each. What must be true of
every split is checked when it is proposed and again when it is read; a changed one, or one of a changed
catalog, is refused.
"""

import csv
import io
import json
import os
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from pydantic import BaseModel, Field, ValidationError

from whalebench import WhalebenchError, __version__, one_line
from whalebench.benchmarks.core.catalog import Catalog
from whalebench.benchmarks.core.files import (
    differs_from_digest,
    parse_json,
    regular_file,
    text_of_digest,
    with_digest,
)
from whalebench.benchmarks.core.workspace import ExistsError, atomic_text
from whalebench.splits.assignment import LEFT_OUT, NEVER
from whalebench.splits.groupings import same_days
from whalebench.splits.rules import TWIN, check_split
from whalebench.splits.table import (
    COLUMNS,
    GALLERY,
    Parts,
    column_digests,
    fold_gallery,
    fold_parts,
    kept_text,
    make_table,
    table_text,
)

SIDECAR = (
    "protocol",
    "parameters",
    "catalog_digest",
    "split_digest",
    "tool_version",
    "counts",
    "warnings",
    "catalog_columns",
)
"""What the JSON beside a split holds."""
SIDECAR_DIGEST = "sidecar_digest"
"""And the digest of all that, which older ones lack."""


@dataclass(frozen=True, eq=False)
class Split:
    """An assignment of the photos of one catalog to folds; `table` and `digest` never change once written."""

    table: pd.DataFrame
    """image, fold (tested there; -1: never; -2: in no part at all), group, valid (the fold in whose valid
    part it is; -1: none); and gallery, of a disjoint split."""
    protocol: str
    """How it was made: one of `protocols.PROTOCOLS`, or `TWIN`."""
    parameters: dict[str, Any]
    """What the protocol was given."""
    catalog_digest: str
    """The digest of the catalog it was made for."""
    digest: str
    """SHA-256 of the table as CSV."""
    counts: dict[str, Any]
    """Photos and individuals of each fold and part, and what became of individuals of one encounter."""
    warnings: tuple[str, ...] = ()
    """What a reader of scores on this split should know."""
    catalog_columns: dict[str, str] = field(default_factory=dict)
    """A digest of each catalog column, to say later which one changed."""

    @property
    def twin_of(self) -> str:
        """The digest of the split whose random twin it is; empty for one that is none."""
        return str(self.parameters.get("twin_of", ""))

    @cached_property
    def folds(self) -> tuple[int, ...]:
        """The folds there are, sorted."""
        return tuple(sorted(set(self.table["fold"].tolist()) - {NEVER, LEFT_OUT}))

    def parts(self, fold: int) -> Parts:
        """The train, valid and test photos of a fold; the error for an unknown one names those there are."""
        if fold not in self.folds:
            there = ", ".join(map(str, self.folds))
            raise WhalebenchError(f"There is no fold {fold} in this split; choose one of {there}.")
        return fold_parts(self.table, fold)

    def gallery(self, fold: int) -> tuple[str, ...]:
        """The photos that the test of a fold is compared with, sorted; empty where that is its train part."""
        return fold_gallery(self.table, fold)


def committed_stem(name: str) -> Path | None:
    """Where the split of an embedded benchmark lies, without suffix; None when none is committed."""
    stem = Path(__file__).parent / "committed" / name
    return stem if _with(stem, ".json").is_file() else None


def write_split(split: Split, stem: Path) -> None:
    """Writes the split to `stem`.csv and `stem`.json; a different one there is never replaced, but an error.

    Two processes that would do so at once had better exclude each other (`benchmark_lock`).
    """
    text, table = kept_text(split.table), _with(stem, ".csv")
    facts = vars(split) | {"split_digest": split.digest, "tool_version": __version__}
    sidecar = with_digest({name: facts[name] for name in SIDECAR}, SIDECAR_DIGEST)
    if _is_written(split, stem):
        return
    try:
        # A table without a JSON is what a process left that was stopped between the two.
        atomic_text(table, text, exclusive=not table.exists())
        atomic_text(_with(stem, ".json"), json.dumps(sidecar, indent=2) + "\n", exclusive=True)
    except ExistsError as error:
        if not _is_written(split, stem):
            raise WhalebenchError(f"{table} was just made by another process: try again.") from error


def _is_written(split: Split, stem: Path) -> bool:
    """Whether the split is there already; raises WhalebenchError where another one is."""
    if not os.path.lexists(_with(stem, ".json")):  # a link that leads nowhere is read, and told
        return False
    there = _read_sidecar(stem)
    same = (there["split_digest"], there["catalog_digest"]) == (split.digest, split.catalog_digest)
    if not same or not _holds(stem, split):
        raise WhalebenchError(
            f"{_with(stem, '.csv')} is another split, and a split is made once; to make a new one, remove it "
            "and its .json, knowing that runs on it can then no longer be compared."
        )
    return True


def has_split(stem: Path, proposed: Split) -> bool:
    """Whether there is a split, or what is left of another one than the proposed."""
    table = _with(stem, ".csv")
    return os.path.lexists(_with(stem, ".json")) or (table.exists() and not _holds(stem, proposed))


def _holds(stem: Path, split: Split) -> bool:
    """Whether the file is the split's, also as older versions wrote it."""
    return _read_text(stem) in (kept_text(split.table), table_text(split.table))


def read_split(stem: Path, catalog: Catalog) -> Split:
    """The split kept at `stem`, checked again; when it or the catalog was changed, an error says what."""
    sidecar = _read_sidecar(stem)
    text = text_of_digest(_read_text(stem), sidecar["split_digest"])
    if text is None:
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
    # Older splits do not say it themselves; a random twin is made to flatter, and says that.
    days = same_days(table, catalog) if sidecar["protocol"] != TWIN else []
    warnings = tuple(dict.fromkeys((*sidecar["warnings"], *days)))
    sidecar |= {"table": table, "digest": sidecar["split_digest"], "warnings": warnings}
    return Split(**{each.name: sidecar[each.name] for each in fields(Split)})


class _Parameters(BaseModel):
    folds: Annotated[int, Field(ge=1, le=1_000_000)]
    singles: str
    together: list[tuple[str, str]] = []


class _Sidecar(BaseModel):
    """The types of what a sidecar must hold."""

    protocol: str
    parameters: _Parameters
    catalog_digest: str
    split_digest: str
    counts: dict[str, Any]
    warnings: list[str]
    catalog_columns: dict[str, str]


def _read_sidecar(stem: Path) -> dict[str, Any]:
    file = _with(stem, ".json")
    try:
        sidecar = parse_json(regular_file(file).read_bytes())
    except FileNotFoundError as error:
        raise WhalebenchError(
            f"There is no split at {file}; make one with `whalebench split make "
            f"{stem.parent.name}{stem.name.removeprefix('split')}`."
        ) from error
    except (OSError, ValueError) as error:
        raise WhalebenchError(f"{file} cannot be read ({one_line(error, 80)}); restore it.") from error
    absent = set(SIDECAR) - {"tool_version", *(sidecar if isinstance(sidecar, dict) else ())}
    if absent:
        raise WhalebenchError(f"{file} does not say {', '.join(sorted(absent))}; restore it.")
    if differs_from_digest(sidecar, SIDECAR_DIGEST):
        raise WhalebenchError(
            f"{file} differs from its digest, so it was edited after the split was made; restore it."
        )
    try:
        _Sidecar.model_validate(sidecar)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = one_line(".".join(map(str, first["loc"])), 60)
        raise WhalebenchError(f"{file} is damaged at {where} ({first['msg']}); restore it.") from error
    return dict(sidecar)


def _read_text(stem: Path) -> str:
    file = _with(stem, ".csv")
    try:
        with regular_file(file).open(encoding="utf-8", newline="") as opened:
            return opened.read()
    except (OSError, ValueError) as error:
        raise WhalebenchError(f"{file} cannot be read ({one_line(error, 80)}); restore it.") from error


def _parse(text: str, stem: Path) -> pd.DataFrame:
    reader = csv.reader(io.StringIO(text))
    try:
        header, *rows = list(reader)
        with_gallery = header == [*COLUMNS, GALLERY]
        table = make_table(
            {row[0]: (int(row[1]), row[2], int(row[3])) for row in rows},
            {row[0]: int(row[4]) for row in rows} if with_gallery else None,
        )
        if any(len(row) != len(header) for row in rows):
            raise ValueError("a row has other columns than its head")
    except (ValueError, IndexError) as error:
        raise WhalebenchError(f"{_with(stem, '.csv')} is no split ({error}); restore it.") from error
    if tuple(header) != COLUMNS and not with_gallery:
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
