"""How well *new* individuals are told from known ones while known ones are still identified."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whalebench.reports.metrics.ranking import NEW, Floats, balanced_mean, geometric_mean, mean

FALSE_ALARMS = {"dir_at_far_1": 0.01, "dir_at_far_5": 0.05, "dir_at_far_10": 0.1}
"""The detection rates that are reported, and the share of *new* photos that may raise a false alarm."""
MU = 0.5
"""How much known photos weigh in the normalised accuracy."""


def baks(right: Sequence[float] | Floats, individuals: Sequence[str]) -> float:
    """Balanced accuracy on known samples: the mean over individuals of the share of photos answered right.

    `right` (known photos,) is 1 where the first candidate is the truth; NaN if there is none. As AnimalCLEF
    2025 and wildlife-datasets have it.

    >>> baks([1.0, 1.0, 0.0], ["ann", "ann", "bob"])
    0.5
    """
    return balanced_mean(right, individuals)


def baus(called_new: Sequence[float] | Floats, individuals: Sequence[str]) -> float:
    """Balanced accuracy on unknown samples: the mean over *new* individuals of the share called *new*.

    `called_new` (new photos,) is 1 where the first candidate is *new*; NaN if there is none. Photos that name
    no individual count as one for each encounter.

    >>> baus([1.0, 0.0, 1.0], ["encounter 1", "encounter 1", "zoe"])
    0.75
    """
    return balanced_mean(called_new, individuals)


def normalised_accuracy(known: float, new: float, mu: float = MU) -> float:
    """mu times the accuracy on known photos plus (1 - mu) times that on *new* ones; NaN where either is.

    Mendes Júnior et al. (2017), as wildlife-datasets has it.

    >>> normalised_accuracy(0.5, 1.0), normalised_accuracy(0.5, 1.0, mu=0.9)
    (0.75, 0.55)
    """
    return mu * known + (1 - mu) * new


def detection_rate(
    known_scores: Floats, right: NDArray[np.bool_], new_scores: Floats, false_alarms: float
) -> float:
    """Share of known photos whose best identity is right and scores above the threshold of an alarm.

    Scores are each photo's best, (known,) and (new,). The threshold is the lowest at which at most the share
    `false_alarms` of *new* photos scores above it: none of fewer than 1 / false_alarms. NaN without both
    kinds. Detection and identification rate at rank 1, Phillips et al. (2011).

    >>> known, new = np.array([0.9, 0.8, 0.4]), np.array([0.5, 0.3, 0.2, 0.1])
    >>> detection_rate(known, np.array([True, False, True]), new, 0.0)
    0.3333333333333333
    >>> detection_rate(known, np.array([True, False, True]), new, 0.25)
    0.6666666666666666
    """
    if not len(known_scores) or not len(new_scores):
        return math.nan
    allowed = alarms_allowed(false_alarms, len(new_scores))
    threshold = np.sort(new_scores)[::-1][allowed]
    return float((right & (known_scores > threshold)).mean())


def alarms_allowed(false_alarms: float, photos: float) -> int:
    """How many of so many *new* photos may raise an alarm; a share below 1 that is a hair short is not.

    >>> alarms_allowed(0.01, 99), alarms_allowed(0.01, 100), alarms_allowed(0.07, 100)
    (0, 1, 7)
    """
    return math.floor(false_alarms * photos + 1e-9)


def best_is_right(queries: pd.DataFrame) -> NDArray[np.bool_]:
    """Whether the truth is the best identity, *new* left aside (queries,); False where the truth is *new*."""
    rank, first_is_new = queries["rank"].to_numpy(), (queries["candidate_1"] == NEW).to_numpy()
    right: NDArray[np.bool_] = (queries["truth"] != NEW).to_numpy() & (rank == 1 + first_is_new)
    return right


def first_is_right(queries: pd.DataFrame) -> Floats:
    """1 where the first candidate is the truth, *new* among them, else 0, (queries,).

    NaN for *new* photos where *new* was no candidate.
    """
    top_1 = queries["top_1"].to_numpy(np.float64)
    return np.where(queries["rank"].isna(), np.nan, top_1)


def open_set_metrics(queries: pd.DataFrame) -> dict[str, float]:
    """Every metric of this file of a per-query table by its key; what needs *new* is NaN where none is."""
    is_new = (queries["truth"] == NEW).to_numpy()
    first, best = first_is_right(queries), -queries["new_score"].to_numpy(np.float64)
    right = best_is_right(queries)
    known = baks(first[~is_new], queries.loc[~is_new, "truth"].tolist())
    new = baus(first[is_new], queries.loc[is_new, "cluster"].tolist())
    return {
        "baks": known,
        "baus": new,
        "baks_baus": geometric_mean(known, new),
        "normalised_accuracy": normalised_accuracy(mean(first[~is_new]), mean(first[is_new])),
    } | {
        key: detection_rate(best[~is_new], right[~is_new], best[is_new], share)
        for key, share in FALSE_ALARMS.items()
    }
