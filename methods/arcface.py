"""`arcface`: an embedding trained with a margin, read by prototypes and gallery photos; recipes around it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from whalebench.benchmarks.core.arrays import normalise
from whalebench.benchmarks.core.photos import LabelledPhotos, Photos
from whalebench.benchmarks.core.search import cosines
from whalebench.methods.method import Components, Harness, Search, Value, attribute
from whalebench.methods.parts.augment import with_twins
from whalebench.methods.parts.embedder import Embedder, EmbedderConfig, EmbeddingMethod
from whalebench.methods.parts.losses.margins import (
    HeadConfig,
    Heads,
    MarginLoss,
    build_heads,
    photos_by_species,
)
from whalebench.methods.parts.recipe import RecipeConfig
from whalebench.methods.parts.retrieval import Labels, centres_of, mean_centre, nearest_photo_scores
from whalebench.methods.parts.training.samplers import Sampler
from whalebench.methods.parts.training.trainer import predict, train_network

GALLERY_WEIGHTS = tuple(step / 10 for step in range(11))
"""Of the cosines to gallery photos, the rest being those to prototypes; valid chooses by MAP@5."""


class ArcFaceConfig(EmbedderConfig, HeadConfig):
    """Fields of `arcface`."""

    after_first_cycle: ClassVar = EmbedderConfig.after_first_cycle | {"margin_warm_up": 0.0}

    margin_warm_up: Annotated[float, Field(ge=0, le=1), Search(0.0, 0.6)] = 0.4
    """Share of the training in which the margin grows from 0; a full margin from the start may not train."""
    photo_weight: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of the gallery's photos in a score, the rest is the prototypes'; chosen on valid unless given."""

    @model_validator(mode="after")
    def _mirrored_once(self) -> Self:
        if self.flip_identities and self.gallery.flip:
            raise ValueError(
                "flip_identities=true learns mirrored photos as other individuals, with whose embeddings "
                "gallery.flip=true would average their own; leave one out"
            )
        return self

    def mirrors(self) -> bool:
        """Whether photos are mirrored, as of other individuals or in the gallery."""
        return self.flip_identities or super().mirrors()


