"""A harness for one of several trainings in a run: whatever is written down carries its name."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from whalebench.benchmarks.photos import Photos
from whalebench.methods.method import Epoch, Harness, Stateful


class NamedHarness:
    """The harness it is given, told of stages, choices and fitted parts under a name, as `half_a.network`."""

    def __init__(self, name: str, harness: Harness) -> None:
        self.name, self.harness = name, harness
        self.seed, self.device = harness.seed, harness.device

    def stage(self, name: str) -> None:
        """The next phase, after the name."""
        self.harness.stage(f"{self.name}.{name}")

    def epoch(self, epoch: Epoch) -> None:
        """As ever: the curve has the stage."""
        self.harness.epoch(epoch)

    def resume(self, parts: Mapping[str, Stateful]) -> int:
        """As ever: a training is known again by its turn."""
        return self.harness.resume(parts)

    def valid_map_at_5(self, scores: NDArray[np.float32]) -> float:
        """As ever."""
        return self.harness.valid_map_at_5(scores)

    def confidence(
        self, valid_scores: NDArray[np.float32], scores: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """As ever."""
        return self.harness.confidence(valid_scores, scores)

    def choose(self, name: str, value: float | None) -> None:
        """What was chosen, after the name."""
        self.harness.choose(f"{self.name}.{name}", value)

    def warn(self, sentence: str) -> None:
        """What a reader should know, after the name."""
        self.harness.warn(f"{self.name}: {sentence}")

    def fitted(self, artefact: str, photos: Photos) -> None:
        """The photos a part was fitted on, after the name."""
        self.harness.fitted(f"{self.name}.{artefact}", photos)
