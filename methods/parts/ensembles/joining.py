"""How scores of several methods become one: temperatures and shares."""

from __future__ import annotations

from itertools import combinations_with_replacement

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from whalebench.benchmarks.photos import UNKNOWN

Scores = NDArray[np.float32]
Shares = tuple[float, ...]
"""How much each member counts, one in all."""
QUARTERS = 4
"""Shares that valid chooses from are multiples of one of so many."""


def share_choices(members: int) -> list[Shares]:
    """Equal shares and all in quarters, one in all, those nearest to equal first.

    >>> share_choices(2)
    [(0.5, 0.5), (0.25, 0.75), (0.75, 0.25), (0.0, 1.0), (1.0, 0.0)]
    """
    dealt = combinations_with_replacement(range(members), QUARTERS)
    quarters = {tuple(each.count(place) / QUARTERS for place in range(members)) for each in dealt}
    equal = 1 / members
    return sorted(
        quarters | {(equal,) * members}, key=lambda each: (sum((share - equal) ** 2 for share in each), each)
    )


def temperature_of(scores: Scores, labels: NDArray[np.int64]) -> float:
    """The temperature at which scores (photos, identities) of known photos have the least log loss.

    Where none is known there is nothing to choose by, and it is the spread of the scores.
    """
    known = np.flatnonzero(labels != UNKNOWN)
    if not len(known):
        return max(float(scores.std()), 1e-6)
    seen, own = scores[known].astype(np.float64), labels[known]

    def log_loss(log_temperature: float) -> float:
        chances = log_softmax(seen / np.exp(log_temperature), axis=1)
        return -float(chances[np.arange(len(own)), own].mean())

    found = minimize_scalar(log_loss, bounds=(-7.0, 5.0), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))
