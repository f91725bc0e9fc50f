"""The harness of one cycle: its trainings go on from where those of the cycle before ended."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whalebench.benchmarks.photos import Photos
from whalebench.methods.method import Epoch, Harness, Stateful
from whalebench.methods.parts.training import GROUPS, OF_ONE_TRAINING, OPTIMIZER

Ended = dict[int, dict[str, dict[str, Any]]]
"""By the turn of a training in its cycle: the state of each part that another cycle takes up."""


class CarryingHarness:
    """Passes everything on to the harness of the run; stages and choices under a name, as `cycle_2.train`."""

    def __init__(self, harness: Harness, cycle: int, before: Ended) -> None:
        """cycle is counted from 1; before is what the last one left in `ended`."""
        self.seed, self.device = harness.seed, harness.device
        self.ended: Ended = dict(before)
        """In which states the trainings of this cycle ended; of those it had none of, as before."""
        self._harness, self._cycle, self._before = harness, cycle, before
        self._turn, self._parts = 0, dict[str, Stateful]()

    def stage(self, name: str) -> None:
        """The phase, after the name of the cycle."""
        self._harness.stage(f"cycle_{self._cycle}.{name}")

    def epoch(self, epoch: Epoch) -> None:
        """The epoch, counted within its cycle; after the last one it is noted how the training ended."""
        self._harness.epoch(epoch)
        if epoch.number == epoch.of:
            self._note()

    def resume(self, parts: Mapping[str, Stateful]) -> int:
        """As the run's; a training that was not begun yet takes up what the cycle before left."""
        self._turn, self._parts = self._turn + 1, dict(parts)
        done = self._harness.resume(parts)
        if done:
            # No epoch may be left to be told of.
            self._note()
            return done
        for name, state in self._before.get(self._turn, {}).items():
            # What is not carried over stays as it is.
            parts[name].load_state_dict({**parts[name].state_dict(), **state})
        return done

    def valid_map_at_5(self, scores: NDArray[np.float32]) -> float:
        """As the run's."""
        return self._harness.valid_map_at_5(scores)

    def choose(self, name: str, value: float | None) -> None:
        """What was chosen, after the name of the cycle."""
        self._harness.choose(f"cycle_{self._cycle}.{name}", value)

    def fitted(self, artefact: str, photos: Photos) -> None:
        """As the run's: every cycle learns from the same photos."""
        self._harness.fitted(artefact, photos)

    def _note(self) -> None:
        # A copy: what is kept of a cycle may be an earlier epoch, whose weights are then put back.
        kept = {name: part for name, part in self._parts.items() if name not in OF_ONE_TRAINING}
        states = {name: copy.deepcopy(dict(part.state_dict())) for name, part in kept.items()}
        states.get(OPTIMIZER, {}).pop(GROUPS, None)
        self.ended[self._turn] = states
