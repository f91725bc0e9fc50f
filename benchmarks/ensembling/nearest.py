"""Embeddings of members side by side, and the nearest photo of the gallery (Happywhale, 26th: nine)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from whalebench import WhalebenchError
from whalebench.benchmarks.ensembling.ground import Ground
from whalebench.benchmarks.ensembling.members import Member
from whalebench.benchmarks.ensembling.mixing import Floats, Scores, blocks
from whalebench.benchmarks.ensembling.sides import Embeddings, Side, side_of

FLOOR = -1.0
"""The lowest cosine: of an individual without a photo in the gallery."""


def nearest_scores(members: Sequence[Member], ground: Ground, weights: Floats) -> tuple[Scores, Scores]:
    """Scores (photos, identities) of valid and test: the cosine to each individual's nearest photo.

    Each member's embeddings have length 1, so the cosine of those side by side is the mean of the members'
    cosines; a weight (members,) lengthens a member's by its root.
    """
    sides = [_side(member, ground) for member in members]
    galleries, labels = [side.gallery for side in sides], ground.gallery_labels
    valid, test = ([side.valid for side in sides], [side.test for side in sides])
    return (
        _nearest(valid, galleries, labels, weights, len(ground.identities)),
        _nearest(test, galleries, labels, weights, len(ground.identities)),
    )


def _nearest(
    queries: Sequence[Embeddings],
    galleries: Sequence[Embeddings],
    labels: NDArray[np.int64],
    weights: Floats,
    identities: int,
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


def _side(member: Member, ground: Ground) -> Side:
    side = side_of(member, ground)
    if side is None:
        raise WhalebenchError(
            f"The run {member.name} keeps no embeddings of its gallery and of test to put beside the others' "
            f"({member.named.record.method}): leave it out, or use --rule mean."
        )
    return side
