"""Who is better: the finished runs of a workspace as tables whose rows may be compared, and their ranks.

A section ranks the runs of one fold; a summary ranks contestants over several folds and seeds.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from math import isclose, isnan, nan
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import JsonValue

from whalebench import WhalebenchError, did_you_mean
from whalebench.benchmarks.core.record import LATER, RunRecord, read_diagnosis, read_predictions, read_runs
from whalebench.reports.board import Leaderboard, Row, Section, Standing, Summary, Table
from whalebench.reports.metrics import resampling
from whalebench.reports.metrics.ranking import Floats, is_new, mean
from whalebench.reports.metrics.summary import summarize
from whalebench.reports.wording import typed

COLUMNS = {"image", "truth", "cluster", "candidate_1", "rank", "average_precision_at_5", "top_1", "top_5"}
COLUMNS |= {"log_loss", "new_score", "average_precision_at_r", *LATER}
"""Columns of the predictions that a report needs; `cluster` is what is resampled: individual or encounter."""
SAME = ["image", "truth", "cluster"]
"""What makes two runs tested on the same photos."""


def leaderboard(
    runs_folder: Path, benchmark: str | None = None, runs: Collection[str] | None = None
) -> Leaderboard:
    """The leaderboard of all finished runs, of one benchmark's or of those named; from run folders alone."""
    records, problems = read_runs(runs_folder)
    chosen = [
        record
        for record in records
        if benchmark in (None, record.benchmark) and (runs is None or record.run in runs)
    ]
    if not chosen:
        raise WhalebenchError(_why_empty(runs_folder, benchmark, records, problems))
    groups: dict[tuple[str, str, bool, bool], list[RunRecord]] = defaultdict(list)
    for record in chosen:
        groups[record.benchmark, record.track, record.oracle, record.transductive].append(record)
    tables = tuple(_table(runs_folder, groups[key]) for key in sorted(groups))
    return Leaderboard(tables, tuple(problems))


def _why_empty(folder: Path, benchmark: str | None, records: list[RunRecord], problems: list[str]) -> str:
    """Why there is no row, and what to type."""
    there = sorted({record.benchmark for record in records})
    if there:
        hint = did_you_mean(str(benchmark), there, f"there are runs of {', '.join(there)}.")
        return f"There is no finished run of benchmark {benchmark!r}: {hint}"
    damaged = f" ({len(problems)} damaged: {problems[0]})" if problems else ""
    return f"There is no finished run in {folder}{damaged}: type `whalebench run arcface --fold 0` first."


def _table(runs_folder: Path, records: list[RunRecord]) -> Table:
    names = contestants(records)
    groups: dict[tuple[int, str, str], list[RunRecord]] = defaultdict(list)
    for record in sorted(records, key=lambda record: (record.method, record.seed, record.run)):
        groups[record.fold, record.split_digest, record.catalog_digest].append(record)
    sections: list[Section] = []
    of_split: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for (_, *split), part in sorted(groups.items()):
        rows = [read_row(runs_folder / record.run, record, names[record.run]) for record in part]
        rows = on_the_same_photos(rows)
        sections.append(_section(rows))
        of_split[tuple(split)] += rows
    over_folds = [summary for rows in of_split.values() for summary in summaries(rows)]
    notes = _missing_folds(records, names)
    first = records[0]
    if len(of_split) > 1:
        notes.append(f"{first.benchmark} has runs on different splits or catalogs: ranks do not cross them.")
    notes += dict.fromkeys(row.note for rows in of_split.values() for row in rows if row.note)
    key = (first.benchmark, first.track, first.oracle, first.transductive)
    return Table(*key, tuple(sections), tuple(notes), tuple(over_folds))


def _missing_folds(records: Sequence[RunRecord], names: Mapping[str, str]) -> list[str]:
    """A sentence for each contestant that lacks a fold another one has: a gap is never silent.

    One that does not fit lacks nothing: its reason is shown.
    """
    unfit = {names[record.run] for record in records if record.unfit}
    done: dict[str, set[int]] = defaultdict(set)
    for record in records:
        if names[record.run] not in unfit:
            done[names[record.run]].add(record.fold)
    folds = set[int]().union(*done.values())
    notes = []
    for name, finished in sorted(done.items()):
        if missing := sorted(folds - finished):
            noun = "fold" if len(missing) == 1 else "folds"
            notes.append(f"{name} has no finished run on {noun} {', '.join(map(str, missing))}.")
    return notes


