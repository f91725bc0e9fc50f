"""What a threshold of *new* is chosen by: MAP@5 under many of them, without a table for each."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from whalebench import WhalebenchError
from whalebench.reports.averages import mean
from whalebench.reports.judging import matrix
from whalebench.reports.ranking import (
    CANDIDATES,
    Floats,
    NewRule,
    average_precision_at_k,
    best_columns,
    identities_before_new,
    rank_of_truth,
    row_blocks,
)


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
    photos. The same that `judge_queries` and `summarize` say: a threshold moves a known truth back by one
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
