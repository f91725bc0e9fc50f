"""Averages, the same in whatever order: undefined values are left out, and of none at all the mean is NaN."""

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable


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
    members: dict[Hashable, list[float]] = defaultdict(list)
    for value, group in zip(values, groups, strict=True):
        members[group].append(value)
    return mean(mean(own) for own in members.values())


def geometric_mean(first: float, second: float) -> float:
    """The square root of the product of two shares, 0 where either is 0; NaN where either is undefined.

    >>> geometric_mean(0.25, 1.0), geometric_mean(0.25, math.nan)
    (0.5, nan)
    """
    return math.sqrt(first * second)
