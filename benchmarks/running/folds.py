"""From a benchmark and a fold to what a method may see; the answers stay with the harness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whalebench import WhalebenchError
from whalebench.benchmarks.core.arrays import columns_of
from whalebench.benchmarks.core.catalog import BOX, PARTS, Catalog
from whalebench.benchmarks.core.store import PhotoStore
from whalebench.benchmarks.core.usage import PartUsage, UsageCounter
from whalebench.benchmarks.registry import Benchmark

if TYPE_CHECKING:  # photos are batches of tensors, and answers do without torch
    from whalebench.benchmarks.core.photos import Annotations, LabelledPhotos, Photos

SCORED = ("valid", "test")
"""The parts of a fold that are scored, and have answers."""
NEW = "new"
"""The truth of a photo whose individual is not known in train."""


@dataclass(frozen=True)
class Answers:
    """What the photos of one part really show: kept by the harness, never handed to a method."""

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

    train: LabelledPhotos
    valid: LabelledPhotos
    test: Photos
    answers: dict[str, Answers]
    """Of valid and test."""
    annotated: dict[str, LabelledPhotos]
    """The photos of valid and test with everything that is annotated on them; never handed to a method."""
    oracle: bool = False
    """Whether the annotations of valid and test are shown where they are scored."""
    usage: UsageCounter = field(default_factory=UsageCounter)
    """What the photos of train, valid and test tell when they are read."""

    def queries(self) -> dict[str, Photos]:
        """The photos of valid and test as they are scored, the known ones of train as they are embedded.

        They are bare, but for annotations in an oracle's run.
        """
        parts = {"train": self.train.known(), "valid": self.valid, "test": self.test}
        return {part: photos.unlabelled() if self.oracle else photos.bare() for part, photos in parts.items()}

    def counts(self) -> dict[str, int]:
        """Photos and individuals by part, for the record."""
        return {
            "train_photos": len(self.train),
            "train_known_photos": len(self.train.known()),
            "identities": len(self.train.identities),
            "valid_photos": len(self.valid),
            "valid_new_photos": self.answers["valid"].truth.count(NEW),
            "test_photos": len(self.test),
            "test_new_photos": self.answers["test"].truth.count(NEW),
        }

    def warnings(self) -> list[str]:
        """What a reader of the scores should know of this fold."""
        if NEW in self.answers["test"].truth and NEW not in self.answers["valid"].truth:
            return [
                "Valid has no new photo to choose a threshold by, so new is no candidate and every new test "
                "photo scores 0; a split made with --singles new has some."
            ]
        return []


def fold_views(benchmark: Benchmark, fold: int, *, oracle: bool = False) -> Views:
    """The parts of a fold; raises WhalebenchError for an unknown fold or one with one individual only.

    An oracle is shown the boxes, landmarks and masks of test photos; nobody else can reach them.
    """
    parts = benchmark.split.parts(fold)._asdict()
    table = benchmark.catalog.table
    row_of = columns_of(table["image"])
    rows = {part: np.array([row_of[image] for image in images], np.int64) for part, images in parts.items()}
    identities = tuple(sorted(set(table["identity"].iloc[rows["train"]]) - {""}))
    if len(identities) < 2:
        raise WhalebenchError(
            f"fold {fold} of {benchmark.name} has {len(identities)} individual(s) in train: "
            f"there is nothing to tell apart; import photos of at least two individuals."
        )
    everything = _annotations(benchmark.catalog)
    annotations, store = everything, benchmark.store
    if not oracle:
        annotations, store = _hidden(everything, rows["test"]), store.without_masks_of(rows["test"])
    species = tuple(sorted(set(table["species"].iloc[rows["train"]]) - {""}))
    usage = UsageCounter()
    train, valid, test = (
        _view(benchmark, store, rows[part], identities, annotations, species, usage.of(part))
        for part in PARTS
    )
    groups = dict(zip(benchmark.split.table["image"], benchmark.split.table["group"], strict=True))
    return Views(
        train,
        valid,
        test.unlabelled() if oracle else test.bare(),
        {part: answers_of(table.iloc[rows[part]], identities, groups) for part in SCORED},
        {part: _view(benchmark, benchmark.store, rows[part], identities, everything) for part in SCORED},
        oracle,
        usage,
    )


def answers_of(part: pd.DataFrame, identities: Sequence[str], groups: Mapping[str, str]) -> Answers:
    """The answers to some rows of a catalog, given the individuals known in train and each image's group."""
    known = set(identities)
    truth = tuple(identity if identity in known else NEW for identity in part["identity"])
    clusters = tuple(
        f"individual {identity}" if identity else f"group {groups[image]}"
        for image, identity in zip(part["image"], part["identity"], strict=True)
    )
    return Answers(tuple(part["image"]), tuple(part["identity"]), truth, clusters)


def _view(
    benchmark: Benchmark,
    store: PhotoStore,
    rows: NDArray[np.int64],
    identities: tuple[str, ...],
    annotations: Annotations,
    species: tuple[str, ...] = (),
    usage: PartUsage | None = None,
) -> LabelledPhotos:
    """The photos of some rows, labelled and annotated."""
    from whalebench.benchmarks.core.photos import LabelledPhotos

    part = benchmark.catalog.table.iloc[rows]
    return LabelledPhotos(
        images=tuple(part["image"]),
        digests=tuple(part["content_digest"]),
        identities=identities,
        store=store,
        rows=rows,
        shapes=np.array(part[["height", "width"]], np.int64),
        labels=_places(part["identity"], identities),
        annotations=annotations,
        species=_places(part["species"], species) if species else None,
        usage=usage,
    )


def _places(values: pd.Series[str], names: tuple[str, ...]) -> NDArray[np.int64]:
    """Each value's place among names, UNKNOWN where it is none of them."""
    from whalebench.benchmarks.core.photos import UNKNOWN

    place_of = columns_of(names)
    return np.array([place_of.get(value, UNKNOWN) for value in values], np.int64)


def _annotations(catalog: Catalog) -> Annotations:
    """Of the whole catalog, as shares of each photo's width and height."""
    from whalebench.benchmarks.core.photos import Annotations

    table = catalog.table
    width, height = (table[side].to_numpy(np.float64)[:, None] for side in ("width", "height"))
    boxes = table[list(BOX)].to_numpy(np.float64) / np.hstack([width, height, width, height])
    names = catalog.landmark_names
    points = np.full((len(table), len(names), 2), np.nan)
    for place, name in enumerate(names):
        points[:, place] = table[[f"{name}_x", f"{name}_y"]].to_numpy(np.float64) / np.hstack([width, height])
    has_mask = (table["mask"] != "").to_numpy().copy()
    return Annotations(boxes.astype(np.float32), points.astype(np.float32), names, has_mask)


def _hidden(annotations: Annotations, rows: NDArray[np.int64]) -> Annotations:
    """A copy with nothing annotated at some rows: what is shared with train must not tell about test."""
    boxes, points = annotations.boxes.copy(), annotations.landmarks.copy()
    has_mask = annotations.has_mask.copy()
    boxes[rows], points[rows], has_mask[rows] = np.nan, np.nan, False
    return replace(annotations, boxes=boxes, landmarks=points, has_mask=has_mask)
