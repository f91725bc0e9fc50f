"""Key points against plain twins; `sift` alone and behind another method."""

from __future__ import annotations

import json
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from whalebench import WhalebenchError
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.overview import field_rows, fields_words
from whalebench.benchmarks.registry import load_benchmark
from whalebench.benchmarks.running.folds import Views, fold_views
from whalebench.methods.parts import keypoints
from whalebench.methods.parts.bagging import build_method
from whalebench.methods.parts.keypoints import (
    Keypoints,
    LightGlue,
    count_inliers,
    find_keypoints,
    match,
    rerank,
    root_sift,
    shortlist_mask,
)
from whalebench.methods.sift import Sift, SiftConfig
from whalebench.tests.notes import Notes

cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed: the extra sift")
SMALL = {"size": "80x96", "keypoints": 60}
BY = {"by": "softmax", "by_settings": "backbone=test_resnet,size=32,epochs=1,batch_size=8", "shortlist": 3}


@pytest.fixture(scope="module")
def views(shared_tiny: Workspace) -> Views:
    return fold_views(load_benchmark("tiny", shared_tiny, propose=True), 0)


def learn(views: Views, **settings: Any) -> tuple[Sift, Notes]:
    method, notes = Sift(SiftConfig(**(SMALL | settings))), Notes()
    torch.manual_seed(0)
    method.learn(views.train, views.valid, notes)
    return method, notes


def patterned(seed: int) -> Any:
    blocks = np.random.default_rng(seed).integers(0, 256, (20, 25, 3))
    return cv2.GaussianBlur(np.kron(blocks, np.ones((8, 8, 1))).astype(np.uint8), (0, 0), 1.5)


def test_root_sift_is_the_root_of_shares_of_the_sum() -> None:
    descriptors = np.array([[4, 12] + [0] * 126, [0] * 128], np.uint8)
    assert root_sift(descriptors)[0, :2] == pytest.approx([0.5, 0.75**0.5])
    assert np.linalg.norm(root_sift(descriptors), axis=1) == pytest.approx([1, 0])


@pytest.mark.parametrize("mutual", [True, False])
def test_matches_are_those_of_a_plain_loop(mutual: bool) -> None:
    rng = np.random.default_rng(1)
    gallery = rng.integers(0, 256, (30, 128)).astype(np.uint8)
    noise = rng.integers(0, 60, (40, 128))
    query = (gallery[rng.integers(0, 30, 40)] * 0.75 + noise).astype(np.uint8)
    one, other = root_sift(query), root_sift(gallery)
    distance = np.linalg.norm(one[:, None].astype(np.float64) - other[None], axis=2)
    wanted = []
    for row, each in enumerate(distance):
        nearest, second = np.argsort(each)[:2]
        if each[nearest] < 0.6 * each[second] and (not mutual or distance[:, nearest].argmin() == row):
            wanted.append((row, nearest))
    found = match(one, other, 0.6, mutual=mutual)
    assert [tuple(pair) for pair in found] == wanted
    assert 5 < len(wanted) < (30 if mutual else 41)


def test_nothing_matches_nothing() -> None:
    none, one = np.zeros((0, 128), np.float32), np.ones((1, 128), np.float32)
    for query, gallery in ((none, one), (one, none), (one, one)):
        assert match(query, gallery, 0.8, mutual=True).shape == (0, 2)
    assert len(find_keypoints(np.full((64, 64, 3), 128, np.uint8), 100, 0.02)) == 0


@pytest.mark.parametrize("motion", ["similarity", "homography"])
def test_inliers_are_the_points_that_move_together(motion: Any) -> None:
    rng = np.random.default_rng(2)
    here = rng.uniform(0, 200, (60, 2)).astype(np.float32)
    there = (1.2 * here @ np.array([[0.8, 0.6], [-0.6, 0.8]]) + [5, 9]).astype(np.float32)
    there[40:] += rng.uniform(40, 90, (20, 2)) * rng.choice([-1, 1], (20, 2))
    assert count_inliers(here, there, motion, 3.0) == 40
    assert count_inliers(here[:3], there[:3], motion, 3.0) == 0
    same = np.ones((8, 2), np.float32)
    assert count_inliers(same, same, motion, 3.0) <= 8


