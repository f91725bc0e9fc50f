"""From scores to probabilities, for every method alike: a temperature and an epsilon."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


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
        rows = powers(scores, self.temperature)
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


def powers(scores: NDArray[np.float32], temperature: float) -> Floats:
    """exp((score - best of its row) / temperature) of scores (photos, identities); the best ones are 1."""
    rows = scores.astype(np.float64)  # worked on in place: there may be 5,000 x 5,000 of them
    rows -= rows.max(axis=1, keepdims=True)
    rows /= temperature
    np.exp(rows, out=rows)
    return rows
