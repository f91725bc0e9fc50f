"""The commands that repeat what a record says: one run, or all runs of a contestant."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from whalebench.benchmarks.core.ledger import without_place
from whalebench.benchmarks.core.record import RunRecord
from whalebench.reports.wording import typed


def run_command(record: RunRecord) -> str:
    """The command that repeats a run, as it is typed; of files it has the names alone, as pages travel.

    Of a run of before settings were kept it has those with a search range alone.
    """
    if record.members:
        return _ensemble_command(record)
    words = ["whalebench", "run", _method(record), "--benchmark", record.benchmark]
    words += ["--fold", str(record.fold), "--seed", str(record.seed)]
    words += ["--devices", str(record.hardware["devices"])] if "devices" in record.hardware else []
    return shlex.join([*words, *_settings(record)])


def contestant_command(records: Sequence[RunRecord]) -> str:
    """The command that repeats all runs of a contestant; of ensembles, which have others, the first one's."""
    first = records[0]
    if first.members or len(records) == 1:
        return run_command(first)
    folds, seeds = ({getattr(record, name) for record in records} for name in ("fold", "seed"))
    words = ["whalebench", "sweep", _method(first), "--benchmark", first.benchmark]
    words += ["--folds", _numbers(folds), "--seeds", _numbers(seeds)]
    return shlex.join([*words, *_settings(first)])


def _method(record: RunRecord) -> str:
    return without_place(record.method_file) or record.method


def _settings(record: RunRecord) -> list[str]:
    by_hand = record.usage.by_hand if record.usage and not record.settings else {}
    settings = record.settings or [f"{name}={typed(value)}" for name, value in by_hand.items()]
    return [word for setting in settings for word in ("--set", without_place(setting))]


def _ensemble_command(record: RunRecord) -> str:
    """Of names that are equal in one group only a digest is kept: who repeats that has the file."""
    config: dict[str, Any] = record.config
    words = ["whalebench", "ensemble", *record.members, "--rule", str(config.get("rule", "mean"))]
    for name in ("weights", "pca"):
        if config.get(name) is not None:
            value = config[name]
            shown = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            words += [f"--{name}", shown]
    words += ["--local-matches"] if config.get("local_matches") else []
    words += [word for step in config.get("then", ()) for word in ("--then", str(step))]
    words += ["--duplicates", "FILE.csv"] if "duplicates" in config else []
    return shlex.join(words)


def _numbers(numbers: set[int]) -> str:
    """As `--folds` takes them.

    >>> _numbers({0, 1, 2}), _numbers({3}), _numbers({0, 2})
    ('0-2', '3', '0,2')
    """
    low, high = min(numbers), max(numbers)
    if len(numbers) > 1 and numbers == set(range(low, high + 1)):
        return f"{low}-{high}"
    return ",".join(map(str, sorted(numbers)))
