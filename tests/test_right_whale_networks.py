"""The Right Whale networks: as many layers, as wide and wired as their author's files have them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from whalebench.methods.parts.networks.backbones import OWN, build_backbone
from whalebench.methods.parts.networks.own import RIGHT_WHALE_NETWORKS, ResidualBlock

SIZE = (64, 64)


def widths(*runs: tuple[int, int]) -> list[int]:
    """Channels of each convolution from (channels, how many) in a row."""
    return [width for width, count in runs for _ in range(count)]


NETWORKS = {
    "lau_vgg19": (19, 32, widths((32, 1), (48, 3), (64, 3), (80, 4), (128, 4), (192, 4))),
    "lau_vgg19_thin": (19, 32, widths((32, 1), (48, 3), (64, 3), (80, 4), (96, 4), (128, 4))),
    "lau_vgg19_wide": (19, 32, widths((32, 1), (48, 3), (64, 3), (96, 4), (128, 4), (192, 4))),
    "lau_vgg25_thin": (25, 32, widths((32, 1), (48, 3), (64, 3), (80, 6), (96, 6), (128, 6))),
    "lau_resnet19": (19, 8, widths((32, 1), (48, 6), (64, 6), (80, 6))),
    "lau_resnet31": (31, 32, widths((32, 1), (48, 6), (64, 6), (80, 6), (96, 6), (128, 6))),
    "lau_resnet37": (37, 32, widths((32, 1), (48, 6), (64, 6), (80, 6), (96, 8), (128, 10))),
    "lau_resnet49": (49, 32, widths((32, 1), (48, 6), (64, 6), (80, 9), (96, 12), (128, 15))),
    "lau_resnet67": (67, 32, widths((32, 1), (48, 6), (64, 8), (80, 46), (128, 6))),
}
"""Layers, stride and the channels of every convolution of the trunk, in order."""


def trunk(network: nn.Module) -> list[nn.Conv2d]:
    """The convolutions without those of shortcuts."""
    named = network.named_modules()
    return [module for name, module in named if isinstance(module, nn.Conv2d) and "shortcut" not in name]


def test_all_of_them_are_backbones() -> None:
    assert set(NETWORKS) == set(RIGHT_WHALE_NETWORKS)
    assert set(RIGHT_WHALE_NETWORKS) < set(OWN)


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_widths_and_stride(name: str) -> None:
    layers, stride, channels = NETWORKS[name]
    network = RIGHT_WHALE_NETWORKS[name](3)
    convolutions = trunk(network)
    assert len(convolutions) == len(channels) == layers
    assert [convolution.out_channels for convolution in convolutions] == channels
    assert network.num_features == channels[-1]
    kernels = [convolution.kernel_size for convolution in convolutions]
    assert kernels == [(7, 7)] + [(3, 3)] * (layers - 1)
    pooled = [module for module in network.modules() if isinstance(module, nn.MaxPool2d)]
    assert len(pooled) == (name == "lau_resnet67")
    halvings = sum(convolution.stride == (2, 2) for convolution in convolutions) + len(pooled)
    assert 2**halvings == stride


@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_reaches_every_weight(name: str) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(name, "none", SIZE)
    features = backbone(torch.rand(2, 3, *SIZE))
    side = SIZE[0] // NETWORKS[name][1]
    assert features.shape == (2, backbone.channels, side, side)
    (features * torch.randn_like(features)).sum().backward()
    for parameter, weight in backbone.named_parameters():
        assert weight.grad is not None, parameter
        assert bool(weight.grad.isfinite().all()), parameter
        assert bool(weight.grad.any()), parameter


@pytest.mark.parametrize("name", NETWORKS)
def test_everything_is_normalised_and_leaks_a_third(name: str) -> None:
    network = RIGHT_WHALE_NETWORKS[name](3)
    leaks = [module for module in network.modules() if isinstance(module, nn.LeakyReLU)]
    assert {module.negative_slope for module in leaks} == {1 / 3}
    # One behind every convolution; the sum of a block takes the place of its last one.
    assert len(leaks) == len(trunk(network))
    assert not any(isinstance(module, nn.ReLU) for module in network.modules())
    blocks = [module for module in network.modules() if isinstance(module, ResidualBlock)]
    projections = [block for block in blocks if not isinstance(block.shortcut, nn.Identity)]
    late = name in ("lau_resnet37", "lau_resnet49", "lau_resnet67")
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    assert norms == len(trunk(network)) + len(blocks if late else projections)
    assert all(convolution.bias is None for convolution in trunk(network))


@pytest.mark.parametrize("late_norm", [False, True])
@pytest.mark.parametrize(("channels", "stride"), [(4, 1), (6, 2)])
def test_a_block_is_what_its_formula_says(late_norm: bool, channels: int, stride: int) -> None:
    torch.manual_seed(1)
    block = ResidualBlock(4, channels, convolutions=2, stride=stride, late_norm=late_norm).eval()
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean)
            nn.init.uniform_(module.weight)
    features = torch.randn(2, 4, 8, 8)

    def normed(norm: nn.Module, values: Tensor) -> Tensor:
        state = norm.state_dict()
        each = [state[key][:, None, None] for key in ("running_mean", "running_var", "weight", "bias")]
        mean, variance, weight, bias = each
        return (values - mean) / (variance + 1e-4).sqrt() * weight + bias

    first, first_norm, _, second, second_norm = block.residual
    inner = normed(first_norm, F.conv2d(features, first.weight, stride=stride, padding=1))
    inner = torch.where(inner > 0, inner, inner / 3)
    inner = normed(second_norm, F.conv2d(inner, second.weight, padding=1))
    beside = features
    if channels != 4:
        beside = F.conv2d(features, block.shortcut[0].weight, stride=stride)
        if not late_norm:
            beside = normed(block.shortcut[1], beside)
    both = normed(block.norm, inner + beside) if late_norm else inner + beside
    assert torch.allclose(block(features), torch.where(both > 0, both, both / 3), atol=1e-5)
