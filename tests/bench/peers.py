"""Epochs of other people's training loops, each in a process, some in environments of their own.

    python tests/bench/peers.py NAME FOLDER    # an epoch for each line read; its seconds are written

A process waits until it is asked for an epoch, so that epochs of several can take turns on one machine. It
runs this file, which therefore imports nothing of whalebench. All of them train the same network on photos in
FOLDER/INDIVIDUAL/*.jpg, and change them as much as augment=heavy does, by torchvision's v2.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

BACKBONE, SIDE, BATCH, DIMENSIONS = "mobilenetv3_small_100", 128, 32, 512
THREADS = WORKERS = 2
PHOTOS_MOVE = {"degrees": 15, "translate": (0.05, 0.05), "scale": (0.82, 1.22), "shear": (-10, 10)}


def heavy() -> Any:
    """As much change to a photo as whalebench's own, photo by photo."""
    import torch
    from torchvision.transforms import v2

    return v2.Compose(
        [
            v2.PILToTensor(),
            v2.Resize((SIDE, SIDE), antialias=True),
            v2.RandomAffine(**PHOTOS_MOVE),
            v2.ColorJitter(0.15, 0.35, 0.5),
            v2.RandomGrayscale(0.15),
            v2.RandomApply([v2.GaussianBlur(3)], 0.3),
            v2.ToDtype(torch.float32, scale=True),
            v2.GaussianNoise(sigma=0.02),
            v2.RandomErasing(0.4, (0.02, 0.2)),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )


def network(loss: Any) -> tuple[Any, Any]:
    """The network that all train, a backbone, the mean over places and an embedding; and its optimizer."""
    import timm
    import torch
    from torch import nn

    backbone = timm.create_model(BACKBONE, num_classes=0)
    module = nn.Sequential(backbone, nn.LazyLinear(DIMENSIONS, bias=False), nn.BatchNorm1d(DIMENSIONS))
    module(torch.zeros(2, 3, SIDE, SIDE))
    return module, torch.optim.AdamW([*module.parameters(), *loss.parameters()], 1e-3)


def loader(data: Any) -> Any:
    """Batches in any order, read by processes that stay from epoch to epoch."""
    from torch.utils.data import DataLoader

    return DataLoader(data, BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=True)


def epochs(data: Any, loss: Any, read: Callable[[Any], tuple[Any, Any]]) -> Iterator[None]:
    """Trains for an epoch each time it is asked."""
    module, optimizer = network(loss)
    batches = loader(data)
    while True:
        for batch in batches:
            pixels, labels = read(batch)
            optimizer.zero_grad()
            loss(module(pixels), labels).backward()
            optimizer.step()
        yield


def image_folder(folder: Path) -> Iterator[None]:
    """torchvision's ImageFolder, and the margin softmax of pytorch-metric-learning."""
    from pytorch_metric_learning.losses import ArcFaceLoss
    from torchvision.datasets import ImageFolder

    data = ImageFolder(str(folder), heavy())
    return epochs(data, ArcFaceLoss(len(data.classes), DIMENSIONS), lambda batch: (batch[0], batch[1]))


def table(folder: Path) -> Any:
    """A row a photo, as the others want it."""
    import pandas as pd

    files = sorted(folder.glob("*/*.jpg"))
    labels = {name: place for place, name in enumerate(sorted({file.parent.name for file in files}))}
    rows = {"path": [str(file) for file in files], "identity": [file.parent.name for file in files]}
    return pd.DataFrame(rows).assign(
        label=[labels[name] for name in rows["identity"]], image_id=range(len(files))
    )


def wildlife_tools(folder: Path) -> Iterator[None]:
    """Its data set, its margin softmax and its trainer, on the loader that all have: its own is slower."""
    from wildlife_tools import data as of_tools
    from wildlife_tools.train import ArcFaceLoss, BasicTrainer

    # Called so until 0.0.9, and ImageDataset since 1.0.
    kind = getattr(of_tools, "WildlifeDataset", None) or of_tools.ImageDataset
    photos = kind(table(folder), folder, transform=heavy())
    loss = ArcFaceLoss(num_classes=photos.num_classes, embedding_size=DIMENSIONS)
    module, optimizer = network(loss)
    trainer = BasicTrainer(photos, module, loss, optimizer, epochs=1, device="cpu", batch_size=BATCH)
    batches = loader(photos)
    while True:
        trainer.train_epoch(batches)
        yield


def open_metric_learning(folder: Path) -> Iterator[None]:
    """Its data set and its margin softmax; the loop is a plain one in its examples, too."""
    from oml.datasets import ImageLabeledDataset
    from oml.losses.arcface import ArcFaceLoss
    from torchvision.transforms import Compose

    changed = Compose(heavy().transforms)  # it takes no other
    photos = ImageLabeledDataset(table(folder).assign(split="train"), transform=changed)
    loss = ArcFaceLoss(DIMENSIONS, table(folder)["label"].nunique())
    return epochs(photos, loss, lambda batch: (batch["input_tensors"], batch["labels"]))


LOOPS: dict[str, Callable[[Path], Iterator[None]]] = {
    "pytorch-metric-learning": image_folder,
    "wildlife-tools": wildlife_tools,
    "open-metric-learning": open_metric_learning,
}
"""By the name of the package that is needed; the first one is here already."""
EXTRAS = {"open-metric-learning": "[pipelines]"}
"""Without it its data sets cannot be imported."""


def interpreter(name: str, cache: Path) -> Path:
    """The Python of a peer: ours, with its packages over it in an environment that is made when first needed.

    Torch is thereby the same. Raises subprocess.CalledProcessError where the package cannot be had.
    """
    if importlib.util.find_spec(name.replace("-", "_")):
        return Path(sys.executable)
    folder = cache / name
    python = folder / "bin" / "python"
    done = folder / "installed"
    if not done.exists():
        venv.create(folder, with_pip=True, clear=True)
        ours = sysconfig.get_paths()["purelib"]
        theirs = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
        (Path(theirs) / "ours.pth").write_text(f"{ours}\n", "utf-8")
        asked = name + EXTRAS.get(name, "")
        subprocess.run([python, "-m", "pip", "install", "--quiet", asked], check=True, capture_output=True)
        done.touch()
    return python


class Peer:
    """A process with the loop of a peer; calling it runs one epoch there."""

    def __init__(self, name: str, folder: Path, cache: Path) -> None:
        """Raises subprocess.CalledProcessError or OSError where the peer cannot be had."""
        words = [str(interpreter(name, cache)), __file__, name, str(folder)]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self) -> float:
        """Seconds of one epoch; ConnectionError where the process has ended."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise ConnectionError("the peer's process has ended")
        return float(answer)

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.communicate()


def main(name: str, folder: str) -> None:
    """Runs an epoch of a peer for each line read."""
    import torch

    torch.set_num_threads(THREADS)
    loop, output = LOOPS[name](Path(folder)), sys.stdout
    sys.stdout = sys.stderr  # where they show their progress
    for _ in sys.stdin:
        began = time.perf_counter()
        next(loop)
        output.write(f"{time.perf_counter() - began}\n")
        output.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
