"""Photos altered to find out what a score is owed to: painted over, mirrored, or one place hidden at a time.

The method sees altered pixels only; where the animal is, the harness knows from annotations. Hiding one place
at a time is Zeiler & Fergus 2014; so Lau (2016) found his first whale network looking at the waves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from whalebench.benchmarks.core.arrays import blocks
from whalebench.benchmarks.core.photos import Batch, Photos, Size
from whalebench.methods.parts.geometry import warp
from whalebench.methods.parts.pipeline import Pipeline
from whalebench.reports.metrics.calibration import Calibration

GREY = 0.5
BATCH = 64
"""Photos that are looked at together for the mean background."""
CLIP = 1e-15
"""As in log loss."""
MAP_SIZE = (120, 180)
"""Height and width of a heat map, over the whole photo."""

Heat = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Regions:
    """Where the animal is in some photos: its mask where there is one, else a rectangle."""

    annotated: Photos
    boxes: NDArray[np.float32]
    """(photos, 4), x0, y0, x1, y1 as shares; NaN where a photo has neither box nor landmarks."""
    kinds: NDArray[np.str_]
    """(photos,), mask, box, landmarks or none."""

    def select(self, indices: NDArray[np.int64]) -> Regions:
        """The regions of the photos at some places, in that order."""
        return Regions(self.annotated.select(indices), self.boxes[indices], self.kinds[indices])

    def shares(self, indices: NDArray[np.int64], size: Size) -> Tensor:
        """How much of each pixel is the animal: (photos, 1, height, width) in [0, 1]."""
        covered = covered_by(torch.from_numpy(self.boxes[indices]), size)
        masked = np.flatnonzero(self.kinds[indices] == "mask")
        if len(masked):
            masks = self.annotated.batch(indices[masked], size).masks
            assert masks is not None
            covered[masked] = (masks >= 0.5).float()  # specks of compression are no animal
        return covered


def find_regions(annotated: Photos) -> Regions:
    """Where the animal is in annotated photos: mask, else box, else the rectangle round the landmarks.

    The rectangle is pushed outwards by half its longer side in pixels, since two landmarks span none.
    """
    notes, rows = annotated.annotations, annotated.rows
    assert notes is not None
    boxes, marks = notes.boxes[rows], _round_landmarks(notes.landmarks[rows], annotated.shapes)
    kinds = np.full(len(rows), "none", dtype="<U9")
    # The better ones come later and have the last word.
    kinds[~np.isnan(marks[:, 0])] = "landmarks"
    kinds[~np.isnan(boxes[:, 0])] = "box"
    kinds[notes.has_mask[rows]] = "mask"
    return Regions(annotated, np.where(np.isnan(boxes[:, :1]), marks, boxes), kinds)


def covered_by(boxes: Tensor, size: Size) -> Tensor:
    """The share of each pixel that a box (photos, 4; shares of the photo) covers: (photos, 1, height, width).

    NaN boxes cover nothing.
    """
    height, width = size
    across, down = torch.arange(width), torch.arange(height)
    left, upper, right, lower = (side[:, None] for side in boxes.nan_to_num(0.0).double().unbind(1))
    in_x = (torch.minimum(right * width, across + 1) - torch.maximum(left * width, across)).clamp(0, 1)
    in_y = (torch.minimum(lower * height, down + 1) - torch.maximum(upper * height, down)).clamp(0, 1)
    return (in_y[:, :, None] * in_x[:, None, :])[:, None].float()


def _round_landmarks(landmarks: NDArray[np.float32], shapes: NDArray[np.int64]) -> NDArray[np.float32]:
    """Rectangles (photos, 4) as shares, cut at the photo; NaN with fewer than two landmarks apart."""
    scale = shapes[:, None, ::-1].astype(np.float64)
    points = landmarks * scale
    annotated = np.isfinite(points).all(axis=2, keepdims=True)
    low = np.where(annotated, points, np.inf).min(axis=1, initial=np.inf)
    high = np.where(annotated, points, -np.inf).max(axis=1, initial=-np.inf)
    longer = (high - low).max(axis=1, keepdims=True)
    ends = np.concatenate([low - longer / 2, high + longer / 2], axis=1)
    boxes = np.clip(ends / np.tile(scale[:, 0], 2), 0, 1)
    return np.where(longer > 0, boxes, np.nan).astype(np.float32)


def mirrored(photos: Photos) -> Photos:
    """The photos through a mirror; where annotations are shown, those that can be read are mirrored too."""
    seen = photos.through(Mirror())
    if photos.annotations is None:
        return seen
    boxes, landmarks = photos.annotations.boxes.copy(), photos.annotations.landmarks.copy()
    boxes[:, [0, 2]], landmarks[..., 0] = 1 - boxes[:, [2, 0]], 1 - landmarks[..., 0]
    return replace(seen, annotations=replace(photos.annotations, boxes=boxes, landmarks=landmarks))


def alterations(
    test: Photos, regions: Regions, shown: NDArray[np.int64], size: Size
) -> dict[str, tuple[NDArray[np.int64], Photos]]:
    """By name of the alteration: which test photos, and how the method sees them.

    The animals of those at `shown`, or what is round these, are painted over; the others have no region.
    """
    altered = {"mirrored": (np.arange(len(test)), mirrored(test))}
    if len(shown):
        seen, where = test.select(shown), regions.select(shown)
        altered["without_background"] = (shown, without_background(seen, where, size))
        altered["without_animal"] = (shown, seen.through(PaintedOver(where, "animal")))
    return altered


def without_background(photos: Photos, regions: Regions, size: Size) -> Photos:
    """The photos with nothing but their animals, on the mean background of them all, as seen at some size.

    Any colour of the photo's own would mislead: that of its background tells what is to be hidden, that of
    its animal drowns the outline (MAP@5 of `softmax` on `flukes` is 0.26 then, and 0.40 so).
    """
    total, count = torch.zeros(3), torch.zeros(())
    for part in blocks(len(photos), BATCH):
        indices = np.arange(part.start, part.stop)
        background = 1 - regions.shares(indices, size)
        total += (photos.batch(indices, size).pixels * background).sum(dim=(0, 2, 3))
        count += background.sum()
    colour = total / count if count else torch.full((3,), GREY)
    return photos.through(PaintedOver(regions, "background", colour))


@dataclass(frozen=True)
class Occlusion:
    """What hiding each part of one photo does to the log probability of one individual."""

    heat: Heat
    """(height, width) over the whole photo: how much it falls when that place is hidden, in nats."""
    largest: float
    """The largest fall at any place of the box."""
    on_animal: float | None
    """Share of all falls that is on the animal, in [0, 1]; None where the animal is not annotated."""
    animal: float | None
    """Share of the photo that is the animal: what `on_animal` would be by chance."""


def occlude(
    method: Pipeline, photo: Photos, column: int, calibration: Calibration, *, side: float, region: Regions
) -> Occlusion:
    """What hiding parts of a photo does to the probability of the individual in a column of the scores.

    photo is one photo as the method may see it; the box is `side` of its width wide and of its height high
    and moves by at most half of that. Every altered photo is scored from the beginning, crop and all, so a
    finder that is misled counts.
    """
    boxes = sliding_boxes(side)
    # The photo as it is comes first, under a box of no size.
    shown = np.concatenate([np.zeros((1, 4), np.float32), boxes])
    altered = photo.select(np.zeros(len(shown), np.int64)).through(Occluded(shown))
    probabilities = calibration.probabilities(np.asarray(method.score(altered), np.float32))[:, column]
    logs = np.log(np.clip(probabilities, CLIP, None))
    drops = logs[0] - logs[1:]
    heat = spread(drops, boxes)
    falls = heat.clip(0, None)
    animal = region.shares(np.zeros(1, np.int64), MAP_SIZE)[0, 0].numpy()
    known = region.kinds[0] != "none" and animal.any()
    on_animal = float((falls * animal).sum() / falls.sum()) if known and falls.sum() > 0 else None
    return Occlusion(heat, float(drops.max()), on_animal, float(animal.mean()) if known else None)


def sliding_boxes(side: float) -> NDArray[np.float32]:
    """Boxes (places, 4), x0, y0, x1, y1 as shares, that cover a photo from edge to edge, half overlapping.

    >>> sliding_boxes(0.5)[:3, 0]
    array([0.  , 0.25, 0.5 ], dtype=float32)
    """
    starts = np.linspace(0, 1 - side, math.ceil((1 - side) / (side / 2) - 1e-9) + 1)
    upper, left = (each.ravel() for each in np.meshgrid(starts, starts, indexing="ij"))
    return np.stack([left, upper, left + side, upper + side], axis=1).astype(np.float32)


def spread(drops: Heat, boxes: NDArray[np.float32]) -> Heat:
    """The mean drop (height, width) of all boxes (places, 4) over each pixel of the map."""
    covered = covered_by(torch.from_numpy(boxes), MAP_SIZE)[:, 0].double().numpy()
    heat: Heat = np.tensordot(drops, covered, axes=1) / covered.sum(axis=0).clip(1e-9)
    return heat


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
        if self.colour is None:
            count = (~hidden).sum(dim=(2, 3), keepdim=True)
            mean = (batch.pixels * ~hidden).sum(dim=(2, 3), keepdim=True) / count.clamp(min=1)
            paint = torch.where(count > 0, mean, GREY)
        else:
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


def _rectangles(inside: Tensor) -> Tensor:
    """The upright rectangle round what is inside, of each photo: (photos, 1, height, width)."""
    rows, columns = inside.any(dim=3, keepdim=True), inside.any(dim=2, keepdim=True)

    def between(line: Tensor, dim: int) -> Tensor:
        begun = line.cumsum(dim) > 0
        return begun & line.flip(dim).cumsum(dim).gt(0).flip(dim)

    return between(rows, 2) & between(columns, 3)
