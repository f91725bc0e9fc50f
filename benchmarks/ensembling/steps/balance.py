"""The class-balance rule: a close second that nobody else is called comes before a first called too often."""

from __future__ import annotations

from itertools import product

import numpy as np

from whalebench.benchmarks.ensembling.mixing import Scores
from whalebench.benchmarks.ensembling.steps.step import Queries, Setting, Step


class Balance(Step):
    """First and second candidate change places under three conditions (1st place of Humpback 2019).

    Their probabilities are less than `gap` apart (published: 0.3); the second is nobody's first; the first is
    that of more than `many` times as many photos as individuals that are named at all have on average. The
    closest pairs come first, and each change counts for the next.
    """

    name = "balance"
    transductive = True
    settings = tuple({"gap": gap, "many": many} for gap, many in product((0.1, 0.3, 0.5), (3.0, 2.0, 1.0)))

    def unfit(self, valid: Queries, test: Queries) -> str:
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
