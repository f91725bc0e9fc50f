"""`frozen`: a network as it was published, without training, and a gallery: do I need to train at all?"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from whalebench.benchmarks.core.arrays import normalise
from whalebench.benchmarks.core.photos import LabelledPhotos, Photos
from whalebench.methods.method import Harness
from whalebench.methods.parts.embedder import GalleryMethod
from whalebench.methods.parts.networks.backbones import build_backbone
from whalebench.methods.parts.networks.pooling import build_pooling
from whalebench.methods.parts.networks.weights import find_checkpoint, hub_file, miewid_neck
from whalebench.methods.parts.pipeline import UntrainedConfig
from whalebench.methods.parts.retrieval import GalleryConfig
from whalebench.methods.parts.training.config import PhotoSize
from whalebench.methods.parts.training.trainer import predict, ready


class FrozenConfig(UntrainedConfig):
    """Fields of `frozen`; it trains no network: epochs and the like have no effect, but a finder's own."""

    no_schedule: ClassVar = "this one is not; leave it out"

    backbone: str = "vit_small_patch14_dinov2.lvd142m"
    """Any timm network by name, one of the hub (hf-hub:BVRA/MegaDescriptor-T-224), or by its name alone:
    MegaDescriptor-T-224, -S-224, -B-224, -L-224, -L-384, miewid-msv2, miewid-msv3."""
    pretrained: str = "timm"
    """Weights: timm (downloaded from timm's or the checkpoint's hub), efficientnet-lite0, a safetensors file,
    or none: random ones, the floor."""
    size: PhotoSize = (224, 224)
    """Height x width in pixels, best as the checkpoint was trained; some want multiples of 14 or 32."""
    epochs: Annotated[int, Field(ge=0, le=0)] = 0
    """None: nothing is trained."""
    pooling: Literal["auto", "average", "gem"] = "auto"
    """auto: as the checkpoint was trained, by class token, average or what it brought along; or of all
    places the average or the generalised mean."""
    gallery: GalleryConfig = GalleryConfig()
    """How embedded train photos score a query."""

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


class Frozen(GalleryMethod):
    """Embeds with a published network and scores by a gallery of the train photos."""

    name = "frozen"
    summary = "a published network without training, and the gallery's rule; what training is measured by"
    source = (
        "Oquab et al. 2024 (DINOv2); Čermák et al. 2024 (MegaDescriptor); Otarashvili et al. 2024 (MiewID)"
    )
    Config = FrozenConfig
    config: FrozenConfig
    made: Callable[[Tensor], Tensor]
    """What the network makes of pixels, or made of them in an earlier run."""

    def __init__(self, config: FrozenConfig) -> None:
        super().__init__(config, config.gallery)

    def learn(self, train: LabelledPhotos, valid: LabelledPhotos, harness: Harness) -> None:
        """Embeds the photos of known individuals as the gallery; nothing is trained."""
        del valid
        harness.stage("network")
        self.device = harness.device
        self.network = ready(self.build_network(self.config), self.device)
        self.made = harness.kept(self.network)
        self.fill_gallery(train.known(), harness)

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

    def build_network(self, config: FrozenConfig) -> FrozenNetwork:
        """The network as it was published."""
        return FrozenNetwork(config)
