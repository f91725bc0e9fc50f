"""Pairs of photos: a query with the nearest photos of each candidate, and what is known of the two.

Second place at AnimalCLEF 2025 went to gradient-boosted trees on features of pairs.

Local matches: how many key points a query shares with photos of the gallery, as `sift` counts them.

How photos were taken: size, day and side, and how far two photos differ in that; never whom they show.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whalebench import WhalebenchError
from whalebench.benchmarks.core.machine import cores, free_memory
from whalebench.benchmarks.core.progress import SILENT, Progress
from whalebench.benchmarks.ensembles.fusion import Floats, blocks
from whalebench.benchmarks.ensembles.members import Embeddings, Ground, Member, side_of
from whalebench.benchmarks.ensembles.options import HOURS, Options
from whalebench.benchmarks.ensembles.stacking import COPIES, LENGTH, PARTS, SAID, Candidates, Part, Shortlist
from whalebench.methods.parts.keypoints import (
    Keypoints,
    MatchingConfig,
    count_inliers,
    estimate_hours,
    find_keypoints,
    match,
    require_opencv,
    root_sift,
)

POINT = 128 + 4 * 4
"""Bytes of a key point."""


@dataclass(frozen=True)
class LocalMatches:
    """Counts the key points that photos of one ground share; OpenCV is an extra."""

    ground: Ground
    hours: float
    """Longest that it may be estimated to take."""
    matching: MatchingConfig = field(default_factory=MatchingConfig)
    progress: Progress = SILENT

    def check(self, pairs: int, queries: int) -> None:
        """Nothing; raises WhalebenchError without OpenCV, and where time or memory would not be enough.

        For so many pairs of photos in all, and so many queries at a time.
        """
        require_opencv()
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

    def count(
        self, images: Sequence[str], rows: NDArray[np.int64], gallery: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """(pairs,) inliers of the photo at `rows` of images and the one at `gallery` of the gallery."""
        found = np.zeros(len(rows))
        queries = list(self._keypoints(images))
        order = np.argsort(gallery, kind="stable")
        needed, starts = np.unique(gallery[order], return_index=True)
        photos = self._keypoints([self.ground.gallery_images[place] for place in needed])
        # Each photo of the gallery is met once, so its key points need not be kept.
        for done, (photo, pairs) in enumerate(zip(photos, np.split(order, starts[1:]), strict=True)):
            root = root_sift(photo.descriptors)
            for pair in pairs:
                found[pair] = self._shared(queries[rows[pair]], photo, root)
            self.progress.advance(done + 1, len(needed))
        return found

    def _keypoints(self, images: Sequence[str]) -> Iterator[Keypoints]:
        """Of each photo, whole as it was taken."""
        benchmark, asked = self.ground.benchmark, self.matching
        pixels = benchmark.store.pixels(asked.size, self.progress.advance, cores())
        place = {image: row for row, image in enumerate(benchmark.catalog.table["image"])}
        for image in images:
            yield find_keypoints(pixels[place[image]], asked.keypoints, asked.contrast)

    def _shared(self, query: Keypoints, photo: Keypoints, root: NDArray[np.float32]) -> int:
        asked = self.matching
        pairs = match(root_sift(query.descriptors), root, asked.ratio, mutual=asked.mutual)
        here, there = query.places[pairs[:, 0], :2], photo.places[pairs[:, 1], :2]
        return count_inliers(here, there, asked.motion, asked.tolerance)


COLUMNS = ("width", "height", "date", "viewpoint")
"""All of the catalog that is looked at; an encounter is not, nor a box."""
DIFFERENCES = ("log width", "log height", "log area", "log aspect", "days between", "same viewpoint")
"""What is said of two photos; sizes are logarithms of the first's over the second's, as taken."""
DAY = 86400.0


@dataclass(frozen=True)
class Taken:
    """How some photos were taken; NaN or "" where the catalog does not say."""

    sizes: Floats
    """(photos, 2) width and height in pixels."""
    days: Floats
    """(photos,) days since 1970, with their part of the day."""
    viewpoints: NDArray[np.str_]
    """(photos,)"""


def taken_of(table: pd.DataFrame, images: Sequence[str]) -> Taken:
    """How those photos of a catalog were taken, in that order."""
    rows = table.set_index("image").loc[list(images), list(COLUMNS)]
    sizes = rows[["width", "height"]].to_numpy(np.float64)
    days = np.array([day_of(str(text)) for text in rows["date"]], np.float64)
    return Taken(np.where(sizes > 0, sizes, np.nan), days, rows["viewpoint"].to_numpy(np.str_))


def day_of(text: str) -> float:
    """Days since 1970 of a date of ISO 8601; NaN for none, and for one that names no day.

    >>> day_of("1970-01-02"), day_of("1970-01-02T12:00"), day_of("2024-05")
    (1.0, 1.5, nan)
    """
    if not re.match(r"\d{4}-?(\d{2}-?\d{2}|W)", text):
        return float("nan")
    when = datetime.fromisoformat(text)
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() / DAY


def differences(one: Taken, other: Taken, rows: NDArray[np.int64], others: NDArray[np.int64]) -> Floats:
    """(pairs, DIFFERENCES) of photos at `rows` of the one and at `others` of the other; NaN is not known."""
    width, height = (np.log(one.sizes[rows]) - np.log(other.sizes[others])).T
    days = np.abs(one.days[rows] - other.days[others])
    here, there = one.viewpoints[rows], other.viewpoints[others]
    same = np.where((here == "") | (there == ""), np.nan, here == there)
    return np.stack([width, height, width + height, width - height, days, same], axis=1)


NEAREST = 3
"""Photos of each candidate that a query is paired with, the nearest by the mean of the members' cosines."""
SCRATCH = 6 * 8
"""Bytes for each photo of a candidate while the nearest are sought."""


