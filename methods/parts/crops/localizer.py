"""Finds the animal's box: a network that answers with its sides."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from whalebench.benchmarks.core.photos import Batch, Photos, Size
from whalebench.methods.method import Harness, Located
from whalebench.methods.parts.augment import Augmentation
from whalebench.methods.parts.crops.finder import (
    Finder,
    PositionConfig,
    PositionNetwork,
    Windows,
    annotated_values,
    windows_around,
)
from whalebench.methods.parts.geometry import to_frame_units
from whalebench.methods.parts.training.config import PhotoSize
from whalebench.methods.parts.training.trainer import predict, train_network

BoxLoss = Literal["smooth_l1", "giou"]


class LocalizerConfig(PositionConfig):
    """Fields of the localizer."""

    size: PhotoSize = (80, 128)
    """Height x width in pixels at which it looks at whole photos."""
    epochs: Annotated[int, Field(ge=0)] = 15
    """Passes over the annotated training photos."""
    loss: BoxLoss = "smooth_l1"
    """smooth_l1 on centre, width and height, or giou: one minus the generalised intersection over union."""
    margin: Annotated[float, Field(ge=0, le=2)] = 0.1
    """Widens the box before it is cut out, on each side by this share of it."""
    smallest: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """A box narrower or lower than this share of the photo makes no sense: the whole photo is used."""

    def augmentation(self) -> Augmentation:
        """How photos are changed in training: as configured, but never turned by a little.

        The upright box round a turned box is larger than the animal: turning would teach boxes too large.
        Mirroring keeps a box exact: left to right always, upside down where photos may be `turned`.
        """
        by = replace(super().augmentation(), rotation=0.0, shear=0.0, erase=0.0, outside="zeros")
        if self.augment == "none":
            return by
        return replace(by, mirror=0.5, upset=0.5 if self.augment == "turned" else 0.0)


class Localizer(Finder):
    """A network that answers with the corners of the box."""

    artefact, needs = "localizer", "boxes"

    config: LocalizerConfig

    def annotated(self, photos: Photos) -> NDArray[np.bool_]:
        """Which photos have a box."""
        return np.asarray(np.isfinite(annotated_values(photos, "boxes")).all(axis=1))

    def build(self) -> nn.Module:
        """The network, with two points: the corners."""
        return PositionNetwork(self.config, 2)

    def learn(self, train: Photos, valid: Photos, harness: Harness) -> None:
        """Trains on the boxes of train."""
        del valid
        self.device = harness.device
        self.network, _ = train_network(
            self.build(),
            BoxRegression(self.config.loss),
            train,
            self.config,
            harness,
            lambda network, loss: None,
            target=_boxes,
            artefact=self.artefact,
        )

    def locate(self, photos: Photos) -> Located:
        """Boxes as shares of the photo, cut at its border."""
        corners = torch.from_numpy(predict(self.network, photos, self.config, self.device))
        return Located(boxes=((_box(corners) + 1) / 2).clamp(0, 1).numpy())

    def read(self, photos: Photos) -> Located:
        """The annotated boxes."""
        return Located(boxes=annotated_values(photos, "boxes"))

    def windows(self, located: Located, photos: Photos) -> Windows:
        """The box with its margin; the whole photo where the box is too small to be one."""
        assert located.boxes is not None
        return windows_around(located.boxes, self.config.margin, self.config.smallest)

    def sizes(self) -> tuple[Size, ...]:
        """The sizes at which it looks at whole photos."""
        return self.config.sizes()


class BoxRegression(nn.Module):
    """How far corners (photos, 2, 2) are from boxes (photos, 4), both in frame units."""

    def __init__(self, kind: BoxLoss) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, corners: Tensor, boxes: Tensor) -> Tensor:
        """Mean loss over the photos."""
        found = _box(corners)
        if self.kind == "smooth_l1":
            # Centre and size, as the winners' localizer had them, and the unit is half a photo.
            return nn.functional.smooth_l1_loss(_centre_and_size(found), _centre_and_size(boxes), beta=0.1)
        from torchvision.ops import generalized_box_iou_loss

        loss: Tensor = generalized_box_iou_loss(found, boxes, reduction="mean")
        return loss


def _box(corners: Tensor) -> Tensor:
    """Boxes (photos, 4) between two corners (photos, 2, 2) whichever is which."""
    return torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1)


def _centre_and_size(boxes: Tensor) -> Tensor:
    low, high = boxes[:, :2], boxes[:, 2:]
    return torch.cat([(low + high) / 2, high - low], dim=1)


def _boxes(batch: Batch) -> Tensor:
    boxes = to_frame_units(batch).boxes
    assert boxes is not None
    return boxes
