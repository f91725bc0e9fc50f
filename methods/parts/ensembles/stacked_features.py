"""Pooled features of several networks side by side, into a logistic regression (Right Whale, 2nd)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax
from torch import Tensor

from whalebench.benchmarks.photos import UNKNOWN

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)
"""Values of C among which valid chooses, the strongest regularisation first; the author's was 10."""
PUBLISHED = 10.0
"""What C is where valid has nobody to choose by."""
STEPS = 1_000
"""Most steps of the solver, which weak regularisation may not let come to rest."""


class FeatureRegression(NamedTuple):
    """Logits of individuals, linear in features."""

    slopes: Floats
    """(individuals, features), of features as they are: their means, scales and axes are in it."""
    offsets: Floats
    """(individuals,)"""

    def log_probabilities(self, features: NDArray[np.float32]) -> Floats:
        """(photos, individuals), of features (photos, features)."""
        found: Floats = log_softmax(features.astype(np.float64) @ self.slopes.T + self.offsets, axis=1)
        return found

    def weights(self) -> dict[str, Tensor]:
        """Slopes and offsets, by name."""
        return {name: torch.from_numpy(values) for name, values in self._asdict().items()}

    @classmethod
    def restored(cls, weights: Mapping[str, Tensor]) -> FeatureRegression:
        """What `weights` gave."""
        return cls(*(weights[name].numpy() for name in cls._fields))


class Chosen(NamedTuple):
    """A regression, and what it was chosen by."""

    regression: FeatureRegression
    strength: float
    """C."""
    train_log_loss: float
    """Of photos that it, and perhaps the networks before it, learned from: as good as 0, and no news."""
    valid_log_loss: float
    """Of known photos that neither learned from; NaN where there are none."""


def choose_regression(
    train: tuple[NDArray[np.float32], Labels],
    valid: tuple[NDArray[np.float32], Labels],
    individuals: int,
    components: int | None,
) -> Chosen:
    """The regression that learned from train, C by the log loss of known valid photos.

    train and valid are features (photos, features) and labels (photos,), UNKNOWN for *new* in valid. Every
    individual is a class, those with one photo, too. Features are standardised, and turned to so many
    principal components if that is asked for.
    """
    known = np.flatnonzero(valid[1] != UNKNOWN)
    tried = {
        c: _learn(*train, individuals, c, components) for c in (STRENGTHS if len(known) else [PUBLISHED])
    }

    def loss(c: float) -> float:
        return _log_loss(tried[c], valid[0][known], valid[1][known])

    best = min(tried, key=loss)
    return Chosen(tried[best], best, _log_loss(tried[best], *train), loss(best))


def _learn(
    features: NDArray[np.float32], labels: Labels, individuals: int, strength: float, components: int | None
) -> FeatureRegression:
    from sklearn.decomposition import PCA  # noqa: PLC0415  (seconds to import)
    from sklearn.preprocessing import StandardScaler  # noqa: PLC0415

    scaler = StandardScaler().fit(features.astype(np.float64))
    scaled = scaler.transform(features.astype(np.float64))
    axes = np.eye(scaled.shape[1])
    if components is not None:
        axes = PCA(min(components, *scaled.shape), svd_solver="full").fit(scaled).components_
    slopes, offsets = _fit(scaled @ axes.T, labels, individuals, strength)
    slopes = slopes @ axes / scaler.scale_
    return FeatureRegression(slopes, offsets - slopes @ scaler.mean_)


def _fit(scaled: Floats, labels: Labels, individuals: int, strength: float) -> tuple[Floats, Floats]:
    """Slopes (individuals, features) and offsets (individuals,); there are two or more, each with a photo."""
    from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415

    line = LogisticRegression(C=strength, solver="lbfgs", max_iter=STEPS, tol=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # how good it is where it stops is told by valid
        line.fit(scaled, labels)
    if individuals > 2:
        return line.coef_, line.intercept_
    # Of two classes it keeps the second one's only, beside which the first one's are 0.
    return np.vstack([0 * line.coef_, line.coef_]), np.append(0.0, line.intercept_)


def _log_loss(regression: FeatureRegression, features: NDArray[np.float32], labels: Labels) -> float:
    if not len(labels):
        return float("nan")
    return float(-regression.log_probabilities(features)[np.arange(len(labels)), labels].mean())
