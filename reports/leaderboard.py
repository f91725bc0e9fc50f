"""Who is better: the finished runs of a workspace as a table for each benchmark, and who can be told apart.

Contestants are ranked, not runs, and only those of one track that have finished the same folds.
"""

import json
import string
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count, product
from math import isclose, isnan, log, nan
from pathlib import Path

import numpy as np
import pandas as pd

from whalebench import WhalebenchError, did_you_mean
from whalebench.benchmarks.core.ledger import read_ledger
from whalebench.benchmarks.core.record import (
    BY_SIDE,
    TRAITS,
    RunRecord,
    Runs,
    read_diagnosis,
    read_predictions,
    read_runs,
)
from whalebench.reports.board import (
    CONSTANT,
    UNIFORM,
    Contestant,
    Floor,
    Group,
    Leaderboard,
    Row,
    Section,
    Table,
)
from whalebench.reports.judging import Judged, Judgements, judge
from whalebench.reports.leaks import Told, leak_counts, leak_notes, leak_warnings, read_told, without_leaks
from whalebench.reports.metrics import ranking
from whalebench.reports.metrics.comparison import (
    Comparison,
    Grid,
    SeedSpread,
    Standing,
    compare,
    leak_inflation,
    seed_spread,
)
from whalebench.reports.metrics.jackknife import Difference
from whalebench.reports.metrics.ranking import CANDIDATES, Floats, Photos, is_new, mean, new_is_candidate
from whalebench.reports.metrics.summary import summarize
from whalebench.reports.tracks import contestants, tracks
from whalebench.reports.wording import listed, spans

COLUMNS = {"image", "truth", "cluster", "candidate_1", "rank", "average_precision_at_5", "top_1", "top_5"}
COLUMNS |= {"log_loss", "identified", "new_score", "average_precision_at_r", "set_size_95", "covered_95"}
"""Columns of the predictions that metrics need; `cluster` is what is resampled: individual or encounter."""
MEASURED = {"box_iou", "mask_iou", "mask_precision", "landmark_error"}
"""Further columns that are drawn, of the runs that have them."""
CLOSELY = {
    *TRAITS,
    *BY_SIDE,
    *(f"candidate_{place}" for place in range(1, CANDIDATES + 1)),
}
"""Further columns that a breakdown needs."""
SAME = ["image", "truth", "cluster"]
"""What makes two runs tested on the same photos."""
RANKED = {*SAME, "average_precision_at_5", "rank"}
"""Columns that are left to be read of a run that was judged before."""


def leaderboard(
    runs_folder: Path,
    benchmark: str | None = None,
    runs: Collection[str] | None = None,
    *,
    closely: bool = False,
) -> Leaderboard:
    """The leaderboard of all finished runs, of one benchmark's or of those named; from run folders alone.

    With `closely` each run is also broken down, by its photos and by the effort of a reviewer, which takes
    several times as long. Of how often test labels were opened the ledger beside the folder tells.
    """
    chosen, problems = runs_of(runs_folder, benchmark, runs)
    ledger = read_ledger(runs_folder)
    looks = ledger.openings()
    on: dict[tuple[str, str, str], list[RunRecord]] = defaultdict(list)
    for record in chosen:
        on[record.benchmark, record.catalog_digest, record.split_digest].append(record)
    several = Counter(benchmark for benchmark, *_ in on)
    tables = tuple(
        _table(runs_folder, on[key], looks, alone=several[key[0]] == 1, closely=closely) for key in sorted(on)
    )
    return Leaderboard(
        tuple(_with_inflation(table, tables) for table in tables), (*problems, *ledger.problems)
    )


def runs_of(runs_folder: Path, benchmark: str | None = None, runs: Collection[str] | None = None) -> Runs:
    """The finished runs of a folder, of one benchmark or those named; a sentence for each unreadable one.

    Raises WhalebenchError where there is none, with what to type.
    """
    records, problems = read_runs(runs_folder)
    chosen = [
        record
        for record in records
        if benchmark in (None, record.benchmark, record.benchmark.partition("@")[0])
        and (runs is None or record.run in runs)
    ]
    if chosen:
        return Runs(chosen, problems)
    if there := sorted({record.benchmark for record in records}):
        hint = did_you_mean(str(benchmark), there, f"there are runs of {', '.join(there)}.")
        raise WhalebenchError(f"There is no finished run of benchmark {benchmark!r}: {hint}")
    damaged = f" ({len(problems)} damaged: {problems[0]})" if problems else ""
    raise WhalebenchError(
        f"There is no finished run in {runs_folder}{damaged}: type `whalebench run arcface --fold 0` first."
    )


