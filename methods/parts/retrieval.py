"""Retrieval: what the gallery says about a query, exactly and in blocks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from whalebench.benchmarks.photos import UNKNOWN

FLOOR = -1.0
"""Score of an identity without a photo in the gallery: the lowest cosine there is."""


def normalise(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """The embeddings at length 1; a zero vector stays zero."""
    length = np.linalg.norm(embeddings, axis=1, keepdims=True)
    normal: NDArray[np.float32] = (embeddings / np.maximum(length, 1e-12)).astype(np.float32)
    return normal


def nearest_photo_scores(
    query: NDArray[np.float32],
    gallery: NDArray[np.float32],
    labels: NDArray[np.int64],
    identities: int,
    block: int = 1024,
) -> NDArray[np.float32]:
    """Scores (queries, identities): the cosine to the nearest gallery photo of each identity.

    query (queries, dimensions) and gallery (photos, dimensions) need not be normalised; labels (photos,) are
    indices of identities, UNKNOWN photos are passed over. An identity without photos scores FLOOR. The answer
    does not depend on the block, which bounds the memory to block x gallery cosines.
    """
    known = np.flatnonzero(labels != UNKNOWN)
    order = known[np.argsort(labels[known], kind="stable")]
    scores = np.full((len(query), identities), FLOOR, np.float32)
    if not len(order):
        return scores
    present, starts = np.unique(labels[order], return_index=True)
    reference = normalise(gallery[order]).T
    normal = normalise(query)
    for start in range(0, len(query), block):
        rows = slice(start, start + block)
        scores[rows, present] = np.maximum.reduceat(normal[rows] @ reference, starts, axis=1)
    return scores
