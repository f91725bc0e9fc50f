"""The ground that all members of an ensemble stand on: one fold, its photos and answers; without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whalebench import WhalebenchError
from whalebench.benchmarks.judging.answers import Answers, answers_of
from whalebench.benchmarks.progress import SILENT, Progress
from whalebench.benchmarks.record import RunRecord
from whalebench.benchmarks.registry import Benchmark, load_benchmark
from whalebench.benchmarks.workspace import Workspace

FOLDS = 5
"""In how many parts valid is cut for cross-validation, or fewer where it has fewer clusters."""

FACTS = ["encounter", "width", "height"]
"""Columns of the catalog that say nothing of who is shown."""


@dataclass(frozen=True)
class Ground:
    """One fold: who is known, the answers to valid and test, and what may have been learned from."""

    identities: tuple[str, ...]
    valid: Answers
    test: Answers
    valid_digests: tuple[str, ...]
    """Of what the valid photos show."""
    test_digests: tuple[str, ...]
    """Without those of photos that train holds as well, in a published split: who learned from train has."""
    valid_groups: tuple[str, ...]
    """What each valid photo was taken with: its encounter, or what the split kept together."""
    gallery: tuple[str, ...]
    """The identity of each known photo of train, in the order in which methods embed them."""
    gallery_images: tuple[str, ...]
    gallery_digests: tuple[str, ...]
    benchmark: Benchmark
    photos: dict[str, pd.DataFrame]
    """By `gallery`, `valid` and `test`: encounter, width and height of the photos, nobody's name."""

    @cached_property
    def own(self) -> NDArray[np.int64]:
        """(valid photos,) the column of each one's individual, -1 where it is new."""
        column = {identity: place for place, identity in enumerate(self.identities)}
        return np.array([column.get(truth, -1) for truth in self.valid.truth], np.int64)

    @cached_property
    def gallery_labels(self) -> NDArray[np.int64]:
        """(known photos of train,) the column of each one's individual."""
        column = {identity: place for place, identity in enumerate(self.identities)}
        return np.array([column[identity] for identity in self.gallery], np.int64)

    def folds(self, seed: int, clusters: Sequence[str] | None = None) -> NDArray[np.int64]:
        """(valid photos,) the part of cross-validation each is in; a cluster's photos are in one part.

        Clusters are individuals unless given. The largest are dealt first, equal ones in shuffled order, each
        to the smallest part.
        """
        named = self.valid.clusters if clusters is None else clusters
        names, codes, sizes = np.unique(named, return_inverse=True, return_counts=True)
        order = np.random.default_rng(seed).permutation(len(names))
        order = order[np.argsort(-sizes[order], kind="stable")]
        part, filled = np.zeros(len(names), np.int64), np.zeros(min(FOLDS, len(names)), np.int64)
        for cluster in order:
            part[cluster] = filled.argmin()
            filled[part[cluster]] += sizes[cluster]
        return np.asarray(part[codes], np.int64)

    def splits(
        self, seed: int, clusters: Sequence[str] | None = None
    ) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Rows of valid to fit on and rows to try on, part by part; empty where no part leaves a known photo.

        Nothing is tried on what it was fitted on, nor on a photo of the same individual, or of the same
        cluster where those are given.
        """
        parts = self.folds(seed, clusters)
        cut = [(np.flatnonzero(parts != part), np.flatnonzero(parts == part)) for part in np.unique(parts)]
        enough = len(cut) > 1 and all((self.own[fit] >= 0).any() for fit, _ in cut)
        return cut if enough else []


def find_ground(record: RunRecord, workspace: Workspace, progress: Progress = SILENT) -> Ground:
    """The ground a run stands on; raises WhalebenchError where catalog or split are no longer the same."""
    benchmark = load_benchmark(record.benchmark, workspace, progress)
    now = {"catalog": benchmark.catalog.digest, "split": benchmark.split.digest}
    for what, then in (("catalog", record.catalog_digest), ("split", record.split_digest)):
        if now[what] != then:
            raise WhalebenchError(
                f"The {what} of {record.benchmark} is not the one that {record.run} was made with "
                f"({now[what][:16]} now, {then[:16]} then): bring that one back, or run again."
            )
    parts, table = benchmark.split.parts(record.fold), benchmark.catalog.table.set_index("image", drop=False)
    train, valid, test = (table.loc[list(images)] for images in (parts.train, parts.valid, parts.test))
    identities = tuple(sorted(set(train["identity"]) - {""}))
    groups = dict(zip(benchmark.split.table["image"], benchmark.split.table["group"], strict=True))
    known = train[train["identity"] != ""]
    shown = {"gallery": known, "valid": valid, "test": test}
    return Ground(
        identities=identities,
        valid=answers_of(valid, identities, groups),
        test=answers_of(test, identities, groups),
        valid_digests=tuple(valid["content_digest"]),
        test_digests=tuple(sorted(set(test["content_digest"]) - set(train["content_digest"]))),
        valid_groups=tuple(groups[image] for image in parts.valid),
        gallery=tuple(known["identity"]),
        gallery_images=tuple(known["image"]),
        gallery_digests=tuple(known["content_digest"]),
        benchmark=benchmark,
        photos={part: rows[FACTS] for part, rows in shown.items()},
    )
