"""Known duplicates: individuals that a file says are one animal under several names.

The class-balance rule: a close second that nobody else is called comes before a first called too often.

The burst rule: photos that were taken together answer together.

The size rule: of candidates that are hardly told apart, the one who has photos of the photo's size.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from whalebench import WhalebenchError
from whalebench.benchmarks.ensembles.fusion import Scores
from whalebench.benchmarks.ensembles.step import Queries, Setting, Step


class Balance(Step):
    """First and second candidate change places under three conditions (1st place of Humpback 2019).

    Their probabilities are less than `gap` apart (published: 0.3); the second is nobody's first; the first is
    that of more than `many` times as many photos as individuals that are named at all have on average. The
    closest pairs come first, and each change counts for the next.
    """

    name = "balance"
    transductive = True
    settings = tuple({"gap": gap, "many": many} for gap, many in product((0.1, 0.3, 0.5), (3.0, 2.0, 1.0)))

    def missing_requirement(self, valid: Queries, test: Queries) -> str:
        """A second individual."""
        del valid
        return "" if test.scores.shape[1] > 1 else "there is one individual only"

    def scores(self, queries: Queries, setting: Setting) -> Scores:
        """The same scores, two of some photos exchanged."""
        columns, chances = queries.leaders
        found, counts = queries.scores.copy(), np.bincount(columns[:, 0], minlength=queries.scores.shape[1])
        gaps = chances[:, 0] - chances[:, 1]
        close = np.flatnonzero(gaps < setting["gap"])
        for row in close[np.argsort(gaps[close], kind="stable")]:
            first, second = columns[row, :2]
            often = setting["many"] * len(columns) / np.count_nonzero(counts)
            if counts[second] == 0 and counts[first] > often:
                found[row, [first, second]] = found[row, [second, first]]
                counts[first] -= 1
                counts[second] += 1
        return found


class Bursts(Step):
    """All photos of an encounter get the mean of their scores.

    Right where an encounter is of one animal. Which test photos were taken together is no answer, but has to
    be known when they are scored, all at once: transductive.
    """

    name = "bursts"
    transductive = True

    def missing_requirement(self, valid: Queries, test: Queries) -> str:
        """Encounters of several test photos."""
        del valid
        named = [encounter for encounter in test.encounters if encounter]
        if not named:
            return "the catalog names no encounters of test photos"
        return "" if len(set(named)) < len(named) else "no two test photos are of one encounter"

    def scores(self, queries: Queries, setting: Setting) -> Scores:
        """The means; a photo of no encounter, or alone in it, keeps its scores."""
        del setting
        found = queries.scores.copy()
        for encounter, rows in (
            pd.Series(queries.encounters).groupby(list(queries.encounters)).indices.items()
        ):
            if encounter and len(rows) > 1:
                found[rows] = np.mean(queries.scores[rows], axis=0, dtype=np.float64)
        return found


class Sizes(Step):
    """Where train photos of exactly one rival have the photo's width and height, that one becomes first.

    Rivals are the first five candidates, as far as their probability is less than `gap` below that of the
    first. Seed 000 had the rule for duplicates; after the step `duplicates` it is its rule.
    """

    name = "sizes"
    transductive = False
    settings = ({"gap": 0.05}, {"gap": 0.1}, {"gap": 0.3}, {"gap": 0.5})

    def missing_requirement(self, valid: Queries, test: Queries) -> str:
        """Sizes in the catalog that differ."""
        every = np.concatenate([self.gallery.sizes, valid.sizes, test.sizes])
        if not every.all():
            return "the catalog does not have the size of every photo"
        width, height = every[0]
        return "" if (every != every[0]).any() else f"all photos are of one size, {width} x {height}"

    def scores(self, queries: Queries, setting: Setting) -> Scores:
        """The same scores, in some photos those of two candidates exchanged."""
        columns, chances = queries.leaders
        gallery, found = self.gallery, queries.scores.copy()
        held = set(zip(gallery.labels.tolist(), *gallery.sizes.T.tolist(), strict=True))
        rivals = chances[:, :1] - chances < setting["gap"]
        for row in np.flatnonzero(rivals.sum(axis=1) > 1):
            size = tuple(queries.sizes[row].tolist())
            fitting = [column for column in columns[row, rivals[row]].tolist() if (column, *size) in held]
            if len(fitting) == 1:
                pair = [columns[row, 0], fitting[0]]
                found[row, pair] = found[row, pair[::-1]]
        return found


Groups = tuple[tuple[str, ...], ...]
"""Names of individuals that are one animal."""


class Duplicates(Step):
    """Where the first candidate has duplicates, they come right after it, by score (Humpback 2019, 3rd).

    They get its score, less the least there is, for they are as likely as it is.
    """

    name = "duplicates"
    transductive = False

    def missing_requirement(self, valid: Queries, test: Queries) -> str:
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