def _with_inflation(table: Table, tables: Sequence[Table]) -> Table:
    """The table with what leaks are worth to each contestant that has runs on the random twin, too."""
    twins = [
        one
        for other in tables
        for one in other.contestants
        if _same_catalog(other, table) and other.twin_of == table.split_digest
    ]
    if not twins:
        return table
    pooled = seed_spread({str(place): _grid(one) for place, one in enumerate((*table.contestants, *twins))})
    found: dict[Contestant, Difference | None] = {}
    for one in table.contestants:
        twin = next((each for each in twins if _asked(each) == _asked(one)), None)
        found[one] = leak_inflation(_grid(twin), _grid(one), pooled) if twin else None
    of = {row.record.run: found[one] for one in table.contestants for row in one.rows}
    sections = (
        section._replace(rows=tuple(replace(row, inflation=of[row.record.run]) for row in section.rows))
        for section in table.sections
    )
    contestants = tuple(replace(one, inflation=found[one]) for one in table.contestants)
    return table._replace(contestants=contestants, sections=tuple(sections))


def _same_catalog(first: Table, second: Table) -> bool:
    return first.catalog_digest == second.catalog_digest


def _asked(one: Contestant) -> tuple[str, str, str, bool, bool]:
    """What is the same of a contestant on a split and on its twin."""
    record = one.rows[0].record
    config = json.dumps([record.config, record.tuning], sort_keys=True)
    return record.method, config, record.code_digest, record.oracle, record.transductive


Looks = Mapping[tuple[str, str, str, int], int]
"""How often test labels were opened, by benchmark, digests of catalog and split, and fold."""


def _table(
    runs_folder: Path, records: Sequence[RunRecord], looks: Looks, *, alone: bool, closely: bool
) -> Table:
    """The table of one benchmark on one split; where it is not `alone`, its title says which."""
    names, track_of, told = contestants(records), tracks(records), read_told(runs_folder, records[0])
    rows_of: dict[int, list[Row]] = defaultdict(list)
    for record in sorted(records, key=lambda record: (record.fold, record.method, record.seed, record.run)):
        track = _track(record, track_of[record.run])
        row = Row(record, names[record.run], track, looks=looks.get(_fold_of(record), 0))
        rows_of[record.fold].append(row)
    by_fold = {
        fold: on_the_same_photos(read_rows(runs_folder, part, closely=closely))
        for fold, part in rows_of.items()
    }
    floors_of = {fold: _fold_floors(part) for fold, part in by_fold.items()}
    rows = [row for fold, part in by_fold.items() for row in _with_floor(part, floors_of[fold])]
    standing, groups = _ranked(_contestants([_less_leaks(row, told) for row in rows]))
    standing = _with_scores_less_leaks(standing, told)
    first = records[0]
    where = "" if alone else f" · split {first.split_digest[:8]} of catalog {first.catalog_digest[:8]}"
    notes = _missing_folds(records, names)
    if where:
        notes.append(f"{first.benchmark} has runs on different splits or catalogs: ranks do not cross them.")
    notes += [*dict.fromkeys(row.note for row in rows if row.note), *leak_notes(told)]
    return Table(
        first.benchmark + where,
        standing,
        groups,
        tuple(_floors(standing, floors_of)),
        _sections(standing),
        (*leak_warnings(told, tuple(by_fold)), *_warnings(rows)),
        tuple(notes),
        first.catalog_digest,
        first.split_digest,
        first.twin_of,
    )


def _less_leaks(row: Row, told: Told) -> Row:
    """The row with what is known of leaks on its fold, and its score on the test photos that leak nothing."""
    row = replace(row, leaks=leak_counts(told, row.record.fold))
    if row.queries is None:
        return row
    return replace(row, without_leaks=without_leaks(row.queries, told.of_fold(row.record.fold)))


