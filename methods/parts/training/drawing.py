"""Samplers that draw: one of several views of each photo, or photos of rare individuals again and again."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from whalebench.methods.parts.training.samplers import Places, Shuffled


class OneOfEach:
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
