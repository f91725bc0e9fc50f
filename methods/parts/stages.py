"""What a classifier tells apart in one stage of its training: some individuals, or all and *new* ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from whalebench.benchmarks.photos import UNKNOWN, Photos


@dataclass(frozen=True, eq=False)
class Classes:
    """The photos of a stage, and which class each label is."""

    photos: Photos
    """Labelled as they were: through a lens they could not be labelled anew."""
    places: NDArray[np.int64]
    """(identities + 1,) the class of each identity, and last that of UNKNOWN, which is -1; -1 for none."""

    @property
    def count(self) -> int:
        """How many classes there are."""
        return int(self.places.max()) + 1

    @property
    def labels(self) -> NDArray[np.int64]:
        """The class (photos,) of each photo."""
        assert self.photos.labels is not None
        return self.places[self.photos.labels]

    def of(self, labels: Tensor | None) -> Tensor:
        """The classes of labels, both (photos,)."""
        assert labels is not None
        return torch.from_numpy(self.places).to(labels.device)[labels]

    def over_identities(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores (photos, identities) from those of classes; identities without one score less than all."""
        known = self.places[:-1] >= 0
        every = np.full((len(scores), len(known)), scores.min() - 1, np.float32)
        every[:, known] = scores[:, self.places[:-1][known]]
        return every


def frequent_classes(train: Photos, at_least: int) -> Classes:
    """The individuals with so many photos, in their order, and their photos."""
    assert train.labels is not None
    identities = len(train.identities)
    photos = np.bincount(train.labels[train.labels != UNKNOWN], minlength=identities)
    frequent = np.flatnonzero(photos >= at_least)
    places = np.full(identities + 1, -1, np.int64)
    places[frequent] = np.arange(len(frequent))
    return Classes(train.select(np.flatnonzero(np.isin(train.labels, frequent))).labelled(), places)


def all_classes(train: Photos, *, new_class: bool) -> Classes:
    """All individuals, and behind them the *new* ones as one class, if asked for and if there are any."""
    assert train.labels is not None
    new = new_class and bool((train.labels == UNKNOWN).any())
    places = np.arange(len(train.identities) + 1)
    if not new:
        places[-1] = -1
    return Classes((train if new else train.known()).labelled(), places)
