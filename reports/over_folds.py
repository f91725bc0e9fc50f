"""Who is better over several folds and seeds: means over them, and leads on all their photos together."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from whalebench.benchmarks.core.record import RunRecord
from whalebench.reports.board import Standing, Summary
from whalebench.reports.metrics.ranking import Floats, mean
from whalebench.reports.metrics.resampling import (
    RESAMPLES,
    Difference,
    difference,
    interval,
    mean_draws,
    shared_ranks,
)

Grid = dict[int, dict[int, pd.DataFrame]]
"""Per-query tables of one contestant by fold and seed."""


def summaries(
    runs: Iterable[tuple[RunRecord, pd.DataFrame]], names: Mapping[str, str], resamples: int = RESAMPLES
) -> tuple[Summary, ...]:
    """A summary for each set of folds that contestants have finished, where there is more than one run each.

    The runs, each with its per-query table, are of one split, and of each fold they are of the same photos;
    names are those of contestants by run. Of two runs of one contestant, fold and seed the newer one counts.
    """
    grids: dict[str, Grid] = defaultdict(lambda: defaultdict(dict))
    digest = ""
    for record, queries in sorted(runs, key=lambda run: (run[0].created, run[0].run)):
        grids[names[record.run]][record.fold][record.seed] = queries.sort_values("image")
        digest = record.split_digest
    groups: dict[tuple[int, ...], dict[str, Grid]] = defaultdict(dict)
    for name, grid in sorted(grids.items(), key=lambda item: item[0]):
        groups[tuple(sorted(grid))][name] = grid
    return tuple(
        _summary(folds, digest, group, resamples)
        for folds, group in sorted(groups.items(), key=lambda item: (-len(item[0]), item[0]))
        if len(folds) > 1 or max(_seeds(grid)[1] for grid in group.values()) > 1
    )


def _summary(folds: tuple[int, ...], digest: str, grids: dict[str, Grid], resamples: int) -> Summary:
    photos = [next(iter(next(iter(grids.values()))[fold].values())) for fold in folds]
    values = np.stack([_precisions(grid, folds) for grid in grids.values()], axis=1)
    # Each fold weighs the same, so that the mean is that of the folds' own MAP@5.
    weights = np.concatenate([np.full(len(part), 1 / len(part)) for part in photos])
    clusters = pd.concat([part["cluster"] for part in photos])
    drawn = dict(zip(grids, mean_draws(values, weights, clusters, resamples).T, strict=True))
    ranks = dict(zip(grids, shared_ranks(list(drawn.values())), strict=True))
    order = sorted(grids, key=lambda name: -drawn[name][0])
    standings = []
    for name, following in zip(order, [*order[1:], None], strict=True):
        lead = None if following is None else difference(drawn[name], drawn[following])
        standings.append(_standing(name, grids[name], drawn[name], ranks[name], lead))
    return Summary(folds, digest, len(values), tuple(standings))


def _precisions(grid: Grid, folds: tuple[int, ...]) -> Floats:
    """Average precision at 5 of every photo of the folds (photos,), its mean over seeds."""
    key = "average_precision_at_5"
    return np.concatenate(
        [np.mean([table[key].to_numpy() for table in grid[fold].values()], axis=0) for fold in folds]
    )


def _standing(name: str, grid: Grid, drawn: Floats, rank: int | None, lead: Difference | None) -> Standing:
    low, high = interval(drawn)
    return Standing(
        rank=rank,
        contestant=name,
        seeds=_seeds(grid),
        map_at_5=float(drawn[0]),
        low=low,
        high=high,
        seed_spread=pooled_spread(_by_fold(grid, "average_precision_at_5")),
        top_1=mean(map(mean, _by_fold(grid, "top_1"))),
        log_loss=mean(map(mean, _by_fold(grid, "log_loss"))),
        lead=lead,
    )


def _by_fold(grid: Grid, key: str) -> list[list[float]]:
    """The mean of a metric over the photos of each run, by fold and seed."""
    return [[mean(table[key]) for table in seeds.values()] for seeds in grid.values()]


def pooled_spread(by_fold: Sequence[Sequence[float]]) -> float:
    """The standard deviation between values of one fold, over all folds; NaN where no fold has two.

    >>> pooled_spread([[0.0, 2.0, 4.0], [1.0, 1.0], [5.0]]) == (8 / 3) ** 0.5
    True
    """
    free = sum(len(values) - 1 for values in by_fold)
    squares = sum(float(np.var(values)) * len(values) for values in by_fold)
    return float(np.sqrt(squares / free)) if free else np.nan


def _seeds(grid: Grid) -> tuple[int, int]:
    """How many seeds a fold has, at least and at most."""
    numbers = [len(seeds) for seeds in grid.values()]
    return min(numbers), max(numbers)
