"""`stn`: a spatial transformer in front of the classifier, free or taught by annotated windows first.

The transformer (Jaderberg et al., 2015) is a network that chooses the window in which the classifier sees the
photo. The window is an affine matrix from the window to the whole photo, both in normalised coordinates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from whalebench.benchmarks.core.photos import LabelledPhotos, Photos, Size
from whalebench.methods.method import Components, FieldValue, Harness, Located, Search, attribute
from whalebench.methods.parts import geometry
from whalebench.methods.parts.augment import Augmentation
from whalebench.methods.parts.crops.aligner import Aligner
from whalebench.methods.parts.crops.finder import Finder, PositionConfig, PositionNetwork
from whalebench.methods.parts.crops.localizer import Localizer
from whalebench.methods.parts.networks.pooling import cell_means
from whalebench.methods.parts.training.config import TrainingConfig
from whalebench.methods.parts.training.trainer import predict, train_network
from whalebench.methods.softmax import PooledBackbone, Softmax, SoftmaxConfig

ANCHORS = ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0))
"""Three points that fix a window: its middle, and the middles of its right and its lower side."""
REACH = 2.0
"""How far an anchor can be moved from its place in the whole photo, so that windows stay within bounds."""


class TransformerConfig(PositionConfig):
    """Fields of the network that chooses the window."""

    epochs: Annotated[int, Field(ge=0)] = 30
    """Passes over the annotated training photos, before it learns together with the classifier."""

    def augmentation(self) -> Augmentation:
        """The augmentation in these passes: as configured, but nothing is erased."""
        return replace(super().augmentation(), erase=0.0)


class WindowNetwork(PositionNetwork):
    """A network that answers with a window, by where its anchors are; at first with the whole photo."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config, len(ANCHORS))
        for parameter in self.votes.parameters():
            nn.init.zeros_(parameter)

    def forward(self, pixels: Tensor) -> Tensor:
        """Matrices (photos, 2, 3), float32, from the window to the whole photo."""
        moved = REACH * torch.tanh(super().forward(pixels) / REACH)
        middle, right, lower = (moved + moved.new_tensor(ANCHORS)).unbind(1)
        return torch.stack([right - middle, lower - middle, middle], dim=2)


class SpatialTransformer(nn.Module):
    """The window that its network chooses, sampled so that the choice can be learned through it."""

    def __init__(self, config: TransformerConfig, source: Size, size: Size) -> None:
        """Windows have the size (height, width) where the whole photo comes in the size `source`."""
        super().__init__()
        self.choice = WindowNetwork(config)
        self.look, self.source, self.size = config.size, source, size

    def matrices(self, pixels: Tensor) -> Tensor:
        """Matrices (photos, 2, 3) from windows to whole photos, of pixels (photos, 3, height, width)."""
        matrices: Tensor = self.choice(cell_means(pixels, self.look))
        return matrices.float()

    def forward(self, pixels: Tensor) -> Tensor:
        """Windows (photos, 3, height, width) of pixels (photos, 3, height, width), smaller than these."""
        smaller = [
            max(1, round(side * size / source))
            for side, size, source in zip(pixels.shape[-2:], self.size, self.source, strict=True)
        ]
        matrices = self.matrices(pixels)
        with torch.autocast(pixels.device.type, enabled=False):  # bf16 would miss by whole pixels
            grid = F.affine_grid(matrices, [len(pixels), 1, *smaller], align_corners=False)
        return F.grid_sample(pixels, grid, "bilinear", "reflection", align_corners=False)


class WindowRegression(nn.Module):
    """The distance of the corners of windows from where they should be."""

    def forward(self, matrices: Tensor, corners: Tensor) -> Tensor:
        """Mean smooth-L1 loss of matrices (photos, 2, 3) against corners (photos, 4, 2)."""
        return F.smooth_l1_loss(geometry.transform_corners(matrices), corners, beta=0.1)


def annotated_windows(finder: Finder, train: Photos) -> Photos:
    """The photos whose annotation gives the finder a window, with the window's corners as their landmarks.

    Augmentation moves landmarks with the pixels, so the corners stay right.
    """
    annotated = train.select(np.flatnonzero(finder.annotated(train)))
    if not len(annotated) or annotated.annotations is None:
        return annotated
    finder.prepare(annotated)
    windows = finder.windows(finder.read(annotated), annotated)
    corners = np.full((len(annotated.annotations.has_mask), len(geometry.CORNERS), 2), np.nan, np.float32)
    corners[annotated.rows] = (geometry.transform_corners(geometry.invert(windows.matrices)).numpy() + 1) / 2
    names = tuple(f"corner {number}" for number in range(len(geometry.CORNERS)))
    annotations = replace(annotated.annotations, landmarks=corners, landmark_names=names)
    usage = annotated.usage and annotated.usage.of_derived()
    derived = replace(annotated, annotations=annotations, usage=usage)
    return derived.select(np.flatnonzero(~windows.fallback))


def learn_windows(config: TransformerConfig, windows: Photos, harness: Harness) -> WindowNetwork:
    """The network after learning windows whose corners are the photos' landmarks."""
    network, _ = train_network(
        WindowNetwork(config),
        WindowRegression(),
        windows,
        config,
        harness,
        lambda network, loss: None,
        target=geometry.normalised_landmarks,
        artefact="transformer",
    )
    return network


Start = Literal["free", "landmarks", "boxes"]
PLACES = "places"
"""The name of the landmarks' places, also among the weights."""


