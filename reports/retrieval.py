"""Quality of an embedding as such, before any head, threshold or fusion."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whalebench import WhalebenchError
from whalebench.reports.ranking import Floats, row_blocks


def average_precision_at_r(
    embeddings_query: NDArray[np.floating],
    labels_query: Sequence[str] | NDArray[Any],
    embeddings_gallery: NDArray[np.floating],
    labels_gallery: Sequence[str] | NDArray[Any],
) -> Floats:
    """Average precision at R of each query by cosine; NaN where the gallery has no photo of its individual.

    R is the number of gallery photos of the query's individual; the precision at each right place among the
    nearest R, summed and divided by R ("A Metric Learning Reality Check", Musgrave et al. 2020). Of equally
    near photos the earlier in the gallery is first. Embeddings (n, d) and (m, d), any length but finite;
    labels are names or numbers, both of one kind.

    >>> gallery = np.array([[1.0, 0.0], [0.9, 0.1], [0.8, 0.3], [0.0, 1.0]])
    >>> average_precision_at_r(np.array([[1.0, 0.0]]), ["a"], gallery, ["a", "b", "a", "b"]).tolist()
    [0.5]
    """
    query, gallery = _unit(embeddings_query, "query"), _unit(embeddings_gallery, "gallery")
    labels = np.concatenate([np.asarray(labels_query), np.asarray(labels_gallery)])
    codes = np.unique(labels, return_inverse=True)[1]
    codes_query, codes_gallery = codes[: len(labels_query)], codes[len(labels_query) :]
    if len(codes_query) != len(query) or len(codes_gallery) != len(gallery):
        raise WhalebenchError("Embeddings and labels differ in number: hand over one label a row.")
    relevant = np.bincount(codes_gallery, minlength=len(codes) + 1)[codes_query]
    result = np.full(len(query), np.nan)
    for block in row_blocks(len(query), len(gallery)):
        similarities = query[block] @ gallery.T
        for place in np.flatnonzero(relevant[block] > 0):
            row = block.start + place
            nearest = _nearest(similarities[place], int(relevant[row]))
            result[row] = _mean_precision(codes_gallery[nearest] == codes_query[row])
    return result


def _nearest(similarities: Floats, number: int) -> NDArray[np.int64]:
    """Places of the `number` highest similarities, best first, the earlier of equals first."""
    last = np.partition(similarities, len(similarities) - number)[len(similarities) - number]
    near = np.flatnonzero(similarities >= last)  # more than `number` when the last place is shared
    return near[np.argsort(-similarities[near], kind="stable")][:number]


def _mean_precision(right: NDArray[np.bool_]) -> float:
    """Sum of the precision at each right place, divided by the number of places."""
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    return float((precision * right).sum() / len(right))


def _unit(embeddings: NDArray[np.floating], name: str) -> Floats:
    """Rows of length one in float64; a row of zeros stays zero, as near to everything as to nothing."""
    values = np.asarray(embeddings, dtype=np.float64)
    if values.ndim != 2 or not np.isfinite(values).all():
        raise WhalebenchError(
            f"The {name} embeddings are not a finite (photos, numbers) array: check the network."
        )
    length = np.linalg.norm(values, axis=1, keepdims=True)
    unit: Floats = np.divide(values, length, out=np.zeros_like(values), where=length > 0)
    return unit
