"""Any method in cycles: it learns several times, each time from where it stood, and answers together.

Cycles of a training: the learning rate starts anew several times, and each cycle leaves a network.

A harness for one of several trainings in a run: whatever is written down carries its name.

The harness of one cycle: its trainings go on from where those of the cycle before ended.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from whalebench import RunFailedError
from whalebench.benchmarks.core.arrays import normalise
from whalebench.benchmarks.core.checkpoint import Stateful
from whalebench.benchmarks.core.photos import Photos
from whalebench.methods.method import Epoch, Harness, Located, Method, PartConfig
from whalebench.methods.parts.ensemble import TIE, Ensemble, votes
from whalebench.methods.parts.retrieval import Gallery, GalleryConfig
from whalebench.methods.parts.training.trainer import GROUPS, OF_ONE_TRAINING, OPTIMIZER

Joined = Literal["scores", "embeddings", "votes"]

TAIL = 0.6
"""The tail where none is given; in the 4th place of TGS Salt 2018 it began at epoch 20 of 50."""


class ScheduleConfig(PartConfig):
    """How a training is cut into cycles; the field `schedule` of every method that trains a network."""

    cycles: Annotated[int, Field(ge=1)] = 1
    """Cosines with restarts that share the epochs out (Loshchilov & Hutter 2017; Huang et al. 2017); each
    goes on where the one before ended and leaves a network, and all of them answer together."""
    tail: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of a cycle, its last, in which the best epoch on valid is kept; unless given, 0.6 of each of
    several cycles, and of a single one its last epoch."""
    joined: Joined = "scores"
    """What of the cycles is put together: the mean of their scores; that of their embeddings, compared by the
    gallery; or votes, 1 / rank among each one's first 20, equal votes by the mean score."""

    @model_validator(mode="after")
    def _several_to_join(self) -> Self:
        if self.cycles == 1 and self.joined != "scores":
            raise ValueError(f"joined={self.joined} joins several cycles and there is one; set cycles=7")
        return self

    def shares(self, epochs: int) -> list[int]:
        """The epochs of each cycle: all of them together, and none more than one longer than another."""
        each, rest = divmod(epochs, self.cycles)
        return [each + (place < rest) for place in range(self.cycles)]

    def first_kept(self, epochs: int) -> int | None:
        """The first epoch, from 1, of so many, of which the best is kept; None where the last one is."""
        if self.tail is None:
            return None
        # Rounded, because 0.14 times 50 is a little more than 7.
        return epochs + 1 - math.ceil(round(self.tail * epochs, 6))

    def of_one_cycle(self) -> ScheduleConfig:
        """The schedule of each of several cycles, taken by itself."""
        return ScheduleConfig(tail=TAIL if self.tail is None else self.tail)


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


BEST = "best_cycle"
"""The name of the best cycle's place among the weights, and of its number in the record."""


class SnapshotEnsemble(Ensemble):
    """The method it is given, once for each cycle of its schedule.

    Each learns what its own configuration says, networks and optimizers as the one before left them at its
    end; what it keeps is the best epoch of its tail.
    """

    def __init__(
        self, method: Method, cycles: Sequence[Method], joined: Joined, gallery: GalleryConfig | None
    ) -> None:
        """joined=embeddings compares them by the gallery."""
        super().__init__(method.config)
        self.name = method.name  # type: ignore[misc]  # errors shall name the method that was asked for
        self.transductive = method.transductive  # type: ignore[misc]
        self.members, self.joined, self.best = cycles, joined, 0
        self.gallery = None if joined != "embeddings" or gallery is None else Gallery(gallery)

    def learn(self, train: Photos, valid: Photos, harness: Harness) -> None:
        """One cycle after the other; which of them is the best is told by valid."""
        ended: Ended = {}
        worth = []
        for number, member in enumerate(self.members, 1):
            carrying = CarryingHarness(harness, number, ended)
            member.learn(train, valid, carrying)
            ended = carrying.ended
            if not ended:
                raise RunFailedError(
                    f"{self.name} names nothing to go on from in the next cycle: have it call "
                    f"harness.resume(parts) before its epochs, or leave schedule.cycles out."
                )
            worth.append(harness.valid_map_at_5(member.score(valid)))
        self.best = int(np.argmax(worth))
        harness.choose(BEST, self.best + 1)
        if self.gallery is not None:
            known = train.known().labelled()
            assert known.labels is not None
            self.gallery.fill(self._mean_embedding(known), known.labels, len(known.identities))

    def score(self, photos: Photos) -> NDArray[np.float32]:
        """Scores (photos, identities) of all cycles, put together as the schedule says."""
        if self.gallery is not None:
            return self.gallery.scores(self._mean_embedding(photos))
        if self.joined == "votes":
            return voted([member.score(photos) for member in self.members])
        return super().score(photos)

    def embed(self, photos: Photos) -> NDArray[np.float32] | None:
        """The mean of the cycles' embeddings where that is what scores; else side by side."""
        return super().embed(photos) if self.gallery is None else self._mean_embedding(photos)

    def variants(self, photos: Photos) -> dict[str, NDArray[np.float32]]:
        """The scores of the cycle that is best on valid, and those of the last one."""
        alone = {"best cycle": self.members[self.best], "last cycle": self.members[-1]}
        return {name: member.score(photos) for name, member in alone.items()}

    def locate(self, photos: Photos) -> Located | None:
        """Where the best cycle says the animals are."""
        return self.members[self.best].locate(photos)

    def weights(self) -> dict[str, Tensor]:
        """Each cycle's, after its number from 0 and a dot; which is the best; and the joined gallery."""
        joined = {} if self.gallery is None else self.gallery.weights()
        return super().weights() | {BEST: torch.tensor(self.best)} | joined

    def restore(
        self, weights: Mapping[str, Tensor], identities: tuple[str, ...], device: torch.device
    ) -> None:
        """Takes up each cycle, and the joined gallery."""
        super().restore(weights, identities, device)
        self.best = int(weights[BEST])
        if self.gallery is not None:
            self.gallery.restore(weights, len(identities))

    def _mean_embedding(self, photos: Photos) -> NDArray[np.float32]:
        """Embeddings (photos, dimensions) of length 1: the mean over the cycles, each at length 1 before."""
        each = [found for member in self.members if (found := member.embed(photos)) is not None]
        return normalise(np.sum([normalise(embeddings) for embeddings in each], axis=0))


def voted(scores: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Scores (photos, identities) by rank voting, of each cycle's scores.

    Votes, 1 / rank among a cycle's first 20, put the individuals of a photo in order, equal ones by the mean
    score. How sure it is that it is anyone at all, by which *new* is told, votes do not say: the best score
    of a photo is its best mean score.
    """
    mean = np.mean(scores, axis=0, dtype=np.float64)
    lowest, highest = mean.min(axis=1, keepdims=True), mean.max(axis=1, keepdims=True)
    shares = (mean - lowest) / np.maximum(highest - lowest, 1e-12)
    found = np.mean([votes(one) for one in scores], axis=0) + TIE * shares
    level: NDArray[np.float32] = (found - found.max(axis=1, keepdims=True) + highest).astype(np.float32)
    return level
