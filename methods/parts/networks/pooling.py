"""Pooling: from feature maps (photos, channels, height, width) to one vector a photo."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Pooling = Literal["average", "gem"]
Flattening = Literal["flatten"]
Grid = tuple[int, int]
"""Rows and columns of cells."""
EXPONENTS = (1.0, 16.0)
"""Range of the generalised mean's: the average, and where powers of activations up to 100 fit in float32."""


def cell_means(maps: Tensor, grid: Grid) -> Tensor:
    """Means (photos, channels, rows, columns) over a grid's cells, which overlap where sides do not divide.

    This is adaptive_avg_pool2d. Apple's GPUs have that only for sides that divide, and on NVIDIA's its
    gradients are added up in another order every time; products with matrices are the same on all.
    """
    if maps.device.type == "cpu":
        return F.adaptive_avg_pool2d(maps, grid)
    return means_by_products(maps, grid)


def means_by_products(maps: Tensor, grid: Grid) -> Tensor:
    """The means of `cell_means` as two products with matrices of shares."""
    down, across = (_shares(side, cells).to(maps) for side, cells in zip(maps.shape[-2:], grid, strict=True))
    with torch.autocast(maps.device.type, enabled=False):
        return down @ maps @ across.mT


def _shares(side: int, cells: int) -> Tensor:
    """The share of each position in the mean of each cell (cells, side)."""
    shares = torch.zeros(cells, side)
    for cell in range(cells):
        low, high = cell * side // cells, -(-(cell + 1) * side // cells)
        shares[cell, low:high] = 1 / (high - low)
    return shares


class AveragePool(nn.Module):
    """Mean over each cell of a grid, the cells side by side; one cell is global pooling."""

    def __init__(self, grid: Grid = (1, 1)) -> None:
        super().__init__()
        self.grid = grid

    def forward(self, features: Tensor) -> Tensor:
        """(photos, channels x cells) from (photos, channels, height, width)."""
        return cell_means(features.float(), self.grid).flatten(1)


class GeM(nn.Module):
    """Generalised mean with a learnable exponent (Radenović et al., 2018), over each cell of a grid.

    Exponent 1 is the average, infinity the maximum. It is used within EXPONENTS, whatever is learned.
    """

    def __init__(self, grid: Grid = (1, 1), exponent: float = 3.0, floor: float = 1e-6) -> None:
        super().__init__()
        self.grid = grid
        self.exponent = nn.Parameter(torch.tensor(exponent))
        self.floor = floor

    def forward(self, features: Tensor) -> Tensor:
        """(photos, channels x cells) from (photos, channels, height, width), in float32 whatever comes in."""
        exponent = self.exponent.clamp(*EXPONENTS)
        powered = _power(features.float().clamp(min=self.floor), exponent)
        # A cell in which nothing fires is 0 from exponent 7 on, where a root has no finite gradient.
        mean = cell_means(powered, self.grid).clamp(min=torch.finfo(torch.float32).tiny)
        return _power(mean.flatten(1), 1.0 / exponent)


def _power(base: Tensor, exponent: Tensor) -> Tensor:
    """base ** exponent of what is above 0; torch would take two more powers for the gradient."""
    return (exponent * base.log()).exp()


class Flatten(nn.Module):
    """No pooling: every position counts (Humpback 2019, 3rd place). Training drops whole channels."""

    def __init__(self, channels: int, left_out: float = 0.5) -> None:
        super().__init__()
        self.normal = nn.BatchNorm2d(channels)
        self.dropout = nn.Dropout2d(left_out)

    def forward(self, features: Tensor) -> Tensor:
        """(photos, channels x height x width) from (photos, channels, height, width)."""
        flat: Tensor = self.dropout(self.normal(features.float())).flatten(1)
        return flat


class EachMap(nn.Module):
    """A pooling of its own for each of the last feature maps of a network, side by side."""

    def __init__(self, poolings: list[nn.Module]) -> None:
        super().__init__()
        self.poolings = nn.ModuleList(poolings)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """(photos, channels of all x cells) from maps, fine to coarse; earlier ones are passed over."""
        last = maps[-len(self.poolings) :]
        return torch.cat([pool(features) for pool, features in zip(self.poolings, last, strict=True)], dim=1)


def build_pooling(name: Pooling, grid: Grid) -> nn.Module:
    """The pooling of that name."""
    return GeM(grid) if name == "gem" else AveragePool(grid)