def test_a_turned_photo_shares_more_than_another() -> None:
    photo = patterned(0)
    height, width = photo.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), 15, 0.9)
    turned = cv2.warpAffine(photo, turn, (width, height))
    own, again, other = (find_keypoints(each, 200, 0.02) for each in (photo, turned, patterned(1)))
    assert len(own) == 200

    def shared(one: Keypoints, two: Keypoints) -> int:
        pairs = match(root_sift(one.descriptors), root_sift(two.descriptors), 0.8, mutual=True)
        places = one.places[pairs[:, 0], :2], two.places[pairs[:, 1], :2]
        counts = {count_inliers(*places, "similarity", 4.0) for _ in range(3)}
        assert len(counts) == 1
        return counts.pop()

    assert shared(own, again) > 50
    assert shared(own, other) < 8


def test_it_names_individuals_by_their_best_photo(views: Views) -> None:
    method, notes = learn(views)
    known = views.train.known()
    assert known.labels is not None
    scores = method.score(known)
    assert scores.shape == (len(known), len(known.identities))
    assert scores.dtype == np.float32
    # Each is compared with itself, too, and shares every point with itself.
    itself = [len(each) for each in method.gallery.keypoints]
    assert np.mean(scores.argmax(axis=1) == known.labels) > 0.9
    assert (scores[np.arange(len(known)), known.labels] >= np.array(itself) - 2).all()
    assert notes.lineage == {"keypoints": known.digests}
    assert method.embed(views.test) is None
    assert np.array_equal(method.score(views.test.select([2]))[0], method.score(views.test)[2])


def test_the_shortlist_of_another_method_is_reordered(views: Views) -> None:
    method, notes = learn(views, **BY)
    alone, _ = learn(views)
    assert method.by is not None
    first, scores = method.by.score(views.test), method.score(views.test)
    inliers = alone.score(views.test)
    for query in range(len(views.test)):
        order = np.argsort(-first[query], kind="stable")
        best = sorted(order[:3], key=lambda label: (-inliers[query, label], -first[query, label]))
        assert np.argsort(-scores[query], kind="stable").tolist() == [*best, *order[3:]]
    assert {"network", "keypoints"} <= set(notes.lineage)
    assert [epoch.number for epoch in notes.epochs] == [1]
    assert method.embed(views.test) is not None
    assert method.sizes() == ((80, 96), (32, 32))


def test_scores_on_and_off_the_list() -> None:
    first = np.array([[-3.0, 0.0, 2.0, 2.0]], np.float32)
    listed = shortlist_mask(first, 2)
    assert listed.tolist() == [[False, False, True, True]]
    assert shortlist_mask(first, 1).tolist() == [[False, False, True, False]]
    assert shortlist_mask(first, 9).all()
    found = rerank(first, np.array([[9.0, 9.0, 0.0, 5.0]], np.float32), listed)
    assert found.tolist() == [pytest.approx([0.125, 0.5, 1 + 5 / 6, 6 + 5 / 6])]


@pytest.mark.parametrize("settings", [{}, BY], ids=["alone", "behind"])
def test_a_restored_one_scores_the_same(settings: dict[str, Any], views: Views) -> None:
    method, _ = learn(views, **settings)
    weights = load(save({name: value.contiguous().clone() for name, value in method.weights().items()}))
    again = Sift(SiftConfig.model_validate(json.loads(method.config.model_dump_json())))
    again.restore(weights, views.train.identities, torch.device("cpu"))
    assert np.array_equal(again.score(views.test), method.score(views.test))


