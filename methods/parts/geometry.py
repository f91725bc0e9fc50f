"""Affine geometry of whole batches: one matrix a photo moves pixels, boxes, landmarks and masks together.

Matrices (photos, 2, 3) lead from old to new positions in *normalised coordinates*: -1 to 1 across the frame
both ways, as torch's affine_grid has them, so they do not depend on the resolution.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from whalebench.benchmarks.core.photos import Batch, Size

Outside = Literal["reflection", "border", "zeros"]
"""What is seen where a photo has ended: its mirror image, its last pixels, or black."""
CORNERS = ((-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0))
"""Of a frame, in its normalised coordinates, clockwise from the upper left."""


def warp(batch: Batch, forward: Tensor, size: Size | None = None, outside: Outside = "reflection") -> Batch:
    """The batch transformed by matrices (photos, 2, 3), in a frame of size (height, width) or its own.

    A mask, also as a fourth channel, is empty outside the photo. A box becomes the upright box round its
    turned corners, cut at the frame.
    """
    height, width = size or batch.pixels.shape[-2:]
    grid = _sampled_at(invert(forward), (height, width))

    def sample(images: Tensor, outside: Outside) -> Tensor:
        return F.grid_sample(images, grid, "bilinear", outside, align_corners=False)

    pixels = sample(batch.pixels[:, :3], outside)
    if batch.pixels.shape[1] > 3:
        pixels = torch.cat([pixels, sample(batch.pixels[:, 3:], "zeros")], dim=1)
    unread = replace(batch, reader=None)  # they are moved along, and nobody looks at them
    masks = None if unread.masks is None else sample(unread.masks, "zeros")
    landmarks = boxes = None
    if unread.landmarks is not None:
        landmarks = to_pixels(transform_points(normalised_landmarks(unread), forward), (height, width))
    if unread.boxes is not None:
        corners = normalised_boxes(unread)[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
        moved = transform_points(corners, forward)
        ends = torch.stack([moved.amin(dim=1), moved.amax(dim=1)], dim=1).clamp(-1, 1)
        boxes = to_pixels(ends, (height, width)).flatten(1)
    return replace(batch, pixels=pixels, boxes=boxes, landmarks=landmarks, masks=masks)


def _sampled_at(back: Tensor, size: Size) -> Tensor:
    """Where matrices (photos, 2, 3) bring the middles of a frame's pixels (photos, height, width, 2).

    As torch's affine_grid, but one sum a pixel: what comes of its row and what of its column.
    """
    down, across = ((2 * torch.arange(side).to(back) + 1) / side - 1 for side in size)
    of_columns = across[:, None] * back[:, None, :, 0] + back[:, None, :, 2]
    of_rows = down[:, None] * back[:, None, :, 1]
    # As complex numbers, because sums over a last axis of two are slow.
    columns, rows = (torch.view_as_complex(each.contiguous()) for each in (of_columns, of_rows))
    return torch.view_as_real(columns[:, None] + rows[:, :, None])


def normalised_boxes(batch: Batch) -> Tensor:
    """The batch's boxes (photos, 4) in normalised coordinates."""
    assert batch.boxes is not None
    return batch.boxes / _half_frame(batch).repeat(2) - 1


def normalised_landmarks(batch: Batch) -> Tensor:
    """The batch's landmarks (photos, landmarks, 2) in normalised coordinates."""
    assert batch.landmarks is not None
    return batch.landmarks / _half_frame(batch) - 1


def _half_frame(batch: Batch) -> Tensor:
    height, width = batch.pixels.shape[-2:]
    return batch.pixels.new_tensor([width / 2, height / 2])


def to_pixels(points: Tensor, size: Size) -> Tensor:
    """Points (..., 2) in normalised coordinates as pixels of a frame of size (height, width)."""
    return (points + 1) * points.new_tensor([size[1] / 2, size[0] / 2])


def transform_points(points: Tensor, forward: Tensor) -> Tensor:
    """Points (photos, points, 2) in normalised coordinates, transformed by matrices (photos, 2, 3)."""
    return points @ forward[:, :, :2].mT + forward[:, None, :, 2]


def transform_corners(forward: Tensor) -> Tensor:
    """Where matrices (photos, 2, 3) bring the CORNERS (photos, 4, 2) of the frame."""
    return transform_points(forward.new_tensor(CORNERS).expand(len(forward), -1, -1), forward)


def invert(forward: Tensor) -> Tensor:
    """The inverse matrices (photos, 2, 3); torch.linalg.LinAlgError for one that flattens the frame."""
    linear = torch.linalg.inv(forward[:, :, :2])
    return torch.cat([linear, -linear @ forward[:, :, 2:]], dim=2)


