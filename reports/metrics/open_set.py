"""How well *new* individuals are told from known ones while known ones are still identified."""

import math

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whalebench.reports.metrics.ranking import (
    Floats,
    balanced_mean,
    best_identity_correct,
    first_candidate_correct,
    is_new,
    mean,
)

FALSE_ALARMS = {"dir_at_far_1": 0.01, "dir_at_far_5": 0.05, "dir_at_far_10": 0.1}
"""The detection rates that are reported, and the share of *new* photos that may raise a false alarm."""
MU = 0.5
"""How much known photos weigh in the normalised accuracy."""


def normalised_accuracy(known: float, new: float, mu: float = MU) -> float:
    """mu times the accuracy on known photos plus (1 - mu) times that on *new* ones; NaN where either is.

    Mendes Júnior et al. (2017), as wildlife-datasets has it.

    >>> normalised_accuracy(0.5, 1.0), normalised_accuracy(0.5, 1.0, mu=0.9)
    (0.75, 0.55)
    """
    return mu * known + (1 - mu) * new


def detection_rate(
    known_scores: Floats, correct: NDArray[np.bool_], new_scores: Floats, false_alarms: float
) -> float:
    """Share of known photos whose best identity is the truth and scores above the threshold of an alarm.

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
    return float((correct & (known_scores > threshold)).mean())


def alarms_allowed(false_alarms: float, photos: float) -> int:
    """How many of so many *new* photos may raise an alarm: the share of them, rounded down.

    A product that is a whole number but for rounding counts as that number, as 0.29 * 100, which computes to
    28.999999999999996.

    >>> alarms_allowed(0.01, 99), alarms_allowed(0.01, 100), alarms_allowed(0.29, 100)
    (0, 1, 29)
    """
    return math.floor(false_alarms * photos + 1e-9)


def open_set_metrics(queries: pd.DataFrame) -> dict[str, float]:
    """Metrics of known and *new* photos from a per-query table by their keys; NaN where a kind is missing.

    `baks` and `baus`, balanced accuracy on known and on unknown samples, are those of AnimalCLEF 2025 and
    wildlife-datasets: each individual weighs the same. *New* photos that name none count as one individual
    for each encounter.
    """
    new = is_new(queries)
    first, best = first_candidate_correct(queries), -queries["new_score"].to_numpy(np.float64)
    correct = best_identity_correct(queries)
    on_known = balanced_mean(first[~new], queries.loc[~new, "truth"])
    on_new = balanced_mean(first[new], queries.loc[new, "cluster"])
    return {
        "baks": on_known,
        "baus": on_new,
        "baks_baus": math.sqrt(on_known * on_new),
        "normalised_accuracy": normalised_accuracy(mean(first[~new]), mean(first[new])),
    } | {
        key: detection_rate(best[~new], correct[~new], best[new], share)
        for key, share in FALSE_ALARMS.items()
    }
