"""How sure a number is: 95 % intervals, differences in pairs, and ranks shared where nothing is certain."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from whalebench.reports.ranking import Floats
from whalebench.reports.resampling import RESAMPLES, check_same_queries, distributions

__all__ = [
    "Difference",
    "Interval",
    "check_same_queries",
    "difference",
    "distributions",
    "interval",
    "intervals",
    "paired_difference",
    "shared_ranks",
]

QUANTILES = (0.025, 0.975)


class Interval(NamedTuple):
    """Ends of a 95 % interval; NaN where the metric is undefined or rests on one individual."""

    low: float
    high: float


class Difference(NamedTuple):
    """First minus second on the same queries, with its paired 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def differs(self) -> bool:
        """Whether the interval leaves out zero, so that the two can be told apart."""
        return self.low > 0 or self.high < 0


def interval(distribution: Floats) -> Interval:
    """The middle 95 % of the draws (all but the first number), those undefined left out.

    >>> interval(np.array([0.5, *np.linspace(0, 1, 101)]))
    Interval(low=0.025, high=0.975)
    """
    draws = distribution[1:]
    defined = draws[np.isfinite(draws)]
    if not len(defined):
        return Interval(np.nan, np.nan)
    low, high = np.quantile(defined, QUANTILES)
    return Interval(float(low), float(high))


def intervals(queries: pd.DataFrame, resamples: int = RESAMPLES) -> dict[str, Interval]:
    """The 95 % interval of every metric of one run by its key, the same on each call."""
    return {key: interval(values) for key, values in distributions([queries], resamples)[0].items()}


def difference(first: Floats, second: Floats) -> Difference:
    """First minus second, given one metric of both on the same draws (see `distributions`)."""
    gap = first - second
    return Difference(float(gap[0]), *interval(gap))


def paired_difference(
    first: pd.DataFrame, second: pd.DataFrame, key: str = "map_at_5", resamples: int = RESAMPLES
) -> Difference:
    """First minus second in one metric with its paired interval; runs on other queries are refused."""
    one, other = distributions([first, second], resamples)
    return difference(one[key], other[key])


def shared_ranks(distributions: Sequence[Floats]) -> list[int | None]:
    """Rank of each row, the highest value first; None where it is undefined.

    A row shares the rank of its group's leader when the paired interval of leader minus row holds zero, else
    it leads a group of its own, ranked by its place. Equal values keep the order given.
    """
    ranks: list[int | None] = [None] * len(distributions)
    defined = [row for row, values in enumerate(distributions) if np.isfinite(values[0])]
    leader, rank = -1, 0
    for place, row in enumerate(sorted(defined, key=lambda row: -distributions[row][0]), start=1):
        if leader < 0 or difference(distributions[leader], distributions[row]).differs:
            leader, rank = row, place
        ranks[row] = rank
    return ranks
