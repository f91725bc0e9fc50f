"""The outline of a flat fluke: its trailing edge above, its leading edge and peduncle below."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from whalebench.benchmarks.flukes.individual import Individual, Wing
from whalebench.benchmarks.flukes.integers import uniform

Array = NDArray[np.float64]

SPAN = np.linspace(-1.0, 1.0, 1281)
"""Places across the fluke, from the left tip (-1) over the notch (0) to the right tip (1)."""

_OUT = SPAN[SPAN.size // 2 :]
"""Places along one wing, from the notch to its tip."""


@dataclass(frozen=True)
class Outline:
    """Edges of a fluke over SPAN, in half widths above the notch."""

    top: Array
    """The trailing edge: S-curved, scalloped and nicked."""
    low: Array
    """The leading edge with the peduncle, which goes down into the water."""
    lead: Array
    """The leading edge of the wings alone."""


@lru_cache(maxsize=16)
def outline_of(individual: Individual) -> Outline:
    """The outline of an individual's fluke, flat and straight before the eye."""
    depth, width = individual.notch_depth / 1000, individual.notch_width / 1000
    left, right = _trailing(individual.left), _trailing(individual.right)
    top = np.concatenate([left[::-1], right[1:]])
    top += depth * (1 - np.exp(-np.abs(SPAN) / width))
    chord = individual.chord / 1000
    left, right = _leading(individual.left, chord, top[0]), _leading(individual.right, chord, top[-1])
    lead = np.minimum(np.concatenate([left[::-1], right[1:]]), top)
    stock = np.exp(-((np.abs(SPAN) / (individual.peduncle / 1000)) ** 3))
    return Outline(top, lead - 1.1 * stock, lead)


def _trailing(wing: Wing) -> Array:
    edge = wing.sweep / 1000 * _OUT + wing.bump / 1000 * np.sin(np.pi * np.minimum(_OUT * 1.08, 1.0)) ** 1.3
    edge += wing.hook / 1000 * np.clip((_OUT - 0.8) / 0.2, 0, 1) ** 2
    edge += _scallops(wing)
    for place, width, depth, lean in wing.nicks:
        offset = (_OUT - place / 1000) / (width / 1000)
        offset = offset / (1 + lean / 1000 * np.sign(offset))
        edge -= depth / 1000 * np.clip(1.15 - np.abs(offset), 0, 1) ** 0.8
    return edge


def _scallops(wing: Wing) -> Array:
    """Small teeth of the trailing edge, coarse and fine, strongest in the middle of the wing."""
    coarse, fine = uniform(wing.seed, 23), uniform(wing.seed + 1, 71)
    knots = np.linspace(0, 1, coarse.size), np.linspace(0, 1, fine.size)
    teeth = 2.2 * np.interp(_OUT, knots[0], coarse) + np.interp(_OUT, knots[1], fine) - 1.6
    return wing.scallop / 1000 * teeth * np.sin(np.pi * np.clip(_OUT, 0.02, 0.98)) ** 0.5


def _leading(wing: Wing, chord: float, tip: float) -> Array:
    rise = -chord * (1 - _OUT ** (wing.power / 1000)) + (tip - wing.drop / 1000) * _OUT**2
    corner = _OUT**wing.tip
    return rise * (1 - corner) + tip * corner
