"""Candidates of each photo, those that any member ranks high, and what the members say of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whalebench import WhalebenchError
from whalebench.benchmarks.ensembling.memory import free_memory
from whalebench.benchmarks.ensembling.mixing import Floats, Scores, blocks, log_probabilities
from whalebench.methods.parts.voting import best_columns

LENGTH = 20
"""Candidates that each member brings."""
SAID = ("log probability", "score", "reciprocal rank", "margin")
"""What each member says of a candidate; the margin is that of its log probability over its best rival's, and
the reciprocal rank is 0 beyond the first 20."""
COPIES = 3
"""How many times the features are held while a stacker learns."""


@dataclass(frozen=True)
class Shortlist:
    """The candidates of some photos, in the order of the photos; each photo has one at least."""

    photos: NDArray[np.int64]
    """(candidates,) the row of the photo."""
    columns: NDArray[np.int64]
    """(candidates,) the column of the individual."""
    features: Floats
    """(candidates, features) what each member says, SAID after SAID."""
    starts: NDArray[np.int64]
    """(photos,) where each photo's candidates begin."""

    def of(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(candidates,) whether they are those of one of the photos."""
        return np.isin(self.photos, rows)

    def hits(self, own: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(candidates,) whether they are the right one, given the right column of each photo (photos,)."""
        found: NDArray[np.bool_] = self.columns == own[self.photos]
        return found


def shortlist(scores: Sequence[Scores], temperatures: Sequence[float]) -> Shortlist:
    """The first 20 candidates of every member for each photo, of scores (photos, identities) by member."""
    check_memory(scores)
    photos, columns, features = [], [], []
    for rows in blocks(len(scores[0]), scores[0].shape[1]):
        best = [best_columns(one[rows], LENGTH) for one in scores]
        candidate = np.zeros(scores[0][rows].shape, np.bool_)
        for found in best:
            np.put_along_axis(candidate, found, True, 1)
        photo, column = np.nonzero(candidate)
        said = [
            _said(one[rows], temperature, found, photo, column)
            for one, temperature, found in zip(scores, temperatures, best, strict=True)
        ]
        photos.append(photo + rows.start)
        columns.append(column)
        features.append(np.hstack(said))
    whole = np.concatenate(photos)
    starts = np.searchsorted(whole, np.arange(len(scores[0])))
    return Shortlist(whole, np.concatenate(columns), np.concatenate(features), starts)


def _said(
    scores: Scores,
    temperature: float,
    best: NDArray[np.int64],
    photo: NDArray[np.int64],
    column: NDArray[np.int64],
) -> Floats:
    """(candidates, SAID) what one member says of candidates (photo, column)."""
    logs = log_probabilities(scores, temperature)
    ranks = np.zeros(scores.shape)
    np.put_along_axis(ranks, best, np.broadcast_to(1 / np.arange(1, best.shape[1] + 1), best.shape), 1)
    first, second = (np.take_along_axis(logs, best[:, place, None], 1)[:, 0] for place in (0, 1))
    own = logs[photo, column]
    rival = np.where(column == best[photo, 0], second[photo], first[photo])
    return np.stack([own, scores[photo, column], ranks[photo, column], own - rival], axis=1)


def full_scores(
    found: Shortlist, logits: Floats, scores: Sequence[Scores], temperatures: Sequence[float]
) -> Scores:
    """Scores (photos, identities): the logits (candidates,) of candidates, and all others below them.

    The others of a photo weigh together as much as its last candidate, and are told apart by the mean of the
    members' log probabilities.
    """
    whole: Scores = np.empty(scores[0].shape, np.float32)
    last = np.minimum.reduceat(logits, found.starts)
    for rows in blocks(len(whole), whole.shape[1]):
        mean = np.zeros(whole[rows].shape)
        for one, temperature in zip(scores, temperatures, strict=True):
            mean += log_probabilities(one[rows], temperature) / len(scores)
        here = slice(*np.searchsorted(found.photos, (rows.start, rows.stop)))
        photo, column = found.photos[here] - rows.start, found.columns[here]
        mean[photo, column] = -np.inf
        # Where everyone is a candidate nobody is left, and the maximum is that of nothing.
        highest = np.maximum(mean.max(axis=1, keepdims=True), np.finfo(np.float64).min)
        total = np.log(np.maximum(np.exp(mean - highest).sum(axis=1, keepdims=True), 1e-300)) + highest
        mean += last[rows, None] - total
        mean[photo, column] = logits[here]
        whole[rows] = mean
    return whole


def check_memory(scores: Sequence[Scores]) -> None:
    """Nothing; raises WhalebenchError where the features of candidates would not fit into free memory."""
    members, photos, identities = len(scores), len(scores[0]), scores[0].shape[1]
    rows, width = photos * min(identities, LENGTH * members), len(SAID) * members
    needed, free = rows * width * 8 * COPIES, free_memory()
    if free is not None and needed > free:
        raise WhalebenchError(
            f"Stacking {members} runs of {photos:,} photos takes about {needed / 2**30:.1f} GiB, {rows:,} "
            f"candidates with {width} features each, and {free / 2**30:.1f} GiB are free: combine fewer "
            f"runs, or use --rule mean."
        )
