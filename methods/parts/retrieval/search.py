"""Retrieval: what the gallery says about a query, exactly and in blocks.

Cosines are exact: the components of normalised embeddings are rounded to multiples of 2^-26, a quarter of
float32's last bit next to 1, so that every product and every partial sum has a place in float64. No order of
summation, no block and no number of threads can then change a bit of them, and equal photos tie.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from whalebench import RunFailedError
from whalebench.benchmarks.photos import UNKNOWN

FLOOR = -1.0
"""Score of an identity without a photo in the gallery: the lowest cosine there is."""
GRID = 2.0**26
"""Steps from 0 to 1; a sum of products of such steps needs 53 bits as long as it is below 2."""
BLOCK, GALLERY_BLOCK = 512, 16384
"""Queries and gallery photos that are compared at a time: 64 MiB of cosines, and a few copies of them."""


def normalise(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """The embeddings at length 1; a zero vector stays zero."""
    length = np.linalg.norm(embeddings, axis=1, keepdims=True)
    normal: NDArray[np.float32] = (embeddings / np.maximum(length, 1e-12)).astype(np.float32)
    return normal


def check_finite(embeddings: NDArray[np.float32]) -> None:
    """Raises RunFailedError for embeddings (photos, dimensions) with a value that is NaN or infinite."""
    broken = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if len(broken):
        raise RunFailedError(
            f"the embeddings of {len(broken)} of {len(embeddings)} photos are NaN or infinite, so nothing "
            "is near them: lower learning_rate, or set precision=fp32."
        )


def on_grid(embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
    """The embeddings (photos, dimensions) at length 1 on the grid on which their products are exact."""
    return np.round(normalise(embeddings).astype(np.float64) * GRID) / GRID


def cosines(query: NDArray[np.float32], gallery: NDArray[np.float32]) -> NDArray[np.float64]:
    """Cosines (queries, photos) in [-1, 1], exact on the grid."""
    return np.clip(on_grid(query) @ on_grid(gallery).T, -1.0, 1.0)


def nearest_photo_scores(
    query: NDArray[np.float32],
    gallery: NDArray[np.float32],
    labels: NDArray[np.int64],
    identities: int,
    block: int = BLOCK,
    gallery_block: int = GALLERY_BLOCK,
) -> NDArray[np.float32]:
    """Scores (queries, identities): the cosine to the nearest gallery photo of each identity.

    query (queries, dimensions) and gallery (photos, dimensions) need not be normalised; labels (photos,) are
    indices of identities, UNKNOWN photos are passed over. An identity without photos scores FLOOR. The answer
    does not depend on the blocks, which bound the memory to block x gallery_block cosines.
    """
    check_finite(query)
    check_finite(gallery)
    known = np.flatnonzero(labels != UNKNOWN)
    order = known[np.argsort(labels[known], kind="stable")]
    scores = np.full((len(query), identities), FLOOR, np.float32)
    for rows in _blocks(len(query), block):
        for columns in _blocks(len(order), gallery_block):
            part = order[columns]
            present, starts = np.unique(labels[part], return_index=True)
            nearest = np.maximum.reduceat(cosines(query[rows], gallery[part]), starts, axis=1)
            scores[rows, present] = np.maximum(scores[rows, present], nearest)
    return scores


def top_k(
    query: NDArray[np.float32],
    gallery: NDArray[np.float32],
    k: int,
    block: int = BLOCK,
    gallery_block: int = GALLERY_BLOCK,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The k nearest gallery photos of each query, as rows and cosines (queries, k), the nearest first.

    Equally near photos come in the order of the gallery; k is cut to the number of its photos. Exact, and the
    same whatever the blocks, which bound the memory.
    """
    check_finite(query)
    check_finite(gallery)
    k = min(k, len(gallery))
    indices, nearest = np.zeros((len(query), k), np.int64), np.zeros((len(query), k))
    for rows in _blocks(len(query), block):
        found, kept = np.zeros((len(query[rows]), 0), np.int64), np.zeros((len(query[rows]), 0))
        for columns in _blocks(len(gallery), gallery_block):
            here = np.broadcast_to(
                np.arange(columns.start, columns.stop), (len(found), columns.stop - columns.start)
            )
            # Photos kept so far stand first, and they come from earlier rows: places break ties as rows do.
            found, kept = np.hstack([found, here]), np.hstack([kept, cosines(query[rows], gallery[columns])])
            best = _largest(kept, k)
            found, kept = np.take_along_axis(found, best, 1), np.take_along_axis(kept, best, 1)
        indices[rows], nearest[rows] = found, kept
    return indices, nearest


def _largest(values: NDArray[np.float64], k: int) -> NDArray[np.int64]:
    """Columns (rows, k) of the k largest values of each row, in falling order, of equal ones the first."""
    k = min(k, values.shape[1])
    if not k:
        return np.zeros((len(values), 0), np.int64)
    last = -np.partition(-values, k - 1, axis=1)[:, k - 1 : k]
    above, equal = values > last, values == last
    missing = k - above.sum(axis=1, keepdims=True)
    taken = above | (equal & (np.cumsum(equal, axis=1) <= missing))
    columns = np.nonzero(taken)[1].reshape(len(values), k)
    order = np.argsort(-np.take_along_axis(values, columns, 1), axis=1, kind="stable")
    return np.take_along_axis(columns, order, 1)


def _blocks(length: int, size: int) -> Iterator[slice]:
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))
