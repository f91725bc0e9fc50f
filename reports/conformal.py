"""Candidate sets: lists of individuals that hold the right one with 95 % certainty.

Split conformal prediction with the score of Sadinle, Lei & Wasserman (2019), "least ambiguous set-valued
classifiers": one minus the probability of the truth. Sets are of known individuals; *new* is in none.
"""

import math

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whalebench.reports.averages import mean
from whalebench.reports.ranking import NEW, Floats

MISCOVERAGE = 0.05
"""The share of known photos whose set may lack the right individual."""


def conformal_threshold(probabilities: Floats, miscoverage: float = MISCOVERAGE) -> float:
    """The probability that an individual must have to be in a set, by photos with known truths.

    `probabilities` (photos,) are those of the truths of n photos; of these the ceil((n + 1)(1 - miscoverage))
    highest reach it. A further photo, exchangeable with them, has its truth in its set with at least that
    certainty. NaN where n is too small for any finite rank: below 19 at 5 %.

    >>> conformal_threshold(np.array([0.9, 0.2, 0.6, 0.7]), miscoverage=0.4)
    0.6
    >>> conformal_threshold(np.array([0.9, 0.2, 0.6, 0.7]), miscoverage=0.1)
    nan
    """
    rank = math.ceil((len(probabilities) + 1) * (1 - miscoverage) - 1e-9)  # a hair above a whole is the whole
    return float(np.sort(probabilities)[-rank]) if 0 < rank <= len(probabilities) else math.nan


def candidate_sets(probabilities: Floats, threshold: float) -> NDArray[np.bool_]:
    """Who is in the set of each photo, (photos, identities), of probabilities of the same shape.

    All at the threshold or above; the most likely individual always, as an empty list helps nobody: that
    can only raise the coverage.

    >>> candidate_sets(np.array([[0.6, 0.3, 0.1], [0.4, 0.3, 0.3]]), 0.5).tolist()
    [[True, False, False], [True, False, False]]
    """
    found: NDArray[np.bool_] = probabilities >= np.minimum(threshold, probabilities.max(axis=1))[:, None]
    return found


def set_threshold(queries: pd.DataFrame) -> float | None:
    """The threshold by a per-query table of valid; None where too few of its photos are known."""
    known = queries["probability"].to_numpy(np.float64)
    threshold = conformal_threshold(known[~np.isnan(known)])
    return None if math.isnan(threshold) else threshold


def set_metrics(queries: pd.DataFrame) -> dict[str, float]:
    """Of known photos, the share whose set holds the right individual and the mean size; NaN without sets."""
    known = (queries["truth"] != NEW).to_numpy()
    return {
        "coverage_95": mean(queries["covered_95"]),
        "set_size_95": mean(queries["set_size_95"].to_numpy(np.float64)[known]),
    }
