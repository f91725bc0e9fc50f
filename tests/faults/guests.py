"""Hostile plug-ins: a method of another package that prints, exits, hangs, or lies to the harness."""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.faults.calls import FORBIDDEN, Ended, Place, Running, call
from tests.faults.hostile import DEEDS, RETURNED, TOLD
from tests.faults.kills import PATIENCE

HARMLESS = ("print", "write", "warn", "change", "thread")
"""Deeds that a run bears: its numbers are those of a run without them."""
WHEN = ("init", "sizes", "learn", "score", "embed", "variants", "weights")
TIME_LIMIT = 20
"""Seconds that a run gets whose method hangs, most of them to load everything in another process."""
RUN = ("run", "hostile", "--benchmark", "tiny", "--device", "cpu", "--json")


def deeds() -> list[tuple[str, str]]:
    """Every time and deed that is tried."""
    listed = [(when, deed) for when in ("import", *WHEN) for deed in DEEDS if deed != "hang"]
    listed += [("learn", "hang"), ("score", "hang")]
    listed += [(when, deed) for when in ("score", "embed", "variants", "weights") for deed in RETURNED]
    return listed + [("learn", deed) for deed in TOLD]


def install(place: Place) -> Path:
    """A package with the method, beside its declaration, in a folder that is still to be put on the path."""
    folder = place.root / "site"
    declared = folder / "hostile_guest-1.0.dist-info"
    declared.mkdir(parents=True, exist_ok=True)
    (declared / "METADATA").write_text("Metadata-Version: 2.1\nName: hostile-guest\nVersion: 1.0\n")
    (declared / "entry_points.txt").write_text("[whalebench.methods]\nhostile = hostile_guest:Hostile\n")
    (declared / "RECORD").write_text("hostile_guest.py,,\n")
    shutil.copy(Path(__file__).with_name("hostile.py"), folder / "hostile_guest.py")
    return folder


def invite(folder: Path, when: str, deed: str) -> None:
    """Installs the package for this process, and tells it what to do."""
    sys.path.insert(0, str(folder))
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    os.environ |= {"HOSTILE_WHEN": when, "HOSTILE_DEED": deed, "PYTHONPATH": path}


def guests(base: Place, count: int, rng: random.Random) -> Iterator[str]:
    """What is wrong with runs of the hostile method, of so many deeds drawn by chance, or of all."""
    place = base.copy(base.root.with_name("case"))
    folder = install(place)
    honest = call(place, *RUN, patch=partial(invite, folder, "", ""))
    if honest.code:
        yield f"honest: {honest.err[-300:]!r}"
        return
    every = deeds()
    for when, deed in rng.sample(every, min(count, len(every))):
        place = base.copy(place.root)
        yield from (
            f"{when}, {deed}: {each}"
            for each in _try(place, install(place), when, deed, json.loads(honest.out))
        )
    for deed in ("exit", "error", "print", "base", "unspeakable"):
        listed = call(place, "methods", "--json", patch=partial(invite, folder, "import", deed))
        if listed.code or "softmax" not in listed.out or not _is_json(listed):
            yield f"import, {deed}: the others are not listed (exit {listed.code}, {listed.err[-200:]!r})"


def _try(place: Place, folder: Path, when: str, deed: str, honest: dict[str, object]) -> Iterator[str]:
    words = (
        *RUN,
        "--workspace",
        str(place.workspace),
        *(("--time-limit", f"{TIME_LIMIT}s") if deed == "hang" else ()),
    )
    running = Running(place, words, partial(invite, folder, when, deed))
    ended = running.finish(PATIENCE if deed != "hang" else 3 * TIME_LIMIT)
    if ended.code is None:
        yield f"it hangs ({ended.err[-200:]!r})"
        return
    if deed in HARMLESS:
        if ended.code or not _is_json(ended):
            yield f"exit {ended.code}, stdout {ended.out[:80]!r}: {ended.err[-200:]!r}"
        elif json.loads(ended.out)["metrics"] != honest["metrics"]:
            yield "the numbers are other ones"
        return
    if ended.code == 0:
        if when in ("score", "learn") and not (deed in TOLD or deed in ("objects", "close")):
            yield "it is taken for success"
        elif not _is_json(ended):
            yield f"exit 0 without JSON: {ended.out[:80]!r}, {ended.err[-200:]!r}"
        return
    yield from _sentence_complaints(ended, deed)
    left = [
        path.name for path in (place.workspace / "runs").iterdir() if path.name.startswith(("hostile", "."))
    ]
    if left:
        yield f"{left} is left"


def _sentence_complaints(ended: Ended, deed: str) -> Iterator[str]:
    """What is wrong with the last line, which has to name the method."""
    last = ended.err.rstrip("\n").rpartition("\n")[2]
    codes = (1, 2, 130) if deed == "interrupt" else (1, 2)
    if ended.code not in codes:
        yield f"exit {ended.code}: {last[:200]!r}"
    if deed == "interrupt":
        return
    if not last.startswith(("Error: ", "Missing: ")):
        yield f"the last line is no sentence: {last[:200]!r}"
    elif "hostile" not in last:
        yield f"the sentence does not name the method: {last[:200]!r}"
    if len(last) > 310 or "\x1b" in last or "\r" in last:
        yield f"the sentence is long or moves the cursor: {last[:200]!r} ({len(last)})"
    yield from (
        what for what, pattern in FORBIDDEN.items() if "warning" not in what and pattern.search(ended.err)
    )
    if ended.out.strip():
        yield f"stdout is not empty: {ended.out[:80]!r}"


def _is_json(ended: Ended) -> bool:
    try:
        json.loads(ended.out)
    except ValueError:
        return False
    return True
