"""k-reciprocal re-ranking: photos are alike whose neighbours, and theirs in turn, are the same."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from whalebench.benchmarks.ensembling.mixing import Scores, blocks
from whalebench.benchmarks.ensembling.steps.mixed import MixedStep
from whalebench.benchmarks.ensembling.steps.neighbourhoods import (
    Sparse,
    encoded,
    expanded,
    jaccard,
    mean_of,
    sets,
)
from whalebench.benchmarks.ensembling.steps.step import Queries, Setting
from whalebench.methods.parts.ensembles.voting import best_columns

Embeddings = NDArray[np.float32]
CELLS = 4_000_000
"""Pairs of neighbours that are compared at a time."""


class Near(NamedTuple):
    """The nearest photos of some photos."""

    columns: NDArray[np.int64]
    """(photos, neighbours), the nearest first."""
    cosines: NDArray[np.float32]
    """(photos, neighbours)."""
    lowest: NDArray[np.float32]
    """(photos,) cosine to the least alike photo of all."""


class Reciprocal(MixedStep):
    """Jaccard likeness of k-reciprocal neighbours, mixed with the scores (Zhong et al. 2017).

    Here each query is held against the gallery alone: it is its neighbour's neighbour if it were so once it
    was in the gallery, whose own neighbourhoods are those it has without any query. The scores stand where
    the paper has the original distance. Of the published k1 = 20, k2 = 6, lambda = 0.3 the first two suit
    individuals with dozens of photos; `own` is lambda.
    """

    name = "reciprocal"
    transductive = False
    settings = tuple(
        {"k1": k1, "k2": k2, "own": own}
        for (k1, k2), own in product(((5, 2), (10, 3), (20, 6)), (0.9, 0.6, 0.3))
    )

    def likeness(self, queries: Queries, setting: Setting) -> Scores:
        """1 - Jaccard distance to each individual's nearest photo; 0 where nothing is shared."""
        gallery, own = self.gallery.embeddings, queries.embeddings
        assert gallery is not None
        assert own is not None
        k1, k2 = (min(int(setting[name]), len(gallery) - 1) for name in ("k1", "k2"))
        codes = (together if self.transductive else one_by_one)(own, gallery, max(k1, 1), max(k2, 1))
        found: Scores = np.empty(queries.scores.shape, np.float32)
        for rows, alike in jaccard(*codes):
            found[rows] = self.gallery.nearest(alike)
        return found


class ReciprocalTogether(Reciprocal):
    """The same with the other photos of the part among the neighbours, as published."""

    name = "reciprocal-together"
    transductive = True


def together(queries: Embeddings, gallery: Embeddings, k1: int, k2: int) -> tuple[Sparse, Sparse]:
    """Codes (queries, photos) and (gallery, photos) over the photos of both, the gallery first."""
    every = np.concatenate([gallery, queries])
    raw, near = _own_codes(every, k1)
    codes = mean_of(raw, near.columns[:, :k2])
    return codes[len(gallery) :], codes[: len(gallery)]


def one_by_one(queries: Embeddings, gallery: Embeddings, k1: int, k2: int) -> tuple[Sparse, Sparse]:
    """Codes (queries, gallery) and (gallery, gallery), a query's as if it alone came to the gallery."""
    raw, near = _own_codes(gallery, k1)
    mine = _nearest(queries, gallery, k1)
    # A photo's neighbour k1, itself not counted, is the one that a query has to be nearer than.
    mutual = mine.cosines >= near.cosines[mine.columns, k1]
    half = sets(near.columns, _mutual(near.columns, _half(k1)), len(gallery))
    around = expanded(sets(mine.columns, mutual, len(gallery)), half)
    alone = encoded(around, queries, gallery, mine.lowest)
    others = mean_of(raw, mine.columns[:, : k2 - 1]) * (k2 - 1) if k2 > 1 else alone * 0
    return (alone + others) / k2, mean_of(raw, near.columns[:, :k2])


def _own_codes(photos: Embeddings, k1: int) -> tuple[Sparse, Near]:
    """Codes (photos, photos) before their means are taken, and the neighbours, each photo its own first."""
    near = _nearest(photos, photos, k1 + 1, itself=True)
    whole, half = (sets(near.columns, _mutual(near.columns, k), len(photos)) for k in (k1, _half(k1)))
    return encoded(expanded(whole, half), photos, photos, near.lowest), near


def _half(k1: int) -> int:
    return int(np.around(k1 / 2))


def _nearest(queries: Embeddings, pool: Embeddings, count: int, *, itself: bool = False) -> Near:
    """The nearest photos of the pool, in blocks; where queries are the pool, each is its own nearest."""
    found = []
    for rows in blocks(len(queries), len(pool)):
        cosines = queries[rows] @ pool.T
        lowest = cosines.min(axis=1)
        if itself:
            cosines[np.arange(len(cosines)), np.arange(rows.start, rows.stop)] = 2.0  # above all others
        columns = best_columns(cosines, count)
        found.append(Near(columns, np.take_along_axis(cosines, columns, 1), lowest))
    return Near(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def _mutual(columns: NDArray[np.int64], k: int) -> NDArray[np.bool_]:
    """(photos, neighbours) which of the first k, and the photo itself, have the photo among theirs, too."""
    found = np.zeros(columns.shape, np.bool_)
    step = max(1, CELLS // (k + 1) ** 2)
    for start in range(0, len(columns), step):
        rows = np.arange(start, min(start + step, len(columns)))
        theirs = columns[columns[rows, : k + 1], : k + 1]
        found[rows, : k + 1] = (theirs == rows[:, None, None]).any(axis=2)
    return found
