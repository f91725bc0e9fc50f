"""The product of the members' probabilities, each to a power of its own that is found on valid.

A logarithmic opinion pool (Genest & Zidek, 1986; Heskes, 1998): where members agree it is surer than any of
them, as a mean never is, and it forgets a member whose power is near 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from whalebench.benchmarks.ensembling.combined import Combined
from whalebench.benchmarks.ensembling.ground import Ground
from whalebench.benchmarks.ensembling.members import Member
from whalebench.benchmarks.ensembling.mixing import Floats, Scores, blocks, log_probabilities, log_softmax
from whalebench.benchmarks.ensembling.mixture import Mixture

MOST = 2_000
"""Photos of valid, about, that powers are found on: a few numbers need no more."""
Rows = NDArray[np.int64]


def product_scores(scores: Sequence[Scores], temperatures: Sequence[float], powers: Floats) -> Scores:
    """Log probabilities (photos, identities) of the product, made to be one in all.

    `powers` are (members,), or (photos, members) where each photo has its own.
    """
    found: Scores = np.empty(scores[0].shape, np.float32)
    by_photo = np.broadcast_to(powers, (len(found), len(scores)))
    for rows in blocks(len(found), found.shape[1]):
        total = np.zeros(found[rows].shape)
        for place, (one, temperature) in enumerate(zip(scores, temperatures, strict=True)):
            total += by_photo[rows, place, None] * log_probabilities(one[rows], temperature)
        found[rows] = log_softmax(total)
    return found


def pool(members: Sequence[Member], ground: Ground, seed: int) -> Combined:
    """The product with the powers that make the truth of known valid photos most likely.

    Valid's scores are by powers found without the photo, and without its individual. Where valid has too few
    known photos for that all powers are one over the number of members.
    """
    mixture = Mixture(members, product_scores)
    equal = np.full(len(members), 1 / len(members))
    splits, known = ground.splits(seed), np.flatnonzero(ground.own >= 0)
    if not splits:
        return Combined(mixture.valid(equal), mixture.test(equal), {"powers": equal.tolist()})
    evidence = Evidence(members, known[:: max(1, len(known) // MOST)], ground.own)
    aside = np.empty((len(ground.own), len(members)))
    for fit, rest in splits:
        aside[rest] = evidence.powers(fit)
    powers = evidence.powers(known)
    return Combined(
        valid=mixture.valid(aside),
        test=mixture.test(powers),
        chosen={"powers": powers.tolist()},
        train_log_loss=evidence.log_loss(powers),
        out_of_fold_log_loss=evidence.log_loss(aside[evidence.rows]),
        learned={"powers": powers},
    )


class Evidence:
    """What the members say of some known valid photos, and whose these are."""

    def __init__(self, members: Sequence[Member], rows: Rows, own: Rows) -> None:
        """`own` is the right column of each valid photo, and `rows` those that are looked at."""
        self.rows, self.own = rows, own[rows]
        self.logs = np.stack(
            [log_probabilities(one.valid[rows], one.temperature).astype(np.float32) for one in members]
        )

    def powers(self, fit: Rows) -> Floats:
        """The powers (members,), above 0, under which the truths of these valid photos are most likely.

        Beforehand each is taken to be within a factor of e of one over the number of members (a normal
        distribution of its logarithm), so that few photos move them little.
        """
        from scipy.optimize import minimize  # noqa: PLC0415  (half a second to import)

        chosen = np.flatnonzero(np.isin(self.rows, fit))
        start = np.full(len(self.logs), -np.log(len(self.logs)))

        def cost(logarithms: Floats) -> tuple[float, Floats]:
            powers = np.exp(logarithms)
            loss, slope = self._loss_and_slope(powers, chosen)
            away = logarithms - start
            return loss + float(away @ away) / 2, slope * powers + away

        found = minimize(cost, start, jac=True, method="L-BFGS-B", options={"maxiter": 100, "ftol": 1e-9})
        powers: Floats = np.exp(found.x)
        return powers

    def log_loss(self, powers: Floats) -> float:
        """Mean log loss of the photos under powers (members,) or (photos, members)."""
        rows = np.arange(len(self.rows))
        return self._loss_and_slope(powers, rows)[0] / len(rows)

    def _loss_and_slope(self, powers: Floats, chosen: Rows) -> tuple[float, Floats]:
        """Summed log loss of the photos at some places, and its derivatives by each power (members,)."""
        loss, slope = 0.0, np.zeros(len(self.logs))
        by_photo = np.broadcast_to(powers, (len(self.rows), len(self.logs)))
        for part in blocks(len(chosen), self.logs.shape[2]):
            rows = chosen[part]
            logs, own = self.logs[:, rows].astype(np.float64), self.own[rows, None]
            mixed = log_softmax(np.einsum("pm,mpi->pi", by_photo[rows], logs))
            loss -= float(np.take_along_axis(mixed, own, 1).sum())
            right = np.take_along_axis(logs, np.broadcast_to(own, (len(logs), *own.shape)), 2).sum(
                axis=(1, 2)
            )
            slope += np.einsum("pi,mpi->m", np.exp(mixed), logs) - right
        return loss, slope
