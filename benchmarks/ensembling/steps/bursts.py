"""The burst rule: photos that were taken together answer together."""

from __future__ import annotations

import numpy as np
import pandas as pd

from whalebench.benchmarks.ensembling.mixing import Scores
from whalebench.benchmarks.ensembling.steps.step import Queries, Setting, Step


class Bursts(Step):
    """All photos of an encounter get the mean of their scores.

    Right where an encounter is of one animal. Which test photos were taken together is no answer, but has to
    be known when they are scored, all at once: transductive.
    """

    name = "bursts"
    transductive = True

    def unfit(self, valid: Queries, test: Queries) -> str:
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