def contestants(records: Sequence[RunRecord]) -> dict[str, str]:
    """By run: its method, followed by the settings in which the method's runs in this table differ, if any.

    Runs of one contestant differ in fold, seed, machine and date only. Fields that only some of the runs know
    (those of other versions) tell nothing apart, but those of ensembles do: they have what was asked for.
    Settings of parts (with a dot) are named only where the method's own do not tell all apart: a run without
    a part has settings for it, too.
    """
    by_method: dict[str, list[RunRecord]] = defaultdict(list)
    for record in records:
        by_method[record.method].append(record)
    names = {}
    for method, runs in by_method.items():
        configs = [_flat(run.config) for run in runs]
        optional = dict.fromkeys(
            key for run, config in zip(runs, configs, strict=True) if run.members for key in config
        )
        configs = [dict.fromkeys(optional, "none") | config for config in configs]
        shared = [key for key in configs[0] if all(key in other for other in configs)]
        differing = [key for key in shared if len({one[key] for one in configs}) > 1]
        of_method = [key for key in differing if "." not in key]
        if _told_apart(configs, of_method) == _told_apart(configs, differing):
            differing = of_method
        for run, config in zip(runs, configs, strict=True):
            names[run.run] = " ".join([method, *(f"{key}={config[key]}" for key in differing)])
    return names


def _told_apart(configs: Sequence[Mapping[str, str]], keys: Sequence[str]) -> int:
    """How many configurations differ in these keys."""
    return len({tuple(config[key] for key in keys) for config in configs})


def _flat(config: Mapping[str, JsonValue], before: str = "") -> dict[str, str]:
    """The fields of a configuration as they are typed after --set, nested ones with a dot."""
    fields: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            fields |= _flat(value, f"{before}{key}.")
        else:
            fields[before + key] = typed(value)
    return fields


def read_row(folder: Path, record: RunRecord, contestant: str) -> Row:
    """The run with its per-query table, when that is whole and gives the metrics that the record says."""
    row = Row(record, contestant)
    if record.unfit:
        return row
    try:
        queries = read_predictions(folder)
        _check(queries, record)
    except WhalebenchError as error:
        return replace(row, problem=str(error))
    try:
        diagnosis = read_diagnosis(folder)
    except WhalebenchError as error:
        return replace(row, queries=queries, note=str(error))
    if diagnosis is None:
        return replace(row, queries=queries)
    note = f"Without numbers on background and animal: {diagnosis.reason}." if diagnosis.reason else ""
    return replace(row, queries=queries, diagnosis=diagnosis.map_at_5, note=note)


def _check(queries: pd.DataFrame, record: RunRecord) -> None:
    """Raises WhalebenchError where the per-query table is not to be trusted."""
    missing = sorted(COLUMNS - set(queries.columns))
    if missing or not len(queries) or queries["image"].duplicated().any():
        what = f"lack {', '.join(missing)}" if missing else "are empty or hold a photo twice"
        raise WhalebenchError(f"The predictions of {record.run} {what}: repeat the run with --force.")
    for key, value in summarize(queries).items():
        if key not in record.metrics:  # an older run
            continue
        recorded = record.metrics[key]
        if not (isnan(value) if recorded is None else isclose(recorded, value, abs_tol=1e-9)):
            differ = f"the record says {key} {recorded}, its predictions say {value}"
            raise WhalebenchError(f"{record.run}: {differ}: repeat the run with --force.")


def on_the_same_photos(rows: Sequence[Row]) -> list[Row]:
    """The rows, those on other photos than most of this split and fold set aside with a reason."""
    photos = {
        row.record.run: tuple(sorted(row.queries[SAME].itertuples(index=False, name=None)))
        for row in rows
        if row.queries is not None
    }
    most = Counter(photos.values()).most_common(1)
    reason = "{} was tested on other photos than most runs of its split and fold: repeat it with --force."
    return [
        row
        if row.queries is None or photos[row.record.run] == most[0][0]
        else Row(row.record, row.contestant, problem=reason.format(row.record.run))
        for row in rows
    ]


def _section(rows: Sequence[Row]) -> Section:
    """The rows of one fold with metrics, intervals and ranks, best first."""
    tables = {row.record.run: row.queries for row in rows if row.queries is not None}
    drawn = dict(zip(tables, resampling.distributions(list(tables.values())), strict=True)) if tables else {}
    ranks = dict(
        zip(drawn, resampling.shared_ranks([values["map_at_5"] for values in drawn.values()]), strict=True)
    )
    ranked = []
    for row in rows:
        name, metrics = row.record.run, _metrics(row)
        for key in tuple(metrics):
            ends = resampling.interval(drawn[name][key])[:2] if name in drawn else (nan, nan)
            metrics[f"{key}_low"], metrics[f"{key}_high"] = ends
        ranked.append(replace(row, rank=ranks.get(name), metrics=metrics))
    ranked.sort(key=_sort_key)
    first = rows[0].record
    photos, new = (first.counts.get(f"test_{kind}", 0) for kind in ("photos", "new_photos"))
    for table in tables.values():  # of the same photos
        photos, new = len(table), int(is_new(table).sum())
    return Section(first.fold, first.split_digest, photos, new, tuple(ranked))