class ArcFace(EmbeddingMethod):
    """Margin softmax; scores mix the cosines to the prototypes and those by the gallery's rule."""

    name = "arcface"
    summary = "embedding with an additive margin; prototypes and nearest photo, mixed by valid"
    source = (
        "Deng et al. 2019 (ArcFace); Wang et al. 2018 (CosFace); Deng et al. 2020 (sub-centres); Zhang et "
        "al. 2019 (AdaCos); GeM: Radenović et al. 2018; Humpback 2019 (3rd) and Happywhale 2022 solutions"
    )
    Config = ArcFaceConfig
    config: ArcFaceConfig

    def missing_requirement(self, train: LabelledPhotos, queries: Photos) -> str:
        """Species, where they are to be told apart and train does not name two."""
        kinds = np.count_nonzero(photos_by_species(train.known()))
        if self.config.species_weight and kinds < 2:
            return "second species" if kinds else "species"
        return super().missing_requirement(train, queries)

    def learn(self, train: LabelledPhotos, valid: LabelledPhotos, harness: Harness) -> None:
        """Trains on the photos of known individuals; the weight of the gallery is chosen on valid."""
        config, known = self.config, train.known().labelled()
        self.device, self.photo_weight = harness.device, 0.0
        harness.stage("train")
        heads = build_heads(config, known, config.dimensions)
        network = self.build_network(config)

        def validate(network: Embedder, heads: Heads) -> NDArray[np.float32]:
            # The prototypes alone: embedding the whole gallery after every epoch would cost a third of it.
            return self._by_prototype(predict(network, valid, config, harness.device), heads.identity)

        def before_step(heads: Heads, done: float) -> None:
            growing = done < config.margin_warm_up
            heads.set_margin_factor(done / config.margin_warm_up if growing else 1.0)

        seen, sampler = self.to_learn_from(known)
        self.network, trained = train_network(
            network,
            heads,
            seen,
            config,
            harness,
            validate,
            before_step,
            target=lambda b: (b.labels, b.species),
            sampler=sampler,
            valid=valid.known().labelled(),
        )
        self.head = trained.identity
        self.fill_gallery(known, harness)
        chosen = config.photo_weight
        self.photo_weight = self._best_weight(valid, harness) if chosen is None else chosen

    def to_learn_from(self, known: LabelledPhotos) -> tuple[Photos, Sampler | None]:
        """The photos of known individuals as they are learned from, and their order, if not shuffled."""
        if not self.config.flip_identities:
            return known, None
        return with_twins(known, self.config.mirrored_axis()), None

    def score_features(self, features: NDArray[np.float32], viewpoints: Labels | None) -> NDArray[np.float32]:
        """Cosines (photos, identities): gallery and prototype, mixed as chosen on valid."""
        by_prototype, by_photo = self._both(features, viewpoints)
        # In place: of many individuals there is no room for more of them.
        by_prototype *= 1 - self.photo_weight
        by_photo *= np.float32(self.photo_weight)
        by_prototype += by_photo
        return by_prototype

    def embed(self, photos: Photos) -> NDArray[np.float32]:
        """Embeddings (photos, dimensions) of length 1.

        With flip_identities (photos, 2 x dimensions): those of the photo and of its mirror image, one after
        the other, so that a cosine is the mean over both sides.
        """
        if not self.config.flip_identities:
            return super().embed(photos)
        return normalise(np.hstack([normalise(self.look(photos, mirrored=side)) for side in (False, True)]))

    def components(self) -> Components:
        """Network, gallery, prototypes and the gallery's weight; species are not scored."""
        prototypes = Value(self.head.prototypes, self.head.set_prototypes)
        mix = {"photo_weight": attribute(self, "photo_weight"), "prototypes": prototypes}
        return {**super().components(), **mix}

    def rebuild(self, identities: int, device: torch.device) -> None:
        """Network and prototypes before they have learned."""
        super().rebuild(identities, device)
        # Margins do not matter any more, so any number of photos will do.
        photos = np.ones(identities, np.int64)
        self.head = MarginLoss(self.config, photos, self.config.dimensions)

    def _both(
        self, embeddings: NDArray[np.float32], viewpoints: Labels | None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        by_prototype = self._by_prototype(embeddings, self.head)
        learned = by_prototype.shape[1]
        if learned < self.gallery.identities:
            # Who joined the gallery later has the centre of its photos for a prototype (Qi et al. 2018).
            centres = centres_of(*self._gallery_of_all(), mean_centre)[learned:]
            by_prototype = np.hstack([by_prototype, cosines(embeddings, centres).astype(np.float32)])
        return by_prototype, self.gallery.scores(embeddings, viewpoints)

    def _gallery_of_all(self) -> tuple[NDArray[np.float32], Labels, int]:
        gallery = self.gallery
        return gallery.embeddings, gallery.labels, gallery.identities

    def _by_prototype(self, embeddings: NDArray[np.float32], head: MarginLoss) -> NDArray[np.float32]:
        """Cosines (photos, identities) to the nearest prototype of each, the mean over the sides embedded."""
        sides = np.split(embeddings, embeddings.shape[1] // self.config.dimensions, axis=1)
        prototypes = head.prototypes().cpu().numpy()
        scores = []
        # Without the mirrored side, as in training, the twins' prototypes are left out.
        for side, of_side in zip(sides, np.split(prototypes, 1 + self.config.flip_identities), strict=False):
            owners = np.repeat(np.arange(len(of_side)), self.config.subcentres)
            centres = of_side.reshape(len(owners), -1)
            scores.append(nearest_photo_scores(side, centres, owners, len(of_side)))
        mean: NDArray[np.float32] = scores[0] if len(scores) == 1 else np.mean(scores, axis=0)
        return mean

    def _best_weight(self, valid: LabelledPhotos, harness: Harness) -> float:
        by_prototype, by_photo = self._both(self.embed(valid), valid.viewpoints)
        results = {w: harness.valid_map_at_5(self._mix(by_prototype, by_photo, w)) for w in GALLERY_WEIGHTS}
        # Of equally good weights the one nearest to the middle: it leans on both kinds of evidence.
        best = max(GALLERY_WEIGHTS, key=lambda w: (results[w], -abs(w - 0.5)))
        harness.choose("photo_weight", best)
        return best

    @staticmethod
    def _mix(
        by_prototype: NDArray[np.float32], by_photo: NDArray[np.float32], weight: float
    ) -> NDArray[np.float32]:
        return (1 - weight) * by_prototype + np.float32(weight) * by_photo


class MarginHeadConfig(HeadConfig):
    """Fields of a recipe's margin softmax: those that `arcface` has of its own."""

    margin_warm_up: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the training in which the margin grows from 0; the published systems had it from the start."""


class ArcFaceRecipeConfig(RecipeConfig, EmbedderConfig):
    """Fields of every recipe whose networks are trained as by `arcface` and compared by a gallery alone."""

    after_first_cycle: ClassVar = EmbedderConfig.after_first_cycle | {"head": {"margin_warm_up": 0.0}}

    head: MarginHeadConfig = MarginHeadConfig()
    """The margin softmax, whose scale would else be mistaken for the recipe's."""

    @model_validator(mode="after")
    def _possible_for_arcface(self) -> Self:
        try:
            self.as_arcface()
        except ValidationError as error:
            raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from error
        return self

    def mirrors(self) -> bool:
        """Whether photos are mirrored, as of other individuals or in the gallery."""
        return self.head.flip_identities or super().mirrors()

    def as_arcface(self) -> ArcFaceConfig:
        """The fields of `arcface`, the networks' names still joined by +; only the gallery scores."""
        fields = {name: getattr(self, name) for name in EmbedderConfig.model_fields}
        head = {name: getattr(self.head, name) for name in MarginHeadConfig.model_fields}
        alone = {"photo_weight": 1.0, "bags": 1, "bags_joined": "scores"}  # it is the recipe that is bagged
        return ArcFaceConfig.model_validate(fields | head | alone)

    def members(self) -> list[ArcFaceConfig]:
        """The configuration of each network, by `arcface`."""
        return self.as_arcface().of_each_network()
