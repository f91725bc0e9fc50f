"""`triplet`: an embedding learned from pairs and triplets mined in batches of P identities with K photos."""

from __future__ import annotations

from typing import Annotated, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator

from whalebench.benchmarks.core.photos import LabelledPhotos, Photos
from whalebench.methods.method import Components, Harness, Search
from whalebench.methods.parts.embedder import Embedder, EmbedderConfig, EmbeddingMethod
from whalebench.methods.parts.losses.metric_losses import MetricLoss, MetricLossConfig, build_metric_loss
from whalebench.methods.parts.training.samplers import PKSampler, Singles
from whalebench.methods.parts.training.trainer import train_network


class TripletConfig(EmbedderConfig, MetricLossConfig):
    """Fields of `triplet`."""

    photos_per_identity: Annotated[int, Field(ge=2), Search(2, 8)] = 4
    """K: photos of an individual in a batch; batch_size / K individuals come together."""
    singles: Singles = "alone"
    """An individual with one photo is seen alone, as a negative; with repeat, beside other augmentations of
    its photo; with leave_out, not at all, though it stays in the gallery. Their number is in the record."""
    fill: bool = False
    """Draw photos again until each individual in a batch has K; else every photo is seen once an epoch."""
    validate_every: Annotated[int, Field(ge=1)] = 5
    """Epochs from one validation to the next, as each embeds the gallery; the last epoch is validated."""

    @model_validator(mode="after")
    def _more_than_one_identity(self) -> Self:
        size, group = self.batch_size, self.photos_per_identity
        if size < 2 * group:
            raise ValueError(
                f"batch_size={size} has no two individuals with photos_per_identity={group}; set {2 * group}"
            )
        if 0 < self.memory < size:
            raise ValueError(f"memory={self.memory} is less than one batch of {size}; raise it or set 0")
        return self


class Triplet(EmbeddingMethod):
    """Pair, triplet and proxy losses with online mining; scores by the gallery."""

    name = "triplet"
    summary = "embedding learned from pairs or triplets mined in each batch; nearest photo"
    source = "Schroff et al. 2015 (FaceNet); Hermans et al. 2017; losses of pytorch-metric-learning"
    Config = TripletConfig
    config: TripletConfig

    def missing_requirement(self, train: LabelledPhotos, queries: Photos) -> str:
        """What train lacks: two photos of one individual, unless single photos are repeated."""
        del queries
        labels = train.known().labels
        alone = len(np.unique(labels)) == len(labels)
        return "two train photos of one individual" if alone and self.config.singles != "repeat" else ""

    def learn(self, train: LabelledPhotos, valid: LabelledPhotos, harness: Harness) -> None:
        """Trains on the photos of known individuals; valid is only watched."""
        config, known = self.config, train.known().labelled()
        self.device = harness.device
        harness.stage("train")
        sampler = self._sampler(known, harness)
        rising = config.rising(sampler.steps * config.epochs)
        network, loss = self.build_network(config), self._loss(len(train.identities))

        def validate(network: Embedder, loss: MetricLoss) -> NDArray[np.float32]:
            del loss
            self.network = network
            self.embed_gallery(known)
            return self.score(valid)

        def before_step(loss: MetricLoss, done: float) -> None:
            # Embeddings move too fast to be worth remembering while the learning rate still rises.
            loss.remember(done >= rising)

        self.network, self.loss = train_network(
            network,
            loss,
            known,
            config,
            harness,
            validate,
            before_step,
            sampler=sampler,
            validate_every=config.validate_every,
            valid=valid.known().labelled(),
        )
        # Weights are averaged, but an average of memories would be none.
        self.loss.take_memory(loss)
        self.fill_gallery(known, harness)

    def components(self) -> Components:
        """Network, gallery, and loss: its proxies and memory."""
        return {**super().components(), "loss": self.loss}

    def rebuild(self, identities: int, device: torch.device) -> None:
        """Network and loss before they have learned."""
        super().rebuild(identities, device)
        self.loss = self._loss(identities)

    def _loss(self, identities: int) -> MetricLoss:
        return build_metric_loss(self.config, identities, self.config.dimensions)

    def _sampler(self, known: LabelledPhotos, harness: Harness) -> PKSampler:
        config = self.config
        sampler = PKSampler(
            known.labels,
            config.batch_size // config.photos_per_identity,
            config.photos_per_identity,
            config.singles,
            fill=config.fill,
        )
        harness.choose("individuals_with_one_photo", sampler.single_identities)
        harness.choose("individuals_left_out", sampler.left_out)
        return sampler
