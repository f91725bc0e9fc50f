"""Recipes: published systems at two scales, which are methods like any other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise, product
from operator import ne
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from whalebench import WhalebenchError
from whalebench.benchmarks.conformance.suite import smallest_settings
from whalebench.benchmarks.conformance.trial import Learned, ToyBenchmarks, Trial, draw_toy_benchmarks
from whalebench.benchmarks.core.arrays import normalise
from whalebench.benchmarks.core.photos import CPU
from whalebench.benchmarks.core.progress import SILENT
from whalebench.benchmarks.core.search import cosines
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.ensembles.embeddings import read_embeddings
from whalebench.benchmarks.ensembles.members import FusionTask, find_members, load_fold, read_members
from whalebench.benchmarks.ensembles.rules import fuse_members
from whalebench.benchmarks.ensembles.step import build_inputs
from whalebench.benchmarks.registry import load_benchmark
from whalebench.benchmarks.running.folds import Views, fold_views
from whalebench.benchmarks.running.harness import RunHarness
from whalebench.benchmarks.running.restored import restore_run
from whalebench.benchmarks.running.runner import RunRequest, run
from whalebench.methods.happywhale_26th import BestOfBags, Happywhale26th, keep_best
from whalebench.methods.humpback_3rd import HalfAligned, Humpback3rd, upright, views_of
from whalebench.methods.method import Epoch, Method, MethodConfig
from whalebench.methods.parts.bagging import build_method
from whalebench.methods.parts.crops.finder import Crop
from whalebench.methods.parts.fusion import voted
from whalebench.methods.parts.geometry import affine_matrices, invert, transform_points
from whalebench.methods.parts.networks.pooling import Flatten
from whalebench.methods.parts.networks.weights import pretraining
from whalebench.methods.parts.training import trainer
from whalebench.methods.parts.training.samplers import OversamplingSampler, RandomViewSampler
from whalebench.methods.parts.training.trainer import BestEpoch
from whalebench.methods.playground_resnet18 import PlaygroundResnet18, frequent_classes
from whalebench.methods.registry import configure, find_method
from whalebench.methods.right_whale_2nd import (
    PUBLISHED,
    STRENGTHS,
    FeatureRegression,
    RightWhale2nd,
    choose_regression,
)
from whalebench.methods.salt_4th import DISTILLED, ENCODERS, Salt4th
from whalebench.methods.softmax import Softmax

SETTINGS = ("scale=small", "backbone=test_resnet+narrow_resnet10", "size=32", "epochs=1", "batch_size=8")
ONE = ("scale=small", "backbone=test_resnet", "size=32", "epochs=1", "batch_size=8")
FINDER = ("epochs=1", "size=32", "batch_size=8", "backbone=test_resnet")
RECIPES: dict[type[Method], tuple[str, ...]] = {
    Humpback3rd: (
        *ONE,
        "checkpoints=1",
        "dimensions=8",
        "versions=2",
        "aligner.head=anchors",
        *(f"aligner.{one}" for one in FINDER),
    ),
    Happywhale26th: (*SETTINGS, "dimensions=8", *(f"localizer.{one}" for one in FINDER)),
    PlaygroundResnet18: (*ONE, "epochs=2", "first_photos=3", "first_epochs=1", "at_least=4"),
}


def test_a_scale_sets_what_is_not_set_beside_it() -> None:
    recipe = find_method("right-whale-2nd")
    full, small = (configure(recipe, [f"scale={scale}"]) for scale in ("full", "small"))
    assert (full.size, small.size) == ((256, 256), (64, 64))  # type: ignore[attr-defined]
    mixed = configure(recipe, ["epochs=7", "aligner.turns=2"])
    assert mixed.epochs == 7  # type: ignore[attr-defined]
    assert (mixed.aligner.turns, mixed.aligner.zooms) == (2, 3)  # type: ignore[attr-defined]
    assert configure(recipe, []) == full
    assert recipe.Config.model_validate(mixed.model_dump(mode="json")) == mixed


def test_a_scale_there_is_not_is_refused() -> None:
    with pytest.raises(WhalebenchError, match="cannot take scale='huge': input should be 'full' or 'small'"):
        configure(find_method("right-whale-2nd"), ["scale=huge"])


def test_the_defaults_shown_are_those_of_the_recipe(cli: Callable[..., Any]) -> None:
    import json

    rows = {row["field"]: row for row in json.loads(cli("methods", "right-whale-2nd", "--json").out)}
    assert rows["size"]["default"] == [256, 256]
    assert rows["aligner.shifts"]["default"] == 3
    assert "lau_resnet67" in rows["backbone"]["default"]
    listed = {row["name"]: row for row in json.loads(cli("methods", "--json").out)}
    assert "0.976" in listed["right-whale-2nd"]["published"]


def test_members_are_trained_on_one_crop(tiny: Workspace) -> None:
    """The score of the recipe rests on networks that were trained on the same crops."""
    from whalebench.benchmarks.registry import load_benchmark
    from whalebench.benchmarks.running.folds import fold_views

    settings = (*SETTINGS, "crop=box", "localizer.epochs=1", "localizer.size=32")
    record = run(RunRequest("right-whale-2nd", "tiny", settings=settings, device="cpu"), tiny)
    assert record.usage is not None
    known = record.counts["train_known_photos"]
    assert [record.usage.photos_by_stage[f"network_{n}.train"] for n in (1, 2)] == [known, known]
    assert record.usage.looks == 3  # and the localizer
    assert set(record.lineage) == {"localizer", "network", "final", "calibration"}
    assert list(record.variants) == ["mean of the networks"]
    kept = load_file(tiny.runs / record.run / "weights.safetensors")
    assert {name.partition(".")[0] for name in kept} == {"localizer", "0", "1", "final"}
    scores = load_file(tiny.runs / record.run / "scores.safetensors")["test_scores"]
    assert np.allclose(np.exp(scores).sum(axis=1), 1, atol=1e-4)
    assert len(fold_views(load_benchmark("tiny", tiny), 0).test) == len(scores)


@pytest.mark.parametrize("name", ["humpback-3rd", "happywhale-26th", "right-whale-2nd"])
def test_members_see_photos_as_changed_as_behind_the_recipes_own_crop(name: str) -> None:
    """The crop is cut before them, so that they do not know of it: auto would be heavy to them."""
    for settings in ((), ("scale=small",), ("scale=small", "augment=auto"), ("scale=small", "augment=light")):
        config = configure(find_method(name), settings)
        assert all(one.augmentation() == config.augmentation() for one in config.members())
    auto = configure(find_method(name), ("scale=small", "augment=auto"))
    assert {one.augment for one in auto.members()} == {"steady"}


def test_one_landmark_is_not_enough_to_align(tiny: Workspace) -> None:
    settings = (*SETTINGS, "aligner.epochs=1", "aligner.size=32")
    record = run(RunRequest("right-whale-2nd", "tiny", settings=settings, device="cpu"), tiny)
    assert record.unfit == "tiny has no second landmark"
    assert set(record.metrics.values()) == {None}
    assert record.lineage == {}


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> ToyBenchmarks:
    return draw_toy_benchmarks(Workspace.open(tmp_path_factory.mktemp("recipes") / "workspace"))


def on_trial(kind: type[Method], ground: ToyBenchmarks, *settings: str) -> Trial:
    return Trial(kind.name, kind, configure(kind, (*RECIPES[kind], *settings)), ground)


@pytest.fixture(scope="module")
def learned(ground: ToyBenchmarks) -> dict[type[Method], Learned]:
    return {kind: (trial := on_trial(kind, ground)).learn(trial.views) for kind in RECIPES}


@pytest.mark.parametrize("kind", RECIPES)
def test_a_recipe_scores_each_photo_and_comes_back_whole(
    kind: type[Method], learned: dict[type[Method], Learned], ground: ToyBenchmarks
) -> None:
    was = learned[kind]
    scores, photos = was.scores("test"), was.views.queries()["test"]
    assert scores.shape == (12, 6)
    assert np.isfinite(scores).all()
    assert len(np.unique(scores, axis=0)) == 12
    assert np.allclose(was.method.score(photos.select([3])), scores[[3]], atol=1e-5)
    again = on_trial(kind, ground).build()
    again.restore(was.method.weights(), was.views.train.identities, CPU)
    assert np.array_equal(again.score(photos), scores)


def test_the_scales_are_what_was_published() -> None:
    humpback, happywhale, playground = (configure(kind, []) for kind in RECIPES)
    assert isinstance(humpback, Humpback3rd.Config)
    assert isinstance(happywhale, Happywhale26th.Config)
    assert isinstance(playground, PlaygroundResnet18.Config)
    member, *others = humpback.members()
    assert others == [member, member]
    assert (member.backbone, member.size, member.scale, member.margin) == ("densenet121", (320, 320), 65, 0.5)
    assert (member.pooling, member.flip_identities, member.dimensions) == ("flatten", True, 512)
    assert (member.average, member.checkpoints, member.gallery.rule) == ("checkpoints", 10, "robust_centre")
    detector = humpback.aligner
    assert (detector.head, detector.backbone, detector.size) == ("anchors", "densenet121", (288, 288))
    assert (detector.epochs, detector.batch_size, detector.checkpoints) == (3500, 16, 10)
    assert detector.learning_rate == member.learning_rate == 0.0005
    assert detector.weight_decay == member.weight_decay == 0.05  # Adam's 0.0005 is not AdamW's
    assert Flatten(8).dropout.p == 0.5 and member.dropout == 0  # of whole channels, not of features
    assert configure(Humpback3rd, ["scale=small"]).aligner.head == "votes"  # type: ignore[attr-defined]
    assert [each.backbone.partition(".")[0] for each in happywhale.members()] == [
        "tf_efficientnet_b6", "tf_efficientnetv2_l", "eca_nfnet_l2",
    ]  # fmt: skip
    assert (happywhale.bags, happywhale.best, happywhale.dimensions) == (5, 9, 512)
    assert (happywhale.new_rule, happywhale.new_share, happywhale.gallery.neighbours) == ("second", 0.15, 850)
    assert (playground.backbone, playground.pretrained, playground.first_photos) == ("resnet18", "timm", 11)
    for config in (humpback, happywhale, playground):
        assert type(config).model_validate_json(config.model_dump_json()) == config


def test_steps_of_the_humpback_ladder_differ_by_what_they_say_alone() -> None:
    steps: list[Any] = []
    for settings in (rung.settings.partition(";")[0].split() for rung in Humpback3rd.ladder):
        if settings[0] == "arcface":
            alone = configure(find_method("arcface"), settings[2::2])
            assert alone == steps[-1].as_arcface()  # but for upright photos, and views
        elif all("=" in setting for setting in settings):
            steps.append(configure(Humpback3rd, settings))
    flat = [pd.json_normalize(step.model_dump(mode="json")).iloc[0] for step in steps]
    changed = [{*was.index[[*map(ne, was, now)]]} for was, now in pairwise(flat)]
    assert changed == [
        {"aligner.head", "aligner.epochs"}, {"gallery.rule"}, {"weight_decay"}, set(),
        {"head.flip_identities"}, {"backbone"},
    ]  # fmt: skip


@pytest.mark.parametrize("kind", RECIPES)
def test_a_laptop_downloads_nothing_and_sees_few_epochs(kind: type[Method]) -> None:
    small: Any = configure(kind, ["scale=small"])
    assert small.pretrained == small.aligner.pretrained == small.localizer.pretrained == "none"
    assert small.epochs <= 20
    assert small.size == (80, 128)


def test_the_scale_of_the_cosines_is_the_heads() -> None:
    config = configure(Humpback3rd, ["scale=small", "head.scale=64"])
    assert isinstance(config, Humpback3rd.Config)
    assert (config.scale, config.members()[0].scale, config.members()[0].margin) == ("small", 64, 0.3)
    with pytest.raises(WhalebenchError, match=r"cannot be set so: flip_identities=true learns mirrored"):
        configure(Humpback3rd, ["gallery.flip=true"])
    with pytest.raises(WhalebenchError, match=r"crop=box has no landmarks to turn the animal by"):
        configure(Humpback3rd, ["crop=box"])


def test_weights_of_joined_networks_are_all_named() -> None:
    found = pretraining(configure(Happywhale26th, []), "happywhale")
    assert {name.partition(".")[0] for name in found} == {
        "tf_efficientnet_b6", "tf_efficientnetv2_l", "eca_nfnet_l2", "resnet34",
    }  # fmt: skip


def test_several_networks_have_the_mean_of_their_cosines(ground: ToyBenchmarks) -> None:
    trial = on_trial(Humpback3rd, ground, "backbone=test_resnet+test_resnet", "versions=1")
    method: Any = trial.learn(trial.views).method
    photos = trial.views.queries()["test"]
    one, other = (member.score(method.crop.see(photos)) for member in method.cycles[0].members)
    assert not np.allclose(one, other, atol=1e-4)
    assert np.allclose(method.score(photos), (one + other) / 2, atol=1e-6)
    assert np.array_equal(method.variants(photos)["one of the networks"], one)


@pytest.fixture(scope="module")
def in_bags(shared_tiny: Workspace) -> tuple[BestOfBags, RunHarness, Views]:
    views = fold_views(load_benchmark("tiny", shared_tiny, propose=True), 0)
    config = configure(Happywhale26th, (*RECIPES[Happywhale26th], "bags=2", "best=3"))
    harness, method = RunHarness(0, CPU, views, SILENT, config), build_method(Happywhale26th, config)
    harness.fit(method)
    assert isinstance(method, BestOfBags)
    return method, harness, views


def test_the_best_networks_of_all_bags_answer_side_by_side(in_bags: Any) -> None:
    method, harness, views = in_bags
    worths = [value for name, value in harness.chosen.items() if "network_" in name and "valid" in name]
    recipes = [recipe for bag in method.members for recipe in bag.cycles]
    assert len(worths) == 4
    kept = [recipe.worths[place] for recipe in recipes for place in recipe.kept]
    assert sorted(kept) == sorted(worths)[1:]
    assert harness.chosen["networks_kept"] == 3
    photos, known = views.queries()["test"], views.train.known()
    each = []
    for bag, recipe in zip(method.members, recipes, strict=True):
        for network in recipe.members:
            assert np.array_equal(network.gallery.labels, known.labels)
            each.append(cosines(network.embed(bag.crop.see(photos)), network.gallery.embeddings))
    assert method.embed(photos).shape == (len(photos), 3 * 8)
    mean = np.mean(each, axis=0)
    best = [mean[:, known.labels == who].max(axis=1) for who in range(len(known.identities))]
    scores = method.score(photos)
    assert np.allclose(scores, np.stack(best, axis=1), atol=1e-5)
    assert np.array_equal(method.score_and_embed(photos)[0], scores)
    again = build_method(Happywhale26th, method.config)
    again.restore(method.weights(), views.train.identities, CPU)
    assert np.array_equal(again.score(photos), scores)


def test_galleries_of_all_bags_have_their_photos_in_one_order(in_bags: Any) -> None:
    """What a bag did not learn from stands at the end of its gallery first, and is seen as it is found."""
    method, _, views = in_bags
    inner, known = views.inner_folds(2), views.train.known()
    for number, bag in enumerate(method.members):
        own = [place for place, image in enumerate(known.images) if inner[image] == number]
        assert 0 < len(own) < len(known)
        for recipe in bag.cycles:
            for network in recipe.members:
                seen = network.embed(bag.crop.see(known.select(own).bare()))
                assert np.allclose(network.gallery.embeddings[own], seen, atol=1e-4)


TWO = (*SETTINGS, "dimensions=8", "gallery.rule=nearest")
WITHIN = "backbone=test_resnet,size=32,epochs=1,batch_size=8,dimensions=8,happywhale-26th:crop=none"


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("happywhale-26th", ""),
        ("happywhale-26th", "backbone=test_resnet"),
        ("happywhale-26th", "bags=2"),
        ("happywhale-26th", "bags=2 best=3"),
        ("happywhale-26th", "schedule.cycles=2 epochs=2"),
        ("happywhale-26th", "schedule.cycles=2 epochs=2 bags=2"),
        (
            "happywhale-26th",
            "schedule.cycles=2 epochs=2 bags=2 schedule.joined=embeddings bags_joined=scores",
        ),
        ("ensemble", f"members=arcface+happywhale-26th member_settings=happywhale-26th:scale=small,{WITHIN}"),
    ],
)
def test_all_galleries_of_a_run_stand_side_by_side_as_its_embeddings_do(
    method: str, more: str, shared_tiny: Workspace
) -> None:
    own = more.split() if method == "ensemble" else (*TWO, "crop=none", *more.split())
    record = run(RunRequest(method, "tiny", settings=tuple(own), device="cpu"), shared_tiny)
    fold, restored = load_fold(record, shared_tiny), restore_run(record.run, shared_tiny)
    (member,) = read_members(find_members((record.run,), shared_tiny, alone=True), fold)
    found = read_embeddings(member, fold)["gallery"]
    embedded = restored.method.embed(restored.views.train.known().bare())
    assert embedded is not None
    assert np.allclose(found, normalise(embedded), atol=1e-4)
    to_steps = build_inputs(fold, [member], [1.0], (), embedded=True).embeddings
    assert np.allclose(to_steps["gallery"], found, atol=1e-6)
    if method != "ensemble" and "cycles" not in more:  # these have a mean of several galleries' scores
        assert np.allclose(fuse_members("knn", FusionTask([member], fold)).test, member.test, atol=1e-4)


@pytest.mark.parametrize("bags", ["bags=1", "bags=2"])
def test_looks_at_body_and_fin_are_joined(bags: str, shared_tiny: Workspace, cli: Callable[..., Any]) -> None:
    runs = []
    for look in ("crop=none", "crop=window window=0.2,0.2,0.8,0.8"):
        request = RunRequest("happywhale-26th", "tiny", settings=(*TWO, bags, *look.split()), device="cpu")
        runs.append(run(request, shared_tiny).run)
    answer = cli("ensemble", *runs, "--rule", "knn", "--json", "--workspace", shared_tiny.root)
    assert answer.code == 0, answer.err


CYCLES = ("schedule.cycles=2", "epochs=2", "bags=2")


@pytest.mark.parametrize("best", [(), ("best=8",)])
@pytest.mark.parametrize("joined", ["scores embeddings", "votes scores", "embeddings scores"])
def test_bags_of_cycles_answer_together(best: tuple[str, ...], joined: str, in_bags: Any) -> None:
    _, _, views = in_bags
    of_cycles, of_bags = joined.split()
    ways = (f"schedule.joined={of_cycles}", f"bags_joined={of_bags}")
    config = configure(Happywhale26th, (*TWO, "crop=none", *CYCLES, *ways, *best))
    harness, method = RunHarness(0, CPU, views, SILENT, config), build_method(Happywhale26th, config)
    harness.fit(method)
    photos = views.queries()["test"]
    scores, embeddings = method.score_and_embed(photos)
    assert np.array_equal(scores, method.score(photos)) and embeddings is not None
    assert np.isfinite(scores).all() and np.isfinite(embeddings).all()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("best=1",), r"best=1 of the 8 networks .* set schedule.cycles=1, or best=8"),
        (("schedule.joined=embeddings",), "compares every network; set schedule.joined=scores"),
        (("schedule.joined=embeddings", "best=7"), "best=7 of the 8 networks"),
    ],
)
def test_bags_of_cycles_that_cannot_answer_are_refused(settings: tuple[str, ...], said: str) -> None:
    with pytest.raises(WhalebenchError, match=said):
        configure(Happywhale26th, (*TWO, "crop=none", *CYCLES, *settings))


def test_stackers_on_features_need_every_network_of_every_bag(
    shared_tiny: Workspace, cli: Callable[..., Any]
) -> None:
    runs: dict[int, list[str]] = {}
    for best, seed in product((3, 4), (0, 1)):
        settings = (*TWO, "crop=none", "bags=2", f"best={best}")
        request = RunRequest("happywhale-26th", "tiny", seed=seed, settings=settings, device="cpu")
        runs.setdefault(best, []).append(run(request, shared_tiny).run)

    def combined(best: int, rule: str) -> Any:
        return cli("ensemble", *runs[best], "--rule", rule, "--json", "--workspace", shared_tiny.root)

    refused = combined(3, "logistic-features")
    assert "keeps 24 features of valid, not 16 of each of its 2 bags, as of train" in refused.err
    for best, rule in ((3, "logistic"), (3, "pairs"), (4, "logistic-features"), (4, "pairs")):
        answer = combined(best, rule)
        assert answer.code == 0, answer.err


def test_of_equally_good_networks_the_first_are_kept(in_bags: Any) -> None:
    config = configure(Happywhale26th, RECIPES[Happywhale26th])
    recipes = [Happywhale26th(config) for _ in range(2)]  # type: ignore[arg-type]
    for recipe, worths in zip(recipes, ((0.2, 0.5), (0.5, 0.5)), strict=True):
        recipe.worths = dict(enumerate(worths))
    assert keep_best(recipes, 2) == 2
    assert [recipe.kept for recipe in recipes] == [(1,), (0,)]
    assert keep_best(recipes, 1) == 1
    assert [len(recipe.members) for recipe in recipes] == [1, 0]


def test_half_of_the_photos_are_learned_upright(learned: dict[type[Method], Learned]) -> None:
    """Each epoch has every photo and its mirror image once, aligned or upright, with the right label."""
    method: Any = learned[Humpback3rd].method
    member = method.cycles[0].members[0]
    assert isinstance(member, HalfAligned)
    known = method.crop.see_annotated(learned[Humpback3rd].views.train.known()).labelled()
    seen, sampler = member.to_learn_from(known)
    assert sampler is not None
    rows = np.concatenate(sampler.epoch(torch.Generator().manual_seed(0)))
    assert sorted(rows % len(known)) == sorted([*range(len(known))] * 2)
    mirrored, is_upright = rows >= 2 * len(known), rows // len(known) % 2 == 1
    assert mirrored.sum() == len(known)
    assert 0.2 < is_upright.mean() < 0.8
    batch = seen.batch(rows, (32, 32))
    assert known.labels is not None
    assert batch.labels is not None
    own = known.labels[rows % len(known)] + len(known.identities) * mirrored
    assert np.array_equal(batch.labels.numpy(), own)
    kinds = [view.batch(rows % len(known), (32, 32)).pixels for view in views_of(known, 1)]
    assert not torch.allclose(*kinds, atol=0.05)
    for place, pixels in enumerate(batch.pixels):
        expected = kinds[int(is_upright[place])][place]
        assert torch.allclose(pixels, expected.flip(-1) if mirrored[place] else expected, atol=1e-5)


def test_a_photo_is_embedded_as_the_mean_of_its_views(learned: dict[type[Method], Learned]) -> None:
    """Of four views and more, the farthest may be left out; of two, aligned and upright, none is."""
    method: Any = learned[Humpback3rd].method
    photos = method.crop.see(learned[Humpback3rd].views.queries()["test"])
    (member,) = method.cycles[0].members
    single = HalfAligned(member.config, 1)
    single.device, single.network = member.device, member.network
    sides = [
        normalise(np.hstack([normalise(single.look(view, mirrored=side)) for side in (False, True)]))
        for view in views_of(photos, 1)
    ]
    assert not np.allclose(*sides, atol=1e-3)
    assert np.allclose(single.embed(photos), normalise(sides[0] + sides[1]), atol=1e-5)
    assert not np.allclose(single.embed(photos), member.embed(photos), atol=1e-4)


def test_upright_windows_hold_the_aligned_ones_and_stay_in_the_photo() -> None:
    angle, zeros = torch.tensor([0.0, 0.4, -1.2], dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    shift = torch.tensor([[0.3, 0.1], [0.4, -0.9], [-0.2, 0.2]], dtype=torch.float64)
    aligned = affine_matrices(angle, zeros, zeros + 3, zeros + 2, shift, 1.5)
    boxes = upright(aligned)
    assert torch.allclose(boxes[0], aligned[0], atol=1e-5)
    assert not boxes[:, 0, 1].any()
    assert not boxes[:, 1, 0].any()
    assert (boxes[:, [0, 1], [0, 1]] > 0).all()
    corners = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]], dtype=torch.float64)
    corners = corners.expand(3, 4, 2)
    places = transform_points(corners, invert(aligned))
    assert places.abs().max() > 1
    assert transform_points(places.clamp(-1, 1), boxes).abs().max() <= 1 + 1e-5
    assert transform_points(corners, invert(boxes)).abs().max() <= 1 + 1e-5
    assert torch.allclose(upright(boxes), boxes, atol=1e-4)
    assert torch.allclose(
        upright(torch.eye(2, 3).double().repeat(1, 1, 1)), torch.eye(2, 3).double().repeat(1, 1, 1)
    )


def test_versions_are_the_first_of_more_versions(learned: dict[type[Method], Learned]) -> None:
    photos = learned[Humpback3rd].views.queries()["test"]
    photos = photos.through(Crop(torch.eye(2, 3).double().repeat(len(photos), 1, 1), (32, 32)))
    lenses: list[Any] = [[view.lens for view in views_of(photos, count)] for count in (3, 6)]
    three, six = ([lens.windows for lens in each] for each in lenses)
    assert (len(three), len(six)) == (6, 12)
    assert all(torch.equal(one, other) for one, other in zip(three[:3], six[:3], strict=True))
    assert torch.equal(six[0], torch.eye(2, 3).double().repeat(len(photos), 1, 1))
    apart = [float((one - six[0]).abs().amax()) for one in six[1:6]]
    assert min(apart) > 0.01
    assert max(apart) < 0.15


def test_joined_embeddings_ask_the_nearest_photo(learned: dict[type[Method], Learned]) -> None:
    """With more neighbours than photos, an individual scores as its nearest photo in all networks' space."""
    method: Any = learned[Happywhale26th].method
    views = learned[Happywhale26th].views
    test, annotated = views.queries()["test"], method.crop.see_annotated(views.train.known())
    gallery, query = method.cycles[0].embed(annotated), method.embed(test)
    assert query.shape == (12, 16)
    each = [member.embed(method.crop.see(test)) for member in method.cycles[0].members]
    assert np.allclose(query @ query.T, np.mean([one @ one.T for one in each], axis=0), atol=1e-5)
    labels = views.train.known().labels
    near = np.stack([cosines(query, gallery[labels == own]).max(axis=1) for own in range(6)], axis=1)
    assert np.allclose(learned[Happywhale26th].scores("test"), near, atol=1e-5)


