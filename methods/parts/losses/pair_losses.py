"""Losses on pairs of photos: the first half of a batch is left, the second half right, in the same order.

Contrastive, or the binary cross-entropy of the pair head of the 0.78563 Humpback kernel (Piotte, 2018), a
small network that tells whether the features of two photos are those of one individual.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, normalize

from whalebench.methods.parts.losses.metric_losses import MetricLossConfig, build_loss
from whalebench.methods.parts.retrieval import check_finite, cosines, known_by_label, raise_to_best

HIDDEN = 32
"""Units of the small network that is applied to every feature."""
FLOOR = -100.0
"""The lowest logit there is, and that of an identity without a photo in the gallery."""
BLOCK = {"cpu": 2**14}
"""Features of pairs at a time: 2 MiB of hidden units stay in a processor's cache; elsewhere 128 MiB."""


class PairHead(nn.Module):
    """A logit for each pair of photos, the same for both orders (Piotte, 2018)."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(4, HIDDEN)
        self.feature = nn.Linear(HIDDEN, 1)
        self.total = nn.Linear(dimensions, 1)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Logits (pairs,) that features left and right (pairs, dimensions) show one individual.

        Of each feature xy, x + y, |x - y| and (x - y)^2 go through 32 units to one number; a weighted sum of
        the numbers, and a bias, is the logit.
        """
        apart = (left - right).abs()
        # Features last: a product of (32, 4) with (4, pairs x dimensions) is the quickest order of the axes.
        relations = torch.stack([left * right, left + right, apart, apart.square()]).flatten(1)
        hidden = torch.addmm(self.hidden.bias[:, None], self.hidden.weight, relations).relu()
        each = (self.feature.weight @ hidden + self.feature.bias).view(left.shape)
        logits: Tensor = self.total(each).squeeze(1)
        return logits


def pair_logits(
    head: PairHead, query: NDArray[np.float32], gallery: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Logits (queries, photos) of every query with every gallery photo, from features (., dimensions).

    A row does not depend on the other queries, to the last bit. About 7 microseconds of one core a pair of
    256 features.
    """
    logits = np.zeros((len(query), len(gallery)), np.float32)
    with torch.inference_mode():
        queries, photos = _on_device(head, query), _on_device(head, gallery)
        for row in range(len(query)):
            logits[row] = _logits_of_one(head, queries[row : row + 1], photos)
    return logits


def logits_among(head: PairHead, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits (photos, photos) of all photos with each other, from features (photos, dimensions)."""
    logits = np.zeros((len(features), len(features)), np.float32)
    with torch.inference_mode():
        photos = _on_device(head, features)
        for row in range(len(features)):
            logits[row, row:] = _logits_of_one(head, photos[row : row + 1], photos[row:])
    return np.triu(logits) + np.triu(logits, 1).T


def best_pair_scores(
    head: PairHead,
    query: NDArray[np.float32],
    gallery: NDArray[np.float32],
    labels: NDArray[np.int64],
    identities: int,
) -> NDArray[np.float32]:
    """Scores (queries, identities): the largest logit of the query with a gallery photo of each identity.

    labels (photos,) are indices of identities, UNKNOWN photos are passed over; an identity without a photo
    scores FLOOR. Raises RunFailedError for features that are NaN or infinite.
    """
    check_finite(query)
    check_finite(gallery)
    order = known_by_label(labels)
    scores = np.full((len(query), identities), FLOOR, np.float32)
    if len(order):
        raise_to_best(scores, pair_logits(head, query, gallery[order]), labels[order])
    return scores


def _logits_of_one(head: PairHead, one: Tensor, others: Tensor) -> NDArray[np.float32]:
    """Logits (photos,) of features (1, dimensions) with others (photos, dimensions), block by block."""
    size = max(1, BLOCK.get(one.device.type, 2**20) // one.shape[1])
    parts = [head(one.expand_as(part), part) for part in torch.split(others, size)]
    row: NDArray[np.float32] = torch.cat(parts).cpu().numpy()
    return row


def _on_device(head: PairHead, features: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(features, np.float32)).to(head.total.weight.device)


Form = Literal["contrastive", "pair_head"]


class ContrastivePairs(nn.Module):
    """Pulls matching pairs together and others apart up to a margin (Hadsell et al., 2006)."""

    def __init__(self, margin: float) -> None:
        super().__init__()
        config = MetricLossConfig(loss="contrastive", margin=margin)
        self.loss = build_loss(config, identities=0, dimensions=0)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """The loss of features (2 x pairs, dimensions), normalised inside, under labels (2 x pairs,).

        It is the mean L2 distance of matching pairs plus the mean of what the distance of others lacks of the
        margin, both over pairs that are not at 0.
        """
        left, right = torch.arange(len(labels), device=labels.device).chunk(2)
        same = labels[left] == labels[right]
        pairs = (left[same], right[same], left[~same], right[~same])
        value: Tensor = self.loss(normalize(features.float()), labels, pairs)
        return value

    def among(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """The similarity in [0, 1] of all photos with each other, from features (photos, dimensions)."""
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
        """The head's probability that two photos are of one individual, for all photos with each other."""
        logits = logits_among(self.head, features).astype(np.float64)
        return 1 / (1 + np.exp(-np.clip(logits, -500, 500)))


PairLoss = ContrastivePairs | PairHeadLoss


class Similarity:
    """The similarity of photos as it was when they were last embedded, while loss and network learn on."""

    def __init__(self, loss: PairLoss) -> None:
        self.loss = copy.deepcopy(loss).eval()
        self.features = np.zeros((0, 0), np.float32)

    def update(self, features: NDArray[np.float32], loss: PairLoss) -> None:
        """Keeps all photos' features (photos, dimensions), and a copy of the loss."""
        self.features = features
        self.loss.load_state_dict(loss.state_dict())

    def __call__(self, photos: NDArray[np.int64]) -> NDArray[np.float64]:
        """The similarity in [0, 1] of those photos with each other (photos, photos)."""
        return self.loss.among(self.features[photos])

    def state_dict(self) -> dict[str, Any]:
        """Features and loss."""
        return {"features": self.features, "loss": self.loss.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` gave."""
        self.features = state["features"]
        self.loss.load_state_dict(state["loss"])


def build_pair_loss(form: Form, dimensions: int, margin: float) -> PairLoss:
    """The loss of that form; only contrastive has the margin, only pair_head the dimensions."""
    return ContrastivePairs(margin) if form == "contrastive" else PairHeadLoss(dimensions)
