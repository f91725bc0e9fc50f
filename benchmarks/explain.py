"""Why a run scores as it does: where it looks, and what is left of its score without background or animal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from whalebench import WhalebenchError
from whalebench.benchmarks.explaining.choosing import choose_photos, named_photos
from whalebench.benchmarks.explaining.heat import HeatPhoto, check_picture, draw_heat
from whalebench.benchmarks.explaining.occlusion import Occlusion, occlude
from whalebench.benchmarks.explaining.regions import find_regions
from whalebench.benchmarks.explaining.shortcuts import calibration, diagnose
from whalebench.benchmarks.judging.selection import Judge
from whalebench.benchmarks.progress import SILENT, Progress
from whalebench.benchmarks.record import Diagnosis, read_diagnosis, read_predictions, write_diagnosis
from whalebench.benchmarks.runs.finished import find_run
from whalebench.benchmarks.runs.restored import Restored, restore_run
from whalebench.benchmarks.views import NEW
from whalebench.benchmarks.workspace import Workspace

MOST_PHOTOS = 64
SMALLEST_BOX, LARGEST_BOX = 0.04, 0.5


@dataclass(frozen=True)
class Explanation:
    """What `whalebench explain` found."""

    run: str
    diagnosis: Diagnosis
    picture: Path
    shown: list[dict[str, Any]]
    """One row a photo of the picture."""

    def document(self) -> dict[str, Any]:
        """The same as one JSON document."""
        found = {"run": self.run, **self.diagnosis.model_dump(mode="json")}
        return found | {"picture": str(self.picture), "shown": self.shown}


def explain(
    run: str,
    workspace: Workspace,
    judge: Judge,
    progress: Progress = SILENT,
    *,
    photos: int = 8,
    images: Sequence[str] = (),
    box: float = 0.15,
    out: Path | None = None,
    force: bool = False,
) -> Explanation:
    """The diagnosis of a run, kept beside its record, and a picture of where it looks.

    The picture shows `images`, or so many known test photos from the best to the worst ranked, half of them
    wrong; its box hides `box` of a photo's width and height at a time. A diagnosis that is there is read, not
    repeated, unless force. Raises WhalebenchError for what cannot be explained.
    """
    _check(photos, box)
    folder = find_run(run, workspace)
    picture = out or workspace.reports / f"explain-{folder.name}.png"
    check_picture(picture)
    restored = restore_run(run, workspace, progress)
    _refuse_transductive(restored)
    queries, catalog = read_predictions(folder), restored.benchmark.catalog
    chosen = named_photos(images, queries, catalog) if images else choose_photos(queries, photos)
    diagnosis = None if force else read_diagnosis(folder)
    if diagnosis is None:
        diagnosis = diagnose(restored, judge, progress)
        write_diagnosis(folder, diagnosis)
    progress.stage("occlude")
    rows, drawn = [], []
    for index in chosen:
        row, photo = _explain_photo(restored, queries.iloc[index], index, box)
        rows.append(row)
        drawn.append(photo)
        progress.advance(len(rows), len(chosen))
    draw_heat(drawn, picture, f"{restored.record.run}: red where hiding the photo costs, blue where it helps")
    return Explanation(restored.record.run, diagnosis, picture, rows)


def _explain_photo(
    restored: Restored, query: pd.Series[Any], index: int, box: float
) -> tuple[dict[str, Any], HeatPhoto]:
    """A row of the answer and one of the picture."""
    views, table = restored.views, restored.benchmark.catalog.table
    identities, truth = views.train.identities, str(query["truth"])
    # A new individual has no column: then it is asked what speaks for the best candidate.
    followed = int(restored.scores[index].argmax()) if truth == NEW else identities.index(truth)
    found = occlude(
        restored.method,
        views.queries()["test"].select([index]),
        followed,
        calibration(restored),
        side=box,
        region=find_regions(views.annotated["test"].select([index])),
    )
    row = {
        "image": str(query["image"]),
        "truth": truth,
        "rank": None if np.isnan(query["rank"]) else int(query["rank"]),
        "followed": identities[followed],
        "largest_drop": found.largest,
        "on_animal": found.on_animal,
        "animal": found.animal,
    }
    height, width = (int(side) for side in views.test.shapes[index])
    path = str(table["path"].iloc[views.test.rows[index]])
    rank = "unranked" if row["rank"] is None else f"rank {row['rank']}"
    title = f"{row['image']}    {truth}, {rank}" + (f", as {row['followed']}" if truth == NEW else "")
    return row, HeatPhoto(path, (height, width), found.heat, title, _in_words(found))


def _in_words(found: Occlusion) -> str:
    """What matters in a photo."""
    said = f"hiding one place costs up to {found.largest:.2f} of log probability"
    if found.on_animal is None or found.animal is None:
        return said
    return f"{said}; {found.on_animal:.0%} of what matters is on the animal, {found.animal:.0%} of the photo"


def _refuse_transductive(restored: Restored) -> None:
    if restored.method.transductive:
        raise WhalebenchError(
            f"{restored.record.method} scores photos with the help of the others, so none can be altered "
            f"alone: explain a run that is not transductive."
        )


def _check(photos: int, box: float) -> None:
    if not 1 <= photos <= MOST_PHOTOS:
        raise WhalebenchError(f"--photos {photos} cannot be shown: give a number from 1 to {MOST_PHOTOS}.")
    if not SMALLEST_BOX <= box <= LARGEST_BOX:
        raise WhalebenchError(
            f"--box {box} cannot slide: give a share of a photo's side from {SMALLEST_BOX} to {LARGEST_BOX}."
        )
