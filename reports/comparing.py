"""Runs, or contestants, side by side: which of two is better, and what each step of a ladder gains."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Group
from rich.text import Text

from whalebench import WhalebenchError, did_you_mean, one_line
from whalebench.benchmarks.core.record import (
    RunRecord,
    find_runs,
    plain,
    read_predictions,
    read_record,
    read_runs,
)
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.reports.metrics.comparison import Comparison, Grid, SeedSpread, compare, seed_spread
from whalebench.reports.metrics.jackknife import check_same_queries, column_deletions, difference
from whalebench.reports.tables import FittedTable, table_of
from whalebench.reports.tracks import contestants, differences
from whalebench.reports.wording import UNDEFINED, between, listed, number, probability, spans, with_interval

Document = dict[str, Any]
Runs = dict[tuple[int, int], RunRecord]
"""The runs of one contestant by fold and seed."""
ALIKE = ("method", "config", "benchmark", "catalog_digest", "split_digest", "code_digest", "tuning")
"""In what the runs of one contestant are equal."""
BY = {
    "map_at_5": ("average_precision_at_5", "MAP@5"),
    "top_1": ("top_1", "top-1"),
    "mask_precision": ("mask_precision", "mask precision"),
    "mask_iou": ("mask_iou", "mask IoU"),
    "box_iou": ("box_iou", "box IoU"),
}
"""By what a ladder can be judged, with its column in the per-query tables and its name; all from 0 to 1."""


@dataclass(frozen=True)
class Side:
    """What is compared: a run, or the runs of one contestant."""

    name: str
    runs: Runs
    tables: Mapping[tuple[int, int], pd.DataFrame]
    """Their per-query tables, in the order of image names."""

    @property
    def first(self) -> RunRecord:
        """The record that stands for all of them."""
        return next(iter(self.runs.values()))

    @property
    def folds(self) -> set[int]:
        """Where it was tested."""
        return {fold for fold, _ in self.runs}

    def grid(self, folds: Sequence[int]) -> Grid:
        """The tables of some of its folds, by fold and seed."""
        return {
            fold: {seed: table for (of, seed), table in self.tables.items() if of == fold} for fold in folds
        }


def contestant_key(record: RunRecord) -> str:
    """The same for runs that differ in fold, seed, machine and date only."""
    return json.dumps(record.model_dump(include=set(ALIKE)), sort_keys=True)


def compare_runs(first: str, second: str, workspace: Workspace, photos: int = 10) -> Document:
    """What is to be said of two runs or contestants by their names, over the folds that both have.

    A name that fits several runs means all of them, if they are of one contestant, and so does the name that
    the report gives that. Raises WhalebenchError where they are not, for a run without scores, and where the
    two were not tested on the same photos.
    """
    if photos < 0:
        raise WhalebenchError(f"--photos {photos} cannot be: give 0 or more.")
    sides = one, other = _side(first, workspace), _side(second, workspace)
    folds = _shared_folds(one, other)
    grids = {side.name: side.grid(folds) for side in sides}
    comparison = compare(grids, folds, pooled=_pooled(one.first, workspace))
    better = comparison.standings[0]
    said = _said(comparison, one, other, folds)
    document = {
        "benchmark": one.first.benchmark,
        "folds": folds,
        "first": _document(one, comparison, folds),
        "second": _document(other, comparison, folds),
        "better": better.contestant if said["lead"] else None,
        "probability": better.probability_best,
        **said,
        "seed_spread": comparison.spread.spread if comparison.spread else None,
        "unranked": comparison.unranked,
        "differences": _differing(one.first, other.first),
        "photos": _disagreements(one, other, folds)[:photos],
    }
    document |= {"verdict": _verdict(document)}
    return dict(plain(document))


def compare_steps(names: Sequence[str], workspace: Workspace, by: str = "map_at_5") -> Document:
    """What each of several runs or contestants gains over the one before it, over the folds that all have.

    Names, and what is refused, are those of `compare_runs`; so is a score `by` which they cannot be judged. A
    step has in what the two were not given the same. Each is judged for itself, so that of twenty steps that
    change nothing one may be told to do so.
    """
    return _steps([_side(name, workspace) for name in names], workspace, by)


def compare_found(
    found: Mapping[str, Sequence[RunRecord]], workspace: Workspace, by: str = "map_at_5"
) -> Document:
    """The same of the runs that were found of each step."""
    sides = [_side_of(name, {workspace.runs / run.run: run for run in runs}) for name, runs in found.items()]
    return _steps(sides, workspace, by)


def _steps(sides: Sequence[Side], workspace: Workspace, by: str) -> Document:
    if len(sides) < 2:
        raise WhalebenchError(f"{sides[0].name} alone is no ladder: name two runs or more.")
    if by not in BY:
        raise WhalebenchError(
            f"--by '{one_line(by, 60)}' cannot be: {did_you_mean(by, BY, f'there are {listed(BY, 9)}.')}"
        )
    folds = sorted(set.intersection(*(set(_shared_folds(*pair)) for pair in pairwise(sides))))
    if not folds:
        raise WhalebenchError(f"{_where(sides)}, so no fold is that of all: run what is missing.")
    for side in sides:
        _check_measured(side, by)
    pooled = _pooled(sides[0].first, workspace, by)
    steps: list[Document] = []
    for before, side in pairwise(sides):
        comparison = compare(
            {each.name: each.grid(folds) for each in (before, side)}, folds, BY[by][0], pooled
        )
        if not steps:
            steps.append(_rung(before, comparison, folds, by))
        steps.append(_rung(side, comparison, folds, by) | _gain(comparison, before, side, folds, by))
    ends = sides[0], sides[-1]
    in_all = compare({each.name: each.grid(folds) for each in ends}, folds, BY[by][0], pooled)
    document = {
        "benchmark": sides[0].first.benchmark,
        "by": by,
        "folds": folds,
        "steps": steps,
        "in_all": _gain(in_all, *ends, folds, by),
        "seed_spread": comparison.spread.spread if comparison.spread else None,
        "unranked": comparison.unranked,
    }
    return dict(plain(document))


def _has(table: pd.DataFrame, by: str) -> bool:
    """Whether the per-query table has such a score of any photo."""
    column = BY[by][0]
    return column in table and bool(table[column].notna().any())


def _check_measured(side: Side, by: str) -> None:
    """Raises WhalebenchError where a run of the side has no such score of any photo."""
    for place, table in side.tables.items():
        if not _has(table, by):
            raise WhalebenchError(
                f"{side.runs[place].run} has no {BY[by][1]}, as it finds nothing of that kind or no test "
                f"photo is annotated so: compare by another score."
            )


def _rung(side: Side, comparison: Comparison, folds: Sequence[int], by: str) -> Document:
    """What is said of a side, and its means of top-1 and log loss over seeds, then over folds."""
    means = {
        key: _mean([[run.metrics[key] for (of, _), run in side.runs.items() if of == fold] for fold in folds])
        for key in ("top_1", "log_loss")
    }
    return means | _document(side, comparison, folds, by)


def _mean(of_folds: Iterable[Sequence[float | None]]) -> float | None:
    """The mean of the means; None where one of the values is undefined."""
    means = []
    for values in of_folds:
        defined = [value for value in values if value is not None]
        if len(defined) < len(values):
            return None
        means.append(mean(defined))
    return mean(means)


def _gain(comparison: Comparison, before: Side, side: Side, folds: Sequence[int], by: str) -> Document:
    """`gain` over the side before with `gain_low` and `gain_high`, and how sure it is to be one."""
    said = _said(comparison, before, side, folds, by)
    ends = said["lead"], said["lead_low"], said["lead_high"]
    if comparison.standings[0].contestant != side.name:
        ends = -ends[0], -ends[2], -ends[1]
    standing = next(each for each in comparison.standings if each.contestant == side.name)
    return {
        **dict(zip(("gain", "gain_low", "gain_high"), ends, strict=True)),
        "told_apart": said["told_apart"],
        "probability": standing.probability_best,
        "differences": _differing(before.first, side.first),
    }


def _differing(first: RunRecord, second: RunRecord) -> list[dict[str, str]]:
    """`what` two runs differ in, with what it is of the `first` and of the `second`."""
    rows = differences(first, second)
    if first.method == second.method and first.code_digest != second.code_digest:
        codes = [run.code_digest[:8] or "not recorded" for run in (first, second)]
        rows.append(("code", codes[0], codes[1]))
    return [dict(zip(("what", "first", "second"), row, strict=True)) for row in rows]


def _side(name: str, workspace: Workspace) -> Side:
    """The run or the contestant of that name, with its tables."""
    called = _contestants(workspace)
    folders = [workspace.runs / run for run in called if called[run] == name] or find_runs(name, workspace)
    records = {folder: read_record(folder) for folder in folders}
    if len({contestant_key(record) for record in records.values()}) > 1:
        kinds = {called.get(record.run, record.run) for record in records.values()}
        if len(kinds) == 1:  # on several benchmarks
            kinds = {record.run for record in records.values()}
        quoted = listed((f"'{kind}'" for kind in sorted(kinds)), most=5)
        raise WhalebenchError(
            f"'{name}' fits {len(folders)} runs that differ in more than fold and seed: name one of "
            f"{quoted}, or a single run."
        )
    side = _side_of(name, records)
    return side if len(side.runs) > 1 else replace(side, name=side.first.run)


def _side_of(name: str, records: Mapping[Path, RunRecord]) -> Side:
    """The side that these runs, by their folders, are of."""
    runs: Runs = {}
    tables = {}
    for folder, record in sorted(records.items(), key=lambda item: item[1].created):  # the newer one counts
        if record.unfit:
            raise WhalebenchError(f"The run {record.run} has no scores, because {record.unfit}.")
        runs[record.fold, record.seed] = record
        tables[record.fold, record.seed] = read_predictions(folder).sort_values("image", ignore_index=True)
    return Side(name, runs, tables)


def _contestants(workspace: Workspace) -> dict[str, str]:
    """By run what the report calls its contestant."""
    on: dict[tuple[str, str, str], list[RunRecord]] = defaultdict(list)
    for record in read_runs(workspace.runs).records:
        on[record.benchmark, record.catalog_digest, record.split_digest].append(record)
    return {run: name for records in on.values() for run, name in contestants(records).items()}


def _shared_folds(one: Side, other: Side) -> list[int]:
    """The folds of both; raises WhalebenchError where there is none, or where they hold other photos."""
    for what in ("benchmark", "catalog_digest", "split_digest"):
        values = [str(getattr(side.first, what))[:16] for side in (one, other)]
        if values[0] != values[1]:
            raise WhalebenchError(
                f"{one.name} is of {what.replace('_', ' ')} {values[0]} and {other.name} of {values[1]}, so "
                f"they were not tested on the same photos: compare runs of one split of one benchmark."
            )
    if one.name == other.name:
        raise WhalebenchError(f"{one.name} cannot be compared with itself: name two runs.")
    folds = sorted(one.folds & other.folds)
    if not folds:
        raise WhalebenchError(f"{_where((one, other))}: run one of them on a fold of the other.")
    for fold in folds:
        tables = [table for side in (one, other) for table in side.grid([fold])[fold].values()]
        for table in tables[1:]:
            check_same_queries(tables[0], table)
    return folds


def _where(sides: Sequence[Side]) -> str:
    return " and ".join(f"{side.name} has fold {', '.join(map(str, sorted(side.folds)))}" for side in sides)


def _pooled(record: RunRecord, workspace: Workspace, by: str = "map_at_5") -> SeedSpread | None:
    """What a seed changes of that score, by the contestants of this split that have several of a fold."""
    fields = ("benchmark", "catalog_digest", "split_digest")
    runs: dict[str, dict[int, dict[int, RunRecord]]] = defaultdict(lambda: defaultdict(dict))
    for other in read_runs(workspace.runs).records:
        if not other.unfit and all(getattr(other, name) == getattr(record, name) for name in fields):
            runs[contestant_key(other)][other.fold][other.seed] = other
    grids: dict[str, dict[int, dict[int, pd.DataFrame]]] = defaultdict(dict)
    for key, folds in runs.items():
        for fold, seeds in folds.items():
            if len(seeds) < 2:
                continue
            tables = {seed: read_predictions(workspace.runs / run.run) for seed, run in seeds.items()}
            if all(_has(table, by) for table in tables.values()):
                grids[key][fold] = tables
    return seed_spread(grids, BY[by][0])


def _document(side: Side, comparison: Comparison, folds: Sequence[int], by: str = "map_at_5") -> Document:
    standing = next(each for each in comparison.standings if each.contestant == side.name)
    return {
        "name": side.name,
        "runs": [run.run for (fold, _), run in side.runs.items() if fold in folds],
        by: standing.value,
        f"{by}_low": standing.low,
        f"{by}_high": standing.high,
        "seeds": list(standing.seeds),
    }


def _said(
    comparison: Comparison, one: Side, other: Side, folds: Sequence[int], by: str = "map_at_5"
) -> Document:
    """`lead` of the better one with `lead_low` and `lead_high`, and whether they are `told_apart`.

    Without any estimate of what a seed changes the interval is over individuals alone, and tells nothing.
    """
    first, second = (standing.contestant for standing in comparison.standings)
    lead = comparison.leads[first, second]
    if not comparison.unranked:
        ends = {"lead_low": lead.low, "lead_high": lead.high}
        return {"lead": lead.value, **ends, "told_apart": lead.told_apart}
    tables = {
        side.name: pd.concat([next(iter(seeds.values())) for seeds in side.grid(folds).values()])
        for side in (one, other)
    }
    check_same_queries(tables[first], tables[second])
    column = BY[by][0]
    gap = difference(*(column_deletions(tables[name], column) for name in (first, second)))
    low, high = np.clip(gap[1:], -1.0, 1.0).tolist()  # of a single individual both stay undefined
    return {"lead": lead.value, "lead_low": low, "lead_high": high, "told_apart": False}


def _verdict(document: Document) -> str:
    """One sentence: which is better, by how much, how sure that is, and in what they differ."""
    names = [document[side]["name"] for side in ("first", "second")]
    tail = "their tracks are equal"
    if document["differences"]:
        *most, last = [row["what"] for row in document["differences"]]
        tail = f"they differ in {', '.join(most)} and {last}" if most else f"they differ in {last}"
    if document["better"] is None:
        return f"{' and '.join(names)} have the same MAP@5; {tail}."
    worse = names[names[0] == document["better"]]
    by = between(document["lead"], document["lead_low"], document["lead_high"])
    sure = f"better with probability {probability(document['probability'])}"
    if document["told_apart"]:
        return f"{document['better']} is better than {worse} by {by} MAP@5 ({sure}); {tail}."
    doubt = f"which other individuals or another seed may turn round ({sure})"
    if document["unranked"]:
        doubt = "over other individuals, and one seed each cannot tell whether another seed turns that round"
    return f"{document['better']} is ahead of {worse} by {by} MAP@5, {doubt}; {tail}."


def _disagreements(one: Side, other: Side, folds: Sequence[int]) -> list[Document]:
    """The photos that the two do not rank alike, those first on which their scores differ most.

    Of several seeds a photo has the median of its ranks, and the candidate that is most often the first.
    """
    rows = pd.concat(
        [
            _by_photo(one.grid([fold])[fold].values(), "first")
            .join(_by_photo(other.grid([fold])[fold].values(), "second"))
            .assign(fold=fold)
            for fold in folds
        ]
    )
    for what in ("reciprocal_rank", "average_precision"):
        rows[what] = (rows.pop(f"{what}_first") - rows.pop(f"{what}_second")).abs()
    rows = rows[rows["reciprocal_rank"] > 0]
    rows = rows.sort_values(["average_precision", "reciprocal_rank"], ascending=False, kind="stable")
    return [
        {
            "image": image,
            "fold": row["fold"],
            "truth": row["truth_first"],
            **{name: row[name] for side in ("first", "second") for name in (f"rank_{side}", f"says_{side}")},
        }
        for image, row in zip(rows.index, rows.to_dict("records"), strict=True)
    ]


def _by_photo(tables: Iterable[pd.DataFrame], side: str) -> pd.DataFrame:
    """By image of one fold truth, rank, first candidate and mean scores over seeds, as `rank_first`."""
    every = pd.concat(tables)
    photos = every.assign(reciprocal_rank=(1 / every["rank"]).fillna(0)).groupby("image")
    columns = {
        "truth": photos["truth"].first(),
        "rank": photos["rank"].median(),
        "says": photos["candidate_1"].agg(lambda names: names.mode()[0]),
        "average_precision": photos["average_precision_at_5"].mean(),
        "reciprocal_rank": photos["reciprocal_rank"].mean(),
    }
    return pd.DataFrame(columns).add_suffix(f"_{side}")


def comparison_report(document: Document) -> Group:
    """What `rich` prints of a comparison: the sentence, the two, in what they differ, where they disagree."""
    sides = [
        {
            "": side,
            "name": document[side]["name"],
            "MAP@5": with_interval(document[side], "map_at_5"),
            "runs": len(document[side]["runs"]),
        }
        for side in ("first", "second")
    ]
    photos = [
        {
            "image": row["image"],
            "truth": row["truth"],
            "first: rank": _rank(row["rank_first"]),
            "first: says": row["says_first"],
            "second: rank": _rank(row["rank_second"]),
            "second: says": row["says_second"],
            "fold": row["fold"],
        }
        for row in document["photos"]
    ]
    blocks: list[Any] = [Text(document["verdict"], style="bold"), FittedTable(sides, ("runs",))]
    if document["differences"]:
        blocks.append(table_of(document["differences"], "What differs"))
    if photos:
        blocks.append(Text("Photos on which they disagree most"))
        blocks.append(FittedTable(photos, ("fold", "second: says", "first: says", "truth")))
    return Group(*blocks, _footer(document))


def steps_report(document: Document) -> Group:
    """What `rich` prints of a ladder: a line for each of its rungs."""
    by, (first, *others) = document["by"], document["steps"]
    rows = [_rung_row(first, by), *(_rung_row(step, by, *_gained(step)) for step in others)]
    unranked = [Text(document["unranked"], style="yellow")] if document["unranked"] else []
    table = FittedTable(rows, ("not equal in", "runs", "log loss", "top-1"), folded="step")
    gained, told = _gained(document["in_all"])
    in_all = [Text(f"From the first step to the last: {gained}, {told}.")] if len(others) > 1 else []
    return Group(
        table, *in_all, *unranked, _footer(document, "Each step beside the one before, for itself. ")
    )


def _gained(gain: Document) -> tuple[str, str]:
    told = "not told apart" if not gain["told_apart"] else "better" if gain["gain"] > 0 else "worse"
    return between(gain["gain"], gain["gain_low"], gain["gain_high"], digits=3), told


def _rung_row(step: Document, by: str, gained: str = "", told: str = "") -> dict[str, Any]:
    means = {"top-1": number(step["top_1"]), "log loss": number(step["log_loss"])}
    return {
        "step": step["name"],
        BY[by][1]: with_interval(step, by),
        "gained": gained,
        "": told,
        **{name: mean for name, mean in means.items() if name != BY[by][1]},
        "runs": len(step["runs"]),
        "not equal in": ", ".join(row["what"] for row in step.get("differences", ())),
    }


def _footer(document: Document, how: str = "") -> Text:
    """The folds, how they were compared, and what intervals are of."""
    seed = document["seed_spread"]
    score = BY[document.get("by", "map_at_5")][1]
    luck = f"; between seeds of a fold of this benchmark {score} has a standard deviation of {number(seed)}"
    where = f"{'Fold' if len(document['folds']) == 1 else 'Folds'} {spans(document['folds'])}"
    return Text(f"{where}. {how}In brackets 95 % intervals{luck if seed else ''}.", style="dim")


def _rank(rank: float | None) -> str:
    return UNDEFINED if rank is None else f"{rank:g}"
