"""Who is better over several folds and seeds: means over them, and leads on all their photos together."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from whalebench.reports.metrics import mean
from whalebench.reports.ranking import Floats
from whalebench.reports.reading import Judged
from whalebench.reports.resampling import RESAMPLES, mean_draws
from whalebench.reports.statistics import Difference, difference, interval, shared_ranks

Grid = dict[int, dict[int, pd.DataFrame]]
"""Per-query tables by fold and seed."""


@dataclass(frozen=True)
class Standing:
    """What one contestant came to over the folds of a summary: means over seeds, then over folds."""

    rank: int | None
    contestant: str
    seeds: tuple[int, int]
    """How many seeds a fold has, at least and at most."""
    map_at_5: float
    low: float
    high: float
    """Of the 95 % interval over individuals of all folds together."""
    seed_spread: float
    """Standard deviation of MAP@5 between seeds of one fold; NaN where no fold has several."""
    top_1: float
    log_loss: float
    lead: Difference | None
    """Over the next standing, paired on the same photos; None for the last."""


@dataclass(frozen=True)
class Summary:
    """The contestants that have finished the same folds of one split, best first."""

    folds: tuple[int, ...]
    split_digest: str
    queries: int
    standings: tuple[Standing, ...]


def summaries(
    runs: Sequence[Judged], names: Mapping[str, str], resamples: int = RESAMPLES
) -> tuple[Summary, ...]:
    """A summary for each set of folds that contestants have finished, where there is more than one run each.

    The runs are of one split, and of each fold they are of the same photos; names are those of contestants by
    run. Of two runs of one contestant, fold and seed the newer one counts.
    """
    grids: dict[str, Grid] = defaultdict(lambda: defaultdict(dict))
    for run in sorted(runs, key=lambda run: (run.record.created, run.record.run)):
        if run.queries is not None:
            queries = run.queries.sort_values("image")
            grids[names[run.record.run]][run.record.fold][run.record.seed] = queries
    groups: dict[tuple[int, ...], dict[str, Grid]] = defaultdict(dict)
    for name in sorted(grids):
        groups[tuple(sorted(grids[name]))][name] = grids[name]
    return tuple(
        _summary(folds, runs[0].record.split_digest, group, resamples)
        for folds, group in sorted(groups.items(), key=lambda item: (-len(item[0]), item[0]))
        if len(folds) > 1 or max(_seeds(grid)[1] for grid in group.values()) > 1
    )


def _summary(folds: tuple[int, ...], digest: str, grids: dict[str, Grid], resamples: int) -> Summary:
    photos = [next(iter(next(iter(grids.values()))[fold].values())) for fold in folds]
    values = np.stack([_precisions(grid, folds) for grid in grids.values()], axis=1)
    # Each fold weighs the same, so that the mean is that of the folds' own MAP@5.
    weights = np.concatenate([np.full(len(part), 1 / len(part)) for part in photos])
    clusters = pd.concat([part["cluster"] for part in photos])
    columns = list(mean_draws(values, weights, clusters, resamples).T)
    ranks = shared_ranks(columns)
    order = sorted(range(len(columns)), key=lambda place: -columns[place][0])
    names, standings = list(grids), []
    for place, following in zip(order, [*order[1:], None], strict=True):
        lead = None if following is None else difference(columns[place], columns[following])
        standings.append(_standing(names[place], grids[names[place]], columns[place], ranks[place], lead))
    return Summary(folds, digest, len(values), tuple(standings))


def _precisions(grid: Grid, folds: tuple[int, ...]) -> Floats:
    """Average precision at 5 of every photo of the folds (photos,), its mean over seeds."""
    key = "average_precision_at_5"
    return np.concatenate(
        [np.mean([table[key].to_numpy() for table in grid[fold].values()], axis=0) for fold in folds]
    )


def _standing(name: str, grid: Grid, drawn: Floats, rank: int | None, lead: Difference | None) -> Standing:
    by_fold = [[mean(table["average_precision_at_5"]) for table in seeds.values()] for seeds in grid.values()]
    return Standing(
        rank=rank,
        contestant=name,
        seeds=_seeds(grid),
        map_at_5=float(drawn[0]),
        low=interval(drawn).low,
        high=interval(drawn).high,
        seed_spread=pooled_spread(by_fold),
        top_1=_mean_of(grid, "top_1"),
        log_loss=_mean_of(grid, "log_loss"),
        lead=lead,
    )


def pooled_spread(by_fold: Sequence[Sequence[float]]) -> float:
    """The standard deviation between values of one fold, over all folds; NaN where no fold has two.

    >>> pooled_spread([[0.0, 2.0, 4.0], [1.0, 1.0], [5.0]]) == (8 / 3) ** 0.5
    True
    """
    free = sum(len(values) - 1 for values in by_fold)
    squares = sum(float(np.var(values)) * len(values) for values in by_fold)
    return float(np.sqrt(squares / free)) if free else np.nan


def _mean_of(grid: Grid, key: str) -> float:
    """The mean over folds of the mean over seeds of a metric, folds without it left out."""
    return mean(mean(mean(table[key]) for table in seeds.values()) for seeds in grid.values())


def _seeds(grid: Grid) -> tuple[int, int]:
    numbers = [len(seeds) for seeds in grid.values()]
    return min(numbers), max(numbers)
