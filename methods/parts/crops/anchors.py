"""The aligner of the Humpback system that came third in 2019: a detector of box and landmarks by anchors.

Boxes of nine shapes, the anchors, stand at each cell of the feature map. The network says of each how well it
fits the animal, and what has to be added to it to be the animal's box and its landmarks; the anchor with the
highest score answers. Here the map may have any number of cells and the catalog any landmarks.

What is done differently, and why: the author's overlap took the anchor's height for the animal's, so that
wide, low anchors passed for flukes. By the overlap as it is meant, hardly any fluke exceeds 0.75 with one of
the anchors, so the best anchor of each photo is to answer, too, as in SSD (Liu et al., 2016).
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from whalebench.benchmarks.core.photos import Batch, Photos
from whalebench.methods.method import Located
from whalebench.methods.parts.crops.aligner import Aligner, AlignerConfig
from whalebench.methods.parts.crops.finder import cell_centres
from whalebench.methods.parts.geometry import normalised_boxes, normalised_landmarks
from whalebench.methods.parts.networks.backbones import build_backbone
from whalebench.methods.parts.training.trainer import predict

SCALES, SHAPES = (0.5, 1.0, 2.0), ((0.30, 0.30), (0.60, 0.15), (0.15, 0.60))
SIDES = tuple((scale * width, scale * height) for scale, (width, height) in product(SCALES, SHAPES))
"""Widths and heights of the anchors of one cell, as shares of the photo's."""
HIT, MISS = 0.75, 0.40
"""Intersection over union with the animal's box above which an anchor is to answer, and below which not."""
PLACE_WEIGHT, SCORE_WEIGHT = 5.0, 0.5
"""Of box and landmarks, and of the score, in the loss."""
ROOM = (1.2, 1.1)
"""The width and height of the box round all landmarks are widened by these, where no box is annotated."""


