"""The segmenter: its losses, its network on any encoder, masks and their boxes, and a method behind it."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from whalebench import WhalebenchError
from whalebench.benchmarks.core.masks import mask_iou, mask_precision
from whalebench.benchmarks.core.photos import Batch, Photos
from whalebench.benchmarks.core.progress import SILENT
from whalebench.benchmarks.core.record import read_scores
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.importing.importer import import_csv
from whalebench.benchmarks.predicting.predict import predict
from whalebench.benchmarks.registry import Benchmark, load_benchmark
from whalebench.benchmarks.running.folds import Views, fold_views, open_fold
from whalebench.benchmarks.running.harness import RunHarness
from whalebench.benchmarks.running.location import box_iou, evaluate_location
from whalebench.benchmarks.running.runner import RunRequest, run
from whalebench.benchmarks.tuning.finding import find_rates
from whalebench.benchmarks.tuning.tuner import TrialRun
from whalebench.methods.mask import Mask
from whalebench.methods.method import Located, tensor_text
from whalebench.methods.parts.bagging import build_method
from whalebench.methods.parts.crops.mask_network import (
    LEVELS,
    MaskLoss,
    MaskNetwork,
    SpatialAndChannelExcitation,
    dice_loss,
    jaccard_steps,
    lovasz_hinge,
)
from whalebench.methods.parts.crops.segmenter import (
    Segmenter,
    SegmenterConfig,
    best_threshold,
    mask_boxes,
    tidied,
)
from whalebench.methods.parts.networks.backbones import build_encoder
from whalebench.methods.parts.pipeline import Pipeline
from whalebench.methods.parts.training.pseudo_labels import PseudoMasks, pseudo_label_sampler
from whalebench.methods.parts.training.samplers import Shuffled
from whalebench.methods.registry import configure, find_method
from whalebench.tests.notes import Notes

HEIGHT, WIDTH, INDIVIDUALS, ENCOUNTERS, UNMASKED = 48, 64, 5, 7, 7
SIZE = (48, 64)
QUICK = SegmenterConfig(size=SIZE, epochs=10, batch_size=8, augment="light")


def jaccard_loss(wrong: set[int], animal: set[int]) -> float:
    """One minus the IoU of an animal and what is found of it when these pixels are wrong."""
    return len(wrong) / len(animal | wrong) if animal | wrong else 0.0


def slow_lovasz_hinge(logits: list[float], truth: list[int]) -> float:
    """The Lovász extension by its definition: pixels become wrong one by one, the worst error first."""
    errors = [1 - logit * (1 if said else -1) for logit, said in zip(logits, truth, strict=True)]
    animal = {place for place, said in enumerate(truth) if said}
    total, wrong = 0.0, set[int]()
    for place in sorted(range(len(errors)), key=lambda place: -errors[place]):
        before = jaccard_loss(wrong, animal)
        wrong.add(place)
        total += max(errors[place], 0.0) * (jaccard_loss(wrong, animal) - before)
    return total


@pytest.mark.parametrize("seed", range(5))
def test_the_loss_is_the_mean_of_the_plain_loop_over_photos(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(4, 1, 5, 7, generator=rng)
    masks = (torch.rand(4, 1, 5, 7, generator=rng) < 0.1 * (seed + 1)).float()
    masks[0] = 0  # a photo without animal
    slow = [
        slow_lovasz_hinge(one.flatten().tolist(), truth.flatten().int().tolist())
        for one, truth in zip(logits, masks, strict=True)
    ]
    assert lovasz_hinge(logits, masks).item() == pytest.approx(sum(slow) / len(slow), rel=1e-5)


def test_where_every_error_is_0_or_1_the_loss_is_the_jaccard_loss_of_the_wrong_pixels() -> None:
    for truth, wrong in product(product((0, 1), repeat=4), repeat=2):
        animal = {place for place, said in enumerate(truth) if said}
        mistaken = {place for place, said in enumerate(wrong) if said}
        # A right logit has error 0 at 1 or -1, an undecided one has error 1.
        logits = [0.0 if place in mistaken else 2.0 * said - 1.0 for place, said in enumerate(truth)]
        loss = lovasz_hinge(torch.tensor([logits]), torch.tensor([truth]).float())
        assert loss.item() == pytest.approx(jaccard_loss(mistaken, animal), abs=1e-6)


def test_values_worked_out_by_hand() -> None:
    animal = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    # Errors 0.5 (animal), then -1 and less: half of the Jaccard step of losing one of two pixels.
    assert lovasz_hinge(torch.tensor([[0.5, 2.0, -2.0, -2.0]]), animal).item() == pytest.approx(0.25)
    # Errors 3 (sea; step 1/3) and 2 (animal; from 1/3 to 2/3).
    assert lovasz_hinge(torch.tensor([[-1.0, 2.0, 2.0, -2.0]]), animal).item() == pytest.approx(5 / 3)
    # Without animal one wrong pixel is everything: the worst error counts, the second adds nothing.
    assert lovasz_hinge(torch.tensor([[0.5, 0.2]]), torch.zeros(1, 2)).item() == pytest.approx(1.5)
    assert jaccard_steps(torch.tensor([[0.0, 1.0, 1.0]])).tolist() == [pytest.approx([1 / 3, 1 / 3, 1 / 3])]


def test_a_right_answer_costs_nothing_and_pulls_nowhere() -> None:
    masks = torch.tensor([[1.0, 0.0, 0.6, 0.4]])  # half is the border between animal and not
    logits = torch.tensor([[1.5, -1.5, 3.0, -3.0]], requires_grad=True)
    loss = lovasz_hinge(logits, masks)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_the_gradient_leads_to_the_mask() -> None:
    masks = (torch.rand(2, 1, 6, 8, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    logits = torch.zeros_like(masks, requires_grad=True)
    for _ in range(60):
        (gradient,) = torch.autograd.grad(lovasz_hinge(logits, masks), logits)
        logits.data -= 5 * gradient
    assert torch.equal((logits > 0).float(), masks)


def test_dice_by_hand() -> None:
    logits, masks = torch.tensor([[50.0, 50.0, -50.0]]), torch.tensor([[1.0, 0.0, 1.0]])
    assert dice_loss(logits, masks).item() == pytest.approx(1 - (2 * 1 + 1) / (2 + 2 + 1))
    assert dice_loss(logits, torch.tensor([[1.0, 1.0, 0.0]])).item() == pytest.approx(0)


def test_the_levels_count_half_and_see_the_mask_at_their_own_resolution() -> None:
    masks = torch.zeros(1, 1, 4, 4)
    masks[..., :2] = 1
    right, wrong = 4 * masks - 2, 2 - 4 * masks
    coarse = torch.tensor([[[[2.0, -2.0], [2.0, -2.0]]]])  # right as well, at half the resolution
    loss = MaskLoss()
    loss.warming_up = False
    assert loss([right, coarse], masks).item() == 0
    assert loss([right, coarse, wrong], masks).item() == pytest.approx(
        LEVELS * lovasz_hinge(wrong, masks).item() / 2
    )
    assert loss([wrong], masks).item() == pytest.approx(lovasz_hinge(wrong, masks).item())


def test_the_warm_up_is_smooth_where_the_hinge_is_flat() -> None:
    masks = torch.ones(1, 1, 2, 2)
    logits = torch.full((1, 1, 2, 2), 2.0, requires_grad=True)
    loss = MaskLoss()
    loss([logits], masks).backward()
    assert logits.grad is not None
    assert bool((logits.grad < 0).all())


def draw(folder: Path) -> Path:
    """A table of photos of a bright ellipse on dark noise, all but the first few with its mask."""
    rng = np.random.default_rng(3)
    down, across = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    rows = []
    for number in range(INDIVIDUALS * ENCOUNTERS):
        y, x, tall, wide = (rng.uniform(*ends) for ends in ((16, 32), (20, 44), (7, 12), (9, 16)))
        inside = ((down - y) / tall) ** 2 + ((across - x) / wide) ** 2 < 1
        colour = np.array([120, 160, 200]) + 10 * (number % INDIVIDUALS)
        pixels = np.where(inside[..., None], colour, 60) + rng.normal(0, 25, (HEIGHT, WIDTH, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
        Image.fromarray((255 * inside).astype(np.uint8)).save(folder / f"{number}-mask.png")
        mask = "" if number < UNMASKED else f"{number}-mask.png"
        rows.append([str(number), f"{number}.png", f"w{number % INDIVIDUALS}", str(number), mask])
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "path", "identity", "encounter", "mask"], *rows])
    return folder / "table.csv"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    folder = tmp_path_factory.mktemp("masked")
    workspace = Workspace.open(folder / "workspace")
    import_csv(draw(folder), "masked", workspace)
    return workspace


@pytest.fixture(scope="module")
def benchmark(place: Workspace) -> Benchmark:
    return load_benchmark("masked", place, propose=True)


@pytest.fixture(scope="module")
def views(benchmark: Benchmark) -> Views:
    return fold_views(benchmark, 0)


@pytest.fixture(scope="module")
def masked(benchmark: Benchmark) -> list[bool]:
    """Whether each photo of train has a mask."""
    return [int(image) >= UNMASKED for image in benchmark.split.parts(0).train]


@pytest.fixture(scope="module")
def learned(views: Views) -> Segmenter:
    torch.manual_seed(0)
    segmenter = Segmenter(QUICK)
    masked = np.flatnonzero(segmenter.annotated(views.train))
    segmenter.learn(views.train.select(masked), Notes())
    return segmenter


def pixels(photos: int = 2, size: tuple[int, int] = SIZE) -> torch.Tensor:
    return torch.rand(photos, 3, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "size", "levels"),
    [
        ("narrow_resnet10", (70, 90), 4),
        ("test_resnet", (70, 90), 5),
        ("test_efficientnet", (70, 90), 5),
        ("test_vit", (64, 96), 1),  # all its blocks have one resolution
    ],
)
def test_any_encoder_answers_for_every_pixel_and_learns_throughout(
    name: str, size: tuple[int, int], levels: int
) -> None:
    network = MaskNetwork(build_encoder(name, "none", size), width=4, dropout=0.5)
    outputs = network(pixels(size=size))
    assert len(outputs) == 1 + levels
    areas = [output[0].numel() for output in outputs[1:]]
    assert areas == sorted(areas)
    MaskLoss()(outputs, torch.ones(2, 1, *size)).backward()
    assert all(
        p.grad is not None and bool(p.grad.isfinite().all())
        for key, p in network.named_parameters()
        if not key.startswith("encoder")
    )
    touched = [p.grad is not None and bool(p.grad.any()) for p in network.encoder.parameters()]
    assert touched[0]
    network.eval()
    with torch.inference_mode():
        (found,) = network(pixels(size=size))
    assert found.shape == (2, 1, *size)
    assert found.std() > 0


def test_excitation_weighs_by_channel_and_by_place() -> None:
    excitation = SpatialAndChannelExcitation(4)
    features = torch.rand(2, 4, 3, 5)
    for parameter in excitation.parameters():
        torch.nn.init.zeros_(parameter)
    assert torch.allclose(excitation(features), features)  # 0.5 + 0.5
    last = excitation.by_channel[3]
    assert isinstance(last, torch.nn.Conv2d)
    with torch.no_grad():
        last.bias.copy_(torch.tensor([100.0, -100.0, 0.0, 0.0]))  # type: ignore[union-attr]
    factors = (excitation(features) / features).amax(dim=(0, 2, 3))
    assert factors.tolist() == pytest.approx([1.5, 0.5, 1.0, 1.0])


def test_it_finds_masks_and_boxes_in_photos_never_seen(
    learned: Segmenter, views: Views, benchmark: Benchmark
) -> None:
    located = learned.locate(views.test.bare())
    assert located.masks is not None
    assert located.boxes is not None
    assert located.masks.shape == (len(views.test), *SIZE)
    assert 0 <= located.masks.min() < located.masks.max() <= 1
    annotated = open_fold(benchmark, 0).annotated["test"]
    judged = evaluate_location(located, annotated)
    assert judged["mask_iou"].mean() > 0.7
    exceeded = [[iou > step / 20 for step in range(10, 20)] for iou in judged["mask_iou"].dropna()]
    assert judged["mask_precision"].dropna().tolist() == [sum(each) / 10 for each in exceeded]
    assert judged["mask_precision"].isna().equals(judged["mask_iou"].isna())
    truth = learned.read(annotated).boxes
    assert truth is not None
    assert np.nanmean(box_iou(located.boxes, truth)) > 0.7


@pytest.mark.parametrize(("share", "expected"), [(0.5, [True, True, False, False]), (0.0, [False] * 4)])
def test_the_hinge_takes_over_after_its_share_of_the_training(
    share: float, expected: list[bool], views: Views, monkeypatch: pytest.MonkeyPatch
) -> None:
    warm = []
    forward = MaskLoss.forward

    def noted(loss: MaskLoss, outputs: Sequence[torch.Tensor], masks: torch.Tensor) -> torch.Tensor:
        warm.append(loss.warming_up)
        return forward(loss, outputs, masks)

    monkeypatch.setattr(MaskLoss, "forward", noted)
    segmenter = Segmenter(QUICK.model_copy(update={"epochs": 2, "lovasz_from": share}))
    masked = np.flatnonzero(segmenter.annotated(views.train))[:16]
    segmenter.learn(views.train.select(masked), Notes())
    assert warm == expected


def test_a_restored_segmenter_finds_the_same(learned: Segmenter, views: Views) -> None:
    again = Segmenter(QUICK)
    again.load_state_dict(learned.state_dict())
    found, expected = again.locate(views.valid.bare()), learned.locate(views.valid.bare())
    assert np.array_equal(found.masks, expected.masks)  # type: ignore[arg-type]


def test_reading_gives_the_annotated_masks_and_says_where_there_are_none(
    views: Views, masked: list[bool]
) -> None:
    segmenter = Segmenter(QUICK)
    photos = views.train
    annotated = segmenter.annotated(photos)
    assert annotated.tolist() == masked
    assert 0 < annotated.sum() < len(photos)
    located = segmenter.read(photos)
    assert located.masks is not None
    assert located.boxes is not None
    assert np.isnan(located.masks[~annotated]).all()
    assert np.isnan(located.boxes[~annotated]).all()
    place = int(np.flatnonzero(annotated)[0])
    drawn = photos.store.read_masks(photos.rows[[place]], (HEIGHT, WIDTH))[0] > 127
    assert np.array_equal(located.masks[place] >= 0.5, drawn)
    down, across = np.flatnonzero(drawn.any(1)), np.flatnonzero(drawn.any(0))
    sides = [across[0] / WIDTH, down[0] / HEIGHT, (across[-1] + 1) / WIDTH, (down[-1] + 1) / HEIGHT]
    assert located.boxes[place].tolist() == pytest.approx(sides)


def test_hidden_masks_cannot_be_read(views: Views) -> None:
    with pytest.raises(ValueError, match="hidden"):
        Segmenter(QUICK).read(views.test)


def test_a_box_goes_round_the_largest_part() -> None:
    masks = np.zeros((3, 10, 20), np.float32)
    masks[0, 2:5, 4:9] = 0.9
    masks[0, 8, 18:20] = 1.0  # a splash
    masks[1, 3, 3] = 0.4  # not enough to be anything
    masks[2] = 1.0
    boxes = mask_boxes(masks)
    assert boxes[0].tolist() == pytest.approx([0.2, 0.2, 0.45, 0.5])
    assert np.isnan(boxes[1]).all()
    assert boxes[2].tolist() == [0, 0, 1, 1]


def test_windows_have_their_margin_and_fall_back_where_nothing_is_found(views: Views) -> None:
    segmenter = Segmenter(SegmenterConfig(margin=0.25, smallest=0.1))
    boxes = np.array([[0.25, 0.5, 0.75, 1.0], [np.nan] * 4, [0.4, 0.4, 0.45, 0.9]], np.float32)
    windows = segmenter.windows(Located(boxes=boxes), views.train.select(range(3)))
    assert windows.fallback.tolist() == [False, True, True]
    eye = torch.eye(2, 3, dtype=torch.float64)
    assert torch.equal(windows.matrices[1:], eye.expand(2, 2, 3))
    # The box in frame units is (-0.5, 0) to (0.5, 1); widened by a quarter it is 1.5 wide and high.
    ends = torch.tensor([[-0.75, -0.25, 1.0], [0.75, 1.25, 1.0]], dtype=torch.float64)
    moved = ends @ windows.matrices[0].T
    assert moved.tolist() == [pytest.approx([-1, -1]), pytest.approx([1, 1])]


def built(settings: Sequence[str]) -> Pipeline:
    torch.manual_seed(0)
    small = ("size=32", "epochs=1", "batch_size=8", "segmenter.size=48x64", "segmenter.epochs=1")
    return build_method(Mask, configure(Mask, (*small, "segmenter.batch_size=8", *settings)))


@pytest.mark.parametrize("settings", [(), ("segmenter.channel=true", "segmenter.background=blurred")])
def test_the_method_learns_from_masks_of_train_and_comes_back_the_same(
    settings: Sequence[str], views: Views, masked: list[bool]
) -> None:
    method, notes = built(settings), Notes()
    assert method.missing_requirement(views.train, views.test) == ""
    method.learn(views.train, views.valid, notes)
    assert notes.stages[:2] == ["segmenter", "crop"]
    assert notes.fitted_on["segmenter"] == views.train.select(np.flatnonzero(masked)).images
    assert set(notes.fitted_on["network"]) == set(views.train.images)
    scores = method.score(views.test)
    assert scores.shape == (len(views.test), INDIVIDUALS)
    again = built(settings)
    again.restore(method.weights(), views.train.identities, torch.device("cpu"))
    assert np.array_equal(again.score(views.test), scores)


def shown(settings: Sequence[str], photos: Photos, located: Located) -> torch.Tensor:
    """What the method would see of photos if its segmenter found this."""
    crop = built(settings).crop
    assert crop is not None
    cropped, _ = crop.cut(photos, located)
    seen: torch.Tensor = cropped.batch(range(len(photos)), SIZE).pixels
    return seen


def test_background_goes_and_the_animal_stays(views: Views) -> None:
    masked = views.train.select(np.flatnonzero(Segmenter(QUICK).annotated(views.train))[:4])
    read = Segmenter(QUICK).read(masked)
    kept = shown(("segmenter.channel=true",), masked, read)
    removed = shown(("segmenter.channel=true", "segmenter.background=removed"), masked, read)
    inside, outside = kept[:, 3:] > 0.99, kept[:, 3:] < 0.01
    assert 0.2 < inside.float().mean() < 0.9  # the window is about the ellipse
    assert torch.allclose((kept[:, :3] * inside), removed[:, :3] * inside, atol=0.02)
    for was, now, sea in zip(kept[:, 0], removed[:, 0], outside[:, 0], strict=True):
        assert now[sea].std() < 1e-3 < 0.02 < was[sea].std()  # one colour, where the photo was noise


def test_where_nothing_is_found_the_whole_photo_is_seen(views: Views) -> None:
    photos = views.train.select([0, 1])
    nothing = Located(boxes=np.full((2, 4), np.nan, np.float32), masks=np.zeros((2, *SIZE), np.float32))
    seen = shown(("segmenter.background=removed", "crop_source=48x64"), photos, nothing)
    assert torch.allclose(seen, photos.batch([0, 1], SIZE).pixels, atol=1e-5)


def test_a_benchmark_without_masks_does_not_fit(shared_tiny: Workspace) -> None:
    tiny = fold_views(load_benchmark("tiny", shared_tiny, propose=True), 0)
    assert built(()).missing_requirement(tiny.train, tiny.test) == "masks"


VOTING = SegmenterConfig(
    size=SIZE,
    epochs=4,
    batch_size=8,
    augment="light",
    backbone="narrow_resnet10+test_resnet",
    cycles=2,
    bags=2,
    lovasz_from=0.25,
)


@pytest.fixture(scope="module")
def voting(views: Views) -> tuple[Segmenter, RunHarness]:
    """Two encoders, two inner folds and two cycles each."""
    torch.manual_seed(0)
    segmenter, harness = Segmenter(VOTING), RunHarness(0, torch.device("cpu"), views, SILENT)
    masked = np.flatnonzero(segmenter.annotated(views.train))
    segmenter.learn(views.train.select(masked), harness, views.valid)
    return segmenter, harness


def test_rates_are_tried_once_an_encoder_and_are_the_segmenters(
    place: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("whalebench.benchmarks.tuning.finding.STEPS", 4)
    several = ("backbone=narrow_resnet10+test_resnet", "cycles=2", "bags=2", "epochs=4", "size=32")
    settings = ("size=32", "backbone=test_resnet", *(f"segmenter.{one}" for one in several))
    made = find_rates(RunRequest("mask", "masked", settings=settings, device="cpu"), place)
    assert [(test.part, test.setting) for test in made.tests] == [
        ("network_1.segmenter", "segmenter.learning_rate"),
        ("network_2.segmenter", "segmenter.learning_rate"),
        ("network", "learning_rate"),
    ]


def test_every_encoder_inner_fold_and_cycle_leaves_a_network_and_a_threshold(
    voting: tuple[Segmenter, RunHarness], views: Views
) -> None:
    segmenter, harness = voting
    assert VOTING.networks() == 8 and len(list(segmenter.network.children())) == 8
    names = [f"network_{n}.bag_{b}" for n, b in product((1, 2), repeat=2)]
    thresholds = [harness.chosen[f"{name}.cycle_{c}.segmenter_threshold"] for name in names for c in (1, 2)]
    assert segmenter.constants["thresholds"].tolist() == pytest.approx(thresholds)
    digests = dict(zip(views.train.images, views.train.digests, strict=True))
    for name in names:
        held = {digests[image] for image, bag in views.inner_folds(2).items() if bag == int(name[-1]) - 1}
        learned = set(harness.lineage[f"{name}.segmenter"])
        assert learned and held and not held & learned


def test_the_masks_are_votes_and_a_tie_is_animal(voting: tuple[Segmenter, RunHarness], views: Views) -> None:
    segmenter, _ = voting
    photos = views.test.bare()
    masks = segmenter.locate(photos).masks
    assert masks is not None
    thresholds = segmenter.constants["thresholds"].tolist()
    seen = photos.batch(range(len(photos)), SIZE).pixels
    with torch.inference_mode():
        each = [network(seen)[0][:, 0].numpy() for network in segmenter.network.children()]
    votes = sum((one >= threshold).astype(int) for one, threshold in zip(each, thresholds, strict=True))
    assert {0, 4, 8} <= set(np.unique(votes).tolist())
    assert np.array_equal(masks, (votes / 8).astype(np.float32))
    assert np.array_equal(masks >= 0.5, votes >= 4)
    again = Segmenter(VOTING)
    again.load_state_dict(segmenter.state_dict())
    assert np.array_equal(again.locate(photos).masks, masks)  # type: ignore[arg-type]


def test_the_warm_up_is_a_share_of_all_cycles(views: Views, monkeypatch: pytest.MonkeyPatch) -> None:
    warm, forward = [], MaskLoss.forward

    def noted(loss: MaskLoss, outputs: Sequence[torch.Tensor], masks: torch.Tensor) -> torch.Tensor:
        warm.append(loss.warming_up)
        return forward(loss, outputs, masks)

    monkeypatch.setattr(MaskLoss, "forward", noted)
    changed = {"epochs": 3, "cycles": 2, "lovasz_from": 0.5, "batch_size": 16}
    segmenter, notes = Segmenter(QUICK.model_copy(update=changed)), Notes()
    masked = np.flatnonzero(segmenter.annotated(views.train))[:16]
    segmenter.learn(views.train.select(masked), notes)
    assert warm == [True, True, False]  # of two epochs and one
    assert notes.stages == ["cycle_1.segmenter", "cycle_2.segmenter"]
    assert notes.chosen["cycle_2.segmenter_threshold"] == 0  # nothing to choose it by
    assert [epoch.number for epoch in notes.epochs] == [1, 2, 1]


def test_a_cycle_goes_on_where_the_one_before_ended(views: Views) -> None:
    changed = {"epochs": 2, "cycles": 2, "learning_rate": 1e-12, "ema": 0.0}  # it stays where it begins
    segmenter = Segmenter(QUICK.model_copy(update=changed))
    masked = np.flatnonzero(segmenter.annotated(views.train))[:16]
    segmenter.learn(views.train.select(masked), Notes())
    first, second = (dict(network.named_parameters()) for network in segmenter.network.children())
    assert all(torch.allclose(first[name], second[name], atol=1e-6) for name in first)


def slow_precision(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """The competition's measure of one photo by its words."""
    if not found.any() and not truth.any():
        return 1.0
    shared = sum(bool(one and other) for one, other in zip(found.flat, truth.flat, strict=True))
    united = sum(bool(one or other) for one, other in zip(found.flat, truth.flat, strict=True))
    return sum(Fraction(shared, united) > Fraction(step, 100) for step in range(50, 100, 5)) / 10


