"""Augmentation: positions move with the pixels, draws repeat, and every photo gets its own."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest
import torch

from whalebench.benchmarks.core.photos import Batch
from whalebench.methods.parts.augment import STRENGTHS, Augmentation, _affine, _Draw, augment
from whalebench.methods.parts.geometry import invert, warp

HEIGHT, WIDTH = 48, 64
MOVES = replace(Augmentation(), rotation=20, shear=12, scale=0.15, stretch=0.15, shift=0.06)


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def affine(photos: int, seed: int = 3, by: Augmentation = MOVES) -> torch.Tensor:
    return _affine(by, _Draw(photos, seeded(seed), torch.device("cpu")), WIDTH / HEIGHT)


def dots(positions: torch.Tensor) -> torch.Tensor:
    """Masks (photos, 1, height, width): a soft dot at each photo's position (x, y)."""
    down, across = torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5
    x, y = positions[:, 0, None, None], positions[:, 1, None, None]
    distance = (across[None, None, :] - x) ** 2 + (down[None, :, None] - y) ** 2
    return torch.exp(-distance / 8)[:, None]


def make_batch(photos: int = 12, seed: int = 0) -> Batch:
    """A dot near the middle of each photo, its landmark, a box round it and the dot as its own mask."""
    middle = torch.tensor([WIDTH / 2, HEIGHT / 2])
    spots = middle + (torch.rand(photos, 2, generator=seeded(seed)) - 0.5) * 14
    dot = dots(spots)
    boxes = torch.cat([spots - 6, spots + 6], dim=1)
    landmarks = torch.stack([spots, middle.expand(photos, 2)], dim=1)
    return Batch(dot.repeat(1, 3, 1, 1), torch.arange(photos), boxes, landmarks, dot)


def centre_of_mass(images: torch.Tensor) -> torch.Tensor:
    """(photos, 2), x and y, of images (photos, height, width)."""
    down, across = torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5
    total = images.sum(dim=(1, 2))
    x = (images * across).sum(dim=(1, 2)) / total
    y = (images * down[:, None]).sum(dim=(1, 2)) / total
    return torch.stack([x, y], dim=1)


@pytest.mark.parametrize("seed", range(5))
def test_landmarks_move_with_the_pixels(seed: int) -> None:
    batch = make_batch(seed=seed)
    moved = warp(batch, affine(12, seed))
    assert moved.landmarks is not None
    assert moved.masks is not None
    assert batch.landmarks is not None
    distance = (moved.landmarks[:, 0] - batch.landmarks[:, 0]).norm(dim=1)
    assert distance.max() > 2
    for pixels in (moved.pixels.mean(dim=1), moved.masks[:, 0]):
        assert (centre_of_mass(pixels) - moved.landmarks[:, 0]).norm(dim=1).max() < 0.6


@pytest.mark.parametrize("seed", range(5))
def test_a_warp_and_its_inverse_return_everything(seed: int) -> None:
    batch, forward = make_batch(seed=seed), affine(12, seed)
    moved = warp(batch, forward)
    back = warp(moved, invert(forward))
    assert back.landmarks is not None
    assert back.masks is not None
    assert batch.landmarks is not None
    assert batch.masks is not None
    assert (moved.pixels - batch.pixels).abs().max() > 0.3
    assert torch.allclose(back.landmarks, batch.landmarks, atol=1e-3)
    # Interpolated twice, a dot loses some of its height and stays where it is.
    assert (back.pixels - batch.pixels).abs().max() < 0.2
    assert (back.masks - batch.masks).abs().max() < 0.2


def test_a_box_without_turning_comes_back_exactly() -> None:
    batch, forward = make_batch(), affine(12, 1, replace(MOVES, rotation=0, shear=0))
    back = warp(warp(batch, forward), invert(forward))
    assert batch.boxes is not None
    assert back.boxes is not None
    assert torch.allclose(back.boxes, batch.boxes, atol=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_a_box_is_the_smallest_upright_one_round_its_turned_corners(seed: int) -> None:
    batch, forward = make_batch(seed=seed), affine(12, seed)
    boxes = warp(batch, forward).boxes
    assert boxes is not None
    assert batch.boxes is not None
    x0, y0, x1, y1 = batch.boxes.T
    corners = torch.stack([torch.stack(xy, 1) for xy in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))], 1)
    moved = warp(replace(batch, landmarks=corners), forward).landmarks
    assert moved is not None
    assert torch.allclose(boxes[:, :2], moved.amin(dim=1), atol=1e-3)
    assert torch.allclose(boxes[:, 2:], moved.amax(dim=1), atol=1e-3)


def test_a_box_is_cut_at_the_frame() -> None:
    boxes = torch.tensor([[0.0, 0.0, WIDTH, HEIGHT]])
    shift = torch.tensor([[[1.0, 0.0, 0.5], [0.0, 1.0, -0.5]]])
    moved = warp(Batch(torch.zeros(1, 3, HEIGHT, WIDTH), boxes=boxes), shift).boxes
    assert moved is not None
    assert moved.tolist() == [[WIDTH / 4, 0, WIDTH, HEIGHT * 3 / 4]]


