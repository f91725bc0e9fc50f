"""`frozen`: a network as it was published, without training, and a gallery: do I need to train at all?"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from whalebench.benchmarks.core.arrays import normalise
from whalebench.benchmarks.core.photos import LabelledPhotos, Photos
from whalebench.methods.method import Components, Harness, Value, attribute
from whalebench.methods.parts.embedder import GalleryMethod
from whalebench.methods.parts.networks.backbones import build_backbone
from whalebench.methods.parts.networks.pooling import build_pooling
from whalebench.methods.parts.networks.weights import (
    each_network,
    find_checkpoint,
    hub_file,
    miewid_neck,
    side_of,
)
from whalebench.methods.parts.pipeline import UntrainedConfig
from whalebench.methods.parts.retrieval import GalleryConfig, Labels
from whalebench.methods.parts.training.config import PhotoSize
from whalebench.methods.parts.training.trainer import predict, ready

PENALTIES = (1e-3, 1e-4, 1e-5)
"""On the squared weights of a head, of which valid chooses; of equally good ones the first, the strongest."""
ITERATIONS = 100
"""Of L-BFGS, which stops earlier where the loss stands still."""


class FrozenConfig(UntrainedConfig):
    """Fields of `frozen`; it trains no network: epochs and the like have no effect, but a finder's own."""

    no_schedule: ClassVar = "this one is not; leave it out"

    backbone: str = "vit_small_patch14_dinov2.lvd142m"
    """Any timm network by name, one of the hub (hf-hub:BVRA/MegaDescriptor-T-224), or by a short name:
    dinov3-s, -b, -l, megadescriptor-t, -s, -b, -l, miewid; several joined by +, side by side."""
    pretrained: str = "timm"
    """Weights: timm (downloaded from timm's or the checkpoint's hub), efficientnet-lite0, a safetensors file,
    or none: random ones, the floor; of several networks one for all, or one for each, joined by +."""
    size: PhotoSize = (224, 224)
    """Height x width in pixels; some want multiples of 14 or 32. Unless given, that of a short name's
    training, of several the largest, rounded up to a multiple of 32."""
    epochs: Annotated[int, Field(ge=0, le=0)] = 0
    """None: nothing is trained."""
    pooling: Literal["auto", "average", "gem"] = "auto"
    """auto: as the checkpoint was trained, by class token, average or what it brought along; or of all
    places the average or the generalised mean."""
    head: Literal["none", "logistic"] = "none"
    """none: the gallery scores; logistic: a logistic regression on the embeddings of train, in seconds."""
    gallery: GalleryConfig = GalleryConfig()
    """How embedded train photos score a query; with a head only whether they are mirrored, too."""

    @model_validator(mode="before")
    @classmethod
    def _size_of_the_checkpoint(cls, values: Any) -> Any:
        if not isinstance(values, dict) or "size" in values or "backbone" not in values:
            return values
        side = side_of(str(values["backbone"]))
        return values | {"size": side} if side else values

    @model_validator(mode="after")
    def _scored_once(self) -> Self:
        for name, info in GalleryConfig.model_fields.items():
            value = getattr(self.gallery, name)
            if self.head != "none" and name != "flip" and value != info.default:
                raise ValueError(
                    f"head={self.head} scores instead of the gallery and has no gallery.{name}={value}; leave"
                    f" one of them out"
                )
        return self

    def networks(self) -> list[FrozenConfig]:
        """The configuration of each network where backbone joins several."""
        pairs = each_network(self.backbone, self.pretrained)
        return [self.model_copy(update={"backbone": name, "pretrained": start}) for name, start in pairs]

    def sees_viewpoints(self) -> bool:
        """Whether its gallery is that of the query's side."""
        return self.gallery.side == "same"


class FrozenNetwork(nn.Module):
    """Backbone and pooling, as they were published."""

    def __init__(self, config: FrozenConfig) -> None:
        super().__init__()
        auto, known = config.pooling == "auto", find_checkpoint(config.backbone)
        self.backbone = build_backbone(
            config.backbone, config.pretrained, config.size, channels=config.channels(), own_pooling=auto
        )
        self.pooling: nn.Module | None = None
        if config.pooling != "auto":
            self.pooling = build_pooling(config.pooling, (1, 1))
        elif known is not None and known.layout == "miewid":
            file = None
            if config.pretrained != "none":
                file = hub_file(known.repository) if config.pretrained == "timm" else Path(config.pretrained)
            self.pooling = miewid_neck(self.backbone.channels, file)

    def forward(self, pixels: Tensor) -> Tensor:
        """Embeddings (photos, dimensions), not normalised, from pixels (photos, 3, height, width)."""
        if self.pooling is None:
            return self.backbone.pooled(pixels)
        pooled: Tensor = self.pooling(self.backbone(pixels))
        return pooled


class SideBySide(nn.Module):
    """Several published networks, which see the same pixels."""

    def __init__(self, configs: list[FrozenConfig]) -> None:
        super().__init__()
        self.networks = nn.ModuleList([FrozenNetwork(config) for config in configs])

    def forward(self, pixels: Tensor) -> Tensor:
        """Their embeddings (photos, dimensions of all), each at length 1, side by side."""
        return torch.cat([normalize(network(pixels).float()) for network in self.networks], dim=1)


