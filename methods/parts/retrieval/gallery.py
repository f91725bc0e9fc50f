"""The gallery: embedded photos of known individuals, and the rule by which they score a query."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from whalebench.benchmarks.photos import UNKNOWN
from whalebench.methods.method import PartConfig
from whalebench.methods.parts.retrieval.centres import CENTRES, centres
from whalebench.methods.parts.retrieval.faiss_search import faiss_top_k, require_faiss
from whalebench.methods.parts.retrieval.search import (
    FLOOR,
    check_finite,
    cosines,
    nearest_photo_scores,
    top_k,
)

Rule = Literal["nearest", "mean", "robust_centre", "knn_max", "knn_sum"]


class GalleryConfig(PartConfig):
    """How a gallery scores a query; the field `gallery` of every method that embeds."""

    rule: Rule = "nearest"
    """nearest photo of an individual; its mean or trimmed (robust_centre) embedding; or the largest or summed
    cosine of an individual's photos among the nearest neighbours of the query (knn_max, knn_sum)."""
    neighbours: Annotated[int, Field(ge=1)] = 50
    """Nearest gallery photos that knn_max and knn_sum look at."""
    flip: bool = False
    """Embed every photo mirrored, too, and average both embeddings before scoring."""
    search: Literal["exact", "faiss"] = "exact"
    """What finds the neighbours; faiss, an extra package, is for millions of photos."""

    @model_validator(mode="after")
    def _search_for_neighbours(self) -> Self:
        if self.search == "faiss" and not self.rule.startswith("knn"):
            raise ValueError(f"search=faiss finds neighbours and rule={self.rule} has none; set rule=knn_max")
        return self


class Gallery:
    """Embedded photos and whose they are; row order is the order in which ties are broken."""

    def __init__(self, config: GalleryConfig) -> None:
        if config.search == "faiss":
            # Missing packages are better missed before a network is trained than after.
            require_faiss()
        self.config = config

    def fill(self, embeddings: NDArray[np.float32], labels: NDArray[np.int64], identities: int) -> None:
        """Takes embeddings (photos, dimensions) under labels (photos,), indices of so many identities.

        Photos of UNKNOWN individuals are passed over; raises RunFailedError for NaN or infinite embeddings.
        """
        check_finite(embeddings)
        known = np.flatnonzero(labels != UNKNOWN)
        self.embeddings, self.labels, self.identities = embeddings[known], labels[known], identities
        self.centres: NDArray[np.float32] | None = None
        if rule := CENTRES.get(self.config.rule):
            self.centres = centres(self.embeddings, self.labels, identities, rule)

    def scores(self, query: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores (queries, identities) of embeddings (queries, dimensions): cosines by the rule, in [-1, 1].

        An identity without a photo, or with none among the neighbours, scores FLOOR.
        """
        check_finite(query)
        if self.config.rule == "nearest":
            return nearest_photo_scores(query, self.embeddings, self.labels, self.identities)
        if self.centres is None:
            return self._neighbour_scores(query)
        scores = np.full((len(query), self.identities), FLOOR, np.float32)
        present = np.unique(self.labels)
        scores[:, present] = cosines(query, self.centres[present])
        return scores

    def weights(self) -> dict[str, Tensor]:
        """The embeddings and their labels."""
        return {"gallery": torch.from_numpy(self.embeddings), "labels": torch.from_numpy(self.labels)}

    def restore(self, weights: Mapping[str, Tensor], identities: int) -> None:
        """Takes up what `weights` gave; other names are passed over."""
        self.fill(weights["gallery"].numpy(), weights["labels"].numpy(), identities)

    def _neighbour_scores(self, query: NDArray[np.float32]) -> NDArray[np.float32]:
        """The largest cosine, or the sum of cosines over the number of neighbours: one scale for all k."""
        search = faiss_top_k if self.config.search == "faiss" else top_k
        found, near = search(query, self.embeddings, self.config.neighbours)
        rows, columns = np.arange(len(query))[:, None], self.labels[found]
        scores = np.full((len(query), self.identities), FLOOR)
        if self.config.rule == "knn_max":
            np.maximum.at(scores, (rows, columns), near)
        else:
            scores[rows, columns] = 0.0
            np.add.at(scores, (rows, columns), near / max(near.shape[1], 1))
        return scores.astype(np.float32)
