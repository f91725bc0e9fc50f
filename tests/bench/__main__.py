"""The command line of the measurements; see `python -m tests.bench --help`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import TextIO

from tests.bench import __doc__ as about
from tests.bench import __path__ as folder
from tests.bench.ratio import Ratio, Skipped
from whalebench.benchmarks.core.machine import hardware, versions


def subjects() -> dict[str, str]:
    """The modules that measure something, by the last part of their name."""
    names = (each.name for each in iter_modules(folder))
    return {name: f"{__package__}.{name}" for name in names if name not in ("__main__", "ratio", "peers")}


def measured(names: Sequence[str]) -> Iterator[Ratio]:
    """What each subject comes to, said as it goes on stderr."""
    known = subjects()
    for name in names:
        say(f"# {name}", sys.stderr)
        try:
            yield from import_module(known[name]).measure()
        except Skipped as why:
            say(f"# {name} is skipped: {why}", sys.stderr)


def line(each: Ratio) -> str:
    """A row of the table."""
    sign, verdict = ("≥" if each.at_least else "≤"), ("holds" if each.holds else "MISSED")
    numbers = f"{each.ours:12,.4g} {each.theirs:12,.4g} {each.unit:10s} {each.ratio:8.2f}"
    return f"{each.what:60s} {numbers} {sign} {each.target:<6g} {verdict}"


def say(text: str, stream: TextIO = sys.stdout) -> None:
    """A line at once, however long the next takes."""
    stream.write(f"{text}\n")
    stream.flush()


def main() -> int:
    """Prints machine, versions and a row for each ratio; 1 where one is missed, else 0."""
    parser = argparse.ArgumentParser(
        "python -m tests.bench", description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", nargs="+", metavar="SUBJECT", choices=sorted(subjects()), help="%(choices)s"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the numbers here, too")
    asked = parser.parse_args()
    machine = hardware("cpu") | versions()
    say("\n".join(f"{name}: {value}" for name, value in machine.items()))
    say(f"{'':60s} {'ours':>12s} {'theirs':>12s} {'':10s} {'ratio':>8s}")
    ratios = []
    for each in measured(asked.only or sorted(subjects())):
        ratios.append(each)
        say(line(each))
    if asked.json:
        rows = [asdict(each) | {"ratio": each.ratio, "holds": each.holds} for each in ratios]
        asked.json.write_text(json.dumps({"machine": machine, "ratios": rows}, indent=2), encoding="utf-8")
    return int(not all(each.holds for each in ratios))


if __name__ == "__main__":
    sys.exit(main())
