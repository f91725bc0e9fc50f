"""The shape of a leaderboard: tables of sections of rows, what is shown of runs and nothing else.

How well animals were found: what the record says of it, and the histograms of its per-query columns.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from whalebench.reports.metrics.ranking import Floats
from whalebench.reports.over_folds import Summary

BINS = 20
TITLES = {"box_iou": "box IoU", "mask_iou": "mask IoU", "landmark_error": "landmark error"}
"""The columns of a per-query table that are drawn."""
OVERLAPS = ("box_iou", "mask_iou")
"""Those that go from 0 to 1 and have a mean; the others have a median and no upper end."""
FARTHEST = 0.99
"""The quantile at which the axis of the others ends."""


@dataclass(frozen=True)
class Histogram:
    """How often each size of one measure occurs over the test photos of one run."""

    key: str
    counts: tuple[int, ...]
    """In bins of the same width from 0 to `limit`."""
    limit: float
    middle: float
    """The mean of an overlap, else the median."""
    beyond: int
    """Photos above `limit`, in no bin."""

    @property
    def photos(self) -> int:
        """How many photos are measured."""
        return sum(self.counts) + self.beyond


def histograms(queries: pd.DataFrame) -> tuple[Histogram, ...]:
    """A histogram for each measure that the per-query table has a defined value of."""
    columns = {key: queries[key].dropna().to_numpy(np.float64) for key in TITLES if key in queries}
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
    contestant: str
    """The method, with the settings in which its runs in the table differ."""
    location: dict[str, Any]
    """How well the animals of test were found, as in the record; empty where it was not looked for them."""
    diagnosis: dict[str, float | None] | None
    """MAP@5 by what was done to the photos; None where `whalebench explain` has not looked at the run."""
    calibration: dict[str, Any] = field(default_factory=dict)
    """What calibration changed, as in the record; empty where the record does not say."""
    histograms: tuple[Histogram, ...] = ()
    problem: str = ""
    """Why this row has no interval and no rank; empty where it has, and where it does not fit."""
    unfit: str = ""
    """What the benchmark lacks for this method; then it has no metrics."""
    seen: str = ""
    """Which weights it starts from were trained on the benchmark's photos, as a sentence; empty for none."""


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
    summaries: tuple[Summary, ...] = ()
    """Over folds and seeds, where there are several."""


@dataclass(frozen=True)
class Leaderboard:
    """All tables, and a sentence for each run that could not be read."""

    tables: tuple[Table, ...]
    problems: tuple[str, ...] = field(default=())

    @property
    def rows(self) -> list[Row]:
        """Every row, in the order of the tables."""
        return [row for table in self.tables for section in table.sections for row in section.rows]
