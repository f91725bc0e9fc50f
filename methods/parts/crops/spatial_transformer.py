"""A spatial transformer (Jaderberg et al., 2015): a network that chooses its own window of the photo."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from whalebench.benchmarks.photos import Batch, Photos, Size
from whalebench.methods.method import Harness
from whalebench.methods.parts.crops.finder import Finder
from whalebench.methods.parts.crops.positions import PositionConfig, PositionNetwork
from whalebench.methods.parts.networks.pooling import cell_means
from whalebench.methods.parts.training.config import PhotoSize
from whalebench.methods.parts.training.loop import train_network
from whalebench.methods.parts.transforms.augment import Augmentation
from whalebench.methods.parts.transforms.geometry import invert, move, to_frame_units

CORNERS = ((-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0))
"""Of a window in its own frame units."""
ANCHORS = ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0))
"""Three points that fix a window: its middle, and the middles of its right and its lower side."""
REACH = 2.0
"""How far an anchor can be moved from its place in the whole photo, so that windows stay within bounds."""


class TransformerConfig(PositionConfig):
    """Fields of the network that chooses the window."""

    size: PhotoSize = (80, 128)
    """Height x width in pixels at which it looks at whole photos."""
    epochs: Annotated[int, Field(ge=0)] = 30
    """Passes over the annotated training photos, before it learns together with the classifier."""

    def augmentation(self) -> Augmentation:
        """How photos are changed in these passes: as configured, but nothing hidden."""
        return replace(super().augmentation(), erase=0.0)


class WindowNetwork(PositionNetwork):
    """A network that answers with a window, by where its anchors are; at first with the whole photo."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config, len(ANCHORS))
        for parameter in self.votes.parameters():
            nn.init.zeros_(parameter)

    def forward(self, pixels: Tensor) -> Tensor:
        """Maps (photos, 2, 3), float32, from the window to the whole photo, both in frame units."""
        moved = REACH * torch.tanh(super().forward(pixels) / REACH)
        middle, right, lower = (moved + moved.new_tensor(ANCHORS)).unbind(1)
        return torch.stack([right - middle, lower - middle, middle], dim=2)


class SpatialTransformer(nn.Module):
    """The window that its network chooses, sampled so that the choice can be learned through it."""

    def __init__(self, config: TransformerConfig, source: Size, size: Size) -> None:
        """Windows have the size (height, width) where the whole photo comes in the size `source`."""
        super().__init__()
        self.choice = WindowNetwork(config)
        self.look, self.source, self.size = config.size, source, size

    def maps(self, pixels: Tensor) -> Tensor:
        """Maps (photos, 2, 3) from the window to the whole photo, of pixels (photos, 3, height, width)."""
        maps: Tensor = self.choice(cell_means(pixels, self.look))
        return maps.float()

    def forward(self, pixels: Tensor) -> Tensor:
        """Windows (photos, 3, height, width) of pixels (photos, 3, height, width), smaller than these."""
        smaller = [
            max(1, round(side * size / source))
            for side, size, source in zip(pixels.shape[-2:], self.size, self.source, strict=True)
        ]
        maps = self.maps(pixels)
        with torch.autocast(pixels.device.type, enabled=False):  # bf16 would miss by whole pixels
            grid = F.affine_grid(maps, [len(pixels), 1, *smaller], align_corners=False)
        return F.grid_sample(pixels, grid, "bilinear", "reflection", align_corners=False)


class WindowRegression(nn.Module):
    """How far the corners of windows are from where they should be."""

    def forward(self, maps: Tensor, corners: Tensor) -> Tensor:
        """Mean smooth-L1 loss of maps (photos, 2, 3) under corners (photos, 4, 2) in frame units."""
        own = maps.new_tensor(CORNERS).expand(len(maps), -1, -1)
        return F.smooth_l1_loss(move(own, maps), corners, beta=0.1)


def annotated_windows(finder: Finder, train: Photos) -> Photos:
    """The photos whose annotation gives the finder a window, with the window's corners as their landmarks.

    As landmarks they are moved by augmentation with the pixels.
    """
    annotated = train.select(np.flatnonzero(finder.annotated(train)))
    if not len(annotated) or annotated.annotations is None:
        return annotated
    finder.prepare(annotated)
    windows = finder.windows(finder.read(annotated), annotated)
    own = torch.tensor(CORNERS, dtype=windows.maps.dtype).expand(len(annotated), -1, -1)
    corners = np.full((len(annotated.annotations.boxes), len(CORNERS), 2), np.nan, np.float32)
    corners[annotated.rows] = (move(own, invert(windows.maps)).numpy() + 1) / 2
    names = tuple(f"corner {number}" for number in range(len(CORNERS)))
    shown = replace(annotated.annotations, landmarks=corners, landmark_names=names)
    return replace(annotated, annotations=shown).select(np.flatnonzero(~windows.fallback))


def learn_windows(config: TransformerConfig, windows: Photos, harness: Harness) -> WindowNetwork:
    """The network after learning windows whose corners are the photos' landmarks."""
    network, _ = train_network(
        WindowNetwork(config),
        WindowRegression(),
        windows,
        config,
        harness,
        lambda network, loss: None,
        target=_corners,
        artefact="transformer",
    )
    return network


def _corners(batch: Batch) -> Tensor:
    corners = to_frame_units(batch).landmarks
    assert corners is not None
    return corners
