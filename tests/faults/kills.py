"""Kills commands at random moments, and says whether they end as if nothing had happened.

Each process is killed as by `kill -9` and the same command given again, up to three times, before it may end.
After each kill a file is as it was, or whole; after the end every byte is that of a command nobody killed,
and nothing is left beside.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tests import golden_runs as golden
from tests.faults.base import RUNS, TINY, clear, run_words
from tests.faults.calls import Ended, Place, Running, call, in_workspace

EPOCHS = 6
UNTRAINED = ("ensemble", "frozen", "pseudo", "salt-4th", "sift")
"""Without epochs of their own: nothing is trained, or other methods are."""
TAKEN_UP = "taken up"
"""What is said of a training that goes on from something kept."""
NOTED = ("workspace/cache/found/", "workspace/cache/judged/")
"""Where is noted which run answers a request, once it was found, and what runs came to."""
PATIENCE = 15.0
"""Seconds after which nothing that a killed command began is at work any more."""
SLOWEST = 600.0
"""Seconds that a command may take that nobody kills."""


@dataclass
class Killed:
    """What became of a command that was killed again and again."""

    kills: int = 0
    ended: int = 0
    """How often it came to its end in spite of it."""
    taken_up: int = 0
    """How often it went on from something kept, at least."""
    faults: list[str] = field(default_factory=list)


def kill_often(words: list[str], kills: int, base: Place, rng: random.Random) -> Killed:
    """What becomes of a command in copies of a place, killed so often before it may end."""
    place, found = Place(base.root.with_name("case")), Killed()
    base.copy(place.root)
    whole = call(place, *words, limit=SLOWEST)
    if has_failed(whole):
        found.faults.append(f"exit {whole.code} without a kill: {whole.err[-300:]!r}")
        return found
    clear(place)
    wanted, names, duration = kept(place), set(place.state()), whole.seconds
    while found.kills < kills:
        _kill(words, base.copy(place.root), wanted, found, duration, rng)
        last = call(place, *words, limit=SLOWEST)
        found.taken_up += TAKEN_UP in last.err
        found.ended += 1
        duration = min(duration, last.seconds)  # the first one may have been slow
        if has_failed(last):
            found.faults.append(f"exit {last.code} after a kill: {last.err[-300:]!r}")
        else:
            clear(place)
            found.faults += [*differences(wanted, kept(place)), *left(place, names)]
    return found


def has_failed(ended: Ended) -> bool:
    """Whether a command failed; `rescore` ends with 1 where something moved, too."""
    moved = ended.words[0] == "rescore" and ended.code == 1
    return "Error: " in ended.err or not (ended.code == 0 or moved)


def _kill(
    words: list[str], place: Place, wanted: dict[str, Any], found: Killed, duration: float, rng: random.Random
) -> None:
    """Kills the command up to three times, unless it ends before, and looks at what is there after each."""
    begun = kept(place)
    for _ in range(rng.randint(1, 3)):
        running = Running(place, in_workspace(place, *words))
        if running.wait(rng.uniform(0, duration)):
            return
        found.taken_up += TAKEN_UP in running.kill().err
        found.kills += 1
        found.faults += survivors(running)
        for path, content in kept(place).items():
            if content not in (None, begun.get(path), wanted.get(path)):
                found.faults.append(f"{path} is neither as it was nor whole")


def kept(place: Place) -> dict[str, Any]:
    """What a place holds that is to be kept, by path: of each file its content without when and how fast.

    None where it is hidden.
    """
    recorder = golden.Recorder(place.root, "workspace", {})
    found = {}
    for file in recorder.files():
        path = str(file.relative_to(place.root))
        try:
            found[path] = None if hidden(path) else recorder.content(file)
        except FileNotFoundError:  # another process has just taken it away
            continue
        except Exception as error:  # whatever a reader says of half a file
            found[path] = f"not to be read: {error}"
    return found


def differences(wanted: dict[str, Any], found: dict[str, Any]) -> Iterator[str]:
    """What a place does not hold as it should."""
    for path in sorted(wanted):
        if path not in found:
            yield f"{path} is absent"
        yield from list(golden.differences(wanted[path], found.get(path), path))[:3]


def left(place: Place, names: set[str]) -> Iterator[str]:
    """What a place holds besides what is named.

    Its home is not ours, what was found may be noted, and beside files that options name outside of the
    workspace nothing is ever cleared away.
    """
    others = sorted(set(place.state()) - names - {"workspace/temporary/"})
    yield from (f"{path} is left" for path in others if not path.startswith(("home/", *NOTED, ".new-")))


def hidden(path: str) -> bool:
    """Whether a file or one of its folders is hidden, as all is that is being written."""
    return any(part.startswith(".") for part in Path(path).parts)


def survivors(running: Running) -> Iterator[str]:
    """A fault, if what a killed process began is still at work after a while; it is ended."""
    until = time.monotonic() + PATIENCE
    while (left := running.children()) and time.monotonic() < until:
        time.sleep(0.05)
    if left:
        yield f"{len(left)} processes that it began go on"
    for number in left:
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)


# --- what is killed


def method_words(method: str, *settings: str) -> list[str]:
    """The words of a run of the method on the drawn benchmark in miniature, long enough to be killed."""
    from whalebench.benchmarks.conformance.suite import smallest_settings
    from whalebench.methods.registry import find_method

    chosen = [
        *smallest_settings(find_method(method)),
        *([] if method in UNTRAINED else [f"epochs={EPOCHS}"]),
        *settings,
    ]
    set_so = [word for setting in chosen for word in ("--set", setting)]
    return ["run", method, "--benchmark", "trial", "--device", "cpu", *set_so]


def toy_base(folder: Path) -> Place:
    """A place with the drawn benchmark in miniature, on which every method runs."""
    from whalebench.benchmarks.conformance.trial import draw_toy_benchmarks
    from whalebench.benchmarks.core.workspace import Workspace

    place = Place(folder / "case")
    (place.root / "home" / "tmp").mkdir(parents=True)
    drawn = Running(place, lambda: draw_toy_benchmarks(Workspace.open(place.workspace))).finish(SLOWEST)
    assert drawn.code == 0, drawn
    place.root.rename(folder / "base")
    return Place(folder / "base")


def commands(base: Place) -> dict[str, list[str]]:
    """By name the words of every other command that writes, in copies of the base.

    One run of the base is made older for it, or `rescore` would have nothing to write.
    """
    place = Place(base.root.with_name("case"))
    out, table = partial(str.format, f"{place.root}/out.{{}}"), str(place.source / "table.csv")
    set_so = [word for setting in (*TINY, "epochs=1") for word in ("--set", setting)]
    tiny = ["--benchmark", "tiny", "--device", "cpu", *set_so]
    other = RUNS[1]
    make_older(base, other)
    return {
        "run": run_words("softmax", "epochs=4", seed=3),
        "sweep": ["sweep", "softmax", "arcface", "--folds", "1", "--seeds", "5", "--jobs", "1", *tiny],
        "tune": ["tune", "softmax", "--trials", "3", *tiny],
        "ensemble": ["ensemble", *RUNS],
        "explain": ["explain", other, "--photos", "1", "--box", "0.5", "--out", out("png")],
        "data import": ["data", "import", "csv", table, "--name", "other"],
        "split make": ["split", "make", "again", "--valid-share", "0.4"],
        "report": ["report", "--html", out("html"), "--csv", out("csv"), "--svg", out("svg")],
        "bundle": ["bundle", out("zip")],
        "rescore": ["rescore", other, "--write"],
        "benchmarks": ["benchmarks", "tiny", "--sheet", out("jpg")],
        "show": ["show", other, "--svg", out("svg")],
        "methods": ["methods", "--markdown", out("md")],
        "check": ["check", "frozen", "--json"],
    }


def make_older(base: Place, method: str) -> None:
    """Makes a run's record one of an older whalebench, with another score, so that rescoring moves it."""
    (run,) = (base.workspace / "runs").glob(f"{method}-*")
    record = json.loads((run / "record.json").read_text("utf-8"))
    record["metrics"]["map_at_5"] = 0.5
    older = {key: value for key, value in record.items() if key not in ("digest", "files")}
    (run / "record.json").write_text(json.dumps(older), "utf-8")
