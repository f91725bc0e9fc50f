"""How well animals were found: what the record says of it, and the histograms of its per-query columns."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from whalebench.reports.ranking import Floats

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
