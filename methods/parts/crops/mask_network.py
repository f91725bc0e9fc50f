"""The segmenter's network, an encoder with a U-Net decoder and a hypercolumn, and the losses of its masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from whalebench.methods.parts.crops.finder import convolution
from whalebench.methods.parts.networks.backbones import Encoder
from whalebench.methods.parts.networks.pooling import cell_means

LEVELS = 0.5
"""Weight of the decoder's own masks beside the final one."""
CROSS_ENTROPY, DICE = 0.9, 0.5
"""Weights of the two losses of the warm-up."""


def lovasz_hinge(logits: Tensor, masks: Tensor) -> Tensor:
    """The Lovász hinge, mean over photos, of logits (photos, ...) against masks of the same shape.

    A logit above 0 says animal; a mask of 0.5 and more is animal. The loss is the Lovász extension of one
    minus the intersection over union, applied to hinge errors: 0 where every logit is right by 1 and more.
    A photo without animal costs its worst error. (Berman, Rannen Triki and Blaschko, 2018.)

    >>> animal = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    >>> lovasz_hinge(torch.tensor([[2.0, 3.0, -2.0, -3.0]]), animal).item()  # everything is right
    0.0
    >>> lovasz_hinge(torch.tensor([[2.0, -1.0, -2.0, -3.0]]), animal).item()  # half the animal is missed
    1.0
    """
    truth = (masks.flatten(1) >= 0.5).float()
    errors = 1 - logits.float().flatten(1) * (2 * truth - 1)
    ordered, order = errors.sort(dim=1, descending=True)
    return (F.relu(ordered) * jaccard_steps(truth.gather(1, order))).sum(dim=1).mean()


def jaccard_steps(truth: Tensor) -> Tensor:
    """By how much one minus the IoU rises as pixels (photos, pixels) become wrong one after the other.

    truth is 1 on the animal and 0 elsewhere.
    """
    animal = truth.sum(dim=1, keepdim=True)
    shared = animal - truth.cumsum(dim=1)
    united = animal + (1 - truth).cumsum(dim=1)
    return torch.diff(1 - shared / united, dim=1, prepend=torch.zeros_like(animal))


def dice_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """One minus the Dice coefficient of probabilities and masks, smoothed by one pixel, mean over photos."""
    probabilities, truth = logits.float().sigmoid().flatten(1), masks.flatten(1)
    shared = (probabilities * truth).sum(dim=1)
    return (1 - (2 * shared + 1) / (probabilities.sum(dim=1) + truth.sum(dim=1) + 1)).mean()


class MaskLoss(nn.Module):
    """The loss of the final mask and, at half the weight, of the masks of the decoder's levels.

    As in the fourth place of the TGS salt challenge: cross-entropy and Dice to warm up, because the Lovász
    hinge is slow from scratch, then the hinge. There the half was on a second mask, of photos that are not
    empty, beside a small loss of empty or not. Here no photo that is learned from is empty, and both would
    have nothing to add: the half goes to the levels, whose supervision was the point of it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.warming_up = True

    def forward(self, outputs: Sequence[Tensor], masks: Tensor) -> Tensor:
        """Loss of logits (photos, 1, height, width), the final ones first, under masks in [0, 1]."""
        final, *levels = (self._loss(logits, masks) for logits in outputs)
        return final + LEVELS * torch.stack(levels).mean() if levels else final

    def _loss(self, logits: Tensor, masks: Tensor) -> Tensor:
        height, width = logits.shape[-2:]
        truth = masks if masks.shape == logits.shape else cell_means(masks, (height, width))
        if not self.warming_up:
            return lovasz_hinge(logits, truth)
        entropy = F.binary_cross_entropy_with_logits(logits.float(), truth.clamp(0, 1))
        return CROSS_ENTROPY * entropy + DICE * dice_loss(logits, truth)


class MaskNetwork(nn.Module):
    """Encoder, U-Net decoder (Ronneberger et al., 2015) and hypercolumn, as the fourth of TGS salt had it."""

    def __init__(self, encoder: Encoder, width: int, dropout: float) -> None:
        """width: channels of every level; dropout: share of the hypercolumn's channels left out."""
        super().__init__()
        self.encoder = encoder
        fine_to_coarse = encoder.channels
        inputs = [fine_to_coarse[-1], *(width + skip for skip in fine_to_coarse[-2::-1])]
        self.levels = nn.ModuleList(Level(channels, width) for channels in inputs)
        self.own_masks = nn.ModuleList(nn.Conv2d(width, 1, 1) for _ in inputs)
        self.mask = nn.Sequential(
            nn.Dropout2d(dropout),
            *convolution(width * len(inputs), width),
            nn.Conv2d(width, 1, 1),
        )

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Logits (photos, 1, height, width) of pixels (photos, 3, height, width).

        In training they are followed by the logits of each level at its own resolution, coarse to fine.
        """
        coarse, *skips = reversed(self.encoder(pixels))
        decoded = [self.levels[0](coarse)]
        for level, skip in zip(list(self.levels)[1:], skips, strict=True):
            decoded.append(level(torch.cat([_resized(decoded[-1], skip), skip], dim=1)))
        # The hypercolumn (Hariharan et al., 2015): every pixel is decided by the features of all levels.
        column = torch.cat([_resized(features, decoded[-1]) for features in decoded], dim=1)
        logits = _resized(self.mask(column), pixels)
        if not self.training:
            return [logits]
        return [logits, *(head(features) for head, features in zip(self.own_masks, decoded, strict=True))]


class Level(nn.Module):
    """Two 3 x 3 convolutions and concurrent spatial and channel squeeze and excitation."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        twice = *convolution(channels_in, channels_out), *convolution(channels_out, channels_out)
        self.convolutions = nn.Sequential(*twice)
        self.excitation = SpatialAndChannelExcitation(channels_out)

    def forward(self, features: Tensor) -> Tensor:
        """The level's feature map."""
        excited: Tensor = self.excitation(self.convolutions(features))
        return excited


class SpatialAndChannelExcitation(nn.Module):
    """scSE (Roy, Navab and Wachinger, 2018): features are weighted by position and by channel."""

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
    """Features (photos, channels, h, w), resized to the resolution of another map."""
    if features.shape[-2:] == like.shape[-2:]:
        return features
    return F.interpolate(features, like.shape[-2:], mode="bilinear", align_corners=False)
