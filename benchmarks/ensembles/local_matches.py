"""Local matches: how many key points photos share with photos of the gallery, as `sift` counts them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from whalebench import WhalebenchError
from whalebench.benchmarks.core.arrays import columns_of
from whalebench.benchmarks.core.machine import cores, free_memory
from whalebench.benchmarks.core.progress import SILENT, Progress
from whalebench.benchmarks.ensembles.members import FoldData
from whalebench.methods.parts.fusion import Floats, Rows
from whalebench.methods.parts.keypoints import (
    Keypoints,
    MatchingConfig,
    count_inliers,
    estimate_hours,
    find_keypoints,
    match,
    require_packages,
    root_sift,
)

POINT = 128 + 4 * 4
"""Bytes of a key point."""


@dataclass(frozen=True)
class LocalMatches:
    """Counts the key points that photos of one fold share; OpenCV is an extra."""

    fold: FoldData
    hours: float
    """Longest that it may be estimated to take."""
    matching: MatchingConfig = field(default_factory=MatchingConfig)
    progress: Progress = SILENT

    def check(self, pairs: int, queries: int) -> None:
        """Raises WhalebenchError without OpenCV, and where time or memory would not be enough.

        For so many pairs of photos in all, and so many queries at a time.
        """
        require_packages()
        hours = estimate_hours(pairs, self.matching.keypoints, "ratio")
        if hours > self.hours:
            raise WhalebenchError(
                f"Local matches would be counted for up to {pairs:,} pairs of photos, about {hours:.1f} "
                f"hours: leave --local-matches out, combine fewer runs, or set --hours {int(hours) + 1}."
            )
        needed, free = queries * self.matching.keypoints * POINT, free_memory()
        if free is not None and needed > free:
            raise WhalebenchError(
                f"The key points of {queries:,} photos take about {needed / 2**30:.1f} GiB, and "
                f"{free / 2**30:.1f} GiB are free: leave --local-matches out."
            )

    def count(self, images: Sequence[str], rows: Rows, gallery: Rows) -> Floats:
        """(pairs,) inliers of the photo at `rows` of images and the one at `gallery` of the gallery."""
        inliers = np.zeros(len(rows))
        queries = list(self._keypoints(images))
        order = np.argsort(gallery, kind="stable")
        needed, starts = np.unique(gallery[order], return_index=True)
        photos = self._keypoints([self.fold.gallery_images[place] for place in needed])
        # Each photo of the gallery is met once, so its key points need not be kept.
        for done, (photo, pairs) in enumerate(zip(photos, np.split(order, starts[1:]), strict=True)):
            root = root_sift(photo.descriptors)
            for pair in pairs:
                inliers[pair] = self._inliers(queries[rows[pair]], photo, root)
            self.progress.advance(done + 1, len(needed))
        return inliers

    def _keypoints(self, images: Sequence[str]) -> Iterator[Keypoints]:
        """Of each photo, whole as it was taken."""
        benchmark, matching = self.fold.benchmark, self.matching
        pixels = benchmark.store.pixels(matching.size, self.progress.advance, cores())
        row = columns_of(benchmark.catalog.table["image"].tolist())
        for image in images:
            yield find_keypoints(pixels[row[image]], matching.keypoints, matching.contrast)

    def _inliers(self, query: Keypoints, photo: Keypoints, root: NDArray[np.float32]) -> int:
        matching = self.matching
        pairs = match(root_sift(query.descriptors), root, matching.ratio, mutual=matching.mutual)
        here, there = query.places[pairs[:, 0], :2], photo.places[pairs[:, 1], :2]
        return count_inliers(here, there, matching.motion, matching.tolerance)
