"""A U-Net: an encoder's maps put together again, from coarse to fine, until every pixel has its answer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from whalebench.methods.parts.networks.encoder import Encoder


class MaskNetwork(nn.Module):
    """Encoder, U-Net decoder (Ronneberger et al., 2015) and hypercolumn, as the fourth of TGS salt had it."""

    def __init__(self, encoder: Encoder, width: int, dropout: float) -> None:
        """width is the number of channels of every level; dropout the share of the hypercolumn's left out."""
        super().__init__()
        self.encoder = encoder
        fine_to_coarse = encoder.channels
        inputs = [fine_to_coarse[-1], *(width + skip for skip in fine_to_coarse[-2::-1])]
        self.levels = nn.ModuleList(Level(channels, width) for channels in inputs)
        self.own_masks = nn.ModuleList(nn.Conv2d(width, 1, 1) for _ in inputs)
        self.mask = nn.Sequential(
            nn.Dropout2d(dropout),
            nn.Conv2d(width * len(inputs), width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, 1, 1),
        )

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Logits (photos, 1, height, width) of pixels (photos, 3, height, width), and in training more:
        behind them what each level of the decoder says at its own resolution, coarse to fine."""
        coarse, *skips = reversed(self.encoder(pixels))
        found = [self.levels[0](coarse)]
        for level, skip in zip(list(self.levels)[1:], skips, strict=True):
            found.append(level(torch.cat([_resized(found[-1], skip), skip], dim=1)))
        # The hypercolumn (Hariharan et al., 2015): every level has its say in every pixel.
        column = torch.cat([_resized(features, found[-1]) for features in found], dim=1)
        logits = _resized(self.mask(column), pixels)
        if not self.training:
            return [logits]
        return [logits, *(own(features) for own, features in zip(self.own_masks, found, strict=True))]


class Level(nn.Module):
    """Two 3 x 3 convolutions and concurrent spatial and channel squeeze and excitation."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
        )
        self.excitation = SpatialAndChannelExcitation(channels_out)

    def forward(self, features: Tensor) -> Tensor:
        """The level's feature map."""
        excited: Tensor = self.excitation(self.convolutions(features))
        return excited


class SpatialAndChannelExcitation(nn.Module):
    """scSE (Roy, Navab and Wachinger, 2018): what matters is turned up, by place and by channel."""

    def __init__(self, channels: int, reduction: int = 2) -> None:
        super().__init__()
        inside = max(1, channels // reduction)
        self.by_channel = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, inside, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(inside, channels, 1),
            nn.Sigmoid(),
        )
        self.by_place = nn.Sequential(nn.Conv2d(channels, 1, 1, bias=False), nn.Sigmoid())

    def forward(self, features: Tensor) -> Tensor:
        """Features (photos, channels, height, width) times the sum of both factors."""
        weighted: Tensor = features * (self.by_channel(features) + self.by_place(features))
        return weighted


def _resized(features: Tensor, like: Tensor) -> Tensor:
    """Features (photos, channels, h, w) at the resolution of another map."""
    if features.shape[-2:] == like.shape[-2:]:
        return features
    return F.interpolate(features, like.shape[-2:], mode="bilinear", align_corners=False)