def fit_head(embeddings: NDArray[np.float32], labels: Labels, identities: int, penalty: float) -> Tensor:
    """Weights (dimensions, identities) of a logistic regression, by L-BFGS from 0: the same every time.

    From embeddings (photos, dimensions) of length 1 and labels (photos,); the loss is the mean log loss and
    half the penalty times the squared weights. There are no intercepts: who is met often is no likelier.
    """
    seen, target = torch.from_numpy(np.array(embeddings)), torch.from_numpy(np.array(labels))
    with torch.inference_mode(mode=False), torch.enable_grad():
        weights = torch.zeros(seen.shape[1], identities, requires_grad=True)
        solver = torch.optim.LBFGS([weights], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            solver.zero_grad()
            value = cross_entropy(seen @ weights, target) + penalty / 2 * weights.square().sum()
            value.backward()  # type: ignore[no-untyped-call]
            return value

        solver.step(loss)  # type: ignore[no-untyped-call]
    return weights.detach()


class Frozen(GalleryMethod):
    """Embeds with a published network and scores by a gallery of the train photos, or a head on them."""

    name = "frozen"
    summary = (
        "published networks without training, and a gallery or a head; needs weights: hub, package or file"
    )
    source = (
        "Oquab et al. 2024 (DINOv2); Čermák et al. 2024 (MegaDescriptor); Otarashvili et al. 2024 (MiewID)"
    )
    Config = FrozenConfig
    config: FrozenConfig
    made: Callable[[Tensor], Tensor]
    """What the network makes of pixels, or made of them in an earlier run."""

    def __init__(self, config: FrozenConfig) -> None:
        super().__init__(config, config.gallery)
        self.head, self.penalty = torch.zeros(0, 0), PENALTIES[0]
        self.fitted_on = 0  # photos of the gallery

    def learn(self, train: LabelledPhotos, valid: LabelledPhotos, harness: Harness) -> None:
        """Embeds the photos of known individuals as the gallery; nothing is trained but a head, if any."""
        harness.stage("network")
        self.device = harness.device
        self.network = ready(self.build_network(self.config), self.device)
        self.made = harness.kept(self.network)
        self.fill_gallery(train.known(), harness)
        if self.config.head != "none":
            self._learn_head(train.known(), valid, harness)

    def score_features(self, features: NDArray[np.float32], viewpoints: Labels | None) -> NDArray[np.float32]:
        """Scores (photos, identities) by the gallery's rule, or the head's."""
        if self.config.head == "none":
            return super().score_features(features, viewpoints)
        return np.asarray(features @ self._head_of_gallery().numpy(), np.float32)

    def components(self) -> Components:
        """Network and gallery, and the head where there is one."""
        if self.config.head == "none":
            return super().components()
        head = Value(self._head_of_gallery, self._put_head)
        return {**super().components(), "head": head, "penalty": attribute(self, "penalty")}

    def embed(self, photos: Photos) -> NDArray[np.float32]:
        """Embeddings (photos, dimensions) of length 1; with gallery.flip the mean with the mirror image's."""
        embeddings = normalise(self._look(photos, mirrored=False))
        if self.config.gallery.flip:
            embeddings = embeddings + normalise(self._look(photos, mirrored=True))
        return normalise(embeddings)

    def rebuild(self, identities: int, device: torch.device) -> None:
        """The network as it was published; what it makes of new photos is not kept."""
        super().rebuild(identities, device)
        self.made = self.network

    def _look(self, photos: Photos, *, mirrored: bool) -> NDArray[np.float32]:
        """The network's output (photos, dimensions) for photos, or for their mirror images."""

        def made(pixels: Tensor) -> Tensor:
            return self.made(pixels.flip(-1) if mirrored else pixels)

        look = partial(predict, made, photos, self.config, self.device)
        return self.looks.of(self.network, photos, mirrored, look)

    def _learn_head(self, known: LabelledPhotos, valid: LabelledPhotos, harness: Harness) -> None:
        harness.stage("head")
        harness.fitted("head", known)
        queries, results = self.embed(valid.bare()), {}
        for penalty in PENALTIES:
            self._fit_head(penalty)
            results[penalty] = harness.valid_map_at_5(self.score_features(queries, None))
        best = max(results, key=results.__getitem__)
        self._fit_head(best)
        harness.choose("penalty", best)

    def _fit_head(self, penalty: float) -> None:
        gallery, self.penalty = self.gallery, penalty
        self._put_head(fit_head(gallery.embeddings, gallery.labels, gallery.identities, penalty))

    def _put_head(self, head: Tensor) -> None:
        self.head, self.fitted_on = head, len(self.gallery.labels)

    def _head_of_gallery(self) -> Tensor:
        """The head, fitted anew where photos have joined the gallery since."""
        if self.fitted_on != len(self.gallery.labels):
            self._fit_head(self.penalty)
        return self.head

    def build_network(self, config: FrozenConfig) -> FrozenNetwork | SideBySide:
        """The network as it was published; of several all side by side."""
        networks = config.networks()
        return FrozenNetwork(networks[0]) if len(networks) == 1 else SideBySide(networks)
