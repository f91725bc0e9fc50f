"""The gallery's rules against their slow twins, exact search, and neighbours by faiss."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from whalebench import RunFailedError, WhalebenchError
from whalebench.benchmarks.core.arrays import normalise
from whalebench.benchmarks.core.photos import UNKNOWN
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.registry import load_benchmark
from whalebench.benchmarks.running.folds import fold_views
from whalebench.methods.arcface import ArcFace, ArcFaceConfig
from whalebench.methods.parts.embedder import Embedder
from whalebench.methods.parts.retrieval import (
    FLOOR,
    GRID,
    Gallery,
    GalleryConfig,
    Rule,
    faiss_top_k,
    nearest_photo_scores,
    on_grid,
    robust_centre,
    top_k,
)

IDENTITIES, ABSENT = 8, 5
Case = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]


def unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    return vector / np.sqrt((vector**2).sum())


def slow_centre(vectors: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """As in the published script of Humpback's third place, round by round."""
    for _ in range(2):
        if len(vectors) < 4:
            break
        centre = unit(np.mean(vectors, axis=0))
        least = len(vectors) * 3 // 4
        near = [vector for vector in vectors if vector @ centre > 0.5]
        if len(near) <= least:
            near = sorted(vectors, key=lambda vector: -(vector @ centre))[:least]
        vectors = near
    return unit(np.mean(vectors, axis=0))


def slow_scores(
    rule: str, query: NDArray[np.float32], gallery: NDArray[np.float32], labels: NDArray[np.int64], k: int
) -> NDArray[np.float64]:
    scores = np.full((len(query), IDENTITIES), FLOOR)
    photos = [(unit(v.astype(float)), label) for v, label in zip(gallery, labels, strict=True) if label >= 0]
    for row, one in enumerate(unit(v.astype(float)) for v in query):
        neighbours = sorted(photos, key=lambda photo: -(one @ photo[0]))[:k]
        for identity in range(IDENTITIES):
            own = [vector for vector, label in photos if label == identity]
            near = [one @ vector for vector, label in neighbours if label == identity]
            if own and rule == "nearest":
                scores[row, identity] = max(one @ vector for vector in own)
            if own and rule == "mean":
                scores[row, identity] = one @ unit(np.mean(own, axis=0))
            if own and rule == "robust_centre":
                scores[row, identity] = one @ slow_centre(own)
            if near and rule == "knn_max":
                scores[row, identity] = max(near)
            if near and rule == "knn_sum":
                scores[row, identity] = sum(near) / len(neighbours)
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
    """Photos about their individual's place, some astray; ABSENT has none, 6 has one."""
    rng = np.random.default_rng(3)
    labels = np.concatenate(
        [rng.permutation(np.repeat([0, 1, 2, 3, 4, 7], [14, 9, 5, 4, 3, 2])), [6, UNKNOWN]]
    )
    places = rng.normal(size=(IDENTITIES, 6))
    gallery = places[labels] + 0.7 * rng.normal(size=(len(labels), 6))
    gallery[::5] = 3 * rng.normal(size=gallery[::5].shape)
    return rng.normal(size=(9, 6)).astype(np.float32), gallery.astype(np.float32), labels.astype(np.int64)


