"""The fields of every training of a network on photos, and of the schedule that cuts it into cycles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from whalebench.methods.method import PartConfig, Search
from whalebench.methods.parts.augment import STRENGTHS, Augmentation, Strength
from whalebench.methods.parts.networks.own import NARROW_RESNET
from whalebench.methods.parts.training.averaging import Average

BestBy = Literal["map_at_5", "log_loss"]
Precision = Literal["auto", "fp32", "bf16"]
Optimizer = Literal["adamw", "sgd"]


def _read_size(value: object) -> object:
    """Height and width from 80x128 or 96, as it is typed; other types are left to be refused."""
    if not isinstance(value, str | int):
        return value
    parts = str(value).lower().split("x")
    if len(parts) > 2 or not all(part.isascii() and part.isdecimal() for part in parts):
        raise ValueError("write height x width as 80x128, or one number for a square")
    return (int(parts[0]), int(parts[-1]))


PhotoSize = Annotated[
    tuple[Annotated[int, Field(ge=16, le=4096)], Annotated[int, Field(ge=16, le=4096)]],
    BeforeValidator(_read_size),
]
"""Height and width in pixels; typed as 80x128, or 96 for a square."""

GridSize = Annotated[
    tuple[Annotated[int, Field(ge=1, le=64)], Annotated[int, Field(ge=1, le=64)]], BeforeValidator(_read_size)
]
"""Rows and columns; typed as 2x3, or 2 for a square."""

SHORTEST_RISE, LONGEST_RISE = 0.1, 0.4
"""The least and the largest share of the steps in which the learning rate rises, unless one is given."""
RISING_STEPS = 256
"""In how many steps it rises where that lies between the two.