def test_frequent_individuals_come_first_and_the_network_then_rests(
    ground: ToyBenchmarks, learned: dict[type[Method], Learned]
) -> None:
    was = learned[PlaygroundResnet18]
    first, thawed = (
        (trial := on_trial(PlaygroundResnet18, ground, setting)).learn(trial.views).method.weights()
        for setting in ("epochs=0", "frozen=false")
    )
    assert was.harness.chosen["first_individuals"] == 4
    assert was.harness.chosen["first_network_epoch"] == 1
    assert was.harness.chosen["network_epoch"] in (1, 2)
    weights = was.method.weights()
    network = [name for name in weights if name.startswith("network.")]
    assert all(torch.equal(weights[name], first[name]) for name in network)
    assert not all(torch.equal(thawed[name], first[name]) for name in network)
    assert not torch.equal(weights["loss.classifier.weight"], first["loss.classifier.weight"])
    assert set(was.harness.lineage["network"]) == set(was.views.train.digests)


def test_the_first_stage_is_judged_on_valid_photos_of_its_individuals(
    learned: dict[type[Method], Learned], ground: ToyBenchmarks
) -> None:
    """Among these alone, as the network was after it: with no epochs of the second, that is what is left."""
    trial = on_trial(PlaygroundResnet18, ground, "epochs=0")
    was = trial.learn(trial.views)
    frequent = frequent_classes(was.views.train, 3)
    classes = frequent.class_of[was.views.valid.labels]
    assert was.harness.chosen["first_valid_photos"] == (classes >= 0).sum() > 2
    (method,) = was.method.cycles
    chosen = learned[PlaygroundResnet18].harness.chosen
    assert chosen["first_valid_top_1"] == was.harness.chosen["first_valid_top_1"]
    assert isinstance(method, PlaygroundResnet18)
    told: dict[str, float | None] = {}
    notes: Any = SimpleNamespace(choose=told.__setitem__)

    def sure(network: Any, loss: Any, photos: Any) -> NDArray[np.float32]:
        """Right but for the first photo."""
        own = frequent.class_of[photos.labels]
        own[0] = (own[0] + 1) % frequent.count
        return np.eye(frequent.count, dtype=np.float32)[own]

    method._log_probabilities = sure  # type: ignore[method-assign]
    method._judge_first(frequent, was.views.valid, notes)
    count = told["first_valid_photos"]
    assert count is not None
    assert told["first_valid_top_1"] == pytest.approx(1 - 1 / count)


