"""The audit of a benchmark: pairs of photos that show one picture or one moment, frozen in audit.json.

Exact duplicates are those that the catalog's digests name; twins are looked for (`twins.py`); bursts are of
one individual within a minute where dates have times, and otherwise look nearly the same.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import TypeAdapter, ValidationError

from whalebench import WhalebenchError, one_line
from whalebench.benchmarks.auditing.twins import CONFIRMED, Matches, find_twins, small_pictures
from whalebench.benchmarks.core.catalog import NAMELESS, Catalog, regions_of
from whalebench.benchmarks.core.files import differs_from_digest, parse_json, regular_file, with_digest
from whalebench.benchmarks.core.progress import SILENT, Progress
from whalebench.benchmarks.core.workspace import atomic_text
from whalebench.splits.assignment import LEFT_OUT
from whalebench.splits.split import Split

AUDIT_VERSION = 1
"""Raise it when other pairs are found; an audit of another version is made again."""
FILE = "audit.json"
Kind = Literal["exact", "twin", "crop", "burst"]
KINDS: tuple[Kind, ...] = ("exact", "twin", "crop", "burst")
"""The same pixels; the same picture; a part of it; the same individual in the same moment."""
ALIKE = 0.4
"""Least correlation of aligned details of two photos of one individual, the same way up, that are a burst."""
MOMENT = 60.0
"""Most seconds between two photos of a burst."""
UNCROPPED = 0.02
"""Less of an edge is within what alignment misses by."""


@dataclass(frozen=True)
class Pair:
    """Two photos that should not be learned from and tested on."""

    first: str
    """The image id that comes first in the catalog."""
    second: str
    kind: Kind
    likeness: float
    """Correlation of aligned details; 1 for equal pixels, 0 where only the times say so."""
    first_identity: str
    second_identity: str
    seconds: float | None = None
    """Between the two, where only their times say that they are a burst."""
    turn: int = 0
    """Quarter turns of the larger photo until it is as the other, and 4 more where it is mirrored first."""
    trims: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    """Shares cropped off top, bottom, left and right of the larger."""

    @property
    def images(self) -> tuple[str, str]:
        """The two image ids."""
        return self.first, self.second

    @property
    def two_names(self) -> bool:
        """Whether it bears two names: one individual under both of them, or a photo with a wrong one."""
        names = {self.first_identity, self.second_identity}
        return len(names) == 2 and names.isdisjoint(NAMELESS)


@dataclass(frozen=True)
class Audit:
    """What was found in the photos of one catalog."""

    benchmark: str
    catalog_digest: str
    photos: int
    pairs: tuple[Pair, ...]
    """Each once: by kind, the most alike first."""
    version: int = AUDIT_VERSION

    def document(self) -> dict[str, Any]:
        """The audit as JSON, with its digest."""
        return with_digest(json.loads(json.dumps(asdict(self))))

    def without(self, rejected: Iterable[tuple[str, str]]) -> Audit:
        """The same audit without the pairs that were looked at and are none."""
        gone = {frozenset(pair) for pair in rejected}
        return replace(self, pairs=tuple(pair for pair in self.pairs if frozenset(pair.images) not in gone))


def audit_catalog(catalog: Catalog, progress: Progress = SILENT) -> Audit:
    """All pairs in the photos of a catalog; each photo is decoded once, and small pictures are compared."""
    table = catalog.table
    found = {pair.images: pair for pair in _by_time(table)}
    first_of = ~table["content_digest"].duplicated() | (table["content_digest"] == "")
    different = table[first_of].reset_index(drop=True)
    pictures = small_pictures(different["path"].tolist(), progress, regions_of(different))
    for pair in (*_by_look(different, find_twins(pictures, progress, least=ALIKE)), *_exact(table)):
        found[pair.images] = pair
    order = sorted(found.values(), key=lambda pair: (KINDS.index(pair.kind), -pair.likeness, pair.images))
    return Audit(catalog.name, catalog.digest, len(table), tuple(order))


def _exact(table: pd.DataFrame) -> Iterator[Pair]:
    """Each photo with the first one that has the same pixels."""
    for digest, rows in table.groupby("content_digest").groups.items():
        for row in rows[1:] if digest else ():
            yield _pair(table, int(rows[0]), int(row), "exact", 1.0)


def _by_look(table: pd.DataFrame, matches: Matches) -> Iterator[Pair]:
    """The matches that are twins, and those that are bursts since they are called the same."""
    identities = table["identity"].tolist()
    columns = (array.tolist() for array in vars(matches).values())
    for larger, smaller, likeness, turn, trims in zip(*columns, strict=True):
        kind: Kind = "crop" if max(trims) > UNCROPPED else "twin"
        if likeness < CONFIRMED:
            if turn or identities[larger] in NAMELESS or identities[larger] != identities[smaller]:
                continue
            kind = "burst"
        top, bottom, left, right = (round(trim, 4) for trim in trims)
        pair = _pair(table, larger, smaller, kind, round(likeness, 4))
        yield replace(pair, turn=turn, trims=(top, bottom, left, right))


def _by_time(table: pd.DataFrame) -> Iterator[Pair]:
    """Photos of one individual that follow each other within MOMENT."""
    moments: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for row, (identity, date) in enumerate(zip(table["identity"], table["date"], strict=True)):
        if identity not in NAMELESS and len(date) > len("2024-05-31"):
            moments[identity].append((_seconds(date), row))
    for each in moments.values():
        for (before, one), (after, other) in pairwise(sorted(each)):
            if after - before <= MOMENT:
                yield replace(_pair(table, one, other, "burst", 0.0), seconds=after - before)


def _seconds(date: str) -> float:
    moment = datetime.fromisoformat(date)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _pair(table: pd.DataFrame, one: int, other: int, kind: Kind, likeness: float) -> Pair:
    rows = sorted((one, other))
    first, second = (str(table["image"].iloc[row]) for row in rows)
    its, other_name = (str(table["identity"].iloc[row]) for row in rows)
    return Pair(first, second, kind, likeness, its, other_name)


def write_audit(audit: Audit, folder: Path) -> Path:
    """Writes audit.json into a benchmark's folder, whole or not at all."""
    atomic_text(folder / FILE, json.dumps(audit.document(), indent=2) + "\n")
    return folder / FILE