With a full rate and few gradients seen, AdamW takes steps that some first weights survive and others do not:
Ma and Yarats (2021) ask for 2 / (1 - beta2) steps, which is more than a small training has.
"""


class TrainingConfig(PartConfig):
    """Fields of every method that trains a network on photos."""

    backbone: str = NARROW_RESNET
    """Any timm network by name; narrow_resnet10, small and quick to train from scratch on a processor; or one
    of the Right Whale system's: lau_vgg19, lau_vgg19_thin, lau_vgg19_wide, lau_resnet19, 31, 37, 49 or 67."""
    pretrained: str = "none"
    """Weights to start from: none, timm (downloaded), efficientnet-lite0, or a safetensors file."""
    size: PhotoSize = (80, 128)
    """Height x width in pixels, as 80x128 or 96; photos are resized to it whatever their aspect."""
    epochs: Annotated[int, Field(ge=0)] = 30
    """Passes over the training photos; 0 leaves the network as it starts."""
    small_size: PhotoSize = (64, 96)
    """Size in the first small_epochs: progressive resizing."""
    small_epochs: Annotated[int, Field(ge=0)] = 0
    """How many of the epochs are at small_size; 0 for `size` throughout."""
    batch_size: Annotated[int, Field(ge=2)] = 32
    """Photos in one step."""
    learning_rate: Annotated[float, Field(gt=0), Search(1e-4, 1e-2, log=True)] = 4e-3
    """Of the optimizer at its peak, after warm-up."""
    head_rate: Annotated[float, Field(gt=0), Search(0.5, 20.0, log=True)] = 1.0
    """Factor on the learning rate of everything that is not the backbone."""
    weight_decay: Annotated[float, Field(ge=0), Search(1e-4, 0.3, log=True)] = 0.05
    """Of the optimizer, on weight matrices only."""
    optimizer: Optimizer = "adamw"
    """adamw, or sgd with momentum 0.9, which wants other rates: learning_rate=0.01,weight_decay=2e-4."""
    warm_up: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Share of the steps, of a first cosine where there are several, in which the learning rate rises; unless
    given, that of 256 steps, but at least 0.1 and at most 0.4."""
    floor: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the learning rate at which its cosine ends."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Decay of the running average of the weights that is used afterwards; 0 uses the last weights."""
    average: Average = "ema"
    """Of the weights: ema, or checkpoints, the equal average of the last epochs' with batch normalisation
    estimated anew; then ema is not used."""
    checkpoints: Annotated[int, Field(ge=1)] = 10
    """How many of the last epochs average=checkpoints takes."""
    augment: Strength = "auto"
    """How much each photo is changed at every step: steady is heavy, but hardly moved; turned is heavy in any
    direction; shuffled is heavy, with quarters that change places; auto: steady behind a crop, which has just
    put the animal in its place, else heavy."""
    watch_train: bool = False
    """Whether the curve has the loss in evaluation mode after each epoch, of photos of train and of valid."""
    precision: Precision = "auto"
    """Of the network: bf16 on GPUs and fp32 elsewhere, or as said."""

    @model_validator(mode="after")
    def _no_more_than_all_epochs(self) -> Self:
        if self.small_epochs > self.epochs:
            raise ValueError(f"small_epochs={self.small_epochs} is more than epochs={self.epochs}; lower it")
        if self.average == "checkpoints" and self.checkpoints > self.epochs:
            raise ValueError(
                f"average=checkpoints cannot take checkpoints={self.checkpoints} of epochs={self.epochs}; "
                f"lower checkpoints"
            )
        return self

    def without_download(self) -> Self:
        """The configuration without weights to start from, for a network whose learned ones are at hand."""
        return self.model_copy(update={"pretrained": "none"})

    def augmentation(self) -> Augmentation:
        """How much each photo is changed at every step."""
        return STRENGTHS["heavy" if self.augment == "auto" else self.augment]

    def rising(self, steps: int) -> float:
        """The share of so many steps in which the learning rate rises."""
        if self.warm_up is not None:
            return self.warm_up
        return min(LONGEST_RISE, max(SHORTEST_RISE, RISING_STEPS / max(1, steps)))

    def first_kept(self) -> int | None:
        """The first epoch, from 1, of those of which the best on valid is kept; None keeps the last one."""
        return None

    def restart_epochs(self) -> int:
        """Epochs after which the cosine of the learning rate begins anew; 0 for a single one."""
        return 0

    def best_by(self) -> BestBy:
        """By what on valid the best epoch is the best, where one is kept."""
        return "map_at_5"

    def size_at(self, epoch: int) -> tuple[int, int]:
        """Height and width of the photos in an epoch counted from 0."""
        return self.small_size if epoch < self.small_epochs else self.size

    def in_share(self, shares: Sequence[int], number: int) -> Self:
        """The configuration of one of the parts that share the epochs out, counted from 0."""
        small = max(0, min(self.small_epochs - sum(shares[:number]), shares[number]))
        return self.model_copy(update={"epochs": shares[number], "small_epochs": small})

    def rate_of(self, parameter: str) -> float:
        """Factor on the learning rate of the parameter of that name."""
        return 1.0 if "backbone" in parameter else self.head_rate

    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Every size the photos are needed at, that of the scores first."""
        return (self.size, self.small_size) if self.small_epochs else (self.size,)


Joined = Literal["scores", "embeddings", "votes"]

TAIL = 0.6
"""The tail where none is given; in the 4th place of TGS Salt 2018 it began at epoch 20 of 50."""


class ScheduleConfig(PartConfig):
    """Into how many cycles a training is cut, whose networks answer together: snapshot ensembles."""

    cycles: Annotated[int, Field(ge=1)] = 1
    """Cosines with restarts that share the epochs out (Loshchilov & Hutter 2017; Huang et al. 2017); each
    goes on where the one before ended and leaves a network, and all of them answer together."""
    tail: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of a cycle, its last, in which the best epoch on valid is kept; unless given, 0.6 of each of
    several cycles, and of a single one its last epoch."""
    best_by: BestBy = "map_at_5"
    """By what the best epoch is the best: the highest MAP@5, or the lowest log loss of known photos at the
    temperature where it is lowest (26th place of Happywhale, by the loss itself)."""
    joined: Joined = "scores"
    """What of the cycles is put together: the mean of their scores; that of their embeddings, compared by the
    gallery; or votes, 1 / rank among each one's first 20, equal votes by the mean score."""

    @model_validator(mode="after")
    def _several_to_join(self) -> Self:
        if self.cycles == 1 and self.joined != "scores":
            raise ValueError(f"joined={self.joined} joins several cycles and there is one; set cycles=7")
        if self.cycles == 1 and self.tail is None and self.best_by != "map_at_5":
            raise ValueError(
                f"best_by={self.best_by} chooses among epochs, and the last one is kept; set tail=1"
            )
        return self

    def shares(self, epochs: int) -> list[int]:
        """The epochs of each cycle: all of them together, and none more than one longer than another."""
        each, rest = divmod(epochs, self.cycles)
        return [each + (place < rest) for place in range(self.cycles)]

    def first_kept(self, epochs: int) -> int | None:
        """The first epoch, from 1, of so many, of which the best is kept; None where the last one is."""
        if self.tail is None:
            return None
        # Rounded, because 0.14 times 50 is a little more than 7.
        return epochs + 1 - math.ceil(round(self.tail * epochs, 6))

    def of_one_cycle(self) -> ScheduleConfig:
        """The schedule of each of several cycles, taken by itself."""
        return ScheduleConfig(tail=TAIL if self.tail is None else self.tail, best_by=self.best_by)