def test_mean_precision_is_that_of_its_slow_twin_up_to_the_last_threshold() -> None:
    rng = np.random.default_rng(0)
    truth = np.zeros((400, 4, 5), bool)
    truth.reshape(400, 20)[:, :] = np.arange(20) < rng.integers(0, 21, (400, 1))
    found = truth ^ (rng.random(truth.shape) < rng.choice([0, 0.05, 0.3], (400, 1, 1)))
    expected = [slow_precision(*both) for both in zip(found, truth, strict=True)]
    assert mask_precision(found, truth).tolist() == expected
    assert {0.0, 0.1, 0.9, 1.0} <= set(expected)
    # An IoU of exactly 0.55, 11 of 20 pixels, exceeds 0.5 alone; where nothing is, nothing is right.
    whole = np.ones((1, 4, 5), bool)
    part, nothing = whole & (np.arange(20).reshape(4, 5) < 11), ~whole
    assert mask_iou(part, whole).tolist() == [0.55] and mask_precision(part, whole).tolist() == [0.1]
    assert mask_precision(nothing, nothing).tolist() == [1.0] and np.isnan(mask_iou(nothing, nothing)).all()
    assert mask_precision(part, nothing).tolist() == mask_precision(nothing, whole).tolist() == [0.0]


def test_the_threshold_is_the_best_on_the_grid_and_of_equal_ones_the_nearest_to_none() -> None:
    rng = np.random.default_rng(1)
    truth = rng.random((6, 5, 7)) < 0.4
    logits = (np.where(truth, 0.6, 0.0) + rng.normal(0, 0.2, truth.shape)).astype(np.float32)
    grid = [round(-0.5 + 0.0125 * step, 4) for step in range(81)]
    worth = [
        sum(slow_precision(one >= step, other) for one, other in zip(logits, truth, strict=True))
        for step in grid
    ]
    best = min((step for step, each in zip(grid, worth, strict=True) if each == max(worth)), key=abs)
    assert best_threshold(logits, truth) == best != 0
    assert best_threshold(np.where(truth, 9, -9).astype(np.float32), truth) == 0


