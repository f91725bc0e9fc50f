"""The network of every method that embeds photos, and what such methods have in common."""

from __future__ import annotations

import math
from abc import abstractmethod
from functools import partial
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor, nn

from whalebench import WhalebenchError
from whalebench.benchmarks.core.arrays import normalise
from whalebench.benchmarks.core.photos import LabelledPhotos, Photos, Size
from whalebench.methods.method import Components, Harness, Method, Search
from whalebench.methods.parts.looks import Looks
from whalebench.methods.parts.networks.backbones import Backbone, Encoder, build_backbone, build_encoder
from whalebench.methods.parts.networks.pooling import EachMap, Flatten, Flattening, Pooling, build_pooling
from whalebench.methods.parts.pipeline import NetworkMethodConfig
from whalebench.methods.parts.retrieval import Gallery, GalleryConfig, Labels
from whalebench.methods.parts.training.config import GridSize, PhotoSize
from whalebench.methods.parts.training.trainer import predict, ready


class EmbedderConfig(NetworkMethodConfig):
    """Fields of every method that embeds photos and compares them with a gallery."""

    pooling: Pooling | Flattening = "gem"
    """average; gem: the generalised mean with a learnable exponent; or flatten: none, every place counts."""
    grid: GridSize = (2, 3)
    """Cells, as 2x3, that are pooled apart and put side by side, so that places count; 1x1 pools globally;
    flatten has none."""
    stages: Annotated[int, Field(ge=1, le=2)] = 1
    """How many of the network's last stages are pooled, each with an exponent of its own, side by side."""
    dimensions: Annotated[int, Field(ge=2)] = 256
    """Length of the embedding."""
    dropout: Annotated[float, Field(ge=0, lt=1), Search(0.0, 0.5)] = 0.0
    """Share of pooled features left out in training."""
    mirror: Literal["across", "down"] = "across"
    """Which way photos are mirrored where they are: left to right, or upside down, for animals that lie
    across the photo, with their sides up and down."""
    second_size: PhotoSize | None = None
    """Height x width of a second look, taken when scoring only; the embeddings of both are averaged."""
    gallery: GalleryConfig = GalleryConfig()
    """How embedded train photos score a query."""

    @model_validator(mode="after")
    def _map_and_looks(self) -> Self:
        flat = self.pooling == "flatten"
        if flat and self.stages > 1:
            raise ValueError("pooling=flatten keeps every place of the last stage only; set stages=1")
        if flat and (other := set(self.sizes()) - {self.size}):
            height, width = min(other)
            raise ValueError(
                f"pooling=flatten has a weight for every place at size={self.size[0]}x{self.size[1]}, so it "
                f"cannot look at {height}x{width}; give one size throughout, or pooling=gem"
            )
        if self.mirror != "across" and not self.mirrors():
            raise ValueError(
                f"mirror={self.mirror} has no effect, as nothing is mirrored; set gallery.flip=true, or "
                f"flip_identities=true where there is one"
            )
        return self

    def mirrors(self) -> bool:
        """Whether photos are mirrored anywhere."""
        return self.gallery.flip

    def mirrored_axis(self) -> int:
        """The axis of pixels (photos, channels, height, width) along which photos are mirrored."""
        return -1 if self.mirror == "across" else -2

    def sizes(self) -> tuple[Size, ...]:
        """Every size of the schedule, and that of a second look."""
        return (*super().sizes(), *([self.second_size] if self.second_size else []))

    def sees_viewpoints(self) -> bool:
        """Whether its gallery is that of the query's side."""
        return self.gallery.side == "same"

    def cycle_gallery(self) -> GalleryConfig | None:
        """The gallery by which every embedding is scored."""
        return self.gallery


class Embedder(nn.Module):
    """Backbone, pooling, linear layer and batch normalisation as the neck."""

    def __init__(self, config: EmbedderConfig) -> None:
        super().__init__()
        build = build_backbone if config.stages == 1 else build_encoder
        self.backbone = build(config.backbone, config.pretrained, *config.sizes(), channels=config.channels())
        self.pooling, width = _pooling(config, self.backbone)
        self.dropout = nn.Dropout(config.dropout)
        self.linear = nn.Linear(width, config.dimensions, bias=False)
        self.neck = nn.BatchNorm1d(config.dimensions)

    def forward(self, pixels: Tensor) -> Tensor:
        """Embeddings (photos, dimensions), not normalised, from pixels (photos, 3, height, width)."""
        embeddings: Tensor = self.neck(self.linear(self.dropout(self.pooling(self.backbone(pixels)))))
        return embeddings


def _pooling(config: EmbedderConfig, backbone: Backbone | Encoder) -> tuple[nn.Module, int]:
    """The pooling, and how many features it gives a photo."""
    cells = math.prod(config.grid)
    if isinstance(backbone, Encoder):
        channels = backbone.channels[-config.stages :]
        if len(channels) < config.stages:
            raise WhalebenchError(
                f"backbone '{config.backbone}' has {len(channels)} stage(s), not stages={config.stages}: set "
                f"stages=1, or another backbone, for example resnet18."
            )
        assert config.pooling != "flatten"
        return EachMap([build_pooling(config.pooling, config.grid) for _ in channels]), sum(channels) * cells
    if config.pooling == "flatten":
        with torch.inference_mode():
            seen = backbone.eval()(torch.zeros(1, config.channels(), *config.size))
        backbone.train()
        return Flatten(backbone.channels), math.prod(seen.shape[1:])
    return build_pooling(config.pooling, config.grid), backbone.channels * cells


