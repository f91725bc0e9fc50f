"""Who is better over several folds and seeds: means over them, and leads on all their photos together.

Runs as the tables take them: records with the per-query tables that are whole and of the same photos.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isclose, isnan, nan
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from whalebench import WhalebenchError
from whalebench.benchmarks.core.record import LATER, RunRecord, read_diagnosis, read_predictions
from whalebench.reports.metrics.ranking import Floats
from whalebench.reports.metrics.resampling import (
    RESAMPLES,
    Difference,
    difference,
    interval,
    mean_draws,
    shared_ranks,
)
from whalebench.reports.metrics.summary import mean, summarize

COLUMNS = {"image", "truth", "cluster", "candidate_1", "rank", "average_precision_at_5", "top_1", "top_5"}
COLUMNS |= {"log_loss", "new_score", "average_precision_at_r", *LATER}


class Judged(NamedTuple):
    """A run with its per-query table, or with the reason why there is none to trust."""

    record: RunRecord
    queries: pd.DataFrame | None
    problem: str = ""
    """Empty for a run that does not fit: it has no table, and nothing is wrong with it."""
    diagnosis: Mapping[str, float | None] | None = None
    """MAP@5 by what was done to the photos, where `whalebench explain` has looked at the run."""
    note: str = ""
    """What else could not be read, or why a diagnosis lacks numbers."""

    def metrics(self) -> dict[str, float]:
        """By the predictions, or as the record says where these are lost; NaN for a run that does not fit."""
        if self.queries is not None:
            return summarize(self.queries)
        undefined = summarize(pd.DataFrame(columns=sorted(COLUMNS)))
        return undefined | {key: nan if said is None else said for key, said in self.record.metrics.items()}


def read_judged(folder: Path, record: RunRecord) -> Judged:
    """The run with its per-query table, when that is whole and gives the metrics that the record says."""
    if record.unfit:
        return Judged(record, None)
    try:
        queries = read_predictions(folder)
    except WhalebenchError as error:
        return Judged(record, None, str(error))
    if problem := _problem(queries, record):
        return Judged(record, None, problem)
    try:
        diagnosis = read_diagnosis(folder)
    except WhalebenchError as error:
        return Judged(record, queries, note=str(error))
    if diagnosis is None:
        return Judged(record, queries)
    note = f"Without numbers on background and animal: {diagnosis.reason}." if diagnosis.reason else ""
    return Judged(record, queries, "", diagnosis.map_at_5, note)


def _problem(queries: pd.DataFrame, record: RunRecord) -> str:
    """Why the per-query table is not to be trusted; empty where it is."""
    missing = sorted(COLUMNS - set(queries.columns))
    if missing or not len(queries) or queries["image"].duplicated().any():
        what = f"lack {', '.join(missing)}" if missing else "are empty or hold a photo twice"
        return f"The predictions of {record.run} {what}: repeat the run with --force."
    for key, value in summarize(queries).items():
        said = record.metrics.get(key, value)
        if not (isnan(value) if said is None else said == value or isclose(said, value, abs_tol=1e-9)):
            differ = f"the record says {key} {said}, its predictions say {value}"
            return f"{record.run}: {differ}: repeat the run with --force."
    return ""


def of_the_same_photos(runs: Sequence[Judged]) -> list[Judged]:
    """The runs, those on other photos than most of this split and fold set aside with a reason."""
    marks = []
    for run in runs:
        columns = None if run.queries is None else run.queries[["image", "truth", "cluster"]]
        marks.append(None if columns is None else tuple(sorted(columns.itertuples(index=False, name=None))))
    most = Counter(mark for mark in marks if mark is not None).most_common(1)
    reason = "{} judged other photos than most runs of its split and fold: repeat it with --force."
    return [
        run if mark is None or mark == most[0][0] else Judged(run.record, None, reason.format(run.record.run))
        for run, mark in zip(runs, marks, strict=True)
    ]


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
