"""The spatial transformer: the whole photo at first, windows it can be taught, and gradients through them."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from whalebench import WhalebenchError
from whalebench.benchmarks.core.photos import CPU, Batch, Photos
from whalebench.benchmarks.core.progress import SILENT
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.importing.importer import import_csv
from whalebench.benchmarks.registry import load_benchmark
from whalebench.benchmarks.running.folds import Views, fold_views
from whalebench.benchmarks.running.harness import RunHarness
from whalebench.methods.parts.crops.aligner import Aligner, AlignerConfig
from whalebench.methods.parts.crops.localizer import Localizer, LocalizerConfig
from whalebench.methods.parts.geometry import CORNERS, invert, transform_corners, warp
from whalebench.methods.parts.training.trainer import build_optimizer
from whalebench.methods.registry import configure
from whalebench.methods.stn import (
    SpatialTransformer,
    Stn,
    TransformerConfig,
    WindowNetwork,
    WindowRegression,
    annotated_windows,
    learn_windows,
)
from whalebench.tests.notes import Notes

SMALL = TransformerConfig(backbone="test_resnet", size=(32, 32), epochs=1, batch_size=8)
SETTINGS = (
    *("backbone=test_resnet", "size=32", "epochs=1", "batch_size=8"),
    *("transformer.backbone=test_resnet", "transformer.size=32", "transformer.epochs=1"),
    "transformer.batch_size=8",
)
PLACES = "tip:0.2,0.5 end:0.8,0.5 low:0.5,0.9"
IN_ORDER = ((0.8, 0.5), (0.5, 0.9), (0.2, 0.5))
"""The same as the catalog has the landmarks: by name."""
POINTS = (*SETTINGS, "start=landmarks", f"aligner.reference={PLACES}", "aligner.inside=0.3")


@pytest.fixture(scope="module")
def views(shared_tiny: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Views:
    """The photos of `tiny` with three landmarks instead of one, all of them on most photos."""
    source = tmp_path_factory.mktemp("points") / "source"
    shutil.copytree(shared_tiny.root.parent / "source", source)
    table = pd.read_csv(source / "table.csv", dtype=str, keep_default_na=False)
    x, y = table["tip_x"].astype(int), table["tip_y"].astype(int)
    table["end_x"], table["end_y"] = (x + 12).astype(str), (y + 1).astype(str)
    table["low_x"], table["low_y"] = (x + 5).astype(str), (y + 9).astype(str)
    table.loc[table.index % 4 == 0, ["low_x", "low_y"]] = ""
    table.loc[table.index % 6 == 0, ["x0", "y0", "x1", "y1"]] = ""
    table.to_csv(source / "table.csv", index=False)
    workspace = Workspace.open(source.parent / "workspace")
    import_csv(source / "table.csv", "points", workspace)
    return fold_views(load_benchmark("points", workspace, propose=True), 0)


def harness(views: Views, seed: int = 0) -> RunHarness:
    made = RunHarness(seed, CPU, views, SILENT)
    made.seed_everything()
    return made


def learned(views: Views, *settings: str, seed: int = 0) -> tuple[Stn, RunHarness]:
    made = harness(views, seed)
    method = Stn(configure(Stn, settings))
    method.learn(views.train, views.valid, made)
    return method, made


def some_maps(photos: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.eye(2, 3) + 0.4 * (torch.rand(photos, 2, 3, generator=generator) - 0.5)


def test_at_first_the_window_is_the_whole_photo() -> None:
    transformer = SpatialTransformer(SMALL, source=(64, 96), size=(32, 48)).eval()
    pixels = torch.rand(3, 3, 64, 96)
    with torch.inference_mode():
        assert torch.equal(transformer.matrices(pixels), torch.eye(2, 3).repeat(3, 1, 1))
        assert torch.allclose(transformer(pixels), F.avg_pool2d(pixels, 2), atol=1e-5)
        smaller = transformer(pixels[:, :, :32, :48])
    assert smaller.shape == (3, 3, 16, 24)


def test_the_window_is_what_a_crop_by_the_same_map_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    maps, pixels = some_maps(3), torch.rand(3, 3, 64, 96)
    transformer = SpatialTransformer(SMALL, source=(64, 96), size=(32, 48))
    monkeypatch.setattr(WindowNetwork, "forward", lambda network, seen: maps)
    cut = warp(Batch(pixels), invert(maps), (32, 48)).pixels
    assert torch.allclose(transformer(pixels), cut, atol=1e-4)


def test_the_loss_behind_the_window_moves_it() -> None:
    transformer = SpatialTransformer(SMALL, source=(64, 64), size=(32, 32))
    pixels = torch.rand(2, 3, 64, 64)
    target = warp(Batch(pixels), invert(some_maps(2)), (32, 32)).pixels
    F.mse_loss(transformer(pixels), target).backward()
    gradient = transformer.choice.votes.weight.grad
    assert gradient is not None
    assert bool(gradient.isfinite().all())
    assert bool(gradient.any())


def test_windows_stay_finite_whatever_the_network_answers() -> None:
    network = WindowNetwork(SMALL).eval()
    for parameter in network.votes.parameters():
        nn.init.normal_(parameter, std=1e6)
    with torch.inference_mode():
        maps = network(torch.rand(4, 3, 32, 32))
    assert bool(maps.isfinite().all())
    assert float(maps.abs().max()) <= 5  # anchors at most 2 from their places, which are 1 apart


def test_the_loss_is_the_distance_of_corners() -> None:
    maps = some_maps(2)
    corners = transform_corners(maps)
    assert float(WindowRegression()(maps, corners)) == 0
    # Beyond 0.1 smooth-L1 with beta 0.1 is the distance less 0.05.
    assert float(WindowRegression()(maps, corners + 0.4)) == pytest.approx(0.35)


def test_annotated_windows_are_those_of_the_aligner(views: Views) -> None:
    config = AlignerConfig(reference=PLACES, inside=0.0)
    shown = annotated_windows(Aligner(config), views.train)
    assert 0 < len(shown) < len(views.train)
    assert shown.annotations is not None
    assert views.train.annotations is not None
    corners = torch.from_numpy(shown.annotations.landmarks[shown.rows]).double()
    landmarks = views.train.annotations.landmarks[shown.rows]
    assert bool(corners.isfinite().all())
    assert np.isfinite(landmarks).all()
    # A landmark's place in the window, carried to the photo by the corners, is the landmark.
    first, right, _, below = corners.unbind(1)
    for place, found in zip(IN_ORDER, landmarks.swapaxes(0, 1), strict=True):
        there = first + place[0] * (right - first) + place[1] * (below - first)
        assert np.allclose(there, found, atol=1e-5)
    missing = np.isnan(views.train.annotations.landmarks[views.train.rows]).any(axis=(1, 2))
    assert len(shown) == (~missing).sum()


def test_annotated_windows_are_those_of_the_localizer(views: Views) -> None:
    shown = annotated_windows(Localizer(LocalizerConfig(margin=0.0)), views.train)
    assert shown.annotations is not None
    assert 0 < len(shown) < len(views.train)
    boxes, corners = (getattr(shown.annotations, kind)[shown.rows] for kind in ("boxes", "landmarks"))
    assert np.allclose(corners[:, 0], boxes[:, :2], atol=1e-5)
    assert np.allclose(corners[:, 2], boxes[:, 2:], atol=1e-5)


def test_a_network_learns_where_windows_are() -> None:
    """Dark photos with a bright patch: the window taught is the patch's."""
    rng = np.random.default_rng(0)
    config = SMALL.model_copy(update={"epochs": 12, "augment": "none", "learning_rate": 1e-2})
    low = rng.integers(0, 16, (64, 2))
    corners = (low[:, None] + np.array([[0, 0], [12, 0], [12, 12], [0, 12]])) / 32
    pixels = torch.zeros(64, 3, 32, 32)
    for photo, (x, y) in enumerate(low):
        pixels[photo, :, y : y + 12, x : x + 12] = 1.0

    class Patches(Photos):
        """Drawn here instead of read."""

        def batch(self, indices, size, device=CPU):  # type: ignore[no-untyped-def]
            chosen = torch.as_tensor(np.asarray(indices))
            return Batch(pixels[chosen], landmarks=32 * torch.from_numpy(corners)[chosen].float())

    names = tuple(map(str, range(64)))
    photos = Patches(names, names, (), None, np.arange(64), np.full((64, 2), 32))  # type: ignore[arg-type]
    torch.manual_seed(0)
    notes = Notes()
    network = learn_windows(config, photos, notes)
    assert notes.lineage.keys() == {"transformer"}
    wanted = torch.from_numpy(2 * corners - 1).float()
    with torch.inference_mode():
        found = transform_corners(network(pixels))
    whole = (torch.tensor(CORNERS) - wanted).norm(dim=2).mean()
    assert float((found - wanted).norm(dim=2).mean()) < 0.25 * float(whole)


