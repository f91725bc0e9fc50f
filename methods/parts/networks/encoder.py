"""Encoders: a backbone that hands out its feature maps from fine to coarse, for a decoder to put together."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from whalebench import WhalebenchError
from whalebench.benchmarks.photos import Size
from whalebench.methods.parts.networks.backbones import Backbone, build_backbone


class Encoder(nn.Module):
    """A backbone, its weights and their names unchanged, that gives the last map of every resolution."""

    def __init__(self, backbone: Backbone, size: Size) -> None:
        super().__init__()
        self.backbone = backbone
        with torch.inference_mode():
            maps = self._stages(torch.zeros(1, backbone.get_buffer("mean").shape[1], *size))
        # A transformer's blocks all have one resolution, and some networks two stages of the same.
        last = {tuple(stage.shape[-2:]): place for place, stage in enumerate(maps)}
        self.places = sorted(last.values())
        self.channels = [maps[place].shape[1] for place in self.places]
        """Of the feature maps, fine to coarse."""

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Feature maps (photos, channels, h, w), fine to coarse, of pixels (photos, 3, h, w) in [0, 1]."""
        maps = self._stages(pixels)
        return [maps[place] for place in self.places]

    def _stages(self, pixels: Tensor) -> list[Tensor]:
        normal = (pixels - self.backbone.get_buffer("mean")) / self.backbone.get_buffer("std")
        maps: list[Tensor] = self.backbone.network.forward_intermediates(  # type: ignore[operator]
            normal, intermediates_only=True
        )
        return maps


def build_encoder(name: str, pretrained: str, *sizes: Size, channels: int = 3) -> Encoder:
    """The backbone of that name as an encoder for photos of sizes (height, width).

    pretrained and channels as in `build_backbone`. Raises WhalebenchError for a network that keeps its stages
    to itself.
    """
    backbone = build_backbone(name, pretrained, *sizes, channels=channels)
    if not hasattr(backbone.network, "forward_intermediates"):
        raise WhalebenchError(
            f"backbone '{name}' does not hand out its stages, and more than the last is needed: choose "
            f"another, for example resnet18."
        )
    backbone.eval()
    encoder = Encoder(backbone, sizes[0])
    encoder.train()
    return encoder