def _metrics(row: Row) -> dict[str, float]:
    """By the predictions, or as the record says where these are lost; NaN for a run that does not fit."""
    if row.queries is not None:
        return summarize(row.queries)
    undefined = summarize(pd.DataFrame(columns=sorted(COLUMNS)))
    return undefined | {key: nan if value is None else value for key, value in row.record.metrics.items()}


def _sort_key(row: Row) -> tuple[bool, bool, float]:
    """What rows are sorted by: those with a rank, those without, those that do not fit; best first."""
    return row.rank is None, row.record.unfit != "", -float(np.nan_to_num(row.metrics["map_at_5"]))


FoldTables = dict[int, dict[int, pd.DataFrame]]
"""Per-query tables of one contestant by fold and seed."""


def summaries(rows: Iterable[Row], resamples: int = resampling.RESAMPLES) -> tuple[Summary, ...]:
    """A summary for each set of folds that contestants have finished, where there is more than one run each.

    The rows are of one split, and of each fold they are of the same photos; those without a per-query table
    are left out. Of two runs of one contestant, fold and seed the newer one counts.
    """
    grids: dict[str, FoldTables] = defaultdict(lambda: defaultdict(dict))
    digest = ""
    for row in sorted(rows, key=lambda row: (row.record.created, row.record.run)):
        if row.queries is not None:
            grids[row.contestant][row.record.fold][row.record.seed] = row.queries.sort_values("image")
            digest = row.record.split_digest
    groups: dict[tuple[int, ...], dict[str, FoldTables]] = defaultdict(dict)
    for name, grid in sorted(grids.items(), key=lambda item: item[0]):
        groups[tuple(sorted(grid))][name] = grid
    return tuple(
        _summary(folds, digest, group, resamples)
        for folds, group in sorted(groups.items(), key=lambda item: (-len(item[0]), item[0]))
        if len(folds) > 1 or max(_seeds(grid)[1] for grid in group.values()) > 1
    )


def _summary(folds: tuple[int, ...], digest: str, grids: dict[str, FoldTables], resamples: int) -> Summary:
    photos = [next(iter(next(iter(grids.values()))[fold].values())) for fold in folds]
    values = np.stack([_precisions(grid, folds) for grid in grids.values()], axis=1)
    # Each fold weighs the same, so that the mean is that of the folds' own MAP@5.
    weights = np.concatenate([np.full(len(part), 1 / len(part)) for part in photos])
    clusters = pd.concat([part["cluster"] for part in photos])
    drawn = dict(zip(grids, resampling.mean_draws(values, weights, clusters, resamples).T, strict=True))
    ranks = dict(zip(grids, resampling.shared_ranks(list(drawn.values())), strict=True))
    order = sorted(grids, key=lambda name: -drawn[name][0])
    standings = []
    for name, following in zip(order, [*order[1:], None], strict=True):
        grid, (low, high, _) = grids[name], resampling.interval(drawn[name])
        standing = Standing(
            rank=ranks[name],
            contestant=name,
            seeds=_seeds(grid),
            map_at_5=float(drawn[name][0]),
            low=low,
            high=high,
            seed_spread=pooled_spread(_by_fold(grid, "average_precision_at_5")),
            top_1=mean(map(mean, _by_fold(grid, "top_1"))),
            log_loss=mean(map(mean, _by_fold(grid, "log_loss"))),
            lead=None if following is None else resampling.difference(drawn[name], drawn[following]),
        )
        standings.append(standing)
    return Summary(folds, digest, len(values), tuple(standings))


def _precisions(grid: FoldTables, folds: tuple[int, ...]) -> Floats:
    """Average precision at 5 of every photo of the folds (photos,), its mean over seeds."""
    key = "average_precision_at_5"
    return np.concatenate(
        [np.mean([table[key].to_numpy() for table in grid[fold].values()], axis=0) for fold in folds]
    )


def _by_fold(grid: FoldTables, key: str) -> list[list[float]]:
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


def _seeds(grid: FoldTables) -> tuple[int, int]:
    """How many seeds a fold has, at least and at most."""
    numbers = [len(seeds) for seeds in grid.values()]
    return min(numbers), max(numbers)
