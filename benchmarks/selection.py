"""What the harness chooses on valid for every method alike: the temperature, and the threshold of *new*."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whalebench.benchmarks.views import NEW, Answers

THRESHOLDS = 101
"""How many thresholds valid is asked about, spread over the scores of its best candidates."""


class Judge(Protocol):
    """Whoever turns scores into numbers; `reports.metrics` is the one there is."""

    def judge_queries(
        self,
        *,
        images: Sequence[str],
        truth: Sequence[str],
        clusters: Sequence[str],
        identities: Sequence[str],
        scores: NDArray[Any],
        probabilities: NDArray[Any],
        new_scores: NDArray[Any],
        new_threshold: float | None,
        embeddings_precision: NDArray[Any] | None = None,
    ) -> pd.DataFrame:
        """One row a query with the value of every metric."""

    def map_at_5_by_threshold(
        self,
        *,
        truth: Sequence[str],
        identities: Sequence[str],
        scores: NDArray[Any],
        new_thresholds: Sequence[float | None],
    ) -> list[float]:
        """MAP@5 under each threshold of *new*."""

    def summarize(self, queries: pd.DataFrame) -> dict[str, float]:
        """Every metric by its key."""

    def cmc(self, queries: pd.DataFrame) -> list[float]:
        """Share of known queries found among the first 1, 2, ... 20 candidates."""

    def average_precision_at_r(
        self,
        query: NDArray[Any],
        query_labels: NDArray[Any],
        gallery: NDArray[Any],
        gallery_labels: NDArray[Any],
    ) -> NDArray[np.float64]:
        """Of each query's gallery ranking, cut at the number of its individual's photos."""


def probabilities(scores: NDArray[np.float32], temperature: float) -> NDArray[np.float64]:
    """Rows of probabilities: the softmax of the scores over the temperature."""
    logits = scores.astype(np.float64) / temperature
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    rows: NDArray[np.float64] = exponentials / exponentials.sum(axis=1, keepdims=True)
    return rows


def choose_temperature(scores: NDArray[np.float32], answers: Answers, identities: Sequence[str]) -> float:
    """The temperature at which the known photos have the least log loss; 1 where none is known."""
    from scipy.optimize import minimize_scalar  # noqa: PLC0415  (half a second to import)

    column = {identity: place for place, identity in enumerate(identities)}
    known = np.array([row for row, truth in enumerate(answers.truth) if truth != NEW], np.int64)
    if not len(known):
        return 1.0
    own = np.array([column[answers.truth[row]] for row in known])

    def log_loss(log_temperature: float) -> float:
        chances = probabilities(scores[known], float(np.exp(log_temperature)))
        return float(-np.log(np.clip(chances[np.arange(len(own)), own], 1e-15, None)).mean())

    found = minimize_scalar(log_loss, bounds=(-7.0, 5.0), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))


def choose_threshold(
    judge: Judge, scores: NDArray[np.float32], answers: Answers, identities: Sequence[str]
) -> tuple[float | None, float]:
    """The threshold of *new* with the best MAP@5 on valid, and that MAP@5.

    The threshold is None, and *new* no candidate, where valid has no new photo to choose by. Of equally good
    thresholds the middle one is taken.
    """
    candidates: list[float | None] = [None]
    if NEW in answers.truth:
        best = np.unique(scores.max(axis=1).astype(np.float64))
        between = np.concatenate([[best[0] - 1e-3], (best[1:] + best[:-1]) / 2, [best[-1] + 1e-3]])
        candidates = [
            float(value) for value in np.unique(np.quantile(between, np.linspace(0, 1, THRESHOLDS)))
        ]
    results = judge.map_at_5_by_threshold(
        truth=answers.truth, identities=identities, scores=scores, new_thresholds=candidates
    )
    ties = [place for place, value in enumerate(results) if value == max(results)]
    middle = ties[len(ties) // 2]
    return candidates[middle], results[middle]
