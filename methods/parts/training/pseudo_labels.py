"""Pseudo-labels and pseudo-masks: photos with what was guessed of them, learned from among those of train.

As in the system that came fourth in TGS Salt of 2018: test is cut in two halves, in a step each photo is one
of a half instead of one of train by a given probability, and what so learned from a half answers the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from whalebench.benchmarks.core.arrays import rows_by_label
from whalebench.benchmarks.core.checkpoint import Stateful
from whalebench.benchmarks.core.photos import UNKNOWN, Batch, LabelledPhotos, Photos, Size
from whalebench.methods.parts.training.samplers import Indices, Sampler


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


def two_halves(guessed: LabelledPhotos, seed: int) -> tuple[LabelledPhotos, LabelledPhotos]:
    """Labelled photos in two random halves by the seed, those of each individual in equal parts.

    Equal photos stay together. As nothing more is known of bare photos, an encounter may be split.
    """
    digests, first, which = np.unique(guessed.digests, return_index=True, return_inverse=True)
    shuffled = np.random.default_rng(seed).permutation(len(digests))
    order = shuffled[np.argsort(guessed.labels[first][shuffled], kind="stable")]
    half = np.zeros(len(digests), np.int64)
    half[order[1::2]] = 1
    one, other = (guessed.select(np.flatnonzero(half[which] == side)) for side in (0, 1))
    return one, other


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


@dataclass(frozen=True, eq=False)
class PseudoMasks:
    """Bare photos with the masks that were found on them."""

    photos: Photos
    masks: NDArray[np.bool_]
    """(photos, height, width), equal ones of equal photos."""
    share: float
    """The probability that a photo that is learned from is one of them."""

    def halves(self, seed: int) -> list[PseudoMasks]:
        """Two random halves by the seed; equal photos are in one."""
        place = {digest: place for place, digest in enumerate(self.photos.digests)}
        halves = two_halves(_as_animals(self.photos), seed)
        return [
            replace(self, photos=half, masks=self.masks[[place[each] for each in half.digests]])
            for half in halves
        ]

    def beside(self, train: Photos) -> Photos:
        """Photos of train with their own masks and these, to be drawn at their share."""
        both = with_pseudo_labels(_as_animals(train), _as_animals(self.photos), self.share)
        of_train = np.full(len(train), -1)
        return both.through(FoundMasks(self.masks, np.concatenate([of_train, np.arange(len(self.photos))])))


@dataclass(frozen=True, eq=False)
class FoundMasks:
    """A lens that shows some photos with masks that were found on them, where none is annotated."""

    masks: NDArray[np.bool_]
    place: NDArray[np.int64]
    """(photos,) which of the masks is each one's, -1 for a photo that is seen as it is."""

    def select(self, indices: NDArray[np.int64]) -> FoundMasks:
        """The lens for the photos at some places, in that order."""
        return replace(self, place=self.place[indices])

    def look(self, behind: Photos, indices: NDArray[np.int64], size: Size, device: torch.device) -> Batch:
        """Some of the photos with their masks."""
        batch, place = behind.batch(indices, size, device), self.place[indices]
        found = np.flatnonzero(place >= 0)
        if not len(found):
            return batch
        masks: Tensor = vars(batch)["masks"].clone()  # those of others are not looked at here
        own = torch.from_numpy(self.masks[place[found]])[:, None].float()
        own = F.interpolate(own, size, mode="bilinear", align_corners=False)
        masks[torch.from_numpy(found).to(device)] = own.to(device)
        return replace(batch, masks=masks)


def _as_animals(photos: Photos) -> LabelledPhotos:
    """The photos all of one label: who the animal is does not matter, and any may stand for any other."""
    labels = np.zeros(len(photos), np.int64)
    return LabelledPhotos(**vars(photos.unlabelled()) | {"labels": labels})
