"""Losses over a linear classifier; those with a margin are in `margins`."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from whalebench.methods.method import Search

LabelSmoothing = Annotated[float, Field(ge=0, lt=1), Search(0.0, 0.2)]
"""Share of the target that is spread over all identities."""


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
        """(photos, identities) from features (photos, dimensions), in float32 as the loss has them.

        With the digits of bf16 many identities would tie.
        """
        with torch.autocast(features.device.type, enabled=False):
            return torch.log_softmax(self.classifier(features.float()), dim=1)