def _with_scores_less_leaks(standing: Sequence[Contestant], told: Told) -> tuple[Contestant, ...]:
    """The contestants with their scores on the test photos that leak nothing, where some do."""
    grids = {
        place: {
            fold: {
                seed: queries[~queries["image"].isin(told.of_fold(fold))] for seed, queries in seeds.items()
            }
            for fold, seeds in _grid(one).items()
        }
        for place, one in enumerate(standing)
        if any(told.of_fold(fold) for fold in one.folds)
    }
    full = {
        place: grid
        for place, grid in grids.items()
        if all(len(queries) for seeds in grid.values() for queries in seeds.values())
    }
    pooled = seed_spread({str(place): grid for place, grid in full.items()})
    return tuple(
        replace(
            one,
            without_leaks=compare({one.name: full[place]}, one.folds, pooled=pooled).standings[0]
            if place in full
            else None,
        )
        for place, one in enumerate(standing)
    )


def _track(record: RunRecord, words: str) -> str:
    """The words of a track with the marks that set it apart, which those of older records lack."""
    marks = [mark for mark in ("oracle", "transductive") if getattr(record, mark) and mark not in words]
    return ", ".join([words, *marks])


def _fold_of(record: RunRecord) -> tuple[str, str, str, int]:
    return record.benchmark, record.catalog_digest, record.split_digest, record.fold


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


def read_rows(runs_folder: Path, rows: Sequence[Row], *, closely: bool = False) -> list[Row]:
    """The rows of a fold, each with its per-query table and metrics, see `_read_row`.

    Runs on the same photos have the names of these in common: they are most of what a table holds.
    """
    judgements = Judgements(runs_folder, (row.record for row in rows))
    of_fold: list[Photos] = []
    read = [_read_row(runs_folder, row, judgements, of_fold, closely=closely) for row in rows]
    judgements.keep()
    return read


def _read_row(
    runs_folder: Path, row: Row, judgements: Judgements, of_fold: list[Photos], *, closely: bool
) -> Row:
    """The row with its per-query table and metrics, when that is whole and gives what the record says.

    With `closely` it is broken down, too. `of_fold` are the photos of the rows before, and then of this one.
    """
    if row.record.unfit:
        return replace(row, metrics=_recorded(row.record))
    folder, known = runs_folder / row.record.run, judgements.get(row.record, closely=closely)
    columns = RANKED if known else COLUMNS | (CLOSELY if closely else set())
    try:
        queries = read_predictions(folder, columns=columns | MEASURED, record=row.record)
        photos = _photos_of(queries, row.record, columns, of_fold)
        judged = known or judgements.put(row.record, judge(queries, photos, closely=closely))
        _refuse_other_metrics(judged, row.record)
    except WhalebenchError as error:
        return _distrusted(row, str(error))
    numbers = queries[[name for name in queries if name in (RANKED | MEASURED) - {*SAME}]]
    queries = numbers.assign(**{name: photos.queries[name] for name in SAME})
    row = replace(
        row, queries=queries, metrics=judged.metrics, doubts=judged.doubts, breakdown=judged.breakdown
    )
    try:
        diagnosis = read_diagnosis(folder)
    except WhalebenchError as error:
        return replace(row, problem=str(error))
    if diagnosis is None:
        return row
    note = f"Without numbers on background and animal: {diagnosis.reason}." if diagnosis.reason else ""
    return replace(row, diagnosis=diagnosis.map_at_5, note=note)


def _photos_of(
    queries: pd.DataFrame, record: RunRecord, columns: Collection[str], of_fold: list[Photos]
) -> Photos:
    """Those of `of_fold` that are the table's, row by row; else the table's own, which join them.

    Raises WhalebenchError where the table lacks one of the columns, or has no photo or one twice.
    """
    missing = sorted(COLUMNS & {*columns} - set(queries.columns))
    same = (known for known in of_fold if all(known.queries[key].equals(queries[key]) for key in SAME))
    if not missing and (photos := next(same, None)):
        return photos
    if missing or not len(queries) or queries["image"].duplicated().any():
        what = f"lack {', '.join(missing)}" if missing else "are empty or hold a photo twice"
        raise WhalebenchError(f"The predictions of {record.run} {what}: repeat the run with --force.")
    of_fold.append(Photos(queries[SAME]))
    return of_fold[-1]


def _refuse_other_metrics(judged: Judged, record: RunRecord) -> None:
    """Raises WhalebenchError where the record says other metrics than its predictions give."""
    for key, recorded in record.metrics.items():
        if key not in judged.metrics:
            continue
        value = judged.metrics[key]
        if not (isnan(value) if recorded is None else isclose(recorded, value, abs_tol=1e-9)):
            differ = f"the record says {key} {recorded}, its predictions say {value}"
            raise WhalebenchError(f"{record.run}: {differ}: repeat the run with --force.")


