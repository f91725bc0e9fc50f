"""`whalebench report` over 500 runs of 5,000 queries: seconds and peak memory, when judging and afterwards.

There is no peer that ranks runs, so what it is held to is an absolute number.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.ratio import Ratio
from whalebench.tests.synthetic_runs import fill_workspace

METHODS, SEEDS, FOLDS = 50, 2, 5
QUERIES, INDIVIDUALS = 5_000, 1_000
SECONDS, GIGABYTES = 20.0, 2.0
"""What it may take, at most."""


def measure() -> list[Ratio]:
    """Seconds and memory of the first report, which judges every run, of the second, and of a full one."""
    with TemporaryDirectory() as folder:
        sizes = {"queries": QUERIES, "individuals": INDIVIDUALS}
        fill_workspace(Path(folder), METHODS, range(SEEDS), range(FOLDS), **sizes)
        (Path(folder) / "cache").mkdir()
        cold, memory = _report(folder)
        warm, _ = _report(folder)
        full, most = _report(folder, "--full")
    what = f"report of {METHODS * SEEDS * FOLDS} runs of {QUERIES:,} queries"
    return [
        Ratio(f"{what}, the first", cold, 1.0, "s", SECONDS, at_least=False),
        Ratio(f"{what}, the second", warm, 1.0, "s", SECONDS, at_least=False),
        Ratio(f"{what}, peak memory", memory, 1.0, "GB", GIGABYTES, at_least=False),
        Ratio(f"{what}, the first --full", full, 1.0, "s", 10 * SECONDS, at_least=False),
        Ratio(f"{what}, peak memory of --full", most, 1.0, "GB", GIGABYTES, at_least=False),
    ]


def _report(workspace: str, *options: str) -> tuple[float, float]:
    """Seconds and peak memory in GB of one report in a process of its own."""
    words = [sys.executable, "-m", "whalebench", "report", "--workspace", workspace, "--json", *options]
    began = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"`{' '.join(words)}` ended with {os.waitstatus_to_exitcode(status)}.")
    return time.perf_counter() - began, used.ru_maxrss / 1e6


if __name__ == "__main__":
    for ratio in measure():
        print(ratio)  # noqa: T201  (a program, not the library)