class GalleryMethod(Method):
    """Base of methods that compare photos with a gallery of embedded ones; a subclass says how it embeds.

    `learn` sets `device` and `network` and ends with `fill_gallery`.
    """

    config: NetworkMethodConfig
    device: torch.device
    network: nn.Module

    def __init__(self, config: NetworkMethodConfig, gallery: GalleryConfig) -> None:
        super().__init__(config)
        self.gallery, self.looks = Gallery(gallery), Looks()

    def sizes(self) -> tuple[Size, ...]:
        """Every size of the schedule, and that of a second look."""
        return self.config.sizes()

    def score(self, photos: Photos) -> NDArray[np.float32]:
        """Cosines (photos, identities) by the gallery's rule."""
        return self.score_features(self.features(photos), photos.viewpoints)

    def score_features(self, features: NDArray[np.float32], viewpoints: Labels | None) -> NDArray[np.float32]:
        """Scores (photos, identities) of photos by what they are compared by (photos, dimensions)."""
        return self.gallery.scores(features, viewpoints)

    def score_and_embed(self, photos: Photos) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """By one look where embeddings are what photos are compared by."""
        if type(self).score is not GalleryMethod.score or not self.compares_embeddings:
            return super().score_and_embed(photos)
        embeddings = self.embed(photos)
        return self.score_features(embeddings, photos.viewpoints), embeddings

    def extend(self, photos: LabelledPhotos) -> None:
        """Embeds the photos and takes them into the gallery."""
        self.gallery.add(self.features(photos), photos.labels, len(photos.identities), photos.viewpoints)

    @abstractmethod
    def embed(self, photos: Photos) -> NDArray[np.float32]:
        """Embeddings (photos, dimensions) of length 1."""

    @property
    def compares_embeddings(self) -> bool:
        """Whether `features` are what `embed` gives."""
        return type(self).features is GalleryMethod.features

    def features(self, photos: Photos) -> NDArray[np.float32]:
        """Features (photos, dimensions) by which photos are compared: embeddings, if nothing else is said."""
        return self.embed(photos)

    @abstractmethod
    def build_network(self, config: Any) -> nn.Module:
        """The network before it has learned."""

    def fill_gallery(self, known: LabelledPhotos, harness: Harness) -> None:
        """Embeds the labelled photos of known individuals as the gallery, a stage of its own."""
        harness.stage("gallery")
        harness.fitted("gallery", known)
        self.looks.begin(self.network)
        self.embed_gallery(known)

    def embed_gallery(self, known: LabelledPhotos) -> NDArray[np.float32]:
        """Fills the gallery, by the very path that scores test, and gives its features (photos, features)."""
        features = self.features(known)
        self.gallery.fill(features, known.labels, len(known.identities), known.viewpoints)
        return features

    def components(self) -> Components:
        """Network and embedded gallery."""
        return {"network": self.network, "": self.gallery}

    def rebuild(self, identities: int, device: torch.device) -> None:
        """The network before it has learned."""
        self.device, self.gallery.identities = device, identities
        self.network = ready(self.build_network(self.config.without_download()), device)


class EmbeddingMethod(GalleryMethod):
    """Base of methods that train a network to embed photos; a subclass says how it learns."""

    config: EmbedderConfig
    network: Embedder

    def __init__(self, config: EmbedderConfig) -> None:
        super().__init__(config, config.gallery)

    def embed(self, photos: Photos) -> NDArray[np.float32]:
        """Embeddings (photos, dimensions) of length 1, the mean of test-time augmentations: sizes, mirror."""
        sides = (False, True) if self.config.gallery.flip else (False,)
        return normalise(np.sum([self.look(photos, mirrored=side) for side in sides], axis=0))

    def look(self, photos: Photos, *, mirrored: bool) -> NDArray[np.float32]:
        """Sum over the sizes of embeddings (photos, dimensions) of photos or their mirror images."""
        sizes = {self.config.size, self.config.second_size or self.config.size}
        looks = [normalise(self.look_at(photos, size, mirrored=mirrored)) for size in sorted(sizes)]
        total: NDArray[np.float32] = np.sum(looks, axis=0)
        return total

    def look_at(self, photos: Photos, size: Size, *, mirrored: bool) -> NDArray[np.float32]:
        """The network's output (photos, dimensions) for photos of that size, or for their mirror images."""
        axis = self.config.mirrored_axis()

        def network(pixels: Tensor) -> Tensor:
            embeddings: Tensor = self.network(pixels.flip(axis) if mirrored else pixels)
            return embeddings

        look = partial(predict, network, photos, self.config, self.device, size)
        return self.looks.of(self.network, photos, (size, mirrored), look)

    def build_network(self, config: EmbedderConfig) -> Embedder:
        """The network before it has learned."""
        return Embedder(config)