class StnConfig(SoftmaxConfig):
    """Fields of `stn`: those of `softmax`, and the transformer's."""

    after_first_cycle: ClassVar = SoftmaxConfig.after_first_cycle | {"transformer": {"epochs": 0}}

    start: Start = "free"
    """free: the whole photo at first; or taught the windows that annotated landmarks or boxes give."""
    transformer: TransformerConfig = TransformerConfig()
    """Chooses the window; the windows it is taught are those of the fields of aligner or localizer."""
    transformer_rate: Annotated[float, Field(ge=0), Search(0.01, 1.0, log=True)] = 0.1
    """Factor on its learning rate beside the classifier's, so that it is not torn off what it was taught."""

    @model_validator(mode="after")
    def _no_other_crop(self) -> Self:
        if self.crop != "none":
            raise ValueError(f"crop={self.crop} would crop twice: the transformer is the crop; leave it out")
        return self

    def tunable(self) -> dict[str, FieldValue]:
        """The fields worth tuning; a free transformer is not trained by itself, so its fields are none."""
        values = super().tunable()
        if self.start != "free":
            return values
        return {name: start for name, start in values.items() if not name.startswith("transformer.")}

    def size_at(self, epoch: int) -> Size:
        """Height and width at which whole photos come in: as much larger as `crop_source` is than `size`."""
        (height, width), source = super().size_at(epoch), self.source()
        return round(height * source[0] / self.size[0]), round(width * source[1] / self.size[1])

    def rate_of(self, parameter: str) -> float:
        """Factor on the learning rate of the parameter of that name; the transformer has one of its own."""
        return self.transformer_rate if "transformer." in parameter else super().rate_of(parameter)

    def without_download(self) -> Self:
        """The configuration without weights to start from, also of the transformer."""
        both = {"pretrained": "none", "transformer": self.transformer.without_download()}
        return self.model_copy(update=both)

    def teacher(self) -> Finder | None:
        """What makes windows of annotations, or None where the transformer is free."""
        if self.start == "free":
            return None
        return Aligner(self.aligner) if self.start == "landmarks" else Localizer(self.localizer)

    def finder_config(self) -> TrainingConfig:
        """The configuration of the network that chooses the window."""
        return self.transformer


class TransformedBackbone(PooledBackbone):
    """Transformer, backbone and pooling."""

    def __init__(self, config: StnConfig) -> None:
        super().__init__(config)
        self.transformer = SpatialTransformer(config.transformer, config.source(), config.size)

    def forward(self, pixels: Tensor) -> Tensor:
        """Features (photos, channels) from pixels (photos, 3, height, width) of whole photos."""
        return super().forward(self.transformer(pixels))


class Stn(Softmax):
    """`softmax` behind a spatial transformer; the classification loss moves the window, too."""

    name = "stn"
    summary = "a spatial transformer chooses the window, and learns with the classifier behind it"
    source = "Jaderberg et al. 2015; Lau 2016 (Right Whale, 2nd place), the open question of section 7.2"
    Config = StnConfig
    config: StnConfig
    places: Tensor | None = None
    """(landmarks, 2) where landmarks belong in the window, if that is what the transformer started from."""
    taught: Mapping[str, Tensor] | None = None
    """The transformer's network as it was taught, where it was."""
    network: TransformedBackbone

    def missing_requirement(self, train: LabelledPhotos, queries: Photos) -> str:
        """The annotations to start from that train lacks."""
        teacher = self.config.teacher()
        if teacher is None:
            return super().missing_requirement(train, queries)
        if not teacher.annotated(train).any():
            return teacher.needs
        return "" if len(annotated_windows(teacher, train)) else f"{teacher.needs} that give a window"

    def sizes(self) -> tuple[Size, ...]:
        """Those of whole photos in the schedule, and that at which the transformer is taught."""
        config = self.config
        seen = [config.size_at(0), config.size_at(config.epochs)]
        taught = config.transformer.sizes() if config.start != "free" else ()
        return tuple(dict.fromkeys([*seen, *taught]))

    def learn(self, train: LabelledPhotos, valid: LabelledPhotos, harness: Harness) -> None:
        """The transformer learns annotated windows, if it is to; then it learns with the classifier."""
        self.taught, self.places = None, None
        if teacher := self.config.teacher():
            windows = annotated_windows(teacher, train)
            harness.stage("transformer")
            self.taught = learn_windows(self.config.transformer, windows, harness).state_dict()
            self.places = teacher.constants.get(PLACES)
        super().learn(train, valid, harness)

    def locate(self, photos: Photos) -> Located | None:
        """Where the landmarks' places in the window lie in the photo, if it started from landmarks."""
        if self.places is None:
            return None

        def flat_matrices(pixels: Tensor) -> Tensor:
            return self.network.transformer.matrices(pixels).flatten(1)

        flat = predict(flat_matrices, photos, self.config, self.device)
        matrices = torch.from_numpy(flat).double().reshape(-1, 2, 3)
        places = (2 * self.places - 1).expand(len(matrices), -1, -1)
        return Located(landmarks=((geometry.transform_points(places, matrices) + 1) / 2).float().numpy())

    def components(self) -> Components:
        """Transformer, network and classifier, and where landmarks belong."""
        places = {} if self.places is None else {PLACES: attribute(self, PLACES)}
        return {**super().components(), **places}

    def restore(
        self, weights: Mapping[str, Tensor], identities: tuple[str, ...], device: torch.device
    ) -> None:
        """Takes up transformer, network and classifier."""
        self.taught, self.places = None, weights.get(PLACES)
        super().restore(weights, identities, device)

    def _network(self, config: SoftmaxConfig) -> TransformedBackbone:
        assert isinstance(config, StnConfig)
        network = TransformedBackbone(config)
        if self.taught is not None:
            network.transformer.choice.load_state_dict(self.taught)
        return network
