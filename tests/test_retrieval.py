"""The nearest gallery photos, of each identity and of all: equal to brute force, whatever the block."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from whalebench import RunFailedError
from whalebench.benchmarks.core.arrays import normalise
from whalebench.benchmarks.core.photos import UNKNOWN
from whalebench.methods.parts.retrieval import FLOOR, GRID, nearest_photo_scores, on_grid, top_k

Case = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]


def brute_force(
    query: NDArray[np.float32], gallery: NDArray[np.float32], labels: NDArray[np.int64], identities: int
) -> NDArray[np.float64]:
    scores = np.full((len(query), identities), -1.0)
    for row, one in enumerate(query.astype(float)):
        for other, label in zip(gallery.astype(float), labels, strict=True):
            if label != UNKNOWN:
                cosine = one @ other / np.sqrt(one @ one) / np.sqrt(other @ other)
                scores[row, label] = max(scores[row, label], cosine)
    return scores


def slow_top_k(
    query: NDArray[np.float32], gallery: NDArray[np.float32], k: int
) -> tuple[list[list[int]], list[list[float]]]:
    """In whole numbers: the steps of the grid, multiplied and summed without any rounding."""
    steps = [[[int(value * GRID) for value in row] for row in on_grid(side)] for side in (query, gallery)]
    indices, nearest = [], []
    for one in steps[0]:
        products = [sum(a * b for a, b in zip(one, other, strict=True)) for other in steps[1]]
        best = sorted(range(len(products)), key=lambda row: (-products[row], row))[:k]
        indices.append(best)
        nearest.append([min(max(products[row] / GRID**2, -1.0), 1.0) for row in best])
    return indices, nearest


@pytest.fixture
def case() -> Case:
    rng = np.random.default_rng(0)
    labels = rng.integers(-1, 7, 40)
    labels[labels == 4] = UNKNOWN
    return (
        rng.normal(size=(11, 8)).astype(np.float32),
        5 * rng.normal(size=(40, 8)).astype(np.float32),
        labels,
    )


@pytest.fixture
def ties() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A gallery of thirty photos, of which only five differ, and queries among them and elsewhere."""
    rng = np.random.default_rng(1)
    distinct = rng.normal(size=(5, 6)).astype(np.float32)
    gallery = distinct[rng.integers(0, 5, 30)]
    return np.concatenate([distinct[:2], rng.normal(size=(5, 6)).astype(np.float32)]), gallery


@pytest.mark.parametrize("block", [1, 2, 5, 11, 1024])
@pytest.mark.parametrize("gallery_block", [1, 7, 1024])
def test_scores_are_those_of_brute_force(case: Case, block: int, gallery_block: int) -> None:
    query, gallery, labels = case
    scores = nearest_photo_scores(query, gallery, labels, 8, block=block, gallery_block=gallery_block)
    assert scores.dtype == np.float32
    assert np.allclose(scores, brute_force(query, gallery, labels, 8), atol=1e-6)
    assert np.array_equal(scores, nearest_photo_scores(query, gallery, labels, 8))


def test_identities_without_photos_score_the_floor(case: Case) -> None:
    query, gallery, labels = case
    scores = nearest_photo_scores(query, gallery, labels, 8)
    assert (scores[:, [4, 7]] == FLOOR).all()
    assert (scores[:, [0, 1, 2, 3, 5, 6]] > FLOOR).all()
    assert (scores <= 1.0).all()


def test_photos_of_unknown_individuals_are_passed_over() -> None:
    query = np.array([[1.0, 0.0]], np.float32)
    gallery = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    assert nearest_photo_scores(query, gallery, np.array([UNKNOWN, 0]), 1).tolist() == [[0.0]]
    assert nearest_photo_scores(query, gallery, np.array([UNKNOWN, UNKNOWN]), 2).tolist() == [[FLOOR, FLOOR]]


def test_the_order_of_the_gallery_does_not_matter(case: Case) -> None:
    query, gallery, labels = case
    turned = nearest_photo_scores(query, gallery[::-1], labels[::-1], 8)
    assert np.array_equal(turned, nearest_photo_scores(query, gallery, labels, 8))


@pytest.mark.parametrize("k", [1, 3, 12, 29, 30, 99])
def test_the_nearest_are_those_of_brute_force_to_the_last_bit(
    ties: tuple[NDArray[np.float32], NDArray[np.float32]], k: int
) -> None:
    query, gallery = ties
    indices, nearest = slow_top_k(query, gallery, k)
    for block in range(1, len(query) + 1):
        for gallery_block in range(1, len(gallery) + 1, 1 if block == 3 else 7):
            found, cosines = top_k(query, gallery, k, block=block, gallery_block=gallery_block)
            assert found.tolist() == indices
            assert cosines.tolist() == nearest


def test_no_order_of_summation_changes_a_cosine() -> None:
    """Long vectors, where float32 products differ with the block: the dimensions are summed in any order."""
    rng = np.random.default_rng(2)
    query, gallery = (rng.normal(size=(rows, 512)).astype(np.float32) for rows in (3, 200))
    left, right = on_grid(query), on_grid(gallery)
    orders = [rng.permutation(512) for _ in range(5)]
    expected = left @ right.T
    assert all(np.array_equal(left[:, order] @ right[:, order].T, expected) for order in orders)
    found, cosines = top_k(query, gallery, 200)
    assert np.array_equal(np.take_along_axis(expected, found, axis=1), cosines)
    true = (query.astype(float) @ gallery.T.astype(float)) / np.outer(
        np.linalg.norm(query.astype(float), axis=1), np.linalg.norm(gallery.astype(float), axis=1)
    )
    assert np.abs(expected - true).max() < 3e-7


def test_an_empty_gallery_has_no_neighbours() -> None:
    found, cosines = top_k(np.ones((2, 3), np.float32), np.zeros((0, 3), np.float32), 5)
    assert found.shape == cosines.shape == (2, 0)
    found, _ = top_k(np.zeros((0, 3), np.float32), np.ones((4, 3), np.float32), 2)
    assert found.shape == (0, 2)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_embeddings_that_are_no_numbers_are_refused(value: float) -> None:
    good, bad = np.ones((3, 2), np.float32), np.ones((3, 2), np.float32)
    bad[1, 0] = value
    for query, gallery in ((good, bad), (bad, good)):
        with pytest.raises(RunFailedError, match=r"1 of 3 photos are NaN or infinite.*lower learning_rate"):
            top_k(query, gallery, 1)
        with pytest.raises(RunFailedError, match="1 of 3"):
            nearest_photo_scores(query, gallery, np.zeros(3, np.int64), 1)


def test_normalise_leaves_zero_alone() -> None:
    normal = normalise(np.array([[3.0, 4.0], [0.0, 0.0]], np.float32))
    assert np.allclose(normal, [[0.6, 0.8], [0.0, 0.0]])
    assert normal.dtype == np.float32
