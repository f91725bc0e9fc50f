"""From scores to the per-query table that every average, interval and page is made of.

What a threshold of *new* is chosen by: MAP@5 under many of them, without a table for each.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whalebench import WhalebenchError
from whalebench.benchmarks.core.arrays import columns_of
from whalebench.reports.metrics.calibration import candidate_sets
from whalebench.reports.metrics.ranking import (
    CANDIDATES,
    NEW,
    Floats,
    Integers,
    NewRule,
    average_precision_at_k,
    best_columns,
    identities_before_new,
    insert_new,
    mean,
    rank_of_truth,
    row_blocks,
)

CLIP = 1e-15  # Kaggle's: a certain and wrong answer costs 34.5, not infinity
NONE = -2  # column of "no further candidate"; -1 is *new*


class _Evaluated(NamedTuple):
    """What the blocks fill: candidates (queries, 5) as columns, their scores, and numbers a query."""

    candidates: Integers
    scores: Floats
    rank: Floats
    probability: Floats
    confidence: Floats
    set_size: Floats
    covered: Floats


def evaluate_queries(
    *,
    images: Sequence[str],
    truth: Sequence[str],
    clusters: Sequence[str],
    identities: Sequence[str],
    scores: NDArray[Any],
    probabilities: NDArray[Any],
    new_scores: NDArray[Any],
    new_threshold: float | None,
    new_rule: NewRule = "column",
    set_threshold: float | None = None,
    embeddings_precision: NDArray[Any] | None = None,
) -> pd.DataFrame:
    """One row a query: the five candidates with scores, the rank of the truth, and each metric's own value.

    `truth` is an identity or `NEW`; `scores` and `probabilities` are (queries, identities), higher is more
    likely; `NEW` is a candidate where `new_rule` puts it by `new_threshold`, absent when that is None. Ties
    go by identity name, `NEW` last. Log loss is of known queries: the row divided by its sum, clipped to
    [1e-15, 1 - 1e-15]. `clusters` say which queries go together when intervals are drawn.
    """
    _check_names(images, truth, clusters, identities)
    shape = (len(images), len(identities))
    scores, probabilities = matrix(scores, shape, "scores"), matrix(probabilities, shape, "probabilities")
    new_scores = _column(new_scores, len(images), "new scores")
    if np.isnan(new_scores).any() or (new_threshold is not None and math.isnan(new_threshold)):
        raise WhalebenchError("A score or the threshold of *new* is NaN: check the method's scores for new.")
    order = np.asarray(sorted(range(len(identities)), key=identities.__getitem__), dtype=np.int64)
    names = [identities[column] for column in order]
    columns = _columns_of(truth, names)
    judged = _empty(len(images))
    for rows in row_blocks(*shape):
        block = np.take(scores[rows], order, axis=1).astype(np.float64, copy=False)
        _check_scores(block, images[rows])
        _evaluate_block(judged, rows, block, columns[rows], new_threshold, new_rule)
        block = np.take(probabilities[rows], order, axis=1).astype(np.float64, copy=False)
        _evaluate_probabilities(judged, rows, _shares(block, images[rows]), columns[rows], set_threshold)
    table = _table(images, truth, clusters, names, judged)
    if embeddings_precision is None:
        embeddings_precision = np.full(len(images), np.nan)
    precision = _column(embeddings_precision, len(images), "average precisions at R")
    return table.assign(new_score=new_scores, average_precision_at_r=precision)


def _columns_of(truth: Sequence[str], names: list[str]) -> Integers:
    """The column of each true name, -1 for *new*."""
    place = columns_of(names)
    return np.asarray([place.get(name, -1) for name in truth], dtype=np.int64)


def _empty(number: int) -> _Evaluated:
    candidates = np.full((number, CANDIDATES), NONE, dtype=np.int64)
    numbers = (np.full(number, np.nan) for _ in range(len(_Evaluated._fields) - 2))
    return _Evaluated(candidates, np.full((number, CANDIDATES), np.nan), *numbers)


def _evaluate_block(
    judged: _Evaluated, rows: slice, scores: Floats, truth: Integers, threshold: float | None, rule: NewRule
) -> None:
    """Nothing; the rows' candidates, scores and ranks are filled in."""
    best = best_columns(scores)
    best, values = insert_new(best, np.take_along_axis(scores, best, axis=1), threshold, rule)
    judged.candidates[rows, : best.shape[1]], judged.scores[rows, : best.shape[1]] = best, values
    judged.rank[rows] = rank_of_truth(scores, truth, threshold, rule)


