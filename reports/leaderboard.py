"""Who is better: the finished runs of a workspace as tables whose rows may be compared, and their ranks."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from math import isclose, isnan, nan
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from whalebench import WhalebenchError
from whalebench.benchmarks.record import RunRecord, read_predictions, read_runs
from whalebench.reports.metrics import NEW, summarize
from whalebench.reports.statistics import distributions, interval, shared_ranks

COLUMNS = {"image", "truth", "cluster", "candidate_1", "rank", "average_precision_at_5", "top_1", "top_5"}
COLUMNS |= {"log_loss", "new_score", "average_precision_at_r"}


@dataclass(frozen=True)
class Row:
    """One run: its metrics, each with `<key>_low` and `<key>_high`, NaN where undefined, and its rank."""

    rank: int | None
    method: str
    benchmark: str
    track: str
    fold: int
    seed: int
    run: str
    metrics: dict[str, float]
    oracle: bool
    transductive: bool
    photos_per_second: float | None
    seconds: float
    created: str
    catalog_digest: str
    split_digest: str
    problem: str = ""
    """Why this row has no interval and no rank; empty where it has."""


@dataclass(frozen=True)
class Section:
    """The rows of one fold of one split, best first: what is ranked and paired."""

    fold: int
    split_digest: str
    queries: int
    new: int
    clusters: int
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Table:
    """The sections of one benchmark and track; oracle and transductive runs have tables of their own."""

    benchmark: str
    track: str
    oracle: bool
    transductive: bool
    sections: tuple[Section, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Leaderboard:
    """All tables, and a sentence for each run that could not be read."""

    tables: tuple[Table, ...]
    problems: tuple[str, ...] = field(default=())

    @property
    def rows(self) -> list[Row]:
        """Every row, in the order of the tables."""
        return [row for table in self.tables for section in table.sections for row in section.rows]


class _Judged(NamedTuple):
    """A run with its per-query table, or with the reason why there is none to trust."""

    record: RunRecord
    queries: pd.DataFrame | None
    problem: str


def leaderboard(runs_folder: Path, benchmark: str | None = None) -> Leaderboard:
    """The leaderboard of all finished runs, or of one benchmark's; computed from the run folders alone."""
    records, problems = read_runs(runs_folder)
    chosen = [record for record in records if benchmark in (None, record.benchmark)]
    if not chosen:
        raise WhalebenchError(_nothing(runs_folder, benchmark, records, problems))
    groups: dict[tuple[str, str, bool, bool], list[RunRecord]] = defaultdict(list)
    for record in chosen:
        groups[record.benchmark, record.track, record.oracle, record.transductive].append(record)
    tables = tuple(_table(runs_folder, groups[key]) for key in sorted(groups))
    return Leaderboard(tables, tuple(problems))


