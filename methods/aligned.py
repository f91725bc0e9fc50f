"""`aligned`: landmarks are found first, and the animal is classified with each of them in its place."""

from __future__ import annotations

from whalebench.methods.parts.pipeline import CropName
from whalebench.methods.softmax import Softmax, SoftmaxConfig


class AlignedConfig(SoftmaxConfig):
    """Fields of `aligned`: those of `softmax`, on the aligned animal."""

    crop: CropName = "aligned"
    """What the network sees: the whole photo, the animal's box, its mask's box, or the aligned animal."""


class Aligned(Softmax):
    """`softmax` on windows in which the landmarks lie where they belong."""

    name = "aligned"
    summary = "an aligner finds the landmarks, a classifier sees the aligned animal only"
    source = "Lau 2016 (Right Whale, 2nd place); Humpback 2019, 3rd place, for four landmarks"
    Config = AlignedConfig
