"""What steps are shown of a fold: photos without their answers, and the gallery."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whalebench.benchmarks.ensembling.ground import Ground
from whalebench.benchmarks.ensembling.members import Named
from whalebench.benchmarks.ensembling.mixing import Scores
from whalebench.benchmarks.ensembling.sides import normalised
from whalebench.benchmarks.ensembling.steps.duplicates import Groups
from whalebench.benchmarks.ensembling.steps.step import Gallery, Queries
from whalebench.benchmarks.record import WEIGHTS
from whalebench.benchmarks.runs.scores_file import SCORES, read_arrays

Parts = dict[str, NDArray[np.float32]]
"""Embeddings (photos, dimensions) by `gallery`, `valid` and `test`."""


@dataclass(frozen=True)
class Sight:
    """The gallery, and of both parts everything but scores and answers."""

    gallery: Gallery
    photos: dict[str, pd.DataFrame]
    embeddings: Parts

    def queries(self, part: str, scores: Scores, temperature: float, unit: float) -> Queries:
        """The photos of `valid` or `test` with the scores they have by now."""
        photos = self.photos[part]
        encounters = tuple(photos["encounter"])
        sizes = photos[["width", "height"]].to_numpy(np.int64)
        return Queries(scores, temperature, unit, sizes, encounters, self.embeddings.get(part))


def look(
    ground: Ground, named: Sequence[Named], weights: Sequence[float], groups: Groups, *, embeddings: bool
) -> Sight:
    """What steps are shown of the ground; of members' embeddings nothing unless they are asked for."""
    column = {identity: place for place, identity in enumerate(ground.identities)}
    labels = ground.gallery_labels
    order = np.argsort(labels, kind="stable")
    parts = _side_by_side(named, weights, labels) if embeddings else {}
    known = (tuple(column[name] for name in group if name in column) for group in groups)
    gallery = Gallery(
        labels=labels[order],
        sizes=ground.photos["gallery"][["width", "height"]].to_numpy(np.int64)[order],
        embeddings=parts["gallery"][order] if parts else None,
        groups=tuple(group for group in known if len(group) > 1),
    )
    return Sight(gallery, ground.photos, parts)


def _side_by_side(named: Sequence[Named], weights: Sequence[float], labels: NDArray[np.int64]) -> Parts:
    """Embeddings of the members that keep a gallery, so that a cosine is the weighted mean of theirs."""
    found: dict[str, list[NDArray[np.float32]]] = {"gallery": [], "valid": [], "test": []}
    for one, weight in zip(named, weights, strict=True):
        kept, _ = read_arrays(one.folder / WEIGHTS, ("gallery", "labels"), "lineage")
        seen, _ = read_arrays(one.folder / SCORES, ("valid_embeddings", "test_embeddings"), "names")
        if len(kept) < 2 or len(seen) < 2 or not np.array_equal(kept["labels"], labels):
            continue
        if weight > 0 and seen["test_embeddings"].shape[1:] == kept["gallery"].shape[1:]:
            parts = {"gallery": kept["gallery"], **{name.split("_")[0]: each for name, each in seen.items()}}
            for part, each in parts.items():
                found[part].append(normalised(each) * np.float32(np.sqrt(weight)))
    return {part: normalised(np.hstack(each)) for part, each in found.items() if each}
