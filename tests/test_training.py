"""The training loop: every photo once an epoch, the schedule, the average of the weights, and divergence."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from whalebench import WhalebenchError
from whalebench.benchmarks.core.photos import CPU, Batch, Photos
from whalebench.benchmarks.core.store import PhotoStore, Size
from whalebench.methods.parts.networks.weights import weight_files
from whalebench.methods.parts.training.config import TrainingConfig
from whalebench.methods.parts.training.trainer import build_optimizer, predict, train_network
from whalebench.tests.notes import Notes

SCORES = np.zeros((1, 2), np.float32)


class Watched(Photos):
    """Photos that remember which were asked for."""

    def batch(self, indices: Any, size: Size, device: torch.device = CPU) -> Batch:
        asked.append([int(index) for index in indices])
        assert not torch.is_autocast_enabled("cpu")  # windows are cut out at full precision
        return super().batch(indices, size, device)


asked: list[list[int]] = []


class Small(nn.Module):
    """A network whose batch normalisation cannot train on one photo."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Conv2d(3, 4, 3, stride=4)
        self.neck = nn.BatchNorm1d(4)

    def forward(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.neck(self.backbone(pixels).mean(dim=(2, 3)))
        return features


class Head(nn.Module):
    """Cross-entropy over three individuals."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self.linear(features.float()), labels)


class Broken(Head):
    """A loss that is no number."""

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        return super().forward(features, labels) * float("nan")


def photos(tmp_path: Path, count: int) -> Photos:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, 16, 16, 3), np.uint8)
    paths = tuple(f"{index}.png" for index in range(count))
    store = PhotoStore(tmp_path, paths, paths, ("",) * count)
    store._open["photos", (16, 16, 3)] = pixels
    labels = np.arange(count) % 3
    asked.clear()
    rows, shapes = np.arange(count), np.full((count, 2), 16)
    return Watched(paths, paths, ("a", "b", "c"), store, rows, shapes, labels.astype(np.int64))


def config(**values: Any) -> TrainingConfig:
    return TrainingConfig(**{"size": 16, "epochs": 3, "batch_size": 4, "augment": "none", **values})


def train(
    data: Photos, settings: TrainingConfig, seed: int = 0, loss: nn.Module | None = None
) -> tuple[tuple[Small, nn.Module], Notes]:
    torch.manual_seed(seed)
    notes = Notes(seed)
    both = train_network(Small(), loss or Head(), data, settings, notes, lambda network, loss: SCORES)
    return both, notes


@pytest.mark.parametrize(
    ("count", "batch_size"), [(10, 4), (9, 4), (13, 4), (3, 2), (5, 2), (8, 8), (7, 100), (2, 2)]
)
def test_every_photo_is_learned_from_once_an_epoch(tmp_path: Path, count: int, batch_size: int) -> None:
    _, notes = train(photos(tmp_path, count), config(batch_size=batch_size))
    per_epoch = len(asked) // 3
    epochs = [
        [index for batch in asked[start : start + per_epoch] for index in batch]
        for start in range(0, len(asked), per_epoch)
    ]
    assert len(epochs) == 3
    assert all(Counter(epoch) == Counter(range(count)) for epoch in epochs)
    assert min(len(batch) for batch in asked) >= 2
    assert max(len(batch) for batch in asked) <= max(batch_size, 3)
    assert [(note.number, note.of, note.photos) for note in notes.epochs] == [
        (n, 3, count) for n in (1, 2, 3)
    ]
    if count > 4:
        assert epochs[0] != epochs[1]


def test_one_photo_alone_is_a_batch_of_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Small()
    network.neck = nn.Identity()  # type: ignore[assignment]
    train_network(network, Head(), photos(tmp_path, 1), config(), Notes(), lambda network, loss: SCORES)
    assert asked == [[0]] * 3


def test_the_learning_rate_rises_and_then_falls_to_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    original = torch.optim.AdamW.step

    def step(self: torch.optim.AdamW, *args: Any, **kwargs: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return original(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    train(photos(tmp_path, 20), config(epochs=10, learning_rate=0.01, warm_up=0.2))
    top = rates.index(max(rates))
    assert len(rates) == 50
    assert rates[0] == pytest.approx(0.001)
    assert rates[9] == pytest.approx(0.01)
    assert 9 <= top <= 10
    assert all(a < b for a, b in pairwise(rates[:10]))
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert rates[-1] < 0.0001


def test_groups_get_their_rates_and_only_matrices_decay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Any]] = []
    original = torch.optim.AdamW.__init__

    def init(self: torch.optim.AdamW, groups: Any, **kwargs: Any) -> None:
        seen.extend({**group} for group in groups)
        original(self, groups, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "__init__", init)
    train(photos(tmp_path, 6), config(epochs=1, learning_rate=0.01, head_rate=5.0, weight_decay=0.2))
    found = {
        (parameter.ndim > 1, tuple(parameter.shape)): (group["lr"], group["weight_decay"])
        for group in seen
        for parameter in group["params"]
    }
    assert found[True, (4, 3, 3, 3)] == (0.01, 0.2)
    assert found[True, (3, 4)] == (0.05, 0.2)
    assert found[False, (3,)] == (0.05, 0.0)
    assert {values[1] for (matrix, _), values in found.items() if not matrix} == {0.0}


def test_a_short_training_rises_for_longer_unless_told_how_long() -> None:
    shares = [TrainingConfig().rising(steps) for steps in (0, 1, 512, 640, 1024, 2560, 10_000)]
    assert shares == [0.4, 0.4, 0.4, 0.4, 0.25, 0.1, 0.1]
    assert TrainingConfig(warm_up=0.2).rising(512) == 0.2
    optimizer, schedule = build_optimizer(nn.ModuleList([nn.Linear(2, 3)]), TrainingConfig(), 10)
    rates = []
    for _ in range(10):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates[:5] == pytest.approx([0.001, 0.002, 0.003, 0.004, 0.004]) and rates[5] < 0.004


@pytest.mark.parametrize(("optimizer", "kind"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_the_cosine_of_either_optimizer_ends_at_its_floor(optimizer: Any, kind: type) -> None:
    config = TrainingConfig(optimizer=optimizer, learning_rate=0.01, weight_decay=2e-4, warm_up=0, floor=0.1)
    made, schedule = build_optimizer(nn.ModuleList([nn.Linear(2, 3)]), config, 11)
    assert type(made) is kind
    assert {group["weight_decay"] for group in made.param_groups} == {2e-4, 0.0}
    assert optimizer == "adamw" or {group["momentum"] for group in made.param_groups} == {0.9}
    rates = []
    for _ in range(12):
        rates.append(schedule.get_last_lr()[0])
        made.step()
        schedule.step()
    assert rates[:2] == [0.01, 0.01] and rates[-1] == pytest.approx(0.001)
    assert rates[6] == pytest.approx((0.01 + 0.001) / 2)  # half way
    assert all(one >= other for one, other in pairwise(rates))


def test_a_loss_that_is_no_number_stops_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        WhalebenchError, match=r"loss became nan in step 1 of epoch 1, at learning rate .*lower learning_rate"
    ):
        train(photos(tmp_path, 6), config(), loss=Broken())


def test_the_average_of_the_weights_is_used_unless_it_is_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = photos(tmp_path, 12)
    last: dict[str, Tensor] = {}
    original = torch.optim.AdamW.step

    def step(self: torch.optim.AdamW, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        last.update({str(tuple(p.shape)): p.detach().clone() for g in self.param_groups for p in g["params"]})
        return result

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    plain, _ = train(data, config(ema=0.0, learning_rate=0.05))
    assert torch.equal(plain[0].backbone.weight, last["(4, 3, 3, 3)"])
    averaged, _ = train(data, config(ema=0.99, learning_rate=0.05))
    assert not torch.equal(averaged[0].backbone.weight, last["(4, 3, 3, 3)"])
    torch.manual_seed(0)
    start = Small().backbone.weight
    last_weight = last["(4, 3, 3, 3)"]
    moved, whole = (averaged[0].backbone.weight - start).norm(), (last_weight - start).norm()
    assert 0.5 * whole < moved < whole  # an average without warm-up would still be near the start
    assert not any(module.training for both in (plain, averaged) for one in both for module in one.modules())


def test_the_seed_determines_everything(tmp_path: Path) -> None:
    data = photos(tmp_path, 9)
    states = [train(data, config(augment="heavy"), seed)[0][0].state_dict() for seed in (1, 1, 2)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not torch.equal(states[0]["backbone.weight"], states[2]["backbone.weight"])


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    _, notes = train(photos(tmp_path, 12), config(epochs=30, learning_rate=0.02))
    assert notes.epochs[-1].loss < 0.8 * notes.epochs[0].loss


def test_the_loss_may_be_changed_before_every_step(tmp_path: Path) -> None:
    shares: list[float] = []

    def before_step(loss: nn.Module, done: float) -> None:
        assert isinstance(loss, Head)
        shares.append(done)

    settings, data = config(epochs=3, batch_size=4), photos(tmp_path, 8)
    train_network(Small(), Head(), data, settings, Notes(), lambda network, loss: SCORES, before_step)
    assert shares == pytest.approx([step / 6 for step in range(6)])


def test_no_epochs_leave_the_network_as_it_starts(tmp_path: Path) -> None:
    both, notes = train(photos(tmp_path, 6), config(epochs=0), seed=4)
    torch.manual_seed(4)
    assert torch.equal(both[0].backbone.weight, Small().backbone.weight)
    assert notes.epochs == []
    assert asked == []
    assert not any(module.training for module in both)


def test_smaller_photos_come_first(tmp_path: Path) -> None:
    settings = config(small_size=16, small_epochs=2, size=32, epochs=5)
    assert [settings.size_at(epoch) for epoch in range(5)] == [(16, 16)] * 2 + [(32, 32)] * 3
    assert set(settings.sizes()) == {(16, 16), (32, 32)}
    assert config(epochs=0).sizes() == ((16, 16),)


def test_an_output_does_not_depend_on_the_rest_of_the_batch(tmp_path: Path) -> None:
    data = photos(tmp_path, 70)
    both, _ = train(data.select(range(12)), config(epochs=1))
    settings, device = config(), torch.device("cpu")
    together = predict(both[0], data, settings, device)
    assert together.shape == (70, 4)
    backwards = predict(both[0], data.select(range(70)[::-1]), settings, device)[::-1]
    alone = np.concatenate(
        [predict(both[0], data.select([index]), settings, device) for index in (0, 65, 69)]
    )
    assert np.allclose(together, backwards, atol=1e-5)
    assert np.allclose(together[[0, 65, 69]], alone, atol=1e-5)
    assert len(np.unique(together.round(4), axis=0)) == 70


@pytest.mark.parametrize("average", ["ema", "checkpoints"])
def test_the_network_alone_computes_in_low_precision(tmp_path: Path, average: str) -> None:
    data = photos(tmp_path, 9)
    settings = config(precision="bf16", average=average, checkpoints=2)
    (network, _), _ = train(data, settings)
    seen: list[torch.dtype] = []
    network.backbone.register_forward_hook(lambda layer, pixels, output: seen.append(output.dtype))
    assert predict(network, data, settings, CPU).dtype == np.float32
    assert set(seen) == {torch.bfloat16}
    assert len(asked) >= 2


@pytest.mark.parametrize(("side", "batches"), [(16, 1), (512, 2), (4096, 3)])
def test_large_photos_are_scored_in_small_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: int, batches: int
) -> None:
    data, network = photos(tmp_path, 20), Small().eval()
    read: list[Size] = []

    def pixels(store: PhotoStore, size: Size) -> Any:
        read.append(size)
        return np.zeros((20, 16, 16, 3), np.uint8)

    monkeypatch.setattr(PhotoStore, "pixels", pixels)
    predict(network, data, config(size=16, batch_size=8), CPU, (side, side))
    assert read == [(side, side)] * batches


def test_files_of_one_name_with_other_weights_are_told_apart(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    digests = set()
    for content in (b"one", b"two"):
        file.write_bytes(content)
        digests.add(weight_files(TrainingConfig(pretrained=str(file)))[str(file)])
    assert len(digests) == 2
    assert weight_files(TrainingConfig(pretrained="timm")) == {}


def test_more_small_epochs_than_epochs_are_refused() -> None:
    with pytest.raises(ValueError, match="small_epochs=5 is more than epochs=3"):
        TrainingConfig(epochs=3, small_epochs=5)


def test_the_photos_a_network_learned_from_are_its_lineage(tmp_path: Path) -> None:
    data = photos(tmp_path, 9).select([1, 2, 5])
    _, notes = train(data, config(epochs=1))
    assert notes.lineage == {"network": data.digests}


def test_another_target_than_the_labels_is_read_from_the_changed_batch(tmp_path: Path) -> None:
    targets = []

    class Mean(nn.Module):
        def forward(self, features: Tensor, target: Tensor) -> Tensor:
            targets.append(target)
            return (features.mean() - target.mean()) ** 2

    train_network(
        Small(),
        Mean(),
        photos(tmp_path, 8),
        config(epochs=1, batch_size=8),
        Notes(),
        lambda network, loss: None,
        target=lambda batch: batch.pixels.mean(dim=(1, 2, 3)),
        artefact="other",
    )
    assert [tuple(target.shape) for target in targets] == [(8,)]
