"""The harness of one member among several: the same, with the member's name before what it writes down."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from whalebench.benchmarks.photos import Photos
from whalebench.methods.method import Epoch, Harness, Stateful


class MemberHarness:
    """What `methods.method.Harness` promises; stages, choices and parts are named `member.name`."""

    def __init__(self, harness: Harness, member: str) -> None:
        self.seed, self.device = harness.seed, harness.device
        self._harness, self._member = harness, member

    def stage(self, name: str) -> None:
        """Announces the member's next phase."""
        self._harness.stage(f"{self._member}.{name}")

    def epoch(self, epoch: Epoch) -> None:
        """Takes note of an epoch."""
        self._harness.epoch(epoch)

    def resume(self, parts: Mapping[str, Stateful]) -> int:
        """Epochs that are done already, see Harness."""
        return self._harness.resume(parts)

    def valid_map_at_5(self, scores: NDArray[np.float32]) -> float:
        """MAP@5 on valid, see Harness."""
        return self._harness.valid_map_at_5(scores)

    def choose(self, name: str, value: float | None) -> None:
        """Writes down what the member chose."""
        self._harness.choose(f"{self._member}.{name}", value)

    def fitted(self, artefact: str, photos: Photos) -> None:
        """Writes down what a part of the member was fitted on."""
        self._harness.fitted(f"{self._member}.{artefact}", photos)
