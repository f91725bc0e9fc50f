"""`arcface`: an embedding trained with an angular margin, read by prototypes and nearest photos."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from whalebench.benchmarks.photos import Photos, Size
from whalebench.methods.method import Harness, Method, Search
from whalebench.methods.parts.backbones import build_backbone
from whalebench.methods.parts.identifier import IdentifierConfig
from whalebench.methods.parts.losses import ArcFaceLoss
from whalebench.methods.parts.pooling import Pooling, build_pooling
from whalebench.methods.parts.retrieval import nearest_photo_scores, normalise
from whalebench.methods.parts.training import GridSize, PhotoSize, predict, ready, train_network

WEIGHTS = tuple(step / 10 for step in range(11))
"""Shares of the nearest photo among which valid chooses; the rest is the prototype's."""


class ArcFaceConfig(IdentifierConfig):
    """Fields of `arcface`."""

    pooling: Pooling = "gem"
    """average, or gem: the generalised mean with a learnable exponent."""
    grid: GridSize = (2, 3)
    """Cells, as 2x3, that are pooled apart and put side by side, so that places count; 1x1 pools globally."""
    dimensions: Annotated[int, Field(ge=2)] = 256
    """Length of the embedding."""
    dropout: Annotated[float, Field(ge=0, lt=1), Search(0.0, 0.5)] = 0.0
    """Share of pooled features left out in training."""
    scale: Annotated[float, Field(gt=0), Search(8.0, 64.0, log=True)] = 20.0
    """Factor on the cosines."""
    margin: Annotated[float, Field(ge=0, lt=1.57), Search(0.05, 0.6)] = 0.3
    """Radians added to the angle between an embedding and its own prototype."""
    margin_warm_up: Annotated[float, Field(ge=0, le=1), Search(0.0, 0.6)] = 0.4
    """Share of the training in which the margin grows from 0; a full margin from the start may not train."""
    second_size: PhotoSize | None = None
    """Height x width of a second look, taken when scoring only; the embeddings of both are averaged."""

    def track(self) -> str:
        """As for every network; a second look is more pixels, so another track."""
        second = (
            f", second look at {self.second_size[0]} x {self.second_size[1]} px" if self.second_size else ""
        )
        return super().track() + second

    def sizes(self) -> tuple[Size, ...]:
        """As for every network, and the second look's."""
        return (*super().sizes(), *([self.second_size] if self.second_size else []))


class Embedder(nn.Module):
    """Backbone, pooling, linear layer and batch normalisation as the neck."""

    def __init__(self, config: ArcFaceConfig) -> None:
        super().__init__()
        self.backbone = build_backbone(
            config.backbone, config.pretrained, *config.sizes(), channels=config.channels()
        )
        self.pooling = build_pooling(config.pooling, config.grid)
        self.dropout = nn.Dropout(config.dropout)
        self.linear = nn.Linear(
            self.backbone.channels * math.prod(config.grid), config.dimensions, bias=False
        )
        self.neck = nn.BatchNorm1d(config.dimensions)

    def forward(self, pixels: Tensor) -> Tensor:
        """Embeddings (photos, dimensions), not normalised, from pixels (photos, 3, height, width)."""
        embeddings: Tensor = self.neck(self.linear(self.dropout(self.pooling(self.backbone(pixels)))))
        return embeddings


