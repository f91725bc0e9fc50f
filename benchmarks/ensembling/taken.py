"""How photos were taken: size, day and side, and how far two photos differ in that; never whom they show."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whalebench.benchmarks.ensembling.mixing import Floats

COLUMNS = ("width", "height", "date", "viewpoint")
"""All of the catalog that is looked at; an encounter is not, nor a box."""
DIFFERENCES = ("log width", "log height", "log area", "log aspect", "days between", "same viewpoint")
"""What is said of two photos; sizes are logarithms of the first's over the second's, as taken."""
DAY = 86400.0


@dataclass(frozen=True)
class Taken:
    """How some photos were taken; NaN or "" where the catalog does not say."""

    sizes: Floats
    """(photos, 2) width and height in pixels."""
    days: Floats
    """(photos,) days since 1970, with their part of the day."""
    viewpoints: NDArray[np.str_]
    """(photos,)"""


def taken_of(table: pd.DataFrame, images: Sequence[str]) -> Taken:
    """How those photos of a catalog were taken, in that order."""
    rows = table.set_index("image").loc[list(images), list(COLUMNS)]
    sizes = rows[["width", "height"]].to_numpy(np.float64)
    days = np.array([day_of(str(text)) for text in rows["date"]], np.float64)
    return Taken(np.where(sizes > 0, sizes, np.nan), days, rows["viewpoint"].to_numpy(np.str_))


def day_of(text: str) -> float:
    """Days since 1970 of a date of ISO 8601; NaN for none, and for one that names no day.

    >>> day_of("1970-01-02"), day_of("1970-01-02T12:00"), day_of("2024-05")
    (1.0, 1.5, nan)
    """
    if not re.match(r"\d{4}-?(\d{2}-?\d{2}|W)", text):
        return float("nan")
    when = datetime.fromisoformat(text)
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() / DAY


def differences(one: Taken, other: Taken, rows: NDArray[np.int64], others: NDArray[np.int64]) -> Floats:
    """(pairs, DIFFERENCES) of photos at `rows` of the one and at `others` of the other; NaN is not known."""
    width, height = (np.log(one.sizes[rows]) - np.log(other.sizes[others])).T
    days = np.abs(one.days[rows] - other.days[others])
    here, there = one.viewpoints[rows], other.viewpoints[others]
    same = np.where((here == "") | (there == ""), np.nan, here == there)
    return np.stack([width, height, width + height, width - height, days, same], axis=1)
