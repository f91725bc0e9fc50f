"""Affine geometry of whole batches: one map a photo moves pixels, boxes, landmarks and masks together.

A map is (photos, 2, 3) and works in *frame units*: -1 to 1 across the frame both ways, as affine_grid has
them, so it does not depend on the resolution. It is named for its direction, from old to new positions."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from whalebench.benchmarks.core.photos import Batch, Size

Outside = Literal["reflection", "border", "zeros"]
"""What is seen where a photo has ended: its mirror image, its last pixels, or black."""


def warp(batch: Batch, forward: Tensor, size: Size | None = None, outside: Outside = "reflection") -> Batch:
    """The batch under maps (photos, 2, 3), in a frame of size (height, width), its own unless given.

    A mask is empty outside the photo, in a fourth channel, too. A box becomes the upright box round its
    turned corners, cut at the frame.
    """
    height, width = size or batch.pixels.shape[-2:]
    grid = F.affine_grid(invert(forward), [len(forward), 1, height, width], align_corners=False)
    pixels = F.grid_sample(batch.pixels[:, :3], grid, "bilinear", outside, align_corners=False)
    if batch.pixels.shape[1] > 3:
        mask = F.grid_sample(batch.pixels[:, 3:], grid, "bilinear", "zeros", align_corners=False)
        pixels = torch.cat([pixels, mask], dim=1)
    masks = batch.masks
    if masks is not None:
        masks = F.grid_sample(masks, grid, "bilinear", "zeros", align_corners=False)
    old = to_frame_units(batch)
    landmarks = None if old.landmarks is None else to_pixels(move(old.landmarks, forward), (height, width))
    boxes = None
    if old.boxes is not None:
        corners = old.boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
        moved = move(corners, forward)
        ends = torch.stack([moved.amin(dim=1), moved.amax(dim=1)], dim=1).clamp(-1, 1)
        boxes = to_pixels(ends, (height, width)).flatten(1)
    return replace(batch, pixels=pixels, boxes=boxes, landmarks=landmarks, masks=masks)


def to_frame_units(batch: Batch) -> Batch:
    """The batch with its boxes and landmarks in frame units instead of pixels."""
    height, width = batch.pixels.shape[-2:]
    half = batch.pixels.new_tensor([width / 2, height / 2])
    boxes = None if batch.boxes is None else batch.boxes / half.repeat(2) - 1
    landmarks = None if batch.landmarks is None else batch.landmarks / half - 1
    return replace(batch, boxes=boxes, landmarks=landmarks)


def to_pixels(points: Tensor, size: Size) -> Tensor:
    """Points (..., 2) in frame units as pixels of a frame of size (height, width)."""
    return (points + 1) * points.new_tensor([size[1] / 2, size[0] / 2])


def move(points: Tensor, forward: Tensor) -> Tensor:
    """Points (photos, points, 2) in frame units under maps (photos, 2, 3)."""
    return points @ forward[:, :, :2].mT + forward[:, None, :, 2]


def invert(forward: Tensor) -> Tensor:
    """The maps that lead back; raises torch.linalg.LinAlgError for a map that flattens the frame."""
    linear = torch.linalg.inv(forward[:, :, :2])
    return torch.cat([linear, -linear @ forward[:, :, 2:]], dim=2)


def compose(first: Tensor, then: Tensor) -> Tensor:
    """The maps that do `first` and `then` one after the other."""
    linear = then[:, :, :2] @ first[:, :, :2]
    return torch.cat([linear, then[:, :, :2] @ first[:, :, 2:] + then[:, :, 2:]], dim=2)


def identity_maps(photos: int) -> Tensor:
    """Maps (photos, 2, 3), float64, that move nothing."""
    return torch.eye(2, 3, dtype=torch.float64).repeat(photos, 1, 1)


def affine_maps(
    angle: Tensor, shear: Tensor, across: Tensor, down: Tensor, shift: Tensor, aspect: float
) -> Tensor:
    """Maps (photos, 2, 3): zoom across and down, shear, turn in radians, shift (photos, 2) in frame units.

    aspect is the frame's width over its height, so that a turn is one in pixels.
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


def box_windows(boxes: Tensor) -> Tensor:
    """Maps that make each box (photos, 4; x0, y0, x1, y1 in frame units) the whole new frame."""
    low, high = boxes[:, :2], boxes[:, 2:]
    scale = 2 / (high - low)
    shift = -(low + high) / (high - low)
    return torch.cat([torch.diag_embed(scale), shift[:, :, None]], dim=2)


def fit_affine(points: Tensor, targets: Tensor) -> Tensor:
    """Maps (photos, 2, 3) that bring points (photos, n, 2) nearest to targets (n, 2), least squares, n >= 3.

    The answer of points on one line is not unique and of no use; see `is_degenerate`.
    """
    ones = torch.ones_like(points[..., :1])
    wanted = targets.to(points).expand(len(points), -1, -1)
    # gelsd gives an answer even where the points are degenerate, instead of an exception for the whole batch.
    answer = torch.linalg.lstsq(torch.cat([points, ones], dim=2), wanted, driver="gelsd")
    maps: Tensor = answer.solution.mT
    return maps


def fit_similarity(points: Tensor, targets: Tensor) -> Tensor:
    """Maps (photos, 2, 3) of turn, zoom and shift that bring points (photos, n, 2) nearest to targets (n, 2).

    Both must be in units that are equal both ways. Two points are met exactly. Coinciding points give NaN.
    """
    wanted = targets.to(points)
    middle, goal = points.mean(dim=1), wanted.mean(dim=0)
    # As complex numbers a similarity is one multiplication: the least-squares factor is a projection.
    old = torch.view_as_complex((points - middle[:, None]).contiguous())
    new = torch.view_as_complex((wanted - goal).contiguous())
    factor = (old.conj() * new).sum(dim=1) / (old.conj() * old).sum(dim=1)
    linear = torch.stack([factor.real, -factor.imag, factor.imag, factor.real], dim=1).reshape(-1, 2, 2)
    shift = goal - (linear @ middle[:, :, None])[:, :, 0]
    return torch.cat([linear, shift[:, :, None]], dim=2)


def is_degenerate(forward: Tensor, largest: float = 100.0) -> Tensor:
    """Which maps (photos,) are of no use: not finite, mirrored, or stretching more than `largest` times."""
    linear = forward[:, :, :2]
    finite = forward.flatten(1).isfinite().all(dim=1)
    safe = torch.where(finite[:, None, None], linear, torch.eye(2, dtype=linear.dtype))
    stretch = torch.linalg.svdvals(safe)
    bad = (torch.linalg.det(safe) <= 0) | (stretch.amax(1) > largest) | (stretch.amin(1) < 1 / largest)
    useless: Tensor = ~finite | bad
    return useless
