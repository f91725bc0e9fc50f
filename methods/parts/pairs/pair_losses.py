"""Losses on pairs of photos: the first half of a batch is left, the second half right, in the same order."""

from __future__ import annotations

import copy
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, normalize

from whalebench.methods.parts.losses.metric_losses import MetricLossConfig, build_loss
from whalebench.methods.parts.pairs.pair_head import PairHead, logits_among
from whalebench.methods.parts.retrieval.search import cosines

Form = Literal["contrastive", "pair_head"]


class ContrastivePairs(nn.Module):
    """Pulls matching pairs together and others apart up to a margin (Hadsell et al., 2006)."""

    def __init__(self, margin: float) -> None:
        super().__init__()
        config = MetricLossConfig(loss="contrastive", margin=margin)
        self.loss = build_loss(config, identities=0, dimensions=0)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """The loss of features (2 x pairs, dimensions), brought to length 1, under labels (2 x pairs,).

        The mean L2 distance of matching pairs, and the mean of what the distance of others lacks of the
        margin, both over pairs that are not at 0.
        """
        left, right = torch.arange(len(labels), device=labels.device).chunk(2)
        same = labels[left] == labels[right]
        pairs = (left[same], right[same], left[~same], right[~same])
        value: Tensor = self.loss(normalize(features.float()), labels, pairs)
        return value

    def among(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """How alike photos (photos, photos) are, in [0, 1], from features (photos, dimensions)."""
        return (1 + cosines(features, features)) / 2


class PairHeadLoss(nn.Module):
    """The pair head, and the binary cross-entropy of whether a pair is one individual."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.head = PairHead(dimensions)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of features (2 x pairs, dimensions) as they are, under labels (2 x pairs,)."""
        left, right = features.float().chunk(2)
        same, other = labels.chunk(2)
        return binary_cross_entropy_with_logits(self.head(left, right), (same == other).float())

    def among(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """How likely the head thinks that photos (photos, photos) are of one individual, in [0, 1]."""
        logits = logits_among(self.head, features).astype(np.float64)
        return 1 / (1 + np.exp(-np.clip(logits, -500, 500)))


PairLoss = ContrastivePairs | PairHeadLoss


class Likeness:
    """How alike photos were when they were last embedded, while loss and network learn on."""

    def __init__(self, loss: PairLoss) -> None:
        self.loss = copy.deepcopy(loss).eval()
        self.features = np.zeros((0, 0), np.float32)

    def take(self, features: NDArray[np.float32], loss: PairLoss) -> None:
        """Takes note of all photos' features (photos, dimensions), and of the loss as it is."""
        self.features = features
        self.loss.load_state_dict(loss.state_dict())

    def __call__(self, places: NDArray[np.int64]) -> NDArray[np.float64]:
        """How alike the photos at those places are (photos, photos), in [0, 1]."""
        return self.loss.among(self.features[places])

    def state_dict(self) -> dict[str, Any]:
        """Features and loss."""
        return {"features": self.features, "loss": self.loss.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up what `state_dict` gave."""
        self.features = state["features"]
        self.loss.load_state_dict(state["loss"])


def build_pair_loss(form: Form, dimensions: int, margin: float) -> PairLoss:
    """The loss of that form; the margin is of contrastive, the dimensions are of pair_head."""
    return ContrastivePairs(margin) if form == "contrastive" else PairHeadLoss(dimensions)
