"""What several rooms do with arrays of scores, embeddings and names: blocks, top-k, unit length, groups."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK_CELLS = 2_000_000
"""How much of a large table is worked on at a time, 16 MB of float64; no result depends on it."""


def blocks(length: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` places that cover `length` places, in order.

    >>> list(blocks(5, 2))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))


def row_blocks(rows: int, columns: int) -> Iterator[slice]:
    """Slices that cover all rows of a table, each of about BLOCK_CELLS cells."""
    return blocks(rows, max(1, BLOCK_CELLS // max(1, columns)))


def columns_of(names: Iterable[str]) -> dict[str, int]:
    """The column of each name, from 0.

    >>> columns_of(["ada", "bea"])
    {'ada': 0, 'bea': 1}
    """
    return {name: column for column, name in enumerate(names)}


def normalise(embeddings: NDArray[Any]) -> NDArray[np.float32]:
    """Embeddings (photos, dimensions) at length 1; a zero vector stays zero.

    >>> normalise(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    # What np.linalg.norm computes, without its copies.
    length = np.sqrt(np.square(embeddings).sum(axis=1, keepdims=True))
    return np.asarray(embeddings / np.maximum(length, 1e-12), np.float32)


def rows_by_label(labels: NDArray[np.int64]) -> dict[int, NDArray[np.int64]]:
    """The rows of each label there is, labels and rows rising.

    >>> rows_by_label(np.array([7, 3, 7]))
    {3: array([1]), 7: array([0, 2])}
    """
    order = np.argsort(labels, kind="stable")
    present, starts = np.unique(labels[order], return_index=True)
    return dict(zip(present.tolist(), np.split(order, starts[1:]), strict=False))


def top_columns(values: NDArray[Any], k: int) -> NDArray[np.int64]:
    """Columns (rows, at most k) of the k largest values of each row, falling, of equal ones the first.

    The values have no NaN. Partitioning alone does not promise which of equal values it keeps.

    >>> top_columns(np.array([[0.1, 0.9, 0.5, 0.9]]), 3).tolist()
    [[1, 3, 2]]
    """
    k = min(k, values.shape[1])
    if not k:
        return np.zeros((len(values), 0), np.int64)
    last = np.partition(values, -k, axis=1)[:, -k, None]
    above, equal = values > last, values == last
    kept = above | (equal & (np.cumsum(equal, axis=1) <= k - above.sum(axis=1, keepdims=True)))
    columns = np.nonzero(kept)[1].reshape(len(values), k)
    order = np.argsort(-np.take_along_axis(values, columns, 1), axis=1, kind="stable")
    return np.take_along_axis(columns, order, 1)