def _check_scores(scores: Floats, images: Sequence[str]) -> None:
    """Nothing, when no score is NaN."""
    bad = np.isnan(scores).any(axis=1)
    if bad.any():
        image = images[int(np.flatnonzero(bad)[0])]
        raise WhalebenchError(f"A score of {image} is NaN: check the method's numbers (loss, learning rate).")


def _shares(probabilities: Floats, images: Sequence[str]) -> Floats:
    """The rows divided by their sums."""
    total = probabilities.sum(axis=1, keepdims=True)
    bad = ~np.isfinite(total[:, 0]) | (total[:, 0] <= 0) | (probabilities < 0).any(axis=1)
    if bad.any():
        image = images[int(np.flatnonzero(bad)[0])]
        message = f"The probabilities of {image} are negative, not finite or all zero: check the calibration."
        raise WhalebenchError(message)
    shares: Floats = probabilities / total
    return shares


def _evaluate_probabilities(
    judged: _Evaluated, rows: slice, shares: Floats, truth: Integers, threshold: float | None
) -> None:
    """Nothing; what the rows' probabilities say is filled in, NaN where the truth is *new* (-1)."""
    known, column = truth >= 0, np.maximum(truth, 0)[:, None]
    judged.probability[rows] = np.where(known, np.take_along_axis(shares, column, axis=1)[:, 0], np.nan)
    judged.confidence[rows] = shares.max(axis=1)
    if threshold is not None:
        sets = candidate_sets(shares, threshold)
        judged.set_size[rows] = sets.sum(axis=1)
        judged.covered[rows] = np.where(known, np.take_along_axis(sets, column, axis=1)[:, 0], np.nan)


def _table(
    images: Sequence[str], truth: Sequence[str], clusters: Sequence[str], names: list[str], judged: _Evaluated
) -> pd.DataFrame:
    """The per-query table in the column order of predictions.parquet, up to what the scores alone say."""
    labels = np.asarray([*names, "", NEW], dtype=object)[judged.candidates]  # NONE and -1 count from the end
    text = {"image": list(images), "truth": list(truth), "cluster": list(clusters)}
    text |= {f"candidate_{place + 1}": labels[:, place].tolist() for place in range(CANDIDATES)}
    numbers = {f"score_{place + 1}": judged.scores[:, place] for place in range(CANDIDATES)}
    numbers["rank"] = judged.rank
    numbers["average_precision_at_5"] = np.asarray([average_precision_at_k(rank) for rank in judged.rank])
    numbers["top_1"] = (judged.rank <= 1).astype(np.float64)
    numbers["top_5"] = (judged.rank <= CANDIDATES).astype(np.float64)
    numbers["log_loss"] = -np.log(np.clip(judged.probability, CLIP, 1 - CLIP))
    numbers |= {"probability": judged.probability, "confidence": judged.confidence}
    numbers |= {"set_size_95": judged.set_size, "covered_95": judged.covered}
    return pd.DataFrame(text, dtype="str").assign(**numbers)


