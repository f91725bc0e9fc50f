"""What finds the animal in a photo before it is identified: localizer, aligner and segmenter alike."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from whalebench.benchmarks.photos import CPU, Photos, Size
from whalebench.methods.method import Harness, Located
from whalebench.methods.parts.crops.lens import Background
from whalebench.methods.parts.training.config import TrainingConfig
from whalebench.methods.parts.training.inference import ready
from whalebench.methods.parts.transforms.geometry import box_windows

NETWORK = "network."
"""What the names of the network's weights begin with."""


@dataclass(frozen=True)
class Windows:
    """Where photos are looked at."""

    maps: Tensor
    """(photos, 2, 3), float64, from the whole photo to the window, both in frame units."""
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
    looks: ClassVar[bool] = True
    """Whether it looks at photos to say where the animal is, so that it can be held against annotations."""

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config
        self.network: nn.Module = nn.Identity()
        self.device = CPU
        self.constants: dict[str, Tensor] = {}
        """What `prepare` took from train, kept with the weights."""

    @abstractmethod
    def annotated(self, photos: Photos) -> NDArray[np.bool_]:
        """Which photos (photos,) carry something that it learns from."""

    def lacking(self, photos: Photos) -> str:
        """What photos lack to learn from or to be read, as "boxes"; empty where there is enough."""
        return "" if self.annotated(photos).any() else self.needs

    def prepare(self, train: Photos) -> None:
        """Takes from the annotations of train what windows need besides a network."""
        del train

    @abstractmethod
    def build(self) -> nn.Module:
        """The network as it stands before learning, after `prepare`."""

    @abstractmethod
    def learn(self, train: Photos, valid: Photos, harness: Harness) -> None:
        """Learns from train photos that are all annotated; valid ones may lack annotations."""

    @abstractmethod
    def locate(self, photos: Photos) -> Located:
        """What it finds in photos, looking at their pixels alone."""

    @abstractmethod
    def read(self, photos: Photos) -> Located:
        """The same from the photos' annotations; NaN where there are none."""

    @abstractmethod
    def windows(self, located: Located, photos: Photos) -> Windows:
        """The window of each photo by what was found in it; the whole photo where that is NaN."""

    @abstractmethod
    def sizes(self) -> tuple[Size, ...]:
        """The sizes at which it looks at whole photos."""

    def weights(self) -> dict[str, Tensor]:
        """What was prepared and learned, by name."""
        return self.constants | {NETWORK + key: value for key, value in self.network.state_dict().items()}

    def restore(self, weights: Mapping[str, Tensor], device: torch.device) -> None:
        """Takes up what `weights` gave; without a network's, the finder can only read annotations."""
        self.device = device
        self.constants = {key: value for key, value in weights.items() if not key.startswith(NETWORK)}
        state = {key.removeprefix(NETWORK): v for key, v in weights.items() if key.startswith(NETWORK)}
        if state:
            self.config = self.config.without_download()
            self.network = self.build()
            self.network.load_state_dict(state)
            ready(self.network, device)


def whole_where(bad: NDArray[np.bool_], maps: Tensor) -> Windows:
    """The windows by maps, the whole photo where they are bad."""
    eye = torch.eye(2, 3, dtype=maps.dtype)
    return Windows(torch.where(torch.from_numpy(bad)[:, None, None], eye, maps), bad)


def windows_round(boxes: NDArray[np.float32], margin: float, smallest: float) -> Windows:
    """The windows of boxes (photos, 4; shares of the photo), widened on each side by margin times their side.

    The whole photo where a box is NaN, or a side not longer than the share `smallest` of the photo's.
    """
    ends = torch.from_numpy(boxes).double() * 2 - 1
    sides = ends[:, 2:] - ends[:, :2]
    bad = ~(sides > 2 * smallest).all(dim=1)
    wider = ends + torch.cat([-sides, sides], dim=1) * margin
    safe = torch.where(bad[:, None], ends.new_tensor([-1.0, -1.0, 1.0, 1.0]), wider)
    return whole_where(bad.numpy(), box_windows(safe))


def annotated_values(photos: Photos, kind: Literal["boxes", "landmarks"]) -> NDArray[np.float32]:
    """Boxes (photos, 4) or landmarks (photos, landmarks, 2) of these photos, NaN where not annotated.

    Raises ValueError where annotations are hidden.
    """
    if photos.annotations is None:
        raise ValueError(f"{kind} of these photos are hidden")
    values: NDArray[np.float32] = getattr(photos.annotations, kind)[photos.rows]
    return values
