"""Runs as the tables take them: records with the per-query tables that are whole and of the same photos."""

from collections import Counter
from collections.abc import Mapping, Sequence
from math import isclose, isnan, nan
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from whalebench import WhalebenchError
from whalebench.benchmarks.record import LATER, RunRecord, read_diagnosis, read_predictions
from whalebench.reports.metrics import summarize

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
    lacking = sorted(COLUMNS - set(queries.columns))
    if lacking or not len(queries) or queries["image"].duplicated().any():
        what = f"lack {', '.join(lacking)}" if lacking else "are empty or hold a photo twice"
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
