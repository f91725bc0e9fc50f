"""Pairs of photos: a query with the nearest photos of each candidate, and what is known of the two.

Second place at AnimalCLEF 2025 went to gradient-boosted trees on features of pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from whalebench import WhalebenchError
from whalebench.benchmarks.ensembling.ground import Ground
from whalebench.benchmarks.ensembling.local import LocalMatches
from whalebench.benchmarks.ensembling.members import Member
from whalebench.benchmarks.ensembling.memory import free_memory
from whalebench.benchmarks.ensembling.mixing import Floats, blocks
from whalebench.benchmarks.ensembling.options import HOURS, Options
from whalebench.benchmarks.ensembling.shortlist import (
    COPIES,
    LENGTH,
    PARTS,
    SAID,
    Candidates,
    Part,
    Shortlist,
)
from whalebench.benchmarks.ensembling.sides import Embeddings, side_of
from whalebench.benchmarks.ensembling.taken import DIFFERENCES, differences, taken_of
from whalebench.benchmarks.progress import SILENT, Progress

NEAREST = 3
"""Photos of each candidate that a query is paired with, the nearest by the mean of the members' cosines."""
SCRATCH = 6 * 8
"""Bytes for each photo of a candidate while the nearest are sought."""


class Pairs(Candidates):
    """What is known of each query with photos of its candidates: one row a pair."""

    def __init__(
        self, members: Sequence[Member], ground: Ground, options: Options, progress: Progress = SILENT
    ) -> None:
        super().__init__(members)
        self.ground = ground
        sides = [(member.name, side_of(member, ground)) for member in members]
        self.sides = [(name, side) for name, side in sides if side is not None]
        self.counts = np.bincount(ground.gallery_labels, minlength=len(ground.identities))
        self.local = None
        if options.local_matches:
            self.local = LocalMatches(ground, options.hours or HOURS, progress=progress)

    def check(self) -> None:
        """Nothing; raises WhalebenchError for what would take more memory, or longer, than there is."""
        super().check()
        width = len(SAID) * len(self.members) + len(self.sides) + 1 + len(DIFFERENCES) + 1
        pairs = [len(self.scores(part)[0]) * self._most(NEAREST) for part in PARTS]
        photos = [len(self.scores(part)[0]) * self._most(len(self.ground.gallery)) for part in PARTS]
        needed = max(pairs) * width * 8 * COPIES + max(photos) * SCRATCH
        free = free_memory()
        if free is not None and needed > free:
            raise WhalebenchError(
                f"Up to {max(pairs):,} pairs of photos with {width} features each, the nearest of "
                f"{max(photos):,}, take about {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free: "
                f"combine fewer runs, or use --rule lightgbm."
            )
        if self.local is not None:
            self.local.check(sum(pairs), max(len(self.scores(part)[0]) for part in PARTS))

    def gather(self, part: Part) -> Shortlist:
        """The candidates of the part's photos, each with its nearest photos; one row a pair."""
        found = super().gather(part)
        candidate, gallery = self._photos_of(found.columns)
        cosines = self._cosines(part, found.photos[candidate], gallery)
        kept = nearest(candidate, gallery, cosines.mean(axis=1) if self.sides else np.zeros(len(gallery)))
        candidate, gallery, cosines = candidate[kept], gallery[kept], cosines[kept]
        photos, columns = found.photos[candidate], found.columns[candidate]
        more, names = self._more(part, photos, gallery)
        names = (*found.names, *(f"cosine by {name}" for name, _ in self.sides), *names)
        features = np.hstack([found.features[candidate], cosines, *more])
        return replace(found, photos=photos, columns=columns, features=features, names=names)

    def _most(self, photos: int) -> int:
        """The most pairs that a query can have with so many photos of each candidate."""
        each = np.sort(np.minimum(self.counts, photos))[::-1]
        return int(each[: LENGTH * len(self.members)].sum())

    def _photos_of(self, columns: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(photos,) the candidate, and the photo of the gallery, for every photo of every candidate."""
        order = np.argsort(self.ground.gallery_labels, kind="stable")
        begins, repeats = np.cumsum(self.counts) - self.counts, self.counts[columns]
        candidate = np.repeat(np.arange(len(columns)), repeats)
        within = np.arange(len(candidate)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
        return candidate, order[begins[columns][candidate] + within]

    def _cosines(self, part: Part, rows: NDArray[np.int64], gallery: NDArray[np.int64]) -> Floats:
        """(pairs, members with embeddings) cosines of photos at `rows` of the part with the gallery's."""
        found = np.empty((len(rows), len(self.sides)))
        for place, (_, side) in enumerate(self.sides):
            queries = side.valid if part == "valid" else side.test
            found[:, place] = _products(queries, side.gallery, rows, gallery)
        return found

    def _more(
        self, part: Part, rows: NDArray[np.int64], gallery: NDArray[np.int64]
    ) -> tuple[list[Floats], tuple[str, ...]]:
        """What no member says of pairs, and its names: count, differences, and local matches if asked for."""
        ground = self.ground
        images = ground.valid.images if part == "valid" else ground.test.images
        table = ground.benchmark.catalog.table
        count = self.counts[ground.gallery_labels[gallery], None].astype(np.float64)
        apart = differences(taken_of(table, images), taken_of(table, ground.gallery_images), rows, gallery)
        more, names = [count, apart], ("photos in the gallery", *DIFFERENCES)
        if self.local is None:
            return more, names
        return [*more, self.local.count(images, rows, gallery)[:, None]], (*names, "local matches")


def nearest(candidate: NDArray[np.int64], gallery: NDArray[np.int64], near: Floats) -> NDArray[np.int64]:
    """The places of each candidate's NEAREST pairs, by candidate; of equally near ones the first photos."""
    order = np.lexsort((gallery, -near, candidate))
    starts = np.flatnonzero(np.diff(candidate[order], prepend=-1))
    repeats = np.diff(starts, append=len(order))
    within = np.arange(len(order)) - np.repeat(starts, repeats)
    return order[within < NEAREST]


def _products(
    queries: Embeddings, gallery: Embeddings, rows: NDArray[np.int64], others: NDArray[np.int64]
) -> Floats:
    """(pairs,) the scalar product of the query at `rows` and the photo at `others`, in blocks."""
    found = np.empty(len(rows))
    for block in blocks(len(rows), queries.shape[1]):
        found[block] = np.einsum("ij,ij->i", queries[rows[block]], gallery[others[block]])
    return found
