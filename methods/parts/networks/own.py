"""Backbones that timm does not have: those of a Right Whale system, and a narrow ResNet for processors.

The Right Whale system that came second (Lau, 2016) had a network of 19 plain layers and thin ResNets. Their
depth counts the convolutions of the trunk, as the author does: shortcuts and the classifier are left out. All
have batch normalisation and a very leaky ReLU, and a stride of 2 instead of pooling. The author's dropout of
0.5 or 0.8 in front of the classifier is the field `dropout` of the method.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LEAK = 1 / 3
"""Slope of the very leaky ReLU where it is negative."""
STEM = 32
"""Channels of the first convolution of each, 7 x 7 with a stride of 2."""


class Trunk(nn.Module):
    """A stem and the stages after it, down to the map that the author pooled as `gp`.

    Every stage but the first halves the map; `pooled` halves it before the first one, too.
    """

    def __init__(
        self, channels: int, counts: tuple[int, ...], widths: tuple[int, ...], *,
        convolutions: tuple[int, ...] = (2, 2, 2, 2, 2), late_norm: bool = False, pooled: bool = False,
    ) -> None:  # fmt: skip
        """counts are the blocks of each stage, widths their channels, convolutions how deep one is.

        Without convolutions the stages are of so many plain layers instead.
        """
        super().__init__()
        stages: list[nn.Module] = [nn.MaxPool2d(3, 2)] if pooled else []
        before = STEM
        for stage, (count, width) in enumerate(zip(counts, widths, strict=True)):
            layers: list[nn.Module] = []
            for number in range(count):
                stride = 2 if stage and not number else 1
                if convolutions:
                    layers.append(
                        ResidualBlock(before, width, convolutions[stage], stride, late_norm=late_norm)
                    )
                else:
                    layers += _xavier_layer(before, width, 3, stride)
                before = width
            stages.append(nn.Sequential(*layers))
        self.num_features = before
        self.stem = nn.Sequential(*_xavier_layer(channels, STEM, 7, stride=2))
        self.stages = nn.Sequential(*stages)

    def forward_features(self, pixels: Tensor) -> Tensor:
        """Feature map (photos, width, height / stride, width / stride) from normalised pixels."""
        features: Tensor = self.stages(self.stem(pixels))
        return features

    def deepen(self, missing: Collection[str]) -> set[str]:
        """Has each layer and block whose weights are missing pass on what it is given; their names.

        It stands behind one that has its weights (Net2DeeperNet, Chen et al. 2016).
        """
        left = set(missing)
        for chain in self._chains():
            for (begin, before), (own, unit) in pairwise(chain):
                names = {name for name in self.state_dict() if name.startswith(own)}
                if names <= left and not any(name.startswith(begin) for name in left):
                    _pass_on(before, unit)
                    left -= names
        return set(missing) - left

    def _chains(self) -> list[Chain]:
        """What stands one behind the other: layers within a block, then the layers or blocks of a stage."""
        within, stages = [], []
        for place, stage in enumerate(self.stages):
            if not isinstance(stage, nn.Sequential):
                continue  # the pooling
            begin, blocks = f"stages.{place}.", list(stage)
            if not isinstance(blocks[0], ResidualBlock):
                stages.append(_layers(begin, blocks))
                continue
            stages.append([((f"{begin}{at}.",), [block]) for at, block in enumerate(blocks)])
            within += [
                _layers(f"{begin}{at}.residual.", list(block.residual))
                for at, block in enumerate(blocks)
                if isinstance(block, ResidualBlock)
            ]
        return [*within, *stages]


class ResidualBlock(nn.Module):
    """3 x 3 convolutions beside a shortcut, which is a 1 x 1 convolution where channels or size change.

    The author's earlier block normalises the shortcut, the later one (`late_norm`) the sum instead.
    """

    def __init__(
        self, channels_in: int, channels: int, convolutions: int, stride: int, *, late_norm: bool
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for number in range(convolutions):
            before, step = (channels, 1) if number else (channels_in, stride)
            layers += _xavier_layer(before, channels, 3, step)
        self.residual = nn.Sequential(*layers[:-1])
        projection = _xavier_layer(channels_in, channels, 1, stride)
        unchanged = channels_in == channels and stride == 1
        self.shortcut = nn.Identity() if unchanged else nn.Sequential(*projection[: 1 if late_norm else 2])
        self.norm = nn.BatchNorm2d(channels, eps=1e-4) if late_norm else nn.Identity()
        self.activation = nn.LeakyReLU(LEAK, inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        """The block's feature map."""
        both: Tensor = self.activation(self.norm(self.residual(features) + self.shortcut(features)))
        return both


LIFT = 16.0
"""By how much features are raised in front of a block that passes them on, which lowers them again.

A leaky ReLU changes what is negative every time; raised, hardly anything is: a batch normalisation gives
nothing as low as that, and float32 keeps six digits of the sum. bf16 keeps two.
"""


Chain = list[tuple[tuple[str, ...], list[nn.Module]]]
"""By what the names of their weights begin with: blocks, or convolutions, each with its normalisation."""


def _layers(begin: str, modules: list[nn.Module]) -> Chain:
    """The convolutions among modules, each with the normalisation behind it."""
    places = range(0, len(modules), 3)
    return [((f"{begin}{at}.", f"{begin}{at + 1}."), modules[at : at + 2]) for at in places]


