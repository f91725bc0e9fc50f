"""The localizer: a network that finds the animal's box, or that of a part of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from whalebench.benchmarks.core.photos import Batch, Photos
from whalebench.methods.method import Located
from whalebench.methods.parts.augment import Augmentation
from whalebench.methods.parts.crops.finder import Finder, PositionConfig, PositionNetwork, annotated_values
from whalebench.methods.parts.geometry import normalised_boxes, normalised_landmarks
from whalebench.methods.parts.training.trainer import predict

BoxLoss = Literal["smooth_l1", "giou"]


class LocalizerConfig(PositionConfig):
    """Fields of the localizer."""

    loss: BoxLoss = "smooth_l1"
    """smooth_l1 on centre, width and height, or giou: one minus the generalised intersection over union."""
    margin: Annotated[float, Field(ge=0, le=2)] = 0.1
    """Widens the box before it is cut out, on each side by this share of it."""
    smallest: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """A box narrower or lower than this share of the photo makes no sense: the whole photo is used."""

    def augmentation(self) -> Augmentation:
        """The augmentation in training: as configured, but mirrored; not turned, sheared, shuffled or erased.

        The upright box round a turned box is larger than the animal: turning would teach boxes too large.
        Mirroring keeps a box exact: left to right always, upside down where photos may be `turned`.
        """
        by = replace(
            super().augmentation(), rotation=0.0, shear=0.0, erase=0.0, grid_shuffle=0.0, outside="zeros"
        )
        if self.augment == "none":
            return by
        return replace(by, hflip=0.5, vflip=0.5 if self.augment == "turned" else 0.0)


class Localizer(Finder):
    """Finds the animal's box by a network that answers with two of its corners."""

    artefact, needs = "localizer", "boxes"

    config: LocalizerConfig

    def __init__(self, config: LocalizerConfig) -> None:
        super().__init__(config)
        self.margin, self.smallest = config.margin, config.smallest

    def annotated(self, photos: Photos) -> NDArray[np.bool_]:
        """Whether each photo has a box."""
        return np.asarray(np.isfinite(annotated_values(photos, "boxes")).all(axis=1))

    def build(self) -> nn.Module:
        """The network, with a point for each of two corners."""
        return PositionNetwork(self.config, 2)

    def loss(self) -> nn.Module:
        """The distance from the boxes, as configured."""
        return BoxRegression(self.config.loss)

    def target(self, batch: Batch) -> Tensor:
        """The annotated boxes."""
        return normalised_boxes(batch)

    def locate(self, photos: Photos) -> Located:
        """Boxes as shares of the photo, cut at its border."""
        corners = torch.from_numpy(predict(self.network, photos, self.config, self.device))
        return Located(boxes=((_boxes_between(corners) + 1) / 2).clamp(0, 1).numpy())


class PartLocalizer(Localizer):
    """Finds the box round all landmarks: a part of the animal, as the back fin of which corners are known."""

    needs = "landmarks"
    judged = False  # the annotated box is that of the whole animal

    def annotated(self, photos: Photos) -> NDArray[np.bool_]:
        """Whether each photo has a box round two landmarks or more."""
        return np.asarray(np.isfinite(_round_landmarks(photos)).all(axis=1))

    def target(self, batch: Batch) -> Tensor:
        """The boxes round the landmarks, as the photos were changed."""
        assert batch.landmarks is not None
        return _boxes_between(normalised_landmarks(batch))

    def read(self, photos: Photos) -> Located:
        """The boxes round the annotated landmarks; NaN where one is missing."""
        return Located(boxes=_round_landmarks(photos))


def _round_landmarks(photos: Photos) -> NDArray[np.float32]:
    """Boxes (photos, 4) in shares of the photo; NaN where there are not two, or one is missing."""
    points = annotated_values(photos, "landmarks")
    if points.shape[1] < 2:
        return np.full((len(points), 4), np.nan, np.float32)
    return np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1)


class BoxRegression(nn.Module):
    """The distance of corners (photos, 2, 2) from boxes (photos, 4), both in normalised coordinates."""

    def __init__(self, kind: BoxLoss) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, corners: Tensor, boxes: Tensor) -> Tensor:
        """Mean loss over the photos."""
        predicted = _boxes_between(corners)
        if self.kind == "smooth_l1":
            # Centre and size, as the winners' localizer had them, and the unit is half a photo.
            sides = _centre_and_size(predicted), _centre_and_size(boxes)
            return nn.functional.smooth_l1_loss(*sides, beta=0.1)
        from torchvision.ops import generalized_box_iou_loss

        loss: Tensor = generalized_box_iou_loss(predicted, boxes, reduction="mean")
        return loss


def _boxes_between(corners: Tensor) -> Tensor:
    """Boxes (photos, 4) spanned by two corners each (photos, 2, 2), in either order."""
    return torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1)


def _centre_and_size(boxes: Tensor) -> Tensor:
    low, high = boxes[:, :2], boxes[:, 2:]
    return torch.cat([(low + high) / 2, high - low], dim=1)
