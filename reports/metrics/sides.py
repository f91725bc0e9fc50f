"""What embeddings find by photos of the same side of an animal, and by photos of its other sides alone.

Where the two sides of an animal look different, photos of the other side should be worth no more than a
guess. Where they are worth as much as those of the same side, the network reads something else than the
pattern: shape, scars, or the light and the place that both sides share.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whalebench.benchmarks.core.arrays import columns_of, normalise, row_blocks
from whalebench.reports.metrics.jackknife import (
    Deletions,
    column_deletions,
    difference,
    interval_of,
)
from whalebench.reports.metrics.ranking import (
    Floats,
    expected_over_ties,
    ties_of_truth,
    uniform_guess,
)

SAME, OTHER, GUESS = "precision_same_side", "precision_other_side", "precision_side_guess"
"""Columns of the per-query table, see `precision_by_side`."""


class SideView(NamedTuple):
    """Embedded photos with what is seen on them, one of each a photo."""

    embeddings: NDArray[np.float32]
    """(photos, dimensions), of any length but finite."""
    individuals: Sequence[str]
    viewpoints: Sequence[str]
    """Empty where not given."""


def precision_by_side(queries: SideView, gallery: SideView) -> pd.DataFrame:
    """A row a query of `SAME`, `OTHER`, `GUESS`: average precision at 5 by the nearest photo.

    Candidates of a viewpoint are the individuals that the gallery shows both from it and from another, the
    same for both columns and for the guess. NaN for a query whose own individual is none of them, and where
    there are fewer than two.
    """
    columns = {name: np.full(len(queries.individuals), np.nan) for name in (SAME, OTHER, GUESS)}
    truth, seen_from = np.array(queries.individuals, object), np.array(queries.viewpoints, object)
    of, from_where = np.array(gallery.individuals, object), np.array(gallery.viewpoints, object)
    for viewpoint in sorted(set(queries.viewpoints) - {""}):
        same, other = from_where == viewpoint, (from_where != viewpoint) & (from_where != "")
        candidates = sorted(set(of[same]) & set(of[other]))
        rows = np.flatnonzero((seen_from == viewpoint) & np.isin(truth, candidates))
        if len(candidates) < 2 or not len(rows):
            continue
        wanted = truth[rows].tolist()
        for name, side in ((SAME, same), (OTHER, other)):
            photos = np.flatnonzero(side & np.isin(of, candidates))
            known = gallery.embeddings[photos], of[photos].tolist()
            columns[name][rows] = _precision(queries.embeddings[rows], wanted, *known, candidates)
        columns[GUESS][rows] = uniform_guess(wanted, len(candidates), new_is_candidate=False)
    return pd.DataFrame(columns)


def _precision(
    query: NDArray[np.float32],
    truth: Sequence[str],
    gallery: NDArray[np.float32],
    individuals: Sequence[str],
    candidates: Sequence[str],
) -> Floats:
    """Average precision at 5 (queries,) by the nearest photo of each candidate, all of which have photos."""
    column_of = columns_of(candidates)
    labels = np.array([column_of[name] for name in individuals], np.int64)
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], np.arange(len(candidates)))
    left, right = normalise(query).astype(np.float64), normalise(gallery[order]).astype(np.float64)
    wanted, found = np.array([column_of[name] for name in truth], np.int64), np.empty(len(query))
    for block in row_blocks(len(query), len(gallery)):
        scores = np.maximum.reduceat(left[block] @ right.T, starts, axis=1)
        ties = ties_of_truth(scores, wanted[block])
        found[block] = expected_over_ties(*ties, None)["average_precision_at_5"]
    return found


class Sides(NamedTuple):
    """MAP@5 of embeddings by the nearest photo of the same side and of other sides, on the same photos."""

    photos: int
    """Test photos whose individual train shows from their viewpoint and from another."""
    individuals: int
    guess: float
    """MAP@5 of a guess among the same individuals."""
    metrics: dict[str, float]
    """`same_side`, `other_side` and the `lead` of the first, each with `<key>_low` and `<key>_high`."""

    @property
    def alike(self) -> bool:
        """Whether the other side is better than a guess, and not told to be worse than the same."""
        return self.metrics["other_side_low"] > self.guess and self.metrics["lead_low"] <= 0


def sides(queries: pd.DataFrame) -> list[Sides]:
    """The sides of a per-query table, one or none where no photo can be compared by both."""
    compared = queries[queries[SAME].notna()]
    if not len(compared):
        return []
    same, other = (column_deletions(compared, name) for name in (SAME, OTHER))
    lead = difference(same, other)
    metrics = _with_ends("same_side", same) | _with_ends("other_side", other)
    metrics |= {"lead": lead.value, "lead_low": lead.low, "lead_high": lead.high}
    guess = float(compared[GUESS].mean())
    return [Sides(len(compared), compared["cluster"].nunique(), guess, metrics)]


def _with_ends(key: str, deleted: Deletions) -> dict[str, float]:
    ends = interval_of(key, deleted)
    return {key: deleted.value, f"{key}_low": ends.low, f"{key}_high": ends.high}