def test_a_tidy_mask_is_one_part_without_holes() -> None:
    mask = np.zeros((5, 9), np.float32)
    mask[:, :5], mask[2, 2], mask[1, 7], mask[0, 8] = 0.8, 0.1, 0.9, 0.3
    expected = mask.copy()
    expected[2, 2], expected[1, 7] = 1, 0
    assert np.array_equal(tidied(mask), expected)
    assert np.array_equal(tidied(np.full((2, 2), 0.2, np.float32)), np.full((2, 2), 0.2, np.float32))


def test_mirrored_looks_both_ways(learned: Segmenter, views: Views) -> None:
    both = Segmenter(QUICK.model_copy(update={"mirrored": True, "tidy": True}))
    both.load_state_dict(learned.state_dict())
    shown = pixels()
    with torch.inference_mode():
        assert torch.allclose(both._masks(shown.flip(-1)).flip(-1), both._masks(shown), atol=1e-6)
        assert not torch.allclose(learned._masks(shown.flip(-1)).flip(-1), learned._masks(shown), atol=1e-3)
    masks = both.locate(views.test.bare()).masks
    assert masks is not None
    assert all(np.array_equal(tidied(mask), mask) for mask in masks)


def test_inner_folds_of_the_segmenter_are_kept_with_those_of_the_method() -> None:
    settings = ["bags=3", "segmenter.bags=4"]
    assert configure(Mask, settings).inner_folds() == {(3,), (3, 4)}
    assert configure(Mask, settings[1:]).inner_folds() == {(4,)}
    assert configure(Mask, [*settings, "oracle=true"]).inner_folds() == {(3,)}
    assert configure(Mask, [*settings, "crop=none"]).inner_folds() == {(3,)}
    assert configure(Mask, []).inner_folds() == set()


