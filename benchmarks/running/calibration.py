"""Calibration: from scores to probabilities, for every method alike, by a temperature and an epsilon.

Both are chosen by the log loss of the known photos of valid.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from whalebench.benchmarks.core.arrays import columns_of, row_blocks
from whalebench.benchmarks.running.folds import NEW, Answers
from whalebench.reports.metrics.calibration import UNCALIBRATED, Calibration, powers

Floats = NDArray[np.float64]

STEP = 0.5
LOG_TEMPERATURES = tuple(float(logarithm) for logarithm in np.arange(-7, 5 + STEP, STEP))
"""The grid of logarithms of temperatures, to see beside which one the best is."""
CLOSE = 1e-3
"""How close to the logarithm of the best temperature is close enough."""
SAMPLE = 500
"""Photos of valid, about, that the grid is tried on; the search beside it is on all."""
LEAST, MOST = 1e-9, 0.5
"""The smallest epsilon besides 0, and the largest."""
NEWTON_STEPS, CLOSE_LINE = 50, 1e-9
"""The most steps to the line of a logistic regression, and how close to it is close enough."""


def choose_calibration(
    scores: NDArray[np.float32], answers: Answers, identities: Sequence[str]
) -> Calibration:
    """The calibration of scores (photos, identities) under which the known photos have the least log loss.

    As if one photo more had been known and answered wrong, so that a handful of right ones makes nobody sure.
    The temperature and the epsilon must each lower the log loss by more than chance would: over all photos by
    half the logarithm of their number (Schwarz, 1978). Else scores stay as given.
    """
    column = columns_of(identities)
    rows = np.array([row for row, truth in enumerate(answers.truth) if truth != NEW], np.int64)
    if not len(rows):
        return UNCALIBRATED
    known = _KnownPhotos(scores, rows, np.array([column[answers.truth[row]] for row in rows]))
    probabilities, sample = cache(known.target_probabilities), known.sample()
    on_grid = {log: sample.target_probabilities(float(np.exp(log))) for log in LOG_TEMPERATURES}

    def cost(candidate: Calibration) -> float:
        numbers = (candidate.temperature != UNCALIBRATED.temperature) + (candidate.epsilon > 0)
        loss = _log_loss(probabilities(candidate.temperature), candidate.epsilon, len(identities))
        return loss * (len(rows) + 1) + numbers * float(np.log(len(rows))) / 2

    fitted = [
        _fit_temperature(probabilities, on_grid, len(identities), with_epsilon=each) for each in (False, True)
    ]
    epsilon = best_epsilon(probabilities(UNCALIBRATED.temperature), len(identities))
    return min((UNCALIBRATED, replace(UNCALIBRATED, epsilon=epsilon), *fitted), key=cost)


def least_log_loss(scores: NDArray[np.float32], answers: Answers, identities: Sequence[str]) -> float:
    """The log loss of the known photos by the temperature at which it is least; NaN where none is known."""
    column = columns_of(identities)
    rows = np.array([row for row, truth in enumerate(answers.truth) if truth != NEW], np.int64)
    if not len(rows):
        return float("nan")
    known = _KnownPhotos(scores, rows, np.array([column[answers.truth[row]] for row in rows]))
    temperature = choose_calibration(scores, answers, identities).temperature
    return _log_loss(known.target_probabilities(temperature), 0.0, len(identities))


@dataclass(frozen=True)
class _KnownPhotos:
    """The known photos among those scored, and one more that stands for a wrong answer."""

    scores: NDArray[np.float32]
    rows: NDArray[np.int64]
    targets: NDArray[np.int64]
    """The column of each row's truth."""

    def sample(self) -> _KnownPhotos:
        """Of many photos some, evenly spread."""
        every = max(1, len(self.rows) // SAMPLE)
        return replace(self, rows=self.rows[::every], targets=self.targets[::every])

    def target_probabilities(self, temperature: float) -> Floats:
        """The softmax probability of each truth (rows + 1,), in blocks that take little memory.

        That of the wrong answer is what the others leave beside their best individual, on average.
        """
        result, left = np.empty(len(self.rows) + 1), 0.0
        for part in row_blocks(len(self.rows), self.scores.shape[1]):
            block = powers(self.scores[self.rows[part]], temperature)
            total = block.sum(axis=1)
            result[part] = block[np.arange(len(block)), self.targets[part]] / total
            left += float((1 - 1 / total).sum())
        result[-1] = left / len(self.rows) / (self.scores.shape[1] - 1)
        return result


def _fit_temperature(
    probabilities: Callable[[float], Floats],
    on_grid: Mapping[float, Floats],
    identities: int,
    *,
    with_epsilon: bool,
) -> Calibration:
    """The calibration with the least log loss, searched beside the best temperature of the grid.

    The best epsilon of each temperature is found exactly, so that one number is searched.
    """
    from scipy.optimize import minimize_scalar

    def epsilon(target: Floats) -> float:
        return best_epsilon(target, identities) if with_epsilon else 0.0

    def loss(target: Floats) -> float:
        return _log_loss(target, epsilon(target), identities)

    def loss_at(log_temperature: float) -> float:
        return loss(probabilities(float(np.exp(log_temperature))))

    near = min(on_grid, key=lambda log_temperature: loss(on_grid[log_temperature]))
    bounds = (near - STEP, near + STEP)
    minimum = minimize_scalar(loss_at, bounds=bounds, method="bounded", options={"xatol": CLOSE})
    temperature = float(np.exp(min(near, float(minimum.x), key=loss_at)))
    return Calibration(temperature, epsilon(probabilities(temperature)))


def best_epsilon(target: Floats, identities: int) -> float:
    """The epsilon with the least log loss, given the probability of each photo's truth (photos,) without it.

    The log loss is convex in it: either it rises from 0 on, or there is one place where it is level.
    """
    from scipy.optimize import brentq

    def slope(epsilon: float) -> float:
        return float(((target - 1 / identities) / _with_epsilon(target, epsilon, identities)).mean())

    if slope(LEAST) >= 0:
        return 0.0
    return MOST if slope(MOST) <= 0 else float(brentq(slope, LEAST, MOST, xtol=1e-9))


def _with_epsilon(target: Floats, epsilon: float, identities: int) -> Floats:
    return (1 - epsilon) * target + epsilon / identities


def _log_loss(target: Floats, epsilon: float, identities: int) -> float:
    return float(-np.log(np.clip(_with_epsilon(target, epsilon, identities), 1e-15, None)).mean())


@dataclass(frozen=True)
class NewChance:
    """How probable it is, by its best score, that a photo shows an individual that is *new*."""

    slope: float
    intercept: float

    def of(self, best: NDArray[np.float32]) -> Floats:
        """Probabilities (photos,) of the best scores (photos,)."""
        return _logistic(self.slope * best.astype(np.float64) + self.intercept)


def fit_new_chance(
    best: NDArray[np.float32], is_new: NDArray[np.bool_], share: float | None = None
) -> NewChance | None:
    """Logistic regression of being *new* on the best scores (photos,) of valid; None where all are of a kind.

    Fitted to targets that are a photo short of certain (Platt, 1999), so that a handful makes nobody sure; a
    higher score never makes *new* more likely. Given the `share` of *new* photos to expect, as if valid had
    it.
    """
    count, new = len(is_new), int(is_new.sum())
    if not 0 < new < count:
        return None
    values = best.astype(np.float64)
    centre, scale = values.mean(), max(float(values.std()), 1e-12)
    units = (values - centre) / scale
    targets = np.where(is_new, (new + 1) / (new + 2), 1 / (count - new + 2))
    slope, intercept = _fit_line(units, targets)
    if slope > 0:
        slope, intercept = 0.0, float(np.log(targets.mean() / (1 - targets.mean())))
    shift = 0.0 if share is None else np.log(share / (1 - share) * (count - new) / new)
    return NewChance(slope / scale, float(intercept - slope * centre / scale + shift))


def _fit_line(values: Floats, targets: Floats) -> tuple[float, float]:
    """Slope and intercept of the logistic regression of targets (photos,) in (0, 1), by Newton's steps.

    A step that does not lower the loss is halved.
    """
    inputs, line = np.stack([values, np.ones_like(values)], axis=1), np.zeros(2)

    def loss(line: Floats) -> float:
        logits = inputs @ line
        return float((np.logaddexp(0, logits) - targets * logits).sum())

    for _ in range(NEWTON_STEPS):
        shares = _logistic(inputs @ line)
        slope = inputs.T @ (shares - targets)
        curve = (inputs * (shares * (1 - shares))[:, None]).T @ inputs + 1e-9 * np.eye(2)
        step = np.linalg.solve(curve, slope)
        while np.abs(step).max() > CLOSE_LINE and loss(line - step) > loss(line):
            step = step / 2
        line = line - step
        if np.abs(step).max() <= CLOSE_LINE:
            break
    return float(line[0]), float(line[1])


def _logistic(logits: Floats) -> Floats:
    shares: Floats = 0.5 * (1 + np.tanh(0.5 * logits))
    return shares
