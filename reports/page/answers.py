"""What the runs of a board answered, photo by photo, and the photos that they are about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from whalebench import WhalebenchError, one_line
from whalebench.benchmarks.core.arrays import columns_of
from whalebench.benchmarks.core.catalog import NAMELESS, Catalog, read_catalog, regions_of
from whalebench.benchmarks.core.record import REPEAT, RunRecord, read_matches, read_predictions
from whalebench.reports.metrics.calibration import calibration_of
from whalebench.reports.metrics.ranking import CANDIDATES, NEW, Floats
from whalebench.reports.page.thumbnails import View, Window

PLACES = range(1, CANDIDATES + 1)
CANDIDATE, SCORE, PROBABILITY, NEAREST = (
    tuple(f"{name}_{place}" for place in PLACES) for name in ("candidate", "score", "probability", "nearest")
)
MATRIX = tuple(f"window_{letter}" for letter in "abcdef")
WINDOW = (*MATRIX, "window_height", "window_width")
TEXTS = ("image", "identity", "truth", "viewpoint", *CANDIDATE, *NEAREST)
NUMBERS = ("rank", "average_precision_at_5", "probability", "confidence", "new_score", *SCORE, *WINDOW)


def read_answers(folder: Path, record: RunRecord) -> pd.DataFrame:
    """A row a test photo: TEXTS, "" where not known, and NUMBERS and PROBABILITY, NaN where not known.

    Raises WhalebenchError for a damaged run.
    """
    answers = read_predictions(folder, columns={*TEXTS, *NUMBERS}, record=record)
    matches = read_matches(folder, record)
    if matches is not None and "image" in matches and matches["image"].equals(answers["image"]):
        answers = answers.join(matches[[name for name in matches if name in (*NEAREST, *WINDOW)]])
    absent = pd.Series(np.nan, answers.index)
    try:
        numbers = {name: answers.get(name, absent).astype(np.float64) for name in NUMBERS}
    except (TypeError, ValueError) as error:
        raise WhalebenchError(
            f"The answers of {record.run} are no numbers ({one_line(error, 80)}): {REPEAT}."
        ) from error
    texts = {name: _texts(answers.get(name, absent)) for name in TEXTS}
    complete = pd.DataFrame(texts | numbers)
    complete[list(PROBABILITY)] = candidate_probabilities(complete, record)
    return complete


def _texts(values: pd.Series[Any]) -> pd.Series[Any]:
    cells = values.astype(object)  # single cells of pandas' own texts take a hundred times as long to read
    return cells.where(values.notna(), "").map(str).astype(object)


def candidate_probabilities(answers: pd.DataFrame, record: RunRecord) -> Floats:
    """The calibrated probability of each candidate, (queries, CANDIDATES); NaN for *new* and for none.

    That of the best individual is kept, those of the others follow from their scores. Of a run that says
    nothing of its calibration that of the best one alone is known.
    """
    named = ~answers[list(CANDIDATE)].isin(("", NEW)).to_numpy()
    scores = np.where(named, answers[list(SCORE)].to_numpy(np.float64), np.nan)
    calibration, identities = calibration_of(record.chosen), record.counts.get("identities", 0)
    confidence = answers[["confidence"]].to_numpy(np.float64)
    best = np.fmax.reduce(scores, axis=1, keepdims=True)
    if calibration is None or not identities:
        return np.where(scores == best, confidence, np.nan)
    floor, share = calibration.epsilon / identities, np.exp((scores - best) / calibration.temperature)
    return np.asarray((confidence - floor) * share + floor, np.float64)


class PhotoFacts(NamedTuple):
    """What a catalog says of a photo; texts are "" where not known."""

    identity: str = ""
    viewpoint: str = ""
    encounter: str = ""
    date: str = ""
    credit: str = ""
    """Whose it is, and its licence."""


@dataclass(frozen=True)
class Photos:
    """The photos of a benchmark as far as its catalog is in the workspace, else nothing of any."""

    catalog: Catalog | None = None
    problem: str = ""
    """Why there is no catalog, a sentence; else empty."""

    def facts(self, image: str) -> PhotoFacts:
        """What is known of a photo."""
        return self._facts.get(image, PhotoFacts())

    def view(self, image: str, window: Window | None = None, heat: Any = None) -> View | None:
        """How to see a photo, through a window or under a heat; None for one that is not in the catalog."""
        place = self._place.get(image)
        if place is None or self.catalog is None:
            return None
        path, content, file_digest, region = self._files[place]
        return View(image, path, content, file_digest, region, window, heat)

    def of(self, individual: str) -> list[str]:
        """The photos of an individual, by name."""
        return self._images_of.get(individual, [])

    @cached_property
    def _place(self) -> dict[str, int]:
        return columns_of(self.catalog.table["image"]) if self.catalog else {}

    @cached_property
    def _files(self) -> list[tuple[Any, ...]]:
        assert self.catalog is not None
        table = self.catalog.table
        names = ("path", "content_digest", "file_digest")
        return list(zip(*(table[name] for name in names), regions_of(table), strict=True))

    @cached_property
    def _facts(self) -> dict[str, PhotoFacts]:
        if self.catalog is None:
            return {}
        table = self.catalog.table
        absent = pd.Series("", table.index)
        whose = (table.get(name, absent) for name in ("rightsholder", "licence"))
        credits = [", ".join(filter(None, said)) for said in zip(*whose, strict=True)]
        columns = (table[name] for name in PhotoFacts._fields[:-1])
        facts = map(PhotoFacts, *columns, credits)
        return dict(zip(table["image"], facts, strict=True))

    @cached_property
    def _images_of(self) -> Mapping[str, list[str]]:
        if self.catalog is None:
            return {}
        table = self.catalog.table
        named = table[~table["identity"].isin(NAMELESS)]
        return {str(name): images.tolist() for name, images in named.groupby("identity")["image"]}


def open_photos(benchmarks: Path, record: RunRecord) -> Photos:
    """The photos that a run was made with, in that folder of benchmarks."""
    name = record.benchmark.partition("@")[0]
    folder = benchmarks / Path(name).name  # a record from elsewhere leads to no other folder
    if not (folder / "catalog.json").is_file():
        return Photos(
            problem=f"The photos of {name} are not in this workspace, so none is shown: import them there "
            f"under that name."
        )
    try:
        catalog = read_catalog(folder)
    except WhalebenchError as error:
        return Photos(problem=f"No photo of {name} is shown: {error}")
    if catalog.digest != record.catalog_digest:
        now, then = catalog.digest[:16], record.catalog_digest[:16]
        return Photos(
            problem=f"No photo of {name} is shown: its catalog in this workspace is not the one that its "
            f"runs were made with ({now} now, {then} then); bring that one back."
        )
    return Photos(catalog)
