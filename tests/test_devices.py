"""Several processes that train one network take the steps of one, and score to the bit as one does."""

from __future__ import annotations

import json
import multiprocessing
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from whalebench import RunFailedError, WhalebenchError
from whalebench.benchmarks.core.machine import cores
from whalebench.benchmarks.core.progress import Silent
from whalebench.benchmarks.core.record import read_record
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.importing.importer import import_csv
from whalebench.benchmarks.launching.launcher import Job
from whalebench.benchmarks.running import devices, runner, workers
from whalebench.benchmarks.running.harness import RunHarness
from whalebench.benchmarks.running.runner import RunRequest
from whalebench.benchmarks.running.workers import Share
from whalebench.methods.method import Epoch
from whalebench.methods.parts.losses.margins import HeadConfig, MarginLoss
from whalebench.methods.parts.losses.metric_losses import MetricLossConfig, build_metric_loss
from whalebench.methods.parts.pairs import ContrastivePairs
from whalebench.methods.parts.training.config import TrainingConfig
from whalebench.methods.parts.training.devices import WORLD
from whalebench.methods.parts.training.trainer import predict, train_network
from whalebench.tests.conftest import draw_source
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
    run_stopped_and_again(folder, rank, size)


FIELDS = ("backbone=test_resnet", "size=32", "epochs=3", "batch_size=13", "learning_rate=0.0005")
REQUEST = RunRequest("arcface", "tiny", settings=FIELDS, device="cpu")


class Stages(Silent):
    """Writes down what a run says that it is at."""

    def __init__(self) -> None:
        self.named: list[str] = []

    def stage(self, name: str) -> None:
        self.named.append(name)


