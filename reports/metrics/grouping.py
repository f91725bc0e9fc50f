"""How good groups of photos are that were made without names, and how many individuals reviewed ones show.

The scores compare two labellings of the same photos and look at who is together, never at what a group is
called.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import nan, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Z = 1.959964
"""For intervals of 95 %."""


def adjusted_rand_index(identities: Sequence[str], groups: Sequence[int]) -> float:
    """The share of pairs on which groups and identities agree, less what chance would give (Hubert, 1985).

    1 is agreement, 0 what a shuffled grouping has on average. NaN for fewer than two photos.

    >>> adjusted_rand_index(["ann", "ann", "bob", "bob"], [0, 0, 1, 2])
    0.5714285714285714
    """
    if len(groups) < 2:
        return nan
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(identities, groups))


def adjusted_mutual_information(identities: Sequence[str], groups: Sequence[int]) -> float:
    """What groups and identities tell of each other, less what chance would give, by their mean entropy.

    1 is agreement, 0 what a shuffled grouping has on average (Vinh, Epps and Bailey, 2010). NaN for fewer
    than two photos.
    """
    if len(groups) < 2:
        return nan
    from sklearn.metrics import adjusted_mutual_info_score

    return float(adjusted_mutual_info_score(identities, groups))


def pair_scores(identities: Sequence[str], groups: Sequence[int]) -> dict[str, float]:
    """`pair_precision`, `pair_recall`, `pair_f1`: of pairs in one group, of one individual, harmonic mean.

    Precision is NaN where no two photos are in one group, recall where no two show one individual, F1 where
    both are.

    >>> pair_scores(["ann", "ann", "bob", "bob"], [0, 0, 1, 2])["pair_recall"]
    0.5
    """
    shared, of_individual, of_group = _shared(identities, groups)
    right, in_groups, of_one = (float((n * (n - 1) // 2).sum()) for n in (shared, of_group, of_individual))
    return {
        "pair_precision": right / in_groups if in_groups else nan,
        "pair_recall": right / of_one if of_one else nan,
        "pair_f1": 2 * right / (in_groups + of_one) if in_groups + of_one else nan,
    }


def b_cubed(identities: Sequence[str], groups: Sequence[int]) -> dict[str, float]:
    """`bcubed_precision`, `bcubed_recall`, `bcubed_f1`: means over photos (Bagga and Baldwin, 1998).

    Of each photo, the share of its group that shows its individual, and the share of its individual that is
    in its group, itself included. NaN without a photo.

    >>> b_cubed(["ann", "ann", "bob", "bob"], [0, 0, 1, 2])["bcubed_recall"]
    0.75
    """
    if not len(groups):
        return dict.fromkeys(("bcubed_precision", "bcubed_recall", "bcubed_f1"), nan)
    individual, group = _places(identities), _places(groups)
    cell = individual * (group.max() + 1) + group
    sizes = [np.bincount(labels)[labels] for labels in (cell, group, individual)]
    precision, recall = (float((sizes[0] / whole).mean()) for whole in sizes[1:])
    return {
        "bcubed_precision": precision,
        "bcubed_recall": recall,
        "bcubed_f1": 2 * precision * recall / (precision + recall),
    }


def grouping_scores(identities: Sequence[str], groups: Sequence[int]) -> dict[str, float]:
    """All of the above with `ari` and `ami`, and how many `photos`, `individuals` and `groups` there are."""
    return {
        "photos": len(groups),
        "individuals": len(set(identities)),
        "groups": len(set(groups)),
        "ari": adjusted_rand_index(identities, groups),
        "ami": adjusted_mutual_information(identities, groups),
        **pair_scores(identities, groups),
        **b_cubed(identities, groups),
    }


class Stratum(NamedTuple):
    """Photos of one kind, how many of them were drawn and decided, and how many of those were first."""

    photos: int
    decided: int
    first: int

    def total(self) -> tuple[float, float, float]:
        """How many photos of it are first, with the ends of an interval; of some decided, or none there."""
        size, n, x = self
        if n == size:
            return float(x), float(x), float(x)
        share, effective = x / n, n * (size - 1) / (size - n)
        centre = (share + Z**2 / (2 * effective)) / (1 + Z**2 / effective)
        half = sqrt(share * (1 - share) / effective + (Z / (2 * effective)) ** 2) * Z / (1 + Z**2 / effective)
        return size * share, max(size * (centre - half), x), min(size * (centre + half), size - (n - x))


class Count(NamedTuple):
    """How many individuals there are; the ends of its interval are None where no pairs were reviewed."""

    value: float
    low: float | None = None
    high: float | None = None
    photos: int = 0
    """How many drawn photos were decided."""


def combined(strata: Sequence[Stratum]) -> Count:
    """The photos of all strata that are first, with an interval from theirs (Zou and Donner, 2008).

    >>> combined([Stratum(40, 20, 18), Stratum(100, 25, 1)]).value
    40.0
    """
    totals = [stratum.total() for stratum in strata]
    value = sum(total for total, _, _ in totals)
    below, above = (sqrt(sum((total[0] - total[end]) ** 2 for total in totals)) for end in (1, 2))
    return Count(value, value - below, value + above, sum(stratum.decided for stratum in strata))


def _shared(identities: Sequence[str], groups: Sequence[int]) -> tuple[Counts, Counts, Counts]:
    """How many photos each group shares with each individual, as far as any, and how many either has."""
    individual, group = _places(identities), _places(groups)
    _, shared = np.unique(np.stack([individual, group]), axis=1, return_counts=True)
    return shared.astype(np.int64), np.bincount(individual), np.bincount(group)


def _places(labels: Sequence[str] | Sequence[int]) -> Counts:
    return np.unique(np.asarray(labels), return_inverse=True)[1].astype(np.int64)