def test_segmenters_of_a_bag_have_inner_folds_of_what_it_learns_from(views: Views) -> None:
    some = (
        "segmenter.epochs=0",
        "epochs=0",
        "segmenter.size=32",
        "size=32",
        "segmenter.backbone=test_resnet",
    )
    _, harness = fitted(views, *some, "backbone=test_resnet", "bags=2", "segmenter.bags=2")
    outer = {image: bag for image, bag in views.inner_folds(2).items() if bag >= 0}
    digests = dict(zip(views.train.images, views.train.digests, strict=True))
    for number in (1, 2):
        held = {digests[image] for image, bag in outer.items() if bag == number - 1}
        each = [set(harness.lineage[f"bag_{number}.bag_{inner}.segmenter"]) for inner in (1, 2)]
        assert each[0] - each[1] and each[1] - each[0] and not (each[0] | each[1]) & held


def test_more_cycles_than_epochs_are_refused() -> None:
    with pytest.raises(WhalebenchError, match=r"epochs=3 do not give each of cycles=4 the 1 it needs"):
        configure(Mask, ["segmenter.epochs=3", "segmenter.cycles=4"])


# Students, taught by the masks that are found on bare test photos

TAUGHT = (
    "segmenter.size=32",
    "segmenter.augment=light",
    "segmenter.backbone=test_resnet",
    "segmenter.bags=2",
    "segmenter.students=test_resnet+narrow_resnet10",
)
SURE = (
    *("epochs=3", "batch_size=8", "learning_rate=0.01", "ema=0", "augment=light"),
    *("backbone=test_resnet", "students=test_resnet"),
)
"""Few steps that are enough for a mask."""


