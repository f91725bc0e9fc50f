"""The audit of a benchmark: pairs of photos that show one picture or one moment.

Exact duplicates are those that the catalog's digests name. Twins (`twins.py`) and parts of one picture
(`parts.py`) are looked for. Bursts are taken within a minute, where dates have times; what shows one
individual and looks nearly the same is one moment, too. What is found is kept by `core/audits.py`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from whalebench.benchmarks.auditing.parts import SAME_PIXELS, Picture, can_find_parts, find_parts, picture_of
from whalebench.benchmarks.auditing.twins import (
    CONFIRMED,
    SIDE,
    Floats,
    Matches,
    decode_all,
    find_twins,
    small_picture,
)
from whalebench.benchmarks.core.audits import KINDS, Audit, Kind, Pair
from whalebench.benchmarks.core.catalog import BOX, NAMELESS, Catalog, Region, regions_of
from whalebench.benchmarks.core.progress import SILENT, Progress

ALIKE = 0.4
"""Least correlation of aligned details of two photos of one individual, the same way up, that are a burst."""
MOMENT = 60.0
"""Most seconds between two photos of a burst."""
UNCROPPED = 0.02
"""Less of an edge is within what alignment misses by."""
WITHIN = 0.97
"""Share of a photo that another one shows, too, from which on it is a part of that."""
ONE_ANIMAL = 0.5
"""Least overlap (IoU) of two boxes in one photo that are of one animal."""
SHOT = ("camera", "place")
"""Columns, where there are any, in which the photos of a burst may not differ."""


def audit_catalog(catalog: Catalog, progress: Progress = SILENT) -> Audit:
    """All pairs in the photos of a catalog; each photo is decoded once."""
    table, parts = catalog.table, can_find_parts()
    first_of = ~table["content_digest"].duplicated() | (table["content_digest"] == "")
    different = table[first_of].reset_index(drop=True)
    regions = regions_of(different)
    small, pictures = _decoded(different["path"].tolist(), regions, progress, parts=parts)
    ways = [
        _exact(table),
        _by_look(different, find_twins(small, progress, least=ALIKE)),
        _by_parts(different, pictures, progress),
        _by_time(table),
    ]
    found = [pair for way in ways for pair in way]
    found.sort(key=lambda pair: (KINDS.index(pair.kind), -pair.likeness, pair.images))
    # A pair that is found in several ways is what tells most of it.
    once = {pair.images: pair for pair in reversed(found)}
    pairs = tuple(pair for pair in found if once[pair.images] is pair)
    return Audit(catalog.name, catalog.digest, len(table), pairs, parts)


def _decoded(
    paths: Sequence[str], regions: Sequence[Region | None], progress: Progress, *, parts: bool
) -> tuple[Floats, list[Picture]]:
    """Small pictures (photos, SIDE, SIDE), and what parts are found by; nothing of it without `parts`."""

    def look(photo: Image.Image) -> tuple[Floats, Picture | None]:
        return small_picture(photo), picture_of(photo) if parts else None

    small, pictures = np.empty((len(paths), SIDE, SIDE), np.float32), []
    for row, (one, picture) in enumerate(decode_all(paths, look, progress, regions)):
        small[row] = one
        pictures += [picture] if picture else []
    return small, pictures


def _exact(table: pd.DataFrame) -> Iterator[Pair]:
    """Each photo with the first one that has the same pixels, less animals that share a photo."""
    boxes = table[list(BOX)].to_numpy(np.float64)
    for digest, rows in table.groupby("content_digest").groups.items():
        for row in rows[1:] if digest else ():
            if _one_animal(boxes[int(rows[0])], boxes[int(row)]):
                yield _pair(table, int(rows[0]), int(row), "exact", 1.0)


def _one_animal(one: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    """Whether two boxes in one photo may be of one animal, as they are where one is not known."""
    if np.isnan([one, other]).any():
        return True
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    both = float(np.maximum(sides, 0).prod())
    either = float((one[2:] - one[:2]).prod() + (other[2:] - other[:2]).prod()) - both
    return both >= ONE_ANIMAL * either


def _by_parts(table: pd.DataFrame, pictures: Sequence[Picture], progress: Progress) -> Iterator[Pair]:
    """The photos that are parts of one picture, and those of one scene since they are called the same."""
    for each in find_parts(pictures, progress):
        kind: Kind = "crop" if each.shared >= WITHIN else "overlap"
        pair = _pair(table, each.first, each.second, kind, round(each.likeness, 4))
        if each.likeness < SAME_PIXELS:
            if each.turn or pair.first_identity in NAMELESS or pair.first_identity != pair.second_identity:
                continue
            pair = replace(pair, kind="look")
        yield replace(pair, turn=each.turn, shared=round(each.shared, 4))


def _by_look(table: pd.DataFrame, matches: Matches) -> Iterator[Pair]:
    """The matches that are twins, and those that are bursts since they are called the same."""
    identities = table["identity"].tolist()
    columns = (array.tolist() for array in vars(matches).values())
    for larger, smaller, likeness, turn, trims in zip(*columns, strict=True):
        kind: Kind = "crop" if max(trims) > UNCROPPED else "twin"
        if likeness < CONFIRMED:
            if turn or identities[larger] in NAMELESS or identities[larger] != identities[smaller]:
                continue
            kind = "look"
        top, bottom, left, right = (round(trim, 4) for trim in trims)
        pair = _pair(table, larger, smaller, kind, round(likeness, 4))
        yield replace(pair, turn=turn, trims=(top, bottom, left, right))


def _by_time(table: pd.DataFrame) -> Iterator[Pair]:
    """Photos of one individual, or of one camera where one has no name, that follow each other within MOMENT.

    Photos of which camera or place are known to differ are of no burst.
    """
    shots = list(
        zip(*(table[column] if column in table else [""] * len(table) for column in SHOT), strict=True)
    )
    groups: dict[tuple[str, ...], list[tuple[float, int]]] = defaultdict(list)
    for row, (identity, date) in enumerate(zip(table["identity"], table["date"], strict=True)):
        if len(date) <= len("2024-05-31"):
            continue
        if identity not in NAMELESS:
            groups[(identity,)].append((_seconds(date), row))
        if any(shots[row]):
            groups[("", *shots[row])].append((_seconds(date), row))
    for each in groups.values():
        for (before, one), (after, other) in pairwise(sorted(each)):
            apart = any(a and b and a != b for a, b in zip(shots[one], shots[other], strict=True))
            pair = replace(_pair(table, one, other, "burst", 0.0), seconds=after - before)
            if after - before <= MOMENT and not apart and not pair.named_apart:
                yield pair


def _seconds(date: str) -> float:
    moment = datetime.fromisoformat(date)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _pair(table: pd.DataFrame, one: int, other: int, kind: Kind, likeness: float) -> Pair:
    rows = sorted((one, other))
    first, second = (str(table["image"].iloc[row]) for row in rows)
    its, other_name = (str(table["identity"].iloc[row]) for row in rows)
    return Pair(first, second, kind, likeness, its, other_name)
