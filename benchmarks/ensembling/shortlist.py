"""Candidates of each photo, those that any member ranks high, and what the members say of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from whalebench import WhalebenchError
from whalebench.benchmarks.ensembling.members import Member
from whalebench.benchmarks.ensembling.memory import free_memory
from whalebench.benchmarks.ensembling.mixing import Floats, Scores, blocks, log_probabilities
from whalebench.methods.parts.ensembles.voting import best_columns

LENGTH = 20
"""Candidates that each member brings."""
SAID = ("log probability", "score", "reciprocal rank", "margin")
"""What each member says of a candidate; the margin is that of its log probability over its best rival's, and
the reciprocal rank is 0 beyond the first 20."""
COPIES = 3
"""How many times the features are held while a stacker learns."""


Part = Literal["valid", "test"]
PARTS: tuple[Part, ...] = ("valid", "test")


@dataclass(frozen=True)
class Shortlist:
    """The candidates of some photos, by photo and then by column; each photo has one at least.

    A candidate has one row, or one for each pair of the photo with a photo of the candidate.
    """

    photos: NDArray[np.int64]
    """(rows,) the row of the photo."""
    columns: NDArray[np.int64]
    """(rows,) the column of the individual."""
    features: Floats
    """(rows, features) what is known of each; that of the members first, SAID after SAID."""
    names: tuple[str, ...]
    """Of the features."""

    @cached_property
    def firsts(self) -> NDArray[np.int64]:
        """(candidates,) where each candidate's rows begin."""
        new = (np.diff(self.photos, prepend=-1) != 0) | (np.diff(self.columns, prepend=-1) != 0)
        return np.flatnonzero(new)

    def of(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(rows,) whether they are those of one of the photos."""
        return np.isin(self.photos, rows)

    def hits(self, own: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(rows,) whether the candidate is the right one, given the right column of each photo (photos,)."""
        found: NDArray[np.bool_] = self.columns == own[self.photos]
        return found

    def best(self, logits: Floats) -> Floats:
        """(candidates,) the highest of each candidate's logits (rows,)."""
        return np.maximum.reduceat(logits, self.firsts)


class Candidates:
    """What the members say of the candidates of valid and of test: what a stacker goes by."""

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = members
        self.temperatures = [member.temperature for member in members]

    def scores(self, part: Part) -> list[Scores]:
        """Scores (photos, identities) by member."""
        return [member.valid if part == "valid" else member.test for member in self.members]

    def check(self) -> None:
        """Nothing; raises WhalebenchError for what would take more memory, or longer, than there is."""
        for part in PARTS:
            check_memory(self.scores(part))

    def gather(self, part: Part) -> Shortlist:
        """The candidates of the part's photos."""
        return shortlist(self.scores(part), self.temperatures, [member.name for member in self.members])

    def scored(self, part: Part, found: Shortlist, logits: Floats) -> Scores:
        """Scores (photos, identities) of the part, given the logits of its candidates (rows,)."""
        return full_scores(found, logits, self.scores(part), self.temperatures)


def shortlist(
    scores: Sequence[Scores], temperatures: Sequence[float], members: Sequence[str] = ()
) -> Shortlist:
    """The first 20 candidates of every member for each photo, of scores (photos, identities) by member."""
    check_memory(scores)
    called = members or [f"member {place}" for place in range(len(scores))]
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
    names = tuple(f"{said} by {member}" for member in called for said in SAID)
    return Shortlist(np.concatenate(photos), np.concatenate(columns), np.concatenate(features), names)


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
    """Scores (photos, identities): the highest logit (rows,) of each candidate, and all others below them.

    The others of a photo weigh together as much as its last candidate, and are told apart by the mean of the
    members' log probabilities.
    """
    whole: Scores = np.empty(scores[0].shape, np.float32)
    photos, columns, best = found.photos[found.firsts], found.columns[found.firsts], found.best(logits)
    last = np.minimum.reduceat(best, np.searchsorted(photos, np.arange(len(whole))))
    for rows in blocks(len(whole), whole.shape[1]):
        mean = np.zeros(whole[rows].shape)
        for one, temperature in zip(scores, temperatures, strict=True):
            mean += log_probabilities(one[rows], temperature) / len(scores)
        here = slice(*np.searchsorted(photos, (rows.start, rows.stop)))
        photo, column = photos[here] - rows.start, columns[here]
        mean[photo, column] = -np.inf
        # Where everyone is a candidate nobody is left, and the maximum is that of nothing.
        highest = np.maximum(mean.max(axis=1, keepdims=True), np.finfo(np.float64).min)
        total = np.log(np.maximum(np.exp(mean - highest).sum(axis=1, keepdims=True), 1e-300)) + highest
        mean += last[rows, None] - total
        mean[photo, column] = best[here]
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
