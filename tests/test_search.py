"""Exact search against brute force in whole numbers and in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from whalebench import RunFailedError
from whalebench.benchmarks.core import search
from whalebench.benchmarks.core.search import GRID, Candidates, cosines, nearest_by_count, on_grid, top_k

Vectors = NDArray[np.float32]


def slow_top_k(query: Vectors, gallery: Vectors, k: int) -> tuple[list[list[int]], list[list[float]]]:
    """In whole numbers: the steps of the grid, multiplied and summed without any rounding."""
    steps = [
        [[int(float(value) * GRID) for value in row] for row in on_grid(side)] for side in (query, gallery)
    ]
    indices, nearest = [], []
    for one in steps[0]:
        products = [sum(a * b for a, b in zip(one, other, strict=True)) for other in steps[1]]
        best = sorted(range(len(products)), key=lambda row: (-products[row], row))[:k]
        indices.append(best)
        nearest.append([min(max(products[row] / GRID**2, -1.0), 1.0) for row in best])
    return indices, nearest


@pytest.fixture
def ties() -> tuple[Vectors, Vectors]:
    """A gallery of thirty photos, of which only five differ, and queries among them and elsewhere."""
    rng = np.random.default_rng(1)
    distinct = rng.normal(size=(5, 6)).astype(np.float32)
    gallery = distinct[rng.integers(0, 5, 30)]
    return np.concatenate([distinct[:2], rng.normal(size=(5, 6)).astype(np.float32)]), gallery


@pytest.mark.parametrize("k", [1, 3, 12, 29, 30, 99])
def test_the_nearest_are_those_of_brute_force_to_the_last_bit(ties: tuple[Vectors, Vectors], k: int) -> None:
    query, gallery = ties
    indices, nearest = slow_top_k(query, gallery, k)
    for block in range(1, len(query) + 1):
        for gallery_block in range(1, len(gallery) + 1, 1 if block == 3 else 7):
            found, near = top_k(query, gallery, k, block=block, gallery_block=gallery_block)
            assert found.tolist() == indices
            assert near.tolist() == nearest


def test_no_order_of_summation_changes_a_cosine() -> None:
    """Long vectors, where float32 products differ with the block: the dimensions are summed in any order."""
    rng = np.random.default_rng(2)
    query, gallery = (rng.normal(size=(rows, 512)).astype(np.float32) for rows in (3, 200))
    left, right = (on_grid(side).astype(np.float64) for side in (query, gallery))
    orders = [rng.permutation(512) for _ in range(5)]
    expected = left @ right.T
    assert all(np.array_equal(left[:, order] @ right[:, order].T, expected) for order in orders)
    found, near = top_k(query, gallery, 200)
    assert np.array_equal(np.take_along_axis(expected, found, axis=1), near)
    true = (query.astype(float) @ gallery.T.astype(float)) / np.outer(
        np.linalg.norm(query.astype(float), axis=1), np.linalg.norm(gallery.astype(float), axis=1)
    )
    assert np.abs(expected - true).max() < 3e-7


def test_an_empty_gallery_has_no_neighbours() -> None:
    found, near = top_k(np.ones((2, 3), np.float32), np.zeros((0, 3), np.float32), 5)
    assert found.shape == near.shape == (2, 0)
    found, _ = top_k(np.zeros((0, 3), np.float32), np.ones((4, 3), np.float32), 2)
    assert found.shape == (0, 2)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_embeddings_that_are_no_numbers_are_refused(value: float) -> None:
    good, bad = np.ones((3, 2), np.float32), np.ones((3, 2), np.float32)
    bad[1, 0] = value
    for query, gallery in ((good, bad), (bad, good)):
        with pytest.raises(RunFailedError, match=r"1 of 3 photos are NaN or infinite.*lower learning_rate"):
            top_k(query, gallery, 1)


def test_the_grid_of_float32_is_that_of_float64() -> None:
    rng = np.random.default_rng(5)
    photos = (rng.normal(size=(200, 7)) * 10.0 ** rng.integers(-30, 18, (200, 1))).astype(np.float32)
    photos[:20, 1:] *= np.float32(1e-4)  # components on either side of where float32 is as fine as the grid
    unit = photos / np.maximum(np.linalg.norm(photos, axis=1, keepdims=True), np.float32(1e-12))
    assert on_grid(photos).dtype == np.float32
    assert np.array_equal(on_grid(photos), np.round(unit.astype(np.float64) * GRID) / GRID)


def brute(query: Vectors, gallery: Vectors, k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    values = cosines(query, gallery)
    best = np.argsort(-values, axis=1, kind="stable")[:, :k]
    return best, np.take_along_axis(values, best, axis=1)


def spread(rng: np.random.Generator, scale: float) -> tuple[Vectors, Vectors]:
    """Embeddings about one direction, nearly as near to each other as float32 can tell, or nearer."""
    middle = rng.normal(size=(1, 33))
    query, gallery = (middle + scale * rng.normal(size=(rows, 33)) for rows in (20, 3000))
    return query.astype(np.float32), gallery.astype(np.float32)


def clusters(rng: np.random.Generator) -> tuple[Vectors, Vectors]:
    """Two dozen places with over a hundred photos each, alike to the last bits, some equal, some nothing."""
    places = rng.normal(size=(24, 33))[rng.integers(0, 24, 3020)]
    photos = (places + 1e-7 * rng.normal(size=places.shape)).astype(np.float32)
    photos[rng.integers(0, 3020, 300)] = photos[0]
    photos[rng.integers(0, 3020, 300)] = 0
    return photos[:20], photos[20:]


def rising(rng: np.random.Generator) -> tuple[Vectors, Vectors]:
    """Every photo is nearer than the one before: no floor keeps what comes."""
    angle = np.linspace(3.1, 0.0, 3000)
    gallery = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.tile(np.array([[1.0, 0.0]]), (20, 1)).astype(np.float32), gallery.astype(np.float32)


def opposite(rng: np.random.Generator) -> tuple[Vectors, Vectors]:
    """As far away as can be, but for rounding, which must not tell them apart."""
    one = rng.normal(size=(1, 33)).astype(np.float32)
    lengths = rng.uniform(0.1, 9, (3000, 1)).astype(np.float32)
    return np.repeat(one, 20, axis=0), -one * lengths


ADVERSARIES: dict[str, Callable[[np.random.Generator], tuple[Vectors, Vectors]]] = {
    "anywhere": lambda rng: spread(rng, 1e3),
    "near": lambda rng: spread(rng, 1e-2),
    "nearer": lambda rng: spread(rng, 1e-4),
    "equal": lambda rng: spread(rng, 0.0),
    "clusters": clusters,
    "rising": rising,
    "opposite": opposite,
}


@pytest.mark.parametrize("crowd", [3, 1024])
@pytest.mark.parametrize("name", ADVERSARIES)
def test_whatever_float32_cannot_tell_is_told(name: str, crowd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    query, gallery = ADVERSARIES[name](np.random.default_rng(6))
    monkeypatch.setattr(search, "CROWD", crowd)
    for k in (1, 7, 40, 400, 3000, 4000):
        expected = brute(query, gallery, k)
        for blocks in ((512, 4096), (3, 250)) if k < 400 else ((512, 4096),):
            found = top_k(query, gallery, k, *blocks)
            assert np.array_equal(found[0], expected[0])
            assert found[1].tobytes() == expected[1].tobytes()


def test_the_true_neighbours_are_candidates_though_products_are_as_wrong_as_they_may_be() -> None:
    """Half the allowed error, against the true k-th and for all that are farther."""
    rng = np.random.default_rng(7)
    query, gallery = spread(rng, 0.02)
    candidates = Candidates(query, 5)
    exact = cosines(query, gallery)
    error = 33 * 2.0**-24 * np.where(rng.random(exact.shape) < 0.5, -1, 1)
    for first in range(0, 3000, 100):
        candidates.add((exact + error)[:, first : first + 100].astype(np.float32), first)
    found, values = candidates.ranked(gallery)
    assert not candidates.crowded.any()
    assert np.array_equal(found, brute(query, gallery, 5)[0])
    assert np.array_equal(values, brute(query, gallery, 5)[1])


def test_only_crowded_queries_are_compared_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Counted(search.Nearest):
        def __init__(self, query: Vectors, k: int) -> None:
            asked.append(len(query))
            super().__init__(query, k)

    monkeypatch.setattr(search, "Nearest", Counted)
    query, gallery = spread(np.random.default_rng(8), 1.0)
    top_k(query, gallery, 5)
    assert asked == []
    gallery[:1500] = query[3]
    top_k(query, gallery, 5)
    assert asked == [1]


def test_each_query_has_its_own_number_of_neighbours() -> None:
    query, gallery = spread(np.random.default_rng(9), 1.0)
    counts = np.random.default_rng(9).choice([0, 1, 5, 30, 3000], 20)
    seen = []
    for rows, photos, values in nearest_by_count(query, gallery, counts, block=4):
        seen += rows.tolist()
        assert photos.shape == values.shape == (len(rows), counts[rows].max())
        assert np.array_equal(photos, brute(query[rows], gallery, photos.shape[1])[0])
    assert sorted(seen) == np.flatnonzero(counts).tolist()