def fitted(views: Views, *settings: str) -> tuple[Pipeline, RunHarness]:
    method = built(settings)
    harness = RunHarness(0, torch.device("cpu"), views, SILENT, method.config)
    harness.seed_everything()
    harness.fit(method)
    return method, harness


def segmenter_of(method: Pipeline) -> Segmenter:
    assert method.crop is not None and isinstance(method.crop.finder, Segmenter)
    return method.crop.finder


def halves_of(segmenter: Segmenter) -> list[set[str]]:
    return [set(tensor_text(segmenter.constants[name])) for name in ("students_a", "students_b")]


@pytest.fixture(scope="module")
def taught(views: Views) -> tuple[Pipeline, RunHarness]:
    """One encoder and two inner folds that teach two encoders, in each half and inner fold."""
    return fitted(views, *TAUGHT)


def test_each_half_of_test_teaches_every_student_of_its_set_and_no_other(
    taught: tuple[Pipeline, RunHarness], views: Views, masked: list[bool]
) -> None:
    method, harness = taught
    one, other = halves_of(segmenter_of(method))
    test, train = set(views.test.digests), set(views.train.select(np.flatnonzero(masked)).digests)
    assert one and other and not one & other and one | other <= test
    assert harness.chosen["pseudo_masks"] == len(one | other)
    folds = dict(zip(views.train.images, views.train.digests, strict=True))
    for half, name in ((one, "students_a"), (other, "students_b")):
        for place, bag in product((1, 2), repeat=2):
            learned = set(harness.lineage[f"{name}.network_{place}.bag_{bag}.segmenter"])
            held = {folds[image] for image, own in views.inner_folds(2).items() if own == bag - 1}
            assert learned == (train - held) | half and held & train
            assert f"{name}.network_{place}.bag_{bag}.segmenter_threshold" in harness.chosen
    parts = [f"{name}.network_{p}.bag_{b}.segmenter" for name in ("students_a", "students_b")
             for p, b in product((1, 2), repeat=2)]  # fmt: skip
    assert set(harness.adapted_to()) == set(parts)  # neither those that taught nor who is told apart
    assert not set(views.valid.digests) & set().union(*harness.lineage.values())
    assert method.transductive and method.scores_alone


