"""Lenses that alter photos to find out what a score is owed to: parts painted over, and a mirror.

The method sees altered pixels only; where the animal is, the harness knows from annotations.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from whalebench.benchmarks.explaining.regions import Regions, covered_by
from whalebench.benchmarks.photos import Batch, Photos, Size
from whalebench.methods.parts.transforms.geometry import warp

GREY = 0.5
BATCH = 64


@dataclass(frozen=True, eq=False)
class PaintedOver:
    """A lens that paints over the animal, or everything round it, in a colour that tells nothing of it.

    Resizing has mixed neighbouring pixels, so the paint reaches one pixel further. Of a masked animal the
    upright rectangle is painted: its outline would tell who it is.
    """

    regions: Regions
    over: Literal["animal", "background"]
    colour: Tensor | None = None
    """(3,), the same for all photos; none: the mean of what is left of each."""

    def select(self, indices: NDArray[np.int64]) -> PaintedOver:
        """The lens for the photos at some places, in that order."""
        return replace(self, regions=self.regions.select(indices))

    def look(self, behind: Photos, indices: NDArray[np.int64], size: Size, device: torch.device) -> Batch:
        """The photos at some places, painted over."""
        shares = self.regions.shares(indices, size)
        hidden = shares < 0.99 if self.over == "background" else _rectangles(shares > 0.01)
        hidden = (F.max_pool2d(hidden.float(), 3, stride=1, padding=1) > 0).to(device)
        batch = behind.batch(indices, size, device)
        paint = _mean_colour(batch.pixels, ~hidden)
        if self.colour is not None:
            paint = self.colour.to(device)[:, None, None]
        return replace(batch, pixels=torch.where(hidden, paint, batch.pixels))


@dataclass(frozen=True, eq=False)
class Occluded:
    """A lens that hides one box of each photo behind grey."""

    boxes: NDArray[np.float32]
    """(photos, 4), x0, y0, x1, y1 as shares."""

    def select(self, indices: NDArray[np.int64]) -> Occluded:
        """The lens for the photos at some places, in that order."""
        return Occluded(self.boxes[indices])

    def look(self, behind: Photos, indices: NDArray[np.int64], size: Size, device: torch.device) -> Batch:
        """The photos at some places with their boxes hidden, as far as the box covers each pixel."""
        batch = behind.batch(indices, size, device)
        covered = covered_by(torch.from_numpy(self.boxes[indices]), size).to(device)
        return replace(batch, pixels=torch.lerp(batch.pixels, torch.full_like(batch.pixels, GREY), covered))


@dataclass(frozen=True, eq=False)
class Mirror:
    """A lens that swaps left and right of pixels and of what is annotated on them."""

    def select(self, indices: NDArray[np.int64]) -> Mirror:
        """The same mirror."""
        del indices
        return self

    def look(self, behind: Photos, indices: NDArray[np.int64], size: Size, device: torch.device) -> Batch:
        """The photos at some places, mirrored."""
        left_for_right = torch.tensor([[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], device=device)
        return warp(behind.batch(indices, size, device), left_for_right.expand(len(indices), 2, 3))


def mirrored(photos: Photos) -> Photos:
    """The photos through a mirror; where annotations are shown, those that can be read are mirrored too."""
    seen = photos.through(Mirror())
    if photos.annotations is None:
        return seen
    boxes, landmarks = photos.annotations.boxes.copy(), photos.annotations.landmarks.copy()
    boxes[:, [0, 2]], landmarks[..., 0] = 1 - boxes[:, [2, 0]], 1 - landmarks[..., 0]
    return replace(seen, annotations=replace(photos.annotations, boxes=boxes, landmarks=landmarks))


def without_animal(photos: Photos, regions: Regions) -> Photos:
    """The photos without their animals, which are painted over in the mean colour of what is round them."""
    return photos.through(PaintedOver(regions, "animal"))


def without_background(photos: Photos, regions: Regions, size: Size) -> Photos:
    """The photos with nothing but their animals, on the mean background of them all, as seen at some size.

    Any colour of the photo's own would mislead: that of its background tells what is to be hidden, that of
    its animal drowns the outline (MAP@5 of `softmax` on `flukes` is 0.26 then, and 0.40 so).
    """
    total, count = torch.zeros(3), torch.zeros(())
    for start in range(0, len(photos), BATCH):
        indices = np.arange(start, min(start + BATCH, len(photos)))
        background = 1 - regions.shares(indices, size)
        total += (photos.batch(indices, size).pixels * background).sum(dim=(0, 2, 3))
        count += background.sum()
    colour = total / count if count else torch.full((3,), GREY)
    return photos.through(PaintedOver(regions, "background", colour))


def _rectangles(inside: Tensor) -> Tensor:
    """The upright rectangle round what is inside, of each photo: (photos, 1, height, width)."""
    rows, columns = inside.any(dim=3, keepdim=True), inside.any(dim=2, keepdim=True)

    def between(line: Tensor, dim: int) -> Tensor:
        begun = line.cumsum(dim) > 0
        return begun & line.flip(dim).cumsum(dim).gt(0).flip(dim)

    return between(rows, 2) & between(columns, 3)


def _mean_colour(pixels: Tensor, where: Tensor) -> Tensor:
    """Mean (photos, channels, 1, 1) of the pixels somewhere, grey where that is nowhere."""
    count = where.sum(dim=(2, 3), keepdim=True)
    mean = (pixels * where).sum(dim=(2, 3), keepdim=True) / count.clamp(min=1)
    return torch.where(count > 0, mean, GREY)
