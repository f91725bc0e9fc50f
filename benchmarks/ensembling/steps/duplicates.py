"""Known duplicates: individuals that a file says are one animal under several names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from whalebench import WhalebenchError
from whalebench.benchmarks.ensembling.mixing import Scores
from whalebench.benchmarks.ensembling.steps.step import Queries, Setting, Step

Groups = tuple[tuple[str, ...], ...]
"""Names of individuals that are one animal."""


class Duplicates(Step):
    """Where the first candidate has duplicates, they come right after it, by score (Humpback 2019, 3rd).

    They get its score, less the least there is, for they are as likely as it is.
    """

    name = "duplicates"
    transductive = False

    def unfit(self, valid: Queries, test: Queries) -> str:
        """A group of which two names are known in the fold."""
        del valid, test
        return "" if self.gallery.groups else "no group of duplicates has two individuals known in this fold"

    def scores(self, queries: Queries, setting: Setting) -> Scores:
        """The same scores, those of duplicates of the first raised."""
        del setting
        found, first = queries.scores.copy(), queries.leaders[0][:, 0]
        group_of = {column: group for group in self.gallery.groups for column in group}
        for row in np.flatnonzero(np.isin(first, list(group_of))):
            others = sorted(
                (column for column in group_of[first[row]] if column != first[row]),
                key=lambda column, row=row: queries.scores[row, column],  # type: ignore[misc]
            )
            value = found[row, first[row]]
            # Above whoever has the score of the first, too.
            for column in (*others, first[row]):
                value = np.nextafter(value, np.float32(np.inf))
                found[row, column] = value
        return found


def read_groups(file: Path) -> Groups:
    """The groups of a CSV: a group in each row's `SubId`, or an `identity` and its `group` in each row.

    `SubId` holds names with spaces between them, as in Humpback 2019's published list. Raises WhalebenchError
    for a file that cannot be read, without these columns, or that puts one name into two groups.
    """
    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise WhalebenchError(f"{file} cannot be read ({error}): give a CSV of duplicate groups.") from error
    if "SubId" in table:
        groups = [tuple(sorted(set(names.split()))) for names in table["SubId"]]
    elif {"identity", "group"} <= set(table):
        grouped = table[table["group"].str.strip() != ""].groupby("group")
        groups = [tuple(sorted(set(part["identity"]))) for _, part in grouped]
    else:
        raise WhalebenchError(
            f"{file} has the columns {', '.join(map(str, table))}: give `SubId` with names in a row, or "
            f"`identity` and `group`."
        )
    named = [name for group in groups for name in group]
    if twice := sorted({name for name in named if named.count(name) > 1}):
        raise WhalebenchError(f"{file} puts {twice[0]} into several groups: make them one.")
    return tuple(sorted(groups))
