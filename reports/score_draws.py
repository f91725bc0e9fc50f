"""What needs every query on each draw, not sums by cluster: AUROC of *new*, and detection rates."""

from typing import Literal

import numpy as np
import pandas as pd

from whalebench.reports.open_set import FALSE_ALARMS, alarms_allowed, best_is_right
from whalebench.reports.ranking import NEW, Floats, Integers, row_blocks

KEYS = ("auroc_new", *FALSE_ALARMS)
SIDES: tuple[Literal["left", "right"], ...] = ("left", "right")


class ScoreDraws:
    """Known and *new* queries of a run in the order of their score of *new*, and whom they are drawn with."""

    def __init__(self, table: pd.DataFrame, codes: Integers) -> None:
        is_new, scores = (table["truth"] == NEW).to_numpy(), table["new_score"].to_numpy()
        order = np.argsort(scores, kind="stable")
        known, new = order[~is_new[order]], order[is_new[order]]
        self.known, self.new = codes[known], codes[new]
        self.right = best_is_right(table)[known].astype(np.float64)
        # How many known queries score below a new one, and how many no higher.
        self.below, self.up_to = (np.searchsorted(scores[known], scores[new], side=side) for side in SIDES)

    def clusters(self) -> int:
        """How many clusters the kind of queries rests on that has fewer."""
        return min(len(set(self.known)), len(set(self.new)))

    def values(self, counts: Floats) -> dict[str, Floats]:
        """Each metric for each row of counts (how often each cluster is drawn); NaN without both kinds."""
        found = {key: np.full(len(counts), np.nan) for key in KEYS}
        if not self.clusters():
            return found
        for rows in row_blocks(len(counts), 8 * (len(self.known) + len(self.new))):
            weights = np.ascontiguousarray(counts[rows].T)  # whole rows are gathered below
            known, new = weights[self.known], weights[self.new]
            both = (known.sum(axis=0) > 0) & (new.sum(axis=0) > 0)
            for key, values in (self._auroc(known, new) | self._detection(known, new)).items():
                found[key][rows] = np.where(both, values, np.nan)
        return found

    def _auroc(self, known: Floats, new: Floats) -> dict[str, Floats]:
        """Of weights (known queries, draws) and (new queries, draws)."""
        passed = _cumulative(known)
        wins = np.einsum("ij,ij->j", new, passed[self.below]) + np.einsum("ij,ij->j", new, passed[self.up_to])
        return {"auroc_new": wins / 2 / np.maximum(new.sum(axis=0) * passed[-1], 1)}

    def _detection(self, known: Floats, new: Floats) -> dict[str, Floats]:
        """Of the same weights. The score of *new* is minus the best: whoever raises an alarm comes first."""
        alarms, hits = _cumulative(new)[1:], _cumulative(self.right[:, None] * known)
        number, found = np.maximum(known.sum(axis=0), 1), {}
        for key, share in FALSE_ALARMS.items():
            allowed = np.array([alarms_allowed(share, photos) for photos in alarms[-1]])
            one_too_many = np.minimum((alarms <= allowed).sum(axis=0), len(alarms) - 1)
            found[key] = hits[self.below[one_too_many], np.arange(len(number))] / number
        return found


def _cumulative(rows: Floats) -> Floats:
    """Sums of the first 0, 1, 2, ... rows; numpy's cumsum along rows takes several times as long."""
    sums = np.zeros((len(rows) + 1, rows.shape[1]))
    for place, row in enumerate(rows):
        np.add(sums[place], row, out=sums[place + 1])
    return sums
