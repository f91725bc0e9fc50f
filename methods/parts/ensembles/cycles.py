"""Any method in cycles: it learns several times, each time from where it stood, and answers together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from whalebench import RunFailedError
from whalebench.benchmarks.photos import Photos
from whalebench.methods.method import Harness, Located, Method
from whalebench.methods.parts.ensembles.carrying import CarryingHarness, Ended
from whalebench.methods.parts.ensembles.ensemble import Ensemble
from whalebench.methods.parts.ensembles.schedule import Joined
from whalebench.methods.parts.ensembles.voting import TIE, votes
from whalebench.methods.parts.retrieval.gallery import Gallery, GalleryConfig
from whalebench.methods.parts.retrieval.search import normalise

BEST = "best_cycle"
"""The name of the best cycle's place among the weights, and of its number in the record."""


class InCycles(Ensemble):
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
