"""Samplers: which photos are learned from together, step by step.

Photos come shuffled, as K of each of P identities, in one of several views, again where their individual is
rare, or pseudo-labelled among those of train.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray

from whalebench import WhalebenchError
from whalebench.benchmarks.core.arrays import blocks, rows_by_label
from whalebench.benchmarks.core.checkpoint import Stateful
from whalebench.benchmarks.core.photos import UNKNOWN, LabelledPhotos, Photos

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


@dataclass(frozen=True)
class PseudoLabelledPhotos(LabelledPhotos):
    """Train photos followed by photos with pseudo-labels, each once: a gallery of them holds no photo twice.

    `PseudoLabelSampler` decides how often each is learned from.
    """

    pseudo: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))
    """(photos,) whether the label is a pseudo-label."""
    share: float = 0.5
    """The probability that a photo that is learned from is one of them."""

    def select(self, indices: NDArray[np.int64] | Sequence[int]) -> Self:
        """The photos at these indices, in that order, pseudo-labelled ones still marked."""
        chosen = np.asarray(indices, np.int64)
        return replace(super().select(chosen), pseudo=self.pseudo[chosen])


def with_pseudo_labels(train: LabelledPhotos, pseudo: LabelledPhotos, share: float) -> PseudoLabelledPhotos:
    """Train photos followed by pseudo-labelled ones, neither of them behind a lens.

    The latter have no annotations, but in an oracle's run, and no species.
    """
    assert train.lens is None
    assert pseudo.lens is None
    unnamed = np.full(len(pseudo), UNKNOWN)
    return PseudoLabelledPhotos(
        images=train.images + pseudo.images,
        digests=train.digests + pseudo.digests,
        identities=train.identities,
        store=train.store,
        rows=np.concatenate([train.rows, pseudo.rows]),
        shapes=np.concatenate([train.shapes, pseudo.shapes]),
        labels=np.concatenate([train.labels, pseudo.labels]),
        annotations=train.annotations,
        species=None if train.species is None else np.concatenate([train.species, unnamed]),
        viewpoints=_joined(train.viewpoints, pseudo.viewpoints),
        usage=train.usage,
        pseudo=np.repeat([False, True], [len(train), len(pseudo)]),
        share=share,
    )


def _joined(first: NDArray[np.int64] | None, second: NDArray[np.int64] | None) -> NDArray[np.int64] | None:
    return None if first is None or second is None else np.concatenate([first, second])


def pseudo_label_sampler(order: Sampler, photos: Photos) -> Sampler:
    """The sampler that mixes in pseudo-labelled photos, or the given one where there are none."""
    if isinstance(photos, PseudoLabelledPhotos) and 0 < photos.pseudo.sum() < len(photos):
        return PseudoLabelSampler(order, photos)
    return order


class PseudoLabelSampler:
    """The steps of another sampler, each photo of which is pseudo-labelled with the configured probability.

    An epoch is, to half a step, as long as for the train photos alone. In a step a photo that is alone of its
    individual is replaced by any pseudo-labelled one. Several photos of one individual came to be compared:
    they are replaced by pseudo-labelled ones of that individual, each by itself, or, where there are none,
    all at once by those of another.
    """

    def __init__(self, order: Sampler, photos: PseudoLabelledPhotos) -> None:
        self.order, self.share = order, photos.share
        self.pseudo, self.labels = photos.pseudo, photos.labels
        self.steps = max(1, round(order.steps * float(1 - photos.pseudo.mean())))
        self._pseudo_labelled = np.flatnonzero(photos.pseudo)
        self._photos_of = {
            (label, kind): rows[photos_of_label]
            for kind, rows in ((False, np.flatnonzero(~self.pseudo)), (True, self._pseudo_labelled))
            for label, photos_of_label in rows_by_label(self.labels[rows]).items()
        }
        """(individual, whether pseudo-labelled) -> its photos of that kind."""

    def epoch(self, generator: torch.Generator) -> list[Indices]:
        """The photos of each step."""
        steps = self.order.epoch(generator)[: self.steps]
        rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
        return [self._replaced(photos, rng) for photos in steps]

    def state_dict(self) -> dict[str, Any]:
        """The state of the other sampler."""
        return self.order.state_dict() if isinstance(self.order, Stateful) else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` gave."""
        if isinstance(self.order, Stateful):
            self.order.load_state_dict(state)

    def _replaced(self, photos: Indices, rng: np.random.Generator) -> Indices:
        """The photos of one step, some of them replaced by others."""
        labels = self.labels[photos]
        # Photos of new individuals have one label, but nothing else in common.
        individuals = np.where(labels == UNKNOWN, -1 - np.arange(len(photos)), labels)
        replaced = photos.copy()
        for individual in np.unique(individuals):
            group = np.flatnonzero(individuals == individual)
            one_by_one = len(group) > 1 and (int(individual), True) in self._photos_of
            pseudo = rng.random(len(group)) < self.share
            if not one_by_one:
                pseudo[:] = pseudo[0]
            for kind in (False, True):
                at = group[(pseudo == kind) & (self.pseudo[photos[group]] != kind)]
                if len(at):
                    label = individual
                    if kind and not one_by_one:
                        label = self.labels[rng.choice(self._pseudo_labelled)]
                    candidates = self._photos_of.get((int(label), kind), photos[at])
                    # Each once, if there are enough.
                    replaced[at] = rng.choice(candidates, len(at), replace=len(at) > len(candidates))
        return replaced
