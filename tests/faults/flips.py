"""Flips single bits in files of a workspace, and says what became of each.

`python -m tests.faults flips --count 500` draws a benchmark in miniature, leaves one of every kind of file
that a workspace can hold, and flips a random bit of a random byte, over and over, each kind as often as the
next. After each flip the command that reads the file is asked again. The flip is

- detected, where the answer names the file, or what is in it;
- without effect, where the answer is byte for byte what it was before, and no word more;
- used, where it is another answer: a failure. So is one that ends in a traceback.

Digests guard against accident: a disk that forgets, a copy that was torn, a stray write. Whoever forges a
file on purpose can forge its digest, too.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
from PIL import Image

from whalebench.benchmarks.core.files import digest_file
from whalebench.benchmarks.core.ledger import LEDGER
from whalebench.benchmarks.core.progress import EpochSummary, Silent
from whalebench.benchmarks.core.record import CURVE, MATCHES, SCORES, VARIANTS, WEIGHTS, read_record
from whalebench.benchmarks.core.saliency import SALIENCY
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.importing.importer import import_csv
from whalebench.benchmarks.registry import load_benchmark, make_split
from whalebench.benchmarks.running import runner
from whalebench.benchmarks.running.runner import RunRequest
from whalebench.benchmarks.sweeping.sweep import Cell, FailureLog
from whalebench.tests.conftest import TINY_NETWORK, draw_source

STOPPED = RunRequest("softmax", "tiny", seed=7, settings=(*TINY_NETWORK, "epochs=3"), device="cpu")
"""The run that was stopped after its first epochs."""
SIZE = (32, 32)
WRONG = (
    "differs from its digest",
    "cannot be",
    "is not",
    "are not",
    "is damaged",
    "are damaged",
    "is changed",
)
WRONG += ("was edited", "does not say", "has schema version", "not to be used", "is tried again")
"""What is said of a file that is not what was written."""
MEMBERS = ("softmax", "arcface")
SETTINGS = [word for setting in TINY_NETWORK for word in ("--set", setting)]
AGAIN = ("run", MEMBERS[0], "--benchmark", "tiny", "--device", "cpu", *SETTINGS, "--json")
TUNING = ("tune", MEMBERS[0], "--benchmark", "tiny", "--trials", "2", *SETTINGS, "--json")


@dataclass
class Flips:
    """What became of the flips."""

    detected: Counter[str] = field(default_factory=Counter)
    """By kind of file."""
    without_effect: Counter[str] = field(default_factory=Counter)
    used: list[str] = field(default_factory=list)
    """A line for each that went into an answer, or ended in a traceback."""

    def lines(self) -> Iterator[str]:
        """A line a kind of file."""
        for kind in sorted({*self.detected, *self.without_effect}):
            yield f"{kind}: {self.detected[kind]} detected, {self.without_effect[kind]} without effect"


def flip_bytes(count: int, seed: int = 0, folder: Path | None = None) -> Flips:
    """Flips so many bits, one at a time, in a workspace made in the folder, or in a temporary one."""
    with contextlib.ExitStack() as stack:
        root = folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="whalebench-flips-")))
        place = make_workspace(root)
        readers = list(_readers(place, root / "source"))
        ledger, found, rng = place.root / LEDGER, Flips(), random.Random(seed)
        opened, before = ledger.read_bytes(), dict[Callable[[], str], str]()
        for _, _, reader in readers:
            before[reader] = before.get(reader) or reader()
            ledger.write_bytes(opened)
        for number in range(count):
            kind, files, reader = readers[number % len(readers)]
            file = rng.choice([file for file in files() if file.stat().st_size])
            _flip_one(kind, file, reader, before[reader], found, rng)
            ledger.write_bytes(opened)  # some of those that read a file open test labels
    return found


def _flip_one(
    kind: str, file: Path, read: Callable[[], str], before: str, found: Flips, rng: random.Random
) -> None:
    """Flips a bit of a file, has it read, and puts the file back."""
    kept = file.read_bytes()
    place, bit = rng.randrange(len(kept)), rng.randrange(8)
    flipped = bytearray(kept)
    flipped[place] ^= 1 << bit
    file.write_bytes(flipped)
    what = f"{kind}: bit {bit} of byte {place} of {file.name}"
    try:
        said = read()
    except Exception as error:  # anything that is no sentence
        found.used.append(f"{what} ended in {type(error).__name__}: {error}")
    else:
        if said == before:
            found.without_effect[kind] += 1
        elif _is_named(file, said):
            found.detected[kind] += 1
        else:
            found.used.append(f"{what} was used: {said[:300]!r}")
    finally:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(kept)


def _is_named(file: Path, said: str) -> bool:
    """Whether a line says that something is wrong with the file, by its name or that of the study in it."""
    names = (file.name, f"study {file.stem}")
    return any(
        name in line and wrong in line for line in said.splitlines() for name in names for wrong in WRONG
    )


def make_workspace(root: Path) -> Workspace:
    """A workspace with runs, an ensemble with a step, a diagnosis, a stopped run, a study, and traces."""
    place, source = Workspace.open(root / "workspace"), root / "source"
    table = draw_source(source)
    _add_masks(table)
    import_csv(table, "tiny", place, missing="quarantine")
    make_split("tiny", place, protocol="auto", folds=3, singles="new", valid_share=0.4, seed=0)
    for method in MEMBERS:
        runner.run(RunRequest(method, "tiny", settings=TINY_NETWORK, device="cpu"), place)
    for done in (
        _ask("ensemble", *MEMBERS, "--then", "balance", "--workspace", place.root),
        _ask("explain", MEMBERS[0], "--photos", "1", "--box", "0.5", "--workspace", place.root),
        _ask(*TUNING, "--workspace", place.root),
    ):
        assert done[0] == 0, done
    failed = Cell("siamese", 0, 0, "siamese-run", "failed", "it did not learn", request=STOPPED)
    FailureLog(place).write(failed, 1)
    with contextlib.suppress(KeyboardInterrupt):
        runner.run(STOPPED, place, _StopsAt(3))
    load_benchmark("tiny", place).store.masks(SIZE)
    return place


def _add_masks(table: Path) -> None:
    """Gives the photos masks, and adds one that is no photo, for the quarantine."""
    rows = pd.read_csv(table, dtype=str, keep_default_na=False)
    (table.parent / "masks").mkdir()
    for number, image in enumerate(rows["image"]):
        mask = np.zeros((40, 48), np.uint8)
        mask[5 : 15 + number % 20, 10:30] = 255
        Image.fromarray(mask).save(table.parent / "masks" / image)
    rows["mask"] = "masks/" + rows["image"]
    (table.parent / "photos" / "torn.png").write_bytes(b"no photo")
    torn = rows.iloc[[0]].assign(image="torn.png", path="photos/torn.png")
    pd.concat([rows, torn]).to_csv(table, index=False)


class _StopsAt(Silent):
    """Stops a run as Ctrl-C would, before the epoch of that number is kept; keeps what it was told."""

    def __init__(self, number: int = 0) -> None:
        self.number, self.told = number, list[str]()

    def stage(self, name: str) -> None:
        self.told.append(name)

    def epoch(self, summary: EpochSummary) -> None:
        if summary.number == self.number:
            raise KeyboardInterrupt


def _readers(
    place: Workspace, source: Path
) -> Iterator[tuple[str, Callable[[], list[Path]], Callable[[], str]]]:
    """Each kind of file with a function that gives those there are, and one that has them read."""

    def files(folder: Path, pattern: str) -> Callable[[], list[Path]]:
        return lambda: sorted(folder.glob(pattern))

    def asking(*arguments: str) -> Callable[[], str]:
        return lambda: _ask(*arguments, "--workspace", place.root)[1]

    (combined,) = place.runs.glob("ensemble-*")
    members = read_record(combined).members
    explained = next(name for name in members if name.startswith(MEMBERS[0]))
    tiny, report, check = (
        place.benchmarks / "tiny",
        asking("report", "--json"),
        asking("data", "check", "tiny", "--json"),
    )
    rescore, tune, again = asking("rescore", "--json"), asking(*TUNING), asking(*AGAIN)
    explain = asking("explain", explained, "--photos", "1", "--box", "0.5", "--json")
    ensemble = asking("ensemble", *members, "--then", "balance", "--json")
    for name in ("record.json", "predictions.parquet", "diagnosis.json"):
        yield name, files(place.runs, f"[!.]*/{name}"), report
    for name in (SCORES, WEIGHTS, CURVE, VARIANTS, MATCHES):
        yield name, files(place.runs, f"[!.]*/{name}"), rescore
    yield f"{WEIGHTS}, explained", files(place.runs / explained, WEIGHTS), explain
    yield f"{SALIENCY}, explained", files(place.runs / explained, SALIENCY), explain
    yield f"{SCORES}, combined", files(place.runs / explained, SCORES), ensemble
    yield f"{VARIANTS}, shown", files(combined, VARIANTS), ensemble
    yield "ledger.jsonl", lambda: [place.root / "ledger.jsonl"], report
    for name in ("catalog.parquet", "catalog.json", "quarantine.csv", "photos.stat.json"):
        yield name, lambda name=name: [tiny / name], check  # type: ignore[misc]
    for name in ("split.csv", "split.json"):
        yield name, lambda name=name: [tiny / name], check  # type: ignore[misc]
    yield "photos", files(source, "photos/w*.png"), check
    yield "masks", files(source, "masks/w*.png"), check
    yield "cache/judged", files(place.cache / "judged", "*.json"), report
    yield "cache/photos", files(place.cache / "photos", f"*-{SIZE[0]}x{SIZE[1]}-*.npy"), _arrays(place)
    yield "cache/unfinished", files(place.cache / "unfinished", "*/*.safetensors"), _taken_up(place)
    notes = [file for file in (place.cache / "found").iterdir() if explained in file.read_text()]
    yield "cache/found", lambda: notes, again
    yield "cache/failed", files(place.cache / "failed", "*.json"), _failures(place)
    yield "cache/tuning", files(place.cache / "tuning", "*.db"), tune


def _ask(*arguments: Any) -> tuple[int, str]:
    """The command line in this process: its exit code, and all that it said."""
    from whalebench.cli import main

    said, code = io.StringIO(), 0
    with (
        mock.patch.object(sys, "argv", ["whalebench", *map(str, arguments)]),
        mock.patch.dict(os.environ, {"COLUMNS": "1000"}),
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(said),
    ):
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(bool(end.code))
    if "report it" in said.getvalue() or "Traceback" in said.getvalue():
        raise AssertionError(said.getvalue())
    return code, said.getvalue()


def _arrays(place: Workspace) -> Callable[[], str]:
    """The decoded photos and masks, and what was told of them."""

    def read() -> str:
        told = _StopsAt()
        store = load_benchmark("tiny", place, told).store
        pixels = [array.tobytes() for array in (store.pixels(SIZE), store.masks(SIZE))]
        return "\n".join([str(hash(tuple(pixels))), *(word for word in told.told if "digest" in word)])

    return read


def _taken_up(place: Workspace) -> Callable[[], str]:
    """The stopped run, brought to its end, and put back to where it was stopped."""
    (folder,) = (place.cache / "unfinished").iterdir()
    aside = place.root.parent / "aside"
    shutil.copytree(folder, aside)

    def read() -> str:
        told = _StopsAt()
        run = place.runs / runner.run(STOPPED, place, told).run
        numbers = [digest_file(run / name) for name in (SCORES, WEIGHTS, "predictions.parquet")]
        shutil.rmtree(run)
        shutil.copytree(aside, folder, dirs_exist_ok=True)
        return "\n".join([*numbers, *(word for word in told.told if "anew" in word)])

    return read


def _failures(place: Workspace) -> Callable[[], str]:
    return lambda: str(FailureLog(place).read("siamese-run") or "siamese-run.json is tried again")
