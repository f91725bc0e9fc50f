"""Steps by rule of thumb: class balance, bursts, photo sizes, and known duplicates."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd

from whalebench.benchmarks.ensembles.step import Queries, Setting, Step
from whalebench.methods.parts.fusion import Scores


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
        return "" if test.scores.shape[1] > 1 else "there is one individual only"

    def scores(self, queries: Queries, setting: Setting) -> Scores:
        """The same scores, two of some photos exchanged."""
        columns, probabilities = queries.leaders
        changed, counts = queries.scores.copy(), np.bincount(columns[:, 0], minlength=queries.scores.shape[1])
        gaps = probabilities[:, 0] - probabilities[:, 1]
        close = np.flatnonzero(gaps < setting["gap"])
        for row in close[np.argsort(gaps[close], kind="stable")]:
            first, second = columns[row, :2]
            often = setting["many"] * len(columns) / np.count_nonzero(counts)
            if counts[second] == 0 and counts[first] > often:
                changed[row, [first, second]] = changed[row, [second, first]]
                counts[first] -= 1
                counts[second] += 1
        return changed


class Bursts(Step):
    """All photos of an encounter get the mean of their scores.

    Right where an encounter is of one animal. Which test photos were taken together is no answer, but has to
    be known when they are scored, all at once: transductive.
    """

    name = "bursts"
    transductive = True

    def missing_requirement(self, valid: Queries, test: Queries) -> str:
        """Encounters of several test photos."""
        named = [encounter for encounter in test.encounters if encounter]
        if not named:
            return "the catalog names no encounters of test photos"
        return "" if len(set(named)) < len(named) else "no two test photos are of one encounter"

    def scores(self, queries: Queries, setting: Setting) -> Scores:
        """The means; a photo of no encounter, or alone in it, keeps its scores."""
        changed = queries.scores.copy()
        grouped = pd.Series(queries.encounters).groupby(list(queries.encounters))
        for encounter, rows in grouped.indices.items():
            if encounter and len(rows) > 1:
                changed[rows] = np.mean(queries.scores[rows], axis=0, dtype=np.float64)
        return changed


class Sizes(Step):
    """Where train photos of exactly one rival have the photo's width and height, that one becomes first.

    Rivals are the first five candidates, as far as their probability is less than `gap` below that of the
    first. Third place of Humpback 2019 had the rule for duplicates: after the step `duplicates` it is theirs.
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
        columns, probabilities = queries.leaders
        gallery, changed = self.gallery, queries.scores.copy()
        held = set(zip(gallery.labels.tolist(), *gallery.sizes.T.tolist(), strict=True))
        rivals = probabilities[:, :1] - probabilities < setting["gap"]
        for row in np.flatnonzero(rivals.sum(axis=1) > 1):
            size = tuple(queries.sizes[row].tolist())
            fitting = [column for column in columns[row, rivals[row]].tolist() if (column, *size) in held]
            if len(fitting) == 1:
                pair = [columns[row, 0], fitting[0]]
                changed[row, pair] = changed[row, pair[::-1]]
        return changed


class Duplicates(Step):
    """Where the first candidate has duplicates, they come right after it, by score (Humpback 2019, 3rd).

    They get its score, less the least there is, for they are as likely as it is.
    """

    name = "duplicates"
    transductive = False

    def missing_requirement(self, valid: Queries, test: Queries) -> str:
        """A group of which two names are known in the fold."""
        return "" if self.gallery.groups else "no group of duplicates has two individuals known in this fold"

    def scores(self, queries: Queries, setting: Setting) -> Scores:
        """The same scores, those of duplicates of the first raised."""
        changed, first = queries.scores.copy(), queries.leaders[0][:, 0]
        group_of = {column: group for group in self.gallery.groups for column in group}
        for row in np.flatnonzero(np.isin(first, list(group_of))):
            others = sorted(
                (column for column in group_of[first[row]] if column != first[row]),
                key=lambda column, row=row: queries.scores[row, column],  # type: ignore[misc]
            )
            value = changed[row, first[row]]
            # Above whoever has the score of the first, too.
            for column in (*others, first[row]):
                value = np.nextafter(value, np.float32(np.inf))
                changed[row, column] = value
        return changed


STEPS: tuple[type[Step], ...] = (Duplicates, Sizes, Bursts, Balance)
