"""Re-ranking by neighbours: query expansion, and k-reciprocal neighbourhoods compared (Zhong et al. 2017).

By the latter, photos are similar whose neighbours, and theirs in turn, are the same: sets of neighbours are
sparse matrices.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from whalebench.benchmarks.core.arrays import blocks, normalise, row_blocks, top_columns
from whalebench.benchmarks.ensembles.step import MixedStep, Setting, Step
from whalebench.methods.parts.fusion import Embeddings, Labels, Scores

Sparse = Any
"""A scipy.sparse.csr_array; its stubs know no shapes."""
PAIRS = 16_384
"""Pairs of photos whose cosine is taken at a time."""
ROWS = 64
"""Queries that are compared with the gallery at a time."""
CELLS = 4_000_000
"""Pairs of neighbours that are compared at a time."""


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

    def similarities(self, queries: Embeddings, gallery: Embeddings, setting: Setting) -> Scores:
        """The largest cosine of the expanded query to a photo of each individual."""
        pool = np.concatenate([gallery, queries]) if self.transductive else gallery
        similarities = []
        for rows in row_blocks(len(queries), len(pool)):
            cosines = queries[rows] @ pool.T
            if self.transductive:  # nobody is a neighbour of itself
                cosines[np.arange(len(cosines)), len(gallery) + np.arange(rows.start, rows.stop)] = -np.inf
            near = top_columns(cosines, int(setting["neighbours"]))
            weights = np.maximum(np.take_along_axis(cosines, near, 1), 0) ** np.float32(setting["alpha"])
            expanded = queries[rows] + np.einsum("qn,qnd->qd", weights, pool[near])
            similarities.append(self.gallery.nearest(normalise(expanded) @ gallery.T))
        return np.concatenate(similarities)


class ExpansionTogether(Expansion):
    """Query expansion with the other photos of the part among the neighbours."""

    name = "expansion-together"
    transductive = True


class Reciprocal(MixedStep):
    """Jaccard similarity of k-reciprocal neighbours, mixed with the scores (Zhong et al. 2017).

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

    def similarities(self, queries: Embeddings, gallery: Embeddings, setting: Setting) -> Scores:
        """1 - Jaccard distance to each individual's nearest photo; 0 where nothing is shared."""
        k1, k2 = (max(1, min(int(setting[name]), len(gallery) - 1)) for name in ("k1", "k2"))
        codes = (together if self.transductive else one_by_one)(queries, gallery, k1, k2)
        return np.concatenate([self.gallery.nearest(block) for block in jaccard(*codes)])


class ReciprocalTogether(Reciprocal):
    """Reciprocal neighbours among the other photos of the part, too, as published."""

    name = "reciprocal-together"
    transductive = True


STEPS: tuple[type[Step], ...] = (Reciprocal, ReciprocalTogether, Expansion, ExpansionTogether)


class Near(NamedTuple):
    """The nearest photos of some photos."""

    columns: Labels
    """(photos, neighbours), the nearest first."""
    cosines: NDArray[np.float32]
    """(photos, neighbours)."""
    lowest: NDArray[np.float32]
    """(photos,) cosine to the least alike photo of all."""


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
    half = sets(near.columns, _mutual(near.columns, round(k1 / 2)), len(gallery))
    around = expanded(sets(mine.columns, mutual, len(gallery)), half)
    alone = encoded(around, queries, gallery, mine.lowest)
    others = mean_of(raw, mine.columns[:, : k2 - 1]) * (k2 - 1) if k2 > 1 else alone * 0
    return (alone + others) / k2, mean_of(raw, near.columns[:, :k2])


def _own_codes(photos: Embeddings, k1: int) -> tuple[Sparse, Near]:
    """Codes (photos, photos) before their means are taken, and the neighbours, each photo its own first."""
    near = _nearest(photos, photos, k1 + 1, itself=True)
    whole, half = (sets(near.columns, _mutual(near.columns, k), len(photos)) for k in (k1, round(k1 / 2)))
    return encoded(expanded(whole, half), photos, photos, near.lowest), near


def _nearest(queries: Embeddings, pool: Embeddings, count: int, *, itself: bool = False) -> Near:
    """The nearest photos of the pool, in blocks; where queries are the pool, each is its own nearest."""
    near = []
    for rows in row_blocks(len(queries), len(pool)):
        cosines = queries[rows] @ pool.T
        lowest = cosines.min(axis=1)
        if itself:
            cosines[np.arange(len(cosines)), np.arange(rows.start, rows.stop)] = 2.0  # above all others
        columns = top_columns(cosines, count)
        near.append(Near(columns, np.take_along_axis(cosines, columns, 1), lowest))
    return Near(*(np.concatenate(parts) for parts in zip(*near, strict=True)))


def _mutual(columns: Labels, k: int) -> NDArray[np.bool_]:
    """(photos, neighbours) which of the first k, and the photo itself, have the photo among theirs, too."""
    mutual = np.zeros(columns.shape, np.bool_)
    for block in blocks(len(columns), max(1, CELLS // (k + 1) ** 2)):
        rows = np.arange(block.start, block.stop)
        theirs = columns[columns[rows, : k + 1], : k + 1]
        mutual[rows, : k + 1] = (theirs == rows[:, None, None]).any(axis=2)
    return mutual


def sets(columns: Labels, kept: NDArray[np.bool_], width: int) -> Sparse:
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


def encoded(around: Sparse, queries: Embeddings, pool: Embeddings, lowest: NDArray[np.float32]) -> Sparse:
    """Codes (queries, pool), one in all: exp(-distance) of the members of each query's set.

    The distance is the squared one, as a share of that to the least alike photo.
    """
    rows, columns = np.repeat(np.arange(len(queries)), np.diff(around.indptr)), around.indices
    cosines = np.empty(len(rows), np.float32)
    for pairs in blocks(len(rows), PAIRS):
        cosines[pairs] = np.einsum("pd,pd->p", queries[rows[pairs]], pool[columns[pairs]])
    weights = np.exp(-(1 - cosines) / np.maximum(1 - lowest[rows], 1e-12))
    total = np.bincount(rows, weights=weights, minlength=len(queries))
    shares = (weights / total[rows]).astype(np.float32)
    return sparse.csr_array((shares, columns, around.indptr), shape=around.shape)


def mean_of(codes: Sparse, columns: Labels) -> Sparse:
    """The mean code (photos, pool) of the neighbours at some columns (photos, neighbours) of the codes."""
    means = sets(columns, np.ones(columns.shape, np.bool_), codes.shape[0]) @ codes
    return sparse.csr_array(means / columns.shape[1])


def jaccard(queries: Sparse, gallery: Sparse) -> Iterator[NDArray[np.float32]]:
    """Similarities (queries, gallery) in blocks: the sum of the smaller shares over that of the larger."""
    across = sparse.csr_array(gallery.T)
    ours, theirs = (np.asarray(codes.sum(axis=1)).ravel() for codes in (queries, gallery))
    for rows in blocks(queries.shape[0], ROWS):
        block = queries[rows]
        met = across[block.indices]
        lengths = np.diff(met.indptr)
        row = np.repeat(np.repeat(np.arange(block.shape[0]), np.diff(block.indptr)), lengths)
        smaller = np.minimum(met.data, np.repeat(block.data, lengths))
        shape = (block.shape[0], gallery.shape[0])
        cells = row * shape[1] + met.indices
        shared = np.bincount(cells, weights=smaller, minlength=shape[0] * shape[1]).reshape(shape)
        yield (shared / (ours[rows, None] + theirs - shared)).astype(np.float32)
