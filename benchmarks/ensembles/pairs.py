"""Pairs of photos: a query with the nearest photos of each candidate, and what is known of the two.

Known are the members' cosines, how the photos differ in size, day and side (never whom they show), and if
asked for how many key points they share. Second place at AnimalCLEF 2025 went to gradient-boosted trees on
features of pairs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whalebench import WhalebenchError
from whalebench.benchmarks.core.arrays import row_blocks
from whalebench.benchmarks.core.machine import free_memory
from whalebench.benchmarks.ensembles.embeddings import in_own_space, read_embeddings
from whalebench.benchmarks.ensembles.members import FusionTask
from whalebench.benchmarks.ensembles.options import HOURS
from whalebench.benchmarks.ensembles.out_of_fold import TrainAnswers
from whalebench.benchmarks.ensembles.stacking import (
    COPIES,
    LENGTH,
    MEMBER_FEATURES,
    Candidates,
    Part,
    Shortlist,
)
from whalebench.methods.parts.fusion import Floats, Labels, Rows

NEAREST = 3
"""Photos of each candidate that a query is paired with, the nearest by the mean of the members' cosines."""
SCRATCH = 6 * 8
"""Bytes for each photo of a candidate while the nearest are sought."""
COLUMNS = ("width", "height", "date", "viewpoint")
"""All of the catalog that is looked at; an encounter is not, nor a box."""
DIFFERENCES = ("log width", "log height", "log area", "log aspect", "days between", "same viewpoint")
"""What is said of two photos; sizes are logarithms of the first's over the second's, as taken."""
DAY = 86400.0


