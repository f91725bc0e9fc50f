"""From a benchmark and a fold to what each party may see; the answers to test stay with the harness."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whalebench import WhalebenchError
from whalebench.benchmarks.catalog import Catalog
from whalebench.benchmarks.photos import UNKNOWN, Annotations, Photos
from whalebench.benchmarks.registry import Benchmark

NEW = "new"
"""The truth of a photo whose individual is not known in train."""


@dataclass(frozen=True)
class Answers:
    """What the photos of one part really show; never handed to a method."""

    images: tuple[str, ...]
    identities: tuple[str, ...]
    """As in the catalog, "" where it has none."""
    truth: tuple[str, ...]
    """The identity where it is known in train, else NEW."""
    clusters: tuple[str, ...]
    """What is resampled as one: the individual, or the encounter group of a photo that names none."""


@dataclass(frozen=True)
class Views:
    """The three parts of one fold as a method sees them, and the harness's answers to two of them."""

    train: Photos
    valid: Photos
    test: Photos
    valid_answers: Answers
    test_answers: Answers

    def counts(self) -> dict[str, int]:
        """Photos and individuals by part, for the record."""
        return {
            "train_photos": len(self.train),
            "train_known_photos": len(self.train.known()),
            "identities": len(self.train.identities),
            "valid_photos": len(self.valid),
            "valid_new_photos": self.valid_answers.truth.count(NEW),
            "test_photos": len(self.test),
            "test_new_photos": self.test_answers.truth.count(NEW),
        }

    def warnings(self) -> list[str]:
        """What a reader of the scores should know of this fold."""
        if NEW in self.test_answers.truth and NEW not in self.valid_answers.truth:
            return [
                "Valid has no new photo to choose a threshold by, so new is no candidate and every new test "
                "photo scores 0; a split made with --singles new has some."
            ]
        return []


def fold_views(benchmark: Benchmark, fold: int) -> Views:
    """The parts of a fold; raises WhalebenchError for an unknown fold or one with one individual only."""
    parts = benchmark.split.parts(fold)
    table = benchmark.catalog.table
    row_of = {image: row for row, image in enumerate(table["image"])}
    rows = {
        name: np.array([row_of[image] for image in getattr(parts, name)], np.int64)
        for name in ("train", "valid", "test")
    }
    identities = tuple(sorted(set(table["identity"].iloc[rows["train"]]) - {""}))
    if len(identities) < 2:
        raise WhalebenchError(
            f"fold {fold} of {benchmark.name} has {len(identities)} individual(s) in train: "
            f"there is nothing to tell apart; import photos of at least two individuals."
        )
    annotations = _annotations(benchmark.catalog, hidden=rows["test"])
    train, valid = (_view(benchmark, rows[name], identities, annotations) for name in ("train", "valid"))
    groups = dict(zip(benchmark.split.table["image"], benchmark.split.table["group"], strict=True))
    return Views(
        train,
        valid,
        _view(benchmark, rows["test"], identities, None),
        _answers(table.iloc[rows["valid"]], identities, groups),
        _answers(table.iloc[rows["test"]], identities, groups),
    )


def _view(
    benchmark: Benchmark,
    rows: NDArray[np.int64],
    identities: tuple[str, ...],
    annotations: Annotations | None,
) -> Photos:
    """Labelled and annotated where annotations are given, bare where they are not."""
    part = benchmark.catalog.table.iloc[rows]
    labels = None
    if annotations is not None:
        index = {identity: label for label, identity in enumerate(identities)}
        labels = np.array([index.get(identity, UNKNOWN) for identity in part["identity"]], np.int64)
    return Photos(
        images=tuple(part["image"]),
        digests=tuple(part["content_digest"]),
        identities=identities,
        store=benchmark.store,
        rows=rows,
        labels=labels,
        annotations=annotations,
    )


def _annotations(catalog: Catalog, hidden: NDArray[np.int64]) -> Annotations:
    """Of the whole catalog, but for the hidden rows: what is shared with train must not tell about test."""
    table = catalog.table
    width, height = (table[side].to_numpy(np.float64)[:, None] for side in ("width", "height"))
    boxes = table[["x0", "y0", "x1", "y1"]].to_numpy(np.float64) / np.hstack([width, height, width, height])
    names = catalog.landmark_names
    points = np.full((len(table), len(names), 2), np.nan)
    for place, name in enumerate(names):
        points[:, place] = table[[f"{name}_x", f"{name}_y"]].to_numpy(np.float64) / np.hstack([width, height])
    has_mask = (table["mask"] != "").to_numpy().copy()
    boxes[hidden], points[hidden], has_mask[hidden] = np.nan, np.nan, False
    return Annotations(boxes.astype(np.float32), points.astype(np.float32), names, has_mask)


def _answers(part: pd.DataFrame, identities: tuple[str, ...], groups: dict[str, str]) -> Answers:
    known = set(identities)
    truth = tuple(identity if identity in known else NEW for identity in part["identity"])
    clusters = tuple(
        f"individual {identity}" if identity else f"group {groups[image]}"
        for image, identity in zip(part["image"], part["identity"], strict=True)
    )
    return Answers(tuple(part["image"]), tuple(part["identity"]), truth, clusters)
