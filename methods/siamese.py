"""`siamese`: learned from pairs of photos, by the contrastive loss or by a head that compares two photos."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator

from whalebench.benchmarks.core.photos import LabelledPhotos, Photos
from whalebench.methods.method import Components, FieldValue, Harness, Search
from whalebench.methods.parts.augment import Strength
from whalebench.methods.parts.embedder import Embedder, EmbedderConfig, EmbeddingMethod
from whalebench.methods.parts.pairs import (
    ContrastivePairs,
    Form,
    PairHeadLoss,
    PairLoss,
    PairSampler,
    Similarity,
    best_pair_scores,
)
from whalebench.methods.parts.retrieval import GalleryConfig, Labels
from whalebench.methods.parts.training.trainer import ready, train_network

MARGIN = 0.5


class SiameseConfig(EmbedderConfig):
    """Fields of `siamese`; pairs say less than classes, so its steps are small, many and on calm photos."""

    batch_size: Annotated[int, Field(ge=2)] = 16
    """Photos in one step, two a pair."""
    learning_rate: Annotated[float, Field(gt=0), Search(1e-4, 1e-2, log=True)] = 5e-4
    """Of AdamW at its peak, after warm-up."""
    augment: Strength = "light"
    """How much each photo is changed at every step; with more of it pairs from scratch teach nothing."""
    form: Form = "contrastive"
    """contrastive: matching photos near, others a margin apart; or pair_head: a small network compares two
    photos feature by feature."""
    margin: Annotated[float | None, Field(gt=0, le=2), Search(0.2, 1.6)] = None
    """L2 distance from which photos of two individuals are let be, of embeddings of length 1; 0.5 unless
    given; pair_head has none."""
    negatives: Literal["random", "assigned"] | None = None
    """Pairs of two individuals: random, or those most alike by a linear assignment with falling noise; unless
    given, random for contrastive and assigned for pair_head."""
    block: Annotated[int, Field(ge=16)] = 512
    """Photos among which pairs are assigned at a time; as many as there are is exact, and slow."""
    score_every: Annotated[int, Field(ge=1)] = 5
    """Epochs from one scoring of train photos by each other, and validation, to the next."""
    views: Annotated[int, Field(ge=1, le=4)] = 1
    """How often a photo is seen in an epoch, on average; 1 as in other methods, 4 in the published kernel."""

    @model_validator(mode="after")
    def _possible_pairs(self) -> Self:
        if self.batch_size < 4:
            raise ValueError(
                f"batch_size={self.batch_size} has no room for a pair of one individual and one of two; set 4"
            )
        if self.form == "contrastive":
            return self
        if self.margin is not None:
            raise ValueError(f"form=pair_head has no margin={self.margin}; leave it out")
        if self.gallery.rule != "nearest":
            raise ValueError(
                f"form=pair_head compares photo with photo and has no gallery.rule={self.gallery.rule}; "
                "leave it out"
            )
        return self

    def tunable(self) -> dict[str, FieldValue]:
        """The fields worth tuning; the margin where form=contrastive, the only form that has one."""
        values = super().tunable()
        return values | {"margin": self.margin or MARGIN} if self.form == "contrastive" else values

    def cycle_gallery(self) -> GalleryConfig | None:
        """The gallery of the embeddings; None for a pair head, which compares photos by its own features."""
        return super().cycle_gallery() if self.form == "contrastive" else None

    def assigns(self) -> bool:
        """Whether pairs of two individuals are assigned by similarity."""
        return (self.negatives or ("assigned" if self.form == "pair_head" else "random")) == "assigned"


class Siamese(EmbeddingMethod):
    """Learns from pairs of one and of two individuals; scores by the nearest or best matching photo."""

    name = "siamese"
    summary = "learned from pairs: contrastive loss, or a head that compares two photos"
    source = "Hadsell et al. 2006; Piotte 2018 (Humpback playground) for the pair head and its hard pairs"
    Config = SiameseConfig
    config: SiameseConfig

    def missing_requirement(self, train: LabelledPhotos, queries: Photos) -> str:
        """What train lacks for pairs of both kinds: two individuals, or two photos of one."""
        del queries
        individuals = len(np.unique(train.known().labels))
        if individuals < 2:
            return "two individuals in train"
        return "two train photos of one individual" if individuals == len(train.known()) else ""

    def learn(self, train: LabelledPhotos, valid: LabelledPhotos, harness: Harness) -> None:
        """Trains on the photos of known individuals; valid is only watched."""
        config, known = self.config, train.known().labelled()
        self.device = harness.device
        harness.stage("train")
        network, loss = self.build_network(config), self._loss().to(harness.device)
        similarity = Similarity(loss)
        sampler = PairSampler(
            known.labels,
            batch_size=config.batch_size,
            epochs=config.epochs,
            block=config.block,
            views=config.views,
            similarity=similarity if config.assigns() else None,
        )
        harness.choose("individuals_with_one_photo", sampler.single_identities)

        def validate(network: Embedder, loss: PairLoss) -> NDArray[np.float32]:
            self.network, self.loss = network, loss
            similarity.update(self.embed_gallery(known), loss)
            sampler.refresh()
            return self.score(valid)

        self.network, self.loss = train_network(
            network,
            loss,
            known,
            config,
            harness,
            validate,
            sampler=sampler,
            validate_every=config.score_every,
            also={"likeness": similarity},
            valid=valid.known().labelled(),
        )
        self.fill_gallery(known, harness)

    def score_features(self, features: NDArray[np.float32], viewpoints: Labels | None) -> NDArray[np.float32]:
        """Cosines (photos, identities) by the gallery's rule, or the pair head's largest logit of each."""
        if not isinstance(self.loss, PairHeadLoss):
            return super().score_features(features, viewpoints)
        gallery = self.gallery
        scores = np.empty((len(features), gallery.identities), np.float32)
        for queries, rows in gallery.compared(viewpoints):
            known = gallery.embeddings[rows], gallery.labels[rows], gallery.identities
            scores[queries] = best_pair_scores(self.loss.head, features[queries], *known)
        return scores

    @property
    def compares_embeddings(self) -> bool:
        """Whether it has no pair head."""
        return self.config.form == "contrastive"

    def features(self, photos: Photos) -> NDArray[np.float32]:
        """Features (photos, dimensions) by which photos are compared.

        They are embeddings or, for the pair head, the mean of the network's output over sizes and sides.
        """
        if self.config.form == "contrastive":
            return self.embed(photos)
        sizes = {self.config.size, self.config.second_size or self.config.size}
        sides = (False, True) if self.config.gallery.flip else (False,)
        looks = [self.look_at(photos, size, mirrored=side) for size in sorted(sizes) for side in sides]
        mean: NDArray[np.float32] = np.mean(looks, axis=0)
        return mean

    def components(self) -> Components:
        """Network, gallery, and the pair head where there is one."""
        return {**super().components(), "loss": self.loss}

    def rebuild(self, identities: int, device: torch.device) -> None:
        """Network and pair head before they have learned."""
        super().rebuild(identities, device)
        self.loss = ready(self._loss(), device)

    def _loss(self) -> PairLoss:
        if self.config.form == "contrastive":
            return ContrastivePairs(self.config.margin or MARGIN)
        return PairHeadLoss(self.config.dimensions)
