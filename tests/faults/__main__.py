"""The command line of the fault suite; see `python -m tests.faults --help`."""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.faults import __doc__ as about
from tests.faults import guests, kills, moments, space
from tests.faults.base import load_everything, make_base
from tests.faults.calls import Place
from tests.faults.fuzz import KINDS, SHARES, fuzz, inputs

Asked = argparse.Namespace
Part = Callable[[Asked, Path], Iterator[str]]


def fuzzing(asked: Asked, folder: Path) -> Iterator[str]:
    """The faults of spoilt inputs, of the kinds asked for."""
    base = make_base(folder)
    for kind in asked.what or KINDS:
        started, worked = time.monotonic(), _worked()
        count = inputs(kind, asked.count if asked.what else asked.count * SHARES[kind] // 100)
        numbers = [asked.only] if asked.only is not None else range(count)
        yield from fuzz(base, kind, numbers, asked.seed, asked.keep)
        took = f"{time.monotonic() - started:.0f} s, {_worked() - worked:.0f} s of a core"
        say(f"# {kind}: {len(numbers)} cases in {took}")


def killing_methods(asked: Asked, folder: Path) -> Iterator[str]:
    """The faults of killed runs of methods."""
    from whalebench.methods.registry import method_names

    base = kills.toy_base(folder)
    yield from _kill(
        asked, base, {method: kills.method_words(method) for method in asked.what or method_names()}
    )


def killing_commands(asked: Asked, folder: Path) -> Iterator[str]:
    """The faults of other killed commands."""
    base = make_base(folder)
    known = kills.commands(base)
    yield from _kill(asked, base, {name: known[name] for name in asked.what or known})


def _kill(asked: Asked, base: Place, named: dict[str, list[str]]) -> Iterator[str]:
    for name, words in named.items():
        found = kills.kill_often(words, asked.count, base, random.Random(f"{name} {asked.seed}"))
        came = f"{found.kills} kills, {found.ended} ended, {found.taken_up} taken up"
        say(f"# {name}: {came}, {len(found.faults)} faults")
        yield from (f"{name}: {fault}" for fault in dict.fromkeys(found.faults))


def flipping(asked: Asked, folder: Path) -> Iterator[str]:
    """The flipped bits that went into an answer."""
    from tests.faults.flips import flip_bytes

    found = flip_bytes(asked.count, asked.seed, folder)
    for line in found.lines():
        say(f"# {line}")
    say(f"# {found.detected.total()} flips detected, {found.without_effect.total()} without effect")
    yield from found.used


def a_little(asked: Asked, folder: Path) -> Iterator[str]:
    """The faults of a few tries of everything, in less than a minute: for the test run."""
    base, rng = make_base(folder), random.Random(asked.seed)
    for kind, count in LITTLE.items():
        yield from fuzz(base, kind, range(count), asked.seed)
        say(f"# {kind}: {count} cases")
    for name, part in {"clocks": moments.clocks, "races": moments.races, "guests": guests.guests}.items():
        yield from part(base, 1, rng)
        say(f"# {name}")
    yield from space.fill(base, 1, rng, ["import"])
    yield from _kill(asked, base, {"split make": kills.commands(base)["split make"]})


def _with_base(part: Callable[[Place, int, random.Random], Iterator[str]]) -> Part:
    """A part that needs a place, a count and chance."""
    return lambda asked, folder: part(make_base(folder), asked.count, random.Random(asked.seed))


PARTS: dict[str, tuple[Part, int, str]] = {
    "fuzz": (fuzzing, 2000, f"spoilt inputs: {', '.join(KINDS)}"),
    "methods": (killing_methods, 3, "kills of each method's run"),
    "commands": (killing_commands, 3, "kills of each other command that writes"),
    "space": (_with_base(space.fill), 4, "full disks, of each command"),
    "clocks": (_with_base(moments.clocks), 4, "clocks that jump, paused and killed processes"),
    "races": (_with_base(moments.races), 5, "two commands at once, of each pair"),
    "guests": (_with_base(guests.guests), 60, "deeds of a hostile plug-in"),
    "flips": (flipping, 150, "flipped bits of stored files, each as often as the next"),
    "little": (a_little, 1, "a little of everything, as the tests have it"),
}
"""By name of a part what finds its faults, how many tries it makes unless told, and of what."""
LITTLE = {"images": 1, "tables": 3, "plans": 2, "options": 4, "records": 4, "benchmarks": 1, "checkpoints": 1}
"""Cases of each kind that the tests have."""
WHOLE = {
    "fuzz": 2000,
    "methods": 30,
    "commands": 10,
    "space": 20,
    "clocks": 10,
    "races": 25,
    "guests": 999,
    "flips": 500,
}
"""How many tries each part makes for a release."""


def all_parts(seed: int, *, whole: bool) -> int:
    """Runs every part, two at a time, each in a process of its own; 1 where any found a fault."""

    def run(part: str) -> int:
        count = WHOLE[part] if whole else PARTS[part][1]
        words = [sys.executable, "-m", "tests.faults", part, "--count", str(count), "--seed", str(seed)]
        return subprocess.run(words, check=False).returncode

    with ThreadPoolExecutor(2) as pool:
        return max(pool.map(run, WHOLE))


def say(line: str) -> None:
    """Prints a line at once."""
    print(line, flush=True)  # noqa: T201  (a program, not the library)


def _worked() -> float:
    """Seconds of processors that this process and those it began have used."""
    return sum(os.times()[:4])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--whole", action="store_true", help="as many tries as for a release: some hours")
    parts = parser.add_subparsers(dest="part", metavar="PART")
    for name, (_, count, words) in PARTS.items():
        part = parts.add_parser(name, help=words)
        part.add_argument("--count", type=int, default=count, help=f"of tries; {count}")
        part.add_argument("--seed", type=int, default=0)
        if name in ("fuzz", "methods", "commands"):
            part.add_argument("what", nargs="*", help="these alone")
        if name == "fuzz":
            part.add_argument("--only", type=int, help="the number of one case")
            part.add_argument("--keep", type=Path, help="copy places with faults into this folder")
    return parser


def main(arguments: Iterable[str] | None = None) -> int:
    """Prints a line a fault, and notes that begin with #; 1 where there is a fault."""
    asked = _parser().parse_args(None if arguments is None else list(arguments))
    if asked.part is None:
        return all_parts(asked.seed, whole=asked.whole)
    load_everything()
    found, started = 0, time.monotonic()
    with tempfile.TemporaryDirectory(prefix="wf-", ignore_cleanup_errors=True) as folder:
        for line in PARTS[asked.part][0](asked, Path(folder)):
            found += 1
            say(f"{asked.part}: {line}")
    say(f"# {asked.part}: {found} faults in {time.monotonic() - started:.0f} s, {_worked():.0f} s of a core")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
