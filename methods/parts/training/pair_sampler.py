"""The sampler of pairs: half of one individual, half of two, in batches of a left and a right half.

Matching pairs are drawn by derangement, pairs of two individuals by linear assignment (Piotte, 2018).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from whalebench import WhalebenchError
from whalebench.methods.parts.training.samplers import Indices

PairSimilarity = Callable[[Indices], NDArray[np.float64]]
"""From photos (n,) to their similarity in [0, 1] with each other (n, n)."""
NOISE = ((10, 1000.0), (60, 100.0), (150, 1.0), (200, 0.5), (250, 0.25))
"""The published noise until each of these epochs; in the second interval it falls from 100 towards 1."""


def noise_amplitude(done: float) -> float:
    """K, the largest noise added to similarities in [0, 1], at that share of the training.

    The published schedule up to its 250th epoch, where its learning rate is lowest, stretched over the whole.
    """
    epoch = done * NOISE[-1][0]
    if NOISE[0][0] <= epoch < NOISE[1][0]:
        return float(NOISE[1][1] * 100 ** (-0.1 * ((epoch - NOISE[0][0]) // 5)))
    return next((noise for end, noise in NOISE if epoch < end), NOISE[-1][1])


def matching_pairs(labels: NDArray[np.int64], rng: np.random.Generator) -> Indices:
    """Pairs (pairs, 2) in which every photo is once left and once right, beside another of its identity.

    labels (photos,). The photos of an identity stand in a random ring, each beside the next; an identity with
    one photo has no pair.
    """
    shuffled = rng.permutation(len(labels))
    ring = shuffled[np.argsort(labels[shuffled], kind="stable")]
    _, starts, counts = np.unique(labels[ring], return_index=True, return_counts=True)
    following = np.arange(1, len(ring) + 1)
    following[starts + counts - 1] = starts
    pairs: Indices = np.column_stack([ring, ring[following]])[(counts > 1).repeat(counts)]
    return pairs


def assigned_pairs(values: NDArray[np.float64], labels: NDArray[np.int64], used: Indices) -> Indices:
    """Pairs (pairs, 2) of different identities, each photo once left and once right, of the largest sum.

    values (photos, photos) in [0, 1]; labels (photos,). Pairs in used (., 2), in either order, are assigned
    only where there are no others; where only photos of one identity are left, they stay out. Exact, so in
    O(n^3): 0.01 s of one core for 512 photos of 64 individuals, 0.07 s for 1000 of 125.
    """
    from scipy.optimize import linear_sum_assignment

    cost = -values
    photos = len(labels)
    # One used pair costs more than all values are worth, one pair of an identity more than all used pairs.
    cost[used[:, 0], used[:, 1]] = cost[used[:, 1], used[:, 0]] = 2.0 * photos
    cost[labels[:, None] == labels] = 4.0 * photos**2
    left, right = linear_sum_assignment(cost)
    apart = labels[left] != labels[right]
    return np.column_stack([left[apart], right[apart]]).astype(np.int64)


class NegativePairs:
    """Pairs of different individuals, block by block of photos; all photos in one block is exact.

    Only similarities within a block are computed, so neither time nor memory grows with the square of the
    number of photos, as the author of the kernel proposed for larger data.
    """

    def __init__(
        self, labels: NDArray[np.int64], block: int, similarity: PairSimilarity | None = None
    ) -> None:
        """labels (photos,) are identities; without a similarity pairs are random throughout."""
        self.labels, self.block, self.similarity = labels, block, similarity
        self._blocks: list[Indices] = []
        self._known, self._used = False, np.zeros((0, 2), np.int64)

    def refresh(self) -> None:
        """Chooses pairs by similarity from now on, if there is one; used pairs may be used again."""
        self._known, self._used = self.similarity is not None, np.zeros((0, 2), np.int64)

    def next_pairs(self, amplitude: float, rng: np.random.Generator) -> Indices:
        """The pairs (pairs, 2) of the next block of photos; blocks are drawn anew after the last one.

        The most similar photos make pairs, but for noise up to amplitude, drawn each time; a pair is not used
        twice between two refreshes, where that can be.
        """
        photos = len(self.labels)
        if not self._blocks:
            self._blocks = np.array_split(rng.permutation(photos), -(-photos // self.block))
        block = self._blocks.pop().astype(np.int64)
        values = rng.random((len(block), len(block)))
        if self._known and self.similarity is not None:
            values = (self.similarity(block) + amplitude * values) / (1 + amplitude)
        pairs = block[assigned_pairs(values, self.labels[block], self._used_within(block))]
        self._used = np.concatenate([self._used, pairs])
        return pairs

    def state_dict(self) -> dict[str, Any]:
        """The blocks to come, the pairs used, and whether pairs are chosen by similarity."""
        return {"blocks": self._blocks, "known": self._known, "used": self._used}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` gave."""
        self._blocks, self._known, self._used = list(state["blocks"]), state["known"], state["used"]

    def _used_within(self, block: Indices) -> Indices:
        """Used pairs of two photos of the block, as indices into it."""
        row = np.full(len(self.labels), -1, np.int64)
        row[block] = np.arange(len(block))
        inside = row[self._used]
        return inside[(inside >= 0).all(axis=1)]


