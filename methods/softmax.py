"""`softmax`: the baseline; a classifier over the known individuals."""

from __future__ import annotations

import math
from functools import partial
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from whalebench.benchmarks.core.arrays import normalise
from whalebench.benchmarks.core.photos import LabelledPhotos, Photos
from whalebench.methods.method import Components, Harness, Method, Search
from whalebench.methods.parts.looks import Looks
from whalebench.methods.parts.losses.margins import LabelSmoothing, SoftmaxLoss
from whalebench.methods.parts.networks.backbones import build_backbone
from whalebench.methods.parts.networks.pooling import Pooling, build_pooling
from whalebench.methods.parts.pipeline import NetworkMethodConfig
from whalebench.methods.parts.training.config import GridSize
from whalebench.methods.parts.training.trainer import predict, ready, train_network


class SoftmaxConfig(NetworkMethodConfig):
    """Fields of `softmax`."""

    pooling: Pooling = "average"
    """average, or gem: the generalised mean with a learnable exponent."""
    grid: GridSize = (2, 3)
    """Cells, as 2x3, that are pooled apart and put side by side, so that places count; 1x1 pools globally."""
    label_smoothing: LabelSmoothing = 0.0
    """Share of the target spread over all identities."""
    dropout: Annotated[float, Field(ge=0, lt=1), Search(0.0, 0.8)] = 0.2
    """Share of pooled features left out in training."""


class PooledBackbone(nn.Module):
    """A backbone followed by its pooling."""

    def __init__(self, config: SoftmaxConfig) -> None:
        super().__init__()
        self.backbone = build_backbone(
            config.backbone, config.pretrained, *config.sizes(), channels=config.channels()
        )
        self.pooling = build_pooling(config.pooling, config.grid)

    def forward(self, pixels: Tensor) -> Tensor:
        """Features (photos, channels) from pixels (photos, 3, height, width)."""
        features: Tensor = self.pooling(self.backbone(pixels))
        return features


class Softmax(Method):
    """Cross-entropy over the known individuals; the scores are log probabilities."""

    name = "softmax"
    summary = "classifier over the known individuals; the baseline"
    source = "the usual baseline; He et al. 2016 for the kind of network"
    Config = SoftmaxConfig
    config: SoftmaxConfig

    def __init__(self, config: SoftmaxConfig) -> None:
        super().__init__(config)
        self.looks = Looks()

    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Every size of the schedule."""
        return self.config.sizes()

    def learn(self, train: LabelledPhotos, valid: LabelledPhotos, harness: Harness) -> None:
        """Trains on the photos of known individuals; valid is only watched."""
        config, self.device = self.config, harness.device
        harness.stage("train")
        network, loss = self._build(config, len(train.identities))

        def validate(network: PooledBackbone, loss: SoftmaxLoss) -> NDArray[np.float32]:
            return self._log_probabilities(network, loss, valid)

        self.network, self.loss = train_network(
            network, loss, train.known().labelled(), config, harness, validate, valid=valid.known().labelled()
        )
        self.looks.begin(self.network)

    def score(self, photos: Photos) -> NDArray[np.float32]:
        """Log probabilities (photos, identities)."""
        return self._look(photos)[0]

    def embed(self, photos: Photos) -> NDArray[np.float32]:
        """Pooled features (photos, channels) at length 1."""
        return normalise(self.features(photos))

    def score_and_embed(self, photos: Photos) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """By one look, unless a subclass scores or embeds otherwise."""
        kind = type(self)
        if (kind.score, kind.embed, kind.features) != (Softmax.score, Softmax.embed, Softmax.features):
            return super().score_and_embed(photos)

        scores, features = self._look(photos)
        return scores, normalise(features)

    def features(self, photos: Photos) -> NDArray[np.float32]:
        """Pooled features (photos, channels) as the classifier sees them."""
        look = partial(predict, self.network, photos, self.config, self.device)
        return self.looks.of(self.network, photos, "", look)

    def components(self) -> Components:
        """Network and classifier."""
        return {"network": self.network, "loss": self.loss}

    def rebuild(self, identities: int, device: torch.device) -> None:
        """Network and classifier before they have learned."""
        self.device = device
        network, loss = self._build(self.config.without_download(), identities)
        self.network, self.loss = ready(network, device), ready(loss, device)

    def _network(self, config: SoftmaxConfig) -> PooledBackbone:
        return PooledBackbone(config)

    def _build(self, config: SoftmaxConfig, identities: int) -> tuple[PooledBackbone, SoftmaxLoss]:
        network = self._network(config)
        return network, self._classifier(network, identities)

    def _classifier(self, network: PooledBackbone, classes: int) -> SoftmaxLoss:
        config, width = self.config, network.backbone.channels * math.prod(self.config.grid)
        return SoftmaxLoss(classes, width, dropout=config.dropout, label_smoothing=config.label_smoothing)

    def _look(self, photos: Photos) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Log probabilities (photos, classes) and pooled features (photos, channels), by one look."""

        def both(pixels: Tensor) -> Tensor:
            features = self.network(pixels)
            return torch.cat([self.loss.log_probabilities(features), features], dim=1)

        found = predict(both, photos, self.config, self.device)
        scores, features = (
            np.ascontiguousarray(each) for each in np.split(found, [len(self.loss.classifier.bias)], axis=1)
        )
        # Features are remembered, for embeddings; scores have a column an identity, and are large.
        return scores, self.looks.of(self.network, photos, "", lambda: features)

    def _log_probabilities(
        self, network: PooledBackbone, loss: SoftmaxLoss, photos: Photos
    ) -> NDArray[np.float32]:
        return predict(
            lambda pixels: loss.log_probabilities(network(pixels)), photos, self.config, self.device
        )
