"""Photos a second of training: `train_network` against a bare loop over tensors and the loops of others."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from torch import nn

from whalebench.benchmarks.core.machine import choose_device
from whalebench.benchmarks.core.photos import Batch, LabelledPhotos
from whalebench.benchmarks.core.store import PhotoStore
from whalebench.methods.arcface import ArcFace, ArcFaceConfig
from whalebench.methods.parts.augment import augment
from whalebench.methods.parts.embedder import Embedder
from whalebench.methods.parts.losses.margins import Heads, build_heads
from whalebench.methods.parts.training.trainer import ready, train_network
from whalebench.tests.bench.peers import BACKBONE, BATCH, LOOPS, SIDE, THREADS, Peer
from whalebench.tests.bench.ratio import Ratio
from whalebench.tests.notes import Notes

PHOTOS, INDIVIDUALS, ROUNDS = 256, 16, 5
CACHE = Path.home() / ".cache" / "whalebench-bench"
"""Where the environments of the peers are kept."""


def measure(sides: tuple[int, ...] = (224, 1024), rounds: int = ROUNDS) -> list[Ratio]:
    """Against a bare loop with the same augmentation, and for each side of the JPEGs against every peer."""
    found = []
    for side in sides:
        with tempfile.TemporaryDirectory() as folder, ExitStack() as open_peers:
            draw_photos(Path(folder) / "photos", side)
            photos = labelled(Path(folder))
            rivals: dict[str, Callable[[], float]] = {}
            if side == sides[0]:
                rivals["a bare loop over tensors"] = Bare(photos)
            for name in LOOPS:
                try:
                    rivals[name] = open_peers.enter_context(Peer(name, Path(folder) / "photos", CACHE))
                    rivals[name]()
                except (subprocess.CalledProcessError, OSError) as error:
                    rivals.pop(name, None)
                    sys.stderr.write(f"{name} cannot be had here ({error}): left out.\n")
            ours, theirs = alternate_epochs(photos, rivals, rounds)
            for name, speed in theirs.items():
                target = 0.95 if name.startswith("a bare") else 1.5 if side < 1024 else 2.0
                what = f"photos trained on, of {side} px, against {name}"
                found.append(Ratio(what, ours, speed, "photos/s", target, at_least=True))
    return found


def draw_photos(folder: Path, side: int) -> None:
    """JPEGs that cost as much to decode as photos do: noise of all scales."""
    rng = np.random.default_rng(side)
    for number in range(PHOTOS):
        layers = [
            rng.integers(0, 256, (max(2, side >> scale), max(2, side >> scale), 3)) for scale in range(7)
        ]
        pictures = [Image.fromarray(layer.astype(np.uint8)) for layer in layers]
        resized = [
            np.asarray(each.resize((side, side), Image.Resampling.BICUBIC), float) for each in pictures
        ]
        weights = 1.4 ** np.arange(len(layers))
        pixels = sum(weight * layer for weight, layer in zip(weights, resized, strict=True)) / weights.sum()
        file = folder / f"{number % INDIVIDUALS:02d}" / f"{number:04d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(file, quality=92)


def labelled(folder: Path) -> LabelledPhotos:
    """The photos as a run has them, decoded once."""
    files = sorted(str(file) for file in (folder / "photos").glob("*/*.jpg"))
    names = sorted({Path(file).parent.name for file in files})
    store = PhotoStore(folder / "cache", tuple(files), tuple(files), ("",) * len(files))
    store.pixels((SIDE, SIDE))
    rows, labels = np.arange(len(files)), np.array([names.index(Path(file).parent.name) for file in files])
    shapes = np.full((len(files), 2), SIDE)
    return LabelledPhotos(tuple(files), tuple(files), tuple(names), store, rows, shapes, labels)


def settings(epochs: int = 1) -> ArcFaceConfig:
    """What is trained, as by `run arcface`."""
    return ArcFaceConfig(backbone=BACKBONE, size=(SIDE, SIDE), batch_size=BATCH, epochs=epochs)


def build(photos: LabelledPhotos) -> tuple[Embedder, Heads]:
    """Network and head of `arcface`."""
    torch.manual_seed(0)
    method = ArcFace(settings())
    method.device = torch.device("cpu")
    return method.build_network(settings()), build_heads(settings(), photos, settings().dimensions)


class Bare:
    """A plain loop over tensors in memory, without averages, clipping, schedule, or answers that repeat."""

    def __init__(self, photos: LabelledPhotos) -> None:
        self.both = ready(nn.ModuleList(build(photos)), torch.device("cpu"))
        whole = photos.batch(np.arange(len(photos)), (SIDE, SIDE))
        assert whole.labels is not None
        self.pixels, self.labels = whole.pixels, whole.labels
        self.optimizer = torch.optim.AdamW(self.both.parameters(), 1e-3, fused=True)
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self) -> float:
        """Seconds of one epoch."""
        torch.set_deterministic_debug_mode("default")
        began = time.perf_counter()
        self.both.train()
        network, heads = self.both
        for indices in torch.randperm(len(self.labels), generator=self.generator).split(BATCH):
            drawn = augment(
                Batch(self.pixels[indices], self.labels[indices]), settings().augmentation(), self.generator
            )
            output = network(drawn.pixels.contiguous(memory_format=torch.channels_last))
            value = heads(output, (drawn.labels, None))
            self.optimizer.zero_grad()
            value.backward()
            self.optimizer.step()
        seconds = time.perf_counter() - began
        torch.set_deterministic_debug_mode("error")
        return seconds


def alternate_epochs(
    photos: LabelledPhotos, rivals: dict[str, Callable[[], float]], rounds: int
) -> tuple[float, dict[str, float]]:
    """Photos a second: medians over a training's own epochs, and over the rivals' in turn with them."""
    choose_device("cpu")
    torch.set_num_threads(THREADS)
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    own = Notes()

    def validate(*_: object) -> None:
        for name, rival in rivals.items():
            seconds[name].append(rival())

    train_network(
        *build(photos), photos, settings(rounds + 1), own, validate, target=lambda b: (b.labels, b.species)
    )
    ours = median(len(photos) / epoch.seconds for epoch in own.epochs[1:])
    return ours, {name: median(len(photos) / each for each in of[1:]) for name, of in seconds.items()}
