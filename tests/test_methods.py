"""Every method on a benchmark in miniature: what it gives back, the same again, and its own choices."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from whalebench import WhalebenchError
from whalebench.benchmarks.core.arrays import normalise
from whalebench.benchmarks.core.photos import CPU
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.registry import load_benchmark
from whalebench.benchmarks.running.folds import Views, fold_views
from whalebench.methods.arcface import ArcFace, ArcFaceConfig
from whalebench.methods.method import Components, Method, Restorable, attribute
from whalebench.methods.parts.augment import with_twins
from whalebench.methods.parts.bagging import build_method
from whalebench.methods.parts.crops.finder import Crop
from whalebench.methods.parts.embedder import Embedder
from whalebench.methods.parts.losses.margins import Heads
from whalebench.methods.parts.networks.backbones import Encoder
from whalebench.methods.registry import configure, find_method
from whalebench.methods.triplet import Triplet
from whalebench.tests.notes import Notes

NAMES = ("arcface", "softmax")


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
    from whalebench.methods.arcface import GALLERY_WEIGHTS, ArcFace

    method, notes = learn("arcface", views, tiny_settings)
    assert isinstance(method, ArcFace)
    best = GALLERY_WEIGHTS[int(np.argmax([scores.sum() for scores in notes.asked]))]
    assert len(notes.asked) == len(GALLERY_WEIGHTS)
    assert notes.chosen == {"photo_weight": best}
    assert method.photo_weight == best
    by_prototype, by_photo = notes.asked[0], notes.asked[-1]
    assert np.allclose(notes.asked[3], 0.7 * by_prototype + 0.3 * by_photo, atol=1e-6)
    assert np.abs(by_photo - by_prototype).max() > 1e-3
    assert (by_photo <= 1 + 1e-5).all()
    # Each gallery photo is its own nearest one.
    known = views.train.known()
    itself = method._both(method.embed(known), known.viewpoints)[1][np.arange(len(known)), known.labels]
    assert np.allclose(itself, 1, atol=1e-5)


def test_the_margin_of_arcface_grows_to_its_full_size(
    views: Views, tiny_settings: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    shares: list[float] = []
    monkeypatch.setattr(Heads, "set_margin_factor", lambda heads, share: shares.append(share))
    learn("arcface", views, (*tiny_settings, "margin_warm_up=0.5"))
    assert shares[0] == 0
    assert shares == sorted(shares)
    assert shares[len(shares) // 4] == pytest.approx(0.5, abs=0.12)
    assert shares[len(shares) // 2 :] == [1.0] * (len(shares) - len(shares) // 2)
    shares.clear()
    learn("arcface", views, (*tiny_settings, "margin_warm_up=0"))
    assert shares[1:] == [1.0] * (len(shares) - 1)


def test_ties_of_the_fusion_weight_go_to_the_middle(views: Views, tiny_settings: tuple[str, ...]) -> None:
    class Indifferent(Notes):
        """Every weight is as good as any other."""

        def valid_map_at_5(self, scores: Any) -> float:
            return 0.5

    kind, notes = find_method("arcface"), Indifferent()
    method = kind(configure(kind, tiny_settings))
    method.learn(views.train, views.valid, notes)
    assert notes.chosen == {"photo_weight": 0.5}


def test_a_second_look_is_averaged(shared_tiny: Workspace) -> None:
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


CROPPED = ("crop=box", "localizer.backbone=test_resnet", "localizer.size=32", "localizer.epochs=1")


@pytest.mark.parametrize("more", [(), CROPPED, (*CROPPED, "oracle=true")], ids=["whole", "box", "oracle"])
@pytest.mark.parametrize("name", NAMES)
def test_a_restored_method_scores_as_the_one_that_learned(
    name: str, more: tuple[str, ...], shared_tiny: Workspace, tiny_settings: tuple[str, ...]
) -> None:
    from safetensors.torch import load, save

    views = fold_views(load_benchmark("tiny", shared_tiny), 0, oracle="oracle=true" in more)
    kind, shown = find_method(name), views.queries()["test"]
    torch.manual_seed(0)
    method = build_method(kind, configure(kind, (*tiny_settings, *more)))
    method.learn(views.train, views.valid, Notes())
    weights = {key: value.contiguous().clone() for key, value in method.weights().items()}
    # As `restore_run` does it: the configuration from the record, the weights from their file.
    config = kind.Config.model_validate(json.loads(method.config.model_dump_json()))
    assert config == method.config
    torch.manual_seed(1)
    again = build_method(name, config)
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


GROWN = {
    "head": ("loss=cosface", "scale=0", "subcentres=2", "margin_by_size=true", "label_smoothing=0.1"),
    "twins": ("flip_identities=true", "subcentres=2", "second_size=48", "gallery.rule=robust_centre"),
    "stages": ("stages=2", "average=checkpoints", "checkpoints=2"),
    "flatten": ("pooling=flatten",),
    "species": ("species_weight=0.56", "margin_by_size=true"),
}
"""What `arcface` can be told beside its defaults."""


def with_species(views: Views) -> Views:
    """The same with two species, three individuals and the others; of one photo it is not known."""
    assert views.train.labels is not None
    species = np.where(views.train.labels < 3, 0, 1)
    species[0] = -1
    return replace(views, train=replace(views.train, species=species))


@pytest.mark.parametrize("option", GROWN)
def test_grown_arcface_learns_and_is_restored(
    option: str, views: Views, tiny_settings: tuple[str, ...]
) -> None:
    views = with_species(views)
    method, notes = learn("arcface", views, (*tiny_settings, *GROWN[option]))
    scores, embeddings = method.score(views.test), method.embed(views.test)
    assert scores.shape == (len(views.test), len(views.train.identities))
    assert notes.epochs[-1].valid_scores is not None
    assert notes.epochs[-1].valid_scores.shape == (len(views.valid), len(views.train.identities))
    config = ArcFaceConfig.model_validate(json.loads(method.config.model_dump_json()))
    torch.manual_seed(1)
    again = ArcFace(config)
    weights = {key: value.clone() for key, value in method.weights().items()}
    again.restore(weights, views.train.identities, torch.device("cpu"))
    assert np.allclose(again.score(views.test), scores, atol=1e-5)
    assert np.allclose(again.embed(views.test), embeddings, atol=1e-5)  # type: ignore[arg-type]
    assert set(again.weights()) == set(weights)
    assert all(torch.allclose(value, weights[key], atol=1e-6) for key, value in again.weights().items())


def test_mirror_twins_are_the_photos_mirrored_under_labels_of_their_own(views: Views) -> None:
    known = with_species(views).train.known()
    twice, count, identities = with_twins(known), len(known), len(known.identities)
    assert len(twice) == 2 * count
    assert set(twice.digests) == set(known.digests)
    chosen = [1, count + 1, count + 5, 7]
    batch, plain = twice.batch(chosen, (32, 32)), known.batch([1, 1, 5, 7], (32, 32))
    assert batch.labels is not None
    assert plain.labels is not None
    assert (batch.labels - plain.labels).tolist() == [0, identities, identities, 0]
    assert torch.equal(batch.pixels[[0, 3]], plain.pixels[[0, 3]])
    assert torch.equal(batch.pixels[[1, 2]], plain.pixels[[1, 2]].flip(-1))
    assert twice.labels is not None
    assert torch.equal(torch.from_numpy(twice.labels[chosen]), batch.labels)
    assert torch.equal(batch.species, plain.species)  # type: ignore[arg-type]
    upside_down = with_twins(known, -2).batch([count + 1], (32, 32)).pixels
    assert torch.equal(upside_down, plain.pixels[[1]].flip(-2))
    part = twice.select(chosen)
    assert torch.equal(part.batch([2], (32, 32)).pixels, batch.pixels[[2]])
    # Behind a crop, where windows are cut and averaged, nothing gets lost.
    cropped = with_twins(known.through(Crop(torch.eye(2, 3).double().repeat(count, 1, 1), (64, 64)))).batch(
        chosen, (16, 16)
    )
    assert torch.equal(cropped.labels, batch.labels)  # type: ignore[arg-type]
    assert torch.equal(cropped.species, plain.species)  # type: ignore[arg-type]


def test_flip_identities_score_by_the_mean_of_both_sides(
    views: Views, tiny_settings: tuple[str, ...]
) -> None:
    method, notes = learn("arcface", views, (*tiny_settings, "flip_identities=true"))
    assert isinstance(method, ArcFace)
    assert notes.epochs[0].photos == 2 * len(views.train.known())
    prototypes, identities = method.head.prototypes()[:, 0].numpy(), len(views.train.identities)
    assert len(prototypes) == 2 * identities
    sides = [normalise(method.look(views.test, mirrored=side)) for side in (False, True)]
    wanted = (sides[0] @ prototypes[:identities].T + sides[1] @ prototypes[identities:].T) / 2
    by_prototype, by_photo = method._both(method.embed(views.test), views.test.viewpoints)
    assert np.allclose(by_prototype, wanted, atol=1e-5)
    assert not np.allclose(by_prototype, sides[0] @ prototypes[:identities].T, atol=1e-3)
    known = views.train.known()
    assert known.labels is not None
    gallery = [normalise(method.look(known, mirrored=side)) for side in (False, True)]
    both = (sides[0] @ gallery[0].T + sides[1] @ gallery[1].T) / 2
    first = np.stack([both[:, known.labels == label].max(axis=1) for label in range(identities)], axis=1)
    assert np.allclose(by_photo, first, atol=1e-5)


def test_photos_are_mirrored_the_way_that_is_configured(views: Views, tiny_settings: tuple[str, ...]) -> None:
    settings = (*tiny_settings, "gallery.flip=true", "epochs=0")
    across, _ = learn("triplet", views, settings)
    down, _ = learn("triplet", views, (*settings, "mirror=down"))
    assert isinstance(across, Triplet)
    assert isinstance(down, Triplet)
    same = across.look(views.test, mirrored=False)
    assert np.array_equal(down.look(views.test, mirrored=False), same)
    assert not np.allclose(across.look(views.test, mirrored=True), down.look(views.test, mirrored=True))
    assert configure(ArcFace, ("flip_identities=true", "mirror=down"))
    for kind in (Triplet, ArcFace):
        with pytest.raises(WhalebenchError, match="mirror=down has no effect"):
            configure(kind, ("mirror=down",))


def test_subcentres_score_by_the_nearest_prototype(views: Views, tiny_settings: tuple[str, ...]) -> None:
    method, _ = learn("arcface", views, (*tiny_settings, "subcentres=3"))
    assert isinstance(method, ArcFace)
    embeddings, prototypes = method.embed(views.test), method.head.prototypes().numpy()
    wanted = np.einsum("qd,ikd->qik", embeddings, prototypes).max(axis=2)
    assert np.allclose(method._both(method.embed(views.test), views.test.viewpoints)[0], wanted, atol=1e-5)


def test_the_species_head_needs_species_and_changes_what_is_learned(
    views: Views, tiny_settings: tuple[str, ...]
) -> None:
    kind, settings = find_method("arcface"), (*tiny_settings, "species_weight=0.5")
    asked, spared = (kind(configure(kind, each)) for each in (settings, tiny_settings))
    told = with_species(views)
    one = replace(views.train, species=np.zeros(len(views.train), np.int64))
    assert asked.missing_requirement(views.train, views.test) == "species"
    assert asked.missing_requirement(one, views.test) == "second species"
    assert asked.missing_requirement(told.train, told.test) == ""
    assert spared.missing_requirement(views.train, views.test) == ""
    with_head, without = (learn("arcface", told, each)[0].weights() for each in (settings, tiny_settings))
    assert set(with_head) == set(without)
    assert not torch.equal(with_head["network.linear.weight"], without["network.linear.weight"])


def test_margins_by_size_are_those_of_the_train_photos(
    views: Views, tiny_settings: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[Heads] = []
    monkeypatch.setattr(Heads, "set_margin_factor", lambda heads, share: built.append(heads))
    settings = (*tiny_settings, "margin_by_size=true", "margin_a=0.4", "margin_b=-0.5", "margin_c=0.1")
    learn("arcface", views, (*settings, "flip_identities=true"))
    counts = np.bincount(views.train.known().labels, minlength=len(views.train.identities))  # type: ignore[arg-type]
    wanted = [0.4 * count**-0.5 + 0.1 for count in counts.tolist()] * 2
    assert built[0].identity.get_buffer("margins").tolist() == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"flip_identities": True, "gallery": {"flip": True}}, "leave one out"),
        ({"pooling": "flatten", "stages": 2}, "set stages=1"),
        ({"pooling": "flatten", "size": 64, "second_size": 96}, "size=64x64, so it cannot look at 96x96"),
        ({"pooling": "flatten", "size": 64, "small_size": 32, "small_epochs": 1}, "cannot look at 32x32"),
    ],
)
def test_contradictions_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ArcFaceConfig(**settings)


def test_two_stages_of_a_network_with_one_are_refused() -> None:
    config = ArcFaceConfig(backbone="test_vit", size=(64, 64), stages=2)
    with pytest.raises(WhalebenchError, match=r"'test_vit' has 1 stage\(s\), not stages=2"):
        Embedder(config)


def test_two_stages_see_the_mask_as_a_fourth_channel() -> None:
    config = ArcFaceConfig(
        backbone="test_resnet", size=(32, 32), grid=(1, 1), stages=2, crop="mask", segmenter={"channel": True}
    )
    network = Embedder(config).eval()
    assert network(torch.rand(2, 4, 32, 32)).shape == (2, 256)
    assert isinstance(network.backbone, Encoder)
    assert network.linear.in_features == sum(network.backbone.channels[-2:])


class Parted(Restorable):
    """Something learned in parts: a layer, a number and a pair of numbers."""

    def __init__(self) -> None:
        self.layer, self.share, self.both, self.rebuilt = nn.Linear(2, 1), 0.0, (0.0, 0.0), 0

    def components(self) -> Components:
        numbers = {"share": attribute(self, "share"), "both": attribute(self, "both", torch.float64)}
        return {"layer": self.layer, **numbers}

    def rebuild(self, identities: int, device: torch.device) -> None:
        self.rebuilt = identities


def test_components_are_stored_under_their_names_and_come_back() -> None:
    parted = Parted()
    parted.share, parted.both = 0.3, (0.1, 0.9)
    assert parted.weights().keys() == {"layer.weight", "layer.bias", "share", "both"}
    again = Parted()
    again.restore(parted.weights(), ("ann", "bob"), CPU)
    assert torch.equal(again.layer.weight, parted.layer.weight)
    assert (again.share, again.both, again.rebuilt) == (0.3, (0.1, 0.9), 2)


def test_a_component_without_a_name_has_what_no_other_one_claims() -> None:
    class Outer(Restorable):
        def __init__(self) -> None:
            self.within, self.layer = Parted(), nn.Linear(2, 1)

        def components(self) -> Components:
            return {"": self.within, "outer": self.layer}

    outer, again = Outer(), Outer()
    assert outer.weights().keys() == {*Parted().weights(), "outer.weight", "outer.bias"}
    again.restore(outer.weights(), ("ann", "bob"), CPU)
    assert torch.equal(again.layer.weight, outer.layer.weight)
    assert torch.equal(again.within.layer.weight, outer.within.layer.weight)
    assert again.within.rebuilt == 2


def test_what_names_no_components_cannot_be_restored() -> None:
    with pytest.raises(NotImplementedError):
        Restorable().restore({}, (), CPU)
