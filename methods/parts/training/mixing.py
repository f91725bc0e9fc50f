"""Photos with guessed labels mixed into those of train: which they are, and how often they are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from whalebench.benchmarks.photos import UNKNOWN, Photos
from whalebench.methods.method import Stateful
from whalebench.methods.parts.training.samplers import Places, Sampler


@dataclass(frozen=True)
class MixedPhotos(Photos):
    """Train photos and, behind them, pseudo-labelled ones, each once: a gallery of them holds no photo twice.

    How often each is learned from is not a matter of the photos but of their order: see `Mixing`.
    """

    pseudo: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))
    """(photos,) whose labels are guesses."""
    share: float = 0.5
    """How probable it is that a photo that is learned from is one of them."""

    def select(self, indices: NDArray[np.int64] | Sequence[int]) -> Photos:
        """The photos at some places, in that order, still knowing which labels are guesses."""
        chosen = np.asarray(indices, np.int64)
        selected = super().select(chosen)
        assert isinstance(selected, MixedPhotos)
        return replace(selected, pseudo=self.pseudo[chosen])


def mixed(train: Photos, pseudo: Photos, share: float) -> Photos:
    """Train photos and pseudo-labelled ones in one view, neither of them behind a lens.

    Nothing annotated is known of the latter, but in an oracle's run; their species is not guessed.
    """
    assert train.lens is None
    assert pseudo.lens is None
    assert train.labels is not None
    assert pseudo.labels is not None
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
        assert photos.labels is not None
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
