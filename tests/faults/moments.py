"""Clocks that jump, paused processes, and two commands in the same moment."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tests.faults.base import RUNS, clear, run_words
from tests.faults.calls import Ended, Place, Running, call, changes, complaints, in_workspace
from tests.faults.kills import differences, kept, left

DAY = 86_400.0
READY = "ready"
OPENING = (["report"], ["split", "make", "tiny", "--valid-share", "0.4"], run_words(RUNS[0]))
"""Commands that open a workspace; all but the first clear it."""


def step_clock(days: float) -> None:
    """Has this process's clock jump by so many days, as a machine's does that had no network for a while."""
    import datetime

    now, now_ns = time.time, time.time_ns
    time.time = lambda: now() + days * DAY
    time.time_ns = lambda: now_ns() + int(days * DAY * 1e9)

    class Stepped(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime.datetime:
            return super().now(tz) + datetime.timedelta(days=days)

    datetime.datetime = Stepped  # type: ignore[misc]


def clocks(base: Place, count: int, rng: random.Random) -> Iterator[str]:
    """What is wrong with what is cleared away when the clock jumps: of others, of the living, of the dead."""
    for _ in range(count):
        days = rng.choice((-400, -3, 0, 3, 40, 4000))
        for name, check in {"paused": _paused, "killed": _killed, "the user's": _of_the_user}.items():
            place = base.copy(base.root.with_name("case"))
            found = check(place, partial(step_clock, days), rng.choice(OPENING))
            yield from (f"{name}, clock {days:+} days: {each}" for each in found)


def _write_file(place: Place, pause: Callable[[], object]) -> None:
    """Writes a file into the cache, and stops in the middle of it."""
    from whalebench.benchmarks.core.workspace import Workspace, atomic_path

    with atomic_path(Workspace.open(place.workspace).cache / "slow.npy") as temporary:
        temporary.write_bytes(b"half")
        pause()
        with temporary.open("ab") as file:
            file.write(b" and half")


def _write_run(place: Place, pause: Callable[[], object]) -> None:
    """Writes a run, and stops in the middle of it."""
    from whalebench.benchmarks.core.record import write_run
    from whalebench.benchmarks.core.workspace import Workspace

    runs = Workspace.open(place.workspace).runs
    (whole,) = runs.glob(f"{RUNS[0]}-*")

    def fill(folder: Path) -> None:
        for file in sorted(whole.iterdir()):
            (folder / file.name).write_bytes(file.read_bytes())
        pause()

    write_run(runs / "slow-tiny-fold0-seed0-00000000", fill)


def _pause(place: Place) -> None:
    (place.root / READY).touch()
    os.kill(os.getpid(), signal.SIGSTOP)


def _begun(place: Place, write: Callable[[Place, Callable[[], object]], None]) -> Running:
    """A process that stopped in the middle of writing."""
    (place.root / READY).unlink(missing_ok=True)
    running = Running(place, partial(write, place, partial(_pause, place)))
    while not (place.root / READY).exists():
        assert running.wait(0.01) is None, running.ended
    return running


def _paused(place: Place, step: Callable[[], object], opening: list[str]) -> Iterator[str]:
    """What a paused process is writing is still there when it goes on, whatever the clock says."""
    for write, written in (
        (_write_file, "cache/slow.npy"),
        (_write_run, "runs/slow-tiny-fold0-seed0-00000000/record.json"),
    ):
        running = _begun(place, write)
        ended = call(place, *opening, patch=step)
        yield from complaints(ended)
        os.kill(running.pid, signal.SIGCONT)
        ended = running.finish()
        file = place.workspace / written
        if ended.code or not file.exists() or file.read_bytes() == b"half":
            yield f"{written} of the living is lost after {opening[0]}: {ended.code}, {ended.err[-200:]!r}"


def _killed(place: Place, step: Callable[[], object], opening: list[str]) -> Iterator[str]:
    """What a killed process was writing is gone after the next command that writes, at any time."""
    before = set(place.state())
    for write in (_write_file, _write_run):
        _begun(place, write).kill()
    (place.root / READY).unlink()
    yield from complaints(call(place, *opening, patch=step))
    clear(place)
    yield from left(place, before)


def _of_the_user(place: Place, step: Callable[[], object], opening: list[str]) -> Iterator[str]:
    """Hidden files of the user's, in the workspace or behind a link out of it, stay as they are."""
    photos = place.root / "photos"
    for folder in (
        photos,
        place.workspace / "benchmarks",
        place.workspace / "benchmarks" / "tiny",
        place.workspace / "runs",
    ):
        for name in (
            ".lightroom.old",
            ".tmp-0123456789ab-mine",
            ".exp1.v2.old",
            ".exp1.01234567.old",
            ".a.b.partial",
        ):
            (folder / name).mkdir(parents=True)
            (folder / name / "mine.txt").write_text("mine")
        (folder / ".tmp-notes.txt").write_text("mine")
    (place.workspace / "benchmarks" / "mine").symlink_to(photos)
    (place.workspace / "runs" / "elsewhere").symlink_to(photos)
    before = place.state()
    for words in OPENING:
        yield from complaints(call(place, *words, patch=step, limit=60))
    written = (
        "workspace/reports/*",
        "workspace/cache/*",
        "workspace/benchmarks/tiny/photos.stat.json",
        "workspace/temporary/",
    )
    yield from changes(before, place.state(), written)


