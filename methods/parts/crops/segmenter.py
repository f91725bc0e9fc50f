"""Finds the animal's mask, and the box that the mask fills."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from whalebench.benchmarks.photos import Batch, Photos, Size
from whalebench.methods.method import Harness, Located
from whalebench.methods.parts.crops.finder import Finder, Windows, windows_round
from whalebench.methods.parts.crops.lens import Background
from whalebench.methods.parts.losses.lovasz import MaskLoss
from whalebench.methods.parts.networks.decoder import MaskNetwork
from whalebench.methods.parts.networks.encoder import build_encoder
from whalebench.methods.parts.training.config import PhotoSize, TrainingConfig
from whalebench.methods.parts.training.inference import predict
from whalebench.methods.parts.training.loop import train_network
from whalebench.methods.parts.transforms.augment import Augmentation

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
        """How photos are changed in training: as configured, mirrored left to right, and nothing erased."""
        by = replace(super().augmentation(), erase=0.0, outside="zeros")
        return by if self.augment == "none" else replace(by, mirror=0.5)


class Segmenter(Finder):
    """A U-Net that says of every pixel whether it shows the animal."""

    artefact, needs = "segmenter", "masks"

    config: SegmenterConfig

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__(config)
        self.background, self.mask_channel = config.background, config.channel

    def annotated(self, photos: Photos) -> NDArray[np.bool_]:
        """Which photos have a mask; raises ValueError where annotations are hidden."""
        if photos.annotations is None:
            raise ValueError("masks of these photos are hidden")
        return photos.annotations.has_mask[photos.rows]

    def build(self) -> nn.Module:
        """The network, untrained but for the weights its encoder starts from."""
        config = self.config
        encoder = build_encoder(config.backbone, config.pretrained, *config.sizes())
        return MaskNetwork(encoder, config.width, config.dropout)

    def learn(self, train: Photos, valid: Photos, harness: Harness) -> None:
        """Trains on the masks of train."""
        del valid
        self.device = harness.device
        self.network, _ = train_network(
            self.build(),
            MaskLoss(),
            train,
            self.config,
            harness,
            lambda network, loss: None,
            self._warm_up,
            target=_masks,
            artefact=self.artefact,
        )

    def locate(self, photos: Photos) -> Located:
        """Masks (photos, height, width) at the segmenter's size, and their boxes; NaN where none is found."""
        masks = predict(self._probabilities, photos, self.config, self.device)
        return Located(boxes=mask_boxes(masks), masks=masks)

    def read(self, photos: Photos) -> Located:
        """The annotated masks at the segmenter's size, and their boxes."""
        masks = np.full((len(photos), *self.config.size), np.nan, np.float32)
        places = np.flatnonzero(self.annotated(photos))
        for start in range(0, len(places), BLOCK):
            block = places[start : start + BLOCK]
            masks[block] = _masks(photos.batch(block, self.config.size))[:, 0].numpy()
        return Located(boxes=mask_boxes(masks), masks=masks)

    def windows(self, located: Located, photos: Photos) -> Windows:
        """The mask's box with its margin; the whole photo where it is too small to be an animal."""
        assert located.boxes is not None
        return windows_round(located.boxes, self.config.margin, self.config.smallest)

    def sizes(self) -> tuple[Size, ...]:
        """The sizes at which it looks at whole photos."""
        return self.config.sizes()

    def _probabilities(self, pixels: Tensor) -> Tensor:
        probabilities: Tensor = self.network(pixels)[0][:, 0].sigmoid()
        return probabilities

    def _warm_up(self, loss: MaskLoss, done: float) -> None:
        loss.warming_up = done < self.config.lovasz_from


def mask_boxes(masks: NDArray[np.float32]) -> NDArray[np.float32]:
    """The box (photos, 4) round the largest connected part of each mask (photos, height, width).

    In shares of the frame; NaN where nothing reaches 0.5. What is not connected is a splash or a neighbour.
    """
    from scipy.ndimage import find_objects, label  # noqa: PLC0415

    boxes = np.full((len(masks), 4), np.nan, np.float32)
    height, width = masks.shape[1:]
    for place, mask in enumerate(masks):
        parts, count = label(mask >= 0.5)
        if count:
            largest = int(np.bincount(parts.ravel())[1:].argmax())
            down, across = find_objects(parts)[largest]
            boxes[place] = (
                across.start / width, down.start / height, across.stop / width, down.stop / height
            )  # fmt: skip
    return boxes


def _masks(batch: Batch) -> Tensor:
    assert batch.masks is not None
    return batch.masks
