"""Centres: one embedding for each identity, made of those of its photos."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from whalebench.methods.parts.retrieval.search import cosines, normalise

NEAR = 0.5
"""Cosine to the centre above which the robust centre keeps an embedding."""
KEPT = 0.75
"""Share of the embeddings that it keeps in any case."""
FEWEST = 4
"""Embeddings below which none can be told to be an outlier."""
ROUNDS = 2


def mean_centre(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean (dimensions,) at length 1 of embeddings (photos, dimensions) of length 1."""
    mean = embeddings.mean(axis=0, dtype=np.float64, keepdims=True).astype(np.float32)
    centre: NDArray[np.float32] = normalise(mean)[0]
    return centre


def robust_centre(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """The trimmed mean (dimensions,) at length 1 of embeddings (photos, dimensions) of length 1.

    Two rounds: those nearer to the mean than NEAR stay if they are more than KEPT of all, else the nearest
    KEPT of all. Fewer than FEWEST embeddings are trimmed no more (Humpback 2019, 3rd place).
    """
    for _ in range(ROUNDS):
        if len(embeddings) < FEWEST:
            break
        near = cosines(embeddings, mean_centre(embeddings)[None])[:, 0]
        least = int(KEPT * len(embeddings))
        kept = np.flatnonzero(near > NEAR)
        if len(kept) <= least:
            kept = np.sort(np.argsort(-near, kind="stable")[:least])
        embeddings = embeddings[kept]
    return mean_centre(embeddings)


CENTRES: dict[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {
    "mean": mean_centre,
    "robust_centre": robust_centre,
}
"""By the name of the gallery's rule."""


def centres(
    embeddings: NDArray[np.float32],
    labels: NDArray[np.int64],
    identities: int,
    centre: Callable[[NDArray[np.float32]], NDArray[np.float32]],
) -> NDArray[np.float32]:
    """The centre of each identity (identities, dimensions), of embeddings (photos, dimensions) under labels.

    An identity without photos has a zero vector.
    """
    found = np.zeros((identities, embeddings.shape[1]), np.float32)
    order = np.argsort(labels, kind="stable")
    present, starts = np.unique(labels[order], return_index=True)
    normal = normalise(embeddings)
    for identity, photos in zip(present, np.split(order, starts[1:]), strict=False):
        found[identity] = centre(normal[photos])
    return found
