"""Kills runs at random moments, and says whether they end as if nothing had happened.

`python tests/kills.py --kills 30` tries every method that trains, on a drawn benchmark in miniature; methods
may be named. Each process is killed as by `kill -9` and the same run asked for again, until it was killed so
often; a run that ends in between is compared, put away and begun again. After each kill there is no run, or a
whole one.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from whalebench.benchmarks.conformance.suite import smallest_settings
from whalebench.benchmarks.conformance.trial import draw_toy_benchmarks
from whalebench.benchmarks.core.progress import Silent
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.running import runner
from whalebench.benchmarks.running.runner import RunRequest
from whalebench.methods.registry import find_method, method_names

COMPARED = ("predictions.parquet", "scores.safetensors", "weights.safetensors")
UNTRAINED = ("ensemble", "frozen", "pseudo", "salt-4th", "sift")
"""Without epochs of their own: nothing is trained, or other methods are."""
EPOCHS = 6


@dataclass
class Killed:
    """What became of a run that was killed again and again."""

    method: str
    kills: int = 0
    ended: int = 0
    """Runs that came to their end in spite of it."""
    taken_up: int = 0
    """Processes that went on from something kept, at least."""
    different: int = 0
    """Runs that ended with other bytes than the one nobody killed."""


class Listening(Silent):
    """Leaves a file where a training is taken up."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def stage(self, name: str) -> None:
        if "taken up" in name:
            tempfile.mkstemp(dir=self.folder)


def kill_runs(method: str, kills: int, workspace: Workspace, rng: random.Random) -> Killed:
    """What became of a method's run in the workspace, which has the benchmark `trial`."""
    kind = find_method(method)
    settings = (*smallest_settings(kind), f"epochs={EPOCHS}")
    request, told = RunRequest(method, "trial", settings=settings, device="cpu"), workspace.cache / "told"
    told.mkdir(exist_ok=True)
    for _ in range(2):  # the first one loads the modules and decodes the photos
        shutil.rmtree(workspace.runs, ignore_errors=True)
        started = time.monotonic()
        process = _begin(request, workspace)
        process.join()
        duration = time.monotonic() - started
    (folder,), found = workspace.runs.iterdir(), Killed(method)
    whole = _bytes(folder)
    while found.kills < kills:
        shutil.rmtree(folder, ignore_errors=True)
        while not folder.exists():
            process = _begin(request, workspace)
            process.join(rng.uniform(0, duration))
            if process.is_alive():
                process.kill()
                found.kills += 1
            process.join()
        found.ended += 1
        found.different += _bytes(folder) != whole
    left = [path.name for path in workspace.runs.iterdir() if not path.name.startswith(".")]
    assert left == [folder.name], left
    shutil.rmtree(folder)
    found.taken_up = len(list(told.iterdir()))
    shutil.rmtree(told)
    return found


def _begin(request: RunRequest, workspace: Workspace) -> BaseProcess:
    """A process that runs it; its modules are loaded already, so that kills hit the work."""
    context = multiprocessing.get_context("forkserver")
    harness = "whalebench.benchmarks.running.harness"
    context.set_forkserver_preload([harness, "timm", "whalebench.tests.kills"])
    process = context.Process(target=_run, args=(request, workspace))
    process.start()
    return process


def _run(request: RunRequest, workspace: Workspace) -> None:
    import torch

    torch.set_num_threads(1)
    runner.run(request, workspace, Listening(workspace.cache / "told"))


def _bytes(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in COMPARED if (folder / name).exists()]


def main() -> int:
    """Prints a line a method; 1 where any run ended differently."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "methods", nargs="*", default=[name for name in method_names() if name not in UNTRAINED]
    )
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    asked, different = parser.parse_args(), 0
    for method in asked.methods:
        with tempfile.TemporaryDirectory(prefix="whalebench-kills-") as folder:
            workspace = Workspace.open(Path(folder))
            draw_toy_benchmarks(workspace)
            found = kill_runs(method, asked.kills, workspace, random.Random(asked.seed))
        different += found.different
        print(  # noqa: T201  (a program, not the library)
            f"{found.method:22} {found.kills} kills, {found.ended} runs ended, {found.taken_up} taken up, "
            f"{found.different} different",
            flush=True,
        )
    return int(bool(different))


if __name__ == "__main__":
    sys.exit(main())