def run_stopped_and_again(folder: Path, rank: int, size: int) -> None:
    """A whole run as one of so many processes, all of which fail after an epoch, and once more."""
    workspace, whole, told = Workspace.open(folder / "workspace"), RunHarness.epoch, Stages()

    def go(meeting: str) -> None:
        request, member = replace(REQUEST, devices=size), runner.Member(rank, size, folder / meeting)
        if rank:
            runner.assist(request, workspace, member)
        else:
            runner.run(request, workspace, told, member=member)

    def stopped(self: RunHarness, epoch: Epoch) -> None:
        whole(self, epoch)
        if epoch.number == 1:
            raise RunFailedError("stopped")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(RunFailedError, match="stopped"):
        patch.setattr(RunHarness, "epoch", stopped)
        go("first")
    WORLD.leave()
    go("second")
    if rank == 0:
        (folder / "stages").write_text("\n".join(told.named))


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two processes have left what they learned together."""
    folder = tmp_path_factory.mktemp("both")
    import_csv(draw_source(folder / "source"), "tiny", Workspace.open(folder / "workspace"))
    spawn = multiprocessing.get_context("spawn")
    members = [spawn.Process(target=as_member, args=(folder, rank, 2), daemon=True) for rank in range(2)]
    for member in members:
        member.start()
    for member in members:
        member.join(240)
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


SCRIPT = """
import os, signal, sys, time
rank = os.environ["WHALEBENCH_MEMBER"][0]
{}
time.sleep(60)
"""
"""A member that does something, and then goes on for long."""


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[str], int]]:
    """The exit code of a run on two devices, whose members do so."""
    monkeypatch.setattr(devices, "share_devices", lambda device, count: (Share(1),) * count)
    monkeypatch.setattr(devices, "PATIENCE", 1.0)
    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # of a job in the background it is ignored

    def start(what: str) -> int:
        monkeypatch.setattr(workers, "PROGRAM", (sys.executable, "-I", "-S", "-c", SCRIPT.format(what)))
        began = time.monotonic()
        request = RunRequest("arcface", "tiny", devices=2)
        try:
            return devices.run_on_devices(request, Workspace(tmp_path), [])
        finally:
            assert time.monotonic() - began < 30  # nobody is waited for

    yield start
    signal.signal(signal.SIGINT, before)


def test_a_lost_process_is_said_and_ends_the_others(told: Callable[[str], int]) -> None:
    with pytest.raises(RunFailedError) as killed:
        told("rank == '1' and os.kill(os.getpid(), signal.SIGKILL)")
    assert str(killed.value) == (
        "Process 2 of the 2 of this run is lost (killed by signal 9: out of memory?). Asked for again it had "
        "kept nothing yet, and begins anew."
    )
    with pytest.raises(RunFailedError, match=r"Process 1 of the 2 of this run is lost \(killed by signal 9"):
        told("rank == '0' and os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(RunFailedError, match=r"Process 2 of the 2 .* is lost \(too many whales\). Asked"):
        told("rank == '1' and sys.exit('Error: too many whales')")


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ("rank == '0' and sys.exit(0)", 0),
        ("rank == '0' and sys.exit(2)", 2),
        ("rank == '1' and sys.exit('Error: the loss became nan'); time.sleep(0.3); sys.exit(1)", 1),
        ("rank == '0' and os.kill(os.getppid(), signal.SIGINT)", 130),
    ],
    ids=["done", "wrong use", "both fail", "Ctrl-C"],
)
def test_the_first_process_has_the_last_word(told: Callable[[str], int], what: str, code: int) -> None:
    assert told(what) == code


def test_devices_that_are_not_here_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for count in (0, cores() + 1):
        with pytest.raises(
            WhalebenchError, match=f"--devices {count} cannot be with --device cpu: this machine"
        ):
            devices.share_devices("cpu", count)
    monkeypatch.setattr(devices, "choose_device", torch.device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    with pytest.raises(WhalebenchError, match=r"this machine has 2 GPU\(s\); give as many at most"):
        devices.share_devices("cuda", 3)
    with pytest.raises(WhalebenchError, match=r"--device cuda:1: this machine has 1 of it"):
        devices.share_devices("cuda:1", 2)
    assert [share.accelerator for share in devices.share_devices("cuda", 2)] == ["3", "5"]


def test_one_device_leaves_names_notes_and_commands_as_they_were(tiny: Workspace) -> None:
    one, two = (RunRequest("arcface", "tiny", devices=count) for count in (1, 2))
    assert runner._note_file(one, tiny) != runner._note_file(two, tiny)
    assert "--devices" not in Job("run", one, tiny).arguments()
    assert "--devices 2" in " ".join(Job("run", two, tiny).arguments())
    assert "--devices 2" in runner.plan_run(two, tiny)["command"]


def test_the_command_starts_as_many(
    monkeypatch: pytest.MonkeyPatch, cli: Callable[..., Any], tmp_path: Path
) -> None:
    started: list[tuple[int, list[str]]] = []

    def start(request: RunRequest, workspace: Workspace, flags: list[str]) -> int:
        started.append((request.devices, flags))
        return 7

    monkeypatch.setattr(devices, "run_on_devices", start)
    assert cli("run", "arcface", "--devices", 3, "--force", "--workspace", tmp_path).code == 7
    assert started == [(3, ["--force"])]


def test_a_run_that_was_stopped_goes_on_together_to_the_numbers_of_one(
    both: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace.open(both / "workspace")
    assert "train, taken up after epoch" in (both / "stages").read_text()
    assert not list((workspace.cache / runner.UNFINISHED).iterdir())
    together = read_record(next(workspace.runs.iterdir()))
    assert together.hardware["devices"] == 2
    monkeypatch.setattr(devices, "cores", lambda: 2)
    found = replace(REQUEST, devices=2)
    assert devices.run_on_devices(found, workspace, ["--json"]) == 0  # the command itself, in two processes
    assert json.loads(capfd.readouterr().out)["run"] == together.run
    alone = runner.run(REQUEST, workspace)
    assert "devices" not in alone.hardware
    assert alone.run != together.run
    assert (together.usage, together.lineage, together.counts) == (alone.usage, alone.lineage, alone.counts)
    for part in ("metrics", "valid_metrics"):
        those, due = (
            {key: value or 0.0 for key, value in getattr(each, part).items()} for each in (together, alone)
        )
        assert those == pytest.approx(due, rel=0.02)
