"""Several processes that train one network take the steps of one, and score to the bit as one does."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from whalebench import RunFailedError, WhalebenchError
from whalebench.benchmarks.core.machine import MEMBER, cores
from whalebench.benchmarks.core.record import read_record
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.running import devices, runner, workers
from whalebench.benchmarks.running.runner import RunRequest
from whalebench.benchmarks.running.workers import Share
from whalebench.methods.parts.losses.margins import HeadConfig, MarginLoss
from whalebench.methods.parts.losses.metric_losses import MetricLossConfig, build_metric_loss
from whalebench.methods.parts.pairs import ContrastivePairs
from whalebench.methods.parts.training.config import TrainingConfig
from whalebench.methods.parts.training.devices import WORLD
from whalebench.methods.parts.training.trainer import predict, train_network
from whalebench.tests.notes import Notes
from whalebench.tests.test_training import photos

NEAR = 1e-5
"""Largest difference of two gradients, as a share of their length."""
BATCH, WIDTH = 11, 6
"""Photos of a step, which two processes cannot share equally; channels of the network."""
TRAINING = TrainingConfig(size=(16, 16), batch_size=BATCH, epochs=1, precision="fp32", ema=0.5)


class Tiny(nn.Module):
    """Convolution and linear layer, both normalised over the batch, with dropout between."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, WIDTH, 3, stride=2, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU()
        )
        self.dropped = nn.Sequential(nn.Dropout2d(0.2), nn.Conv2d(WIDTH, WIDTH, 3), nn.ReLU())
        self.dropout, self.linear = nn.Dropout(0.3), nn.Linear(WIDTH, WIDTH, bias=False)
        self.neck = nn.BatchNorm1d(WIDTH)

    def forward(self, pixels: Tensor) -> Tensor:
        features = self.dropped(self.backbone(pixels)).mean(dim=(2, 3))
        embeddings: Tensor = self.neck(self.linear(self.dropout(features)))
        return embeddings


def metric(**fields: Any) -> nn.Module:
    loss = build_metric_loss(MetricLossConfig(**fields), 3, WIDTH)
    loss.remember(True)
    return loss


LOSSES: dict[str, Callable[[], nn.Module]] = {
    "arcface": lambda: MarginLoss(HeadConfig(), np.array([5, 5, 5]), WIDTH),
    "adacos": lambda: MarginLoss(HeadConfig(scale=0, subcentres=2), np.array([5, 5, 5]), WIDTH),
    "triplet": lambda: metric(loss="triplet", miner="semihard"),
    "multi_similarity": lambda: metric(loss="multi_similarity"),
    "proxy_anchor": lambda: metric(loss="proxy_anchor"),
    "memory": lambda: metric(loss="triplet", memory=40),
    "siamese": lambda: ContrastivePairs(2.0),
}


def learned(folder: Path, name: str) -> dict[str, np.ndarray[Any, Any]]:
    """Gradients of network and loss in the first step, weights after the epoch, and predictions before it."""
    torch.manual_seed(0)
    config = TRAINING.model_copy(update={"batch_size": BATCH - (name == "siamese")})  # pairs are even
    network, loss, seen = Tiny(), LOSSES[name](), photos(folder, 150)
    before = predict(network.eval(), seen, TRAINING, torch.device("cpu"))
    gradients: dict[str, Tensor] = {}

    def before_step(loss: nn.Module, done: float) -> None:
        if done and not gradients:
            for part, module in (("network", network), ("loss", loss)):
                given = [each.grad.flatten() for each in module.parameters() if each.grad is not None]
                gradients[part] = torch.cat([torch.zeros(1), *given]).clone()

    trained, _ = train_network(network, loss, seen, config, Notes(), lambda network, loss: None, before_step)
    state = torch.cat([value.flatten().double() for value in trained.state_dict().values()])
    found = {part: value.numpy() for part, value in gradients.items()}
    return found | {"before": before, "state": state.numpy()}


def as_member(folder: Path, rank: int, size: int) -> None:
    """Learns by every loss as one of so many processes, and writes what came of it."""
    torch.set_num_threads(1)
    WORLD.join(size, rank, folder / "meeting", torch.device("cpu"))
    for name in LOSSES:
        np.savez(folder / f"{name}-{rank}.npz", **learned(folder, name))
    WORLD.leave()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two processes have left what they learned together."""
    folder = tmp_path_factory.mktemp("both")
    spawn = multiprocessing.get_context("spawn")
    members = [spawn.Process(target=as_member, args=(folder, rank, 2), daemon=True) for rank in range(2)]
    for member in members:
        member.start()
    for member in members:
        member.join(120)
        assert member.exitcode == 0
    return folder


@pytest.mark.parametrize("name", LOSSES)
def test_two_processes_learn_what_one_does(both: Path, tmp_path: Path, name: str) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = learned(tmp_path, name)
    finally:
        torch.set_num_threads(threads)
    first, second = (np.load(both / f"{name}-{rank}.npz") for rank in range(2))
    assert np.array_equal(first["before"], alone["before"])  # predictions: to the bit
    for key in ("before", "network", "loss", "state"):
        assert np.array_equal(first[key], second[key]), key
    length = np.linalg.norm(np.concatenate([alone["network"], alone["loss"]]))
    assert np.linalg.norm(alone["network"]) > 0
    for part in ("network", "loss"):
        assert np.linalg.norm(first[part] - alone[part]) <= NEAR * length, part
    assert np.allclose(first["state"], alone["state"], rtol=1e-3, atol=1e-3)
