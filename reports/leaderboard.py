"""Who is better: the finished runs of a workspace as tables whose rows may be compared, and their ranks."""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from math import isclose, isnan, nan
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from pydantic import JsonValue

from whalebench import WhalebenchError, did_you_mean
from whalebench.benchmarks.core.record import (
    LATER,
    RunRecord,
    read_diagnosis,
    read_predictions,
    read_runs,
)
from whalebench.reports.board import MEASURES, OVERLAPS, Histogram, Leaderboard, Row, Section, Table
from whalebench.reports.metrics.ranking import Floats, is_new
from whalebench.reports.metrics.resampling import distributions, interval, shared_ranks
from whalebench.reports.metrics.summary import summarize
from whalebench.reports.over_folds import summaries
from whalebench.reports.wording import typed

COLUMNS = {"image", "truth", "cluster", "candidate_1", "rank", "average_precision_at_5", "top_1", "top_5"}
COLUMNS |= {"log_loss", "new_score", "average_precision_at_r", *LATER}
BINS = 20
"""Bins of a histogram."""
FARTHEST = 0.99
"""The quantile at which the axis of a histogram ends where its measure has no upper end."""


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
    of_split: dict[tuple[str, ...], list[ScoredRun]] = defaultdict(list)
    for (_, *split), part in sorted(groups.items()):
        runs = on_the_same_photos([read_run(runs_folder / record.run, record) for record in part])
        sections.append(_section(runs, names))
        of_split[tuple(split)] += runs
    over_folds = [
        summary
        for runs in of_split.values()
        for summary in summaries([(r.record, r.queries) for r in runs if r.queries is not None], names)
    ]
    notes = _missing_folds(records, names)
    first = records[0]
    if len(of_split) > 1:
        notes.append(f"{first.benchmark} has runs on different splits or catalogs: ranks do not cross them.")
    notes += dict.fromkeys(run.note for runs in of_split.values() for run in runs if run.note)
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


class ScoredRun(NamedTuple):
    """A run with its per-query table, or with the reason why there is none to trust."""

    record: RunRecord
    queries: pd.DataFrame | None
    problem: str = ""
    """Empty for a run that does not fit: it has no table, and nothing is wrong with it."""
    diagnosis: Mapping[str, float | None] | None = None
    """MAP@5 by how the photos were altered, where `whalebench explain` has been run on the run."""
    note: str = ""
    """What else could not be read, or why a diagnosis lacks numbers."""

    def metrics(self) -> dict[str, float]:
        """By the predictions, or as the record says where these are lost; NaN for a run that does not fit."""
        if self.queries is not None:
            return summarize(self.queries)
        undefined = summarize(pd.DataFrame(columns=sorted(COLUMNS)))
        recorded = self.record.metrics.items()
        return undefined | {key: nan if value is None else value for key, value in recorded}


def read_run(folder: Path, record: RunRecord) -> ScoredRun:
    """The run with its per-query table, when that is whole and gives the metrics that the record says."""
    if record.unfit:
        return ScoredRun(record, None)
    try:
        queries = read_predictions(folder)
    except WhalebenchError as error:
        return ScoredRun(record, None, str(error))
    if problem := _problem(queries, record):
        return ScoredRun(record, None, problem)
    try:
        diagnosis = read_diagnosis(folder)
    except WhalebenchError as error:
        return ScoredRun(record, queries, note=str(error))
    if diagnosis is None:
        return ScoredRun(record, queries)
    note = f"Without numbers on background and animal: {diagnosis.reason}." if diagnosis.reason else ""
    return ScoredRun(record, queries, "", diagnosis.map_at_5, note)


