"""Scores of several members made one: the weighted mean of probabilities, and rank voting."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from whalebench.methods.parts.ensembles.voting import TIE, votes

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


def familiarity(of: Floats, valid: Floats, weights: Floats) -> Floats:
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
