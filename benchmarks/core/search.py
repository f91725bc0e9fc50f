"""Exact search: the nearest photos of each query by cosine, whatever the blocks and the number of threads.

The components of normalised embeddings are rounded to multiples of 2^-26, a quarter of float32's last bit
next to 1. On that grid every product, and every partial sum of products, has a place in float64, so that no
order of summation changes a bit of a cosine, and equal photos tie.

Float32 is twice as fast, and each component has a place in it, too: from 1/4 up its own steps are no finer
than the grid's, and below that 24 bits reach. A product of two embeddings is off by rounding alone, by at
most n u / (1 - n u) times their lengths, with u = 2^-24 and n dimensions, in whatever order it is summed and
with or without FMA (Higham, Accuracy and Stability of Numerical Algorithms, 2002, (3.5)). So nobody is among
the k nearest whose product in float32 is more than twice that below the k-th largest; all others are
candidates, which are compared again in float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whalebench import RunFailedError
from whalebench.benchmarks.core.arrays import blocks, normalise, top_columns

Rows = NDArray[np.int64]

GRID = 2.0**26
"""Steps from 0 to 1; a sum of products of such steps needs 53 bits as long as it is below 2."""
BLOCK, GALLERY_BLOCK = 512, 4096
"""Queries and gallery photos that are compared at a time: 8 MiB of products, which a cache may hold."""
TOGETHER = 8192
"""Queries that meet the gallery in one pass, so that it is normalised for many of them at once."""
CACHED = 2**16
"""Components that are rounded at a time: 256 KiB."""
CROWD = 1024
"""Candidates beyond k above which a query is compared in float64 at once, where k are enough."""
FEW = 64
"""If more than one in so many of the gallery are among the k nearest, float64 compares from the start."""


def check_finite(*embeddings: NDArray[np.float32]) -> None:
    """Raises RunFailedError for embeddings (photos, dimensions) with a value that is NaN or infinite."""
    for each in embeddings:
        broken = sum(
            int((~np.isfinite(each[rows]).all(axis=1)).sum()) for rows in blocks(len(each), TOGETHER)
        )
        if broken:
            raise RunFailedError(
                f"the embeddings of {broken} of {len(each)} photos are NaN or infinite, so nothing is near "
                "them: lower learning_rate, or set precision=fp32."
            )


def on_grid(embeddings: NDArray[Any]) -> NDArray[np.float32]:
    """Embeddings (photos, dimensions) at length 1, rounded to the grid on which their products are exact."""
    grid: NDArray[np.float32] = np.empty(embeddings.shape, np.float32)
    # In pieces that stay in a core's cache, as they are gone through six times.
    for rows in blocks(len(grid), max(1, CACHED // max(1, grid.shape[1]))):
        unit = normalise(np.ascontiguousarray(embeddings[rows]))
        # A power of two changes the exponent alone, and from 2^24 on there are whole numbers only.
        unit *= np.float32(GRID)
        np.rint(unit, out=unit)
        np.multiply(unit, np.float32(1 / GRID), out=grid[rows])
    return grid


def cosines(query: NDArray[np.float32], gallery: NDArray[np.float32]) -> NDArray[np.float64]:
    """Cosines (queries, photos) in [-1, 1], exact on the grid."""
    return np.clip(on_grid(query).astype(np.float64) @ on_grid(gallery).astype(np.float64).T, -1.0, 1.0)


def top_k(
    query: NDArray[np.float32],
    gallery: NDArray[np.float32],
    k: int,
    block: int = BLOCK,
    gallery_block: int = GALLERY_BLOCK,
) -> tuple[Rows, NDArray[np.float64]]:
    """The k nearest gallery photos of each query, as rows and cosines (queries, k), the nearest first.

    query (queries, dimensions) and gallery (photos, dimensions) need not be normalised. Equally near photos
    come in the order of the gallery; k is cut to the number of its photos. The answer does not depend on the
    blocks, which bound the memory.
    """
    k = min(k, len(gallery))
    indices, nearest = np.zeros((len(query), k), np.int64), np.zeros((len(query), k))
    for rows, photos, values in nearest_by_count(
        query, gallery, np.full(len(query), k, np.int64), block, gallery_block
    ):
        indices[rows], nearest[rows] = photos, values
    return indices, nearest


def nearest_by_count(
    query: NDArray[np.float32],
    gallery: NDArray[np.float32],
    counts: Rows,
    block: int = BLOCK,
    gallery_block: int = GALLERY_BLOCK,
) -> Iterator[tuple[Rows, Rows, NDArray[np.float64]]]:
    """Rows of queries with photos and cosines (rows, k) of their k nearest, as `top_k` ranks them.

    Each query with a count, of (queries,) none above the number of photos, comes once; of those that come
    together, whose counts are near to each other, k is the largest. Raises RunFailedError for NaN or infinite
    embeddings.
    """
    check_finite(query, gallery)
    block = min(block, 2**16)
    order = np.argsort(counts, kind="stable")
    order = order[counts[order] > 0]
    many = counts[order] > len(gallery) // FEW
    again = [order[many]]
    for together in _parts(order[~many], TOGETHER):
        parts = _parts(together, block)
        found = [Candidates(query[rows], int(counts[rows].max())) for rows in parts]
        _meet(found, gallery, gallery_block)
        for rows, candidates in zip(parts, found, strict=True):
            ranked = candidates.ranked(gallery)
            yield rows[~candidates.crowded], *ranked
            again.append(rows[candidates.crowded])
    order = np.concatenate(again)
    for together in _parts(order[np.argsort(counts[order], kind="stable")], TOGETHER):
        parts = _parts(together, block)
        best = [Nearest(query[rows], int(counts[rows].max())) for rows in parts]
        _meet(best, gallery, gallery_block)
        yield from ((rows, one.photos, one.cosines) for rows, one in zip(parts, best, strict=True))


def _parts(rows: Rows, size: int) -> list[Rows]:
    return [rows[part] for part in blocks(len(rows), size)]


def _meet(found: Sequence[Nearest | Candidates], gallery: NDArray[np.float32], gallery_block: int) -> None:
    """Shows the gallery to all of them, normalised block by block."""
    for columns in blocks(len(gallery), gallery_block):
        photos: NDArray[Any] = on_grid(gallery[columns])
        photos = photos.astype(found[0].query.dtype, copy=False).T
        for each in found:
            each.add(np.matmul(each.query, photos), columns.start)


class Nearest:
    """The k nearest photos of some queries by exact products, block by block of the gallery."""

    def __init__(self, query: NDArray[np.float32], k: int) -> None:
        self.query, self.k = on_grid(query).astype(np.float64), k
        """(queries, dimensions) on the grid."""
        self.photos, self.cosines = np.zeros((len(query), 0), np.int64), np.zeros((len(query), 0))
        """(queries, at most k), the nearest first, of equally near ones the first in the gallery."""

    def add(self, products: NDArray[Any], first: int) -> None:
        """Takes products (queries, photos) with the gallery's photos from `first` on."""
        products = np.clip(products, -1.0, 1.0)
        if self.cosines.shape[1] < self.k:
            self.photos, self.cosines = self._best(slice(None), products, first)
        # Of equally near photos the earlier stay.
        elif len(rows := np.flatnonzero((products > self.cosines[:, -1:]).any(axis=1))):
            self.photos[rows], self.cosines[rows] = self._best(rows, products, first)

    def _best(
        self, rows: Rows | slice, products: NDArray[np.float64], first: int
    ) -> tuple[Rows, NDArray[np.float64]]:
        photos = np.broadcast_to(np.arange(first, first + products.shape[1]), products.shape)
        photos = np.hstack([self.photos[rows], photos[rows]])
        cosines = np.hstack([self.cosines[rows], products[rows]])
        best = top_columns(cosines, self.k)
        return np.take_along_axis(photos, best, 1), np.take_along_axis(cosines, best, 1)


