"""Mirror twins: each photo of an individual, mirrored, is a photo of another one (Humpback 2019, 3rd)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from whalebench.benchmarks.photos import Batch, Photos, Size


@dataclass(frozen=True, eq=False)
class MirrorTwins:
    """A lens that mirrors some photos and says that they show the twin; no annotations."""

    mirrored: NDArray[np.bool_]
    """(photos,)"""
    identities: int
    """How much higher the label of a twin is."""
    axis: int = -1
    """Of pixels (photos, channels, height, width), along which photos are mirrored."""

    def select(self, indices: NDArray[np.int64]) -> MirrorTwins:
        """The lens for the photos at some places, in that order."""
        return replace(self, mirrored=self.mirrored[indices])

    def look(self, behind: Photos, indices: NDArray[np.int64], size: Size, device: torch.device) -> Batch:
        """The photos at some places, some of them mirrored."""
        batch = behind.batch(indices, size, device)
        mirrored = torch.from_numpy(self.mirrored[indices]).to(device)
        pixels = torch.where(mirrored[:, None, None, None], batch.pixels.flip(self.axis), batch.pixels)
        labels = None if batch.labels is None else batch.labels + self.identities * mirrored
        return Batch(pixels, labels, species=batch.species)


def with_twins(known: Photos, axis: int = -1) -> Photos:
    """Labelled photos as they are, and then all of them mirrored, as of twice as many identities."""
    assert known.labels is not None
    photos, identities = len(known), len(known.identities)
    twice = known.select(np.tile(np.arange(photos), 2))
    lens = MirrorTwins(np.repeat([False, True], photos), identities, axis)
    return replace(
        twice.labelled().through(lens),
        identities=(*known.identities, *(f"{identity} mirrored" for identity in known.identities)),
        labels=np.concatenate([known.labels, known.labels + identities]),
    )
