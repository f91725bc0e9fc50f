"""Scores and embeddings of several networks as one: averages, rank voting, temperatures and shares."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from whalebench.benchmarks.core.arrays import normalise, top_columns
from whalebench.benchmarks.core.photos import UNKNOWN

VOTES = 20
"""Candidates that are voted for."""
TIE = 1e-3
"""What something between 0 and 1 counts beside votes: it decides between equal ones only."""


def votes(scores: NDArray[Any]) -> NDArray[np.float64]:
    """1 / rank of each photo's first 20 candidates, 0 of all others, (photos, identities) as the scores.

    Of equally good candidates the first column comes first.
    """
    found = np.zeros(scores.shape)
    best = top_columns(scores, VOTES)
    np.put_along_axis(found, best, np.broadcast_to(1 / np.arange(1, best.shape[1] + 1), best.shape), 1)
    return found


def voted(scores: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Scores (photos, identities) by rank voting, of each cycle's scores.

    Votes, 1 / rank among a cycle's first 20, put the individuals of a photo in order, equal ones by the mean
    score. How sure it is that it is anyone at all, by which *new* is told, votes do not say: the best score
    of a photo is its best mean score.
    """
    mean = np.mean(scores, axis=0, dtype=np.float64)
    lowest, highest = mean.min(axis=1, keepdims=True), mean.max(axis=1, keepdims=True)
    shares = (mean - lowest) / np.maximum(highest - lowest, 1e-12)
    found = np.mean([votes(one) for one in scores], axis=0) + TIE * shares
    level: NDArray[np.float32] = (found - found.max(axis=1, keepdims=True) + highest).astype(np.float32)
    return level


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


def average_scores(scores: Sequence[Scores]) -> Scores:
    """The mean (photos, identities) of the members' scores."""
    mean: Scores = np.mean(scores, axis=0)
    return mean


def side_by_side(embeddings: Sequence[NDArray[np.float32] | None]) -> NDArray[np.float32] | None:
    """Embeddings side by side (photos, dimensions), at length 1; None where there are none.

    Each is at length 1 before, so that a cosine is the mean of the members' cosines.
    """
    each = [normalise(one) for one in embeddings if one is not None]
    return normalise(np.concatenate(each, axis=1)) if each else None