@pytest.fixture
def ties() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A gallery of thirty photos, of which only five differ, and queries among them and elsewhere."""
    rng = np.random.default_rng(1)
    distinct = rng.normal(size=(5, 6)).astype(np.float32)
    gallery = distinct[rng.integers(0, 5, 30)]
    return np.concatenate([distinct[:2], rng.normal(size=(5, 6)).astype(np.float32)]), gallery


def filled(case: Case, rule: Rule, **settings: object) -> Gallery:
    gallery = Gallery(GalleryConfig.model_validate({"rule": rule, **settings}))
    gallery.fill(*case[1:], IDENTITIES)
    return gallery


@pytest.mark.parametrize("block", [1, 2, 5, 9, 1024])
@pytest.mark.parametrize("gallery_block", [1, 7, 1024])
def test_nearest_photos_are_those_of_the_slow_twin_whatever_the_blocks_and_the_order(
    case: Case, block: int, gallery_block: int
) -> None:
    query, gallery, labels = case
    scores = nearest_photo_scores(query, gallery, labels, IDENTITIES, block, gallery_block)
    assert scores.dtype == np.float32
    assert np.allclose(scores, slow_scores("nearest", query, gallery, labels, 0), atol=2e-6)
    assert np.array_equal(scores, nearest_photo_scores(query, gallery[::-1], labels[::-1], IDENTITIES))
    assert (scores[:, ABSENT] == FLOOR).all()
    assert scores.max() <= 1.0


def test_photos_of_unknown_individuals_are_passed_over() -> None:
    query = np.array([[1.0, 0.0]], np.float32)
    gallery = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    assert nearest_photo_scores(query, gallery, np.array([UNKNOWN, 0]), 1).tolist() == [[0.0]]
    assert nearest_photo_scores(query, gallery, np.array([UNKNOWN, UNKNOWN]), 2).tolist() == [[FLOOR, FLOOR]]


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


@pytest.mark.parametrize("neighbours", [1, 10, 500])
@pytest.mark.parametrize("rule", get_args(Rule))
def test_each_rule_scores_as_its_slow_twin(rule: Rule, neighbours: int, case: Case) -> None:
    gallery, query = filled(case, rule, neighbours=neighbours), case[0]
    scores = gallery.scores(query)
    assert scores.dtype == np.float32
    assert np.allclose(scores, slow_scores(rule, *case, neighbours), atol=2e-6)
    assert (scores[:, ABSENT] == FLOOR).all()
    assert scores.min() >= FLOOR
    again = Gallery(gallery.config, IDENTITIES)
    again.load_state_dict(gallery.state_dict())
    assert np.array_equal(again.scores(query), scores)
    assert np.array_equal(gallery.scores(query[3:4]), scores[3:4])


def test_rules_differ(case: Case) -> None:
    """So that a twin that repeats the same mistake is noticed: no two rules give the same scores."""
    scores = [filled(case, rule, neighbours=10).scores(case[0]) for rule in get_args(Rule)]
    assert all(np.abs(a - b).max() > 1e-3 for n, a in enumerate(scores) for b in scores[:n])


def test_the_robust_centre_leaves_out_what_is_astray() -> None:
    near, astray = [1.0, 0.0], [-0.6, 0.8]
    assert np.allclose(robust_centre(np.array([near] * 4 + [astray], np.float32)), near, atol=1e-6)
    # Of three nothing is left out, and of four the nearest three stay.
    three = robust_centre(np.array([near] * 2 + [astray], np.float32))
    assert np.allclose(three, unit(np.array([1.4, 0.8])), atol=1e-6)
    assert np.allclose(robust_centre(np.array([near] * 3 + [astray], np.float32)), near, atol=1e-6)


def test_a_gallery_without_photos_leaves_everybody_at_the_floor() -> None:
    for rule in get_args(Rule):
        gallery = Gallery(GalleryConfig(rule=rule))
        gallery.fill(np.ones((2, 3), np.float32), np.array([UNKNOWN, UNKNOWN]), 4)
        assert (gallery.scores(np.ones((2, 3), np.float32)) == FLOOR).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_embeddings_that_are_no_numbers_are_refused(value: float) -> None:
    good, bad, labels = np.ones((3, 2), np.float32), np.ones((3, 2), np.float32), np.zeros(3, np.int64)
    bad[1, 0] = value
    for query, gallery in ((good, bad), (bad, good)):
        with pytest.raises(RunFailedError, match=r"1 of 3 photos are NaN or infinite.*lower learning_rate"):
            top_k(query, gallery, 1)
        with pytest.raises(RunFailedError, match="1 of 3"):
            nearest_photo_scores(query, gallery, labels, 1)
    for rule in get_args(Rule):
        refusing = Gallery(GalleryConfig(rule=rule))
        with pytest.raises(RunFailedError, match="1 of 3"):
            refusing.fill(bad, labels, 1)
        refusing.fill(good, labels, 1)
        with pytest.raises(RunFailedError, match="1 of 3"):
            refusing.scores(bad)


def test_faiss_without_neighbours_is_refused() -> None:
    with pytest.raises(ValidationError, match="rule=mean has none; set rule=knn_max"):
        GalleryConfig(rule="mean", search="faiss")


def test_faiss_that_is_missing_is_missed_before_anything_is_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whalebench.methods.parts.retrieval.find_spec", lambda name: None)
    config = ArcFaceConfig(gallery=GalleryConfig(rule="knn_max", search="faiss"))
    with pytest.raises(WhalebenchError, match=r"install whalebench\[faiss\], or set search=exact"):
        ArcFace(config)


class RoundedIndex:
    """What faiss does as far as it is used, with rounder products; of equal photos the last comes first."""

    def __init__(self, dimensions: int) -> None:
        self.photos = np.zeros((0, dimensions), np.float32)

    def add(self, photos: NDArray[np.float32]) -> None:
        assert photos.dtype == np.float32
        self.photos = np.concatenate([self.photos, photos])

    def search(self, query: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        products = (query @ self.photos.T).astype(np.float16)
        found = len(self.photos) - 1 - np.argsort(-products[:, ::-1], axis=1, kind="stable")[:, :k]
        return np.take_along_axis(products, found, axis=1).astype(np.float32), found


@pytest.fixture(params=["real", "rounded"])
def faiss(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package, skipped where it is not installed, and a stand-in that rounds even more."""
    if request.param == "real":
        pytest.importorskip("faiss", reason="faiss is an extra that is not installed")
        return
    stand_in = ModuleType("faiss")
    stand_in.__spec__ = ModuleSpec("faiss", None)
    stand_in.IndexFlatIP = RoundedIndex  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "faiss", stand_in)


