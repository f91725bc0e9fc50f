"""Losses against plain loops, and pooling at its two ends."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from whalebench.methods.parts.losses.margins import SoftmaxLoss
from whalebench.methods.parts.networks.pooling import (
    AveragePool,
    EachMap,
    Flatten,
    GeM,
    Grid,
    Pooling,
    build_pooling,
    cell_means,
    means_by_products,
)


def slow_cross_entropy(logits: list[list[float]], labels: list[int], smoothing: float) -> float:
    total = 0.0
    for row, label in zip(logits, labels, strict=True):
        log_sum = math.log(sum(math.exp(logit) for logit in row))
        for place, logit in enumerate(row):
            target = smoothing / len(row) + (1 - smoothing) * (place == label)
            total -= target * (logit - log_sum)
    return total / len(labels)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_softmax_is_the_plain_loop(smoothing: float) -> None:
    torch.manual_seed(0)
    loss = SoftmaxLoss(4, 6, dropout=0.0, label_smoothing=smoothing)
    features, labels = torch.randn(5, 6), torch.tensor([0, 1, 2, 3, 3])
    logits = loss.classifier(features).tolist()
    wanted = slow_cross_entropy(logits, labels.tolist(), smoothing)
    assert loss(features, labels).item() == pytest.approx(wanted, rel=1e-5)
    assert torch.allclose(loss.log_probabilities(features).exp().sum(dim=1), torch.ones(5))
    assert torch.equal(loss.log_probabilities(features).argmax(dim=1), torch.tensor(logits).argmax(dim=1))


def test_logits_have_the_digits_of_float32_also_where_the_network_has_not() -> None:
    torch.manual_seed(0)
    loss, features = SoftmaxLoss(50, 8, dropout=0.0, label_smoothing=0.0), 20 * torch.randn(4, 8)
    exact = loss.log_probabilities(features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(loss.log_probabilities(features), exact)


@pytest.mark.parametrize(
    ("size", "grid"), [((5, 8), (2, 3)), ((4, 6), (2, 3)), ((7, 3), (7, 1)), ((3, 2), (4, 5))]
)
def test_cell_means_are_the_same_by_products_and_in_low_precision(size: Grid, grid: Grid) -> None:
    torch.manual_seed(0)
    maps = torch.randn(2, 3, *size)
    wanted = torch.nn.functional.adaptive_avg_pool2d(maps, grid)
    assert torch.equal(cell_means(maps, grid), wanted)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.allclose(means_by_products(maps, grid), wanted, atol=1e-6)


def test_softmax_drops_features_in_training_only() -> None:
    loss = SoftmaxLoss(4, 50, dropout=0.5, label_smoothing=0.0)
    features, labels = torch.randn(3, 50), torch.tensor([0, 1, 2])
    assert loss(features, labels).item() != loss(features, labels).item()
    loss.eval()
    assert loss(features, labels).item() == loss(features, labels).item()


def test_gem_lies_between_mean_and_maximum() -> None:
    features = torch.rand(3, 5, 4, 6) + 0.1
    mean, largest = AveragePool()(features), features.amax(dim=(2, 3))
    assert torch.allclose(mean, features.mean(dim=(2, 3)))
    assert torch.allclose(GeM(exponent=1.0)(features), mean, rtol=1e-5)
    pooled = [GeM(exponent=exponent)(features) for exponent in (3.0, 7.0, 16.0)]
    for less, more in pairwise([mean, *pooled, largest]):
        assert bool((less < more).all())
    # One photo's largest of 24 places counts for at least a 24th of the mean.
    assert bool((pooled[-1] >= largest * 24 ** (-1 / 16)).all())


@pytest.mark.parametrize("exponent", [0.1, 3.0, 8.0, 16.0, 80.0])
def test_gem_has_finite_slopes_where_nothing_fires_and_where_much_does(exponent: float) -> None:
    features = torch.tensor([0.0, 1e-3, 100.0])[:, None, None, None].expand(3, 2, 40, 60).clone()
    features[0, 1, 0, 0] = 5.0
    features.requires_grad_()
    pool = GeM((2, 3), exponent=exponent)
    pooled = pool(features)
    pooled.sum().backward()
    assert features.grad is not None
    assert pool.exponent.grad is not None
    assert bool(pooled.isfinite().all())
    assert bool(features.grad.isfinite().all())
    assert bool(pool.exponent.grad.isfinite())


def test_gem_learns_its_exponent_and_survives_negative_features() -> None:
    pool = build_pooling("gem", (1, 1))
    features = torch.randn(2, 3, 4, 4, requires_grad=True)
    pooled = pool(features - 10)
    pooled.sum().backward()
    assert isinstance(pool, GeM)
    assert isinstance(pool.exponent, nn.Parameter)
    assert pool.exponent.grad is not None
    assert bool(pooled.isfinite().all())
    assert bool(pool.exponent.grad.isfinite())
    assert pool(features.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("name", ["average", "gem"])
def test_cells_of_a_grid_are_pooled_apart(name: Pooling) -> None:
    features = torch.rand(2, 3, 4, 6) + 0.1
    pooled = build_pooling(name, (2, 3))(features)
    assert pooled.shape == (2, 18)
    alone = build_pooling(name, (1, 1))
    for row in range(2):
        for column in range(3):
            cell = features[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            assert torch.allclose(pooled.reshape(2, 3, 2, 3)[:, :, row, column], alone(cell), atol=1e-6)


def test_poolings_by_name() -> None:
    assert [type(build_pooling(name, (1, 1))).__name__ for name in ("average", "gem")] == [
        "AveragePool",
        "GeM",
    ]


def test_pooling_in_a_grid_keeps_the_places_apart() -> None:
    features = torch.zeros(1, 2, 4, 6)
    features[0, 1, 3, 5] = 8.0  # the last cell of 2 x 3 covers four positions
    pooled = AveragePool((2, 3))(features)
    assert pooled.shape == (1, 12)
    assert pooled[0].nonzero().flatten().tolist() == [11]
    assert pooled[0, 11] == pytest.approx(2.0)
    assert torch.allclose(GeM((2, 3), exponent=1.0)(features), pooled, atol=1e-5)


def test_flattened_maps_keep_every_place_and_lose_whole_channels_in_training() -> None:
    torch.manual_seed(0)
    pool = Flatten(6)
    features = torch.randn(40, 6, 2, 3)
    left_out = (pool(features).reshape(40, 6, 6) == 0).all(dim=2).float().mean()
    assert left_out.item() == pytest.approx(0.5, abs=0.1)
    pool.eval()
    normal = (features - pool.normal.running_mean[:, None, None]) / (  # type: ignore[index]
        pool.normal.running_var[:, None, None] + 1e-5  # type: ignore[index]
    ).sqrt()
    assert torch.allclose(pool(features), normal.flatten(1), atol=1e-5)


def test_the_last_maps_are_pooled_with_exponents_of_their_own() -> None:
    first, second = GeM(exponent=1.0), GeM(exponent=4.0)
    maps = [torch.rand(2, channels, side, side) for channels, side in ((2, 8), (3, 4), (5, 2))]
    pooled = EachMap([first, second])(maps)
    assert torch.equal(pooled, torch.cat([first(maps[1]), second(maps[2])], dim=1))
    pooled.sum().backward()
    assert first.exponent.grad is not None
    assert second.exponent.grad is not None
