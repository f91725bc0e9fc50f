"""From scores to probabilities: a temperature and an epsilon, chosen on valid for every method alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whalebench.benchmarks.answers import NEW, Answers

Floats = NDArray[np.float64]

COLDEST, HOTTEST = -7.0, 5.0
"""Logarithms of the temperatures that are tried."""
STEP = 0.5
"""How far apart they are, before the best one is looked for more closely."""
GLANCE = 500
"""Photos of valid, about, that the first look is at; the close one is at all."""
MOST = 0.5
"""The largest epsilon."""
LEAST = 1e-9
"""The smallest one besides 0."""
BLOCK_CELLS = 2_000_000
"""Scores that are worked on at a time: 16 MB as float64."""


@dataclass(frozen=True)
class Calibration:
    """How scores become probabilities; the default is the softmax of the scores as the method gives them."""

    temperature: float = 1.0
    """What the scores are divided by. Log probabilities divided by it are probabilities to the power of one
    over it."""
    epsilon: float = 0.0
    """The share of each row that all individuals get alike: for those that a method is sure not to see."""

    def probabilities(self, scores: NDArray[np.float32]) -> Floats:
        """Rows of probabilities (photos, identities), one in all, in the order of the scores."""
        rows = scores.astype(np.float64)  # worked on in place: there may be 5,000 x 5,000 of them
        rows -= rows.max(axis=1, keepdims=True)
        rows /= self.temperature
        np.exp(rows, out=rows)
        rows *= (1 - self.epsilon) / rows.sum(axis=1, keepdims=True)
        rows += self.epsilon / rows.shape[1]
        return rows

    def chosen(self) -> dict[str, float | None]:
        """What a record says was chosen on valid."""
        return {"temperature": self.temperature, "epsilon": self.epsilon}


AS_GIVEN = Calibration()
"""Of scores that nobody has calibrated. That of cosines is nearly uniform."""


def calibration_of(chosen: Mapping[str, object]) -> Calibration | None:
    """The calibration that a record's `chosen` names; None where it names none. Old ones have no epsilon."""
    temperature, epsilon = chosen.get("temperature"), chosen.get("epsilon", 0.0)
    if not isinstance(temperature, int | float) or not isinstance(epsilon, int | float):
        return None
    return Calibration(float(temperature), float(epsilon)) if temperature > 0 and 0 <= epsilon < 1 else None


def choose_calibration(
    scores: NDArray[np.float32], answers: Answers, identities: Sequence[str]
) -> Calibration:
    """The calibration of scores (photos, identities) with the least log loss of the known photos.

    That of the scores as given where no photo is known, or where nothing is better. The best epsilon of each
    temperature is found exactly, so that one number is searched.
    """
    from scipy.optimize import minimize_scalar  # noqa: PLC0415  (half a second to import)

    column = {identity: place for place, identity in enumerate(identities)}
    known = np.array([row for row, truth in enumerate(answers.truth) if truth != NEW], np.int64)
    if not len(known):
        return AS_GIVEN
    own = np.array([column[answers.truth[row]] for row in known])
    few = max(1, len(known) // GLANCE)

    def loss_at(logarithm: float, every: int = 1) -> float:
        return _best(scores, known[::every], own[::every], np.exp(logarithm))[1]

    near = min(np.arange(COLDEST, HOTTEST + STEP, STEP), key=lambda tried: loss_at(tried, few))
    bounds = (near - STEP, near + STEP)
    found = minimize_scalar(loss_at, bounds=bounds, method="bounded", options={"xatol": 1e-4})
    best, loss = _best(scores, known, own, np.exp(found.x))
    return best if loss < _log_loss(_own(scores, known, own, 1.0)) else AS_GIVEN


def _best(
    scores: NDArray[np.float32], rows: NDArray[np.int64], own: NDArray[np.int64], temperature: float
) -> tuple[Calibration, float]:
    """The calibration with this temperature, and its log loss."""
    chances = _own(scores, rows, own, temperature)
    epsilon = best_epsilon(chances, scores.shape[1])
    return Calibration(float(temperature), epsilon), _log_loss(_mixed(chances, epsilon, scores.shape[1]))


def best_epsilon(own: Floats, identities: int) -> float:
    """The epsilon with the least log loss, given the probability of each photo's truth (photos,) without it.

    The log loss is convex in it: either it rises from 0 on, or there is one place where it is level.
    """
    from scipy.optimize import brentq  # noqa: PLC0415

    def slope(epsilon: float) -> float:
        return float(((own - 1 / identities) / _mixed(own, epsilon, identities)).mean())

    if slope(LEAST) >= 0:
        return 0.0
    return MOST if slope(MOST) <= 0 else float(brentq(slope, LEAST, MOST, xtol=1e-9))


def _mixed(own: Floats, epsilon: float, identities: int) -> Floats:
    return (1 - epsilon) * own + epsilon / identities


def _log_loss(own: Floats) -> float:
    return float(-np.log(np.clip(own, 1e-15, None)).mean())


def _own(
    scores: NDArray[np.float32], rows: NDArray[np.int64], own: NDArray[np.int64], temperature: float
) -> Floats:
    """The softmax probability of column `own` of each row (rows,), in blocks that take little memory."""
    found = np.empty(len(rows))
    step = max(1, BLOCK_CELLS // scores.shape[1])
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        block = Calibration(temperature).probabilities(scores[rows[part]])
        found[part] = block[np.arange(len(block)), own[part]]
    return found