@pytest.mark.usefixtures("faiss")
@pytest.mark.parametrize("k", [1, 20, 500])
def test_faiss_finds_the_neighbours_that_exact_search_finds(k: int) -> None:
    rng = np.random.default_rng(4)
    query, gallery = (rng.normal(size=(rows, 16)).astype(np.float32) for rows in (7, 300))
    gallery[100:106] = gallery[0]
    query[0] = gallery[0]
    expected, found = top_k(query, gallery, k), faiss_top_k(query, gallery, k)
    assert np.array_equal(found[0], expected[0])
    assert np.array_equal(found[1], expected[1])


@pytest.mark.usefixtures("faiss")
@pytest.mark.parametrize("rule", ["knn_max", "knn_sum"])
def test_a_gallery_scores_the_same_by_faiss(rule: Rule, case: Case) -> None:
    exact, approximate = (
        filled(case, rule, neighbours=10, search=search).scores(case[0]) for search in ("exact", "faiss")
    )
    assert np.array_equal(exact, approximate)


def test_flip_averages_the_embeddings_of_the_photo_and_its_mirror_image(shared_tiny: Workspace) -> None:
    photos = fold_views(load_benchmark("tiny", shared_tiny, propose=True), 0).test
    plain = ArcFaceConfig(backbone="test_resnet", size=(32, 32), grid=(1, 2), epochs=0)
    torch.manual_seed(0)
    method = ArcFace(plain)
    method.network, method.device = Embedder(plain).eval(), torch.device("cpu")
    once = method.embed(photos)
    method.config = plain.model_copy(update={"gallery": GalleryConfig(flip=True)})
    both = method.embed(photos)
    pixels = photos.batch(np.arange(len(photos)), (32, 32)).pixels
    with torch.inference_mode():
        mirrored = normalise(method.network(pixels.flip(-1)).numpy())
    assert np.allclose(both, normalise(once + mirrored), atol=1e-5)
    assert np.abs(both - once).max() > 1e-3