@torch.no_grad()
def _pass_on(before: list[nn.Module], block: list[nn.Module]) -> None:
    """Has a block give what it is given by the block before, which is raised by LIFT."""
    raised = _last_norm(before[-1])
    raised.bias.add_(LIFT)
    first = block[0]
    if isinstance(first, ResidualBlock):
        convolution, last = first.residual[0], first.residual[-1]
        assert isinstance(convolution, nn.Conv2d)
        assert isinstance(last, nn.BatchNorm2d)
        # Beyond the border are zeros, and no raised features: only the middle of the kernel is at work.
        middle = nn.init.dirac_(torch.empty_like(convolution.weight)).amax(dim=(0, 1))
        convolution.weight.mul_(middle)
        late = isinstance(first.norm, nn.BatchNorm2d)
        last.weight.zero_()
        last.bias.fill_(0.0 if late else -LIFT)
        if not late:
            return
    else:
        nn.init.dirac_(first.weight)  # type: ignore[arg-type]
    norm = _last_norm(block[-1])
    # What arrives has the mean and the deviation that the normalisation before gives it, in training, too.
    norm.running_mean.copy_(raised.bias)  # type: ignore[union-attr]
    norm.running_var.copy_(raised.weight**2)  # type: ignore[union-attr]
    norm.weight.copy_((raised.weight**2 + norm.eps).sqrt())
    norm.bias.copy_(raised.bias - LIFT)


def _last_norm(layer: nn.Module) -> nn.BatchNorm2d:
    """The batch normalisation that a layer's output has passed last."""
    if isinstance(layer, ResidualBlock):
        layer = layer.norm if isinstance(layer.norm, nn.BatchNorm2d) else layer.residual[-1]
    assert isinstance(layer, nn.BatchNorm2d)
    return layer


FIVE = (48, 64, 80, 96, 128)
"""Widths of the five stages that most of the networks have."""

PLAIN = partial(Trunk, counts=(3, 3, 4, 4, 4), convolutions=())
"""The 19-layer VGG-like network, for any widths."""

RIGHT_WHALE_NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    # cropped_jan03, cropped_dec19 and cropped_jan05_2: three widths of one network, all in the ensemble.
    "lau_vgg19": partial(PLAIN, widths=(48, 64, 80, 128, 192)),
    "lau_vgg19_thin": partial(PLAIN, widths=FIVE),
    "lau_vgg19_wide": partial(PLAIN, widths=(48, 64, 96, 128, 192)),
    # 1 + 2 x (3 + 3 + 3) = 19. No file is left of the author's first ResNet, "similar to the CIFAR-10 network
    # with n = 3": three stages, of which the widths are taken from the next larger one.
    "lau_resnet19": partial(Trunk, counts=(3, 3, 3), widths=FIVE[:3]),
    # Not the author's, who wished for Net2Net: the thin one deepened, to `start_from` a run of that.
    "lau_vgg25_thin": partial(PLAIN, counts=(3, 3, 6, 6, 6), widths=FIVE),
    # cropped_dec21_3: 1 + 2 x (3 + 3 + 3 + 3 + 3) = 31.
    "lau_resnet31": partial(Trunk, counts=(3, 3, 3, 3, 3), widths=FIVE),
    # cropped_jan02 has the blocks 3-3-3-4-5. 37 = 1 + 2 x 18 is what its author says, but the blocks of its
    # last three stages are three convolutions deep, so that the file builds 49. Here are both.
    "lau_resnet37": partial(Trunk, counts=(3, 3, 3, 4, 5), widths=FIVE, late_norm=True),
    "lau_resnet49": partial(
        Trunk, counts=(3, 3, 3, 4, 5), widths=FIVE, convolutions=(2, 2, 3, 3, 3), late_norm=True
    ),
    # cropped_jan05_4: 1 + 2 x (3 + 4 + 23 + 3) = 67, the only one with a pooling.
    "lau_resnet67": partial(
        Trunk, counts=(3, 4, 23, 3), widths=(48, 64, 80, 128), late_norm=True, pooled=True
    ),
}
"""Name as a backbone -> function that builds it for a number of channels."""


def _xavier_layer(channels_in: int, channels: int, kernel: int, stride: int) -> list[nn.Module]:
    """A convolution drawn as by Glorot, its normalisation and the leaky ReLU."""
    convolution = nn.Conv2d(channels_in, channels, kernel, stride, kernel // 2, bias=False)
    nn.init.xavier_uniform_(convolution.weight)
    return [convolution, nn.BatchNorm2d(channels, eps=1e-4), nn.LeakyReLU(LEAK, inplace=True)]


NARROW_RESNET = "narrow_resnet10"
"""Its name as a backbone."""


class NarrowResNet(nn.Module):
    """A ResNet of ten layers (He et al., 2016) with few channels and a stride of 16 instead of 32.

    It learns from small photos from scratch on a processor, in minutes. Nothing is pooled behind the first
    layer, so that nicks and scars of two or three pixels stay visible. The channels are multiples of 16,
    which suits the vector units of processors.
    """

    def __init__(self, channels: int = 3, width: int = 16) -> None:
        super().__init__()
        self.num_features = 8 * width
        self.stem = nn.Sequential(*_convolution(channels, width, 5, 2), nn.ReLU(inplace=True))
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
        """The maps behind each block, fine to coarse, under the name that timm's networks have for it."""
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
        unchanged = channels_in == channels_out and stride == 1
        self.shortcut = nn.Identity() if unchanged else _convolution(channels_in, channels_out, 1, stride)

    def forward(self, features: Tensor) -> Tensor:
        """The block's feature map."""
        return F.relu(self.second(F.relu(self.first(features))) + self.shortcut(features))


def _convolution(channels_in: int, channels_out: int, kernel: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out))
