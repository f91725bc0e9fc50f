"""`bbox`: the animal's box is found first, then classified."""

from __future__ import annotations

from whalebench.methods.parts.pipeline import CropName
from whalebench.methods.softmax import Softmax, SoftmaxConfig


class BboxConfig(SoftmaxConfig):
    """Fields of `bbox`: those of `softmax`, on the box of the animal."""

    crop: CropName = "box"
    """What the network sees: the whole photo, the animal's box, its mask's box, or the aligned animal."""


class Bbox(Softmax):
    """`softmax` on the box that a localizer finds."""

    name = "bbox"
    summary = "a localizer finds the animal's box, a classifier sees the box only"
    source = "Lau 2016 (Right Whale, 2nd place); Rezatofighi et al. 2019 for the generalised IoU"
    Config = BboxConfig
