"""What a reader of a score is told of leaks, and what the score is without the test photos that leak."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import nan
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from whalebench import WhalebenchError
from whalebench.benchmarks.core.audits import Leaks, read_leaks
from whalebench.benchmarks.core.record import RunRecord
from whalebench.reports.metrics.jackknife import column_deletions, interval_of
from whalebench.reports.metrics.ranking import mean


class Told(NamedTuple):
    """What is known of leaks of the split that a run was made on."""

    leaks: Leaks | None
    """None where nothing is known, as of photos that are not here."""
    problem: str = ""
    """Why what was kept cannot be read; empty where it can."""

    def of_fold(self, fold: int) -> frozenset[str]:
        """The test photos of a fold of which another photo shows the same, in train or valid."""
        return self.leaks.tested.get(fold, frozenset()) if self.leaks else frozenset()


def read_told(runs_folder: Path, record: RunRecord) -> Told:
    """What the audit of a run's benchmark, which lies beside the runs, says now."""
    try:
        where = runs_folder.parent / "benchmarks"
        return Told(read_leaks(where, record.benchmark, record.catalog_digest, record.split_digest))
    except WhalebenchError as error:
        return Told(None, str(error))


def leak_warnings(told: Told, folds: tuple[int, ...]) -> Iterator[str]:
    """What to warn of on these folds, a sentence each: never audited, or photos that leak."""
    if told.problem:
        yield told.problem
    if told.leaks is None:
        return
    name = told.leaks.benchmark
    if not told.leaks.audited:
        yield (
            f"{name} was never audited, so photos of one picture or one moment may be learned from and "
            f"tested on: whalebench data audit {name}"
        )
    for fold in folds:
        if pairs := told.leaks.of_fold.get(fold, ()):
            unseen = told.leaks.unseen_of_fold[fold]
            yield (
                f"Fold {fold} tests on {len(told.of_fold(fold)):,} photos of which train or valid has the "
                f"same picture or moment ({len(pairs):,} pairs, {unseen:,} of them not looked at): "
                f"whalebench data audit {name} --page FILE.html"
            )


def leak_counts(told: Told, fold: int) -> dict[str, int]:
    """Whether there was an audit, and of a fold how many photos leak, pairs, and those not looked at.

    Empty where nothing is known.
    """
    if told.leaks is None or not told.leaks.audited:
        return {} if told.leaks is None else {"audited": 0}
    pairs, unseen = told.leaks.of_fold.get(fold, ()), told.leaks.unseen_of_fold.get(fold, 0)
    return {"audited": 1, "photos": len(told.of_fold(fold)), "pairs": len(pairs), "unseen": unseen}


def leak_notes(told: Told) -> Iterator[str]:
    """What the audit found in all, one sentence where there was one."""
    if told.leaks and told.leaks.audited:
        torn = {pair.images for pairs in told.leaks.of_fold.values() for pair in pairs}
        yield (
            f"The audit of {told.leaks.benchmark} found {told.leaks.pairs:,} pairs of photos of one picture "
            f"or moment, {told.leaks.unseen:,} of them not looked at; the split tears {len(torn):,} apart."
        )


def without_leaks(queries: pd.DataFrame, leaking: frozenset[str]) -> Mapping[str, float]:
    """MAP@5 with its interval on the test photos that leak nothing, and how many these are.

    Empty where no photo leaks; NaN where all do.
    """
    kept = queries[~queries["image"].isin(leaking)]
    if len(kept) == len(queries):
        return {}
    if kept.empty:
        return {"map_at_5": nan, "low": nan, "high": nan, "photos": 0}
    column = "average_precision_at_5"
    value, ends = mean(kept[column]), interval_of("map_at_5", column_deletions(kept, column))
    return {"map_at_5": value, "low": ends.low, "high": ends.high, "photos": len(kept)}
