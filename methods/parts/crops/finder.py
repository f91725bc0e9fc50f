"""What localizer, aligner and segmenter share: a finder, a network that answers with positions, the crop.

The crop is a lens: a window of each photo, cut out of it batch by batch, on the device.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.nn import functional as F

from whalebench import RunFailedError
from whalebench.benchmarks.core.photos import CPU, Batch, LabelledPhotos, Photos, Size
from whalebench.methods.method import Harness, Located
from whalebench.methods.parts.augment import Strength
from whalebench.methods.parts.geometry import Outside, crop_matrices, warp
from whalebench.methods.parts.networks.backbones import build_backbone
from whalebench.methods.parts.training.config import PhotoSize, TrainingConfig
from whalebench.methods.parts.training.trainer import ready, train_network


class PositionConfig(TrainingConfig):
    """Fields of a network that answers with positions."""

    size: PhotoSize = (80, 128)
    """Height x width in pixels at which it looks at whole photos."""
    epochs: Annotated[int, Field(ge=0)] = 15
    """Passes over the annotated training photos."""
    width: Annotated[int, Field(ge=1)] = 64
    """Channels between the backbone and the votes."""

    @field_validator("augment")
    @classmethod
    def _quarters_stay(cls, augment: Strength) -> Strength:
        return unshuffled(augment)


def unshuffled(augment: Strength) -> Strength:
    """The augmentation of a finder; raises ValueError for one that moves quarters off what is annotated."""
    if augment == "shuffled":
        raise ValueError(
            "a finder learns where things are, so quarters cannot change places; set another, as heavy"
        )
    return augment


class PositionNetwork(nn.Module):
    """Every cell of the last feature map votes for where each point is; the votes are weighed and averaged.

    A vote is an offset from the cell itself, so what was learned in one place holds in all others; a dense
    layer over the whole map would have to learn each place by itself.
    """

    def __init__(self, config: PositionConfig, points: int) -> None:
        super().__init__()
        self.points = points
        self.backbone = build_backbone(config.backbone, config.pretrained, *config.sizes())
        self.neck = nn.Sequential(*convolution(self.backbone.channels, config.width))
        self.votes = nn.Conv2d(config.width, 4 * points, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Points (photos, points, 2) in normalised coordinates, float32, of pixels (photos, 3, h, w)."""
        votes = self.votes(self.neck(self.backbone(pixels))).float()
        height, width = votes.shape[-2:]
        weights, offsets = votes.unflatten(1, (2, self.points, 2)).flatten(-2).unbind(1)
        cells = cell_centres(height, width, pixels.device)
        points: Tensor = (weights.softmax(dim=-1) * (cells + offsets)).sum(dim=-1)
        return points


def cell_centres(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """The centres (2, cells) of the cells of a map, x and y in normalised coordinates, row by row."""
    across = (torch.arange(width, device=device) + 0.5) / width * 2 - 1
    down = (torch.arange(height, device=device) + 0.5) / height * 2 - 1
    return torch.stack([across.repeat(height), down.repeat_interleave(width)])


def convolution(channels_in: int, channels_out: int) -> list[nn.Module]:
    """A 3 x 3 convolution, its normalisation and its activation."""
    layer = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
    return [layer, nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True)]


Background = Literal["kept", "blurred", "removed"]

BLUR = 1 / 16
"""Side of the mean that blurs a background, as a share of the photo's longer side."""


