"""The workspace that cases begin with: photos, a benchmark with folds, finished runs and a stopped one."""

from __future__ import annotations

import gc
import importlib
import pkgutil
import shutil
from functools import cache, partial
from pathlib import Path

from PIL import Image

from tests.faults.calls import Place, Running, call, in_workspace
from tests.golden_runs import draw_source
from whalebench.cli import app, commands_of

TINY = ("backbone=test_resnet", "size=32", "batch_size=8", "epochs=2")
RUNS = ("softmax", "arcface", "triplet")
OTHERS = (
    "timm", "pytorch_metric_learning.losses", "scipy.optimize", "scipy.stats",
    "safetensors.numpy", "pyarrow.dataset", "pyarrow.parquet", "PIL.ImageCms", "rich.progress", "rich.live",
)  # fmt: skip
"""What commands import when they need it, besides the modules of whalebench."""


def load_everything() -> None:
    """Imports all that a command may need, so that none of them has to."""
    for room in ("benchmarks", "methods", "reports", "splits"):
        package = importlib.import_module(f"whalebench.{room}")
        for module in pkgutil.walk_packages(package.__path__, f"whalebench.{room}."):
            importlib.import_module(module.name)
    for name in OTHERS:
        importlib.import_module(name)
    Image.init()
    commands_of(app)
    gc.collect()
    gc.freeze()  # what a forked process does not touch is not copied for it


def run_words(method: str, *settings: str, seed: int = 0) -> list[str]:
    """The words of a run on the processor, as small as can be."""
    set_so = [word for setting in (*TINY, *settings) for word in ("--set", setting)]
    return ["run", method, "--benchmark", "tiny", "--device", "cpu", "--seed", str(seed), *set_so]


STOPPED = run_words("softmax", "epochs=3", seed=7)
"""The words of the run that was killed after its first epoch."""


@cache
def make_base(folder: Path) -> Place:
    """A place `base` in the folder; as it was made in `case`, beside it, copies of it have to be there."""
    place = Place(folder / "case")
    place.root.mkdir(parents=True)
    draw_source(place.source)
    (place.root / "home" / "tmp").mkdir(parents=True)
    commands = [["data", "import", "csv", str(place.source / "table.csv"), "--name", "tiny"]]
    commands += [["data", "import", "csv", str(place.source / "bare.csv"), "--name", "again"]]
    commands += [["split", "make", "tiny", "--valid-share", "0.4"], *(run_words(name) for name in RUNS)]
    commands += [["explain", RUNS[0], "--photos", "1", "--box", "0.5"], ["report"]]
    for words in commands:
        ended = call(place, *words, limit=300)
        assert ended.code == 0, (words, ended)
    stop_a_run(place)
    place.root.rename(folder / "base")
    return Place(folder / "base")


def stop_a_run(place: Place) -> None:
    """Leaves a run killed after an epoch, and beside it in `whole` what it comes to."""
    runs = place.workspace / "runs"
    there = set(runs.iterdir())
    ended = call(place, *STOPPED, limit=300)
    assert ended.code == 0, ended
    (run,) = set(runs.iterdir()) - there
    whole = place.root / "whole"
    whole.mkdir()
    for name in ("predictions.parquet", "scores.safetensors", "weights.safetensors"):
        (run / name).rename(whole / name)
    shutil.rmtree(run)
    kept = place.workspace / "cache" / "unfinished" / run.name / "training-1.safetensors"
    while not kept.exists():
        running = Running(place, in_workspace(place, *STOPPED))
        while not kept.exists() and running.wait(0.002) is None:
            pass
        running.kill() if running.ended is None else shutil.rmtree(run)
    clear(place)


def clear(place: Place) -> None:
    """Opens the workspace as a command does that writes, which clears what killed processes left."""
    from whalebench.benchmarks.core.workspace import Workspace

    ended = Running(place, partial(Workspace.open, place.workspace)).finish()
    assert ended.code == 0, ended