def test_it_works_on_crops(shared_tiny: Workspace) -> None:
    views = fold_views(load_benchmark("tiny", shared_tiny), 0, oracle=True)
    method = build_method(Sift, SiftConfig(**SMALL, crop="box", oracle=True))
    method.learn(views.train, views.valid, Notes())
    assert method.score(views.test).max() > 0


def test_too_many_pairs_are_refused_with_an_estimate(views: Views) -> None:
    method = Sift(SiftConfig(**SMALL, hours=1e-7))
    with pytest.raises(WhalebenchError, match=r"pairs of photos .* about 0.0 hours .* set by=arcface"):
        method.missing_requirement(views.train, views.test)
    assert Sift(SiftConfig(**SMALL)).missing_requirement(views.train, views.test) == ""


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"shortlist": 5}, "needs a method"),
        ({"by": "arcface"}, "needs a method"),
        ({"by_settings": "epochs=3"}, "set by=arcface"),
        ({"crop": "box", **BY, "by_settings": "crop=box"}, "crop twice"),
        ({"by": "pseudo", "shortlist": 5}, "by=pseudo has a method within itself"),
    ],
)
def test_contradictions_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SiftConfig(**settings)


def test_an_unknown_method_or_field_is_named() -> None:
    with pytest.raises(WhalebenchError, match="no method 'arcfase': did you mean 'arcface'"):
        SiftConfig(by="arcfase", shortlist=5)
    with pytest.raises(WhalebenchError, match="has no field 'epoch'"):
        SiftConfig(by="softmax", by_settings="epoch=3", shortlist=5)


def test_it_is_an_oracle_where_the_method_within_is() -> None:
    behind = SiftConfig(**BY)
    oracle = SiftConfig(**BY | {"by_settings": "crop=box,oracle=true"})
    assert oracle.sees_annotations()
    assert not behind.sees_annotations()


def test_its_list_of_fields_says_that_those_on_training_have_no_effect() -> None:
    assert "epochs and the like have no effect" in fields_words("sift", field_rows("sift"), [])[0]


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keypoints, "find_spec", lambda name: None if name == "kornia" else name)
    with pytest.raises(WhalebenchError, match=r"install whalebench\[lightglue\], or set matcher=ratio"):
        Sift(SiftConfig(matcher="lightglue"))
    monkeypatch.setattr(keypoints, "find_spec", lambda name: None)
    with pytest.raises(WhalebenchError, match=r"install whalebench\[sift\]"):
        Sift(SiftConfig())


def test_lightglue_is_handed_what_kornia_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for kornia's network, which pairs points in order."""
    given: dict[str, Any] = {}

    class Network(torch.nn.Module):
        def __init__(self, features: str) -> None:
            super().__init__()
            assert features == "sift"

        def forward(self, data: dict[str, Any]) -> dict[str, Any]:
            given.update(data)
            return {"matches": [torch.tensor([[0, 0], [1, 2]])]}

    module = ModuleType("kornia.feature")
    module.LightGlue = Network  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "kornia", ModuleType("kornia"))
    monkeypatch.setitem(sys.modules, "kornia.feature", module)
    monkeypatch.setattr(keypoints, "find_spec", lambda name: name)
    points = find_keypoints(patterned(0), 20, 0.02)
    found = LightGlue((160, 200), torch.device("cpu")).match(points, points)
    assert found.tolist() == [[0, 0], [1, 2]]
    seen = given["image0"]
    assert seen["image_size"].tolist() == [[200, 160]]
    assert {name: tuple(value.shape) for name, value in seen.items()} == {
        "keypoints": (1, 20, 2), "scales": (1, 20), "oris": (1, 20), "descriptors": (1, 20, 128),
        "image_size": (1, 2),
    }  # fmt: skip
    assert float(seen["oris"].max()) <= 2 * np.pi + 1e-5
    empty = Keypoints(points.places[:0], points.descriptors[:0])
    assert len(LightGlue((160, 200), torch.device("cpu")).match(points, empty)) == 0
