"""Samplers: which photos are learned from together, step by step.

Samplers that draw: one of several views of each photo, or photos of rare individuals again and again.

Photos with guessed labels mixed into those of train: which they are, and how often they are drawn.
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
from whalebench.benchmarks.core.checkpoint import Stateful
from whalebench.benchmarks.core.photos import UNKNOWN, LabelledPhotos, Photos

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


class RandomViewSampler:
    """Every photo once an epoch, shuffled, each time in one of its views, all of which are equally likely."""

    def __init__(self, views: Places, batch_size: int) -> None:
        """views (photos, views) are places among the training photos, the views of one photo in a row."""
        self.views = views
        self.photos = Shuffled(len(views), batch_size)
        self.steps = self.photos.steps

    def epoch(self, generator: torch.Generator) -> list[Places]:
        """The photos of each step."""
        drawn = torch.randint(self.views.shape[1], (len(self.views),), generator=generator).numpy()
        chosen = self.views[np.arange(len(self.views)), drawn]
        return [chosen[step] for step in self.photos.epoch(generator)]


class Oversampled:
    """Every photo once an epoch, and those of individuals with few of them again, until they have enough.

    What is missing is drawn with replacement (Osmulski for Humpback 2018; mirko-m meant to try it).
    """

    def __init__(self, labels: NDArray[np.int64], at_least: int, batch_size: int) -> None:
        """labels (photos,) are individuals, of which each is seen at least so often."""
        order = np.argsort(labels, kind="stable")
        _, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
        self.own: list[Places] = np.split(order, starts[1:])
        self.missing = np.maximum(at_least - counts, 0)
        self.seen = len(labels) + int(self.missing.sum())
        """Photos of one epoch, each as often as it is seen."""
        self.shuffled = Shuffled(self.seen, batch_size)
        self.steps = self.shuffled.steps

    def epoch(self, generator: torch.Generator) -> list[Places]:
        """The photos of each step."""
        again = [
            own[torch.randint(len(own), (int(missing),), generator=generator).numpy()]
            for own, missing in zip(self.own, self.missing, strict=True)
        ]
        photos = np.concatenate([*self.own, *again])
        return [photos[step] for step in self.shuffled.epoch(generator)]


@dataclass(frozen=True)
class MixedPhotos(LabelledPhotos):
    """Train photos and, behind them, pseudo-labelled ones, each once: a gallery of them holds no photo twice.

    How often each is learned from is not a matter of the photos but of their order: see `Mixing`.
    """

    pseudo: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))
    """(photos,) whose labels are guesses."""
    share: float = 0.5
    """How probable it is that a photo that is learned from is one of them."""

    def select(self, indices: NDArray[np.int64] | Sequence[int]) -> Self:
        """The photos at some places, in that order, still knowing which labels are guesses."""
        chosen = np.asarray(indices, np.int64)
        return replace(super().select(chosen), pseudo=self.pseudo[chosen])


def mixed(train: LabelledPhotos, pseudo: LabelledPhotos, share: float) -> MixedPhotos:
    """Train photos and pseudo-labelled ones in one view, neither of them behind a lens.

    Nothing annotated is known of the latter, but in an oracle's run; their species is not guessed.
    """
    assert train.lens is None
    assert pseudo.lens is None
    unnamed = np.full(len(pseudo), UNKNOWN)
    return MixedPhotos(
        images=train.images + pseudo.images,
        digests=train.digests + pseudo.digests,
        identities=train.identities,
        store=train.store,
        rows=np.concatenate([train.rows, pseudo.rows]),
        shapes=np.concatenate([train.shapes, pseudo.shapes]),
        labels=np.concatenate([train.labels, pseudo.labels]),
        annotations=train.annotations,
        species=None if train.species is None else np.concatenate([train.species, unnamed]),
        pseudo=np.repeat([False, True], [len(train), len(pseudo)]),
        share=share,
    )


def mixing(order: Sampler, photos: Photos) -> Sampler:
    """The sampler itself, or where some of its photos are pseudo-labelled, one with them at their share."""
    if isinstance(photos, MixedPhotos) and 0 < photos.pseudo.sum() < len(photos):
        return Mixing(order, photos)
    return order


class Mixing:
    """The steps of another sampler, each photo of which is pseudo-labelled with the probability asked for.

    An epoch is, to half a step, as long as for the train photos alone. In a step a photo that is alone of its
    individual gives way to any pseudo-labelled one. Several photos of one individual came to be compared:
    they give way to pseudo-labelled ones of that individual, each by itself, or, where there are none, all at
    once to those of another.
    """

    def __init__(self, order: Sampler, photos: MixedPhotos) -> None:
        self.order, self.share = order, photos.share
        self.pseudo, self.labels = photos.pseudo, photos.labels
        self.steps = max(1, round(order.steps * float(1 - photos.pseudo.mean())))
        self._guessed = np.flatnonzero(photos.pseudo)
        self._own = {
            (int(label), kind): there[self.labels[there] == label]
            for kind, there in ((False, np.flatnonzero(~self.pseudo)), (True, self._guessed))
            for label in np.unique(self.labels[there])
        }
        """(individual, whether pseudo-labelled) -> its photos of that kind."""

    def epoch(self, generator: torch.Generator) -> list[Places]:
        """The photos of each step."""
        steps = self.order.epoch(generator)[: self.steps]
        rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
        return [self._drawn(places, rng) for places in steps]

    def state_dict(self) -> dict[str, Any]:
        """What the other sampler remembers."""
        return self.order.state_dict() if isinstance(self.order, Stateful) else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up what `state_dict` gave."""
        if isinstance(self.order, Stateful):
            self.order.load_state_dict(state)

    def _drawn(self, places: Places, rng: np.random.Generator) -> Places:
        """The photos of one step, some of them in the stead of others."""
        labels = self.labels[places]
        # Photos of new individuals have one label, but nothing else in common.
        owners = np.where(labels == UNKNOWN, -1 - np.arange(len(places)), labels)
        drawn = places.copy()
        for owner in np.unique(owners):
            group = np.flatnonzero(owners == owner)
            own = len(group) > 1 and (int(owner), True) in self._own
            guessed = rng.random(len(group)) < self.share
            if not own:
                guessed[:] = guessed[0]
            for kind in (False, True):
                at = group[(guessed == kind) & (self.pseudo[places[group]] != kind)]
                if len(at):
                    whose = owner if own or not kind else self.labels[rng.choice(self._guessed)]
                    there = self._own.get((int(whose), kind), places[at])
                    # Each once, if there are enough.
                    drawn[at] = rng.choice(there, len(at), replace=len(at) > len(there))
        return drawn