def _distrusted(row: Row, problem: str) -> Row:
    """The row without its per-query table, and with the metrics that the record says."""
    return replace(row, queries=None, problem=problem, metrics=_recorded(row.record), doubts={})


def _recorded(record: RunRecord) -> dict[str, float]:
    """The metrics of the record, without intervals; NaN for a run that does not fit."""
    undefined = summarize(pd.DataFrame(columns=sorted(COLUMNS)))
    metrics = undefined | {key: nan if value is None else value for key, value in record.metrics.items()}
    return metrics | {f"{key}_{end}": nan for key in metrics for end in ("low", "high")}


def on_the_same_photos(rows: Sequence[Row]) -> list[Row]:
    """The rows of a fold, those on other photos than most of them set aside with a reason."""
    kinds: list[list[Row]] = []
    for row in rows:
        if row.queries is not None:
            kind = next((kind for kind in kinds if _same_photos(kind[0].queries, row.queries)), None)
            kinds.append([row]) if kind is None else kind.append(row)
    most = {row.record.run for row in max(kinds, key=len, default=())}
    reason = "{} was tested on other photos than most runs of its split and fold: repeat it with --force."
    return [
        row
        if row.queries is None or row.record.run in most
        else _distrusted(row, reason.format(row.record.run))
        for row in rows
    ]


def _same_photos(first: pd.DataFrame | None, second: pd.DataFrame) -> bool:
    """Whether they have the same photos with the same truth, in whatever order."""
    if first is None or len(first) != len(second):
        return False
    if all(first[key].equals(second[key]) for key in SAME):
        return True
    ordered = (table[SAME].sort_values(SAME, ignore_index=True) for table in (first, second))
    return next(ordered).equals(next(ordered))


def _fold_floors(rows: Sequence[Row]) -> list[Floor]:
    """What the answers that look at no photo are worth on a fold, as far as its runs tell."""
    queries = next((row.queries for row in rows if row.queries is not None), None)
    if queries is None:
        return []
    fold, known, with_new = rows[0].record.fold, ~is_new(queries), new_is_candidate(queries)

    def floor(name: str, precision: Floats, top_1: float, log_loss: float) -> Floor:
        return Floor(name, (fold,), mean(precision), mean(precision[known]), top_1, log_loss)

    result = []
    answers = Counter(tuple(row.record.constant_answer) for row in rows if row.record.constant_answer)
    for answer, _ in answers.most_common(1):
        precision = ranking.constant_answer(queries["truth"], answer)
        result.append(floor(CONSTANT, precision, mean(precision == 1), nan))
    identities = next((number for row in rows if (number := row.record.counts.get("identities"))), 0)
    if identities:
        precision = ranking.uniform_guess(queries["truth"], identities, new_is_candidate=with_new)
        top_1 = mean((precision > 0) / (identities + with_new))
        result.append(floor(UNIFORM, precision, top_1, log(identities)))
    return result


def _with_floor(rows: Sequence[Row], on_fold: Sequence[Floor]) -> list[Row]:
    """The rows of a fold with MAP@5 of its constant answer."""
    worth = next((floor.map_at_5 for floor in on_fold if floor.name == CONSTANT), nan)
    return [replace(row, floor_map_at_5=worth) for row in rows]


def _floors(standing: Iterable[Contestant], by_fold: Mapping[int, Sequence[Floor]]) -> Iterator[Floor]:
    """The floors of each set of folds that a contestant has finished: means over the folds."""
    for folds in dict.fromkeys(one.folds for one in standing if one.folds):
        for name in (CONSTANT, UNIFORM):
            parts = [floor for fold in folds for floor in by_fold[fold] if floor.name == name]
            if len(parts) == len(folds):
                yield Floor(name, folds, *map(mean, zip(*(part[2:] for part in parts), strict=True)))


def _contestants(rows: Iterable[Row]) -> list[Contestant]:
    """The runs by contestant; runs of one name in different tracks are two contestants."""
    parts: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        parts[row.contestant, row.track].append(row)
    return [Contestant(part[0].contestant, tuple(part)) for part in parts.values()]


