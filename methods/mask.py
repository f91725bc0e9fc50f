"""`mask`: the animal is cut out by its mask first, then classified."""

from __future__ import annotations

from whalebench.methods.parts.pipeline import CropName
from whalebench.methods.softmax import Softmax, SoftmaxConfig


class MaskConfig(SoftmaxConfig):
    """Fields of `mask`: those of `softmax`, on the box of the animal's mask."""

    crop: CropName = "mask"
    """What the network sees: the whole photo, the animal's box, its mask's box, or the aligned animal."""


class Mask(Softmax):
    """`softmax` on the box of the mask that a segmenter finds, the background kept, blurred or removed."""

    name = "mask"
    summary = "a segmenter finds the animal's mask, a classifier sees the mask's box only"
    source = (
        "SeuTao (TGS Salt 2018, 4th place); Roy et al. 2018; Berman et al. 2018; Humpback 2019, 1st place"
    )
    Config = MaskConfig
