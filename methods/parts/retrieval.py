"""The gallery: embedded photos of known individuals, and the rule by which they score a query.

Cosines are exact, and neighbours those of brute force (`benchmarks/core/search.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from whalebench.benchmarks.core.arrays import blocks, normalise, rows_by_label
from whalebench.benchmarks.core.photos import UNKNOWN
from whalebench.benchmarks.core.search import BLOCK, GALLERY_BLOCK, check_finite, cosines, on_grid, top_k
from whalebench.methods.method import PartConfig

FLOOR = -1.0
"""Score of an identity without a photo in the gallery: the lowest cosine there is."""


def nearest_photo_scores(
    query: NDArray[np.float32],
    gallery: NDArray[np.float32],
    labels: NDArray[np.int64],
    identities: int,
    block: int = BLOCK,
    gallery_block: int = GALLERY_BLOCK,
) -> NDArray[np.float32]:
    """Scores (queries, identities): the cosine to the nearest gallery photo of each identity.

    query (queries, dimensions) and gallery (photos, dimensions) need not be normalised; labels (photos,) are
    indices of identities, UNKNOWN photos are passed over. An identity without photos scores FLOOR. The answer
    does not depend on the blocks, which bound the memory to block x gallery_block cosines.
    """
    check_finite(query, gallery)
    order = known_by_label(labels)
    scores = np.full((len(query), identities), FLOOR, np.float32)
    for columns in blocks(len(order), gallery_block):
        part = order[columns]
        photos = on_grid(gallery[part]).astype(np.float64).T
        for rows in blocks(len(query), block):
            raise_to_best(scores[rows], on_grid(query[rows]).astype(np.float64) @ photos, labels[part])
    return np.clip(scores, -1.0, 1.0, out=scores)


def known_by_label(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows of all labels (photos,) but UNKNOWN, those of one label next to each other."""
    known = np.flatnonzero(labels != UNKNOWN)
    return known[np.argsort(labels[known], kind="stable")]


def raise_to_best(scores: NDArray[np.float32], values: NDArray[Any], labels: NDArray[np.int64]) -> None:
    """Raises scores (queries, identities), in place, to the best value of each identity's photos.

    values (queries, photos) are of photos under rising labels (photos,).
    """
    present, starts = np.unique(labels, return_index=True)
    scores[:, present] = np.maximum(scores[:, present], np.maximum.reduceat(values, starts, axis=1))


INLIER_COSINE = 0.5
"""Cosine to the centre above which the robust centre keeps an embedding."""
LEAST_SHARE = 0.75
"""Share of the embeddings that it keeps in any case."""
MIN_TRIMMED = 4
"""Fewest embeddings of which any is left out."""
TRIMMING_ROUNDS = 2