def test_a_balanced_stage_has_as_many_photos_of_each(ground: ToyBenchmarks) -> None:
    train = on_trial(PlaygroundResnet18, ground).views.train
    every = frequent_classes(train, 2)
    drawn, again, other = (frequent_classes(train, 2, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert set(np.bincount(drawn.labels)) == {2}
    assert drawn.count == every.count > 1
    assert len(drawn.photos) < len(every.photos)
    assert drawn.photos.images == again.photos.images != other.photos.images
    assert set(drawn.photos.images) < set(every.photos.images)
    assert len(frequent_classes(train, 999, np.random.default_rng(0)).photos) == 0


def test_layers_of_the_first_stage_have_rates_of_their_own(
    ground: ToyBenchmarks, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ("layer_rates=0.1,0.2,0.5,2", "head_rate=5", "learning_rate=0.01", "frozen=false")
    built = list[list[dict[str, Any]]]()
    build = trainer.build_optimizer

    def watched(*given: Any) -> Any:
        optimizer, schedule = build(*given)
        built.append([dict(group) for group in optimizer.param_groups])
        return optimizer, schedule

    monkeypatch.setattr(trainer, "build_optimizer", watched)
    trial = on_trial(PlaygroundResnet18, ground, *settings)
    was = trial.learn(trial.views)
    (method,) = was.method.cycles
    assert isinstance(method, PlaygroundResnet18)
    first, second = built
    assert {round(group["initial_lr"], 6) for group in first} == {0.001, 0.002, 0.005, 0.02, 0.05}
    assert {round(group["initial_lr"], 6) for group in second} == {0.01, 0.05}
    named = dict(method.network.named_parameters())
    rates = {name: method.config.rate_of(name) for name in named}
    assert {rate for name, rate in rates.items() if "layer3" in name} == {0.5}
    assert {rate for name, rate in rates.items() if ".conv1.0" in name} == {0.1}  # the stem
    other = on_trial(PlaygroundResnet18, ground, "layer_rates=1,1,1,1", "backbone=test_vit")
    with pytest.raises(WhalebenchError, match=r"layer_rates are for 4 layers, and backbone=test_vit names"):
        other.learn(other.views)


@pytest.mark.parametrize("rates", ["0.25,0.5,1", "0.25", "0.1,0.2,0.5,1,2", "0.25,0.5,1,fast", ""])
def test_other_than_four_rates_are_refused(rates: str) -> None:
    words = (
        f"cannot take layer_rates='{rates}': write a factor for each of the four layers, as 0.25,0.5,1,2.5"
    )
    with pytest.raises(WhalebenchError, match=words):
        configure(PlaygroundResnet18, ["scale=small", f"layer_rates={rates}"])
    with pytest.raises(ValueError, match="a factor for each of the four layers"):
        PlaygroundResnet18.Config.model_validate({"layer_rates": [1.0] * 3})


def test_a_restart_after_the_end_of_the_first_stage_is_refused() -> None:
    words = r"first_restart=50 is more than first_epochs=4, so no cosine .*; lower it, or raise first_epochs"
    with pytest.raises(WhalebenchError, match=words):
        configure(PlaygroundResnet18, ["first_restart=50", "first_epochs=4"])
    assert configure(PlaygroundResnet18, ["scale=small", "first_restart=4", "first_epochs=4"])
    # The scale's own was not asked for.
    assert configure(PlaygroundResnet18, ["first_epochs=4"]).first_restart == 10  # type: ignore[attr-defined]


def test_a_first_stage_that_there_is_not_is_said(
    ground: ToyBenchmarks, learned: dict[type[Method], Learned]
) -> None:
    trial = on_trial(
        PlaygroundResnet18, ground, "first_photos=99", "layer_rates=1,1,1,1", "schedule.cycles=2"
    )
    (said,) = trial.learn(trial.views).harness.warnings
    assert said.startswith(
        "cycle_1: Fewer than two individuals of train have first_photos=99 photos, so there "
    )
    assert "first_* and layer_rates did nothing" in said
    assert learned[PlaygroundResnet18].harness.warnings == []


def test_the_cosine_of_the_first_stage_begins_anew() -> None:
    config = configure(
        PlaygroundResnet18, ["scale=small", "first_epochs=25", "first_restart=10", "warm_up=0"]
    )
    assert isinstance(config, PlaygroundResnet18.Config)
    stages = (config.first_stage(), config.second_stage())
    assert [stage.restart_epochs() for stage in stages] == [10, 0]
    lines = []
    for stage in stages:
        both = torch.nn.ModuleList([torch.nn.Linear(2, 2)])
        optimizer, schedule = trainer.build_optimizer(both, stage, 4 * stage.epochs)
        rates = []
        for _ in range(4 * stage.epochs):
            rates.append(schedule.get_last_lr()[0] / stage.learning_rate / stage.head_rate)
            optimizer.step()
            schedule.step()
        lines.append(np.array(rates))
    first, second = lines
    assert np.flatnonzero(np.diff(first) > 0).tolist() == [39, 79]
    assert np.allclose(first[[40, 80]], 1)
    assert (first[[39, 79]] < 0.01).all()
    assert first[99] < 0.03  # a shorter one, to its end
    rising = config.first_stage().model_copy(update={"warm_up": None})
    _, schedule = trainer.build_optimizer(torch.nn.ModuleList([torch.nn.Linear(2, 2)]), rising, 100)
    factors = np.array([schedule.lr_lambdas[0](step) for step in range(100)])
    assert (
        factors[:40].argmax() == 15 and factors[39] < 0.1
    )  # of a share of the first cosine, which falls, too
    assert (np.diff(second) <= 0).all()


def test_the_best_epoch_on_valid_is_what_scores(
    ground: ToyBenchmarks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where valid says that it only gets worse, the first epoch of each stage is kept."""
    worth, told = iter([3.0, 2.0, 1.0, 0.5, 0.4, 0.3]), list[Epoch]()
    monkeypatch.setattr(RunHarness, "valid_map_at_5", lambda self, scores: next(worth))
    monkeypatch.setattr(RunHarness, "epoch", lambda self, epoch: told.append(epoch))
    trial = on_trial(PlaygroundResnet18, ground, "epochs=3", "first_epochs=3", "frozen=false")
    was = trial.learn(trial.views)
    assert (was.harness.chosen["first_network_epoch"], was.harness.chosen["network_epoch"]) == (1, 1)
    first, last = told[3].valid_scores, told[5].valid_scores
    assert first is not None
    assert last is not None
    assert np.allclose(was.scores("valid"), first, atol=1e-5)
    assert not np.allclose(first, last, atol=1e-3)


def test_new_photos_are_a_class_without_a_column(
    ground: ToyBenchmarks, learned: dict[type[Method], Learned]
) -> None:
    was = learned[PlaygroundResnet18]
    (method,) = was.method.cycles
    assert isinstance(method, Softmax)
    chances = np.exp(Softmax.score(method, was.views.queries()["test"]))
    assert chances.shape == (12, 7)
    assert np.allclose(np.exp(was.scores("test")).sum(axis=1), 1 - chances[:, 6], atol=1e-5)
    assert (chances[:, 6] > 1e-3).any()
    trial = on_trial(PlaygroundResnet18, ground, "new_class=false", "first_photos=99", "epochs=1")
    without = trial.learn(trial.views)
    assert np.allclose(np.exp(without.scores("test")).sum(axis=1), 1, atol=1e-5)
    assert without.harness.chosen["first_individuals"] == 0
    assert set(without.harness.lineage["network"]) == set(was.views.train.known().digests)


def test_a_stage_scores_its_own_individuals_above_all_others(ground: ToyBenchmarks) -> None:
    train = on_trial(PlaygroundResnet18, ground).views.train
    assert train.labels is not None
    labels = np.where(train.labels == 0, -1, train.labels)
    classes = frequent_classes(replace(train, labels=labels), 4)
    assert classes.count == 3
    assert set(classes.labels) == {0, 1, 2}
    assert torch.equal(classes.of(torch.tensor(classes.photos.labels)), torch.tensor(classes.labels))
    scores = classes.over_identities(np.array([[0.5, -2.0, 1.0]], np.float32))
    frequent = [place for place in range(6) if classes.class_of[place] >= 0]
    assert np.allclose(scores[0, frequent], [0.5, -2.0, 1.0])
    assert np.allclose(np.delete(scores[0], frequent), -3)


def test_the_best_epoch_is_kept() -> None:
    module, snapshot = nn.Linear(1, 1), BestEpoch()
    for epoch, value in enumerate((0.2, 0.5, 0.5, 0.1), 1):
        nn.init.constant_(module.weight, epoch)
        snapshot.offer(epoch, value, module)
    assert (snapshot.best, snapshot.weights["weight"].item()) == (2, 2)
    assert BestEpoch().best == 0


def test_rare_individuals_are_drawn_again() -> None:
    labels = np.array([0] * 5 + [1] * 2 + [2] + [7] * 3)
    sampler = OversamplingSampler(labels, 3, 4)
    assert (sampler.photos, sampler.steps) == (14, 4)
    generator = torch.Generator().manual_seed(0)
    epochs = [np.concatenate(sampler.epoch(generator)) for _ in range(8)]
    for photos in epochs:
        assert set(photos) == set(range(11))
        assert Counter(labels[photos].tolist()) == {0: 5, 1: 3, 2: 3, 7: 3}
    # Which of the two photos is drawn again is drawn anew.
    assert {int(np.bincount(photos)[5]) for photos in epochs} == {1, 2}


def test_one_view_of_each_photo_is_drawn() -> None:
    sampler, generator = RandomViewSampler(np.arange(40).reshape(20, 2), 6), torch.Generator().manual_seed(0)
    epochs = [np.concatenate(sampler.epoch(generator)) for _ in range(30)]
    assert sampler.steps == 4
    assert all(sorted(photos // 2) == list(range(20)) for photos in epochs)
    assert 0.4 < np.mean([photos % 2 for photos in epochs]) < 0.6
    assert set(epochs[0]) != set(epochs[1])


# right-whale-2nd: features side by side, a regression, its strength chosen on valid

Part = tuple[NDArray[np.float32], NDArray[np.int64]]


def drawn(individuals: int, photos: int, seed: int, spread: float = 1.5) -> Part:
    """Features (photos, 6) of far different scales, and labels; each individual has a photo."""
    centres = np.random.default_rng(0).normal(size=(individuals, 6))
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(individuals), rng.integers(0, individuals, photos - individuals)])
    features = centres[labels] + rng.normal(0, spread, (photos, 6))
    return (features * 10.0 ** np.arange(-2, 4) + 7).astype(np.float32), labels


@pytest.mark.parametrize("components", [None, 3, 99])
@pytest.mark.parametrize("individuals", [2, 5])
def test_it_is_the_pipeline_of_the_author(individuals: int, components: int | None) -> None:
    train, valid, test = (drawn(individuals, photos, seed) for seed, photos in enumerate((60, 30, 30)))
    found = choose_regression(train, valid, individuals, components)
    turned = [] if components is None else [PCA(min(components, 6))]
    losses = {}
    for strength in STRENGTHS:
        line = LogisticRegression(C=strength, max_iter=1000)
        slow = make_pipeline(StandardScaler(), *turned, line).fit(train[0].astype(np.float64), train[1])
        for part, (features, labels) in {"train": train, "valid": valid}.items():
            logs = slow.predict_log_proba(features.astype(np.float64))
            losses[part, strength] = -logs[np.arange(len(labels)), labels].mean()
        if strength == found.strength:
            logs = slow.predict_log_proba(test[0].astype(np.float64))
            np.testing.assert_allclose(found.regression.log_probabilities(test[0]), logs, atol=1e-4)
    assert losses["valid", found.strength] == min(losses["valid", each] for each in STRENGTHS)
    assert found.strength not in (STRENGTHS[0], STRENGTHS[-1])  # so that there was something to choose
    assert found.train_log_loss == pytest.approx(losses["train", found.strength], abs=1e-4)
    assert found.valid_log_loss == pytest.approx(losses["valid", found.strength], abs=1e-4)
    assert found.train_log_loss < found.valid_log_loss


def test_photos_of_new_individuals_choose_nothing() -> None:
    train, (features, labels) = drawn(4, 40, 1), drawn(4, 40, 2)
    some = np.where(np.arange(40) % 2, -1, labels)
    alone = choose_regression(train, (features[::2], labels[::2]), 4, None)
    beside = choose_regression(train, (features, some), 4, None)
    assert (beside.strength, beside.valid_log_loss) == (alone.strength, alone.valid_log_loss)
    nobody = choose_regression(train, (features, np.full(40, -1)), 4, None)
    assert nobody.strength == PUBLISHED
    assert np.isnan(nobody.valid_log_loss)


def test_a_regression_comes_back_from_its_weights() -> None:
    train = drawn(4, 40, 1)
    found = choose_regression(train, drawn(4, 40, 2), 4, 2).regression
    again = FeatureRegression()
    again.load_state_dict(found.state_dict())
    assert np.array_equal(again.log_probabilities(train[0]), found.log_probabilities(train[0]))


@pytest.fixture(scope="module")
def stacked(ground: ToyBenchmarks) -> Learned:
    settings = ("crop=none", "backbone=test_resnet+narrow_resnet10", "epochs=2")
    config = configure(RightWhale2nd, smallest_settings(RightWhale2nd, settings))
    trial = Trial(RightWhale2nd.name, RightWhale2nd, config, ground)
    return trial.learn(trial.views)


def test_each_network_has_a_curve_and_a_kept_epoch_of_its_own(ground: ToyBenchmarks) -> None:
    more = ("crop=none", "backbone=test_resnet+narrow_resnet10", "final=mean")
    more = (*more, "epochs=4", "schedule.cycles=2", "schedule.tail=1")
    config = configure(RightWhale2nd, smallest_settings(RightWhale2nd, more))
    trial = Trial(RightWhale2nd.name, RightWhale2nd, config, ground)
    was = trial.learn(trial.views)
    names = [f"cycle_{cycle}.network_{network}" for cycle in (1, 2) for network in (1, 2)]
    assert [*was.harness.curve()["stage"].unique()] == [f"{name}.train" for name in names]
    assert {f"{name}.network_epoch" for name in names} <= set(was.harness.chosen)
    assert set(was.harness.lineage) == {"network"}  # both learn from the same photos


def by_mean(was: Learned) -> RightWhale2nd:
    """The same networks without the regression."""
    config: MethodConfig = was.method.config.model_copy(update={"final": "mean"})
    again = RightWhale2nd(config)  # type: ignore[arg-type]
    own = {name: value for name, value in was.method.weights().items() if not name.startswith("final")}
    again.restore(own, was.views.train.identities, CPU)
    return again


def test_features_of_all_networks_are_side_by_side(stacked: Learned) -> None:
    (method,), photos = stacked.method.cycles, stacked.views.queries()["test"]
    assert isinstance(method, RightWhale2nd)
    features = method.features(photos)
    each = [member.features(photos) for member in method.members]
    assert features.shape == (12, sum(one.shape[1] for one in each))
    assert np.array_equal(features[:, : each[0].shape[1]], each[0])
    assert method.final.slopes.shape == (6, features.shape[1])
    assert np.allclose(np.exp(method.score(photos)).sum(axis=1), 1, atol=1e-5)


def test_the_mean_stands_beside_the_regression(stacked: Learned) -> None:
    photos, mean = stacked.views.queries()["test"], by_mean(stacked)
    variants = stacked.method.variants(photos)
    assert list(variants) == ["mean of the networks"]
    chances = [np.exp(member.score(photos).astype(np.float64)) for member in mean.members]
    assert np.allclose(np.exp(variants["mean of the networks"]), np.mean(chances, axis=0), atol=1e-6)
    assert np.array_equal(mean.score(photos), variants["mean of the networks"])
    assert not np.allclose(stacked.scores("test"), mean.score(photos), atol=1e-2)
    assert mean.variants(photos) == {}
    assert not any(name.startswith("final") for name in mean.weights())


def test_what_it_was_chosen_by_is_written_down(stacked: Learned) -> None:
    chosen, method = stacked.harness.chosen, stacked.method
    assert chosen["final_C"] in STRENGTHS
    valid = stacked.views.valid.known()
    own: Any = method.score(valid)[np.arange(len(valid)), valid.labels]
    assert chosen["final_valid_log_loss"] == pytest.approx(-own.mean(), abs=1e-5)
    assert chosen["final_train_log_loss"] < chosen["final_valid_log_loss"]  # type: ignore[operator]
    assert stacked.harness.lineage["final"] == tuple(sorted(stacked.views.train.known().digests))


def test_components_of_a_mean_are_refused() -> None:
    with pytest.raises(WhalebenchError, match=r"components=3 are of features, which final=mean has none of"):
        configure(find_method("right-whale-2nd"), ["final=mean", "components=3"])


# salt-4th: the animal cut out by its mask, in cycles that vote


def salt_config(*settings: str) -> Any:
    return configure(find_method("salt-4th"), settings)


@pytest.fixture(scope="module")
def salt_trial(ground: ToyBenchmarks) -> Trial:
    kind = find_method("salt-4th")
    return Trial(kind.name, kind, configure(kind, smallest_settings(kind)), ground)


def test_the_scales_of_salt_4th() -> None:
    full, small = salt_config(), salt_config("scale=small")
    for config, cycles in ((full, 7), (small, 3)):
        within: Any = config.inner()
        assert (config.of, within.crop, within.segmenter.background) == ("mask", "mask", "removed")
        assert (within.schedule.cycles, within.schedule.joined) == (cycles, "votes")
        assert type(config).model_validate_json(config.model_dump_json()) == config
    assert full.inner().schedule.shares(full.inner().epochs) == [52, 52, 52, 51, 51, 51, 51]
    assert (full.inner().backbone, full.inner().pretrained) == ("resnet34", "timm")
    masks = full.inner().segmenter
    assert (masks.networks(), masks.shares(), masks.optimizer) == (70, [52] * 3 + [51] * 4, "sgd")
    assert masks.learning_rate * masks.floor == pytest.approx(0.001)
    assert round(masks.lovasz_from * masks.epochs) == 10 and small.inner().segmenter.networks() == 1
    six = salt_config(f"of_settings=segmenter.backbone={ENCODERS},segmenter.bags=10,segmenter.cycles=7")
    assert six.inner().segmenter.networks() == 420 and full.inner_folds() == {(10,)}
    assert full.inner().adapts_by() == f"segmenter.students={DISTILLED}" and not small.inner().adapts_by()
    assert len(masks.students_encoders()) == 3
    for rung in Salt4th.ladder:
        if rung.settings.startswith("… --set "):
            configure(find_method("mask"), [rung.settings.split()[2].rstrip(",")])
    assert [rung.published for rung in Salt4th.ladder][-2] == "mean precision 0.887 public, 0.895 private"
    assert small.inner().pretrained == small.inner().segmenter.pretrained == "none"
    assert salt_config("scale=small", "confidence=0.9").inner() == small.inner()


def test_what_the_suite_tries_has_all_its_cycles(salt_trial: Trial) -> None:
    within: Any = salt_trial.config.inner()  # type: ignore[union-attr]
    assert (within.schedule.cycles, within.schedule.joined) == (3, "votes")
    assert (within.epochs, within.segmenter.epochs, within.backbone) == (3, 1, "test_resnet")


def test_the_animal_alone_is_seen_in_cycles_that_vote_in_every_training(salt_trial: Trial) -> None:
    learned = salt_trial.learn(salt_trial.views)
    (method,), test = learned.method.cycles, learned.views.queries()["test"]
    assert isinstance(method, Salt4th)
    assert set(method.models) == {"half_a", "half_b"}
    for each in (method.first, *method.models.values()):
        assert each.crop is not None
        seen = each.crop.see(test)
        assert isinstance(seen.lens, Crop)
        assert seen.lens.background == "removed"
        assert np.array_equal(each.score(test), voted([member.score(seen) for member in each.cycles]))
    assert {"segmenter", "network", "half_a.network", "half_b.segmenter"} <= set(learned.harness.lineage)