def frame_in_shares(forward: Tensor) -> Tensor:
    """Matrices (photos, 2, 3) from the unit square of the new frame to shares of the old one's sides.

    Those of a page or a drawing: 0 to 1 across the frame both ways, the upper left corner at 0.
    """
    back = invert(forward)
    linear, shift = back[:, :, :2], back[:, :, 2:]
    return torch.cat([linear, (shift + 1 - linear.sum(dim=2, keepdim=True)) / 2], dim=2)


def compose(first: Tensor, then: Tensor) -> Tensor:
    """The matrices (photos, 2, 3) that apply `first`, and `then` to what it gives."""
    linear = then[:, :, :2] @ first[:, :, :2]
    return torch.cat([linear, then[:, :, :2] @ first[:, :, 2:] + then[:, :, 2:]], dim=2)


def affine_matrices(
    angle: Tensor, shear: Tensor, across: Tensor, down: Tensor, shift: Tensor, aspect: float
) -> Tensor:
    """Matrices (photos, 2, 3) that zoom across and down, shear, turn and shift; angles are in radians.

    shift (photos, 2) is in normalised coordinates. aspect is the frame's width over its height, so that a
    turn is one in pixels.
    """
    cos, sin, tan = torch.cos(angle), torch.sin(angle), torch.tan(shear)
    # Coordinates run from -1 to 1 both ways, so what passes from one axis to the other has the aspect in it.
    rows = [
        across * cos,
        down * (cos * tan - sin) / aspect,
        shift[:, 0],
        across * sin * aspect,
        down * (sin * tan + cos),
        shift[:, 1],
    ]
    return torch.stack(rows, dim=1).reshape(-1, 2, 3)


def crop_matrices(boxes: Tensor) -> Tensor:
    """Matrices that make each box (photos, 4), in normalised coordinates, the whole new frame."""
    low, high = boxes[:, :2], boxes[:, 2:]
    scale = 2 / (high - low)
    shift = -(low + high) / (high - low)
    return torch.cat([torch.diag_embed(scale), shift[:, :, None]], dim=2)


def fit_affine(points: Tensor, targets: Tensor) -> Tensor:
    """Matrices (photos, 2, 3) that bring points (photos, n, 2) nearest to targets (n, 2), least squares.

    n is 3 or more. For points on one line the answer is not unique and of no use; see `is_degenerate`.
    """
    ones = torch.ones_like(points[..., :1])
    goals = targets.to(points).expand(len(points), -1, -1)
    # gelsd gives an answer even where the points are degenerate, instead of an exception for the whole batch.
    answer = torch.linalg.lstsq(torch.cat([points, ones], dim=2), goals, driver="gelsd")
    matrices: Tensor = answer.solution.mT
    return matrices


def fit_similarity(points: Tensor, targets: Tensor) -> Tensor:
    """Matrices (photos, 2, 3) of turn, zoom and shift that bring points nearest to targets, least squares.

    points (photos, n, 2) and targets (n, 2) must be in units that are equal both ways. Two points are met
    exactly. Coinciding points give NaN.
    """
    targets = targets.to(points)
    centre, goal = points.mean(dim=1), targets.mean(dim=0)
    # As complex numbers a similarity is one multiplication: the least-squares factor is a projection.
    old = torch.view_as_complex((points - centre[:, None]).contiguous())
    new = torch.view_as_complex((targets - goal).contiguous())
    factor = (old.conj() * new).sum(dim=1) / (old.conj() * old).sum(dim=1)
    linear = torch.stack([factor.real, -factor.imag, factor.imag, factor.real], dim=1).reshape(-1, 2, 2)
    shift = goal - (linear @ centre[:, :, None])[:, :, 0]
    return torch.cat([linear, shift[:, :, None]], dim=2)


def is_degenerate(forward: Tensor, largest: float = 100.0) -> Tensor:
    """Whether each matrix is of no use (photos,): not finite, mirroring, or stretching beyond `largest`."""
    linear = forward[:, :, :2]
    finite = forward.flatten(1).isfinite().all(dim=1)
    safe = torch.where(finite[:, None, None], linear, torch.eye(2, dtype=linear.dtype))
    stretch = torch.linalg.svdvals(safe)
    bad = (torch.linalg.det(safe) <= 0) | (stretch.amax(1) > largest) | (stretch.amin(1) < 1 / largest)
    useless: Tensor = ~finite | bad
    return useless
