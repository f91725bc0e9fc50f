"""The segmenter: a U-Net that finds the animal's mask, and the box that the mask fills.

It learns by cross-entropy and Dice at first, then by the Lovász hinge: intersection over union as a loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from whalebench.benchmarks.core.arrays import blocks
from whalebench.benchmarks.core.photos import Batch, Photos
from whalebench.methods.method import Located
from whalebench.methods.parts.augment import Augmentation
from whalebench.methods.parts.crops.finder import Background, Finder, convolution
from whalebench.methods.parts.networks.backbones import Encoder, build_encoder
from whalebench.methods.parts.networks.pooling import cell_means
from whalebench.methods.parts.training.config import PhotoSize, TrainingConfig
from whalebench.methods.parts.training.trainer import predict

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


BLOCK = 256
"""Annotated masks read at a time."""


class SegmenterConfig(TrainingConfig):
    """Fields of the segmenter."""

    size: PhotoSize = (80, 128)
    """Height x width in pixels at which it looks at whole photos, and of the masks it gives."""
    epochs: Annotated[int, Field(ge=0)] = 8
    """Passes over the training photos that have a mask."""
    width: Annotated[int, Field(ge=1)] = 16
    """Channels of every level of the decoder."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share of the hypercolumn's channels left out in training."""
    lovasz_from: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of the training, by cross-entropy and Dice, after which the Lovász hinge takes over."""
    margin: Annotated[float, Field(ge=0, le=2)] = 0.1
    """Widens the mask's box before it is cut out, on each side by this share of it."""
    smallest: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """A box narrower or lower than this share of the photo makes no sense: the whole photo is used."""
    background: Background = "kept"
    """What stands where the mask is not: the photo, the photo blurred, or its mean colour."""
    channel: bool = False
    """Whether the mask is shown to the network as a fourth channel (first of Humpback 2019)."""

    def augmentation(self) -> Augmentation:
        """The augmentation in training: as configured, mirrored left to right, nothing erased or shuffled."""
        by = replace(super().augmentation(), erase=0.0, grid_shuffle=0.0, outside="zeros")
        return by if self.augment == "none" else replace(by, hflip=0.5)


class Segmenter(Finder):
    """Finds the animal's mask by a U-Net that tells for every pixel whether it shows the animal."""

    artefact, needs = "segmenter", "masks"

    config: SegmenterConfig

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__(config)
        self.background, self.mask_channel = config.background, config.channel
        self.margin, self.smallest = config.margin, config.smallest

    def annotated(self, photos: Photos) -> NDArray[np.bool_]:
        """Whether each photo has a mask; raises ValueError where annotations are hidden."""
        if photos.annotations is None:
            raise ValueError("masks of these photos are hidden")
        return photos.annotations.has_mask[photos.rows]

    def build(self) -> nn.Module:
        """The network, untrained but for the weights its encoder starts from."""
        config = self.config
        encoder = build_encoder(config.backbone, config.pretrained, *config.sizes())
        return MaskNetwork(encoder, config.width, config.dropout)

    def loss(self) -> nn.Module:
        """That of masks."""
        return MaskLoss()

    def target(self, batch: Batch) -> Tensor:
        """The annotated masks (photos, 1, height, width) of a batch that has them."""
        assert batch.masks is not None
        return batch.masks

    def before_step(self, loss: MaskLoss, done: float) -> None:
        """Ends the warm-up at its share of the training."""
        loss.warming_up = done < self.config.lovasz_from

    def locate(self, photos: Photos) -> Located:
        """Masks (photos, height, width) at the segmenter's size, and their boxes; NaN where none is found."""
        masks = predict(self._probabilities, photos, self.config, self.device)
        return Located(boxes=mask_boxes(masks), masks=masks)

    def read(self, photos: Photos) -> Located:
        """The annotated masks at the segmenter's size, and their boxes."""
        masks = np.full((len(photos), *self.config.size), np.nan, np.float32)
        annotated = np.flatnonzero(self.annotated(photos))
        for block in blocks(len(annotated), BLOCK):
            rows = annotated[block]
            with torch.inference_mode():  # nothing is learned from these pixels
                masks[rows] = self.target(photos.batch(rows, self.config.size))[:, 0].numpy()
        return Located(boxes=mask_boxes(masks), masks=masks)

    def _probabilities(self, pixels: Tensor) -> Tensor:
        probabilities: Tensor = self.network(pixels)[0][:, 0].sigmoid()
        return probabilities


def mask_boxes(masks: NDArray[np.float32]) -> NDArray[np.float32]:
    """The box (photos, 4) round the largest connected part of each mask (photos, height, width).

    In shares of the frame; NaN where nothing reaches 0.5. What is not connected is a splash or a neighbour.
    """
    from scipy.ndimage import find_objects, label

    boxes = np.full((len(masks), 4), np.nan, np.float32)
    height, width = masks.shape[1:]
    for row, mask in enumerate(masks):
        parts, count = label(mask >= 0.5)
        if count:
            largest = int(np.bincount(parts.ravel())[1:].argmax())
            down, across = find_objects(parts)[largest]
            boxes[row] = (
                across.start / width, down.start / height, across.stop / width, down.stop / height
            )  # fmt: skip
    return boxes
