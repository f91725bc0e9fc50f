"""The metrics of a run from its per-query table, and one of embeddings as such, before any head or fusion.

Known photos are those whose individual is in the gallery; the open-set metrics say how well *new* individuals
are told from them while they are still identified. Every metric is in float64; what is undefined is NaN,
never 0.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whalebench import WhalebenchError
from whalebench.benchmarks.core.search import nearest_by_count
from whalebench.reports.metrics.calibration import set_metrics
from whalebench.reports.metrics.ranking import (
    Floats,
    Photos,
    balanced_mean,
    best_identity_correct,
    first_candidate_correct,
    is_new,
    mean,
    new_is_candidate,
    predicted_new,
)

FALSE_ALARMS = {"dir_at_far_1": 0.01, "dir_at_far_5": 0.05, "dir_at_far_10": 0.1}
"""The detection rates that are reported, and the share of *new* photos that may raise a false alarm."""
MU = 0.5
"""How much known photos weigh in the normalised accuracy."""


def summarize(queries: pd.DataFrame, photos: Photos | None = None) -> dict[str, float]:
    """Every metric of a per-query table by its key, NaN where it is undefined (none new, none known).

    `photos` are those of the table, where they are known from another run.
    """
    photos = photos or Photos(queries)
    new = photos.new
    precision, new_score = queries["average_precision_at_5"].to_numpy(), queries["new_score"].to_numpy()
    accuracy = accuracy_new(predicted_new(queries), new) if new_is_candidate(queries) else math.nan
    return (
        {
            "map_at_5": mean(precision),
            "top_1": mean(queries["top_1"]),
            "top_5": mean(queries["top_5"]),
            "log_loss": mean(queries["log_loss"]),
            "auroc_new": area_under_roc(new_score[new], new_score[~new]),
            "map_at_r": mean(queries["average_precision_at_r"]),
            "accuracy_new": accuracy,
            "map_at_5_known": mean(precision[~new]),
            "map_at_5_new": mean(precision[new]),
        }
        | open_set_metrics(queries, photos)
        | set_metrics(queries, new)
    )


def open_set_metrics(queries: pd.DataFrame, photos: Photos | None = None) -> dict[str, float]:
    """Metrics of known and *new* photos from a per-query table by their keys; NaN where a kind is missing.

    `baks` and `baus`, balanced accuracy on known and on unknown samples, are those of AnimalCLEF 2025 and
    wildlife-datasets: each individual weighs the same. *New* photos that name none count as one individual
    for each encounter.
    """
    photos = photos or Photos(queries)
    new = photos.new
    # The score of *new* is minus the best score of a photo.
    first, best = first_candidate_correct(queries), -queries["new_score"].to_numpy(np.float64)
    correct = best_identity_correct(queries)
    on_known = balanced_mean(first[~new], photos.individuals[~new])
    on_new = balanced_mean(first[new], photos.individuals[new])
    return {
        "baks": on_known,
        "baus": on_new,
        "baks_baus": math.sqrt(on_known * on_new),
        "normalised_accuracy": normalised_accuracy(mean(first[~new]), mean(first[new])),
    } | {
        key: detection_rate(best[~new], correct[~new], best[new], share)
        for key, share in FALSE_ALARMS.items()
    }


def area_under_roc(positive: NDArray[np.floating], negative: NDArray[np.floating]) -> float:
    """Share of (positive, negative) pairs where the positive scores higher, ties half; NaN without a pair.

    >>> area_under_roc(np.array([0.9, 0.5]), np.array([0.5, 0.1]))
    0.875
    """
    if not len(positive) or not len(negative):
        return math.nan
    ordered = np.sort(negative)
    below, up_to = (np.searchsorted(ordered, positive, side=side) for side in ("left", "right"))
    return float((below.sum() + up_to.sum()) / (2 * len(positive) * len(negative)))


def accuracy_new(predicted: NDArray[np.bool_], actual: NDArray[np.bool_]) -> float:
    """Balanced accuracy: mean of the shares of *new* and of known photos predicted as such; NaN without both.

    >>> accuracy_new(np.array([True, False, False]), np.array([True, True, False]))
    0.75
    """
    if actual.all() or not actual.any():
        return math.nan
    return float((predicted[actual].mean() + (~predicted[~actual]).mean()) / 2)


def normalised_accuracy(known: float, new: float, mu: float = MU) -> float:
    """mu times the accuracy on known photos plus (1 - mu) times that on *new* ones; NaN where either is.

    Mendes Júnior et al. (2017), as wildlife-datasets has it.

    >>> normalised_accuracy(0.5, 1.0), normalised_accuracy(0.5, 1.0, mu=0.9)
    (0.75, 0.55)
    """
    return mu * known + (1 - mu) * new


def detection_rate(known_scores: Floats, correct: Floats, new_scores: Floats, false_alarms: float) -> float:
    """Share of known photos whose best identity is the truth and scores above the threshold of an alarm.

    Scores are each photo's best, (known,) and (new,); `correct` is 1 where the identity is the truth, else 0.
    The threshold is the lowest at which at most the share `false_alarms` of *new* photos scores above it:
    none of fewer than 1 / false_alarms. NaN without both kinds. Detection and identification rate at rank 1,
    Phillips et al. (2011).

    >>> known, new = np.array([0.9, 0.8, 0.4]), np.array([0.5, 0.3, 0.2, 0.1])
    >>> detection_rate(known, np.array([1.0, 0.0, 1.0]), new, 0.0)
    0.3333333333333333
    >>> detection_rate(known, np.array([1.0, 0.0, 1.0]), new, 0.25)
    0.6666666666666666
    """
    if not len(known_scores) or not len(new_scores):
        return math.nan
    allowed = alarms_allowed(false_alarms, len(new_scores))
    threshold = np.sort(new_scores)[::-1][allowed]
    return float((correct * (known_scores > threshold)).mean())


def alarms_allowed(false_alarms: float, photos: float) -> int:
    """How many of so many *new* photos may raise an alarm: the share of them, rounded down.

    A product that is a whole number but for rounding counts as that number, as 0.29 * 100, which computes to
    28.999999999999996.

    >>> alarms_allowed(0.01, 99), alarms_allowed(0.01, 100), alarms_allowed(0.29, 100)
    (0, 1, 29)
    """
    return math.floor(false_alarms * photos + 1e-9)


def cmc(queries: pd.DataFrame, ranks: int = 20) -> list[float]:
    """Share of known queries whose truth has rank 1, at most 2, ... at most `ranks`; empty if none is known.

    The rank is the mean over the orders of tied identities: with two first ones it is 1.5, and not yet found.
    """
    rank = queries["rank"].to_numpy()[~is_new(queries)]
    return [float((rank <= place).mean()) for place in range(1, ranks + 1)] if len(rank) else []


def average_precision_at_r(
    embeddings_query: NDArray[np.floating],
    labels_query: Sequence[str] | NDArray[Any],
    embeddings_gallery: NDArray[np.floating],
    labels_gallery: Sequence[str] | NDArray[Any],
) -> Floats:
    """Average precision at R of each query by cosine; NaN where the gallery has no photo of its individual.

    R is the number of gallery photos of the query's individual; the precision at each right place among the
    nearest R, summed and divided by R ("A Metric Learning Reality Check", Musgrave et al. 2020). Of equally
    near photos the earlier in the gallery is first, as `top_k` ranks them. Embeddings (n, d) and (m, d), any
    length but finite; labels are names or numbers, both of one kind.

    >>> gallery = np.array([[1.0, 0.0], [0.9, 0.1], [0.8, 0.3], [0.0, 1.0]])
    >>> average_precision_at_r(np.array([[1.0, 0.0]]), ["a"], gallery, ["a", "b", "a", "b"]).tolist()
    [0.5]
    """
    query, gallery = _vectors(embeddings_query, "query"), _vectors(embeddings_gallery, "gallery")
    labels = np.concatenate([np.asarray(labels_query), np.asarray(labels_gallery)])
    codes = np.unique(labels, return_inverse=True)[1]
    codes_query, codes_gallery = codes[: len(labels_query)], codes[len(labels_query) :]
    if len(codes_query) != len(query) or len(codes_gallery) != len(gallery):
        raise WhalebenchError("Embeddings and labels differ in number: hand over one label a row.")
    relevant = np.bincount(codes_gallery, minlength=len(codes) + 1)[codes_query]
    result = np.full(len(query), np.nan)
    for rows, nearest, _ in nearest_by_count(query, gallery, relevant):
        for row, photos in zip(rows, nearest, strict=True):
            matches = codes_gallery[photos[: relevant[row]]] == codes_query[row]
            precision = np.cumsum(matches) / np.arange(1, len(matches) + 1)
            result[row] = (precision * matches).sum() / len(matches)
    return result


def _vectors(embeddings: NDArray[np.floating], name: str) -> NDArray[np.floating]:
    values = np.asarray(embeddings)
    if values.ndim != 2 or not np.isfinite(values).all():
        raise WhalebenchError(
            f"The {name} embeddings are not a finite (photos, numbers) array: check the network."
        )
    return values
