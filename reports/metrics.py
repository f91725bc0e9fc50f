"""What every number means: one row a query, float64, undefined is NaN; averages come last.

The runner hands test and valid to the same two verbs, `judge_queries` and `summarize`; the leaderboard
resamples the rows the first one returns. Nothing here reads, writes or prints.
"""

import math

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whalebench.reports.averages import mean
from whalebench.reports.conformal import set_metrics, set_threshold
from whalebench.reports.judging import judge_queries
from whalebench.reports.open_set import open_set_metrics
from whalebench.reports.ranking import NEW, average_precision_at_k
from whalebench.reports.reliability import calibration_error, reliability
from whalebench.reports.retrieval import average_precision_at_r
from whalebench.reports.thresholds import means_by_threshold

__all__ = [
    "NEW",
    "accuracy_new",
    "area_under_roc",
    "average_precision_at_k",
    "average_precision_at_r",
    "balanced_accuracy",
    "calibration_error",
    "cmc",
    "judge_queries",
    "mean",
    "means_by_threshold",
    "open_set_metrics",
    "reliability",
    "set_metrics",
    "set_threshold",
    "summarize",
]


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


def balanced_accuracy(said_new: NDArray[np.bool_], is_new: NDArray[np.bool_]) -> float:
    """Mean of the share of *new* photos called new and of known photos not called new; NaN without both.

    >>> balanced_accuracy(np.array([True, False, False]), np.array([True, True, False]))
    0.75
    """
    if is_new.all() or not is_new.any():
        return math.nan
    return float((said_new[is_new].mean() + (~said_new[~is_new]).mean()) / 2)


def accuracy_new(queries: pd.DataFrame) -> float:
    """Balanced accuracy of "the first candidate is *new*"; NaN where *new* was no candidate."""
    is_new = (queries["truth"] == NEW).to_numpy()
    if queries["rank"].isna().any():  # a new photo without a rank: *new* was no candidate
        return math.nan
    return balanced_accuracy((queries["candidate_1"] == NEW).to_numpy(), is_new)


def summarize(queries: pd.DataFrame) -> dict[str, float]:
    """Every metric of a per-query table by its key, NaN where it is undefined (none new, none known)."""
    is_new = (queries["truth"] == NEW).to_numpy()
    precision, new_score = queries["average_precision_at_5"].to_numpy(), queries["new_score"].to_numpy()
    return (
        {
            "map_at_5": mean(precision),
            "top_1": mean(queries["top_1"]),
            "top_5": mean(queries["top_5"]),
            "log_loss": mean(queries["log_loss"]),
            "auroc_new": area_under_roc(new_score[is_new], new_score[~is_new]),
            "map_at_r": mean(queries["average_precision_at_r"]),
            "accuracy_new": accuracy_new(queries),
            "map_at_5_known": mean(precision[~is_new]),
            "map_at_5_new": mean(precision[is_new]),
        }
        | open_set_metrics(queries)
        | set_metrics(queries)
    )


def cmc(queries: pd.DataFrame, ranks: int = 20) -> list[float]:
    """Share of known queries with the truth among the first 1, 2, ... `ranks`; empty if none is known."""
    rank = queries.loc[queries["truth"] != NEW, "rank"].to_numpy()
    return [float((rank <= place).mean()) for place in range(1, ranks + 1)] if len(rank) else []