@dataclass(frozen=True, eq=False)
class Crop:
    """A lens that shows one window of each photo, its background kept, blurred or removed."""

    windows: Tensor
    """(photos, 2, 3), affine matrices from the whole photo to the window, both in normalised coordinates."""
    source: Size
    """Height and width at which whole photos are read to cut windows out of them."""
    masks: NDArray[np.uint8] | None = None
    """(photos, height, width) over whole photos, 255 on the animal; needed for what follows."""
    background: Background = "kept"
    mask_channel: bool = False
    """Whether the mask is shown as a fourth channel."""
    outside: Outside = "reflection"
    """What is seen where the photo has ended."""

    def select(self, indices: NDArray[np.int64]) -> Crop:
        """The crop of the photos at some places, in that order."""
        masks = None if self.masks is None else self.masks[indices]
        return replace(self, windows=self.windows[torch.from_numpy(indices)], masks=masks)

    def look(self, behind: Photos, indices: NDArray[np.int64], size: Size, device: torch.device) -> Batch:
        """The windows of the photos at some places, resized to size; annotations are cut with the pixels."""
        batch = behind.batch(indices, self.source, device)
        if self.masks is not None:
            batch = self._with_mask(batch, self.masks[indices])
        windows = self.windows[torch.from_numpy(indices)].to(device, torch.float32)
        # A bilinear sample sees two source pixels each way; where more go into one, several are averaged.
        finer = max(1, math.ceil(max(self.source[0] / size[0], self.source[1] / size[1]) / 2))
        seen = warp(batch, windows, (size[0] * finer, size[1] * finer), self.outside)
        return _coarser(seen, finer) if finer > 1 else seen

    def _with_mask(self, batch: Batch, masks: NDArray[np.uint8]) -> Batch:
        small = torch.from_numpy(masks)[:, None].to(batch.pixels.device).float().div_(255)
        mask = F.interpolate(small, batch.pixels.shape[-2:], mode="bilinear", align_corners=False)
        pixels = batch.pixels
        if self.background != "kept":
            pixels = torch.lerp(_backdrop(pixels, self.background), pixels, mask)
        return replace(batch, pixels=torch.cat([pixels, mask], dim=1) if self.mask_channel else pixels)