def mean_centre(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean (dimensions,) at length 1 of embeddings (photos, dimensions) of length 1."""
    mean = embeddings.mean(axis=0, dtype=np.float64, keepdims=True).astype(np.float32)
    centre: NDArray[np.float32] = normalise(mean)[0]
    return centre


def robust_centre(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """The trimmed mean (dimensions,) at length 1 of embeddings (photos, dimensions) of length 1.

    Two rounds: those nearer to the mean than INLIER_COSINE stay if they are more than LEAST_SHARE of all,
    else the nearest LEAST_SHARE. Fewer than MIN_TRIMMED are trimmed no more (Humpback 2019, 3rd place).
    """
    for _ in range(TRIMMING_ROUNDS):
        if len(embeddings) < MIN_TRIMMED:
            break
        near = cosines(embeddings, mean_centre(embeddings)[None])[:, 0]
        least = int(LEAST_SHARE * len(embeddings))
        kept = np.flatnonzero(near > INLIER_COSINE)
        if len(kept) <= least:
            kept = np.sort(np.argsort(-near, kind="stable")[:least])
        embeddings = embeddings[kept]
    return mean_centre(embeddings)


Centre = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""From embeddings of one identity (photos, dimensions) to their centre (dimensions,)."""
CENTRES: dict[str, Centre] = {"mean": mean_centre, "robust_centre": robust_centre}
"""By the name of the gallery's rule."""


def centres_of(
    embeddings: NDArray[np.float32], labels: NDArray[np.int64], identities: int, centre: Centre
) -> NDArray[np.float32]:
    """The centre of each identity (identities, dimensions), of embeddings (photos, dimensions) under labels.

    An identity without photos has a zero vector.
    """
    centres, normal = np.zeros((identities, embeddings.shape[1]), np.float32), normalise(embeddings)
    for identity, photos in rows_by_label(labels).items():
        centres[identity] = centre(normal[photos])
    return centres


Rule = Literal["nearest", "mean", "robust_centre", "knn_max", "knn_sum"]
Labels = NDArray[np.int64]
Rows = Labels | slice


class GalleryConfig(PartConfig):
    """How a gallery scores a query; the field `gallery` of every method that embeds."""

    rule: Rule = "nearest"
    """nearest photo of an individual; its mean or trimmed (robust_centre) embedding; or the largest or summed
    cosine of an individual's photos among the nearest neighbours of the query (knn_max, knn_sum)."""
    neighbours: Annotated[int, Field(ge=1)] = 50
    """Nearest gallery photos that knn_max and knn_sum look at."""
    side: Literal["all", "same"] = "all"
    """Photos of an individual that a query is compared with: all, or those from the query's viewpoint where
    there are such; a run with same is told the viewpoints of test photos, and ranked apart."""
    flip: bool = False
    """Embed every photo, of gallery and queries alike, mirrored, too, and average both embeddings."""
    former: ClassVar[dict[str, str]] = {
        "search": "neighbours are found by exact search, which needs no faiss"
    }


class Gallery:
    """Embedded photos and their labels; among equally near photos the first row wins."""

    def __init__(self, config: GalleryConfig, identities: int = 0) -> None:
        """identities are how many a score has columns for, until it is filled."""
        self.config, self.identities = config, identities

    def fill(
        self,
        embeddings: NDArray[np.float32],
        labels: Labels,
        identities: int,
        viewpoints: Labels | None = None,
    ) -> None:
        """Takes embeddings (photos, dimensions) under labels (photos,), indices of so many identities.

        viewpoints (photos,) are looked at where only photos of the same side are to be compared. Photos of
        UNKNOWN individuals are passed over; raises RunFailedError for NaN or infinite embeddings.
        """
        check_finite(embeddings)
        known = np.flatnonzero(labels != UNKNOWN)
        self.embeddings, self.labels, self.identities = embeddings[known], labels[known], identities
        sided = self.config.side == "same"
        self.viewpoints = viewpoints[known] if sided and viewpoints is not None else None

    def add(
        self,
        embeddings: NDArray[np.float32],
        labels: Labels,
        identities: int,
        viewpoints: Labels | None = None,
    ) -> None:
        """Takes further photos behind those that it has, as `fill` does; identities are how many in all."""
        sides = None
        if self.viewpoints is not None:
            unknown = np.full(len(labels), UNKNOWN)
            sides = np.concatenate([self.viewpoints, unknown if viewpoints is None else viewpoints])
        every = np.concatenate([self.embeddings, embeddings]), np.concatenate([self.labels, labels])
        self.fill(*every, identities, sides)

    def scores(self, query: NDArray[np.float32], viewpoints: Labels | None = None) -> NDArray[np.float32]:
        """Scores (queries, identities) of embeddings (queries, dimensions): cosines by the rule, in [-1, 1].

        viewpoints (queries,) are as those of `fill`. An identity without a photo, or with none among the
        neighbours, scores FLOOR.
        """
        check_finite(query)
        scores = np.full((len(query), self.identities), FLOOR, np.float32)
        for queries, photos in self.compared(viewpoints):
            scores[queries] = self._by_rule(query[queries], self.embeddings[photos], self.labels[photos])
        return scores

    def compared(self, viewpoints: Labels | None = None) -> Iterator[tuple[Rows, Rows]]:
        """Rows of queries, each once, with the rows of the photos that they are compared with.

        Without viewpoints, and for a query whose own is UNKNOWN, these are all. Photos that are known to show
        another side are left out, but for individuals that have no others.
        """
        if self.viewpoints is None or viewpoints is None:
            yield slice(None), slice(None)
            return
        for side, rows in rows_by_label(viewpoints).items():
            fits = (self.viewpoints == side) | (self.viewpoints == UNKNOWN) | (side == UNKNOWN)
            yield rows, np.flatnonzero(fits | ~np.isin(self.labels, self.labels[fits]))

    def state_dict(self) -> dict[str, Tensor]:
        """The embeddings, their labels and, where they matter, their viewpoints."""
        state = {"gallery": torch.from_numpy(self.embeddings), "labels": torch.from_numpy(self.labels)}
        return state if self.viewpoints is None else state | {"viewpoints": torch.from_numpy(self.viewpoints)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes up what `state_dict` gave, of as many identities as before."""
        viewpoints = state["viewpoints"].numpy() if "viewpoints" in state else None
        self.fill(state["gallery"].numpy(), state["labels"].numpy(), self.identities, viewpoints)

    def _by_rule(
        self, query: NDArray[np.float32], gallery: NDArray[np.float32], labels: Labels
    ) -> NDArray[np.float32]:
        if self.config.rule == "nearest":
            return nearest_photo_scores(query, gallery, labels, self.identities)
        if centre := CENTRES.get(self.config.rule):
            centres, present = centres_of(gallery, labels, self.identities, centre), np.unique(labels)
            scores = np.full((len(query), self.identities), FLOOR, np.float32)
            scores[:, present] = cosines(query, centres[present])
            return scores
        return self._neighbour_scores(query, gallery, labels)

    def _neighbour_scores(
        self, query: NDArray[np.float32], gallery: NDArray[np.float32], labels: Labels
    ) -> NDArray[np.float32]:
        """The largest cosine, or the sum of cosines over the number of neighbours: one scale for all k."""
        photos, near = top_k(query, gallery, self.config.neighbours)
        rows, columns = np.arange(len(query))[:, None], labels[photos]
        scores = np.full((len(query), self.identities), FLOOR)
        if self.config.rule == "knn_max":
            np.maximum.at(scores, (rows, columns), near)
        else:
            scores[rows, columns] = 0.0
            np.add.at(scores, (rows, columns), near / max(near.shape[1], 1))
        return scores.astype(np.float32)
