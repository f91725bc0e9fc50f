"""Full disks: commands in a workspace on a small disk of its own with too little room, then with enough.

Where a tmpfs may be mounted the workspace is on one, and a file fills it up to so many bytes. Elsewhere no
file may grow beyond so many (RLIMIT_FSIZE), which is less than a full disk: small files are still written.
"""

from __future__ import annotations

import random
import resource
import shutil
import subprocess
from collections.abc import Collection, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from tests.faults.base import RUNS, clear, run_words
from tests.faults.calls import Place, call, complaints
from tests.faults.kills import differences, kept, left

DISK = 64 << 20
"""Bytes of the small disk."""
LEADERBOARD = "workspace/reports/leaderboard."
MOST = 400_000
"""A disk with so many bytes left has room for almost all that the commands write."""


def commands(place: Place) -> dict[str, list[str]]:
    """By name the words of what is tried with too little room."""
    table = str(place.source / "table.csv")
    return {
        "run": run_words("softmax", seed=11),
        "another size": [*run_words("arcface", seed=11), "--set", "size=48"],
        "import": ["data", "import", "csv", table, "--name", "more"],
        "split": ["split", "make", "again", "--valid-share", "0.4"],
        "report": ["report", "--html", str(place.workspace / "reports" / "asked.html")],
        "ensemble": ["ensemble", *RUNS],
        "bundle": ["bundle", str(place.workspace / "reports" / "bundle.zip")],
    }


def fill(base: Place, count: int, rng: random.Random, names: Collection[str] = ()) -> Iterator[str]:
    """What is wrong with commands that find too little room, each of them so often, and again with enough.

    All are tried, or those that are named.
    """
    place = Place(base.root.with_name("case"))
    mounted = _mount(place)
    try:
        known = commands(place)
        for name, words in ((name, known[name]) for name in names or known):
            _lay_out(base, place, mounted)
            whole = call(place, *words, limit=600)
            if whole.code:
                yield f"{name}: exit {whole.code} with all the room there is: {whole.err[-200:]!r}"
                continue
            clear(place)
            wanted, names = kept(place), set(place.state())
            for _ in range(count):
                room = int(MOST * rng.random() ** 3)
                _lay_out(base, place, mounted)
                yield from (
                    f"{name}, {room} bytes: {each}"
                    for each in _try(place, words, room, wanted, names, mounted)
                )
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(place.workspace)], check=False)


def _try(
    place: Place, words: list[str], room: int, wanted: dict[str, Any], names: set[str], mounted: bool
) -> Iterator[str]:
    """What is wrong with a command that has so many bytes, and with the same one when there is room again."""
    ballast = place.workspace / "ballast"
    if mounted:
        _use_up(ballast, shutil.disk_usage(place.workspace).free - room)
    full = call(place, *words, patch=None if mounted else partial(_limit, room), limit=600)
    yield from complaints(full)
    for read in (["runs"], ["report"], ["show", RUNS[0]]):
        ended = call(place, *read, patch=None if mounted else partial(_limit, room), limit=600)
        if ended.code:
            yield f"{read[0]} ends with {ended.code} on the full disk: {ended.err[-200:]!r}"
    ballast.unlink(missing_ok=True)
    again = call(place, *words, limit=600)
    if again.code:
        yield f"exit {again.code} with room again: {again.err[-200:]!r}"
    clear(place)
    found = kept(place)
    if words[0] != "report":  # reading has written it: it says how often test labels were opened till then
        found |= {path: wanted[path] for path in found.keys() & wanted.keys() if LEADERBOARD in path}
    yield from differences(wanted, found)
    yield from left(place, names)


def _use_up(ballast: Path, size: int) -> None:
    """Writes so many bytes, or as many as there is room for."""
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while size > 0:
            size -= file.write(b"\0" * min(size, 1 << 20))


def _lay_out(base: Place, place: Place, mounted: bool) -> None:
    """Copies the base into the place, whose workspace may be a disk of its own that stays."""
    if not mounted:
        base.copy(place.root)
        return
    for path in place.workspace.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(base.root, place.root, symlinks=True, dirs_exist_ok=True)


def _mount(place: Place) -> bool:
    """Whether the place's workspace is on a small disk of its own now."""
    place.workspace.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "whalebench-faults", str(place.workspace)]
    with suppress(OSError):
        return subprocess.run(command, check=False, capture_output=True).returncode == 0
    return False


def _limit(room: int) -> None:
    """Lets no file of this process grow beyond so many bytes; writing more is an error, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
