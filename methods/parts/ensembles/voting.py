"""Rank voting: what the first candidates of a table of scores are worth; without torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

VOTES = 20
"""Candidates that are voted for."""
TIE = 1e-3
"""What something between 0 and 1 counts beside votes: it decides between equal ones only."""


def votes(scores: NDArray[Any]) -> NDArray[np.float64]:
    """1 / rank of each photo's first 20 candidates, 0 of all others, (photos, identities) as the scores.

    Of equally good candidates the first column comes first.
    """
    found = np.zeros(scores.shape)
    best = best_columns(scores, VOTES)
    np.put_along_axis(found, best, np.broadcast_to(1 / np.arange(1, best.shape[1] + 1), best.shape), 1)
    return found


def best_columns(scores: NDArray[Any], k: int) -> NDArray[np.int64]:
    """Columns (photos, at most k) of the highest scores, best first, of equal ones the first."""
    k = min(k, scores.shape[1])
    last = np.partition(scores, -k, axis=1)[:, -k, None]
    # Ties at the end are cut by column, which partitioning alone does not promise.
    above, equal = scores > last, scores == last
    taken = above | (equal & (np.cumsum(equal, axis=1) <= k - above.sum(axis=1, keepdims=True)))
    columns = np.nonzero(taken)[1].reshape(len(scores), k)
    order = np.argsort(-np.take_along_axis(scores, columns, 1), axis=1, kind="stable")
    return np.take_along_axis(columns, order, 1)