def _ranked(contestants: Sequence[Contestant]) -> tuple[tuple[Contestant, ...], tuple[Group, ...]]:
    """The contestants with group and standing, best first, and the groups, that of the best one first."""
    trained = [one for one in contestants if one.folds and not one.untrained]
    pooled = seed_spread({str(place): _grid(one) for place, one in enumerate(trained)})
    parts: dict[tuple[str, tuple[int, ...]], list[Contestant]] = defaultdict(list)
    for one in trained:
        parts[one.rows[0].track, one.folds].append(one)
    compared = [(part, _compare(part, pooled)) for part in parts.values()]
    compared.sort(key=lambda item: -np.nan_to_num(item[1].standings[0].value))
    ranked, groups = [], []
    for letter, (part, comparison) in zip(_letters(), compared, strict=False):
        group = Group(letter, part[0].rows[0].track, part[0].folds, comparison)
        groups.append(group)
        of = {standing.contestant: standing for standing in comparison.standings}
        ranked += [_standing(one, of[one.name], group) for one in part]
    for one in contestants:
        if one.folds and one.untrained:
            ranked.append(_standing(one, _unranked(_compare([one], None).standings[0])))
        elif not one.folds:
            ranked.append(one)
    return tuple(sorted(ranked, key=_sort_key)), tuple(groups)


def _unranked(standing: Standing) -> Standing:
    return standing._replace(rank_low=None, rank_high=None, probability_best=None)


def _compare(part: Sequence[Contestant], pooled: SeedSpread | None) -> Comparison:
    return compare({one.name: _grid(one) for one in part}, part[0].folds, pooled=pooled)


def _grid(one: Contestant) -> Grid:
    """The per-query tables of a contestant by fold and seed."""
    return {
        fold: {seed: row.queries for seed, row in seeds.items() if row.queries is not None}
        for fold, seeds in one.newest.items()
    }


def _standing(one: Contestant, standing: Standing, group: Group | None = None) -> Contestant:
    """The contestant with its standing, which is that of each of its runs too."""
    placed = Contestant(one.name, one.rows, group, standing)
    rows = tuple(
        one if one.queries is None else replace(one, standing=standing, place=placed.place)
        for one in one.rows
    )
    return replace(placed, rows=rows)


def _letters() -> Iterator[str]:
    """A, B, ... Z, AA, AB, ..."""
    return (
        "".join(letters) for length in count(1) for letters in product(string.ascii_uppercase, repeat=length)
    )


def _sort_key(one: Contestant) -> tuple[bool, bool, float, str]:
    """Best first, then contestants that cannot be read, then those that do not fit."""
    value = one.standing.value if one.standing else nan
    return (
        one.standing is None,
        any(row.record.unfit for row in one.rows),
        -float(np.nan_to_num(value)),
        one.name,
    )


def _sections(standing: Sequence[Contestant]) -> tuple[Section, ...]:
    """The runs by track and fold, the track of the best contestant first."""
    parts: dict[str, dict[int, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for one in standing:
        for row in one.rows:
            parts[row.track][row.record.fold].append(row)
    return tuple(_section(track, rows) for track, folds in parts.items() for _, rows in sorted(folds.items()))


def _section(track: str, rows: Sequence[Row]) -> Section:
    first = rows[0].record
    photos, new = (first.counts.get(f"test_{kind}", 0) for kind in ("photos", "new_photos"))
    for row in rows:
        if row.queries is not None:  # all of the same photos
            photos, new = len(row.queries), int(is_new(row.queries).sum())
    ordered = sorted(rows, key=lambda row: (row.queries is None, -np.nan_to_num(row.metrics["map_at_5"])))
    return Section(track, first.fold, photos, new, rows[0].looks, tuple(ordered))


def _warnings(rows: Sequence[Row]) -> Iterator[str]:
    """What split and runs warn of, each thing once, with the folds and contestants for which they do.

    Those that most runs share come first: they are about the photos.
    """
    holds: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        for warning in dict.fromkeys(row.record.warnings):
            holds[warning].append(row)
    for warning, part in sorted(holds.items(), key=lambda item: -len(item[1])):
        whom = _for_whom(part, rows)
        yield f"{whom}: {warning}" if whom else warning


def _for_whom(part: Sequence[Row], rows: Sequence[Row]) -> str:
    """For which folds and contestants something holds; empty where for every run."""
    folds = sorted({row.record.fold for row in part})
    on_folds = [row for row in rows if row.record.fold in folds]
    where = "" if len(on_folds) == len(rows) else f"{'fold' if len(folds) == 1 else 'folds'} {spans(folds)}"
    if len(part) == len(on_folds):
        return where
    names = listed(dict.fromkeys(row.contestant for row in part))
    return ", ".join(filter(None, (names, where)))
