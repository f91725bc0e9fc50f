"""The crop as a lens: a window of each photo, cut out of it batch by batch, on the device."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from whalebench.benchmarks.photos import Batch, Photos, Size
from whalebench.methods.parts.transforms.geometry import Outside, warp

Background = Literal["kept", "blurred", "removed"]

BLUR = 1 / 16
"""Side of the mean that blurs a background, as a share of the photo's longer side."""


@dataclass(frozen=True, eq=False)
class Crop:
    """A lens that shows one window of each photo, its background kept, blurred or removed."""

    windows: Tensor
    """(photos, 2, 3), maps from the whole photo to the window, both in frame units."""
    source: Size
    """Height and width at which whole photos are read to cut windows out of them."""
    masks: NDArray[np.uint8] | None = None
    """(photos, height, width) over whole photos, 255 on the animal; needed for what follows."""
    background: Background = "kept"
    mask_channel: bool = False
    """Whether the mask is shown as a fourth channel."""
    outside: Outside = "reflection"
    """What is seen where the photo has ended."""

    def select(self, indices: NDArray[np.int64]) -> Crop:
        """The crop of the photos at some places, in that order."""
        masks = None if self.masks is None else self.masks[indices]
        return replace(self, windows=self.windows[torch.from_numpy(indices)], masks=masks)

    def look(self, behind: Photos, indices: NDArray[np.int64], size: Size, device: torch.device) -> Batch:
        """The windows of the photos at some places, resized to size; annotations are cut with the pixels."""
        batch = behind.batch(indices, self.source, device)
        if self.masks is not None:
            batch = self._with_mask(batch, self.masks[indices])
        windows = self.windows[torch.from_numpy(indices)].to(device, torch.float32)
        # A bilinear sample sees two source pixels each way; where more go into one, several are averaged.
        finer = max(1, math.ceil(max(self.source[0] / size[0], self.source[1] / size[1]) / 2))
        seen = warp(batch, windows, (size[0] * finer, size[1] * finer), self.outside)
        return _coarser(seen, finer) if finer > 1 else seen

    def _with_mask(self, batch: Batch, masks: NDArray[np.uint8]) -> Batch:
        found = torch.from_numpy(masks)[:, None].to(batch.pixels.device).float().div_(255)
        mask = F.interpolate(found, batch.pixels.shape[-2:], mode="bilinear", align_corners=False)
        pixels = batch.pixels
        if self.background != "kept":
            pixels = torch.lerp(_backdrop(pixels, self.background), pixels, mask)
        return replace(batch, pixels=torch.cat([pixels, mask], dim=1) if self.mask_channel else pixels)


def _backdrop(pixels: Tensor, background: Background) -> Tensor:
    """What stands where the animal is not: its photo blurred, or its photo's mean colour."""
    if background == "removed":
        return pixels.mean(dim=(2, 3), keepdim=True).expand_as(pixels)
    side = max(1, round(max(pixels.shape[-2:]) * BLUR)) // 2 * 2 + 1
    blurred = F.avg_pool2d(pixels, side, stride=1, padding=side // 2, count_include_pad=False)
    return F.avg_pool2d(blurred, side, stride=1, padding=side // 2, count_include_pad=False)


def _coarser(batch: Batch, factor: int) -> Batch:
    """The batch with factor x factor pixels averaged into one."""
    masks = None if batch.masks is None else F.avg_pool2d(batch.masks, factor)
    boxes = None if batch.boxes is None else batch.boxes / factor
    landmarks = None if batch.landmarks is None else batch.landmarks / factor
    pixels = F.avg_pool2d(batch.pixels, factor)
    return replace(batch, pixels=pixels, boxes=boxes, landmarks=landmarks, masks=masks)
