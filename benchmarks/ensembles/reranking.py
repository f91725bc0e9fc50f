"""k-reciprocal re-ranking: photos are alike whose neighbours, and theirs in turn, are the same.

Sets of neighbours as sparse matrices: expanded, weighed, averaged and compared (Zhong et al. 2017).

Query expansion: a photo is looked for with its nearest neighbours added to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from whalebench.benchmarks.core.arrays import normalise, top_columns
from whalebench.benchmarks.ensembles.fusion import Scores, blocks
from whalebench.benchmarks.ensembles.step import MixedStep, Queries, Setting

Sparse = Any
"""A scipy.sparse.csr_array; its stubs know no shapes."""
PAIRS = 16_384
"""Pairs of photos whose cosine is taken at a time."""
ROWS = 64
"""Queries that are compared with the gallery at a time."""


def sets(columns: NDArray[np.int64], kept: NDArray[np.bool_], width: int) -> Sparse:
    """Rows of ones (photos, width) at the columns (photos, neighbours) that are kept."""
    rows = np.nonzero(kept)[0]
    ones = np.ones(len(rows), np.float32)
    return sparse.csr_array((ones, (rows, columns[kept])), shape=(len(columns), width))


def expanded(whole: Sparse, half: Sparse) -> Sparse:
    """The sets `whole` (photos, pool), joined by the sets `half` (pool, pool) of members that belong to them.

    A member's belongs if more than two thirds of it are in the set already.
    """
    shared = sparse.csr_array(whole.multiply(whole @ half.T))
    sizes = np.asarray(half.sum(axis=1)).ravel()
    shared.data = (shared.data > 2 / 3 * sizes[shared.indices]).astype(np.float32)
    joined = sparse.csr_array(whole + shared @ half)
    joined.eliminate_zeros()
    return joined


def encoded(
    around: Sparse,
    queries: NDArray[np.float32],
    pool: NDArray[np.float32],
    lowest: NDArray[np.float32],
) -> Sparse:
    """Codes (queries, pool), one in all: exp(-distance) of the members of each query's set.

    The distance is the squared one, as a share of that to the least alike photo.
    """
    rows, columns = np.repeat(np.arange(len(queries)), np.diff(around.indptr)), around.indices
    cosines = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), PAIRS):
        pairs = slice(start, start + PAIRS)
        cosines[pairs] = np.einsum("pd,pd->p", queries[rows[pairs]], pool[columns[pairs]])
    weights = np.exp(-(1 - cosines) / np.maximum(1 - lowest[rows], 1e-12))
    total = np.bincount(rows, weights=weights, minlength=len(queries))
    shares = (weights / total[rows]).astype(np.float32)
    return sparse.csr_array((shares, columns, around.indptr), shape=around.shape)


def mean_of(codes: Sparse, columns: NDArray[np.int64]) -> Sparse:
    """The mean code (photos, pool) of the neighbours at some columns (photos, neighbours) of the codes."""
    means = sets(columns, np.ones(columns.shape, np.bool_), codes.shape[0]) @ codes
    return sparse.csr_array(means / columns.shape[1])


def jaccard(queries: Sparse, gallery: Sparse) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Rows, and their likeness (rows, gallery): sum of the smaller shares over that of the larger."""
    across = sparse.csr_array(gallery.T)
    ours, theirs = (np.asarray(codes.sum(axis=1)).ravel() for codes in (queries, gallery))
    for start in range(0, queries.shape[0], ROWS):
        rows = slice(start, min(start + ROWS, queries.shape[0]))
        block = queries[rows]
        met = across[block.indices]
        lengths = np.diff(met.indptr)
        row = np.repeat(np.repeat(np.arange(block.shape[0]), np.diff(block.indptr)), lengths)
        smaller = np.minimum(met.data, np.repeat(block.data, lengths))
        shape = (block.shape[0], gallery.shape[0])
        shared = np.bincount(
            row * shape[1] + met.indices, weights=smaller, minlength=shape[0] * shape[1]
        ).reshape(shape)
        yield rows, (shared / (ours[rows, None] + theirs - shared)).astype(np.float32)


class Expansion(MixedStep):
    """Cosines to the nearest photo of the query plus its neighbours in the gallery, by cosine ** alpha.

    Chum et al. 2007 (alpha 0: all neighbours alike); Radenović et al. 2018 (alpha 3).
    """

    name = "expansion"
    transductive = False
    settings = tuple(
        {"neighbours": neighbours, "alpha": alpha, "own": own}
        for neighbours, alpha, own in product((2, 5, 10), (3.0, 0.0), (0.5, 0.0))
    )

    def likeness(self, queries: Queries, setting: Setting) -> Scores:
        """The largest cosine of the expanded query to a photo of each individual."""
        gallery, own = self.gallery.embeddings, queries.embeddings
        assert gallery is not None
        assert own is not None
        pool = np.concatenate([gallery, own]) if self.transductive else gallery
        found: Scores = np.empty(queries.scores.shape, np.float32)
        for rows in blocks(len(own), len(pool)):
            cosines = own[rows] @ pool.T
            if self.transductive:  # nobody is a neighbour of itself
                cosines[np.arange(len(cosines)), len(gallery) + np.arange(rows.start, rows.stop)] = -np.inf
            near = top_columns(cosines, int(setting["neighbours"]))
            weights = np.maximum(np.take_along_axis(cosines, near, 1), 0) ** np.float32(setting["alpha"])
            expanded = own[rows] + np.einsum("qn,qnd->qd", weights, pool[near])
            found[rows] = self.gallery.nearest(normalise(expanded) @ gallery.T)
        return found


class ExpansionTogether(Expansion):
    """The same with the other photos of the part among the neighbours."""

    name = "expansion-together"
    transductive = True


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
        columns = top_columns(cosines, count)
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
