"""Losses by pytorch-metric-learning behind one door, every default of the library written out.

The library's next version changes defaults (margins, normalisation), so none is left to it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class ArcFaceLoss(nn.Module):
    """Additive angular margin softmax (Deng et al., 2019) over the prototypes of the identities."""

    def __init__(
        self, identities: int, dimensions: int, *, scale: float, margin: float, label_smoothing: float
    ) -> None:
        """scale multiplies the cosines; margin is in radians and added to the angle to the own prototype."""
        super().__init__()
        # A second to import, and only methods with a margin need it.
        from pytorch_metric_learning import distances, losses, reducers  # noqa: PLC0415

        self.loss = losses.ArcFaceLoss(
            num_classes=identities,
            embedding_size=dimensions,
            margin=math.degrees(margin),
            scale=scale,
            weight_init_func=nn.init.xavier_normal_,
            weight_regularizer=None,
            weight_reg_weight=1,
            embedding_regularizer=None,
            embedding_reg_weight=1,
            distance=distances.CosineSimilarity(p=2, power=1),
            reducer=reducers.MeanReducer(),
        )
        self.loss.cross_entropy = nn.CrossEntropyLoss(reduction="none", label_smoothing=label_smoothing)

    def set_margin(self, margin: float) -> None:
        """Uses another margin, in radians, from now on."""
        self.loss.margin = margin

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of embeddings (photos, dimensions), normalised inside, under labels (photos,)."""
        loss: Tensor = self.loss(embeddings.float(), labels)
        return loss

    def prototypes(self) -> Tensor:
        """(identities, dimensions), of length 1."""
        return nn.functional.normalize(self.loss.W.detach().T, dim=1)

    def set_prototypes(self, prototypes: Tensor) -> None:
        """Takes prototypes (identities, dimensions) as its own."""
        with torch.no_grad():
            self.loss.W.copy_(prototypes.T)


class SoftmaxLoss(nn.Module):
    """Cross-entropy with label smoothing over the logits of a linear layer."""

    def __init__(self, identities: int, dimensions: int, *, dropout: float, label_smoothing: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(dimensions, identities)
        self.label_smoothing = label_smoothing

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of features (photos, dimensions) under labels (photos,)."""
        logits = self.classifier(self.dropout(features.float()))
        return nn.functional.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)

    def log_probabilities(self, features: Tensor) -> Tensor:
        """(photos, identities) from features (photos, dimensions)."""
        return torch.log_softmax(self.classifier(features.float()), dim=1)
