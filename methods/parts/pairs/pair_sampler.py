"""The sampler of pairs: half of one individual, half of two, in batches of a left and a right half."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from whalebench import WhalebenchError
from whalebench.methods.parts.pairs.pair_mining import (
    NegativePairs,
    Places,
    Similarity,
    matching_pairs,
    noise_amplitude,
)


class PairSampler:
    """Batches of photos left, ..., right, ...; each has as many matching pairs as others.

    Pairs stand in two queues, which are filled when they run short: by a derangement of all photos that have
    another of their individual, and by assignments. So every photo is in as many pairs as any other of its
    kind, though it need not be in every epoch; an individual with one photo is in pairs of two individuals
    only, which the others' matching pairs make up for.
    """

    def __init__(
        self,
        labels: NDArray[np.int64],
        *,
        batch_size: int,
        epochs: int,
        block: int,
        views: int = 1,
        similarity: Similarity | None = None,
    ) -> None:
        """labels (photos,) are identities; in an epoch a photo is seen views times, on average.

        Pairs of two individuals are random, but from the first refresh on the alikest, where a similarity is
        given.
        Raises WhalebenchError where there are no pairs of one kind or the other.
        """
        _, counts = np.unique(labels, return_counts=True)
        self.single_identities = int((counts == 1).sum())
        """Identities with one photo."""
        if len(counts) < 2 or self.single_identities == len(counts):
            raise WhalebenchError(
                f"{len(counts)} individual(s) in train, {len(counts) - self.single_identities} of them with "
                "two photos, cannot make pairs of one and of two individuals: import more photos."
            )
        self.labels, self.epochs, self.done = labels, epochs, 0
        self.half = max(1, len(labels) * views // 4)
        """Pairs of either kind in an epoch."""
        self.steps = min(math.ceil(4 * self.half / batch_size), self.half)
        self._others = NegativePairs(labels, block, similarity)
        self._matching_left = self._others_left = np.zeros((0, 2), np.int64)

    def refresh(self) -> None:
        """Pairs of two individuals are chosen by similarity, as it now is, from now on."""
        self._others.refresh()
        if self._others.similarity is not None:
            # What waits was chosen by a network that has learned since.
            self._others_left = self._others_left[:0]

    def state_dict(self) -> dict[str, Any]:
        """Epochs begun, the queues, and what the choice of pairs remembers."""
        return {
            "done": self.done,
            "matching_left": self._matching_left,
            "others_left": self._others_left,
            "others": self._others.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up what `state_dict` gave."""
        self.done = state["done"]
        self._matching_left, self._others_left = state["matching_left"], state["others_left"]
        self._others.load_state_dict(state["others"])

    def epoch(self, generator: torch.Generator) -> list[Places]:
        """The photos of each step: those on the left of its pairs, then those on the right."""
        rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
        amplitude = noise_amplitude(self.done / max(self.epochs, 1))
        self.done += 1

        def more_matching() -> Places:
            return rng.permutation(matching_pairs(self.labels, rng))

        def more_others() -> Places:
            return self._others.take(amplitude, rng)

        matching, self._matching_left = self._from(self._matching_left, more_matching)
        others, self._others_left = self._from(self._others_left, more_others)
        halves = (np.array_split(rng.permutation(pairs), self.steps) for pairs in (matching, others))
        return [np.concatenate(both).T.ravel() for both in zip(*halves, strict=True)]

    def _from(self, queue: Places, more: Callable[[], Places]) -> tuple[Places, Places]:
        """The pairs of one kind for one epoch, and what the queue has left."""
        while len(queue) < self.half:
            queue = np.concatenate([queue, more()])
        return queue[: self.half], queue[self.half :]