def read_audit(catalog: Catalog, folder: Path) -> Audit | None:
    """The audit of the catalog that is kept in its folder; None where there is none, or one of other photos.

    Raises WhalebenchError for one that was damaged or edited.
    """
    file, again = folder / FILE, f"remove it and run `whalebench data audit {catalog.name}`"
    try:
        document = parse_json(regular_file(file).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise WhalebenchError(f"{file} cannot be read ({one_line(error, 80)}); {again}.") from error
    if not isinstance(document, dict) or "digest" not in document or differs_from_digest(document):
        raise WhalebenchError(f"{file} differs from its digest, so it is not what was written; {again}.")
    if (document.get("version"), document.get("catalog_digest")) != (AUDIT_VERSION, catalog.digest):
        return None
    try:
        return TypeAdapter(Audit).validate_python(document)
    except ValidationError as error:
        raise WhalebenchError(f"{file} is no audit ({one_line(error, 80)}); {again}.") from error


def find_leaks(audit: Audit, split: Split) -> dict[int, tuple[Pair, ...]]:
    """By fold, the pairs of which one photo is tested on and the other learned from or validated on."""
    fold_of: Mapping[str, int] = dict(zip(split.table["image"], split.table["fold"], strict=True))
    leaks: dict[int, list[Pair]] = {fold: [] for fold in split.folds}
    for pair in audit.pairs:
        folds = {fold_of[image] for image in pair.images}
        if len(folds) == 2 and LEFT_OUT not in folds:
            for fold in folds & leaks.keys():
                leaks[fold].append(pair)
    return {fold: tuple(pairs) for fold, pairs in leaks.items()}