class Pairs(Candidates):
    """What is known of each query with photos of its candidates: one row a pair."""

    def __init__(self, task: FusionTask) -> None:
        super().__init__(task)
        self.fold = fold = task.fold
        embedded = {member.name: read_embeddings(member, fold) for member in task.members}
        self.embedded = {name: each for name, each in embedded.items() if each}
        if self.train is not None:
            self._place_train(self.train)
        self.counts = np.bincount(fold.gallery_labels, minlength=len(fold.identities))
        self.local = None
        if task.options.local_matches:
            from whalebench.benchmarks.ensembles.local_matches import LocalMatches

            self.local = LocalMatches(fold, task.options.hours or HOURS, progress=task.progress)

    def _place_train(self, train: TrainAnswers) -> None:
        """Members' embeddings of train beside those of the other parts, where they have both."""
        fold, members = self.fold, self.task.members
        self.inner = members[0].inner_folds(fold)[fold.train["identity"].to_numpy() != ""]
        for member, own in zip(members, train.embeddings, strict=True):
            others = self.embedded.pop(member.name, None)
            if own is None or others is None:
                continue
            if (
                own.shape[1] * member.bags == others["test"].shape[1]
            ):  # else some networks answered train alone
                self.embedded[member.name] = others | {"train": in_own_space(own, train.bags, member.bags)}

    def check(self) -> None:
        """Raises WhalebenchError for what would take more memory, or longer, than there is."""
        super().check()
        width = len(MEMBER_FEATURES) * len(self.task.members) + len(self.embedded) + 1 + len(DIFFERENCES) + 1
        pairs = [len(self.scores(part)[0]) * self.most_pairs(NEAREST) for part in self.parts]
        photos = [len(self.scores(part)[0]) * self.most_pairs(len(self.fold.gallery)) for part in self.parts]
        needed = max(pairs) * width * 8 * COPIES + max(photos) * SCRATCH
        free = free_memory()
        if free is not None and needed > free:
            raise WhalebenchError(
                f"Up to {max(pairs):,} pairs of photos with {width} features each, the nearest of "
                f"{max(photos):,}, take about {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free: "
                f"combine fewer runs, or use --rule lightgbm."
            )
        if self.local is not None:
            self.local.check(sum(pairs), max(len(self.scores(part)[0]) for part in self.parts))

    def gather(self, part: Part) -> Shortlist:
        """The candidates of the part's photos, each with its nearest photos; one row a pair."""
        alone = super().gather(part)
        candidate, gallery = self._photos_of(alone.columns)
        if train := self.out_of_fold(part):  # who answered knew no photo of the query's inner fold
            known = self.inner[gallery] != train.bags[alone.photos[candidate]]
            candidate, gallery = candidate[known], gallery[known]
        cosines = self._cosines(part, alone.photos[candidate], gallery)
        similarity = cosines.mean(axis=1) if self.embedded else np.zeros(len(gallery))
        kept = nearest(candidate, gallery, similarity)
        candidate, gallery, cosines = candidate[kept], gallery[kept], cosines[kept]
        photos, columns = alone.photos[candidate], alone.columns[candidate]
        more, names = self._pair_features(part, photos, gallery)
        cosine_names = (f"cosine by {name}" for name in self.embedded)
        features = np.hstack([alone.features[candidate], cosines, *more])
        return Shortlist(photos, columns, features, (*alone.names, *cosine_names, *names))

    def most_pairs(self, photos: int) -> int:
        """The most pairs that a query can have with so many photos of each candidate."""
        each = np.sort(np.minimum(self.counts, photos))[::-1]
        return int(each[: LENGTH * len(self.task.members)].sum())

    def _photos_of(self, columns: Labels) -> tuple[Rows, Rows]:
        """(pairs,) the candidate, and the photo of the gallery, for every photo of every candidate."""
        order = np.argsort(self.fold.gallery_labels, kind="stable")
        begins, repeats = np.cumsum(self.counts) - self.counts, self.counts[columns]
        candidate = np.repeat(np.arange(len(columns)), repeats)
        within = np.arange(len(candidate)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
        return candidate, order[begins[columns][candidate] + within]

    def _cosines(self, part: Part, rows: Rows, gallery: Rows) -> Floats:
        """(pairs, members with embeddings) cosines of photos at `rows` of the part with the gallery's."""
        cosines = np.empty((len(rows), len(self.embedded)))
        for place, each in enumerate(self.embedded.values()):
            for block in row_blocks(len(rows), each[part].shape[1]):
                one, other = each[part][rows[block]], each["gallery"][gallery[block]]
                cosines[block, place] = np.einsum("ij,ij->i", one, other)
        return cosines

    def _pair_features(self, part: Part, rows: Rows, gallery: Rows) -> tuple[list[Floats], list[str]]:
        """What no member says of pairs, and its names: count, differences, and local matches if asked for."""
        fold = self.fold
        train, table = self.out_of_fold(part), fold.benchmark.catalog.table
        images = train.images if train else fold.answers[part].images
        queries, known = (capture_metadata(table, each) for each in (images, fold.gallery_images))
        count = self._known_photos(train, rows, fold.gallery_labels[gallery])[:, None].astype(np.float64)
        features = [count, capture_differences(queries, known, rows, gallery)]
        names = ["photos in the gallery", *DIFFERENCES]
        if self.local is not None:
            features.append(self.local.count(images, rows, gallery)[:, None])
            names.append("local matches")
        return features, names

    def _known_photos(self, train: TrainAnswers | None, rows: Rows, labels: Labels) -> Rows:
        """(pairs,) photos of each individual in the gallery of who answered the query."""
        if train is None:
            return self.counts[labels]
        held = self.inner >= 0
        own = np.zeros((self.inner.max() + 1, len(self.counts)), np.int64)
        np.add.at(own, (self.inner[held], self.fold.gallery_labels[held]), 1)
        return self.counts[labels] - own[train.bags[rows], labels]


def nearest(candidate: Rows, gallery: Rows, similarity: Floats) -> Rows:
    """The places of each candidate's NEAREST pairs, by candidate; of equally near ones the first photos."""
    order = np.lexsort((gallery, -similarity, candidate))
    starts = np.flatnonzero(np.diff(candidate[order], prepend=-1))
    repeats = np.diff(starts, append=len(order))
    within = np.arange(len(order)) - np.repeat(starts, repeats)
    return order[within < NEAREST]


@dataclass(frozen=True)
class CaptureMetadata:
    """How some photos were taken; NaN or "" where the catalog does not say."""

    sizes: Floats
    """(photos, 2) width and height in pixels."""
    days: Floats
    """(photos,) days since 1970, with their part of the day."""
    viewpoints: NDArray[np.str_]
    """(photos,)"""


def capture_metadata(table: pd.DataFrame, images: Sequence[str]) -> CaptureMetadata:
    """How those photos of a catalog were taken, in that order."""
    rows = table.set_index("image").loc[list(images), list(COLUMNS)]
    sizes = rows[["width", "height"]].to_numpy(np.float64)
    days = np.array([day_of(str(text)) for text in rows["date"]], np.float64)
    return CaptureMetadata(np.where(sizes > 0, sizes, np.nan), days, rows["viewpoint"].to_numpy(np.str_))


def day_of(text: str) -> float:
    """Days since 1970 of a date of ISO 8601; NaN for none, and for one that names no day.

    >>> day_of("1970-01-02"), day_of("1970-01-02T12:00"), day_of("2024-05")
    (1.0, 1.5, nan)
    """
    if not re.match(r"\d{4}-?(\d{2}-?\d{2}|W)", text):
        return float("nan")
    when = datetime.fromisoformat(text)
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() / DAY


def capture_differences(one: CaptureMetadata, other: CaptureMetadata, rows: Rows, others: Rows) -> Floats:
    """(pairs, DIFFERENCES) of photos at `rows` of the one and at `others` of the other; NaN is not known."""
    width, height = (np.log(one.sizes[rows]) - np.log(other.sizes[others])).T
    days = np.abs(one.days[rows] - other.days[others])
    here, there = one.viewpoints[rows], other.viewpoints[others]
    same = np.where((here == "") | (there == ""), np.nan, here == there)
    return np.stack([width, height, width + height, width - height, days, same], axis=1)