def _nothing(folder: Path, benchmark: str | None, records: list[RunRecord], problems: list[str]) -> str:
    """Why there is no row, and what to type."""
    there = sorted({record.benchmark for record in records})
    if there:
        near = get_close_matches(str(benchmark), there, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are runs of {', '.join(there)}."
        return f"There is no finished run of benchmark {benchmark!r}: {hint}"
    damaged = f" ({len(problems)} damaged: {problems[0]})" if problems else ""
    return f"There is no finished run in {folder}{damaged}: type `whalebench run arcface --fold 0` first."


def _table(runs_folder: Path, records: list[RunRecord]) -> Table:
    groups: dict[tuple[int, str, str], list[RunRecord]] = defaultdict(list)
    for record in sorted(records, key=lambda record: (record.method, record.seed, record.run)):
        groups[record.fold, record.split_digest, record.catalog_digest].append(record)
    first = records[0]
    notes = _missing(records)
    if len({(record.split_digest, record.catalog_digest) for record in records}) > 1:
        notes.append(f"{first.benchmark} has runs on different splits or catalogs: ranks do not cross them.")
    sections = tuple(_section(runs_folder, groups[key]) for key in sorted(groups))
    return Table(first.benchmark, first.track, first.oracle, first.transductive, sections, tuple(notes))


def _missing(records: list[RunRecord]) -> list[str]:
    """A sentence for each method that lacks a fold another one has: a gap is never silent."""
    folds = {record.fold for record in records}
    notes = []
    for method in sorted({record.method for record in records}):
        lacking = sorted(folds - {record.fold for record in records if record.method == method})
        if lacking:
            noun = "fold" if len(lacking) == 1 else "folds"
            notes.append(f"{method} has no finished run on {noun} {', '.join(map(str, lacking))}.")
    return notes


def _section(runs_folder: Path, records: list[RunRecord]) -> Section:
    runs = _same_queries([_read(runs_folder / record.run, record) for record in records])
    tables = {run.record.run: run.queries for run in runs if run.queries is not None}
    drawn = dict(zip(tables, distributions(list(tables.values())), strict=True)) if tables else {}
    ranks = dict(zip(drawn, shared_ranks([values["map_at_5"] for values in drawn.values()]), strict=True))
    rows = []
    for run in runs:
        metrics = _metrics(run)
        for key in tuple(metrics):
            ends = interval(drawn[run.record.run][key]) if run.record.run in drawn else (nan, nan)
            metrics[f"{key}_low"], metrics[f"{key}_high"] = ends
        rows.append(_row(run, metrics, ranks.get(run.record.run)))
    rows.sort(key=lambda row: (row.rank is None, -_or_zero(row.metrics["map_at_5"])))
    one = next(iter(tables.values()), pd.DataFrame({"truth": [], "cluster": []}))
    new = int((one["truth"] == NEW).sum())
    first = records[0]
    return Section(first.fold, first.split_digest, len(one), new, one["cluster"].nunique(), tuple(rows))


def _read(folder: Path, record: RunRecord) -> _Judged:
    """The run with its per-query table, when that is whole and gives the metrics that the record says."""
    try:
        queries = read_predictions(folder)
    except WhalebenchError as error:
        return _Judged(record, None, str(error))
    lacking = sorted(COLUMNS - set(queries.columns))
    if lacking or not len(queries) or queries["image"].duplicated().any():
        what = f"lack {', '.join(lacking)}" if lacking else "are empty or hold a photo twice"
        return _Judged(record, None, f"The predictions of {record.run} {what}: repeat the run with --force.")
    for key, value in summarize(queries).items():
        said = record.metrics.get(key, value)
        if not (isnan(value) if said is None else said == value or isclose(said, value, abs_tol=1e-9)):
            message = (
                f"{record.run}: the record says {key} {said}, its predictions say {value}: repeat the run"
            )
            return _Judged(record, None, f"{message} with --force.")
    return _Judged(record, queries, "")


def _same_queries(runs: Sequence[_Judged]) -> list[_Judged]:
    """The runs, those on other photos than most of this split and fold set aside with a reason."""
    marks = []
    for run in runs:
        columns = None if run.queries is None else run.queries[["image", "truth", "cluster"]]
        marks.append(None if columns is None else tuple(sorted(columns.itertuples(index=False, name=None))))
    most = Counter(mark for mark in marks if mark is not None).most_common(1)
    reason = "{} judged other photos than most runs of its split and fold: repeat it with --force."
    return [
        run
        if mark is None or mark == most[0][0]
        else _Judged(run.record, None, reason.format(run.record.run))
        for run, mark in zip(runs, marks, strict=True)
    ]


def _metrics(run: _Judged) -> dict[str, float]:
    """The metrics from the predictions, or those the record says where these are lost."""
    if run.queries is not None:
        return summarize(run.queries)
    said = {key: nan if value is None else value for key, value in run.record.metrics.items()}
    return {"map_at_5": nan} | said


def _row(run: _Judged, metrics: dict[str, float], rank: int | None) -> Row:
    record = run.record
    return Row(
        rank=rank,
        method=record.method,
        benchmark=record.benchmark,
        track=record.track,
        fold=record.fold,
        seed=record.seed,
        run=record.run,
        metrics=metrics,
        oracle=record.oracle,
        transductive=record.transductive,
        photos_per_second=record.photos_per_second,
        seconds=record.seconds.get("total", sum(record.seconds.values())),
        created=record.created,
        catalog_digest=record.catalog_digest,
        split_digest=record.split_digest,
        problem=run.problem,
    )


def _or_zero(value: float) -> float:
    return 0.0 if isnan(value) else value
