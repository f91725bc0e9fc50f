"""`mean-colour`: an individual is the mean histogram of its photos' colours; the nearest is the answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from whalebench.benchmarks.core.photos import Photos
from whalebench.methods.method import Harness, Method, MethodConfig


class MeanColourConfig(MethodConfig):
    """Fields of `mean-colour`."""

    bins: Annotated[int, Field(ge=2, le=64)] = 8
    """Bars of the histogram of each colour."""


class MeanColour(Method):
    """Nearest mean histogram of colours."""

    name = "mean-colour"
    summary = "the individual with the nearest mean histogram of colours; the floor"
    source = "Swain and Ballard 1991 (colour indexing)"
    Config = MeanColourConfig
    config: MeanColourConfig

    def sizes(self) -> tuple[tuple[int, int], ...]:
        """The one size at which it looks at photos."""
        return ((48, 64),)

    def learn(self, train: Photos, valid: Photos, harness: Harness) -> None:
        """Averages the histograms of each individual's photos; valid is not needed."""
        known = train.known()
        harness.fitted("means", known)
        histograms = self.embed(known)
        identities = range(len(train.identities))
        self.means = np.stack([histograms[known.labels == label].mean(axis=0) for label in identities])

    def score(self, photos: Photos) -> NDArray[np.float32]:
        """Minus the distances (photos, identities) to the means: higher is more likely."""
        distances: NDArray[np.float32] = np.abs(self.embed(photos)[:, None] - self.means).sum(axis=2)
        return -distances

    def embed(self, photos: Photos) -> NDArray[np.float32]:
        """Histograms (photos, 3 * bins), each colour's with the sum 1."""
        levels = [
            torch.histc(colour, self.config.bins, 0, 1) / colour.numel()
            for batch in photos.batches((48, 64), 64)
            for photo in batch.pixels
            for colour in photo
        ]
        return torch.stack(levels).reshape(len(photos), -1).numpy()

    def weights(self) -> dict[str, torch.Tensor]:
        """The means."""
        return {"means": torch.from_numpy(self.means)}

    def restore(
        self, weights: Mapping[str, torch.Tensor], identities: tuple[str, ...], device: torch.device
    ) -> None:
        """Takes up the means."""
        self.means = weights["means"].numpy()
