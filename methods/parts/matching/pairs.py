"""Photos compared pair by pair: who shares most key points with a query, and a shortlist by that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from whalebench.benchmarks.photos import CPU, Photos, Size
from whalebench.methods.parts.matching.keypoints import (
    Keypoints,
    Motion,
    count_inliers,
    find_keypoints,
    match,
    rooted,
)
from whalebench.methods.parts.matching.lightglue import LightGlue


class PairConfig(Protocol):
    """What is said of key points and how they are compared; see `sift` for the fields."""

    @property
    def size(self) -> Size: ...  # noqa: D102
    @property
    def keypoints(self) -> int: ...  # noqa: D102
    @property
    def contrast(self) -> float: ...  # noqa: D102
    @property
    def matcher(self) -> str: ...  # noqa: D102
    @property
    def ratio(self) -> float: ...  # noqa: D102
    @property
    def mutual(self) -> bool: ...  # noqa: D102
    @property
    def motion(self) -> Motion: ...  # noqa: D102
    @property
    def tolerance(self) -> float: ...  # noqa: D102


def photos_of(photos: Photos, config: PairConfig) -> list[Keypoints]:
    """The key points of each photo; a mask beside the colours is not looked at."""
    found: list[Keypoints] = []
    for batch in photos.batches(config.size, 64, CPU):
        pixels = (batch.pixels[:, :3] * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        found += [find_keypoints(each, config.keypoints, config.contrast) for each in pixels]
    return found


def shortlisted(scores: NDArray[np.float32], length: int) -> NDArray[np.bool_]:
    """Where (queries, identities) the best so many identities of each query are; ties go to the first."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :length]
    chosen = np.zeros(scores.shape, np.bool_)
    np.put_along_axis(chosen, order, True, axis=1)
    return chosen


def reordered(
    scores: NDArray[np.float32], inliers: NDArray[np.float32], shortlist: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Scores (queries, identities) that put the shortlist first, in the order of its inliers.

    The shortlist has 1 + inliers + s, all others s, where s in (0, 1) rises with the other method's score:
    it decides between equal inliers, orders whoever is not on the list, and still tells photos apart that
    share nothing with anybody.
    """
    wide = scores.astype(np.float64)
    between = 0.5 * (1 + wide / (1 + np.abs(wide)))
    merged: NDArray[np.float32] = np.where(shortlist, 1 + inliers + between, between).astype(np.float32)
    return merged


class PairGallery:
    """The key points of the gallery's photos and whose they are."""

    def __init__(self, config: PairConfig, device: torch.device) -> None:
        self.config = config
        self.lightglue = LightGlue(config.size, device) if config.matcher == "lightglue" else None

    def fill(self, keypoints: list[Keypoints], labels: NDArray[np.int64]) -> None:
        """Takes the key points of photos under labels (photos,), indices of identities."""
        self.keypoints, self.labels = keypoints, labels

    def inliers(self, queries: list[Keypoints], wanted: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Inliers (queries, identities) with the best photo of each identity; 0 where it is not wanted."""
        best = np.zeros(wanted.shape, np.float32)
        roots = [rooted(query.descriptors) for query in queries]
        for photo, label in zip(self.keypoints, self.labels, strict=True):
            root = rooted(photo.descriptors)
            for row in np.flatnonzero(wanted[:, label]):
                count = self._compare(queries[row], roots[row], photo, root)
                best[row, label] = max(best[row, label], count)
        return best

    def weights(self) -> dict[str, Tensor]:
        """Places and descriptors of all photos one after the other, the number of each, and labels."""
        return {
            "places": torch.from_numpy(np.concatenate([each.places for each in self.keypoints])),
            "descriptors": torch.from_numpy(np.concatenate([each.descriptors for each in self.keypoints])),
            "counts": torch.tensor([len(each) for each in self.keypoints]),
            "labels": torch.from_numpy(self.labels),
        }

    def restore(self, weights: Mapping[str, Tensor]) -> None:
        """Takes up what `weights` gave; other names are passed over."""
        ends = np.cumsum(weights["counts"].numpy())[:-1]
        places, descriptors = (np.split(weights[name].numpy(), ends) for name in ("places", "descriptors"))
        keypoints = [Keypoints(*each) for each in zip(places, descriptors, strict=True)]
        self.fill(keypoints, weights["labels"].numpy())

    def _compare(
        self, query: Keypoints, root: NDArray[np.float32], photo: Keypoints, own: NDArray[np.float32]
    ) -> int:
        if self.lightglue is not None:
            pairs = self.lightglue.match(query, photo)
        else:
            pairs = match(root, own, self.config.ratio, mutual=self.config.mutual)
        here, there = query.places[pairs[:, 0], :2], photo.places[pairs[:, 1], :2]
        return count_inliers(here, there, self.config.motion, self.config.tolerance)
