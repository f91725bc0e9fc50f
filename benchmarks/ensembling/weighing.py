"""How much each member counts in a mean of probabilities, found on the valid photos."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from whalebench.benchmarks.ensembling.members import Member
from whalebench.benchmarks.ensembling.mixing import Floats, blocks, log_probabilities

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