@pytest.mark.parametrize(
    ("settings", "artefacts"),
    [
        (SETTINGS, {"network"}),
        (POINTS, {"transformer", "network"}),
        ((*SETTINGS, "start=boxes"), {"transformer", "network"}),
    ],
    ids=["free", "landmarks", "boxes"],
)
def test_it_learns_scores_and_comes_back(
    settings: tuple[str, ...], artefacts: set[str], views: Views
) -> None:
    method, made = learned(views, *settings)
    assert set(made.lineage) == artefacts
    scores = method.score(views.test)
    assert scores.shape == (len(views.test), len(views.train.identities))
    assert np.allclose(np.exp(scores).sum(axis=1), 1, atol=1e-5)
    assert len(np.unique(scores, axis=0)) > 1
    assert np.array_equal(scores, learned(views, *settings)[0].score(views.test))
    assert np.allclose(scores[:1], method.score(views.test.select([0])), atol=1e-5)
    back = Stn(method.config)
    back.restore(method.weights(), views.train.identities, CPU)
    assert np.array_equal(back.score(views.test), scores)
    located, again = method.locate(views.test), back.locate(views.test)
    if "start=landmarks" in settings:
        assert located is not None
        assert again is not None
        assert located.landmarks is not None
        assert np.array_equal(located.landmarks, again.landmarks)
        assert located.landmarks.shape == (len(views.test), 3, 2)
    else:
        assert located is again is None


