"""Fuzzing: spoilt inputs, each read by the command that reads such, none of which may break it."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tests.faults.calls import Copies, Place, call, changes, complaints
from tests.faults.inputs import Case, image_case, table_case
from tests.faults.options import option_case, plan_case
from tests.faults.stored import benchmark_case, checkpoint_case, record_case

KINDS: dict[str, Callable[[random.Random, Place], Case]] = {
    "images": image_case,
    "tables": table_case,
    "plans": plan_case,
    "options": option_case,
    "records": record_case,
    "benchmarks": benchmark_case,
    "checkpoints": checkpoint_case,
}
SHARES = {
    "images": 25,
    "tables": 20,
    "plans": 10,
    "options": 20,
    "records": 16,
    "benchmarks": 6,
    "checkpoints": 3,
}
"""Of a hundred inputs, how many are of each kind."""
NOTES = (
    "workspace/cache/*",
    "workspace/benchmarks/*/photos.stat.json",
    "workspace/ledger.jsonl",
    "workspace/temporary/",
    "workspace/runs/*/diagnosis.json",
)
"""What any command may write, also one that fails: what makes the next one quicker, the ledger, and a
diagnosis, which is whole before its picture is drawn."""
MAY_WRITE = {
    "data": ("workspace/benchmarks/*",),
    "split": ("workspace/benchmarks/*",),
    "report": ("workspace/reports/*",),
    "run": ("workspace/runs/*",),
    "ensemble": ("workspace/runs/*",),
    "explain": ("workspace/runs/*", "workspace/reports/*"),
    "rescore": ("workspace/runs/*",),
    "tune": ("workspace/cache/*", "workspace/reports/*"),
}
"""By command, what it may write in a workspace, when it succeeds."""


def fuzz(
    base: Place, kind: str, numbers: Iterable[int], seed: int, keep: Path | None = None
) -> Iterator[str]:
    """What is wrong, a line each, with how commands took the spoilt inputs of these numbers.

    A number and a seed stand for one input, whatever else is tried. Places with faults are copied to `keep`.
    """
    copies = Copies(base)
    for number in numbers:
        place = copies.fresh()
        found = list(_try(kind, number, seed, place))
        if found and keep:  # not by shutil, which knows no pipes
            subprocess.run(["cp", "-a", place.root, keep / f"{kind}-{seed}-{number}"], check=True)
        yield from found


def inputs(kind: str, count: int) -> int:
    """How many cases make so many inputs: one of images has ten."""
    return -(-count // 10) if kind == "images" else count


def _try(kind: str, number: int, seed: int, place: Place) -> Iterator[str]:
    rng = random.Random(f"{kind} {number} {seed}")
    case = KINDS[kind](rng, place)
    for words in (case.words, *case.then):
        before = place.state()
        beside = set(place.root.parent.iterdir())
        ended = call(place, *words)
        moved = words[0] == "rescore" and "Error: " not in ended.err  # which is 1, and written all the same
        has_written = ended.code == 0 or moved
        allowed = (*MAY_WRITE.get(words[0], ()), *case.may_write) if has_written else case.may_write
        wrong = [*complaints(ended), *changes(before, place.state(), (*allowed, *NOTES))]
        wrong += [f"{path} is left" for path in set(place.root.parent.iterdir()) - beside]
        if words is case.words:
            wrong += case.check(ended)
        said = (ended.err or ended.out).strip().rpartition("\n")[2]
        shown = " ".join(word if len(word) < 60 else f"{word[:57]}..." for word in map(str, words))
        about = f"{case.done:.160} | {shown!r:.200} | {said!r:.200}"
        yield from (f"{kind} --seed {seed} --only {number}: {each:.200} | {about}" for each in wrong)
        if ended.code != 0:
            return
