"""Sets of neighbours as sparse matrices: expanded, weighed, averaged and compared (Zhong et al. 2017)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

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