def test_landmarks_are_their_places_in_the_window(views: Views, monkeypatch: pytest.MonkeyPatch) -> None:
    method, _ = learned(views, *POINTS, "epochs=0", "transformer.epochs=0")
    whole = method.locate(views.test)
    assert whole is not None
    assert whole.landmarks is not None
    assert np.allclose(whole.landmarks[0], IN_ORDER, atol=1e-6)
    # A window of the right half: half as wide, and everything one half further to the right.
    right = torch.tensor([[0.5, 0.0, 0.5], [0.0, 1.0, 0.0]])
    monkeypatch.setattr(WindowNetwork, "forward", lambda network, seen: right.repeat(len(seen), 1, 1))
    half = method.locate(views.test)
    assert half is not None
    assert half.landmarks is not None
    assert np.allclose(half.landmarks[0], [[0.9, 0.5], [0.75, 0.9], [0.6, 0.5]], atol=1e-6)


def test_the_classifier_starts_from_the_taught_transformer(views: Views) -> None:
    taught, _ = learned(views, *POINTS, "epochs=0")
    before, after = taught.taught, taught.network.transformer.choice.state_dict()
    assert before is not None
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert bool(after["votes.weight"].any())
    joint, _ = learned(views, *POINTS)
    assert not torch.equal(
        joint.network.transformer.choice.state_dict()["votes.weight"], after["votes.weight"]
    )
    held, _ = learned(views, *POINTS, "transformer_rate=0")
    assert torch.equal(held.network.transformer.choice.votes.weight, after["votes.weight"])


def test_the_transformer_learns_at_its_own_rate() -> None:
    config = configure(Stn, (*SETTINGS, "transformer_rate=0.05", "learning_rate=0.002", "head_rate=3"))
    network, loss = Stn(config)._build(config, 3)
    both = nn.ModuleList([network, loss])
    optimizer, schedule = build_optimizer(both, config, 10)
    rate_of = {
        id(parameter): rate
        for group, rate in zip(optimizer.param_groups, schedule.base_lrs, strict=True)
        for parameter in group["params"]
    }
    for name, parameter in both.named_parameters():
        wanted = 0.05 if "transformer" in name else 1.0 if "backbone" in name else 3.0
        assert rate_of[id(parameter)] == pytest.approx(0.002 * wanted), name


def test_whole_photos_come_in_larger_than_windows() -> None:
    plain = Stn(configure(Stn, ("size=32x48",)))
    assert plain.sizes() == ((64, 96),)
    assert plain.config.size_at(0) == (64, 96)
    stepped = Stn(configure(Stn, ("size=32x48", "crop_source=96x96", "small_size=16x32", "small_epochs=3")))
    assert stepped.sizes() == ((48, 64), (96, 96))
    taught = Stn(configure(Stn, ("size=32x48", "start=boxes", "transformer.size=40")))
    assert taught.sizes() == ((64, 96), (40, 40))


def test_contradictions_are_refused() -> None:
    for crop in ("box", "mask", "aligned"):
        with pytest.raises(WhalebenchError, match=f"crop={crop} would crop twice"):
            configure(Stn, (f"crop={crop}",))
    with pytest.raises(WhalebenchError, match="oracle=true has nothing to crop by"):
        configure(Stn, ("oracle=true",))
    with pytest.raises(WhalebenchError, match="start"):
        configure(Stn, ("start=masks",))


def test_a_start_that_nobody_annotated_is_answered(views: Views, shared_tiny: Workspace) -> None:
    said = views.train.annotations
    assert said is not None
    silent = replace(said, boxes=np.nan * said.boxes, landmarks=np.nan * said.landmarks)
    bare = replace(views.train, annotations=silent)
    for start, missing in (("free", ""), ("boxes", "boxes"), ("landmarks", "landmarks")):
        method = Stn(configure(Stn, (*POINTS, f"start={start}")))
        assert method.missing_requirement(views.train, views.test) == ""
        assert method.missing_requirement(bare, views.test) == missing
    # One landmark says where, but neither how large nor how turned.
    tiny = fold_views(load_benchmark("tiny", shared_tiny, propose=True), 0)
    one = Stn(configure(Stn, ("start=landmarks",)))
    assert one.missing_requirement(tiny.train, tiny.test) == "landmarks that give a window"
