"""What a method may see of photos, and batches of them with everything in the batch's frame."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from whalebench.benchmarks.core.photos import UNKNOWN, Annotations, LabelledPhotos, Photos
from whalebench.benchmarks.core.store import PhotoStore

COUNT = 7
SIZE = (20, 40)


@pytest.fixture
def photos(tmp_path: Path) -> Photos:
    """Seven photos of one grey each, the grey being ten times the row; rows in reverse; every third *new*."""
    for row in range(COUNT):
        Image.new("RGB", (80, 40), (row * 10,) * 3).save(tmp_path / f"{row}.png")
    Image.new("L", (80, 40), 255).save(tmp_path / "mask.png")
    masks = tuple(str(tmp_path / "mask.png") if row == 2 else "" for row in range(COUNT))
    paths = tuple(str(tmp_path / f"{row}.png") for row in range(COUNT))
    store = PhotoStore(tmp_path / "cache", paths, tuple(map(str, range(COUNT))), masks)
    boxes = np.full((COUNT, 4), np.nan, np.float32)
    boxes[2] = (0.25, 0.5, 0.75, 1.0)
    landmarks = np.full((COUNT, 2, 2), np.nan, np.float32)
    landmarks[2, 1] = (0.5, 0.25)
    rows = np.arange(COUNT)[::-1].copy()
    has_mask = np.array([path != "" for path in masks])
    return Photos(
        images=tuple(f"p{row}" for row in rows),
        digests=tuple(f"d{row}" for row in rows),
        identities=("ann", "bob"),
        store=store,
        rows=rows,
        shapes=np.tile(np.array([40, 80]), (COUNT, 1)),
        labels=np.array([UNKNOWN if row % 3 == 0 else row % 2 for row in rows], np.int64),
        annotations=Annotations(boxes, landmarks, ("left", "right"), has_mask),
    )


def greys(pixels: torch.Tensor) -> list[int]:
    return [round(float(value) * 25.5) for value in pixels.mean(dim=(1, 2, 3))]


def test_select_keeps_order_and_everything_together(photos: Photos) -> None:
    chosen = photos.select([3, 0])
    assert chosen.images == ("p3", "p6")
    assert chosen.digests == ("d3", "d6")
    assert chosen.rows.tolist() == [3, 6]
    assert chosen.labels is not None
    assert chosen.labels.tolist() == [UNKNOWN, UNKNOWN]
    assert greys(chosen.batch([0, 1], SIZE).pixels) == [3, 6]


def test_known_leaves_out_the_new(photos: Photos) -> None:
    known = photos.known()
    assert known.images == ("p5", "p4", "p2", "p1")
    assert known.labels.tolist() == [1, 0, 0, 1]
    assert isinstance(known.select([0]), LabelledPhotos)
    assert not isinstance(known.unlabelled(), LabelledPhotos)


def test_bare_photos_hide_labels_and_annotations(photos: Photos) -> None:
    bare = photos.bare()
    assert (bare.labels, bare.annotations) == (None, None)
    assert replace(photos, species=np.arange(len(photos))).bare().species is None
    batch = bare.batch([0, 1], SIZE)
    assert (batch.labels, batch.boxes, batch.landmarks, batch.masks) == (None, None, None, None)
    with pytest.raises(ValueError, match="hidden"):
        bare.known()


def test_labelled_photos_hide_annotations_only(photos: Photos) -> None:
    labelled = photos.labelled()
    assert labelled.annotations is None
    assert labelled.labels is not None
    batch = labelled.batch([4], SIZE)
    assert batch.labels is not None
    assert batch.labels.tolist() == [0]
    assert batch.boxes is None


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 100])
def test_batches_cover_all_photos_in_order(photos: Photos, batch_size: int) -> None:
    batches = list(photos.batches(SIZE, batch_size))
    assert [grey for batch in batches for grey in greys(batch.pixels)] == [6, 5, 4, 3, 2, 1, 0]
    assert all(batch.labels is None and batch.boxes is None for batch in batches)
    assert max(len(batch.pixels) for batch in batches) == min(batch_size, COUNT)


def test_pixels_are_float_between_0_and_1(photos: Photos) -> None:
    pixels = photos.batch([0], SIZE).pixels
    assert pixels.shape == (1, 3, *SIZE)
    assert pixels.dtype == torch.float32
    assert torch.allclose(pixels, torch.full_like(pixels, 60 / 255))


def test_annotations_are_in_the_frame_of_the_batch(photos: Photos) -> None:
    batch = photos.batch([photos.images.index("p2"), 0], SIZE)
    assert batch.boxes is not None
    assert batch.landmarks is not None
    assert batch.masks is not None
    assert batch.boxes[0].tolist() == [10, 10, 30, 20]
    assert batch.landmarks[0, 1].tolist() == [20, 5]
    assert batch.masks.shape == (2, 1, *SIZE)
    assert batch.masks.amin(dim=(1, 2, 3)).tolist() == [1, 0]
    assert bool(batch.boxes[1].isnan().all())
    assert bool(batch.landmarks[1].isnan().all())


def test_a_batch_moves_whole(photos: Photos) -> None:
    with_species = replace(photos, species=np.arange(len(photos)))
    batch = with_species.batch([4], SIZE).to(torch.device("meta"))
    assert all(value.device.type == "meta" for value in vars(batch).values())
    moved = photos.bare().batch([4], SIZE).to(torch.device("meta"))
    assert moved.labels is None
    assert moved.pixels.device.type == "meta"