class Pairs(Candidates):
    """What is known of each query with photos of its candidates: one row a pair."""

    def __init__(
        self, members: Sequence[Member], ground: Ground, options: Options, progress: Progress = SILENT
    ) -> None:
        super().__init__(members)
        self.ground = ground
        sides = [(member.name, side_of(member, ground)) for member in members]
        self.sides = [(name, side) for name, side in sides if side is not None]
        self.counts = np.bincount(ground.gallery_labels, minlength=len(ground.identities))
        self.local = None
        if options.local_matches:
            self.local = LocalMatches(ground, options.hours or HOURS, progress=progress)

    def check(self) -> None:
        """Nothing; raises WhalebenchError for what would take more memory, or longer, than there is."""
        super().check()
        width = len(SAID) * len(self.members) + len(self.sides) + 1 + len(DIFFERENCES) + 1
        pairs = [len(self.scores(part)[0]) * self._most(NEAREST) for part in PARTS]
        photos = [len(self.scores(part)[0]) * self._most(len(self.ground.gallery)) for part in PARTS]
        needed = max(pairs) * width * 8 * COPIES + max(photos) * SCRATCH
        free = free_memory()
        if free is not None and needed > free:
            raise WhalebenchError(
                f"Up to {max(pairs):,} pairs of photos with {width} features each, the nearest of "
                f"{max(photos):,}, take about {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free: "
                f"combine fewer runs, or use --rule lightgbm."
            )
        if self.local is not None:
            self.local.check(sum(pairs), max(len(self.scores(part)[0]) for part in PARTS))

    def gather(self, part: Part) -> Shortlist:
        """The candidates of the part's photos, each with its nearest photos; one row a pair."""
        found = super().gather(part)
        candidate, gallery = self._photos_of(found.columns)
        cosines = self._cosines(part, found.photos[candidate], gallery)
        kept = nearest(candidate, gallery, cosines.mean(axis=1) if self.sides else np.zeros(len(gallery)))
        candidate, gallery, cosines = candidate[kept], gallery[kept], cosines[kept]
        photos, columns = found.photos[candidate], found.columns[candidate]
        more, names = self._more(part, photos, gallery)
        names = (*found.names, *(f"cosine by {name}" for name, _ in self.sides), *names)
        features = np.hstack([found.features[candidate], cosines, *more])
        return replace(found, photos=photos, columns=columns, features=features, names=names)

    def _most(self, photos: int) -> int:
        """The most pairs that a query can have with so many photos of each candidate."""
        each = np.sort(np.minimum(self.counts, photos))[::-1]
        return int(each[: LENGTH * len(self.members)].sum())

    def _photos_of(self, columns: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(photos,) the candidate, and the photo of the gallery, for every photo of every candidate."""
        order = np.argsort(self.ground.gallery_labels, kind="stable")
        begins, repeats = np.cumsum(self.counts) - self.counts, self.counts[columns]
        candidate = np.repeat(np.arange(len(columns)), repeats)
        within = np.arange(len(candidate)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
        return candidate, order[begins[columns][candidate] + within]

    def _cosines(self, part: Part, rows: NDArray[np.int64], gallery: NDArray[np.int64]) -> Floats:
        """(pairs, members with embeddings) cosines of photos at `rows` of the part with the gallery's."""
        found = np.empty((len(rows), len(self.sides)))
        for place, (_, side) in enumerate(self.sides):
            queries = side.valid if part == "valid" else side.test
            found[:, place] = _products(queries, side.gallery, rows, gallery)
        return found

    def _more(
        self, part: Part, rows: NDArray[np.int64], gallery: NDArray[np.int64]
    ) -> tuple[list[Floats], tuple[str, ...]]:
        """What no member says of pairs, and its names: count, differences, and local matches if asked for."""
        ground = self.ground
        images = ground.valid.images if part == "valid" else ground.test.images
        table = ground.benchmark.catalog.table
        count = self.counts[ground.gallery_labels[gallery], None].astype(np.float64)
        apart = differences(taken_of(table, images), taken_of(table, ground.gallery_images), rows, gallery)
        more, names = [count, apart], ("photos in the gallery", *DIFFERENCES)
        if self.local is None:
            return more, names
        return [*more, self.local.count(images, rows, gallery)[:, None]], (*names, "local matches")


def nearest(candidate: NDArray[np.int64], gallery: NDArray[np.int64], near: Floats) -> NDArray[np.int64]:
    """The places of each candidate's NEAREST pairs, by candidate; of equally near ones the first photos."""
    order = np.lexsort((gallery, -near, candidate))
    starts = np.flatnonzero(np.diff(candidate[order], prepend=-1))
    repeats = np.diff(starts, append=len(order))
    within = np.arange(len(order)) - np.repeat(starts, repeats)
    return order[within < NEAREST]


def _products(
    queries: Embeddings, gallery: Embeddings, rows: NDArray[np.int64], others: NDArray[np.int64]
) -> Floats:
    """(pairs,) the scalar product of the query at `rows` and the photo at `others`, in blocks."""
    found = np.empty(len(rows))
    for block in blocks(len(rows), queries.shape[1]):
        found[block] = np.einsum("ij,ij->i", queries[rows[block]], gallery[others[block]])
    return found
