"""Who is better: the finished runs of a workspace as tables whose rows may be compared, and their ranks.

Who competes in a table: methods, told apart by the settings in which their runs differ.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from math import isnan, nan
from pathlib import Path

from pydantic import JsonValue

from whalebench import WhalebenchError, did_you_mean
from whalebench.benchmarks.core.record import RunRecord, read_runs
from whalebench.reports.board import Leaderboard, Row, Section, Table, histograms
from whalebench.reports.metrics.resampling import distributions, interval, shared_ranks
from whalebench.reports.metrics.summary import NEW
from whalebench.reports.over_folds import Judged, of_the_same_photos, read_judged, summaries


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
        settings = [_flat(run.config) for run in runs]
        asked = dict.fromkeys(
            key for run, own in zip(runs, settings, strict=True) if run.members for key in own
        )
        settings = [dict.fromkeys(asked, "none") | own for own in settings]
        shared = [key for key in settings[0] if all(key in other for other in settings)]
        differing = [key for key in shared if len({one[key] for one in settings}) > 1]
        own_keys = [key for key in differing if "." not in key]
        if _told_apart(settings, own_keys) == _told_apart(settings, differing):
            differing = own_keys
        for run, own in zip(runs, settings, strict=True):
            names[run.run] = " ".join([method, *(f"{key}={own[key]}" for key in differing)])
    return names


def _told_apart(settings: Sequence[Mapping[str, str]], keys: Sequence[str]) -> int:
    return len({tuple(one[key] for key in keys) for one in settings})


def _flat(config: Mapping[str, JsonValue], before: str = "") -> dict[str, str]:
    """The fields of a configuration as they are typed after --set, nested ones with a dot."""
    fields: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            fields |= _flat(value, f"{before}{key}.")
        else:
            fields[before + key] = _typed(value)
    return fields


def _typed(value: JsonValue) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return str(value).lower()
        case list():
            return "x".join(map(_typed, value))
    return str(value)


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
    of_split: dict[tuple[str, str], list[Judged]] = defaultdict(list)
    for (_, *split), part in sorted(groups.items()):
        runs = of_the_same_photos([read_judged(runs_folder / record.run, record) for record in part])
        sections.append(_section(runs, names))
        of_split[split[0], split[1]] += runs
    over_folds = [found for runs in of_split.values() for found in summaries(runs, names)]
    notes = _missing(records, names)
    first = records[0]
    if len(of_split) > 1:
        notes.append(f"{first.benchmark} has runs on different splits or catalogs: ranks do not cross them.")
    notes += dict.fromkeys(run.note for runs in of_split.values() for run in runs if run.note)
    key = (first.benchmark, first.track, first.oracle, first.transductive)
    return Table(*key, tuple(sections), tuple(notes), tuple(over_folds))


def _missing(records: Sequence[RunRecord], names: Mapping[str, str]) -> list[str]:
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
    for name, own in sorted(done.items()):
        if missing := sorted(folds - own):
            noun = "fold" if len(missing) == 1 else "folds"
            notes.append(f"{name} has no finished run on {noun} {', '.join(map(str, missing))}.")
    return notes


def _section(runs: Sequence[Judged], names: Mapping[str, str]) -> Section:
    tables = {run.record.run: run.queries for run in runs if run.queries is not None}
    drawn = dict(zip(tables, distributions(list(tables.values())), strict=True)) if tables else {}
    ranks = dict(zip(drawn, shared_ranks([values["map_at_5"] for values in drawn.values()]), strict=True))
    rows = []
    for run in runs:
        name, metrics = run.record.run, run.metrics()
        for key in tuple(metrics):
            ends = interval(drawn[name][key]) if name in drawn else (nan, nan)
            metrics[f"{key}_low"], metrics[f"{key}_high"] = ends
        rows.append(_row(run, metrics, ranks.get(name), names[name]))
    rows.sort(key=lambda row: (row.rank is None, row.unfit != "", -_or_zero(row.metrics["map_at_5"])))
    one, first = next(iter(tables.values()), None), runs[0].record
    if one is None:
        photos, new = (first.counts.get(f"test_{kind}", 0) for kind in ("photos", "new_photos"))
        return Section(first.fold, first.split_digest, photos, new, 0, tuple(rows))
    new, clusters = int((one["truth"] == NEW).sum()), one["cluster"].nunique()
    return Section(first.fold, first.split_digest, len(one), new, clusters, tuple(rows))


def _row(run: Judged, metrics: dict[str, float], rank: int | None, contestant: str) -> Row:
    record = run.record
    location = record.location.get("test")
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
        contestant=contestant,
        location=location if isinstance(location, dict) else {},
        calibration=dict(record.calibration),
        diagnosis=None if run.diagnosis is None else dict(run.diagnosis),
        histograms=() if run.queries is None else histograms(run.queries),
        problem=run.problem,
        unfit=record.unfit,
        seen=_seen(record, contestant),
    )


def _seen(record: RunRecord, contestant: str) -> str:
    """Which checkpoints have seen the benchmark in their pretraining; empty for none."""
    facts = {name: known for name, known in record.pretraining.items() if isinstance(known, dict)}
    where = [f"{name}, trained on {known['seen']}" for name, known in facts.items() if known.get("seen")]
    return f"{contestant} starts from {' and '.join(where)}." if where else ""


def _or_zero(value: float) -> float:
    return 0.0 if isnan(value) else value