class PairSampler:
    """Batches of photos left, ..., right, ...; each has as many matching pairs as others.

    Pairs wait in two queues, which are filled when they run short: by a derangement of all photos that have
    another of their individual, and by assignments. So every photo is in as many pairs as any other of its
    kind, though not in every epoch; an individual with one photo is only in pairs of two individuals, which
    the matching pairs of others make up for.
    """

    def __init__(
        self,
        labels: NDArray[np.int64],
        *,
        batch_size: int,
        epochs: int,
        block: int,
        views: int = 1,
        similarity: PairSimilarity | None = None,
    ) -> None:
        """labels (photos,) are identities; in an epoch a photo is seen views times, on average.

        Pairs of two individuals are random until the first refresh, then, with a similarity, the most similar
        ones. Raises WhalebenchError where there are no pairs of one kind or the other.
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
        self._negatives = NegativePairs(labels, block, similarity)
        self._matching_queue = self._negative_queue = np.zeros((0, 2), np.int64)

    def refresh(self) -> None:
        """Chooses pairs of two individuals by the similarity as it now is."""
        self._negatives.refresh()
        if self._negatives.similarity is not None:
            # The queue was chosen by a network that has learned since.
            self._negative_queue = self._negative_queue[:0]

    def state_dict(self) -> dict[str, Any]:
        """The epochs begun, the queues, and the state of the choice of pairs."""
        return {
            "done": self.done,
            "matching_left": self._matching_queue,
            "others_left": self._negative_queue,
            "others": self._negatives.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` gave."""
        self.done = state["done"]
        self._matching_queue, self._negative_queue = state["matching_left"], state["others_left"]
        self._negatives.load_state_dict(state["others"])

    def epoch(self, generator: torch.Generator) -> list[Indices]:
        """The photos of each step: those on the left of its pairs, then those on the right."""
        rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
        amplitude = noise_amplitude(self.done / max(self.epochs, 1))
        self.done += 1

        while len(self._matching_queue) < self.half:
            more = rng.permutation(matching_pairs(self.labels, rng))
            self._matching_queue = np.concatenate([self._matching_queue, more])
        while len(self._negative_queue) < self.half:
            more = self._negatives.next_pairs(amplitude, rng)
            self._negative_queue = np.concatenate([self._negative_queue, more])
        matching, self._matching_queue = np.split(self._matching_queue, [self.half])
        negative, self._negative_queue = np.split(self._negative_queue, [self.half])
        halves = (np.array_split(rng.permutation(pairs), self.steps) for pairs in (matching, negative))
        return [np.concatenate(both).T.ravel() for both in zip(*halves, strict=True)]