def _check_names(
    images: Sequence[str], truth: Sequence[str], clusters: Sequence[str], identities: Sequence[str]
) -> None:
    """Nothing, when there are queries and candidates and every name stands where it may."""
    if not len(images) or not len(identities):
        raise WhalebenchError(
            f"{len(images)} queries and {len(identities)} identities: nothing can be judged."
        )
    if not len(images) == len(truth) == len(clusters):
        message = (
            f"{len(images)} images, {len(truth)} truths and {len(clusters)} clusters: hand over one a query."
        )
        raise WhalebenchError(message)
    if len(set(images)) < len(images):
        raise WhalebenchError("An image is judged twice: hand over each query once.")
    candidates = set(identities)
    if len(candidates) < len(identities) or NEW in candidates:
        raise WhalebenchError(
            f"The identities repeat or hold {NEW!r}, which means none of them: rename them."
        )
    strange = next((name for name in truth if name != NEW and name not in candidates), None)
    if strange is not None:
        raise WhalebenchError(
            f"The truth {strange!r} is no candidate: call individuals not in train {NEW!r}."
        )


def matrix(values: NDArray[Any], shape: tuple[int, int], name: str) -> NDArray[Any]:
    """The array, when it has this shape and holds numbers."""
    array = np.asarray(values)
    if array.shape != shape or array.dtype.kind not in "fiub":
        message = (
            f"The {name} are {array.dtype} {array.shape}, not numbers {shape}: one row a query, one column"
        )
        raise WhalebenchError(f"{message} an identity.")
    return array


def _column(values: NDArray[Any], number: int, name: str) -> Floats:
    """The values as float64, when there is one a query."""
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (number,):
        raise WhalebenchError(f"The {name} are {array.shape}, not ({number},): one a query.")
    return array


class _Ranked(NamedTuple):
    """What no threshold changes: rank of the truth among identities (NaN where *new*), the best scores."""

    rank: Floats
    best: Floats


def means_by_threshold(
    *,
    truth: Sequence[str],
    identities: Sequence[str],
    scores: NDArray[Any],
    new_thresholds: Sequence[float | None],
    new_rule: NewRule = "column",
) -> dict[str, list[float]]:
    """By threshold MAP@5 of all, of known and of *new* photos, and the share of photos called *new*.

    The keys are `map_at_5`, `map_at_5_known`, `map_at_5_new` and `called_new`; NaN where there are no such
    photos. The same that `evaluate_queries` and `summarize` say: a threshold moves a known truth back by one
    place at most, and a *new* one stands behind scores of which only the five best count.
    """
    scores = matrix(scores, (len(truth), len(identities)), "scores")
    if not np.isfinite(scores).all():
        raise WhalebenchError("A score is not finite: check the method's numbers (loss, learning rate).")
    ranked = _ranked(truth, identities, scores)
    means = [_means(ranked, threshold, new_rule) for threshold in new_thresholds]
    return {key: [row[key] for row in means] for key in means[0]} if means else {}


def _ranked(truth: Sequence[str], identities: Sequence[str], scores: NDArray[Any]) -> _Ranked:
    order = sorted(range(len(identities)), key=identities.__getitem__)
    place = {identities[column]: rank for rank, column in enumerate(order)}
    columns = np.asarray([place.get(name, -1) for name in truth], dtype=np.int64)
    ranked = _Ranked(np.empty(len(truth)), np.empty((len(truth), min(CANDIDATES, len(identities)))))
    for rows in row_blocks(*scores.shape):
        block = np.take(scores[rows], order, axis=1).astype(np.float64)
        ranked.rank[rows] = rank_of_truth(block, columns[rows], None)
        ranked.best[rows] = np.take_along_axis(block, best_columns(block), axis=1)
    return ranked


def _means(ranked: _Ranked, threshold: float | None, rule: NewRule) -> dict[str, float]:
    is_new, rank, called = np.isnan(ranked.rank), ranked.rank, 0.0
    if threshold is not None:
        before = identities_before_new(ranked.best, threshold, rule)
        rank = np.where(is_new, before + 1, rank + (rank > before))
        called = float((before == 0).mean())
    precision = np.asarray([average_precision_at_k(place) for place in rank])
    return {
        "map_at_5": mean(precision),
        "map_at_5_known": mean(precision[~is_new]),
        "map_at_5_new": mean(precision[is_new]),
        "called_new": called,
    }
