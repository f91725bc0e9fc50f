"""The harness of one cycle: its trainings go on from where those of the cycle before ended."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from whalebench.benchmarks.photos import Photos
from whalebench.methods.method import Epoch, Harness, Stateful
from whalebench.methods.parts.ensembles.named_harness import NamedHarness
from whalebench.methods.parts.training.loop import GROUPS, OF_ONE_TRAINING, OPTIMIZER

Ended = dict[int, dict[str, dict[str, Any]]]
"""By the turn of a training in its cycle: the state of each part that another cycle takes up."""


class CarryingHarness(NamedHarness):
    """The harness of one of several cycles, which have their names, as `cycle_2.train`."""

    def __init__(self, harness: Harness, cycle: int, before: Ended) -> None:
        """cycle is counted from 1; before is what the last one left in `ended`."""
        super().__init__(f"cycle_{cycle}", harness)
        self.ended: Ended = dict(before)
        """In which states the trainings of this cycle ended; of those it had none of, as before."""
        self._before, self._turn, self._parts = before, 0, dict[str, Stateful]()

    def epoch(self, epoch: Epoch) -> None:
        """The epoch, counted within its cycle; after the last one it is noted how the training ended."""
        super().epoch(epoch)
        if epoch.number == epoch.of:
            self._note()

    def resume(self, parts: Mapping[str, Stateful]) -> int:
        """As the run's; a training that was not begun yet takes up what the cycle before left."""
        self._turn, self._parts = self._turn + 1, dict(parts)
        done = super().resume(parts)
        if done:
            # No epoch may be left to be told of.
            self._note()
            return done
        for name, state in self._before.get(self._turn, {}).items():
            # What is not carried over stays as it is.
            parts[name].load_state_dict({**parts[name].state_dict(), **state})
        return done

    def fitted(self, artefact: str, photos: Photos) -> None:
        """As the run's: every cycle learns from the same photos."""
        self.harness.fitted(artefact, photos)

    def _note(self) -> None:
        # A copy: what is kept of a cycle may be an earlier epoch, whose weights are then put back.
        kept = {name: part for name, part in self._parts.items() if name not in OF_ONE_TRAINING}
        states = {name: copy.deepcopy(dict(part.state_dict())) for name, part in kept.items()}
        states.get(OPTIMIZER, {}).pop(GROUPS, None)
        self.ended[self._turn] = states