# --- two at once


def races(base: Place, count: int, rng: random.Random) -> Iterator[str]:
    """What is wrong where two processes do the same in the same moment: each pair so often."""
    for turn in range(count):
        for name, race in RACES.items():
            place = base.copy(base.root.with_name("case"))
            yield from (f"{name}, turn {turn}: {each}" for each in race(place, rng))


def together(place: Place, *works: Any, rng: random.Random) -> list[Ended]:
    """How several commands or functions ended that were let go in the same moment, or almost."""
    gate = place.root / "gate"
    pauses = [rng.choice((0.0, rng.uniform(0, 0.05))) for _ in works]

    def wait(pause: float) -> None:
        while not gate.exists():
            time.sleep(0.0005)
        time.sleep(pause)

    processes = [
        Running(place, work, partial(wait, pause)) for work, pause in zip(works, pauses, strict=True)
    ]
    gate.touch()
    ended = [process.finish(120) for process in processes]
    gate.unlink()
    return ended


def _splits(place: Place, rng: random.Random) -> Iterator[str]:
    """Of two different splits one is made, and it is that of the command that says so."""
    seeds = (1, 2)
    asked = [
        in_workspace(place, "split", "make", "again", "--seed", seed, "--valid-share", 0.4, "--json")
        for seed in seeds
    ]
    ended = together(place, *asked, rng=rng)
    yield from _one_wins(ended)
    shown = call(place, "split", "show", "again", "--json")
    winner = next((each for each in ended if each.code == 0), None)
    if shown.code or (winner and json.loads(shown.out) != json.loads(winner.out)):
        yield f"the split is not that of the command which says it made it: {shown.err[-200:]!r}"


def _imports(place: Place, rng: random.Random) -> Iterator[str]:
    """Of two different catalogs under one name one is imported, and it is whole."""
    asked = [
        in_workspace(
            place, "data", "import", "csv", place.source / f"{table}.csv", "--name", "raced", "--json"
        )
        for table in ("table", "bare")
    ]
    ended = together(place, *asked, rng=rng)
    yield from _one_wins(ended)
    checked = call(place, "split", "make", "raced", "--valid-share", 0.4)
    if checked.code:
        yield f"what was imported has no folds: {checked.err[-200:]!r}"
    shown = call(place, "data", "show", "raced", "--json")
    winner = next((each for each in ended if each.code == 0), None)
    if winner and shown.code == 0:
        said, there = json.loads(winner.out), json.loads(shown.out)
        if any(said[key] != there[key] for key in said.keys() & there.keys()):
            yield "the catalog is not that of the command which says it imported it"


def _one_wins(ended: list[Ended]) -> Iterator[str]:
    for each in ended:
        yield from complaints(each)
    if sorted(each.code == 0 for each in ended) != [False, True]:
        yield f"exit codes {[each.code for each in ended]}, of two different things both or neither was made"


def _runs(place: Place, rng: random.Random) -> Iterator[str]:
    """Two processes that want one run both get it, and it is learned once."""
    words = in_workspace(place, *run_words("softmax", "epochs=1", seed=21), "--json")
    ended = together(place, words, words, rng=rng)
    for each in ended:
        yield from complaints(each)
    if [each.code for each in ended] != [0, 0]:
        yield f"exit codes {[each.code for each in ended]}: {[each.err[-200:] for each in ended]}"
    elif len({json.loads(each.out)["created"] for each in ended}) != 1:
        yield "they are two records"
    lines = (place.workspace / "ledger.jsonl").read_text("utf-8").splitlines()
    if sum("-seed21-" in line for line in lines) != 1:
        yield "the ledger does not say once that it was scored"


def _ledger(place: Place, rng: random.Random) -> Iterator[str]:
    """Lines of the ledger that two processes append are all there, each of them whole."""
    count = 20

    def append(mark: str) -> None:
        from whalebench.benchmarks.core.ledger import Opening, append
        from whalebench.benchmarks.core.workspace import Workspace

        facts: dict[str, Any] = dict.fromkeys(
            ("settings", "catalog_digest", "split_digest", "benchmark"), "x" * 500
        )
        for number in range(count):
            entry = Opening(**facts, method=mark, fold=0, seed=number, run="none")
            append(Workspace.open(place.workspace), entry)

    before = len((place.workspace / "ledger.jsonl").read_text("utf-8").splitlines())
    ended = together(place, partial(append, "one"), partial(append, "two"), rng=rng)
    found = [json.loads(line) for line in (place.workspace / "ledger.jsonl").read_text("utf-8").splitlines()]
    if len(found) != before + 2 * count or any(each.code for each in ended):
        yield f"{len(found) - before} lines of {2 * count} are there ({[each.err[-200:] for each in ended]})"


def _reports(place: Place, rng: random.Random) -> Iterator[str]:
    """Two reports at once leave one, whole."""
    # A page says the minute it was made in; the picture is written as it is, and says none.
    words = in_workspace(place, "report", "--svg", place.root / "out.svg")
    call(place, *words)
    wanted = kept(place)
    for each in together(place, words, words, rng=rng):
        yield from complaints(each)
    yield from differences(wanted, kept(place))


RACES: dict[str, Callable[[Place, random.Random], Iterator[str]]] = {
    "two splits": _splits,
    "two imports": _imports,
    "two runs": _runs,
    "two appends": _ledger,
    "two reports": _reports,
}
