"""The average of checkpoints: the mean by hand, statistics of one full pass, and what is refused."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from whalebench.benchmarks.core.photos import Photos
from whalebench.benchmarks.core.store import PhotoStore
from whalebench.methods.parts.training.averaging import CheckpointAverage, LastWeights, RunningAverage
from whalebench.methods.parts.training.config import TrainingConfig
from whalebench.methods.parts.training.trainer import build_average, train_network
from whalebench.tests.notes import Notes

PHOTOS, EPOCHS = 12, 5


class Small(nn.Module):
    """A network with batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Conv2d(3, 4, 3, stride=4)
        self.neck = nn.BatchNorm2d(4)

    def forward(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.neck(self.backbone(pixels)).mean(dim=(2, 3))
        return features


class Head(nn.Module):
    """Cross-entropy over three individuals."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self.linear(features), labels)


def photos(folder: Path) -> Photos:
    paths = tuple(f"{index}.png" for index in range(PHOTOS))
    store = PhotoStore(folder, paths, paths, ("",) * PHOTOS)
    store._open["photos", (16, 16, 3)] = np.random.default_rng(0).integers(
        0, 256, (PHOTOS, 16, 16, 3), np.uint8
    )
    rows = np.arange(PHOTOS)
    shapes = np.full((PHOTOS, 2), 16)
    return Photos(paths, paths, ("a", "b", "c"), store, rows, shapes, (rows % 3).astype(np.int64))


def settings(**values: Any) -> TrainingConfig:
    given = {"size": 16, "epochs": EPOCHS, "batch_size": 6, "learning_rate": 0.05, "augment": "heavy"}
    return TrainingConfig(**{**given, **values})


def test_the_running_average_is_that_of_timm() -> None:
    from timm.utils.model_ema import ModelEmaV3

    torch.manual_seed(0)
    both = nn.ModuleList([Small(), Head()])
    ours, theirs = RunningAverage(both, 0.9), ModelEmaV3(both, decay=0.9, use_warmup=True)
    for step in range(1, 6):
        both[0](torch.rand(4, 3, 16, 16)).sum().backward()
        with torch.no_grad():
            for parameter in both.parameters():
                parameter.add_(torch.randn(parameter.shape))
            both[0].neck.running_mean = torch.rand(4)  # another tensor in the place of the buffer
        ours.after_step(step)
        theirs.update(both, step=step)
    for name, value in ours.kept.state_dict().items():
        assert torch.equal(value, theirs.module.state_dict()[name]), name
    assert int(ours.kept[0].neck.num_batches_tracked) == 5  # type: ignore[union-attr]


def train(
    folder: Path, config: TrainingConfig
) -> tuple[Small, Head, list[dict[str, Tensor]], list[dict[str, Tensor]]]:
    """What is kept, the weights as each epoch left them, and as each epoch was validated."""
    torch.manual_seed(0)
    network, head = Small(), Head()
    left: list[dict[str, Tensor]] = []
    seen: list[dict[str, Tensor]] = []

    def validate(shown: Small, shown_head: Head) -> None:
        left.append({k: v.clone() for k, v in {**network.state_dict(), **head.state_dict()}.items()})
        seen.append({k: v.clone() for k, v in {**shown.state_dict(), **shown_head.state_dict()}.items()})

    kept = train_network(network, head, photos(folder), config, Notes(), validate)
    return *kept, left, seen


def test_checkpoints_are_averaged_equally_with_statistics_of_a_plain_pass(tmp_path: Path) -> None:
    network, head, left, seen = train(tmp_path, settings(average="checkpoints", checkpoints=3))
    for key in ("backbone.weight", "neck.weight", "linear.weight"):
        mean = torch.stack([weights[key] for weights in left[-3:]]).mean(dim=0)
        kept = {**network.state_dict(), **head.state_dict()}[key]
        assert torch.allclose(kept, mean, atol=1e-6)
        assert not torch.allclose(kept, left[-1][key], atol=1e-4)
        # Before the last epoch there is no average yet.
        assert torch.equal(seen[-2][key], left[-2][key])
        assert torch.equal(seen[-1][key], kept)
    data = photos(tmp_path)
    features = network.backbone(data.batch(range(PHOTOS), (16, 16)).pixels)
    assert torch.allclose(network.neck.running_mean, features.mean(dim=(0, 2, 3)), atol=1e-5)  # type: ignore[arg-type]
    between = features.var(dim=(0, 2, 3))
    assert torch.allclose(network.neck.running_var, between, rtol=0.1)  # type: ignore[arg-type]
    assert not torch.allclose(left[-1]["neck.running_mean"], features.mean(dim=(0, 2, 3)), atol=1e-3)
    assert not network.training


def test_statistics_are_those_of_the_average_exactly() -> None:
    torch.manual_seed(0)
    both = nn.ModuleList([Small(), Head()])
    average = CheckpointAverage(both, epochs=2, checkpoints=2)
    weights, batch = [], torch.rand(8, 3, 16, 16)
    for number in (1, 2):
        with torch.no_grad():
            for parameter in both.parameters():
                parameter.normal_()
        weights.append(dict(both.named_parameters())["0.backbone.weight"].detach().clone())
        average.after_epoch(number, iter([batch]))
    network = average.kept[0]
    assert isinstance(network, Small)
    assert torch.allclose(network.backbone.weight, (weights[0] + weights[1]) / 2, atol=1e-6)
    features = network.backbone(batch)
    assert torch.allclose(network.neck.running_mean, features.mean(dim=(0, 2, 3)), atol=1e-5)  # type: ignore[arg-type]
    assert torch.allclose(network.neck.running_var, features.var(dim=(0, 2, 3)), atol=1e-4)  # type: ignore[arg-type]


def test_nothing_is_read_for_statistics_that_are_not_needed() -> None:
    def broken() -> Iterable[Tensor]:
        raise AssertionError("read")
        yield torch.zeros(())

    both = nn.ModuleList([Small(), Head()])
    for average in (LastWeights(both), RunningAverage(both, 0.9), CheckpointAverage(both, 3, 2)):
        average.after_step(1)
        average.after_epoch(2, broken())


def test_averages_by_name() -> None:
    both = nn.ModuleList([Small(), Head()])

    def kind(**values: Any) -> type:
        return type(build_average(both, settings(**values)))

    assert kind(average="checkpoints", checkpoints=2) is CheckpointAverage
    assert kind(ema=0.9) is RunningAverage
    assert kind(ema=0.0) is LastWeights
    assert kind(epochs=0) is LastWeights


def test_more_checkpoints_than_epochs_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot take checkpoints=10 of epochs=5; lower checkpoints"):
        settings(average="checkpoints")
    assert settings(average="checkpoints", checkpoints=5).checkpoints == 5


def test_the_running_average_is_not_of_checkpoints(tmp_path: Path) -> None:
    network, _, left, seen = train(tmp_path, settings(average="ema", ema=0.9))
    mean = torch.stack([weights["backbone.weight"] for weights in left[-3:]]).mean(dim=0)
    assert not torch.allclose(network.backbone.weight, mean, atol=1e-4)
    assert not torch.equal(seen[0]["backbone.weight"], left[0]["backbone.weight"])
