"""Candidates, ranks and averages: what every metric of a score matrix is made of.

Columns are handed over in name order, so that the first of equal scores is the first by name. *New* is a
candidate like any other: by rule `column` with the same score in every row, the threshold; by rule `second`
(26th place of Happywhale) first where the best score is below the threshold, else second. An identity with
exactly that score ranks before it.
"""

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whalebench.benchmarks.core.arrays import blocks

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
NewRule = Literal["column", "second"]

NEW = "new"
CANDIDATES = 5
BLOCK_CELLS = 4_000_000  # 32 MB of float64: the memory a block takes; no result depends on it


def mean(values: Iterable[float]) -> float:
    """The mean of the values that are defined, the same in whatever order; NaN if none is.

    >>> mean([1.0, math.nan, 0.0])
    0.5
    """
    defined = [value for value in values if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan


def balanced_mean(values: Iterable[float], groups: Iterable[Hashable]) -> float:
    """The mean over groups of the mean of their values: each group weighs the same, however large.

    >>> balanced_mean([1.0, 1.0, 0.0, 0.0], ["a", "a", "a", "b"])
    0.3333333333333333
    """
    by_group: dict[Hashable, list[float]] = defaultdict(list)
    for value, group in zip(values, groups, strict=True):
        by_group[group].append(value)
    return mean(map(mean, by_group.values()))


def average_precision_at_k(rank: float, k: int = CANDIDATES) -> float:
    """1 / rank where the one true candidate is among the first k, else 0 (also where rank is NaN).

    >>> [average_precision_at_k(rank) for rank in (1.0, 2.0, 5.0, 6.0, np.nan)]
    [1.0, 0.5, 0.2, 0.0, 0.0]
    """
    return 1 / rank if rank <= k else 0.0


def row_blocks(rows: int, columns: int) -> Iterator[slice]:
    """Slices that cover all rows, each about `BLOCK_CELLS` cells large."""
    return blocks(rows, max(1, BLOCK_CELLS // max(1, columns)))


def best_columns(scores: Floats) -> Integers:
    """Columns of the (at most five) highest scores of each row, best first, (rows, min(5, columns)).

    Five passes of argmax: it returns the first of equal scores, which partial sorting does not promise.
    """
    remaining = np.maximum(scores, np.finfo(np.float64).min)  # so that -inf can mean "already a candidate"
    rows = np.arange(len(remaining))
    best = np.empty((len(remaining), min(CANDIDATES, remaining.shape[1])), dtype=np.int64)
    for place in range(best.shape[1]):
        best[:, place] = remaining.argmax(axis=1)
        remaining[rows, best[:, place]] = -np.inf
    return best


def identities_before_new(scores: Floats, threshold: float, rule: NewRule) -> Integers:
    """How many identities rank before *new*, (rows,), of scores (rows, columns).

    >>> scores = np.array([[0.9, 0.8, 0.1], [0.4, 0.3, 0.2]])
    >>> [identities_before_new(scores, 0.5, rule).tolist() for rule in ("column", "second")]
    [[2, 0], [1, 0]]
    """
    above: Integers = (scores >= threshold).sum(axis=1)
    return np.minimum(above, 1) if rule == "second" else above


def insert_new(
    columns: Integers, scores: Floats, threshold: float | None, rule: NewRule
) -> tuple[Integers, Floats]:
    """The first five candidates with *new* (column -1) among them, and their scores, both (rows, <= 5).

    The score of *new* is the threshold, but never below that of the candidate after it.
    """
    if threshold is None:
        return columns, scores
    before = identities_before_new(scores, threshold, rule)[:, None]
    places = np.arange(min(CANDIDATES, scores.shape[1] + 1))
    source = np.minimum(places - (places > before), scores.shape[1] - 1)
    after = np.take_along_axis(scores, np.minimum(before, scores.shape[1] - 1), axis=1)
    score_of_new = np.where(before < scores.shape[1], np.maximum(after, threshold), threshold)
    is_new = places == before
    candidates = np.where(is_new, -1, np.take_along_axis(columns, source, axis=1))
    return candidates, np.where(is_new, score_of_new, np.take_along_axis(scores, source, axis=1))


def rank_of_truth(
    scores: Floats, truth: Integers, threshold: float | None, rule: NewRule = "column"
) -> Floats:
    """1-based rank of the true column of each row (-1 is *new*) among all candidates.

    NaN where the truth is *new* and *new* is no candidate.
    """
    known = truth >= 0
    column = np.where(known, truth, 0)[:, None]
    true_score = np.take_along_axis(scores, column, axis=1)
    tied_before = (scores == true_score) & (np.arange(scores.shape[1]) < column)
    rank: Floats = 1 + ((scores > true_score) | tied_before).sum(axis=1).astype(np.float64)
    if threshold is None:
        return np.where(known, rank, np.nan)
    before = identities_before_new(scores, threshold, rule)
    return np.where(known, rank + (rank > before), before + 1.0)


def is_new(queries: pd.DataFrame) -> NDArray[np.bool_]:
    """Whether the truth is *new*, (queries,), of a per-query table."""
    new: NDArray[np.bool_] = (queries["truth"] == NEW).to_numpy()
    return new


def predicted_new(queries: pd.DataFrame) -> NDArray[np.bool_]:
    """Whether the first candidate is *new*, (queries,)."""
    predicted: NDArray[np.bool_] = (queries["candidate_1"] == NEW).to_numpy()
    return predicted


def new_is_candidate(queries: pd.DataFrame) -> bool:
    """Whether *new* was a candidate: else *new* photos have no rank."""
    return not queries["rank"].isna().any()


def best_identity_correct(queries: pd.DataFrame) -> NDArray[np.bool_]:
    """Whether the truth is the best identity, *new* left aside (queries,); False where the truth is *new*."""
    correct: NDArray[np.bool_] = ~is_new(queries) & (queries["rank"].to_numpy() == 1 + predicted_new(queries))
    return correct


def first_candidate_correct(queries: pd.DataFrame) -> Floats:
    """1 where the first candidate, *new* among them, is the truth, else 0, (queries,).

    NaN for *new* photos where *new* was no candidate.
    """
    return np.where(queries["rank"].isna(), np.nan, queries["top_1"].to_numpy(np.float64))
