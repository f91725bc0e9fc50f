"""Crops: windows are cut with everything on them, and a method behind a crop sees nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from whalebench import WhalebenchError
from whalebench.benchmarks.core.photos import Annotations, Photos
from whalebench.benchmarks.core.store import PhotoStore, Size
from whalebench.methods.method import Harness, Located, Method, MethodConfig
from whalebench.methods.parts.bagging import build_method
from whalebench.methods.parts.crops.aligner import FLUKE, RIGHT_WHALE, Aligner, AlignerConfig, build_reference
from whalebench.methods.parts.crops.cropping import Cropping, FixedWindow
from whalebench.methods.parts.crops.finder import Crop, Finder, Windows, annotated_values, whole_where
from whalebench.methods.parts.crops.localizer import BoxRegression, Localizer, LocalizerConfig, PartLocalizer
from whalebench.methods.parts.geometry import crop_matrices, normalised_boxes, transform_points
from whalebench.methods.parts.pipeline import CropName, Pipeline
from whalebench.methods.parts.training.config import TrainingConfig
from whalebench.methods.registry import configure, find_method
from whalebench.methods.softmax import SoftmaxConfig
from whalebench.tests.notes import Notes

COUNT, HEIGHT, WIDTH = 6, 60, 90


@pytest.fixture
def photos(tmp_path: Path) -> Photos:
    """Six black photos with one white rectangle each, which is the box; photo 5 is not annotated."""
    boxes = np.full((COUNT, 4), np.nan, np.float32)
    landmarks = np.full((COUNT, 2, 2), np.nan, np.float32)
    for row in range(COUNT):
        pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        x, y = 6 * row + 9, 3 * row + 6
        pixels[y : y + 24, x : x + 36] = 255
        Image.fromarray(pixels).save(tmp_path / f"{row}.png")
        if row < COUNT - 1:
            boxes[row] = (x / WIDTH, y / HEIGHT, (x + 36) / WIDTH, (y + 24) / HEIGHT)
            landmarks[row] = ((x / WIDTH, y / HEIGHT), ((x + 36) / WIDTH, (y + 24) / HEIGHT))
    store = PhotoStore(
        tmp_path / "cache",
        tuple(str(tmp_path / f"{row}.png") for row in range(COUNT)),
        tuple(map(str, range(COUNT))),
        ("",) * COUNT,
    )
    return Photos(
        images=tuple(f"p{row}" for row in range(COUNT)),
        digests=tuple(f"d{row}" for row in range(COUNT)),
        identities=("ann", "bob"),
        store=store,
        rows=np.arange(COUNT),
        shapes=np.tile(np.array([HEIGHT, WIDTH]), (COUNT, 1)),
        labels=np.array([0, 1, 0, 1, 0, 1]),
        annotations=Annotations(boxes, landmarks, ("bonnet", "blowhead"), np.zeros(COUNT, np.bool_)),
    )


def box_crop(photos: Photos) -> Crop:
    boxes = torch.from_numpy(annotated_values(photos, "boxes")).double() * 2 - 1
    return Crop(crop_matrices(boxes), (HEIGHT, WIDTH))


def test_a_crop_shows_the_box_and_nothing_else(photos: Photos) -> None:
    annotated = photos.select(range(COUNT - 1))
    batch = annotated.through(box_crop(annotated)).batch([0, 3, 4], (24, 36))
    assert batch.pixels.shape == (3, 3, 24, 36)
    # Pixels at the border of a window have a neighbour outside it in them.
    assert float(batch.pixels[..., 1:-1, 1:-1].min()) > 0.99
    assert float(batch.pixels.min()) > 0.7
    assert batch.boxes is not None
    assert batch.labels is not None
    assert torch.allclose(batch.boxes, torch.tensor([[0.0, 0.0, 36.0, 24.0]]).expand(3, 4), atol=1e-3)
    assert batch.labels.tolist() == [0, 1, 0]


def test_a_crop_follows_its_photos(photos: Photos) -> None:
    annotated = photos.select(range(COUNT - 1))
    seen = annotated.through(box_crop(annotated))
    chosen = seen.select([4, 1]).bare()
    assert torch.equal(chosen.batch([1], (24, 36)).pixels, seen.batch([1], (24, 36)).pixels)
    assert chosen.batch([0, 1], (24, 36)).boxes is None
    assert chosen.batch([0, 1], (24, 36)).labels is None
    assert seen.known().images == annotated.images


def test_the_whole_photo_as_a_window_is_the_photo(photos: Photos) -> None:
    seen = photos.through(Crop(torch.eye(2, 3).double().repeat(COUNT, 1, 1), (HEIGHT, WIDTH)))
    assert torch.allclose(
        seen.batch([2], (HEIGHT, WIDTH)).pixels, photos.batch([2], (HEIGHT, WIDTH)).pixels, atol=1e-5
    )


def test_a_photos_crop_does_not_depend_on_its_batch(photos: Photos) -> None:
    seen = photos.through(Crop(torch.eye(2, 3).double().repeat(COUNT, 1, 1), (HEIGHT, WIDTH)))
    together, alone = seen.batch(range(COUNT), (10, 15)), seen.batch([4], (10, 15))
    assert torch.equal(together.pixels[4:5], alone.pixels)


def test_many_pixels_into_one_are_averaged(photos: Photos) -> None:
    """A checkerboard of single pixels is grey from afar, not black or white."""
    board = np.indices((HEIGHT, WIDTH)).sum(axis=0) % 2 * 255
    Image.fromarray(np.repeat(board[..., None], 3, 2).astype(np.uint8)).save(photos.store.paths[0])
    seen = (
        photos.through(Crop(torch.eye(2, 3).double().repeat(COUNT, 1, 1), (HEIGHT, WIDTH)))
        .batch([0], (15, 23))
        .pixels
    )
    assert float((seen - 0.5).abs().max()) < 0.1


@pytest.mark.parametrize("background", ["kept", "blurred", "removed"])
def test_the_background_by_mask(photos: Photos, background: str) -> None:
    masks = np.zeros((COUNT, HEIGHT, WIDTH), np.uint8)
    masks[:, :, : WIDTH // 2] = 255
    whole = torch.eye(2, 3).double().repeat(COUNT, 1, 1)
    crop = Crop(whole, (HEIGHT, WIDTH), masks, background, mask_channel=True)  # type: ignore[arg-type]
    plain, seen = (each.batch([3], (HEIGHT, WIDTH)).pixels for each in (photos, photos.through(crop)))
    inside, outside = np.s_[:, :3, :, : WIDTH // 2 - 2], np.s_[:, :3, :, WIDTH // 2 + 2 :]
    assert seen.shape[1] == 4
    assert torch.allclose(seen[:, 3, :, : WIDTH // 2 - 2], torch.ones(()), atol=1e-3)
    assert torch.allclose(seen[inside], plain[inside], atol=1e-4)
    spread = float(seen[outside].std() / plain[outside].std())
    assert {"kept": spread > 0.99, "blurred": 0.1 < spread < 0.95, "removed": spread < 1e-3}[background]


# Windows from what was found


def test_a_localizers_window_has_its_margin_and_falls_back(photos: Photos) -> None:
    localizer = Localizer(LocalizerConfig(margin=0.5))
    boxes = np.array([[0.25, 0.25, 0.75, 0.5], [0.5, 0.5, 0.51, 0.9], [np.nan] * 4], np.float32)
    windows = localizer.windows(Located(boxes=boxes), photos.select([0, 1, 2]))
    assert windows.fallback.tolist() == [False, True, True]
    corners = transform_points(torch.tensor([[[-1.0, -0.75], [1.0, 0.25]]]).double(), windows.matrices[:1])
    assert torch.allclose(corners, torch.tensor([[[-1.0, -1.0], [1.0, 1.0]]]).double())
    assert torch.equal(windows.matrices[1:], torch.eye(2, 3).double().repeat(2, 1, 1))


def test_a_part_is_the_box_round_all_landmarks(photos: Photos) -> None:
    """Landmarks are two corners of the box here, so that both finders read and learn the same."""
    part, whole = PartLocalizer(LocalizerConfig()), Localizer(LocalizerConfig())
    assert part.annotated(photos).tolist() == [True] * 5 + [False]
    assert np.array_equal(vars(part.read(photos))["boxes"], annotated_values(photos, "boxes"), equal_nan=True)
    batch = photos.batch(np.arange(5), (HEIGHT, WIDTH))
    assert torch.allclose(part.target(batch), normalised_boxes(batch), atol=1e-6)
    moved = replace(batch, landmarks=vars(batch)["landmarks"].flip(1) + 3.0)
    assert torch.allclose(part.target(moved), normalised_boxes(batch) + torch.tensor([6 / 90, 6 / 60] * 2))
    given = photos.annotations
    assert given is not None
    one = replace(photos, annotations=replace(given, landmarks=given.landmarks[:, :1]))
    assert part.missing(one) == "landmarks"
    assert not part.missing(photos)
    crop = Cropping(part, (HEIGHT, WIDTH), oracle=True)
    assert crop.locate(photos) is None  # nobody annotated whether the part is where it was found
    windows = crop.windows(photos)
    assert np.array_equal(windows, Cropping(whole, (HEIGHT, WIDTH), oracle=True).windows(photos))


def test_generalised_iou_agrees_with_its_definition() -> None:
    found = torch.tensor([[[-0.5, -0.5], [0.5, 0.5]], [[0.0, 0.0], [-0.8, -0.8]]])
    truth = torch.tensor([[-0.5, -0.5, 0.5, 0.0], [0.2, 0.2, 0.6, 0.6]])
    # Half is shared and the hull is the found box; then nothing is shared, and 1.16 of a hull of 1.96 empty.
    by_hand = [1 - 0.5, 1 - (0 - (1.96 - 0.64 - 0.16) / 1.96)]
    loss = BoxRegression("giou")(found, truth)
    assert float(loss) == pytest.approx(sum(by_hand) / 2, abs=1e-5)
    assert float(BoxRegression("smooth_l1")(found[:1], torch.tensor([[-0.5, -0.5, 0.5, 0.5]]))) == 0


@pytest.mark.parametrize(("width", "height"), [(640, 480), (300, 900)])
@pytest.mark.parametrize("degrees", [0, 37, 180, 251])
def test_right_whale_landmarks_land_where_they_belong(width: int, height: int, degrees: float) -> None:
    """Bonnet at 80 %, blowhead at 30 % of the width, both at half height, in a window of 2d x d."""
    turn = np.deg2rad(degrees)
    bonnet = np.array([width / 2, height / 2])
    blowhead = bonnet - 60 * np.array([np.cos(turn), np.sin(turn)])
    points = torch.tensor(np.stack([bonnet, blowhead]) / [width, height])[None]
    shapes = np.array([[height, width]])
    names = ("bonnet", "blowhead")
    reference = build_reference(AlignerConfig(), names, points.float().numpy(), shapes)
    maps = reference.matrices(points, torch.from_numpy(shapes).double())
    seen = (transform_points(2 * points - 1, maps)[0] + 1) / 2 * torch.tensor([256.0, 256.0])
    wanted = torch.tensor([RIGHT_WHALE["bonnet"], RIGHT_WHALE["blowhead"]]) * 256
    assert float((seen - wanted).abs().max()) < 0.5
    # The window is 2d x d in pixels of the photo, whatever its aspect.
    corners = torch.tensor([[[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]]]).double()
    linear = torch.linalg.inv(maps[:, :, :2])
    cut = ((corners - maps[:, None, :, 2]) @ linear.mT * torch.tensor([width / 2, height / 2]))[0]
    assert float((cut[1] - cut[0]).norm()) == pytest.approx(120, abs=0.5)
    assert float((cut[2] - cut[0]).norm()) == pytest.approx(60, abs=0.5)


def test_four_landmarks_land_on_the_published_points_of_a_fluke() -> None:
    names = ("bottom", "left_tip", "notch", "right_tip")
    places = torch.tensor([FLUKE[name] for name in names]).double()
    seen = places * torch.tensor([0.4, 0.3]) + torch.tensor([0.35, 0.5])  # a small fluke, low in the photo
    shapes = np.array([[300, 400]])
    reference = build_reference(AlignerConfig(), names, seen[None].float().numpy(), shapes)
    maps = reference.matrices(seen[None], torch.from_numpy(shapes).double())
    assert float((transform_points(2 * seen[None] - 1, maps)[0] - (2 * places - 1)).abs().max()) * 160 < 0.5


def test_landmarks_nobody_published_are_aligned_to_their_mean_shape() -> None:
    rng = np.random.default_rng(0)
    shape = np.array([[0.0, 0.0], [40.0, 0.0], [10.0, 25.0]])
    turned = []
    for _ in range(8):
        angle = rng.uniform(0, 6)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        turned.append((shape @ turn.T * rng.uniform(0.5, 1.5) + 150) / 300)
    landmarks = np.array(turned, np.float32)
    shapes = np.full((8, 2), 300)
    reference = build_reference(AlignerConfig(fit="similarity"), ("a", "b", "c"), landmarks, shapes)
    maps = reference.matrices(torch.from_numpy(landmarks).double(), torch.from_numpy(shapes).double())
    seen = transform_points(2 * torch.from_numpy(landmarks).double() - 1, maps)
    assert float((seen - (2 * reference.places - 1)).abs().max()) < 1e-3
    assert float(reference.places.min()) == pytest.approx(0.15)
    assert float(reference.places.max()) == pytest.approx(0.85)


class Perfect(nn.Module):
    """Answers with the middle of what is bright, and the same point a second time."""

    def forward(self, pixels: Tensor) -> Tensor:
        bright = pixels.mean(dim=1).clamp(min=0) ** 4
        height, width = bright.shape[-2:]
        across = ((torch.arange(width) + 0.5) / width * 2 - 1)[None, None]
        down = ((torch.arange(height) + 0.5) / height * 2 - 1)[None, :, None]
        total = bright.sum(dim=(1, 2))
        middle = torch.stack([(bright * at).sum(dim=(1, 2)) / total for at in (across, down)], dim=1)
        return torch.stack([middle, middle], dim=1)


def test_many_views_of_a_perfect_aligner_change_nothing(photos: Photos) -> None:
    config = AlignerConfig(size=(120, 180), augment="heavy", turns=5, zooms=3, shears=3, shifts=3)
    found = []
    for each in (config, config.model_copy(update={"turns": 1, "zooms": 1, "shears": 1, "shifts": 1})):
        aligner = Aligner(each)
        aligner.network = Perfect()
        found.append(aligner.locate(photos.select([2, 3, 4]).bare()).landmarks)
    assert len(Aligner(config).views()) == 135
    assert found[0] is not None
    assert found[1] is not None
    assert np.abs(found[0] - found[1]).max() * WIDTH < 0.5
    truth = annotated_values(photos, "landmarks")[2:5].mean(axis=1)
    assert np.abs(found[1][:, 0] - truth).max() * WIDTH < 0.5


def test_a_full_turn_is_not_seen_twice() -> None:
    views = Aligner(AlignerConfig(augment="turned", turns=4, zooms=1)).views()
    assert len({tuple(view.flatten().round(decimals=6).tolist()) for view in views}) == 4


def test_a_window_mostly_outside_the_photo_is_not_used(photos: Photos) -> None:
    aligner = Aligner(AlignerConfig())
    aligner.constants = {
        "places": torch.tensor([RIGHT_WHALE["bonnet"], RIGHT_WHALE["blowhead"]]).double(),
        "aspect": torch.tensor(2.0),
        "affine": torch.tensor(False),
    }
    landmarks = np.array(
        [
            [[0.6, 0.5], [0.4, 0.5]],  # fits
            [[1.5, 0.5], [-0.5, 0.5]],  # larger than the photo
            [[0.5, 0.5], [0.5, 0.5]],  # one point
            [[np.nan, 0.5], [0.4, 0.5]],
        ],
        np.float32,
    )
    windows = aligner.windows(Located(landmarks=landmarks), photos.select([0, 1, 2, 3]))
    assert windows.fallback.tolist() == [False, True, True, True]
    assert torch.equal(windows.matrices[1:], torch.eye(2, 3).double().repeat(3, 1, 1))


# A method behind a crop


class Brightness(Method):
    """Scores by how bright the photo is; keeps what it was shown."""

    name, summary, source, Config = "brightness", "", "", MethodConfig

    def learn(self, train: Photos, valid: Photos, harness: Harness) -> None:
        self.train, self.valid = train, valid

    def score(self, photos: Photos) -> NDArray[np.float32]:
        bright = photos.batch(range(len(photos)), (8, 8)).pixels.mean(dim=(1, 2, 3)).numpy()
        return np.stack([bright, -bright], axis=1)

    def weights(self) -> dict[str, Tensor]:
        return {"own": torch.ones(1)}

    def restore(
        self, weights: Mapping[str, Tensor], identities: tuple[str, ...], device: torch.device
    ) -> None:
        self.restored = dict(weights)


class Guess(Finder):
    """Says that every animal is in the upper left quarter."""

    artefact, needs = "guess", "boxes"

    def annotated(self, photos: Photos) -> NDArray[np.bool_]:
        return np.asarray(np.isfinite(annotated_values(photos, "boxes")).all(axis=1))

    def build(self) -> nn.Module:
        return nn.Linear(1, 1)

    def learn(self, train: Photos, harness: Harness, valid: Any = None) -> None:
        self.network = self.build()
        harness.fitted(self.artefact, train)

    def locate(self, photos: Photos) -> Located:
        assert photos.annotations is None, "a finder must look at pixels alone"
        return Located(boxes=np.tile(np.array([0, 0, 0.5, 0.5], np.float32), (len(photos), 1)))

    def windows(self, located: Located, photos: Photos) -> Windows:
        assert located.boxes is not None
        boxes = torch.from_numpy(located.boxes).double() * 2 - 1
        bad = boxes.isnan().any(dim=1)
        return whole_where(bad.numpy(), crop_matrices(torch.where(bad[:, None], 1.0, boxes) + 0.0))

    def sizes(self) -> tuple[Size, ...]:
        return ((16, 16),)


def cropped(*, oracle: bool) -> Pipeline:
    return behind(Cropping(Guess(TrainingConfig()), (HEIGHT, WIDTH), oracle=oracle))


def behind(crop: Cropping) -> Pipeline:
    method = build_method(Brightness, MethodConfig())
    method.crop = crop
    return method


def bright(photos: Photos) -> list[float]:
    return photos.batch(range(len(photos)), (24, 36)).pixels.mean(dim=(1, 2, 3)).tolist()


def test_a_method_learns_from_annotated_windows_and_is_chosen_by_found_ones(photos: Photos) -> None:
    method, notes = cropped(oracle=False), Notes()
    method.learn(photos, photos.select([0, 1]), notes)
    (inner,) = method.cycles
    assert isinstance(inner, Brightness)
    assert notes.lineage["guess"] == photos.digests[:5]
    assert notes.stages[:2] == ["guess", "crop"]
    assert min(bright(inner.train.select(range(5)))) > 0.98, "annotated boxes are white"
    assert bright(inner.train)[5] == pytest.approx(
        bright(
            photos.select([5]).through(
                Crop(crop_matrices(torch.tensor([[-1.0, -1.0, 0.0, 0.0]]).double()), (HEIGHT, WIDTH))
            )
        )[0]
    )
    assert max(bright(inner.valid)) < 0.9, "found boxes are not"
    assert inner.valid.labels is not None
    assert inner.train.annotations is None
    assert inner.train.batch([0], (8, 8)).boxes is None
    located = method.locate(photos.bare())
    assert located is not None
    assert located.fallback is not None


def test_an_oracle_reads_annotations_and_trains_no_finder(photos: Photos) -> None:
    method, notes = cropped(oracle=True), Notes()
    method.learn(photos, photos.select([0, 1]), notes)
    assert notes.lineage == {}
    shown = photos.unlabelled()
    assert (method.score(shown)[:5, 0] > 0.98).all()
    located = method.locate(shown)
    assert located is not None
    assert located.fallback is not None
    assert located.fallback.tolist() == [False] * 5 + [True]
    assert "guess.network.weight" not in method.weights()


def test_a_transductive_method_adapts_to_the_windows_that_are_found(photos: Photos) -> None:
    method, shown = cropped(oracle=False), []
    method.cycles[0].transductive = True
    method.cycles[0].adapt = lambda unlabelled, harness: shown.append(unlabelled)  # type: ignore[method-assign]
    method.learn(photos, photos, Notes())
    method.adapt(photos.bare(), Notes())
    assert isinstance(shown[0].lens, Crop)
    assert shown[0].images == photos.images
    assert method.crop is not None
    assert bright(shown[0]) == bright(method.crop.see(photos.bare()))


def test_what_lacks_annotations_does_not_fit(photos: Photos) -> None:
    without = photos.select([5])
    assert cropped(oracle=False).missing_requirement(photos, without) == ""
    assert cropped(oracle=False).missing_requirement(without, photos) == "boxes"
    assert cropped(oracle=True).missing_requirement(photos, without) == "boxes of test photos"


def test_a_finder_is_restored_without_the_weights_it_started_from(photos: Photos) -> None:
    """Neither a download nor a file is asked for when learned weights are at hand."""
    config = LocalizerConfig(size=(32, 32))
    learned = Localizer(config)
    learned.network = learned.build()
    other = Localizer(config.model_copy(update={"pretrained": "no-such-file.safetensors"}))
    other.load_state_dict(learned.state_dict())
    assert torch.equal(
        other.network.state_dict()["votes.weight"], learned.network.state_dict()["votes.weight"]
    )
    assert other.locate(photos.bare()).boxes is not None


def test_weights_of_finder_and_method_are_kept_apart(photos: Photos) -> None:
    method = cropped(oracle=False)
    method.learn(photos, photos, Notes())
    kept = method.weights()
    assert set(kept) == {"guess.network.weight", "guess.network.bias", "own"}
    other = cropped(oracle=False)
    other.restore(kept, photos.identities, torch.device("cpu"))
    assert other.crop is not None
    assert torch.equal(other.crop.finder.network.state_dict()["weight"], kept["guess.network.weight"])
    (inner,) = other.cycles
    assert isinstance(inner, Brightness)
    assert set(inner.restored) == {"own"}
    assert np.array_equal(other.score(photos.bare()), method.score(photos.bare()))


def test_a_fixed_window_is_that_part_of_every_photo_and_learns_nothing(photos: Photos) -> None:
    config = SoftmaxConfig.model_validate(
        {"crop": "window", "window": "0.1,0.2,0.5,0.8", "crop_source": "60x90"}
    )
    finder = config.finder()
    assert isinstance(finder, FixedWindow)
    method = behind(Cropping(finder, (HEIGHT, WIDTH), oracle=False))
    notes = Notes()
    method.learn(photos, photos, notes)
    assert "window" not in notes.lineage
    assert method.locate(photos) is None  # nobody looked, so there is nothing to hold against annotations
    shown = photos.bare().through(
        Crop(finder.windows(finder.locate(photos), photos).matrices, (HEIGHT, WIDTH))
    )
    cut = photos.batch(range(COUNT), (HEIGHT, WIDTH)).pixels[..., 12:48, 9:45]
    # Only pixels beside an edge differ, where several are averaged into one.
    assert float((shown.batch(range(COUNT), (36, 36)).pixels - cut).abs().mean()) < 0.02


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"crop": "window"}, "need each other"),
        ({"window": "0.1,0.1,0.9,0.9"}, "need each other"),
        ({"crop": "window", "window": "0.9,0.1,0.1,0.9"}, "x0 below x1"),
        ({"crop": "window", "window": "left"}, "four shares"),
        ({"crop": "window", "window": "0,0,1,1", "oracle": "true"}, "nothing to crop by"),
    ],
)
def test_a_window_that_cannot_be_is_refused(settings: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SoftmaxConfig.model_validate(settings)


@pytest.mark.parametrize(
    ("method", "finder"),
    [("bbox", "localizer"), ("aligned", "aligner"), ("mask", "segmenter"), ("stn", "transformer")],
)
def test_what_learns_where_things_are_has_no_quarters_that_change_places(method: str, finder: str) -> None:
    words = f"cannot take {finder}.augment='shuffled': a finder .* quarters cannot change places; set another"
    with pytest.raises(WhalebenchError, match=words):
        configure(find_method(method), [f"{finder}.augment=shuffled"])
    assert configure(find_method(method), ["augment=shuffled", f"{finder}.augment=heavy"])


def test_photos_seen_through_another_lens_are_looked_at_anew(photos: Photos) -> None:
    """The windows of a photo are remembered, but not for the same photo when it looks different."""
    method = cropped(oracle=False)
    method.learn(photos, photos, Notes())
    plain = method.score(photos.bare())
    dark = Crop(
        crop_matrices(torch.tensor([[-1.0, -1.0, -0.8, -0.8]]).double()).repeat(COUNT, 1, 1), (HEIGHT, WIDTH)
    )
    assert not np.allclose(method.score(photos.bare().through(dark)), plain)
    assert np.array_equal(method.score(replace(photos.bare())), plain)


@pytest.mark.parametrize("crop", ["box", "mask", "aligned"])
def test_what_was_put_in_its_place_is_hardly_moved_again(crop: CropName) -> None:
    whole, behind = SoftmaxConfig().augmentation(), SoftmaxConfig(crop=crop).augmentation()
    moved = ("rotation", "shear", "scale", "stretch", "shift")
    assert all(getattr(behind, amount) < getattr(whole, amount) for amount in moved)
    # Only geometry gives way: colours and what is hidden stay as they are.
    assert replace(behind, **{amount: getattr(whole, amount) for amount in moved}) == whole
    assert SoftmaxConfig(crop=crop, augment="heavy").augmentation() == whole
    assert SoftmaxConfig(crop=crop).aligner.augmentation().rotation == whole.rotation
