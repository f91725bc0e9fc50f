"""The rules by name and what some of them take besides; light, for the command line."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from whalebench import WhalebenchError, one_line
from whalebench.benchmarks.core.workspace import regular_file

Rule = Literal[
    "mean",
    "product",
    "vote",
    "knn",
    "logistic",
    "lightgbm",
    "pairs",
    "logistic-features",
    "lightgbm-features",
]
RULES: tuple[str, ...] = get_args(Rule)
"""What may be typed after --rule."""
HOURS = 2.0
"""Longest that local matches may be estimated to take unless told otherwise."""
MAX_BYTES = 100_000_000
"""The largest file of groups that is read: several million names."""
Groups = tuple[tuple[str, ...], ...]
"""Names of individuals that are one animal."""
TAKERS = {
    "pca": ("logistic-features", "lightgbm-features"),
    "local_matches": ("pairs",),
    "hours": ("pairs",),
}
"""The rules that take each option."""


@dataclass(frozen=True)
class Options:
    """What some rules take, as typed."""

    pca: int | None = None
    """Principal components that the features are turned to; all features as they are where None."""
    local_matches: bool = False
    """Whether key points that two photos share are a feature of theirs."""
    hours: float | None = None
    """Longest that they may be estimated to take, over both parts; HOURS where None."""

    def check(self, rule: str) -> None:
        """Raises WhalebenchError for values that cannot be, and for what the rule would ignore."""
        for name in self.changed():
            if rule not in TAKERS[name]:
                raise WhalebenchError(
                    f"--{name.replace('_', '-')} means nothing to --rule {rule}: leave it out, or use --rule "
                    f"{' or '.join(TAKERS[name])}."
                )
        if self.pca is not None and self.pca < 1:
            raise WhalebenchError(f"--pca {self.pca} components are none: give 1 or more, or leave it out.")
        if self.hours is not None and not self.local_matches:
            raise WhalebenchError(
                f"--hours {self.hours:g} bounds the comparing of key points, which was not asked for: add "
                f"--local-matches, or leave it out."
            )
        if self.hours is not None and not self.hours > 0:
            raise WhalebenchError(f"--hours {self.hours:g} is no time: give more than 0.")

    def changed(self) -> dict[str, Any]:
        """By name what differs from the defaults."""
        values = {field.name: (getattr(self, field.name), field.default) for field in fields(self)}
        return {name: value for name, (value, default) in values.items() if value != default}

    def settings(self) -> dict[str, Any]:
        """What differs from the defaults and can change a score."""
        return {name: value for name, value in self.changed().items() if name != "hours"}


NO_OPTIONS = Options()
"""The defaults."""


def read_groups(file: Path) -> Groups:
    """The groups of a CSV: a group in each row's `SubId`, or an `identity` and its `group` in each row.

    `SubId` holds names with spaces between them, as in Humpback 2019's published list. Raises WhalebenchError
    for a file that cannot be read, without these columns, or that puts one name into two groups.
    """
    import pandas as pd

    try:
        size = regular_file(file).stat().st_size
        if size > MAX_BYTES:
            raise WhalebenchError(
                f"{file} has {size:,} bytes, and {MAX_BYTES:,} are the most: leave out what is in no group."
            )
        table = pd.read_csv(file, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise WhalebenchError(
            f"{file} cannot be read ({one_line(error)}): give a CSV of duplicate groups."
        ) from error
    if "SubId" in table:
        groups = [tuple(sorted(set(names.split()))) for names in table["SubId"]]
    elif {"identity", "group"} <= set(table):
        grouped = table[table["group"].str.strip() != ""].groupby("group")
        groups = [tuple(sorted(set(part["identity"]))) for _, part in grouped]
    else:
        columns = one_line(", ".join(map(str, table)), 80)
        raise WhalebenchError(
            f"{file} has the columns {columns}: give `SubId` with names in a row, or `identity` and `group`."
        )
    named = Counter(name for group in groups for name in group)
    if twice := sorted(name for name, times in named.items() if times > 1):
        raise WhalebenchError(f"{file} puts {twice[0]} into several groups: make them one.")
    return tuple(sorted(groups))
