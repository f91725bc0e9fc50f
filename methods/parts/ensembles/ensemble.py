"""Recipes of several members: each learns by itself from the same photos, and they answer together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from whalebench.benchmarks.photos import Photos, Size
from whalebench.methods.method import Harness, Method
from whalebench.methods.parts.retrieval.search import normalise


class Ensemble(Method):
    """Base of methods made of others; a subclass sets `members`, and may say how their scores are joined."""

    members: Sequence[Method]

    def unfit(self, train: Photos, queries: Photos) -> str:
        """What the members lack; they ask for the same."""
        return self.members[0].unfit(train, queries)

    def sizes(self) -> tuple[Size, ...]:
        """Every size that a member asks for."""
        return tuple(dict.fromkeys(size for member in self.members for size in member.sizes()))

    def learn(self, train: Photos, valid: Photos, harness: Harness) -> None:
        """Trains one member after the other."""
        for member in self.members:
            member.learn(train, valid, harness)

    def score(self, photos: Photos) -> NDArray[np.float32]:
        """The mean (photos, identities) of the members' scores."""
        mean: NDArray[np.float32] = np.mean([member.score(photos) for member in self.members], axis=0)
        return mean

    def embed(self, photos: Photos) -> NDArray[np.float32] | None:
        """The members' embeddings side by side (photos, dimensions), at length 1; None where none has any.

        Each is at length 1 before, so that a cosine is the mean of the members' cosines.
        """
        each = [found for member in self.members if (found := member.embed(photos)) is not None]
        if not each:
            return None
        return normalise(np.concatenate([normalise(embeddings) for embeddings in each], axis=1))

    def weights(self) -> dict[str, Tensor]:
        """Each member's, after its number and a dot."""
        numbered = enumerate(member.weights() for member in self.members)
        return {f"{number}.{key}": value for number, kept in numbered for key, value in kept.items()}

    def restore(
        self, weights: Mapping[str, Tensor], identities: tuple[str, ...], device: torch.device
    ) -> None:
        """Takes up each member."""
        for number, member in enumerate(self.members):
            prefix = f"{number}."
            own = {key.removeprefix(prefix): v for key, v in weights.items() if key.startswith(prefix)}
            member.restore(own, identities, device)
