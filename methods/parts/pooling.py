"""Pooling: from a feature map (photos, channels, height, width) to one vector a photo."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Pooling = Literal["average", "gem"]


class AveragePool(nn.Module):
    """Mean over the positions."""

    def forward(self, features: Tensor) -> Tensor:
        """(photos, channels) from (photos, channels, height, width)."""
        return features.mean(dim=(2, 3))


class GeM(nn.Module):
    """Generalised mean over the positions with a learnable exponent (Radenović et al., 2018).

    Exponent 1 is the average, infinity the maximum.
    """

    def __init__(self, exponent: float = 3.0, floor: float = 1e-6) -> None:
        super().__init__()
        self.exponent = nn.Parameter(torch.tensor(exponent))
        self.floor = floor

    def forward(self, features: Tensor) -> Tensor:
        """(photos, channels) from (photos, channels, height, width), in float32 whatever comes in."""
        powered = features.float().clamp(min=self.floor) ** self.exponent
        return powered.mean(dim=(2, 3)) ** (1.0 / self.exponent)


def build_pooling(name: Pooling) -> nn.Module:
    """The pooling of that name."""
    return GeM() if name == "gem" else AveragePool()