def test_what_is_not_annotated_stays_so() -> None:
    batch = make_batch(2)
    assert batch.boxes is not None
    assert batch.landmarks is not None
    batch.boxes[0], batch.landmarks[0, 1] = math.nan, math.nan
    moved = augment(batch, STRENGTHS["heavy"], seeded())
    assert moved.boxes is not None
    assert moved.landmarks is not None
    assert moved.boxes.isnan().any(dim=1).tolist() == [True, False]
    assert moved.landmarks.isnan().any(dim=2).tolist() == [[False, True], [False, False]]
    bare = augment(Batch(batch.pixels), STRENGTHS["heavy"], seeded())
    assert (bare.boxes, bare.landmarks, bare.masks, bare.labels) == (None, None, None, None)


def test_outside_the_photo_is_its_mirror_image_and_no_animal() -> None:
    batch = Batch(torch.ones(1, 3, HEIGHT, WIDTH), masks=torch.ones(1, 1, HEIGHT, WIDTH))
    shift = torch.tensor([[[1.0, 0.0, 0.5], [0.0, 1.0, 0.0]]])
    moved = warp(batch, shift)
    assert moved.masks is not None
    assert torch.allclose(moved.pixels, batch.pixels)
    assert not moved.masks[..., : WIDTH // 4 - 1].any()
    assert float(moved.masks[..., WIDTH // 4 + 1 :].min()) > 0.999


def test_no_strength_returns_the_same_batch() -> None:
    batch = make_batch()
    assert augment(batch, STRENGTHS["none"], seeded()) is batch


def test_no_movement_returns_the_same_pixels() -> None:
    batch = make_batch()
    still = warp(batch, affine(12, by=Augmentation()))
    assert torch.allclose(still.pixels, batch.pixels, atol=1e-5)


@pytest.mark.parametrize("strength", ["light", "heavy"])
def test_the_same_generator_state_gives_the_same_photos(strength: str) -> None:
    by = STRENGTHS[strength]  # type: ignore[index]
    batch = make_batch()
    first, again = (augment(batch, by, seeded(9)).pixels for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, augment(batch, by, seeded(10)).pixels)
    generator = seeded(9)
    assert not torch.equal(augment(batch, by, generator).pixels, augment(batch, by, generator).pixels)


@pytest.mark.parametrize(
    "amount", [field.name for field in fields(Augmentation) if field.name not in ("blur", "hide", "outside")]
)
def test_every_photo_of_a_batch_gets_its_own_draw(amount: str) -> None:
    one = torch.rand(1, 3, HEIGHT, WIDTH, generator=seeded(1)).expand(8, -1, -1, -1)
    degrees = amount in ("rotation", "shear")
    either = amount in ("grey", "mirror", "upset")
    share = either or amount == "erase"
    by = Augmentation(**{amount: 10.0 if degrees else 0.5 if share else 0.2})
    changed = augment(Batch(one), by, seeded(2)).pixels
    kinds = {tuple(photo.flatten().mul(1e4).round().tolist()) for photo in changed}
    assert len(kinds) == (2 if either else 8) if amount != "erase" else 2 < len(kinds) < 8
    assert torch.equal(one[0], one[7])


def test_blur_is_of_whole_batches() -> None:
    one = torch.rand(4, 3, HEIGHT, WIDTH, generator=seeded(1))
    blurred = augment(Batch(one), Augmentation(blur=1.0), seeded()).pixels
    assert blurred.diff(dim=-1).abs().mean() < one.diff(dim=-1).abs().mean() * 0.8


@pytest.mark.parametrize("seed", range(4))
def test_pixels_stay_between_0_and_1(seed: int) -> None:
    for pixels in (torch.zeros(16, 3, 32, 32), torch.ones(16, 3, 32, 32), make_batch(16).pixels):
        changed = augment(Batch(pixels), STRENGTHS["heavy"], seeded(seed)).pixels
        assert changed.shape == pixels.shape
        assert float(changed.min()) >= 0
        assert float(changed.max()) <= 1
        assert bool(changed.mean(dim=1).isfinite().all())


def test_labels_and_the_batch_itself_stay() -> None:
    batch = make_batch()
    before = batch.pixels.clone()
    changed = augment(batch, STRENGTHS["heavy"], seeded())
    assert changed.labels is batch.labels
    assert torch.equal(batch.pixels, before)
    assert not torch.equal(changed.pixels, before)


def test_a_rotation_keeps_angles_and_lengths_on_a_frame_that_is_not_square() -> None:
    turn = replace(Augmentation(), rotation=30)
    batch = Batch(
        torch.zeros(8, 3, 40, 100),
        landmarks=torch.tensor([[50.0, 20.0], [60.0, 20.0], [50.0, 30.0]]).expand(8, 3, 2),
    )
    moved = augment(batch, turn, seeded()).landmarks
    assert moved is not None
    along, down = moved[:, 1] - moved[:, 0], moved[:, 2] - moved[:, 0]
    assert torch.allclose(along.norm(dim=1), torch.full((8,), 10.0), atol=1e-3)
    assert torch.allclose((along * down).sum(dim=1), torch.zeros(8), atol=1e-2)
    assert along[:, 1].abs().max() > 1  # it did turn


def test_the_fourth_channel_moves_with_the_photo_keeps_its_values_and_is_hidden_by_share() -> None:
    batch = make_batch(40)
    assert batch.masks is not None
    with_mask = replace(batch, pixels=torch.cat([batch.pixels, batch.masks], dim=1))
    seen = augment(with_mask, replace(STRENGTHS["heavy"], hide=0.5), seeded())
    assert seen.masks is not None
    shown = seen.pixels[:, 3:].flatten(1).any(dim=1)
    assert 5 < int(shown.sum()) < 35
    assert torch.allclose(seen.pixels[shown, 3:], seen.masks[shown], atol=1e-6)
