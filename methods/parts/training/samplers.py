"""Samplers: which photos are learned from together, step by step."""

from __future__ import annotations

import heapq
import math
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from whalebench import WhalebenchError

Places = NDArray[np.int64]
"""Photos, as places among the training photos."""
Singles = Literal["alone", "repeat", "leave_out"]


class Sampler(Protocol):
    """The order in which the training photos are seen."""

    @property
    def steps(self) -> int:
        """Steps in one epoch."""

    def epoch(self, generator: torch.Generator) -> list[NDArray[np.int64]]:
        """The photos of each step of one epoch, as places among the training photos."""


class Shuffled:
    """Every photo once an epoch in a new order, in batches of nearly equal size: none is left alone."""

    def __init__(self, photos: int, batch_size: int) -> None:
        self.photos = photos
        # Never more steps than pairs of photos: batch normalisation cannot learn from one alone.
        self.steps = max(1, min(math.ceil(photos / batch_size), photos // 2))

    def epoch(self, generator: torch.Generator) -> list[NDArray[np.int64]]:
        """The photos of each step."""
        return np.array_split(torch.randperm(self.photos, generator=generator).numpy(), self.steps)


class PKSampler:
    """Batches of P identities with K photos each (Hermans et al., 2017), and nothing left out unsaid.

    Every identity and every photo is in an epoch at least once. The photos of an identity are shuffled and
    cut into groups of 2 to K (3 where K is 2 and their number odd); with fill, photos are drawn again until
    each group has K. Groups are dealt to the batches so that an identity meets itself in one batch only when
    it has more groups than there are batches, that no batch has one identity alone (a group of another one
    is then drawn again), and that batches differ by no more photos than one group has, but for those.
    """

    def __init__(
        self,
        labels: NDArray[np.int64],
        identities_per_batch: int,
        photos_per_identity: int,
        singles: Singles = "alone",
        *,
        fill: bool = False,
    ) -> None:
        """labels (photos,) are identities; singles says what becomes of identities with one photo.

        alone: the photo is seen once, as a negative of others; repeat: K times in a group of its own (twice
        without fill), differently augmented; leave_out: not learned from. Raises WhalebenchError where fewer
        than two identities are left, or none that has two photos to bring together.
        """
        self.group, self.fill, self.singles = photos_per_identity, fill, singles
        _, inverse, self.counts = np.unique(labels, return_inverse=True, return_counts=True)
        self.identity_of: Places = inverse.astype(np.int64)
        self.single_identities = int((self.counts == 1).sum())
        """Identities with one photo."""
        self.left_out = self.single_identities if singles == "leave_out" else 0
        self._refuse_nothing_to_compare()
        groups = [len(group) for group in self._groups(torch.Generator())]
        self.photos = sum(groups)
        """Photos of one epoch, those drawn again counted again (but for those that keep a batch company)."""
        wanted = math.ceil(self.photos / (identities_per_batch * photos_per_identity))
        self.steps = max(1, min(wanted, len(groups) // 2))

    def epoch(self, generator: torch.Generator) -> list[Places]:
        """The photos of each step, an identity's photos of one group side by side."""
        groups = self._groups(generator)
        owners = np.array([self.identity_of[group[0]] for group in groups])
        batches = _deal(groups, owners, self.steps)
        for batch in batches:
            if len({int(owners[place]) for place in batch}) == 1:
                others = np.flatnonzero(owners != owners[batch[0]])
                batch.append(int(others[torch.randint(len(others), (1,), generator=generator)]))
        order = torch.randperm(self.steps, generator=generator).tolist()
        return [np.concatenate([groups[place] for place in batches[step]]) for step in order]

    def _groups(self, generator: torch.Generator) -> list[Places]:
        """Those of one identity one after the other, identities in a new order."""
        shuffled = torch.randperm(len(self.identity_of), generator=generator).numpy()
        by_identity = shuffled[np.argsort(self.identity_of[shuffled], kind="stable")]
        photos = np.split(by_identity, np.cumsum(self.counts)[:-1])
        order = torch.randperm(len(photos), generator=generator).tolist()
        return [group for identity in order for group in self._cut(photos[identity])]

    def _cut(self, photos: Places) -> list[Places]:
        """The groups of one identity, larger ones first."""
        count = len(photos)
        if count == 1 and self.singles != "repeat":
            return [photos] if self.singles == "alone" else []
        if self.fill:
            return list(np.resize(photos, (math.ceil(count / self.group), self.group)))
        if count == 1:
            return [np.repeat(photos, 2)]
        return np.array_split(photos, min(math.ceil(count / self.group), count // 2))

    def _refuse_nothing_to_compare(self) -> None:
        left = len(self.counts) - self.left_out
        paired = left if self.singles == "repeat" else int((self.counts > 1).sum())
        if left < 2 or not paired:
            raise WhalebenchError(
                f"singles={self.singles} leaves {left} of {len(self.counts)} individual(s) to learn from, "
                f"{paired} of them with two photos to compare: set singles=repeat, or import more photos."
            )


def _deal(groups: list[Places], owners: Places, batches: int) -> list[list[int]]:
    """The groups of each batch: each goes where the fewest photos are, those of one owner apart."""
    dealt: list[list[int]] = [[] for _ in range(batches)]
    least = [(0, batch) for batch in range(batches)]
    starts = np.flatnonzero(np.diff(owners, prepend=-1))
    for own in np.split(np.arange(len(groups)), starts[1:]):
        for start in range(0, len(own), batches):
            taken = [(heapq.heappop(least), int(place)) for place in own[start : start + batches]]
            for (photos, batch), place in taken:
                dealt[batch].append(place)
                heapq.heappush(least, (photos + len(groups[place]), batch))
    return dealt
