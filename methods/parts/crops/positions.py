"""A network that answers with positions: what localizer and aligner have in common."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from whalebench.methods.parts.networks.backbones import build_backbone
from whalebench.methods.parts.training.config import TrainingConfig


class PositionConfig(TrainingConfig):
    """Fields of a network that answers with positions."""

    width: Annotated[int, Field(ge=1)] = 64
    """Channels between the backbone and the votes."""


class PositionNetwork(nn.Module):
    """Every cell of the last feature map votes for where each point is; the votes are weighed and averaged.

    A vote is an offset from the cell itself, so what was learned in one place holds in all others; a dense
    layer over the whole map would have to learn each place by itself.
    """

    def __init__(self, config: PositionConfig, points: int) -> None:
        super().__init__()
        self.points = points
        self.backbone = build_backbone(config.backbone, config.pretrained, *config.sizes())
        self.neck = nn.Sequential(
            nn.Conv2d(self.backbone.channels, config.width, 3, padding=1, bias=False),
            nn.BatchNorm2d(config.width),
            nn.ReLU(inplace=True),
        )
        self.votes = nn.Conv2d(config.width, 4 * points, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Points (photos, points, 2) in frame units, float32, from pixels (photos, 3, height, width)."""
        votes = self.votes(self.neck(self.backbone(pixels))).float()
        height, width = votes.shape[-2:]
        weights, offsets = votes.unflatten(1, (2, self.points, 2)).flatten(-2).unbind(1)
        across = (torch.arange(width, device=pixels.device) + 0.5) / width * 2 - 1
        down = (torch.arange(height, device=pixels.device) + 0.5) / height * 2 - 1
        cells = torch.stack([across.repeat(height), down.repeat_interleave(width)])
        points: Tensor = (weights.softmax(dim=-1) * (cells + offsets)).sum(dim=-1)
        return points
