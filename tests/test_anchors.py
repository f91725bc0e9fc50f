"""Anchors: box and landmarks are told from boxes of nine shapes at each cell, and the best one answers."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from whalebench import WhalebenchError
from whalebench.benchmarks.conformance.suite import smallest_settings
from whalebench.benchmarks.conformance.trial import Trial, draw_toy_benchmarks
from whalebench.benchmarks.core.photos import CPU, Annotations, LabelledPhotos
from whalebench.benchmarks.core.store import PhotoStore
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.running.location import evaluate_location
from whalebench.methods.method import Located
from whalebench.methods.parts.crops.aligner import Aligner, AlignerConfig
from whalebench.methods.parts.crops.anchors import (
    SIDES,
    AnchorAligner,
    AnchorLoss,
    AnchorNetwork,
    anchor_boxes,
    annotated_points,
    build_aligner,
    by_anchor,
    decode,
    encode,
    match,
)
from whalebench.methods.parts.crops.finder import annotated_values
from whalebench.methods.registry import configure, find_method
from whalebench.tests.notes import Notes

COUNT, HEIGHT, WIDTH = 24, 48, 64
TINY = AlignerConfig(
    head="anchors", backbone="test_resnet", size=(HEIGHT, WIDTH), epochs=20, batch_size=8, learning_rate=0.01,
    ema=0.0, augment="none", turns=1, zooms=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> LabelledPhotos:
    """Black photos with a white bar each, at any place, whose ends and middle are landmarks."""
    folder, rng = tmp_path_factory.mktemp("bars"), np.random.default_rng(0)
    boxes, landmarks = np.zeros((COUNT, 4), np.float32), np.zeros((COUNT, 3, 2), np.float32)
    for row in range(COUNT):
        width, height = int(rng.integers(20, 36)), int(rng.integers(8, 14))
        x, y = int(rng.integers(2, WIDTH - width - 2)), int(rng.integers(2, HEIGHT - height - 2))
        pixels = rng.integers(0, 60, (HEIGHT, WIDTH, 3)).astype(np.uint8)
        pixels[y : y + height, x : x + width] = 255
        Image.fromarray(pixels).save(folder / f"{row}.png")
        boxes[row] = np.array([x, y, x + width, y + height]) / ([WIDTH, HEIGHT] * 2)
        ends = [(x, y), (x + width / 2, y + height), (x + width, y)]
        landmarks[row] = np.array(ends) / [WIDTH, HEIGHT]
    paths = tuple(str(folder / f"{row}.png") for row in range(COUNT))
    names = tuple(map(str, range(COUNT)))
    return LabelledPhotos(
        images=names,
        digests=names,
        identities=("ann",),
        store=PhotoStore(folder / "cache", paths, names, ("",) * COUNT),
        rows=np.arange(COUNT),
        shapes=np.tile(np.array([HEIGHT, WIDTH]), (COUNT, 1)),
        labels=np.zeros(COUNT, np.int64),
        annotations=Annotations(boxes, landmarks, ("left", "low", "right"), np.zeros(COUNT, np.bool_)),
    )


def some_points(photos: int = 5, landmarks: int = 3) -> torch.Tensor:
    """Boxes with landmarks (photos, 2 + landmarks, 2), drawn anywhere."""
    drawn = torch.rand(photos, 2 + landmarks, 2, generator=torch.Generator().manual_seed(0)) * 1.6 - 0.8
    drawn[:, :2] = torch.stack([drawn[:, :2].amin(dim=1) - 0.1, drawn[:, :2].amax(dim=1) + 0.1], dim=1)
    return drawn


def test_anchors_are_the_published_ones_at_the_centres_of_cells() -> None:
    anchors = anchor_boxes(9, 9)
    assert anchors.shape == (729, 4)
    shares = torch.cat([(anchors[:, :2] + 1) / 2, anchors[:, 2:] / 2], dim=1)
    expected = {
        (round((2 * column + 1) / 18, 4), round((2 * row + 1) / 18, 4), round(s * w, 4), round(s * h, 4))
        for row in range(9)
        for column in range(9)
        for s in (0.5, 1, 2)
        for w, h in ((0.30, 0.30), (0.60, 0.15), (0.15, 0.60))
    }
    assert {tuple(round(side, 4) for side in anchor) for anchor in shares.tolist()} == expected
    wide = anchor_boxes(2, 5)
    assert len(wide) == 9 * 10
    assert wide[:10, 0].tolist() == pytest.approx([-0.8, -0.4, 0.0, 0.4, 0.8] * 2)
    assert wide[:10, 1].tolist() == pytest.approx([-0.5] * 5 + [0.5] * 5)


def test_a_network_answers_for_the_anchors_of_its_own_map_in_their_order() -> None:
    """What the convolution says of a cell and a shape is added to that anchor."""
    network = AnchorNetwork(TINY, landmarks=3)
    answers = network.eval()(torch.rand(2, 3, HEIGHT, 2 * WIDTH))
    height, width = answers.shape[-2:]
    assert answers.shape == (2, 1 + 4 + 6, 9, height, width)
    assert width == 2 * math.ceil(WIDTH / 32)
    marked = torch.zeros_like(answers)
    marked[1, 0, 7, 1, 2] = 3.0
    scores, _, anchors = by_anchor(marked)
    (place,) = torch.nonzero(scores[1])[:, 0]
    middle = torch.tensor([(2 * 2 + 1) / width - 1, (2 * 1 + 1) / height - 1])
    assert torch.allclose(anchors[place], torch.cat([middle, 2 * torch.tensor(SIDES[7])]))


def test_encoding_is_that_of_the_paper_and_decoding_inverts_it() -> None:
    points, anchors = some_points(), anchor_boxes(3, 4)
    answers = encode(points[:, None], anchors)
    assert answers.shape == (5, 108, 10)
    assert torch.allclose(decode(answers, anchors), points[:, None].expand(-1, 108, -1, -1), atol=1e-5)
    # By hand, in shares of the photo: centre, logarithm of the sides, landmarks.
    x0, y0, x1, y1 = ((points[2, :2].flatten() + 1) / 2).tolist()
    ax, ay, aw, ah = ((anchors[50] + torch.tensor([1.0, 1.0, 0.0, 0.0])) / 2).tolist()
    by_hand = [((x0 + x1) / 2 - ax) / aw, ((y0 + y1) / 2 - ay) / ah]
    by_hand += [math.log((x1 - x0) / aw), math.log((y1 - y0) / ah)]
    for x, y in ((points[2, 2:] + 1) / 2).tolist():
        by_hand += [(x - ax) / aw, (y - ay) / ah]
    assert answers[2, 50].tolist() == pytest.approx(by_hand, abs=1e-4)


def test_anchors_answer_where_they_fit_and_the_middling_do_not_count() -> None:
    anchors = anchor_boxes(9, 9)
    exact = torch.cat([anchors[:, :2] - anchors[:, 2:] / 2, anchors[:, :2] + anchors[:, 2:] / 2], dim=1)
    fluke = torch.tensor([[-0.9, -0.7, 0.9, 0.6]])  # like none of them
    hits, counted = match(
        torch.cat([exact[3 * 81 + 40][None], fluke, torch.full((1, 4), torch.nan)]), anchors
    )
    assert hits[0, 3 * 81 + 40]
    assert hits[1].sum() >= 1
    assert not counted[2].any()
    for place, box in enumerate((exact[3 * 81 + 40], fluke[0])):
        low, high = torch.maximum(exact[:, :2], box[:2]), torch.minimum(exact[:, 2:], box[2:])
        shared = (high - low).clamp(min=0).prod(dim=1)
        overlap = shared / (anchors[:, 2:].prod(dim=1) + (box[2:] - box[:2]).prod() - shared)
        best = overlap >= overlap.max() - 1e-6
        assert torch.equal(hits[place], (overlap > 0.75) | best)
        assert torch.equal(counted[place], (overlap > 0.75) | (overlap < 0.4) | best)
    assert 0 < (~counted[0]).sum() < 20


def test_the_loss_is_the_published_one_without_the_middling() -> None:
    """Recomputed anchor by anchor; nothing that is said of an anchor that does not count has any effect."""
    points = some_points(photos=2)
    points[1, 3, 1] = torch.nan  # a landmark is missing
    answers = torch.randn(2, 11, 9, 3, 4, generator=torch.Generator().manual_seed(1), requires_grad=True)
    scores, found, anchors = by_anchor(answers)
    hits, counted = match(points[:, :2].flatten(1), anchors)
    sums: dict[str, list[float]] = {"box": [], "landmarks": [], "score": []}
    for photo, anchor in torch.nonzero(counted).tolist():
        wanted = encode(points[photo], anchors[anchor])
        each = F.smooth_l1_loss(found[photo, anchor], wanted, reduction="none")
        sums["box"] += each[:4].tolist()
        sums["landmarks"] += [value for value in each[4:].tolist() if not math.isnan(value)]
        score = scores[photo, anchor].detach()
        sums["score"].append(float(F.softplus(-score if hits[photo, anchor] else score)))
    box, landmarks, score = (float(np.mean(values)) for values in sums.values())
    loss = AnchorLoss()(answers, points)
    assert float(loss.detach()) == pytest.approx(5 * (box + landmarks) + 0.5 * score, rel=1e-4)
    loss.backward()  # type: ignore[no-untyped-call]
    assert answers.grad is not None
    touched = answers.grad.flatten(2).mT.abs().sum(dim=2) > 0
    assert torch.equal(touched, counted)
    assert not counted.all()
    assert answers.grad.isfinite().all()


def test_what_has_no_box_teaches_nothing_and_breaks_nothing() -> None:
    points = torch.full((2, 5, 2), torch.nan)
    answers = torch.randn(2, 11, 9, 2, 2, requires_grad=True)
    loss = AnchorLoss()(answers, points)
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == 0
    assert answers.grad is not None
    assert not answers.grad.any()


def test_the_box_is_the_annotated_one_or_that_round_the_landmarks(photos: LabelledPhotos) -> None:
    batch = photos.batch(range(4), (HEIGHT, WIDTH))
    boxes, landmarks = (vars(batch)[name].clone() for name in ("boxes", "landmarks"))
    landmarks[:3] = torch.tensor([[10.0, 12.0], [20.0, 32.0], [30.0, 12.0]])
    boxes[:3] = torch.nan
    landmarks[1, 0] = torch.nan
    landmarks[2, 0] = torch.tensor([-10.0, 12.0])
    boxes[3] = torch.tensor([64.0, 10.0, 64.0, 20.0])  # what was seen of it is gone
    points = annotated_points(replace(batch, boxes=boxes, landmarks=landmarks))
    in_pixels = (points + 1) * torch.tensor([WIDTH / 2, HEIGHT / 2])
    # 20 wide and 20 high, and 1.2 and 1.1 times that.
    assert torch.allclose(in_pixels[0, :2], torch.tensor([[8.0, 11.0], [32.0, 33.0]]), atol=1e-4)
    assert points[[1, 3], :2].isnan().all()
    assert torch.allclose(in_pixels[2, :2], torch.tensor([[0.0, 11.0], [34.0, 33.0]]), atol=1e-4)
    assert torch.allclose(in_pixels[:, 2:], landmarks, atol=1e-4, equal_nan=True)


@pytest.fixture(scope="module")
def learned(photos: LabelledPhotos) -> Aligner:
    torch.manual_seed(0)
    aligner = build_aligner(TINY)
    aligner.prepare(photos)
    aligner.learn(photos.select(range(16)), Notes())
    return aligner


def test_it_finds_boxes_and_landmarks_in_photos_never_seen(learned: Aligner, photos: LabelledPhotos) -> None:
    unseen, known = photos.select(range(16, COUNT)), photos.select(range(16))
    judged = evaluate_location(learned.locate(unseen.bare()), unseen)
    # The best that a constant can say: the mean of what is annotated.
    means = {
        kind: annotated_values(known, kind).mean(axis=0, keepdims=True).repeat(len(unseen), axis=0)
        for kind in ("boxes", "landmarks")
    }
    blind = evaluate_location(Located(**means), unseen)
    assert judged["landmark_error"].median() < 0.5 * blind["landmark_error"].median()
    assert judged["box_iou"].mean() > 1.5 * blind["box_iou"].mean()


def test_a_restored_detector_finds_the_same(learned: Aligner, photos: LabelledPhotos) -> None:
    again = build_aligner(TINY.model_copy(update={"pretrained": "no-such-file.safetensors"}))
    again.load_state_dict(learned.state_dict())
    found, expected = again.locate(photos.bare()), learned.locate(photos.bare())
    assert found.boxes is not None
    assert np.array_equal(found.boxes, expected.boxes)
    assert np.array_equal(found.landmarks, expected.landmarks)


def test_several_views_are_averaged_as_by_votes(learned: Aligner, photos: LabelledPhotos) -> None:
    turned = build_aligner(TINY.model_copy(update={"augment": "heavy", "turns": 3}))
    turned.load_state_dict(learned.state_dict())
    few = photos.select([2, 5]).bare()
    views = turned.views()
    assert len(views) == 3
    each = torch.stack([turned._landmarks_in(few, view) for view in views])
    many, one = turned.locate(few), learned.locate(few)
    assert np.allclose(many.landmarks, (each.mean(dim=0) + 1) / 2, atol=1e-6)
    assert np.array_equal(many.boxes, one.boxes)  # type: ignore[arg-type]


def test_a_run_with_it_is_a_run_like_any_other(tmp_path: Path) -> None:
    """Landmarks and boxes are found, counted as read in train alone, and all comes back from the weights."""
    toys = draw_toy_benchmarks(Workspace.open(tmp_path / "workspace"))
    kind = find_method("aligned")
    words = ("aligner.head=anchors", "aligner.zooms=1", "aligner.inside=0")
    trial = Trial(kind.name, kind, configure(kind, smallest_settings(kind, words)), toys)
    was = trial.learn(trial.views)
    photos = was.views.queries()["test"]
    located: Any = was.method.locate(photos)
    assert isinstance(was.method.crop and was.method.crop.finder, AnchorAligner)
    assert located.boxes.shape == (len(photos), 4)
    assert located.landmarks.shape[0] == len(located.fallback) == len(photos)
    assert set(was.harness.lineage) >= {"aligner", "network"}
    usage = was.harness.usage.usage({}, "")
    assert {kind: set(parts) for kind, parts in usage.annotations.items()} == {
        "box": {"train"}, "landmarks": {"train"},
    }  # fmt: skip
    again = trial.build()
    again.restore(was.method.weights(), was.views.train.identities, CPU)
    assert np.array_equal(again.score(photos), was.scores("test"))
    assert np.array_equal(vars(again.locate(photos))["boxes"], located.boxes)


def test_the_width_of_votes_is_refused() -> None:
    assert configure(find_method("aligned"), ("aligner.width=32",))
    with pytest.raises(WhalebenchError, match=r"width=32 is of votes, which head=anchors does without"):
        configure(find_method("aligned"), ("aligner.head=anchors", "aligner.width=32"))
