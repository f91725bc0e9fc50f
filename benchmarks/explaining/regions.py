"""Where the animal is in annotated photos: the harness's knowledge, for altering photos and judging maps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from whalebench.benchmarks.photos import Photos, Size


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
    said = np.isfinite(points).all(axis=2, keepdims=True)
    low = np.where(said, points, np.inf).min(axis=1, initial=np.inf)
    high = np.where(said, points, -np.inf).max(axis=1, initial=-np.inf)
    longer = (high - low).max(axis=1, keepdims=True)
    ends = np.concatenate([low - longer / 2, high + longer / 2], axis=1)
    boxes = np.clip(ends / np.tile(scale[:, 0], 2), 0, 1)
    return np.where(longer > 0, boxes, np.nan).astype(np.float32)