def _problem(queries: pd.DataFrame, record: RunRecord) -> str:
    """Why the per-query table is not to be trusted; empty where it is."""
    missing = sorted(COLUMNS - set(queries.columns))
    if missing or not len(queries) or queries["image"].duplicated().any():
        what = f"lack {', '.join(missing)}" if missing else "are empty or hold a photo twice"
        return f"The predictions of {record.run} {what}: repeat the run with --force."
    for key, value in summarize(queries).items():
        recorded = record.metrics.get(key, value)
        same = recorded == value or (recorded is not None and isclose(recorded, value, abs_tol=1e-9))
        if not (isnan(value) if recorded is None else same):
            differ = f"the record says {key} {recorded}, its predictions say {value}"
            return f"{record.run}: {differ}: repeat the run with --force."
    return ""


def on_the_same_photos(runs: Sequence[ScoredRun]) -> list[ScoredRun]:
    """The runs, those on other photos than most of this split and fold set aside with a reason."""
    marks = []
    for run in runs:
        columns = None if run.queries is None else run.queries[["image", "truth", "cluster"]]
        marks.append(None if columns is None else tuple(sorted(columns.itertuples(index=False, name=None))))
    most = Counter(mark for mark in marks if mark is not None).most_common(1)
    reason = "{} was tested on other photos than most runs of its split and fold: repeat it with --force."
    return [
        run
        if mark is None or mark == most[0][0]
        else ScoredRun(run.record, None, reason.format(run.record.run))
        for run, mark in zip(runs, marks, strict=True)
    ]


def _section(runs: Sequence[ScoredRun], names: Mapping[str, str]) -> Section:
    tables = {run.record.run: run.queries for run in runs if run.queries is not None}
    drawn = dict(zip(tables, distributions(list(tables.values())), strict=True)) if tables else {}
    ranks = dict(zip(drawn, shared_ranks([values["map_at_5"] for values in drawn.values()]), strict=True))
    rows = []
    for run in runs:
        name, metrics = run.record.run, run.metrics()
        for key in tuple(metrics):
            ends = interval(drawn[name][key]) if name in drawn else (nan, nan)
            metrics[f"{key}_low"], metrics[f"{key}_high"] = ends
        diagnosis = None if run.diagnosis is None else dict(run.diagnosis)
        drawings = () if run.queries is None else histograms(run.queries)
        rows.append(Row(run.record, names[name], ranks.get(name), metrics, diagnosis, drawings, run.problem))
    rows.sort(key=_place)
    table, first = next(iter(tables.values()), None), runs[0].record
    if table is None:
        photos, new = (first.counts.get(f"test_{kind}", 0) for kind in ("photos", "new_photos"))
        return Section(first.fold, first.split_digest, photos, new, 0, tuple(rows))
    new, clusters = int(is_new(table).sum()), table["cluster"].nunique()
    return Section(first.fold, first.split_digest, len(table), new, clusters, tuple(rows))


def _place(row: Row) -> tuple[bool, bool, float]:
    """What rows are sorted by: those with a rank, those without, those that do not fit; best first."""
    return row.rank is None, row.record.unfit != "", -float(np.nan_to_num(row.metrics["map_at_5"]))


def histograms(queries: pd.DataFrame) -> tuple[Histogram, ...]:
    """A histogram for each measure that the per-query table has a defined value of."""
    columns = {key: queries[key].dropna().to_numpy(np.float64) for key in MEASURES if key in queries}
    return tuple(histogram(key, values) for key, values in columns.items() if len(values))


def histogram(key: str, values: Floats) -> Histogram:
    """The values, at least one and none negative, counted in 20 bins up to 1 or to their 99th percentile.

    >>> histogram("box_iou", np.array([0.0, 0.5, 1.0])).middle
    0.5
    """
    overlap = key in OVERLAPS
    limit = 1.0 if overlap else float(np.quantile(values, FARTHEST)) or 1.0
    values = np.minimum(values, 1.0) if overlap else values  # an overlap of 1 may be a last digit more
    counts = np.histogram(values, BINS, (0, limit))[0]
    middle = float(values.mean() if overlap else np.median(values))
    return Histogram(key, tuple(map(int, counts)), limit, middle, int((values > limit).sum()))