class ArcFace(Method):
    """Angular margin softmax; scores mix the cosines to the prototypes and to the nearest photos."""

    name = "arcface"
    summary = "embedding with an additive angular margin; prototypes and nearest photo, mixed by valid"
    source = "Deng et al. 2019 (ArcFace); GeM: Radenović et al. 2018; Happywhale 2022 solutions"
    Config = ArcFaceConfig
    config: ArcFaceConfig

    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Every size of the schedule."""
        return self.config.sizes()

    def learn(self, train: Photos, valid: Photos, harness: Harness) -> None:
        """Trains on the photos of known individuals; the weight of the nearest photo is chosen on valid."""
        config, known = self.config, train.known().labelled()
        self.device, self.photo_weight = harness.device, 0.0
        harness.stage("train")
        network, loss = self._build(config, len(train.identities))

        def validate(network: Embedder, loss: ArcFaceLoss) -> NDArray[np.float32]:
            # The prototypes alone: embedding the whole gallery after every epoch would cost a third of it.
            return self._cosines(predict(network, valid, config, harness.device), loss)

        def before_step(loss: ArcFaceLoss, done: float) -> None:
            loss.set_margin(config.margin * min(1.0, done / max(config.margin_warm_up, 1e-9)))

        self.network, self.loss = train_network(network, loss, known, config, harness, validate, before_step)
        harness.stage("gallery")
        harness.fitted("gallery", known)
        assert known.labels is not None
        self.gallery, self.gallery_labels = self.embed(known), known.labels
        self.photo_weight = self._best_weight(valid, harness)

    def score(self, photos: Photos) -> NDArray[np.float32]:
        """Cosines (photos, identities): nearest photo and prototype, mixed as chosen on valid."""
        by_prototype, by_photo = self._both(photos)
        return self._mix(by_prototype, by_photo, self.photo_weight)

    def embed(self, photos: Photos) -> NDArray[np.float32]:
        """Embeddings (photos, dimensions) of length 1."""
        sizes = {self.config.size, self.config.second_size or self.config.size}
        looks = [
            normalise(predict(self.network, photos, self.config, self.device, size)) for size in sorted(sizes)
        ]
        return normalise(np.sum(looks, axis=0))

    def weights(self) -> dict[str, Tensor]:
        """Network, prototypes and the embedded gallery."""
        state = {f"network.{key}": value for key, value in self.network.state_dict().items()}
        gallery = {"gallery": torch.from_numpy(self.gallery), "labels": torch.from_numpy(self.gallery_labels)}
        mix = {"photo_weight": torch.tensor(self.photo_weight)}
        return state | gallery | mix | {"prototypes": self.loss.prototypes()}

    def restore(
        self, weights: Mapping[str, Tensor], identities: tuple[str, ...], device: torch.device
    ) -> None:
        """Takes up network, prototypes and the embedded gallery."""
        self.device, self.photo_weight = device, round(float(weights["photo_weight"]), 6)
        self.network, self.loss = self._build(self.config.without_download(), len(identities))
        state = {
            key.removeprefix("network."): value
            for key, value in weights.items()
            if key.startswith("network.")
        }
        self.network.load_state_dict(state)
        ready(self.network, device)
        self.loss.set_prototypes(weights["prototypes"])
        self.gallery, self.gallery_labels = weights["gallery"].numpy(), weights["labels"].numpy()

    @staticmethod
    def _build(config: ArcFaceConfig, identities: int) -> tuple[Embedder, ArcFaceLoss]:
        loss = ArcFaceLoss(
            identities,
            config.dimensions,
            scale=config.scale,
            margin=config.margin,
            label_smoothing=config.label_smoothing,
        )
        return Embedder(config), loss

    def _both(self, photos: Photos) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        embeddings = self.embed(photos)
        by_photo = nearest_photo_scores(embeddings, self.gallery, self.gallery_labels, len(photos.identities))
        return self._cosines(embeddings, self.loss), by_photo

    def _best_weight(self, valid: Photos, harness: Harness) -> float:
        by_prototype, by_photo = self._both(valid)
        results = {w: harness.valid_map_at_5(self._mix(by_prototype, by_photo, w)) for w in WEIGHTS}
        # Of equally good weights the one nearest to the middle: it leans on both kinds of evidence.
        best = max(WEIGHTS, key=lambda w: (results[w], -abs(w - 0.5)))
        harness.choose("photo_weight", best)
        return best

    @staticmethod
    def _cosines(embeddings: NDArray[np.float32], loss: ArcFaceLoss) -> NDArray[np.float32]:
        prototypes: NDArray[np.float32] = loss.prototypes().cpu().numpy()
        return normalise(embeddings) @ prototypes.T

    @staticmethod
    def _mix(
        by_prototype: NDArray[np.float32], by_photo: NDArray[np.float32], weight: float
    ) -> NDArray[np.float32]:
        return (1 - weight) * by_prototype + np.float32(weight) * by_photo
