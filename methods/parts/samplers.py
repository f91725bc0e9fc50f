"""Samplers: which photos are learned from together, step by step."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray


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
