"""The same window of every photo, for photos in which all animals lie in one place already."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field
from torch import nn

from whalebench.benchmarks.photos import Photos, Size
from whalebench.methods.method import Harness, Located
from whalebench.methods.parts.crops.finder import Finder, Windows, windows_round
from whalebench.methods.parts.training.config import TrainingConfig


def _read_window(value: object) -> object:
    """Four shares from 0.2,0.3,0.9,0.7, as they are typed; other types are left to be refused."""
    if not isinstance(value, str):
        return value
    try:
        sides = tuple(float(part) for part in value.split(","))
    except ValueError as error:
        raise ValueError("write four shares of the photo, x0,y0,x1,y1, as 0.2,0.3,0.9,0.7") from error
    if len(sides) != 4 or not (sides[0] < sides[2] and sides[1] < sides[3]):
        raise ValueError("write x0,y0,x1,y1 with x0 below x1 and y0 below y1, as 0.2,0.3,0.9,0.7")
    return sides


Share = Annotated[float, Field(ge=0, le=1)]
WindowSides = Annotated[tuple[Share, Share, Share, Share], BeforeValidator(_read_window)]
"""x0, y0, x1, y1 as shares of a photo's width and height; typed as 0.2,0.3,0.9,0.7."""


class FixedWindow(Finder):
    """Looks for nothing and learns nothing: the window is known beforehand."""

    artefact, needs = "window", ""
    looks = False

    def __init__(self, sides: tuple[float, float, float, float]) -> None:
        super().__init__(TrainingConfig())
        self.sides = sides

    def annotated(self, photos: Photos) -> NDArray[np.bool_]:
        """Every photo: nothing has to be annotated."""
        return np.ones(len(photos), np.bool_)

    def build(self) -> nn.Module:
        """Nothing that could learn."""
        return nn.Identity()

    def learn(self, train: Photos, valid: Photos, harness: Harness) -> None:
        """Nothing is learned."""
        del train, valid
        self.device = harness.device

    def locate(self, photos: Photos) -> Located:
        """The window as the box of each photo."""
        return Located(boxes=np.tile(np.array(self.sides, np.float32), (len(photos), 1)))

    def read(self, photos: Photos) -> Located:
        """The same: annotations say nothing else."""
        return self.locate(photos)

    def windows(self, located: Located, photos: Photos) -> Windows:
        """That window of each photo."""
        del photos
        assert located.boxes is not None
        return windows_round(located.boxes, margin=0.0, smallest=0.0)

    def sizes(self) -> tuple[Size, ...]:
        """None: it does not look."""
        return ()