def test_each_bag_has_students_of_its_own_that_learn_without_its_inner_fold(views: Views) -> None:
    masks = ("segmenter.size=32", *(f"segmenter.{one}" for one in SURE))
    method, harness = fitted(views, *masks, "bags=2", "epochs=1", "size=32", "backbone=test_resnet")
    assert method.transductive and method.out_of_fold is not None
    inner = views.inner_folds(2)
    of_bag = [
        {
            digest
            for image, digest in zip(views.train.images, views.train.digests, strict=True)
            if inner[image] == bag
        }
        for bag in (0, 1)
    ]
    test = set(views.test.digests)
    for bag, held in enumerate(of_bag, 1):
        parts = {part: set(own) for part, own in harness.lineage.items() if part.startswith(f"bag_{bag}.")}
        assert {part for part, own in parts.items() if own & test} == {
            f"bag_{bag}.{name}.segmenter" for name in ("students_a", "students_b")
        }
        assert held and not any(own & held for part, own in parts.items() if not part.endswith("inner_fold"))
    assert method.score(views.test.bare()).shape == (len(views.test), len(views.train.identities))


class Says(torch.nn.Module):
    """A network of one opinion."""

    def __init__(self, logit: float) -> None:
        super().__init__()
        self.logit = logit

    def forward(self, shown: torch.Tensor) -> list[torch.Tensor]:
        return [torch.full((len(shown), 1, *shown.shape[2:]), self.logit)]


