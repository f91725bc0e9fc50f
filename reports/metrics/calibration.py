"""What probabilities are worth: reliability diagrams, expected calibration error, conformal candidate sets.

A candidate set is a list of individuals that holds the true one with 95 % certainty: split conformal
prediction with the score of Sadinle, Lei & Wasserman (2019), "least ambiguous set-valued classifiers", which
is one minus the probability of the truth. Sets are of known individuals; *new* is in none.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whalebench.reports.metrics.ranking import Floats, Integers, best_identity_correct, is_new, mean

MISCOVERAGE = 0.05
"""The share of known photos whose set may lack the true individual."""
BINS = 15
"""Bins of equal mass: each has as many photos, as far as equal confidences allow."""


@dataclass(frozen=True)
class Calibration:
    """How scores become probabilities; the default is the softmax of the scores as the method gives them."""

    temperature: float = 1.0
    """What the scores are divided by. Log probabilities divided by it are probabilities to the power of one
    over it."""
    epsilon: float = 0.0
    """The share of each row that all individuals get alike, also those a method gives next to nothing."""

    def probabilities(self, scores: NDArray[np.float32]) -> Floats:
        """Rows of probabilities (photos, identities), one in all, in the order of the scores."""
        rows = powers(scores, self.temperature)
        rows *= (1 - self.epsilon) / rows.sum(axis=1, keepdims=True)
        rows += self.epsilon / rows.shape[1]
        return rows


UNCALIBRATED = Calibration()
"""The softmax of scores as they are; that of cosines is nearly uniform."""


def calibration_of(chosen: Mapping[str, object]) -> Calibration | None:
    """The calibration that a record's `chosen` names; None where it names none. Old ones have no epsilon."""
    temperature, epsilon = chosen.get("temperature"), chosen.get("epsilon", 0.0)
    if not isinstance(temperature, int | float) or not isinstance(epsilon, int | float):
        return None
    return Calibration(float(temperature), float(epsilon)) if temperature > 0 and 0 <= epsilon < 1 else None


def powers(scores: NDArray[np.float32], temperature: float) -> Floats:
    """exp((score - best of its row) / temperature) of scores (photos, identities); the best ones are 1."""
    rows = scores.astype(np.float64)  # worked on in place: there may be 5,000 x 5,000 of them
    rows -= rows.max(axis=1, keepdims=True)
    rows /= temperature
    np.exp(rows, out=rows)
    return rows


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
    rank = math.ceil((len(probabilities) + 1) * (1 - miscoverage) - 1e-9)  # whole but for rounding is whole
    return float(np.sort(probabilities)[-rank]) if 0 < rank <= len(probabilities) else math.nan


def candidate_sets(probabilities: Floats, threshold: float) -> NDArray[np.bool_]:
    """Who is in the set of each photo, (photos, identities), of probabilities of the same shape.

    All at the threshold or above; the most likely individual always, as an empty list helps nobody: that
    can only raise the coverage.

    >>> candidate_sets(np.array([[0.6, 0.3, 0.1], [0.4, 0.3, 0.3]]), 0.5).tolist()
    [[True, False, False], [True, False, False]]
    """
    sets: NDArray[np.bool_] = probabilities >= np.minimum(threshold, probabilities.max(axis=1))[:, None]
    return sets


def set_threshold(queries: pd.DataFrame) -> float | None:
    """The threshold by a per-query table of valid; None where too few of its photos are known."""
    of_truth = queries["probability"].to_numpy(np.float64)
    threshold = conformal_threshold(of_truth[~np.isnan(of_truth)])
    return None if math.isnan(threshold) else threshold


def set_metrics(queries: pd.DataFrame, new: NDArray[np.bool_]) -> dict[str, float]:
    """Of known photos, the share whose set holds the truth and the mean size of sets; NaN without sets.

    `new` says of which photos the truth is *new*, (queries,).
    """
    sizes = queries["set_size_95"].to_numpy(np.float64)
    return {"coverage_95": mean(queries["covered_95"]), "set_size_95": mean(sizes[~new])}


def equal_mass_bins(confidence: Floats, bins: int = BINS) -> Integers:
    """The bin of each photo (photos,), from 0; photos of equal confidence share one, whatever their order.

    >>> equal_mass_bins(np.array([0.9, 0.2, 0.5, 0.5]), bins=2).tolist()
    [1, 0, 0, 0]
    """
    below = np.searchsorted(np.sort(confidence), confidence, side="left")
    places: Integers = below.astype(np.int64) * bins // max(1, len(confidence))
    return places


def reliability_of(confidence: Floats, correct: Floats, bins: int = BINS) -> dict[str, list[float]]:
    """Mean `confidence`, `accuracy` and `count` of photos of each bin that has any, in rising order.

    `confidence` (photos,) is the probability of the best individual, `correct` 1 where it is the truth,
    else 0.

    >>> reliability_of(np.array([0.9, 0.5, 0.7, 0.5]), np.array([1.0, 0.0, 1.0, 1.0]), bins=2)
    {'confidence': [0.5, 0.8], 'accuracy': [0.5, 1.0], 'count': [2, 2]}
    """
    bin_of = equal_mass_bins(confidence, bins)
    members = [bin_of == each for each in np.unique(bin_of)]
    return {
        "confidence": [float(confidence[photos].mean()) for photos in members],
        "accuracy": [float(correct[photos].mean()) for photos in members],
        "count": [int(photos.sum()) for photos in members],
    }


def reliability(queries: pd.DataFrame) -> dict[str, list[float]]:
    """`reliability_of` the known photos of a per-query table, *new* left aside as a candidate."""
    known = ~is_new(queries)
    confidence = queries["confidence"].to_numpy(np.float64)
    return reliability_of(confidence[known], best_identity_correct(queries)[known])


def calibration_error(bins: Mapping[str, Sequence[float]]) -> float:
    """Expected calibration error: the mean distance of accuracy and confidence, bins weighing by photos.

    NaN without photos. Of the best individual only (Naeini, Cooper & Hauskrecht, 2015; Guo et al., 2017), and
    with bins of equal mass, which are less biased than those of equal width (Roelofs et al., 2022).

    >>> calibration_error({"confidence": [0.5, 0.75], "accuracy": [0.5, 1.0], "count": [6, 2]})
    0.0625
    """
    photos = math.fsum(bins["count"])
    if not photos:
        return math.nan
    rows = zip(bins["confidence"], bins["accuracy"], bins["count"], strict=True)
    return math.fsum(abs(accuracy - confidence) * count for confidence, accuracy, count in rows) / photos
