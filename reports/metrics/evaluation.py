"""From a score matrix to the per-query table that every average, interval and page is made of.

`evaluate_queries` makes the whole table; `means_by_threshold` gives MAP@5 under many thresholds of *new*
without a table for each. Both go through the scores in row blocks, identities in name order.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whalebench import WhalebenchError
from whalebench.benchmarks.core.arrays import columns_of, row_blocks
from whalebench.reports.metrics.calibration import Calibration, candidate_sets
from whalebench.reports.metrics.ranking import (
    CANDIDATES,
    NEW,
    Floats,
    Integers,
    NewRule,
    best_columns,
    expected_over_ties,
    identities_before_new,
    insert_new,
    mean,
    ties_of_truth,
)

CLIP = 1e-15  # Kaggle's: a certain and wrong answer costs 34.5, not infinity
NO_CANDIDATE = -2  # column of "no further candidate"; -1 is *new*
NAN_SCORE = "A score of {} is NaN: check the method's numbers (loss, learning rate)."
NO_PROBABILITIES = "The probabilities of {} are negative, not finite or all zero: check the calibration."


class _NameOrder:
    """The columns of score matrices in the order of their identities' names."""

    def __init__(self, identities: Sequence[str]) -> None:
        self._order = np.asarray(sorted(range(len(identities)), key=identities.__getitem__), dtype=np.int64)
        self.names = [identities[column] for column in self._order]

    def truth(self, truth: Sequence[str]) -> Integers:
        """The column of each true identity, -1 for *new*."""
        columns = columns_of(self.names)
        return np.asarray([columns.get(name, -1) for name in truth], dtype=np.int64)

    def sorted(self, block: NDArray[Any]) -> Floats:
        """Some rows in float64, columns in name order."""
        return np.take(block, self._order, axis=1).astype(np.float64, copy=False)

    def blocks(self, matrix: NDArray[Any]) -> Iterator[tuple[slice, Floats]]:
        """Blocks of rows in float64, columns in name order, with the rows that they are; at least one."""
        for rows in [*row_blocks(*matrix.shape)] or [slice(0, 0)]:
            yield rows, self.sorted(matrix[rows])


def evaluate_queries(
    *,
    images: Sequence[str],
    truth: Sequence[str],
    clusters: Sequence[str],
    identities: Sequence[str],
    scores: NDArray[Any],
    probabilities: NDArray[Any] | Calibration,
    new_scores: NDArray[Any],
    new_threshold: float | None,
    new_rule: NewRule = "column",
    set_threshold: float | None = None,
    embeddings_precision: NDArray[Any] | None = None,
) -> pd.DataFrame:
    """One row a query: the five candidates with scores, the rank of the truth, and the value of each metric.

    `truth` is an identity or `NEW`; `scores` and `probabilities` are (queries, identities), higher is more
    likely; a calibration makes probabilities of a block of scores at a time. `NEW` is a candidate where
    `new_rule` puts it by `new_threshold`, absent when that is None. Of equal scores candidates are shown by
    identity name, `NEW` last; ranks and metrics are means over the orders of the tied identities. Log loss is
    of known queries: the row divided by its sum, clipped to [1e-15, 1 - 1e-15]. `clusters` say which queries
    go together when intervals are drawn.
    """
    _check_names(images, truth, clusters, identities)
    shape = (len(images), len(identities))
    scores = _matrix(scores, shape, "scores")
    if not isinstance(probabilities, Calibration):
        probabilities = _matrix(probabilities, shape, "probabilities")
    new_scores = _column(new_scores, len(images), "new scores")
    if np.isnan(new_scores).any() or (new_threshold is not None and math.isnan(new_threshold)):
        raise WhalebenchError("A score or the threshold of *new* is NaN: check the method's scores for new.")
    order = _NameOrder(identities)
    true_columns = order.truth(truth)
    parts = []
    for rows, block in order.blocks(scores):
        _refuse(np.isnan(block.max(axis=1)), images[rows], NAN_SCORE)  # NaN is the largest
        if isinstance(probabilities, Calibration):
            likely = probabilities.probabilities(scores[rows])
        else:
            likely = probabilities[rows]
        shares = _shares(order.sorted(likely), images[rows])
        ranked = _ranking_columns(block, true_columns[rows], new_threshold, new_rule)
        parts.append(ranked | _probability_columns(shares, true_columns[rows], set_threshold))
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if embeddings_precision is None:
        embeddings_precision = np.full(len(images), np.nan)
    columns["average_precision_at_r"] = _column(embeddings_precision, len(images), "average precisions at R")
    text = {"image": list(images), "truth": list(truth), "cluster": list(clusters)}
    # NO_CANDIDATE and -1 count from the end.
    labels = np.asarray([*order.names, "", NEW], dtype=object)[columns["candidates"]]
    text |= {f"candidate_{place + 1}": labels[:, place].tolist() for place in range(CANDIDATES)}
    return pd.DataFrame(text, dtype="str").assign(**_numbers(columns | {"new_score": new_scores}))


def _ranking_columns(
    scores: Floats, truth: Integers, threshold: float | None, rule: NewRule
) -> dict[str, NDArray[Any]]:
    """Candidates as columns and their scores, both (rows, 5), and what the truth's rank is worth (rows,)."""
    best = best_columns(scores)
    best, values = insert_new(best, np.take_along_axis(scores, best, axis=1), threshold, rule)
    missing = ((0, 0), (0, CANDIDATES - best.shape[1]))
    before = None if threshold is None else identities_before_new(scores, threshold, rule)
    return {
        "candidates": np.pad(best, missing, constant_values=NO_CANDIDATE),
        "scores": np.pad(values, missing, constant_values=np.nan),
        **expected_over_ties(*ties_of_truth(scores, truth), before),
    }