def anchor_boxes(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """The anchors (anchors, 4) of a map of that size: centre, width and height in normalised coordinates.

    All cells of the first shape come first, row by row.
    """
    centres = cell_centres(height, width, device).T
    sides = 2 * torch.tensor(SIDES, device=device)
    return torch.cat([centres.repeat(len(sides), 1), sides.repeat_interleave(len(centres), dim=0)], dim=1)


def encode(points: Tensor, anchors: Tensor) -> Tensor:
    """What anchors (..., 4) are to answer (..., 2 x points) where points (..., points, 2) are.

    The points are two corners of a box, upper left and lower right, and landmarks. Answers are the way to the
    box's centre in sides of the anchor, the logarithms of its sides over the anchor's, and the way to each
    landmark in sides of the anchor.
    """
    centres, sides = anchors[..., :2], anchors[..., 2:]
    low, high = points[..., :2, :].unbind(-2)
    moved, grown = ((low + high) / 2 - centres) / sides, ((high - low) / sides).log()
    landmarks = (points[..., 2:, :] - centres[..., None, :]) / sides[..., None, :]
    return torch.cat([moved, grown, landmarks.flatten(-2)], dim=-1)


def decode(answers: Tensor, anchors: Tensor) -> Tensor:
    """The points (..., points, 2) that anchors (..., 4) answer with (..., 2 x points); see `encode`."""
    centres, sides = anchors[..., :2], anchors[..., 2:]
    centre, half = centres + answers[..., :2] * sides, answers[..., 2:4].exp() * sides / 2
    ways = answers[..., 4:].reshape(*answers.shape[:-1], -1, 2)
    landmarks = centres[..., None, :] + ways * sides[..., None, :]
    return torch.cat([torch.stack([centre - half, centre + half], dim=-2), landmarks], dim=-2)


def match(boxes: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    """Whether each anchor is to answer, and whether it counts at all, both (photos, anchors).

    boxes (photos, 4) are two corners, anchors (anchors, 4) centre, width and height. Counted are those that
    overlap enough to answer, the best of a photo, and those that overlap little; none where a box is NaN.
    """
    from torchvision.ops import box_convert, box_iou

    overlap = box_iou(boxes, box_convert(anchors, "cxcywh", "xyxy"))
    best = (overlap == overlap.amax(dim=1, keepdim=True)) & (overlap > 0)
    hits = (overlap > HIT) | best
    return hits, hits | (overlap < MISS)


def annotated_points(batch: Batch) -> Tensor:
    """The corners of the animal's box and its landmarks (photos, 2 + landmarks, 2), normalised coordinates.

    Where no box is annotated it is that round the landmarks, with ROOM, cut at the photo's border; NaN where
    one of them is missing, too, or nothing of the box is left.
    """
    landmarks = normalised_landmarks(batch)
    low, high = landmarks.amin(dim=1), landmarks.amax(dim=1)
    middle, half = (low + high) / 2, (high - low) / 2 * landmarks.new_tensor(ROOM)
    around = torch.stack([middle - half, middle + half], dim=1).clamp(-1, 1)
    boxes = normalised_boxes(batch).reshape(-1, 2, 2)
    boxes = torch.where(boxes.isnan(), around, boxes)
    left = (boxes[:, 1] > boxes[:, 0]).all(dim=1)
    return torch.cat([boxes.where(left[:, None, None], torch.nan), landmarks], dim=1)


class AnchorNetwork(nn.Module):
    """A backbone, and one convolution that answers for each anchor at each cell of its map."""

    def __init__(self, config: AlignerConfig, landmarks: int) -> None:
        super().__init__()
        self.values = 1 + 2 * (2 + landmarks)
        """Of each anchor: its score, and its answers."""
        self.backbone = build_backbone(config.backbone, config.pretrained, *config.sizes())
        self.anchors = nn.Conv2d(self.backbone.channels, len(SIDES) * self.values, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Answers (photos, values, shapes, height, width), float32, of pixels (photos, 3, h, w)."""
        answers: Tensor = self.anchors(self.backbone(pixels)).float().unflatten(1, (self.values, -1))
        return answers

    def best(self, pixels: Tensor) -> Tensor:
        """The points (photos, 2 + landmarks, 2) of the anchor with the highest score: box, landmarks."""
        scores, answers, anchors = by_anchor(self(pixels))
        best = scores.argmax(dim=1)
        return decode(answers[torch.arange(len(best), device=best.device), best], anchors[best])


def by_anchor(answers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scores (photos, anchors) and answers (photos, anchors, values) of a network, and the anchors."""
    height, width = answers.shape[-2:]
    each = answers.flatten(2).mT
    return each[..., 0], each[..., 1:], anchor_boxes(height, width, answers.device)


class AnchorLoss(nn.Module):
    """The loss as published: box and landmarks of every anchor that counts, and whether it is to answer."""

    def forward(self, answers: Tensor, points: Tensor) -> Tensor:
        """5 (box + landmarks) + 0.5 score: smooth L1, and binary cross-entropy.

        answers (photos, values, shapes, height, width) are the network's, points (photos, 2 + landmarks, 2)
        the corners of boxes, and landmarks. Means are over what counts and is annotated. Anchors that do not
        fit learn the places as well, as they did with the author.
        """
        scores, found, anchors = by_anchor(answers)
        hits, counted = match(points[:, :2].flatten(1), anchors)
        wanted = encode(points[:, None], anchors)
        known = counted[..., None] & wanted.isfinite()
        apart = F.smooth_l1_loss(found, wanted.where(known, found.detach()), reduction="none")
        box, landmarks = (
            _mean_where(each, where)
            for each, where in zip(apart.tensor_split([4], -1), known.tensor_split([4], -1), strict=True)
        )
        doubt = F.binary_cross_entropy_with_logits(scores, hits.float(), reduction="none")
        return PLACE_WEIGHT * (box + landmarks) + SCORE_WEIGHT * _mean_where(doubt, counted)


def _mean_where(values: Tensor, counted: Tensor) -> Tensor:
    return (values * counted).sum() / counted.sum().clamp(min=1)


class AnchorAligner(Aligner):
    """An aligner whose network finds landmarks, and the box with them, by anchors."""

    network: AnchorNetwork

    def build(self) -> nn.Module:
        """The network, with the answers that the landmarks need."""
        return AnchorNetwork(self.config, len(self.constants["places"]))

    def loss(self) -> nn.Module:
        """That of the anchors."""
        return AnchorLoss()

    def target(self, batch: Batch) -> Tensor:
        """The annotated box, or that round the landmarks, and the landmarks."""
        return annotated_points(batch)

    def points(self, pixels: Tensor) -> Tensor:
        """Landmarks (photos, landmarks, 2) of the best anchor."""
        return self.network.best(pixels)[:, 2:]

    def locate(self, photos: Photos) -> Located:
        """Landmarks as shares of the photo, the mean over all views, and boxes by one look.

        The box is that of the photo as it is: one found in a turned view is not upright in the photo.
        """
        best = torch.from_numpy(predict(self.network.best, photos, self.config, self.device))
        boxes = ((best[:, :2].flatten(1) + 1) / 2).clamp(0, 1)
        return replace(super().locate(photos), boxes=boxes.numpy())


def build_aligner(config: AlignerConfig) -> Aligner:
    """The aligner whose network answers as configured."""
    return AnchorAligner(config) if config.head == "anchors" else Aligner(config)
