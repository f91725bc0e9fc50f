"""The nearest gallery photo of each identity: equal to brute force, whatever the block."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from whalebench.benchmarks.photos import UNKNOWN
from whalebench.methods.parts.retrieval import FLOOR, nearest_photo_scores, normalise


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


@pytest.fixture
def case() -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    labels = rng.integers(-1, 7, 40)
    labels[labels == 4] = UNKNOWN
    return (
        rng.normal(size=(11, 8)).astype(np.float32),
        5 * rng.normal(size=(40, 8)).astype(np.float32),
        labels,
    )


@pytest.mark.parametrize("block", [1, 2, 5, 11, 1024])
def test_scores_are_those_of_brute_force(
    case: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]], block: int
) -> None:
    query, gallery, labels = case
    scores = nearest_photo_scores(query, gallery, labels, 8, block=block)
    assert scores.dtype == np.float32
    assert np.allclose(scores, brute_force(query, gallery, labels, 8), atol=1e-6)


def test_identities_without_photos_score_the_floor(
    case: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]],
) -> None:
    query, gallery, labels = case
    scores = nearest_photo_scores(query, gallery, labels, 8)
    assert (scores[:, [4, 7]] == FLOOR).all()
    assert (scores[:, [0, 1, 2, 3, 5, 6]] > FLOOR).all()
    assert (scores <= 1.0 + 1e-6).all()


def test_photos_of_unknown_individuals_are_passed_over() -> None:
    query = np.array([[1.0, 0.0]], np.float32)
    gallery = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    assert nearest_photo_scores(query, gallery, np.array([UNKNOWN, 0]), 1).tolist() == [[0.0]]
    assert nearest_photo_scores(query, gallery, np.array([UNKNOWN, UNKNOWN]), 2).tolist() == [[FLOOR, FLOOR]]


def test_the_order_of_the_gallery_does_not_matter(
    case: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]],
) -> None:
    query, gallery, labels = case
    turned = nearest_photo_scores(query, gallery[::-1], labels[::-1], 8)
    assert np.allclose(turned, nearest_photo_scores(query, gallery, labels, 8), atol=1e-6)


def test_normalise_leaves_zero_alone() -> None:
    normal = normalise(np.array([[3.0, 4.0], [0.0, 0.0]], np.float32))
    assert np.allclose(normal, [[0.6, 0.8], [0.0, 0.0]])
    assert normal.dtype == np.float32