def _probability_columns(shares: Floats, truth: Integers, threshold: float | None) -> dict[str, Floats]:
    """What follows from probabilities (rows, identities), (rows,) each; NaN where the truth is *new* (-1)."""
    known, column = truth >= 0, np.maximum(truth, 0)[:, None]
    of_truth = np.where(known, np.take_along_axis(shares, column, axis=1)[:, 0], np.nan)
    columns = {"probability": of_truth, "confidence": shares.max(axis=1)}
    if threshold is None:
        return columns | dict.fromkeys(("set_size_95", "covered_95"), np.full(len(shares), np.nan))
    sets = candidate_sets(shares, threshold)
    covered = np.where(known, np.take_along_axis(sets, column, axis=1)[:, 0], np.nan)
    return columns | {"set_size_95": sets.sum(axis=1).astype(np.float64), "covered_95": covered}


def _numbers(columns: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The numbers of the per-query table in the column order of predictions.parquet."""
    further = ("probability", "confidence", "set_size_95", "covered_95")
    return {
        **{f"score_{place + 1}": columns["scores"][:, place] for place in range(CANDIDATES)},
        **{key: columns[key] for key in ("rank", "average_precision_at_5", "top_1", "top_5", "identified")},
        "log_loss": -np.log(np.clip(columns["probability"], CLIP, 1 - CLIP)),
        **{key: columns[key] for key in (*further, "new_score", "average_precision_at_r")},
    }


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
    photos. The same numbers as from `evaluate_queries` and `summarize`: a threshold moves a known truth back
    by one place at most, and a *new* one stands behind scores of which only the five best count.
    """
    scores = _matrix(scores, (len(truth), len(identities)), "scores")
    order = _NameOrder(identities)
    true_columns, parts = order.truth(truth), []
    for rows, block in order.blocks(scores):
        if not np.isfinite(block).all():
            raise WhalebenchError("A score is not finite: check the method's numbers (loss, learning rate).")
        best = np.take_along_axis(block, best_columns(block), axis=1)
        parts.append((*ties_of_truth(block, true_columns[rows]), best))
    first, tied, best = (np.concatenate(column) for column in zip(*parts, strict=True))
    means = [_means(first, tied, best, threshold, new_rule) for threshold in new_thresholds]
    return {key: [row[key] for row in means] for key in means[0]} if means else {}


def _means(
    first: Floats, tied: Floats, best: Floats, threshold: float | None, rule: NewRule
) -> dict[str, float]:
    """Of the ties of the truth (queries,), NaN where *new*, and of the best scores (queries, 5)."""
    new = np.isnan(first)
    before = None if threshold is None else identities_before_new(best, threshold, rule)
    precision = expected_over_ties(first, tied, before)["average_precision_at_5"]
    return {
        "map_at_5": mean(precision),
        "map_at_5_known": mean(precision[~new]),
        "map_at_5_new": mean(precision[new]),
        "called_new": 0.0 if before is None else float((before == 0).mean()),
    }


def _check_names(
    images: Sequence[str], truth: Sequence[str], clusters: Sequence[str], identities: Sequence[str]
) -> None:
    """Raises WhalebenchError unless there are queries and candidates, each named once, and one truth each."""
    number, candidates = len(images), set(identities)
    problem = ""
    if not number or not len(identities):
        problem = f"{number} queries and {len(identities)} identities: nothing can be evaluated."
    elif not number == len(truth) == len(clusters):
        counts = f"{number} images, {len(truth)} truths and {len(clusters)} clusters"
        problem = f"{counts}: hand over one a query."
    elif len(set(images)) < number:
        problem = "An image is evaluated twice: hand over each query once."
    elif len(candidates) < len(identities) or NEW in candidates:
        problem = f"The identities repeat or hold {NEW!r}, which means none of them: rename them."
    elif unknown := [name for name in truth if name != NEW and name not in candidates]:
        problem = f"The truth {unknown[0]!r} is no candidate: call individuals not in train {NEW!r}."
    if problem:
        raise WhalebenchError(problem)


def _refuse(bad: NDArray[np.bool_], images: Sequence[str], sentence: str) -> None:
    """Raises WhalebenchError with the sentence on the first image that is bad, if there is one."""
    if bad.any():
        raise WhalebenchError(sentence.format(images[int(bad.argmax())]))


def _shares(probabilities: Floats, images: Sequence[str]) -> Floats:
    """The rows divided by their sums; raises WhalebenchError where they are no probabilities."""
    total = probabilities.sum(axis=1, keepdims=True)
    bad = ~np.isfinite(total[:, 0]) | (total[:, 0] <= 0) | (probabilities < 0).any(axis=1)
    _refuse(bad, images, NO_PROBABILITIES)
    shares: Floats = probabilities / total
    return shares


def _matrix(values: NDArray[Any], shape: tuple[int, int], name: str) -> NDArray[Any]:
    """The array; raises WhalebenchError unless it has this shape and holds numbers."""
    array = np.asarray(values)
    if array.shape != shape or array.dtype.kind not in "fiub":
        raise WhalebenchError(
            f"The {name} are {array.dtype} {array.shape}, not numbers {shape}: one row a query, one column "
            "an identity."
        )
    return array


def _column(values: NDArray[Any], number: int, name: str) -> Floats:
    """The values as float64; raises WhalebenchError unless there is one a query."""
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (number,):
        raise WhalebenchError(f"The {name} are {array.shape}, not ({number},): one a query.")
    return array
