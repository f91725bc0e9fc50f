"""Every method on a benchmark in miniature: what it gives back, the same again, and its own choices."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from whalebench.benchmarks.photos import Photos
from whalebench.benchmarks.registry import load_benchmark
from whalebench.benchmarks.views import Views, fold_views
from whalebench.benchmarks.workspace import Workspace
from whalebench.methods.arcface import ArcFace, ArcFaceConfig, Embedder
from whalebench.methods.method import Epoch, Method
from whalebench.methods.parts.retrieval import normalise
from whalebench.methods.registry import configure, find_method

NAMES = ("arcface", "softmax")


@dataclass
class Notes:
    """A harness that writes down what it is told, and likes scores the more the larger their sum."""

    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    epochs: list[Epoch] = field(default_factory=list)
    stages: list[str] = field(default_factory=list)
    chosen: dict[str, float | None] = field(default_factory=dict)
    asked: list[Any] = field(default_factory=list)
    lineage: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def stage(self, name: str) -> None:
        self.stages.append(name)

    def epoch(self, epoch: Epoch) -> None:
        self.epochs.append(epoch)

    def valid_map_at_5(self, scores: Any) -> float:
        self.asked.append(scores)
        return float(scores.sum())

    def choose(self, name: str, value: float | None) -> None:
        self.chosen[name] = value

    def fitted(self, artefact: str, photos: Photos) -> None:
        self.lineage[artefact] = photos.digests


@pytest.fixture(scope="module")
def views(shared_tiny: Workspace) -> Views:
    return fold_views(load_benchmark("tiny", shared_tiny, propose=True), 0)


def learn(name: str, views: Views, settings: tuple[str, ...], seed: int = 0) -> tuple[Method, Notes]:
    kind, notes = find_method(name), Notes(seed)
    torch.manual_seed(seed)
    method = kind(configure(kind, settings))
    method.learn(views.train, views.valid, notes)
    return method, notes


@pytest.fixture(scope="module", params=NAMES)
def learned(request: pytest.FixtureRequest, views: Views) -> tuple[Method, Notes]:
    settings = ("backbone=test_resnet", "size=32", "epochs=2", "batch_size=8")
    return learn(request.param, views, settings)


def test_scores_and_embeddings_have_their_shapes(learned: tuple[Method, Notes], views: Views) -> None:
    method, _ = learned
    scores, embeddings = method.score(views.test), method.embed(views.test)
    assert scores.shape == (len(views.test), len(views.train.identities))
    assert scores.dtype == np.float32
    assert np.isfinite(scores).all()
    assert len(np.unique(scores, axis=0)) > 1
    assert embeddings is not None
    assert len(embeddings) == len(views.test)
    assert np.allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)


def test_scores_do_not_depend_on_labels_annotations_or_the_other_photos(
    learned: tuple[Method, Notes], views: Views
) -> None:
    method, _ = learned
    whole = method.score(views.valid)
    assert np.array_equal(whole, method.score(views.valid.bare()))
    order = np.arange(len(views.valid))[::-1].copy()
    assert np.allclose(whole[order], method.score(views.valid.select(order)), atol=1e-5)
    assert np.allclose(whole[:1], method.score(views.valid.select([0])), atol=1e-5)


def test_every_epoch_is_told(learned: tuple[Method, Notes], views: Views) -> None:
    _, notes = learned
    assert [(epoch.number, epoch.of) for epoch in notes.epochs] == [(1, 2), (2, 2)]
    for epoch in notes.epochs:
        assert epoch.photos == len(views.train.known())
        assert np.isfinite(epoch.loss)
        assert epoch.valid_scores is not None
        assert epoch.valid_scores.shape == (len(views.valid), len(views.train.identities))
    assert notes.stages[0] == "train"


def test_weights_are_tensors_that_can_be_kept(learned: tuple[Method, Notes]) -> None:
    method, _ = learned
    weights = method.weights()
    assert any(name.startswith("network.backbone") for name in weights)
    assert all(isinstance(value, torch.Tensor) and not value.requires_grad for value in weights.values())


def test_sizes_are_those_that_are_asked_for(learned: tuple[Method, Notes]) -> None:
    assert learned[0].sizes() == ((32, 32),)


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_determines_the_scores(name: str, views: Views, tiny_settings: tuple[str, ...]) -> None:
    first, again, other = (learn(name, views, tiny_settings, seed)[0].score(views.test) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_learned_comes_from_known_train_photos_only(
    name: str, views: Views, tiny_settings: tuple[str, ...]
) -> None:
    """Without the *new* photos of train, and with fewer valid photos, the network is the same."""
    shorter = Views(
        views.train.known(),
        views.valid.select([0, 1]),
        views.test,
        views.valid_answers,
        views.test_answers,
        views.annotated,
    )
    whole, part = (learn(name, each, tiny_settings)[0].weights() for each in (views, shorter))
    assert len(views.train.known()) < len(views.train)
    assert all(torch.equal(whole[key], part[key]) for key in whole if key.startswith("network."))


@pytest.mark.parametrize("name", NAMES)
def test_no_epochs_score_too(name: str, views: Views) -> None:
    method, notes = learn(name, views, ("backbone=test_resnet", "size=32", "epochs=0"))
    assert np.isfinite(method.score(views.test)).all()
    assert notes.epochs == []


def test_softmax_scores_are_log_probabilities(views: Views, tiny_settings: tuple[str, ...]) -> None:
    scores = learn("softmax", views, tiny_settings)[0].score(views.test)
    assert np.allclose(np.exp(scores).sum(axis=1), 1, atol=1e-5)


def test_arcface_mixes_prototype_and_nearest_photo_as_valid_says(
    views: Views, tiny_settings: tuple[str, ...]
) -> None:
    from whalebench.methods.arcface import WEIGHTS, ArcFace

    method, notes = learn("arcface", views, tiny_settings)
    assert isinstance(method, ArcFace)
    best = WEIGHTS[int(np.argmax([scores.sum() for scores in notes.asked]))]
    assert len(notes.asked) == len(WEIGHTS)
    assert notes.chosen == {"photo_weight": best}
    assert method.photo_weight == best
    by_prototype, by_photo = notes.asked[0], notes.asked[-1]
    assert np.allclose(notes.asked[3], 0.7 * by_prototype + 0.3 * by_photo, atol=1e-6)
    assert np.abs(by_photo - by_prototype).max() > 1e-3
    assert (by_photo <= 1 + 1e-5).all()
    # Each gallery photo is its own nearest one.
    known = views.train.known()
    itself = method._both(known)[1][np.arange(len(known)), known.labels]
    assert np.allclose(itself, 1, atol=1e-5)


def test_the_margin_of_arcface_grows_to_its_full_size(
    views: Views, tiny_settings: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    from whalebench.methods.parts.losses import ArcFaceLoss

    margins: list[float] = []
    monkeypatch.setattr(ArcFaceLoss, "set_margin", lambda loss, margin: margins.append(margin))
    learn("arcface", views, (*tiny_settings, "margin=0.3", "margin_warm_up=0.5"))
    assert margins[0] == 0
    assert margins == sorted(margins)
    assert margins[len(margins) // 4] == pytest.approx(0.15, abs=0.04)
    assert margins[len(margins) // 2 :] == pytest.approx([0.3] * (len(margins) - len(margins) // 2))
    margins.clear()
    learn("arcface", views, (*tiny_settings, "margin=0.3", "margin_warm_up=0"))
    assert margins[1:] == [0.3] * (len(margins) - 1)


def test_ties_of_the_fusion_weight_go_to_the_middle(views: Views, tiny_settings: tuple[str, ...]) -> None:
    class Indifferent(Notes):
        """Every weight is as good as any other."""

        def valid_map_at_5(self, scores: Any) -> float:
            return 0.5

    kind, notes = find_method("arcface"), Indifferent()
    method = kind(configure(kind, tiny_settings))
    method.learn(views.train, views.valid, notes)
    assert notes.chosen == {"photo_weight": 0.5}


def test_a_second_look_is_averaged_and_is_another_track(shared_tiny: Workspace) -> None:
    views = fold_views(load_benchmark("tiny", shared_tiny, propose=True), 0)
    once = ArcFaceConfig(backbone="test_resnet", size=(32, 32), grid=(1, 1), epochs=0)
    twice = once.model_copy(update={"second_size": (48, 48)})
    larger = once.model_copy(update={"size": (48, 48)})
    method = ArcFace(once)
    method.network, method.device = Embedder(once).eval(), torch.device("cpu")
    found = []
    for config in (once, larger, twice):
        method.config = config
        found.append(method.embed(views.test))
    assert np.allclose(found[2], normalise(found[0] + found[1]), atol=1e-6)
    assert not np.allclose(found[0], found[1], atol=1e-3)
    assert twice.sizes() == ((32, 32), (48, 48))
    assert once.track() != twice.track()


CROPPED = ("crop=box", "localizer.backbone=test_resnet", "localizer.size=32", "localizer.epochs=1")


@pytest.mark.parametrize("more", [(), CROPPED, (*CROPPED, "oracle=true")], ids=["whole", "box", "oracle"])
@pytest.mark.parametrize("name", NAMES)
def test_a_restored_method_scores_as_the_one_that_learned(
    name: str, more: tuple[str, ...], shared_tiny: Workspace, tiny_settings: tuple[str, ...]
) -> None:
    from safetensors.torch import load, save

    from whalebench.methods.parts.identifier import behind_its_crop

    views = fold_views(load_benchmark("tiny", shared_tiny), 0, oracle="oracle=true" in more)
    kind, shown = find_method(name), views.queries()["test"]
    torch.manual_seed(0)
    method = behind_its_crop(kind(configure(kind, (*tiny_settings, *more))))
    method.learn(views.train, views.valid, Notes())
    weights = {key: value.contiguous().clone() for key, value in method.weights().items()}
    # As `restore_run` does it: the configuration from the record, the weights from their file.
    config = kind.Config.model_validate(json.loads(method.config.model_dump_json()))
    assert config == method.config
    torch.manual_seed(1)
    again = behind_its_crop(kind(config))
    again.restore(load(save(weights)), views.train.identities, torch.device("cpu"))
    assert np.allclose(again.score(shown), method.score(shown), atol=1e-5)
    assert np.allclose(again.embed(shown), method.embed(shown), atol=1e-5)  # type: ignore[arg-type]
    found, known = again.locate(shown), method.locate(shown)
    assert (found is None) == (known is None) == (not more)
    if found is not None and known is not None:
        assert np.allclose(found.boxes, known.boxes, atol=1e-5)  # type: ignore[arg-type]
    kept = again.weights()
    assert set(kept) == set(weights)
    assert all(torch.allclose(kept[key], weights[key]) for key in weights)


def test_weights_of_another_network_are_not_taken_up(learned: tuple[Method, Notes], views: Views) -> None:
    method, _ = learned
    weights = dict(method.weights())
    weights.pop(next(key for key in weights if key.startswith("network.backbone")))
    with pytest.raises(RuntimeError, match="Missing key"):
        type(method)(method.config).restore(weights, views.train.identities, torch.device("cpu"))
