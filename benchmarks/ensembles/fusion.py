"""Scores of several members made one: the weighted mean of probabilities, and rank voting.

Members mixed under weights, with how much like anyone known each photo is to them.

How much each member counts in a mean of probabilities, found on the valid photos.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from whalebench.benchmarks.ensembles.members import Member
from whalebench.methods.parts.fusion import TIE, votes

Floats = NDArray[np.float64]
Scores = NDArray[np.float32]

BLOCK_CELLS = 2_000_000
"""Scores of one member that are worked on at a time: 16 MB as float64."""


def blocks(rows: int, columns: int) -> Iterator[slice]:
    """Slices that cover all rows, each of about BLOCK_CELLS cells."""
    step = max(1, BLOCK_CELLS // max(1, columns))
    for start in range(0, rows, step):
        yield slice(start, min(rows, start + step))


def log_softmax(logits: Floats) -> Floats:
    """Log probabilities of the same shape, each row for itself; nothing underflows."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    found: Floats = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return found


def log_probabilities(scores: Scores, temperature: float) -> Floats:
    """Log probabilities (photos, identities): log softmax of the scores over the temperature."""
    return log_softmax(scores.astype(np.float64) / temperature)


def energies(scores: Sequence[Scores], temperatures: Sequence[float]) -> Floats:
    """(photos, members) log of the sum of exp(score / temperature): how much like anyone known a photo is.

    Probabilities have lost that: those of a new photo are one in all, too (Liu et al. 2020).
    """
    found = np.empty((len(scores[0]), len(scores)))
    for place, (one, temperature) in enumerate(zip(scores, temperatures, strict=True)):
        for rows in blocks(len(one), one.shape[1]):
            logits = one[rows].astype(np.float64) / temperature
            highest = logits.max(axis=1, keepdims=True)
            found[rows, place] = highest[:, 0] + np.log(np.exp(logits - highest).sum(axis=1))
    return found


def energy_score(of: Floats, valid: Floats, weights: Floats) -> Floats:
    """(photos,) the weighted mean of the members' energies `of` (photos, members), each in the same unit.

    The unit is the spread that a member's energies have on `valid`, times the mean spread: what is made of
    equal members is what each of them says. `weights` are (members,) or (photos, members). Added to all
    scores of a photo it changes no order of individuals, only when *new* comes before them.
    """
    spread = np.maximum(valid.std(axis=0), 1e-9)
    mean: Floats = ((of - valid.mean(axis=0)) / spread * weights).sum(axis=1) * (spread * weights).sum(
        axis=-1
    )
    return mean


def mean_scores(scores: Sequence[Scores], temperatures: Sequence[float], weights: Floats) -> Scores:
    """Log of the weighted mean of the members' probabilities, (photos, identities).

    `weights` are (members,), or (photos, members) where each photo has its own.
    """
    found: Scores = np.empty(scores[0].shape, np.float32)
    by_photo = np.broadcast_to(weights, (len(found), len(scores)))
    for rows in blocks(len(found), found.shape[1]):
        total = np.full(found[rows].shape, -np.inf)
        for place, (one, temperature) in enumerate(zip(scores, temperatures, strict=True)):
            share = by_photo[rows, place, None]
            if share.any():
                with np.errstate(divide="ignore"):  # a weight of zero counts as -inf
                    np.logaddexp(total, np.log(share) + log_probabilities(one[rows], temperature), out=total)
        found[rows] = total
    return found


def vote_scores(scores: Sequence[Scores], temperatures: Sequence[float], weights: Floats) -> Scores:
    """Weighted sum of 1 / rank over the members' first 20 candidates, (photos, identities).

    Equal votes, also those for nobody, are told apart by the mean probability. Of equally good candidates
    of one member the first column comes first. Seeds 000 and 004 voted.
    """
    found: Scores = np.empty(scores[0].shape, np.float32)
    for rows in blocks(len(found), found.shape[1]):
        total = np.zeros(found[rows].shape)
        for one, temperature, weight in zip(scores, temperatures, weights, strict=True):
            chances = np.exp(log_probabilities(one[rows], temperature))
            total += weight * (votes(one[rows]) + TIE * chances)
        found[rows] = total
    return found


class Mixture:
    """The members' scores mixed under any weights, and how familiar each photo is to them (see mixing)."""

    def __init__(self, members: Sequence[Member], mix: Callable[[list[Scores], list[float], Floats], Scores]):
        self.members, self.mix = members, mix
        self.temperatures = [member.temperature for member in members]
        self.energies = energies([member.valid for member in members], self.temperatures)

    def valid(self, weights: Floats) -> Scores:
        """Scores (valid photos, identities) under weights (members,); not of votes also (photos, members)."""
        mixed = self.mix([member.valid for member in self.members], self.temperatures, weights)
        mixed += energy_score(self.energies, self.energies, _shares(weights)).astype(np.float32)[:, None]
        return mixed

    def test(self, weights: Floats) -> Scores:
        """Scores (test photos, identities) under weights (members,)."""
        scores = [member.test for member in self.members]
        mixed = self.mix(scores, self.temperatures, weights)
        familiar = energy_score(energies(scores, self.temperatures), self.energies, _shares(weights))
        mixed += familiar.astype(np.float32)[:, None]
        return mixed


def _shares(weights: Floats) -> Floats:
    """The same weights, one in all for each photo."""
    shares: Floats = weights / weights.sum(axis=-1, keepdims=True)
    return shares


PRIOR = 1.0
"""Photos that each member is taken to have got right beforehand, so that few photos move weights little."""
ROUNDS = 2_000
"""Of expectation-maximisation, which stops earlier where the weights stand still."""


def own_log_probabilities(members: Sequence[Member], own: NDArray[np.int64]) -> Floats:
    """(photos, members) log probability that each member gives the column `own` (photos,) of valid photos.

    That of another column, the first, where `own` is -1: leave those photos out.
    """
    found = np.empty((len(own), len(members)))
    for place, member in enumerate(members):
        for rows in blocks(len(own), member.valid.shape[1]):
            logs = log_probabilities(member.valid[rows], member.temperature)
            found[rows, place] = np.take_along_axis(logs, np.maximum(own[rows], 0)[:, None], axis=1)[:, 0]
    return found


def fit_weights(own: Floats) -> Floats:
    """The weights (members,), above 0 and one in all, under which a mean makes the truth most likely.

    `own` (photos, members) are the log probabilities of the truth; each member is as if right on one photo
    more. That is convex in the weights, and expectation-maximisation finds the one best point (stacking of
    distributions, Yao et al. 2018).
    """
    likely = np.exp(own - own.max(axis=1, keepdims=True))
    weights = np.full(own.shape[1], 1 / own.shape[1])
    for _ in range(ROUNDS):
        shares = weights * likely
        counts = (shares / shares.sum(axis=1, keepdims=True)).sum(axis=0) + PRIOR
        better = counts / counts.sum()
        if np.abs(better - weights).max() < 1e-7:
            break
        weights = better
    return weights


def mixed_log_loss(own: Floats, weights: Floats) -> Floats:
    """(photos,) log loss of the weighted mean, of log probabilities (photos, members) of the truth."""
    highest = own.max(axis=1, keepdims=True)
    mixed = (np.exp(own - highest) * weights).sum(axis=1)
    found: Floats = -(highest[:, 0] + np.log(np.maximum(mixed, 1e-300)))
    return found
