"""Samplers: which photos are learned from together, step by step.

Photos come shuffled, as K of each of P identities, in one of several views, or again where their individual
is rare; pseudo-labelled ones are put among them by `pseudo_labels`.
"""

from __future__ import annotations

import heapq
import math
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from whalebench import WhalebenchError
from whalebench.benchmarks.core.arrays import blocks, rows_by_label

Indices = NDArray[np.int64]
"""Of photos among the training photos."""
Singles = Literal["alone", "repeat", "leave_out"]


class Sampler(Protocol):
    """The order in which the training photos are seen."""

    @property
    def steps(self) -> int:
        """Steps in one epoch."""

    def epoch(self, generator: torch.Generator) -> list[Indices]:
        """The photos of each step of one epoch."""


class Shuffled:
    """Every photo once an epoch in a new order, in batches of nearly equal size and more than one photo.

    A kind of it chooses other photos for each epoch.
    """

    def __init__(self, photos: int, batch_size: int) -> None:
        self.photos = photos
        # Never more steps than pairs of photos: batch normalisation cannot learn from one alone.
        self.steps = max(1, min(math.ceil(photos / batch_size), photos // 2))

    def epoch(self, generator: torch.Generator) -> list[Indices]:
        """The photos of each step."""
        chosen = self.choose(generator)
        order = torch.randperm(self.photos, generator=generator).numpy()
        return [chosen[step] for step in np.array_split(order, self.steps)]

    def choose(self, generator: torch.Generator) -> Indices:
        """The photos of one epoch, each as often as it is seen."""
        del generator
        return np.arange(self.photos)


class PKSampler:
    """Batches of P identities with K photos each (Hermans et al., 2017).

    Every identity and every photo is in an epoch at least once. The photos of an identity are shuffled and
    cut into groups of 2 to K (3 where K is 2 and their number odd); with fill, photos are drawn again until
    each group has K. Groups are distributed so that two of one identity share a batch only when it has more
    groups than there are batches, that no batch has one identity alone (a group of another one is then drawn
    again), and that batches otherwise differ by no more photos than one group has.
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
        """labels (photos,) are identities; singles decides on identities with one photo.

        alone: the photo is seen once, as a negative of others; repeat: K times in a group of its own (twice
        without fill), differently augmented; leave_out: not learned from. Raises WhalebenchError where fewer
        than two identities are left, or none with two photos.
        """
        self.group, self.fill, self.singles = photos_per_identity, fill, singles
        _, inverse, self.counts = np.unique(labels, return_inverse=True, return_counts=True)
        self.identity_of: Indices = inverse.astype(np.int64)
        self.single_identities = int((self.counts == 1).sum())
        """Identities with one photo."""
        self.left_out = self.single_identities if singles == "leave_out" else 0
        left = len(self.counts) - self.left_out
        paired = left if singles == "repeat" else len(self.counts) - self.single_identities
        if left < 2 or not paired:
            raise WhalebenchError(
                f"singles={singles} leaves {left} of {len(self.counts)} individual(s) to learn from, "
                f"{paired} of them with two photos to compare: set singles=repeat, or import more photos."
            )
        groups = [len(group) for group in self._groups(torch.Generator())]
        self.photos = sum(groups)
        """Photos of one epoch, those drawn again to fill a group counted again."""
        batches = math.ceil(self.photos / (identities_per_batch * photos_per_identity))
        self.steps = max(1, min(batches, len(groups) // 2))

    def epoch(self, generator: torch.Generator) -> list[Indices]:
        """The photos of each step, an identity's photos of one group side by side."""
        groups = self._groups(generator)
        identities = np.array([self.identity_of[group[0]] for group in groups])
        batches = _distribute(groups, identities, self.steps)
        for batch in batches:
            if len(set(identities[batch].tolist())) == 1:
                others = np.flatnonzero(identities != identities[batch[0]])
                batch.append(int(others[torch.randint(len(others), (1,), generator=generator)]))
        order = torch.randperm(self.steps, generator=generator).tolist()
        return [np.concatenate([groups[number] for number in batches[step]]) for step in order]

    def _groups(self, generator: torch.Generator) -> list[Indices]:
        """All groups, those of one identity one after the other, identities in a new order."""
        shuffled = torch.randperm(len(self.identity_of), generator=generator).numpy()
        by_identity = shuffled[np.argsort(self.identity_of[shuffled], kind="stable")]
        photos = np.split(by_identity, np.cumsum(self.counts)[:-1])
        order = torch.randperm(len(photos), generator=generator).tolist()
        return [group for identity in order for group in self._cut(photos[identity])]

    def _cut(self, photos: Indices) -> list[Indices]:
        """The groups of one identity, larger ones first."""
        count = len(photos)
        if count == 1 and self.singles != "repeat":
            return [photos] if self.singles == "alone" else []
        if self.fill:
            return list(np.resize(photos, (math.ceil(count / self.group), self.group)))
        if count == 1:
            return [np.repeat(photos, 2)]
        return np.array_split(photos, min(math.ceil(count / self.group), count // 2))


def _distribute(groups: list[Indices], identities: Indices, batches: int) -> list[list[int]]:
    """The groups of each batch: each goes where the fewest photos are, those of one identity apart.

    identities (groups,); those of one identity stand next to each other.
    """
    distributed: list[list[int]] = [[] for _ in range(batches)]
    sizes = [(0, batch) for batch in range(batches)]
    starts = np.flatnonzero(np.diff(identities, prepend=-1))
    for of_identity in np.split(np.arange(len(groups)), starts[1:]):
        for part in blocks(len(of_identity), batches):
            smallest = [(heapq.heappop(sizes), int(number)) for number in of_identity[part]]
            for (photos, batch), number in smallest:
                distributed[batch].append(number)
                heapq.heappush(sizes, (photos + len(groups[number]), batch))
    return distributed


class RandomViewSampler(Shuffled):
    """Every photo once an epoch, shuffled, each time in one of its views, all of which are equally likely."""

    def __init__(self, views: Indices, batch_size: int) -> None:
        """views (photos, views) are training photos, the views of one photo in a row."""
        super().__init__(len(views), batch_size)
        self.views = views

    def choose(self, generator: torch.Generator) -> Indices:
        """One view of every photo."""
        drawn = torch.randint(self.views.shape[1], (self.photos,), generator=generator).numpy()
        chosen: Indices = self.views[np.arange(self.photos), drawn]
        return chosen


class OversamplingSampler(Shuffled):
    """Every photo once an epoch, and those of individuals with few of them again, until they have enough.

    What is missing is drawn with replacement (Osmulski for Humpback 2018; mirko-m meant to try it).
    """

    def __init__(self, labels: NDArray[np.int64], at_least: int, batch_size: int) -> None:
        """labels (photos,) are individuals, of each of which at_least photos are seen in an epoch."""
        self.by_individual = list(rows_by_label(labels).values())
        self.missing = [max(at_least - len(photos), 0) for photos in self.by_individual]
        super().__init__(len(labels) + sum(self.missing), batch_size)

    def choose(self, generator: torch.Generator) -> Indices:
        """All photos, and again some of those of rare individuals."""
        again = [
            photos[torch.randint(len(photos), (missing,), generator=generator).numpy()]
            for photos, missing in zip(self.by_individual, self.missing, strict=True)
        ]
        return np.concatenate([*self.by_individual, *again])