def test_no_photo_is_answered_by_what_it_has_taught(
    taught: tuple[Pipeline, RunHarness], views: Views, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = segmenter_of(taught[0])
    said = torch.nn.ModuleList([Says(9.0)] * 4 + [Says(-9.0)] * 4)  # students_a: all is animal
    monkeypatch.setattr(segmenter, "network", said)
    one, other = halves_of(segmenter)
    by_half = dict.fromkeys(one, 0.0) | dict.fromkeys(other, 1.0)
    copies = replace(views.test, images=tuple(f"copy-{image}" for image in views.test.images))
    for photos in (views.test, copies, views.valid, views.train, views.test.select([3])):
        masks = segmenter.locate(photos.bare()).masks
        assert masks is not None
        expected = [by_half.get(digest, 0.5) for digest in photos.digests]
        assert masks.min(axis=(1, 2)).tolist() == masks.max(axis=(1, 2)).tolist() == expected


def test_the_votes_of_students_are_those_of_their_thresholds(
    taught: tuple[Pipeline, RunHarness], views: Views
) -> None:
    segmenter = segmenter_of(taught[0])
    masks = segmenter.locate(views.test.bare()).masks
    assert masks is not None
    thresholds = segmenter.constants["thresholds"].tolist()
    seen = views.test.batch(range(len(views.test)), (32, 32)).pixels
    with torch.inference_mode():
        each = [network(seen)[0][:, 0].numpy() for network in segmenter.network.children()]
    votes = np.stack([one >= threshold for one, threshold in zip(each, thresholds, strict=True)])
    one, other = halves_of(segmenter)
    for row, digest in enumerate(views.test.digests):
        among = slice(4, 8) if digest in one else slice(0, 4) if digest in other else slice(0, 8)
        assert np.array_equal(masks[row], votes[among, row].mean(axis=0, dtype=np.float32))


def test_the_same_again_and_from_its_weights(taught: tuple[Pipeline, RunHarness], views: Views) -> None:
    method, _ = taught
    weights, again = method.weights(), fitted(views, *TAUGHT)[0]
    assert all(torch.equal(value, weights[name]) for name, value in again.weights().items())
    back = built(TAUGHT)
    back.restore(weights, views.train.identities, torch.device("cpu"))
    for photos in views.queries().values():
        assert np.array_equal(back.score(photos), method.score(photos))
    assert halves_of(segmenter_of(back)) == halves_of(segmenter_of(method))


def test_students_see_the_masks_that_were_found_and_never_those_of_test(
    benchmark: Benchmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where test photos come with their masks, as in an oracle's run."""
    views, shown, steps = fold_views(benchmark, 0, oracle=True), [], []
    own = Segmenter(QUICK).read(views.test).masks
    assert own is not None
    of_test = {mask.tobytes() for mask in own}
    adapt, target = Segmenter.adapt, Segmenter.target

    def adapted(segmenter: Segmenter, unlabelled: Photos, *others: Any) -> None:
        shown.append(unlabelled)
        monkeypatch.setattr(Segmenter, "locate", lambda self, photos: found(photos))
        adapt(segmenter, unlabelled, *others)

    def found(photos: Photos) -> Located:
        """The left quarter, whatever is seen."""
        masks = np.zeros((len(photos), *SIZE), np.float32)
        masks[:, :, : WIDTH // 4] = 1
        return Located(boxes=mask_boxes(masks), masks=masks)

    def noted(segmenter: Segmenter, batch: Batch) -> torch.Tensor:
        steps.append(target(segmenter, batch))
        return steps[-1]

    monkeypatch.setattr(Segmenter, "adapt", adapted)
    monkeypatch.setattr(Segmenter, "target", noted)
    fitted(views, "segmenter.students=test_resnet", "segmenter.augment=none", "segmenter.epochs=2")
    (unlabelled,) = shown
    assert unlabelled.annotations is None and unlabelled.labels is None and unlabelled.species is None
    quarter = torch.zeros(1, *SIZE)
    quarter[..., : WIDTH // 4] = 1
    drawn = [bool(torch.equal(mask, quarter)) for step in steps for mask in step]
    assert not any(mask[0].numpy().tobytes() in of_test for step in steps for mask in step)
    assert 0 < sum(drawn) < len(drawn)


def test_a_photo_in_a_step_of_a_student_is_one_of_test_at_the_share(views: Views) -> None:
    test = views.test.bare()
    masks = np.random.default_rng(0).random((len(test), *SIZE)) < 0.5
    halves = PseudoMasks(test, masks, 0.5).halves(3)
    assert sorted(image for half in halves for image in half.photos.images) == sorted(test.images)
    places = {image: place for place, image in enumerate(test.images)}
    masked = views.train.select(np.flatnonzero(Segmenter(QUICK).annotated(views.train)))
    for half in halves:
        both = half.beside(masked)
        seen = both.batch(range(len(both)), SIZE)
        assert seen.masks is not None
        kept = masked.batch(range(len(masked)), SIZE)
        assert kept.masks is not None and torch.equal(seen.masks[: len(masked)], kept.masks)
        expected = masks[[places[image] for image in half.photos.images]]
        assert np.array_equal(seen.masks[len(masked) :, 0].numpy(), expected.astype(np.float32))
        part = both.select([len(masked), 0, len(masked)])
        turned = part.batch([2, 1], SIZE).masks
        assert turned is not None and torch.equal(turned[:, 0], seen.masks[[len(masked), 0], 0])
        order = pseudo_label_sampler(Shuffled(len(both), 8), both)
        steps = [step for _ in range(60) for step in order.epoch(torch.Generator().manual_seed(_))]
        drawn = np.concatenate(steps)
        assert (drawn >= len(masked)).mean() == pytest.approx(0.5, abs=0.04)
        assert set(drawn.tolist()) == set(range(len(both)))


def test_where_no_mask_is_found_those_that_learned_from_train_answer(
    views: Views, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ("segmenter.students=test_resnet", "segmenter.epochs=0")
    with monkeypatch.context() as patch:
        patch.setattr(Segmenter, "_masks", lambda self, pixels, among=None: 0 * pixels[:, 0])
        method, harness = fitted(views, *settings)
    assert harness.chosen["pseudo_masks"] == 0
    assert harness.warnings == ["No mask was found on any test photo, so segmenter.students were not taught."]
    assert harness.adapted_to() == {}
    back = built(settings)
    back.restore(method.weights(), views.train.identities, torch.device("cpu"))
    assert np.array_equal(back.score(views.test), method.score(views.test))


def test_such_a_run_is_transductive_and_answers_photos_that_come_later(
    place: Workspace, tmp_path: Path
) -> None:
    network = ("size=32", "epochs=1", "batch_size=8", "backbone=test_resnet")
    settings = (*network, *(f"segmenter.{each}" for each in SURE), "segmenter.size=48x64")
    record = run(RunRequest("mask", "masked", settings=settings, device="cpu"), place)
    assert record.transductive and not record.oracle
    assert record.lineage["segmenter"]["photos"] < record.lineage["students_a.segmenter"]["photos"]
    assert record.usage is not None and set(record.usage.annotations["mask"]) == {"train", "valid"}
    assert record.location["test"]["photos"] == record.counts["test_photos"]
    table = load_benchmark("masked", place).catalog.table.set_index("image")
    of_test = load_benchmark("masked", place).split.parts(0).test
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (HEIGHT, WIDTH, 3)).astype(np.uint8)).save(tmp_path / "a.png")
    again = [Path(table.loc[image, "path"]) for image in of_test]
    made = predict(record.run, [*again, tmp_path / "a.png"], place)
    kept = read_scores(place.runs / record.run, ("test_scores",))[0]["test_scores"]
    rows = {Path(photo): row for row, photo in enumerate(made.photos["photo"])}
    assert np.array_equal(made.scores[[rows[file] for file in again]], kept)  # by those they did not teach
    assert len(made.scores) == len(of_test) + 1
    assert any("has learned from the bare test photos" in note for note in made.notes)


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (
            lambda: configure(
                find_method("ensemble"),
                ["members=arcface+mask", "member_settings=mask:segmenter.students=test_resnet"],
            ),
            "mask learns from test photos, which members are not shown",
        ),
    ],
)
def test_where_students_would_learn_unseen_is_refused(ask: Callable[[], object], words: str) -> None:
    with pytest.raises(WhalebenchError, match=words):
        ask()


@pytest.mark.parametrize(
    ("method", "setting"),
    [
        ("mask", "segmenter.students=test_resnet"),
        ("pseudo", "of_settings=pretrain=test"),
        ("pseudo", "of_settings=crop=mask,segmenter.students=test_resnet"),
    ],
)
def test_what_learns_from_test_photos_is_not_tuned(method: str, setting: str, place: Workspace) -> None:
    with pytest.raises(WhalebenchError, match="learns from test photos, and none is looked at"):
        find_rates(RunRequest(method, "masked", settings=(setting,), device="cpu"), place)
    context: Any = None
    with pytest.raises(WhalebenchError, match="learns from test photos, and none is looked at"):
        TrialRun(context, configure(find_method(method), [setting]), SILENT)


def test_a_student_that_cannot_be_is_told_before_anything_learns(views: Views) -> None:
    method, notes = built(("segmenter.students=test_resnet+resnet81",)), Notes()
    with pytest.raises(WhalebenchError, match="did you mean resnet18"):
        method.learn(views.train, views.valid, notes)
    assert notes.epochs == []


def test_students_that_nobody_would_teach_make_nothing_transductive() -> None:
    for other in ("oracle=true", "crop=none"):
        assert not built(("segmenter.students=test_resnet", other)).transductive


def test_individuals_may_be_guessed_behind_students(views: Views, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunHarness, "confidence", lambda self, valid, scores: np.ones(len(scores)))
    within = ["size=32", "epochs=1", "batch_size=8", "backbone=test_resnet", "segmenter.size=32"]
    within += [f"segmenter.{each}" for each in SURE]
    pseudo = configure(find_method("pseudo"), ["of=mask", f"of_settings={','.join(within)}"])
    method, harness = (
        build_method("pseudo", pseudo),
        RunHarness(0, torch.device("cpu"), views, SILENT, pseudo),
    )
    harness.seed_everything()
    harness.fit(method)
    adapted = set(harness.adapted_to())
    of_masks = {f"{half}students_{side}.segmenter" for half in ("", "half_a.", "half_b.") for side in "ab"}
    assert of_masks <= adapted and adapted - of_masks == {"half_a.network", "half_b.network"}
    assert np.isfinite(method.score(views.test)).all()
