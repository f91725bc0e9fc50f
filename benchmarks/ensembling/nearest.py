"""Embeddings of several members side by side, and the nearest photo of the gallery (seed 001 had nine)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from whalebench import WhalebenchError
from whalebench.benchmarks.ensembling.ground import Ground
from whalebench.benchmarks.ensembling.members import Member
from whalebench.benchmarks.ensembling.mixing import Floats, Scores, blocks
from whalebench.benchmarks.record import WEIGHTS
from whalebench.benchmarks.scores_file import SCORES, read_arrays

FLOOR = -1.0
"""The lowest cosine: of an individual without a photo in the gallery."""

Sides = list[NDArray[np.float32]]
"""Embeddings (photos, dimensions) by member."""


def nearest_scores(members: Sequence[Member], ground: Ground, weights: Floats) -> tuple[Scores, Scores]:
    """Scores (photos, identities) of valid and test: the cosine to each individual's nearest photo.

    Each member's embeddings have length 1, so the cosine of those side by side is the mean of the members'
    cosines; a weight (members,) lengthens a member's by its root.
    """
    galleries, labels = _galleries(members, ground)
    found = []
    for part in ("valid", "test"):
        queries: Sides = []
        for member, gallery in zip(members, galleries, strict=True):
            arrays, _ = read_arrays(member.named.folder / SCORES, (f"{part}_embeddings",), "names")
            embeddings = arrays.get(f"{part}_embeddings")
            if embeddings is None or embeddings.shape[1:] != gallery.shape[1:]:
                raise _without_gallery(member)
            queries.append(normalised(embeddings))
        found.append(_nearest(queries, galleries, labels, weights, len(ground.identities)))
    return found[0], found[1]


def _nearest(
    queries: Sides, galleries: Sides, labels: NDArray[np.int64], weights: Floats, identities: int
) -> Scores:
    """Scores (photos, identities), in blocks of photos, so that memory does not grow with the gallery."""
    order = np.argsort(labels, kind="stable")
    present, starts = np.unique(labels[order], return_index=True)
    found = np.full((len(queries[0]), identities), FLOOR, np.float32)
    sorted_galleries = [gallery[order] for gallery in galleries]
    for rows in blocks(len(found), len(labels)):
        cosines = np.zeros((len(found[rows]), len(labels)), np.float32)
        for query, gallery, weight in zip(queries, sorted_galleries, weights, strict=True):
            cosines += np.float32(weight) * (query[rows] @ gallery.T)
        found[rows, present] = np.maximum.reduceat(cosines, starts, axis=1)
    return found


def _galleries(members: Sequence[Member], ground: Ground) -> tuple[Sides, NDArray[np.int64]]:
    """The members' galleries, photo by photo the same, and the column of each photo's individual."""
    column = {identity: place for place, identity in enumerate(ground.identities)}
    labels = np.array([column[identity] for identity in ground.gallery], np.int64)
    galleries = []
    for member in members:
        arrays, _ = read_arrays(member.named.folder / WEIGHTS, ("gallery", "labels"), "lineage")
        if set(arrays) != {"gallery", "labels"}:
            raise _without_gallery(member)
        if not np.array_equal(arrays["labels"], labels):
            raise WhalebenchError(
                f"The gallery of {member.name} is not one embedding a known train photo, so it cannot be put "
                f"beside another: leave that run out, or use --rule mean."
            )
        galleries.append(normalised(arrays["gallery"]))
    return galleries, labels


def _without_gallery(member: Member) -> WhalebenchError:
    return WhalebenchError(
        f"The run {member.name} keeps no embeddings of its gallery and of test to put beside the others' "
        f"({member.named.record.method}): leave it out, or use --rule mean."
    )


def normalised(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """The embeddings (photos, dimensions) at length 1; one of length 0 stays."""
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    found: NDArray[np.float32] = (embeddings / np.maximum(lengths, 1e-12)).astype(np.float32)
    return found