class Candidates:
    """The photos that may be among the k nearest of some queries by products in float32, block by block."""

    def __init__(self, query: NDArray[np.float32], k: int) -> None:
        self.query, self.k = on_grid(query), k
        """(queries, dimensions) on the grid."""
        # Twice the bound on either side: lengths are 1 but for rounding, and floors are rounded, too.
        self.slack = np.float32(4 * query.shape[1] * 2.0**-24)
        self.floor = np.full(len(query), -np.inf, np.float32)
        """(queries,) what a product must be above."""
        self.crowded = np.zeros(len(query), np.bool_)
        """(queries,) which have so many candidates that they are no longer followed."""
        self.found = [(np.zeros(0, np.uint16), np.zeros(0, np.int64), np.zeros(0, np.float32))]
        """Rows of queries, photos and products, of candidates; rows of 16 bits are sorted quickly."""
        self.settled, self.size = 0, 0

    def add(self, products: NDArray[Any], first: int) -> None:
        """Takes products (queries, photos) with the gallery's photos from `first` on."""
        photos = products.shape[1]
        if first == 0 and photos > self.k:
            self._raise(_kth(products, self.k))
        cells = _places(products > self.floor[:, None])
        counts = np.bincount(cells // photos, minlength=len(self.query))
        # Photos of one individual may come together, nearer than whatever came before.
        if photos > self.k and len(many := np.flatnonzero(counts > 2 * self.k + CROWD // 8)):
            kth = np.full(len(self.query), -2, np.float32)
            kth[many] = _kth(products[many], self.k)
            self._raise(kth)
            cells = _places(products > self.floor[:, None])
        rows, columns = np.divmod(cells, photos)
        clear = self._clear(rows)
        found = rows[clear].astype(np.uint16), columns[clear] + first, products.reshape(-1)[cells[clear]]
        self.found.append(found)
        self.size += len(found[0])
        if self.size > 2 * max(self.settled, len(self.query) * self.k):
            self._settle()

    def ranked(self, gallery: NDArray[np.float32]) -> tuple[Rows, NDArray[np.float64]]:
        """Photos and cosines (queries but the crowded, k), as `top_k` ranks them."""
        self._settle()
        ((rows, photos, _),) = self.found
        cosines, ends = np.empty(len(rows)), np.cumsum(np.bincount(rows, minlength=len(self.query)))
        for one, start, end in zip(self.query, [0, *ends[:-1].tolist()], ends.tolist(), strict=True):
            near = on_grid(gallery[photos[start:end]]).astype(np.float64)
            np.matmul(near, one.astype(np.float64), out=cosines[start:end])
        np.clip(cosines, -1, 1, out=cosines)
        order = np.lexsort((photos, -cosines, rows))
        order = order[_within(rows[order], len(self.query)) < self.k]
        return photos[order].reshape(-1, self.k), cosines[order].reshape(-1, self.k)

    def _settle(self) -> None:
        """Raises the floor by what was found, and lets go whoever is below it; rows rise then."""
        rows, photos, products = (np.concatenate(each) for each in zip(*self.found, strict=True))
        order = np.argsort(rows, kind="stable")
        rows, photos, products = rows[order], photos[order], products[order]
        place = _within(rows, len(self.query))
        if len(rows) and place.max() >= self.k - 1:
            side_by_side = np.full((len(self.query), place.max() + 1), -2, np.float32)
            side_by_side[rows, place] = products
            self._raise(_kth(side_by_side, self.k))
        kept = products > self.floor[rows]
        kept[kept] = self._clear(rows[kept])
        self.found = [(rows[kept], photos[kept], products[kept])]
        self.settled = self.size = int(kept.sum())

    def _raise(self, kth: NDArray[np.float32]) -> None:
        """The floor by the k-th largest products (queries,), where that is above it."""
        # Cosines are in [-1, 1], so products beyond the ends are equal.
        floor = np.minimum(kth, np.float32(1)) - self.slack
        floor[floor < -1] = -np.inf
        self.floor = np.maximum(self.floor, floor)

    def _clear(self, rows: NDArray[Any]) -> NDArray[np.bool_]:
        """Which candidates are of queries that are not crowded, as their rows say."""
        self.crowded |= np.bincount(rows, minlength=len(self.query)) > self.k + CROWD
        self.floor[self.crowded] = np.inf
        clear: NDArray[np.bool_] = ~self.crowded[rows]
        return clear


def _kth(products: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    """The k-th largest of each row."""
    kth: NDArray[np.float32] = np.partition(products, -k, axis=1)[:, -k]
    return kth


def _places(mask: NDArray[np.bool_]) -> Rows:
    """Where a mask is true, as in its flat form: eight places are looked at at once, as few are."""
    flat = mask.reshape(-1)
    whole = len(flat) // 8 * 8
    some = np.flatnonzero(flat[:whole].view(np.uint64))
    eight, place = np.nonzero(flat[:whole].reshape(-1, 8)[some])
    return np.concatenate([some[eight] * 8 + place, np.flatnonzero(flat[whole:]) + whole])


def _within(rows: NDArray[Any], queries: int) -> Rows:
    """The place of each among those of its row, from 0; rows rise."""
    counts = np.bincount(rows, minlength=queries)
    return np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
