"""How long a command takes to answer that has nothing to compute: the help, and a run that is finished.

As installed, with byte code in place. What they are held against is not another program but seconds.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from statistics import median

from tests.bench.ratio import Ratio, alternate

COMMAND = "import sys; sys.argv[0] = 'whalebench'; from whalebench.cli import main; main()"
RUN = ("run", "arcface", "--set", "epochs=1", "--set", "size=32x48")
TARGETS = {"--help": 0.4, "run of a finished run": 1.5}
"""Seconds."""


def answer(words: tuple[str, ...], place: Path) -> None:
    """Has the command answer, in a process of its own; CalledProcessError where it fails."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run(
        [sys.executable, "-c", COMMAND, *words],
        env=environment | {"WHALEBENCH_WORKSPACE": str(place)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )


def measure() -> list[Ratio]:
    """Seconds of both commands, against their targets."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        answer(RUN, place)  # which takes half a minute, and leaves its byte code
        timed = alternate(
            {
                "--help": partial(answer, ("--help",), place),
                "run of a finished run": partial(answer, RUN, place),
            }
        )
    return [
        Ratio(what, median(timed[what]), 1.0, "s", target, at_least=False) for what, target in TARGETS.items()
    ]
