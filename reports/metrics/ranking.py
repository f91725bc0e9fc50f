"""Candidates, ranks and averages: what every metric of a score matrix is made of.

Candidates are shown in name order where scores are equal (columns are handed over in that order), but no
metric rests on it: what counts is the expectation over all orders of the tied. *New* is a candidate like any
other: by rule `column` with the same score in every row, the threshold; by rule `second` (26th place of
Happywhale) first where the best score is below the threshold, else second. An identity with exactly that
score ranks before it.
"""

import math
from collections.abc import Hashable, Iterable, Sequence
from functools import cached_property
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
NewRule = Literal["column", "second"]

NEW = "new"
CANDIDATES = 5


def mean(values: Iterable[float]) -> float:
    """The mean of the values that are defined, the same in whatever order; NaN if none is.

    >>> mean([1.0, math.nan, 0.0])
    0.5
    """
    numbers = np.asarray(values if isinstance(values, np.ndarray | pd.Series) else list(values), np.float64)
    defined = numbers[~np.isnan(numbers)]
    return math.fsum(defined.tolist()) / len(defined) if len(defined) else math.nan


def balanced_mean(values: Iterable[float], groups: Iterable[Hashable]) -> float:
    """The mean over groups of the mean of their values: each group weighs the same, however large.

    >>> balanced_mean([1.0, 1.0, 0.0, 0.0], ["a", "a", "a", "b"])
    0.3333333333333333
    """
    named = groups if isinstance(groups, np.ndarray | pd.Series) else pd.Series(list(groups))
    numbers = np.asarray(values if isinstance(values, np.ndarray) else list(values), np.float64)
    codes = pd.factorize(named)[0]
    defined = ~np.isnan(numbers)
    photos = np.bincount(codes[defined])
    # Zeros and ones, which these are but for ties, add up exactly in any order.
    sums = np.bincount(codes[defined], weights=numbers[defined])
    return mean(sums[photos > 0] / photos[photos > 0])


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


def ties_of_truth(scores: Floats, truth: Integers) -> tuple[Floats, Floats]:
    """The best place among identities that the true column of each row may have, and how many are tied there.

    Places are from 1, both (rows,); NaN where the truth is *new* (-1).
    """
    known = truth >= 0
    true_score = np.take_along_axis(scores, np.where(known, truth, 0)[:, None], axis=1)
    first, tied = 1 + (scores > true_score).sum(axis=1), (scores == true_score).sum(axis=1)
    return np.where(known, first, np.nan), np.where(known, tied, np.nan)


def expected_over_ties(first: Floats, tied: Floats, before: Integers | None) -> dict[str, Floats]:
    """What a query scores on average over the orders of the identities that are tied with the truth.

    `first` and `tied` are those of `ties_of_truth`, `before` how many identities rank before *new*, None
    where it is no candidate. By key (rows,): `rank`, NaN where the truth is *new* and that no candidate;
    `average_precision_at_5`, `top_1`, `top_5`; `identified`, how often the best identity is the truth, *new*
    left aside.

    >>> two_are_first = expected_over_ties(np.ones(1), np.full(1, 2.0), None)
    >>> {key: float(values[0]) for key, values in two_are_first.items()}
    {'rank': 1.5, 'average_precision_at_5': 0.75, 'top_1': 0.5, 'top_5': 1.0, 'identified': 0.5}
    """
    new = np.isnan(first)
    last = np.where(new, 0, first + tied - 1)
    behind_new = 0.0 if before is None else np.clip(last - np.maximum(before, first - 1), 0, tied) / tied
    of_new = np.full(len(first), np.nan) if before is None else before + 1.0
    shares = []
    for place in range(1, CANDIDATES + 1):
        # Which identity, by rank, is at that place: *new* moves those behind it back by one.
        identity = place if before is None else place - (place > before + 1)
        holds = (first <= identity) & (identity <= last)
        if before is not None:
            holds &= place != before + 1
        shares.append(np.where(new, of_new == place, holds / np.where(new, 1, tied)))
    return {
        "rank": np.where(new, of_new, (first + last) / 2 + behind_new),
        "average_precision_at_5": np.sum([share / place for place, share in enumerate(shares, 1)], axis=0),
        "top_1": shares[0],
        "top_5": np.sum(shares, axis=0),
        "identified": np.where(first == 1, 1 / np.where(new, 1, tied), 0.0),
    }


class Photos:
    """Whom the photos of a per-query table show: what metrics ask of that, the same for all runs on them.

    What is asked of many runs of a fold is so computed once. Arrays are (queries,).
    """

    def __init__(self, queries: pd.DataFrame) -> None:
        self.queries = queries

    @cached_property
    def new(self) -> NDArray[np.bool_]:
        """Whether the truth is *new*."""
        return is_new(self.queries)

    @cached_property
    def clusters(self) -> Integers:
        """Which photos stay together where some are left out, numbered in the order of names."""
        return pd.factorize(self.queries["cluster"], sort=True)[0].astype(np.int64)

    @cached_property
    def individuals(self) -> Integers:
        """Whom they show: the individual of a known photo, the cluster of a *new* one."""
        truths = pd.factorize(self.queries["truth"])[0]
        return np.where(self.new, self.clusters, len(truths) + truths).astype(np.int64)


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


def best_identity_correct(queries: pd.DataFrame) -> Floats:
    """1 where the best identity, *new* left aside, is the truth, else 0, (queries,); the mean over ties.

    0 where the truth is *new*.
    """
    if "identified" in queries and not queries["identified"].isna().any():
        return queries["identified"].to_numpy(np.float64)
    # Older tables have ranks that went by name where scores are equal.
    correct = ~is_new(queries) & (queries["rank"].to_numpy() == 1 + predicted_new(queries))
    return np.asarray(correct, np.float64)


def first_candidate_correct(queries: pd.DataFrame) -> Floats:
    """1 where the first candidate, *new* among them, is the truth, else 0, (queries,).

    NaN for *new* photos where *new* was no candidate.
    """
    return np.where(queries["rank"].isna(), np.nan, queries["top_1"].to_numpy(np.float64))


def constant_answer(truth: Iterable[str], answer: Sequence[str]) -> Floats:
    """Average precision at 5 of each photo where all are given the same candidates, best first; (queries,).

    >>> constant_answer(["a", "new", "b"], ["new", "a"]).tolist()
    [0.5, 1.0, 0.0]
    """
    worth = {name: 1 / place for place, name in enumerate(answer[:CANDIDATES], start=1)}
    return np.array([worth.get(name, 0.0) for name in truth])


def uniform_guess(truth: Iterable[str], identities: int, *, new_is_candidate: bool) -> Floats:
    """Expected average precision at 5 of each photo where every candidate is equally likely; (queries,).

    >>> uniform_guess(["a", "new"], 4, new_is_candidate=False).round(4).tolist()  # (1 + 1/2 + 1/3 + 1/4) / 4
    [0.5208, 0.0]
    """
    candidates = identities + new_is_candidate
    worth = sum(1 / place for place in range(1, min(CANDIDATES, candidates) + 1)) / candidates
    return np.array([worth if new_is_candidate or name != NEW else 0.0 for name in truth])
