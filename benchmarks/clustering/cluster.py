"""`whalebench cluster`: new photos grouped by a run's method, who is together and how many individuals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whalebench import WhalebenchError
from whalebench.benchmarks.clustering.groups import Named, PairModel, Places, choose_on_valid
from whalebench.benchmarks.clustering.reviewed import Look, Review, Said, count_individuals, reach, read_said
from whalebench.benchmarks.core.arrays import normalise, rows_by_label
from whalebench.benchmarks.core.catalog import NOT_IDENTIFIED
from whalebench.benchmarks.core.progress import SILENT, Progress
from whalebench.benchmarks.core.record import SCORES, RunRecord, find_run, plain, read_arrays, read_record
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.decisions import COLUMNS, on_photos, read_decisions
from whalebench.benchmarks.predicting.predict import Predictions, predict
from whalebench.benchmarks.registry import load_benchmark_of
from whalebench.benchmarks.running.folds import open_fold
from whalebench.reports.metrics.grouping import Count

LOOKS = 50
"""How many drawn photos a table of pairs has."""
ENOUGH = 0.95
SHORT = (
    "Pairs to review are short lists: on valid they hold the individual of only {:.0%} of the photos that "
    "have an earlier one, so a number of individuals by them is likely too high."
)
"""Said where lists of candidates reach less far than that."""


@dataclass(frozen=True)
class Clustering:
    """Photos in groups, and what they rest on."""

    record: RunRecord
    """Of the run."""
    model: PairModel
    table: pd.DataFrame
    """A row a photo: `photo`, `encounter`, its `group` from 1, how many `photos` that has, and the mean
    `probability` that it shows the same individual as the others there, NaN for one alone."""
    count: Count
    pairs: pd.DataFrame
    """Of the columns of decisions, pairs of photos to look at next: of each photo up to the first *same*."""
    reach: float
    """On valid, how often the photos that one is held against show its individual, see `reach`."""
    problems: tuple[str, ...]
    """What could not be read, and what is to be known of the number of individuals."""

    def document(self) -> dict[str, Any]:
        """All of it but the pairs, as JSON holds it."""
        return {
            "run": self.record.run,
            "photos": len(self.table),
            "groups": int(self.table["group"].max()) if len(self.table) else 0,
            "individuals": plain(self.count._asdict()),
            "threshold": self.model.threshold,
            "reach": plain(self.reach),
            "problems": list(self.problems),
            "table": [plain(row) for row in self.table.to_dict("records")],
        }


def cluster(
    run: str,
    paths: Sequence[Path],
    workspace: Workspace,
    progress: Progress = SILENT,
    *,
    decisions: Path | None = None,
    device: str = "auto",
) -> Clustering:
    """Groups the photos by the embeddings of a run's method, and by what a table of decisions says of them.

    Raises WhalebenchError for a run whose method embeds no photos, or whose valid part has nothing to choose
    by, and for decisions that are of other photos or contradict each other.
    """
    folder = find_run(run, workspace)
    if members := read_record(folder).members:
        raise WhalebenchError(
            f"The run {folder.name} is made of finished runs and keeps no embeddings of its own: choose one "
            f"of {', '.join(members)}."
        )
    made = predict(run, paths, workspace, progress, by="photo", device=device)
    if made.embeddings is None:
        raise WhalebenchError(
            f"The run {folder.name} embeds no photos, so none can be compared with another: choose a run "
            f"of a method that does, such as arcface."
        )
    valid = _valid_of(made.record, folder, workspace, progress)
    model = _model_of(made.record, valid)
    photos = tuple(made.photos["photo"])
    said = _said(decisions, made) if decisions else Said.nothing(len(photos))
    # The sample is drawn by groups that no decision has touched: it must not change while it is decided.
    review = Review(made.embeddings, model.groups(made.embeddings), photos)
    groups = model.groups(made.embeddings, said.together(), said.divided())
    rows = tuple(str(row) for row in range(len(valid.identities)))
    of_valid = reach(Review(valid.embeddings, model.groups(valid.embeddings), rows), valid.identities)
    return Clustering(
        made.record,
        model,
        _table(made.photos, made.embeddings, groups, model),
        count_individuals(review, said),
        _pairs(review, review.open_looks(said, LOOKS), made.photos, model, made.record.run),
        of_valid,
        (*made.problems, *([SHORT.format(of_valid)] if of_valid < ENOUGH else [])),
    )


def _said(file: Path, made: Predictions) -> Said:
    """What a file of decisions says of the photos; rows that nobody has decided are passed over."""
    table = made.photos.rename(columns={"photo": "image"}).assign(identity=NOT_IDENTIFIED)
    decisions = on_photos(file, read_decisions(file, open_rows=True), table)
    return read_said(file, decisions, tuple(table["image"]), made.identities)


def _valid_of(record: RunRecord, folder: Path, workspace: Workspace, progress: Progress) -> Named:
    """The run's valid photos that name an individual, with the embeddings that it kept of them."""
    arrays, names = read_arrays(folder / SCORES, ("valid_embeddings",), "names")
    answers = open_fold(load_benchmark_of(record, workspace, progress), record.fold).answers["valid"]
    if "valid_embeddings" not in arrays or tuple(names["valid"]) != answers.images:
        raise WhalebenchError(
            f"{folder / SCORES} has no embeddings of the valid photos to choose a threshold by: repeat the "
            f"run with --force."
        )
    return Named.of(arrays["valid_embeddings"], answers)


def _model_of(record: RunRecord, valid: Named) -> PairModel:
    """What the valid photos say of pairs."""
    model = choose_on_valid(valid)
    if model is None:
        raise WhalebenchError(
            f"The valid photos of {record.run} show no individual twice, or only one, so there is nothing to "
            f"choose a threshold by: choose a run on another fold."
        )
    return model


def _table(
    photos: pd.DataFrame, embeddings: NDArray[np.float32], groups: Places, model: PairModel
) -> pd.DataFrame:
    unit, probability = normalise(embeddings), np.full(len(groups), np.nan)
    for rows in rows_by_label(groups).values():
        if len(rows) > 1:
            of_pairs = model.probability(unit[rows] @ unit[rows].T)
            probability[rows] = (of_pairs.sum(axis=1) - of_pairs.diagonal()) / (len(rows) - 1)
    return pd.DataFrame(
        {
            "photo": list(photos["photo"]),
            "encounter": list(photos["encounter"]),
            "group": groups + 1,
            "photos": np.bincount(groups)[groups] if len(groups) else groups,
            "probability": probability,
        }
    )


def _pairs(
    review: Review, looks: Sequence[Look], photos: pd.DataFrame, model: PairModel, run: str
) -> pd.DataFrame:
    unit = normalise(review.embeddings)
    rows: list[Mapping[str, Any]] = [
        {
            "photo": review.names[look.photo],
            "encounter": photos["encounter"].iloc[look.photo],
            "decision": "",
            "individual": review.names[other],
            "probability": round(float(model.probability(unit[look.photo] @ unit[other])), 4),
            "run": run,
            "when": "",
        }
        for look in looks
        for other in look.earlier
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))
