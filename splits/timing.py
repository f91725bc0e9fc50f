"""The time-aware protocol: learned from what was photographed before a day, tested on what came after it.

Dates are compared as the texts they are, which ISO 8601 allows; a year or a month is all of its days.
"""

import re
from collections.abc import Mapping
from datetime import date

import pandas as pd

from whalebench import WhalebenchError, one_line
from whalebench.benchmarks.core.catalog import Catalog
from whalebench.splits.assignment import LEFT_OUT, NEVER, Group
from whalebench.splits.groupings import DAY, days_of

LAST = "~"
"""Sorts after every character of a date, so that a month with it is the end of the month."""


def cutoff_of(catalog: Catalog, cutoff: str, test_share: float) -> str:
    """The first day of the test as ISO 8601: the one given, or that from which on this share of photos is.

    The share is of the photos whose day is known. Raises WhalebenchError where none is, or for no day.
    """
    days = sorted(filter(None, days_of(catalog.table)))
    if not days:
        raise WhalebenchError(
            f"{catalog.name} says of no photo on which day it was taken, so no split can be time-aware: fill "
            f"the column date and import it again."
        )
    if not cutoff:
        return days[min(len(days) - 1, round((1 - test_share) * len(days)))]
    try:
        if not re.fullmatch(r"\d{4}-\d\d-\d\d", cutoff, re.ASCII):
            raise ValueError("another form")
        date.fromisoformat(cutoff)
    except ValueError as error:
        raise WhalebenchError(
            f"A cutoff of {one_line(repr(cutoff), 60)} is no day: write it as "
            f"{days[len(days) // 2]}, which is one of {catalog.name}."
        ) from error
    return cutoff


def folds_by_time(
    table: pd.DataFrame, groups: tuple[Group, ...], cutoff: str
) -> tuple[dict[str, int], tuple[str, ...]]:
    """The fold of each group by name: 0 from the cutoff on, else never tested; and what to know of it.

    A group that begins before the cutoff and ends after it is in no part; one without a date is in train.
    """
    dates = dates_of(table)
    fold_of, undated = {}, 0
    for group in groups:
        known = [dates[image] for image in group.images if dates[image]]
        after = bool(known) and min(known) >= cutoff
        before = all(day + LAST < cutoff for day in known)
        fold_of[group.name] = 0 if after else NEVER if before else LEFT_OUT
        undated += sum(not dates[image] for image in group.images) * before
    left_out = sum(group.size for group in groups if fold_of[group.name] == LEFT_OUT)
    warnings = []
    if undated:
        warnings.append(f"{undated} photos without a date are in train, whenever they were taken.")
    if left_out:
        warnings.append(
            f"{left_out} photos are in no part: their encounter, or all that their date says, lies on both "
            f"sides of {cutoff}."
        )
    return fold_of, tuple(warnings)


def dates_of(table: pd.DataFrame) -> Mapping[str, str]:
    """The date of each image, as far as the day."""
    return {
        image: text[:DAY] for image, text in zip(table["image"].tolist(), table["date"].tolist(), strict=True)
    }
