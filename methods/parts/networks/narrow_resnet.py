"""A ResNet for learning from small photos from scratch on a processor, in minutes."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

NARROW_RESNET = "narrow_resnet10"
"""Its name as a backbone."""


class NarrowResNet(nn.Module):
    """Ten layers (He et al., 2016) with few channels and a stride of 16 instead of 32.

    Nothing is pooled behind the first layer, so that nicks and scars of two or three pixels stay visible.
    The channels are multiples of 16, which is what the vector units of processors like.
    """

    def __init__(self, channels: int = 3, width: int = 16) -> None:
        super().__init__()
        self.num_features = 8 * width
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 5, stride=2, padding=2, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )
        self.blocks = nn.Sequential(
            Block(width, width, 1),
            Block(width, 2 * width, 2),
            Block(2 * width, 4 * width, 2),
            Block(4 * width, 8 * width, 2),
        )

    def forward_features(self, pixels: Tensor) -> Tensor:
        """Feature map (photos, 8 x width, height / 16, width / 16) from normalised pixels."""
        features: Tensor = self.blocks(self.stem(pixels))
        return features

    def forward_intermediates(self, pixels: Tensor, *, intermediates_only: bool = True) -> list[Tensor]:
        """The maps behind each block, fine to coarse, as timm's networks hand them out; nothing else."""
        del intermediates_only
        maps = [self.stem(pixels)]
        for block in self.blocks:
            maps.append(block(maps[-1]))
        return maps[1:]


class Block(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.first = _convolution(channels_in, channels_out, 3, stride)
        self.second = _convolution(channels_out, channels_out, 3, 1)
        same = channels_in == channels_out and stride == 1
        self.shortcut = nn.Identity() if same else _convolution(channels_in, channels_out, 1, stride)

    def forward(self, features: Tensor) -> Tensor:
        """The block's feature map."""
        return F.relu(self.second(F.relu(self.first(features))) + self.shortcut(features))


def _convolution(channels_in: int, channels_out: int, kernel: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out))
