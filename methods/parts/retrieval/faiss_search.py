"""Search by faiss, an extra: for galleries of millions of photos."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from whalebench import MissingError
from whalebench.methods.parts.retrieval.search import check_finite, on_grid

SPARE = 16
"""Neighbours asked for beyond k: faiss rounds to float32, so places of nearly equal ones may be swapped."""


def require_faiss() -> None:
    """Raises WhalebenchError where faiss is not installed."""
    if find_spec("faiss") is None:
        raise MissingError(
            "search=faiss needs a package that is not installed: install whalebench[faiss], or set "
            "search=exact."
        )


def faiss_top_k(
    query: NDArray[np.float32], gallery: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The k nearest gallery photos of each query, as rows and cosines (queries, k), the nearest first.

    As `retrieval.top_k`: the index compares every photo, so nothing is approximate but the rounding, which
    SPARE makes up for unless more photos than that are equally near.
    """
    require_faiss()
    import faiss  # noqa: PLC0415  (an extra)

    check_finite(query)
    check_finite(gallery)
    k = min(k, len(gallery))
    left, right = on_grid(query), on_grid(gallery).astype(np.float32)
    index = faiss.IndexFlatIP(gallery.shape[1])
    index.add(right)
    candidates = np.sort(index.search(left.astype(np.float32), min(k + SPARE, len(gallery)))[1], axis=1)
    indices, nearest = np.zeros((len(query), k), np.int64), np.zeros((len(query), k))
    for row, found in enumerate(candidates):
        near = np.clip(right[found].astype(np.float64) @ left[row], -1.0, 1.0)
        best = np.argsort(-near, kind="stable")[:k]
        indices[row], nearest[row] = found[best], near[best]
    return indices, nearest
