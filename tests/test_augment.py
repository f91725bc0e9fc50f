"""Augmentation: draws repeat, every photo gets its own, and what is annotated is kept."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest
import torch
from torch.nn import functional as F

from whalebench.benchmarks.core.photos import Batch
from whalebench.methods.parts.augment import STRENGTHS, Augmentation, Strength, augment

HEIGHT, WIDTH = 48, 64


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_batch(photos: int = 12) -> Batch:
    """Random photos, each with two landmarks, a box and a mask of its upper half."""
    landmarks = torch.tensor([[30.0, 20.0], [40.0, 25.0]]).repeat(photos, 1, 1)
    boxes = torch.tensor([[20.0, 15.0, 44.0, 30.0]]).repeat(photos, 1)
    masks = torch.ones(photos, 1, HEIGHT, WIDTH)
    masks[:, :, HEIGHT // 2 :] = 0
    pixels = torch.rand(photos, 3, HEIGHT, WIDTH, generator=seeded(0))
    return Batch(pixels, torch.arange(photos), boxes, landmarks, masks)


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


def test_no_strength_returns_the_same_batch() -> None:
    batch = make_batch()
    assert augment(batch, STRENGTHS["none"], seeded()) is batch


@pytest.mark.parametrize("strength", ["light", "heavy"])
def test_the_same_generator_state_gives_the_same_photos(strength: Strength) -> None:
    by, batch = STRENGTHS[strength], make_batch()
    first, again = (augment(batch, by, seeded(9)).pixels for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, augment(batch, by, seeded(10)).pixels)
    generator = seeded(9)
    assert not torch.equal(augment(batch, by, generator).pixels, augment(batch, by, generator).pixels)


@pytest.mark.parametrize(
    "amount",
    [field.name for field in fields(Augmentation) if field.name not in ("blur", "mask_dropout", "outside")],
)
def test_every_photo_of_a_batch_gets_its_own_draw(amount: str) -> None:
    one = torch.rand(1, 3, HEIGHT, WIDTH, generator=seeded(1)).expand(8, -1, -1, -1)
    degrees = amount in ("rotation", "shear")
    either = amount in ("grey", "hflip", "vflip")
    some = amount in ("erase", "grid_shuffle")
    share = either or some
    by = Augmentation(**{amount: 10.0 if degrees else 0.5 if share else 0.2})
    changed = augment(Batch(one), by, seeded(2)).pixels
    kinds = {tuple(photo.flatten().mul(1e4).round().tolist()) for photo in changed}
    assert len(kinds) == (2 if either else 8) if not some else 2 < len(kinds) < 8
    assert torch.equal(one[0], one[7])


def test_quarters_change_places_in_a_share_of_the_photos_and_keep_their_pixels() -> None:
    photos = torch.rand(60, 3, 9, 12, generator=seeded(1))
    changed = augment(Batch(photos), Augmentation(grid_shuffle=0.5), seeded(2)).pixels
    corners = [(slice(*rows), slice(*columns)) for rows in ((0, 4), (5, 9)) for columns in ((0, 6), (6, 12))]
    orders = []
    for before, after in zip(photos, changed, strict=True):
        were, are = (torch.stack([photo[:, y, x] for y, x in corners]) for photo in (before, after))
        differences = (are[:, None] - were[None]).abs().amax(dim=(2, 3, 4))
        orders.append(tuple(differences.argmin(dim=1).tolist()))
        assert differences.amin(dim=1).max() < 1e-4
        assert torch.allclose(before[:, 4], after[:, 4], atol=1e-4)  # the odd row in the middle
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders)
    assert 15 < orders.count((0, 1, 2, 3)) < 45
    assert len(set(orders)) > 10


def test_without_a_shuffle_nothing_is_drawn_for_it() -> None:
    batch, generator, other = make_batch(), seeded(3), seeded(3)
    augment(batch, STRENGTHS["heavy"], generator)
    augment(batch, STRENGTHS["shuffled"], other)
    assert not torch.equal(generator.get_state(), other.get_state())
    fields_of = vars(STRENGTHS["shuffled"]) | {"grid_shuffle": 0.0}
    assert Augmentation(**fields_of) == STRENGTHS["heavy"]


def test_blur_is_of_whole_batches() -> None:
    one = torch.rand(4, 3, HEIGHT, WIDTH, generator=seeded(1))
    blurred = augment(Batch(one), Augmentation(blur=1.0), seeded()).pixels
    assert blurred.diff(dim=-1).abs().mean() < one.diff(dim=-1).abs().mean() * 0.8


def test_blur_is_a_mean_of_nine_of_the_photos_that_are_drawn_and_of_no_others() -> None:
    pixels = make_batch(40).pixels
    blurred = augment(Batch(pixels), Augmentation(blur=0.5), seeded()).pixels
    plain = augment(Batch(pixels), Augmentation(blur=1e-9), seeded()).pixels
    soft = F.avg_pool2d(plain, 3, stride=1, padding=1, count_include_pad=False)
    moved = (blurred - plain).flatten(1)
    share = (moved * (soft - plain).flatten(1)).sum(1) / (soft - plain).flatten(1).square().sum(1)
    drawn = moved.abs().amax(1) > 1e-3
    assert 10 < int(drawn.sum()) < 30
    assert torch.equal(blurred[~drawn], plain[~drawn])
    mixed = torch.lerp(plain, soft, share.reshape(-1, 1, 1, 1))
    assert torch.allclose(blurred[drawn], mixed[drawn], atol=1e-5)


def test_one_rectangle_of_one_colour_is_erased_and_nothing_of_other_photos() -> None:
    pixels = make_batch(40).pixels
    by = Augmentation(erase=0.5)
    erased, plain = (augment(Batch(pixels), each, seeded()).pixels for each in (by, replace(by, erase=1e-9)))
    changed = (erased != plain).any(dim=1)
    assert 10 < int(changed.flatten(1).any(dim=1).sum()) < 30
    for photo, where in zip(erased, changed, strict=True):
        rows, columns = where.any(dim=1).nonzero()[:, 0], where.any(dim=0).nonzero()[:, 0]
        if len(rows):
            inside = photo[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].flatten(1)
            assert torch.equal(inside, inside[:, :1].expand_as(inside))
            assert len(rows) * len(columns) == int(where.sum()) <= 0.25 * HEIGHT * WIDTH


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
    batch = Batch(
        torch.zeros(8, 3, 40, 100),
        landmarks=torch.tensor([[50.0, 20.0], [60.0, 20.0], [50.0, 30.0]]).expand(8, 3, 2),
    )
    moved = augment(batch, Augmentation(rotation=30), seeded()).landmarks
    assert moved is not None
    along, down = moved[:, 1] - moved[:, 0], moved[:, 2] - moved[:, 0]
    assert torch.allclose(along.norm(dim=1), torch.full((8,), 10.0), atol=1e-3)
    assert torch.allclose((along * down).sum(dim=1), torch.zeros(8), atol=1e-2)
    assert along[:, 1].abs().max() > 1  # it did turn


def test_the_fourth_channel_moves_with_the_photo_keeps_its_values_and_is_hidden_by_share() -> None:
    batch = make_batch(40)
    assert batch.masks is not None
    with_mask = replace(batch, pixels=torch.cat([batch.pixels, batch.masks], dim=1))
    seen = augment(with_mask, STRENGTHS["heavy"], seeded())
    assert seen.masks is not None
    shown = seen.pixels[:, 3:].flatten(1).any(dim=1)
    assert 5 < int(shown.sum()) < 35
    assert torch.allclose(seen.pixels[shown, 3:], seen.masks[shown], atol=1e-6)
