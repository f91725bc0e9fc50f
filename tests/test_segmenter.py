"""The segmenter: its network on any encoder, masks and their boxes, and a method behind the crop."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from whalebench import WhalebenchError
from whalebench.benchmarks.core.photos import Photos
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.importing.importer import import_csv
from whalebench.benchmarks.registry import load_benchmark
from whalebench.benchmarks.running.folds import Views, fold_views
from whalebench.benchmarks.running.outcome import box_iou, evaluate_location
from whalebench.methods.mask import Mask
from whalebench.methods.method import Located
from whalebench.methods.parts.crops.segmenter import (
    MaskLoss,
    MaskNetwork,
    Segmenter,
    SegmenterConfig,
    SpatialAndChannelExcitation,
    mask_boxes,
)
from whalebench.methods.parts.networks.backbones import build_backbone, build_encoder
from whalebench.methods.parts.pipeline import Pipeline, build_method
from whalebench.methods.registry import configure
from whalebench.tests.notes import Notes

HEIGHT, WIDTH, INDIVIDUALS, ENCOUNTERS, UNMASKED = 48, 64, 5, 7, 7
SIZE = (48, 64)
QUICK = SegmenterConfig(size=SIZE, epochs=10, batch_size=8, augment="light")


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
def views(tmp_path_factory: pytest.TempPathFactory) -> Views:
    folder = tmp_path_factory.mktemp("masked")
    workspace = Workspace.open(folder / "workspace")
    import_csv(draw(folder), "masked", workspace)
    return fold_views(load_benchmark("masked", workspace, propose=True), 0)


@pytest.fixture(scope="module")
def learned(views: Views) -> Segmenter:
    torch.manual_seed(0)
    segmenter = Segmenter(QUICK)
    masked = np.flatnonzero(segmenter.annotated(views.train))
    segmenter.learn(views.train.select(masked), views.valid, Notes())
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


def test_an_encoder_is_its_backbone_with_all_weights_where_they_were() -> None:
    torch.manual_seed(0)
    encoder = build_encoder("narrow_resnet10", "none", SIZE).eval()
    torch.manual_seed(0)
    backbone = build_backbone("narrow_resnet10", "none", SIZE).eval()
    own = encoder.backbone.state_dict()
    assert all(torch.equal(own[key], value) for key, value in backbone.state_dict().items())
    assert len(own) == len(backbone.state_dict())
    with torch.inference_mode():
        maps = encoder(pixels())
        assert torch.equal(maps[-1], backbone(pixels()))
    assert [tuple(each.shape[1:]) for each in maps] == [(16, 24, 32), (32, 12, 16), (64, 6, 8), (128, 3, 4)]
    assert encoder.channels == [16, 32, 64, 128]


def test_an_encoder_starts_from_learned_weights() -> None:
    encoder = build_encoder("tf_efficientnet_lite0", "efficientnet-lite0", (64, 64))
    backbone = build_backbone("tf_efficientnet_lite0", "efficientnet-lite0", (64, 64))
    first = encoder.backbone.network.conv_stem.weight  # type: ignore[union-attr]
    assert torch.equal(first, backbone.network.conv_stem.weight)  # type: ignore[arg-type, union-attr]
    assert encoder.backbone.get_buffer("mean").flatten().tolist() == [0.5, 0.5, 0.5]
    assert encoder.channels == [16, 24, 40, 112, 320]


def test_a_network_that_keeps_its_stages_to_itself_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from whalebench.methods.parts.networks.own import NarrowResNet

    monkeypatch.delattr(NarrowResNet, "forward_intermediates")
    with pytest.raises(WhalebenchError, match="'narrow_resnet10' does not hand out its stages"):
        build_encoder("narrow_resnet10", "none", SIZE)


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


def test_it_finds_masks_and_boxes_in_photos_never_seen(learned: Segmenter, views: Views) -> None:
    located = learned.locate(views.test.bare())
    assert located.masks is not None
    assert located.boxes is not None
    assert located.masks.shape == (len(views.test), *SIZE)
    assert 0 <= located.masks.min() < located.masks.max() <= 1
    judged = evaluate_location(located, views.annotated["test"])
    assert judged["mask_iou"].mean() > 0.7
    truth = learned.read(views.annotated["test"]).boxes
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
    segmenter.learn(views.train.select(masked), views.valid, Notes())
    assert warm == expected


def test_a_restored_segmenter_finds_the_same(learned: Segmenter, views: Views) -> None:
    again = Segmenter(QUICK)
    again.load_state_dict(learned.state_dict())
    found, expected = again.locate(views.valid.bare()), learned.locate(views.valid.bare())
    assert np.array_equal(found.masks, expected.masks)  # type: ignore[arg-type]


def test_reading_gives_the_annotated_masks_and_says_where_there_are_none(views: Views) -> None:
    segmenter = Segmenter(QUICK)
    photos = views.train
    annotated = segmenter.annotated(photos)
    assert annotated.tolist() == [int(image) >= UNMASKED for image in photos.images]
    assert 0 < annotated.sum() < len(photos)
    located = segmenter.read(photos)
    assert located.masks is not None
    assert located.boxes is not None
    assert np.isnan(located.masks[~annotated]).all()
    assert np.isnan(located.boxes[~annotated]).all()
    place = int(np.flatnonzero(annotated)[0])
    drawn = photos.store.masks((HEIGHT, WIDTH))[photos.rows[place]] > 127
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
    assert torch.equal(windows.maps[1:], eye.expand(2, 2, 3))
    # The box in frame units is (-0.5, 0) to (0.5, 1); widened by a quarter it is 1.5 wide and high.
    ends = torch.tensor([[-0.75, -0.25, 1.0], [0.75, 1.25, 1.0]], dtype=torch.float64)
    moved = ends @ windows.maps[0].T
    assert moved.tolist() == [pytest.approx([-1, -1]), pytest.approx([1, 1])]


def built(settings: Sequence[str]) -> Pipeline:
    torch.manual_seed(0)
    small = ("size=32", "epochs=1", "batch_size=8", "segmenter.size=48x64", "segmenter.epochs=1")
    return build_method(Mask, configure(Mask, (*small, "segmenter.batch_size=8", *settings)))


@pytest.mark.parametrize("settings", [(), ("segmenter.channel=true", "segmenter.background=blurred")])
def test_the_method_learns_from_masks_of_train_and_comes_back_the_same(
    settings: Sequence[str], views: Views
) -> None:
    method, notes = built(settings), Notes()
    assert method.missing_requirement(views.train, views.test) == ""
    method.learn(views.train, views.valid, notes)
    assert notes.stages[:2] == ["segmenter", "crop"]
    masked = {image for image in views.train.images if int(image) >= UNMASKED}
    assert set(notes.fitted_on["segmenter"]) == masked
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