def _backdrop(pixels: Tensor, background: Background) -> Tensor:
    """What stands where the animal is not: its photo blurred, or its photo's mean colour."""
    if background == "removed":
        return pixels.mean(dim=(2, 3), keepdim=True).expand_as(pixels)
    side = max(1, round(max(pixels.shape[-2:]) * BLUR)) // 2 * 2 + 1
    blurred = F.avg_pool2d(pixels, side, stride=1, padding=side // 2, count_include_pad=False)
    return F.avg_pool2d(blurred, side, stride=1, padding=side // 2, count_include_pad=False)


def _coarser(batch: Batch, factor: int) -> Batch:
    """The batch with factor x factor pixels averaged into one."""
    unread = replace(batch, reader=None)
    masks = None if unread.masks is None else F.avg_pool2d(unread.masks, factor)
    boxes = None if unread.boxes is None else unread.boxes / factor
    landmarks = None if unread.landmarks is None else unread.landmarks / factor
    pixels = F.avg_pool2d(batch.pixels, factor)
    return replace(batch, pixels=pixels, boxes=boxes, landmarks=landmarks, masks=masks)


LEAST = 2
"""Annotated photos that a finder learns from."""
NETWORK = "network."
"""What the names of the network's weights begin with."""


@dataclass(frozen=True)
class Windows:
    """The windows in which photos are seen."""

    matrices: Tensor
    """(photos, 2, 3), float64, from the whole photo to the window, both in normalised coordinates."""
    fallback: NDArray[np.bool_]
    """(photos,) where the whole photo is looked at, because what was found makes no sense."""


class Finder(ABC):
    """Learns from annotated photos where the animal is, and says which window of a photo to look at."""

    artefact: ClassVar[str]
    """Its name in the record: the stage, its lineage, its weights."""
    needs: ClassVar[str]
    """What it learns from, in the plural, as "boxes"."""
    background: Background = "kept"
    mask_channel: bool = False
    margin: float = 0.0
    smallest: float = 0.0
    """By what share of itself a box is widened on each side, and of which share of the photo it is none."""
    judged: ClassVar[bool] = True
    """Whether what it finds is held against what is annotated of the animal."""
    looks: ClassVar[bool] = True
    """Whether it looks at photos to say where the animal is, so that it can be held against annotations."""

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config
        self.network: nn.Module = nn.Identity()
        self.device = CPU
        self.watched: Photos | None = None
        """Annotated photos of valid on which its loss is watched, where that is asked for."""
        self.constants: dict[str, Tensor] = {}
        """What `prepare` took from train, kept with the weights."""

    @abstractmethod
    def annotated(self, photos: Photos) -> NDArray[np.bool_]:
        """Which photos (photos,) carry something that it learns from."""

    def missing(self, photos: Photos) -> str:
        """What photos lack to learn from or to be read, as "boxes"; empty where there is enough."""
        return "" if self.annotated(photos).any() else self.needs

    def prepare(self, train: Photos) -> None:
        """Takes from the annotations of train what windows need besides a network."""
        del train

    def build(self) -> nn.Module:
        """The network as it stands before learning, after `prepare`; none unless it learns."""
        return nn.Identity()

    def loss(self) -> nn.Module:
        """What the network's answers and `target` are handed to; for what learns."""
        raise NotImplementedError

    def target(self, batch: Batch) -> Tensor:
        """What the network is to answer with, from the annotations of a batch; for what learns."""
        raise NotImplementedError

    def before_step(self, loss: Any, done: float) -> None:
        """May change the loss by the share of the training that is done."""
        del loss, done

    def learn(self, train: LabelledPhotos, harness: Harness, valid: LabelledPhotos | None = None) -> None:
        """Trains a new network on photos that are all annotated; by valid nothing is chosen."""
        del valid
        self.refuse_few(train)
        self.device = harness.device
        self.network, _ = train_network(
            self.build(),
            self.loss(),
            train,
            self.config,
            harness,
            lambda network, loss: None,
            self.before_step,
            target=self.target,
            artefact=self.artefact,
            valid=self.watched,
        )

    def refuse_few(self, train: Photos) -> None:
        """Raises RunFailedError for fewer annotated photos than batch normalisation has a variance of."""
        if self.config.epochs and len(train) < LEAST:
            raise RunFailedError(
                f"{self.artefact} would learn from {len(train)} photo(s) with {self.needs}, and {LEAST} are "
                f"the least: annotate more of train, or take fewer bags."
            )

    def adapt(
        self, unlabelled: Photos, train: LabelledPhotos, harness: Harness, valid: LabelledPhotos
    ) -> None:
        """Learns from bare test photos beside those of train that are annotated; by default it does not."""
        del unlabelled, train, harness, valid

    @abstractmethod
    def locate(self, photos: Photos) -> Located:
        """What it finds in photos, looking at their pixels alone."""

    def read(self, photos: Photos) -> Located:
        """What the photos' annotations say, in the form of `locate`; NaN where there are none."""
        values: Any = annotated_values(photos, self.needs)
        return Located(**{self.needs: values})

    def windows(self, located: Located, photos: Photos) -> Windows:
        """The window of each photo by what was found in it, its box; the whole photo where that is none."""
        del photos
        assert located.boxes is not None
        return windows_around(located.boxes, self.margin, self.smallest)

    def sizes(self) -> tuple[Size, ...]:
        """The sizes at which it looks at whole photos."""
        return self.config.sizes() if self.looks else ()

    def state_dict(self) -> dict[str, Tensor]:
        """What was prepared and learned, by name."""
        return self.constants | {NETWORK + key: value for key, value in self.network.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes up what `state_dict` gave; without a network, the finder can only read annotations."""
        self.constants = {key: value for key, value in state.items() if not key.startswith(NETWORK)}
        learned = {key.removeprefix(NETWORK): v for key, v in state.items() if key.startswith(NETWORK)}
        if learned:
            self.config = self.config.without_download()
            self.network = self.build()
            self.network.load_state_dict(learned)
            ready(self.network, self.device)


def whole_where(bad: NDArray[np.bool_], matrices: Tensor) -> Windows:
    """The windows by their matrices, the whole photo where they are bad."""
    whole = torch.eye(2, 3, dtype=matrices.dtype)
    return Windows(torch.where(torch.from_numpy(bad)[:, None, None], whole, matrices), bad)


def windows_around(boxes: NDArray[np.float32], margin: float, smallest: float) -> Windows:
    """The windows of boxes (photos, 4; shares of the photo), widened on each side by margin times their side.

    The whole photo where a box is NaN, or a side not longer than the share `smallest` of the photo's.
    """
    ends = torch.from_numpy(boxes).double() * 2 - 1
    sides = ends[:, 2:] - ends[:, :2]
    bad = ~(sides > 2 * smallest).all(dim=1)
    wider = ends + torch.cat([-sides, sides], dim=1) * margin
    safe = torch.where(bad[:, None], ends.new_tensor([-1.0, -1.0, 1.0, 1.0]), wider)
    return whole_where(bad.numpy(), crop_matrices(safe))


def annotated_values(photos: Photos, kind: str) -> NDArray[np.float32]:
    """The photos' boxes (photos, 4) or landmarks (photos, landmarks, 2), NaN where not annotated.

    Raises ValueError where annotations are hidden.
    """
    if photos.annotations is None:
        raise ValueError(f"{kind} of these photos are hidden")
    values: NDArray[np.float32] = getattr(photos.annotations, kind)[photos.rows]
    return values
