"""`stn`: a spatial transformer in front of the classifier, free or taught by annotated windows first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from whalebench.benchmarks.photos import Photos, Size
from whalebench.methods.method import FieldValue, Harness, Located, Search
from whalebench.methods.parts.crops.aligner import Aligner
from whalebench.methods.parts.crops.finder import Finder
from whalebench.methods.parts.crops.localizer import Localizer
from whalebench.methods.parts.crops.spatial_transformer import (
    SpatialTransformer,
    TransformerConfig,
    annotated_windows,
    learn_windows,
)
from whalebench.methods.parts.training.config import TrainingConfig
from whalebench.methods.parts.training.inference import predict
from whalebench.methods.parts.transforms.geometry import move
from whalebench.methods.softmax import PooledBackbone, Softmax, SoftmaxConfig

Start = Literal["free", "landmarks", "boxes"]
PLACES = "places"
"""The name of the landmarks' places among the weights."""


class StnConfig(SoftmaxConfig):
    """Fields of `stn`: those of `softmax`, the transformer's network, and what it starts from."""

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
        """As for `softmax`; a free transformer is not taught, so how it would be has no effect."""
        found = super().tunable()
        if self.start != "free":
            return found
        return {name: start for name, start in found.items() if not name.startswith("transformer.")}

    def in_cycle(self, number: int) -> Self:
        """As for every network; the transformer is taught once, and goes on with the classifier."""
        whole = super().in_cycle(number)
        taught = {"transformer": self.transformer.model_copy(update={"epochs": 0})}
        return whole.model_copy(update=taught) if number else whole

    def size_at(self, epoch: int) -> Size:
        """Height and width at which whole photos come in: as much larger as `crop_source` is than `size`."""
        (height, width), source = super().size_at(epoch), self.source()
        return round(height * source[0] / self.size[0]), round(width * source[1] / self.size[1])

    def rate_of(self, parameter: str) -> float:
        """As for every network, and the transformer's own."""
        return self.transformer_rate if "transformer." in parameter else super().rate_of(parameter)

    def without_download(self) -> Self:
        """The same without weights to start from, the transformer's neither."""
        both = {"pretrained": "none", "transformer": self.transformer.without_download()}
        return self.model_copy(update=both)

    def teacher(self) -> Finder | None:
        """What makes windows of annotations, or None where the transformer is free."""
        match self.start:
            case "landmarks":
                return Aligner(self.aligner)
            case "boxes":
                return Localizer(self.localizer)
        return None

    def _finder_config(self) -> TrainingConfig:
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

    def unfit(self, train: Photos, queries: Photos) -> str:
        """The annotations to start from that train lacks."""
        teacher = self.config.teacher()
        if teacher is None:
            return super().unfit(train, queries)
        if not teacher.annotated(train).any():
            return teacher.needs
        return "" if len(annotated_windows(teacher, train)) else f"{teacher.needs} that give a window"

    def sizes(self) -> tuple[Size, ...]:
        """Those of whole photos in the schedule, and that at which the transformer is taught."""
        config = self.config
        seen = [config.size_at(0), config.size_at(config.epochs)]
        taught = config.transformer.sizes() if config.start != "free" else ()
        return tuple(dict.fromkeys([*seen, *taught]))

    def learn(self, train: Photos, valid: Photos, harness: Harness) -> None:
        """The transformer learns annotated windows, if it is to; then it learns with the classifier."""
        self.taught, self.places = None, None
        if teacher := self.config.teacher():
            windows = annotated_windows(teacher, train)
            harness.stage("transformer")
            self.taught = learn_windows(self.config.transformer, windows, harness).state_dict()
            self.places = teacher.constants.get(PLACES)
        super().learn(train, valid, harness)

    def locate(self, photos: Photos) -> Located | None:
        """Landmarks where their places in the window are in the photo, if it started from landmarks."""
        if self.places is None:
            return None

        def maps(pixels: Tensor) -> Tensor:
            return self.network.transformer.maps(pixels).flatten(1)

        found = torch.from_numpy(predict(maps, photos, self.config, self.device)).double().reshape(-1, 2, 3)
        places = (2 * self.places - 1).expand(len(found), -1, -1)
        return Located(landmarks=((move(places, found) + 1) / 2).float().numpy())

    def weights(self) -> dict[str, Tensor]:
        """Transformer, network and classifier, and where landmarks belong."""
        return super().weights() | ({} if self.places is None else {PLACES: self.places})

    def restore(
        self, weights: Mapping[str, Tensor], identities: tuple[str, ...], device: torch.device
    ) -> None:
        """Takes up transformer, network and classifier."""
        self.taught, self.places = None, weights.get(PLACES)
        networks = {key: value for key, value in weights.items() if key != PLACES}
        super().restore(networks, identities, device)

    def _network(self, config: SoftmaxConfig) -> TransformedBackbone:
        assert isinstance(config, StnConfig)
        network = TransformedBackbone(config)
        if self.taught is not None:
            network.transformer.choice.load_state_dict(self.taught)
        return network
