"""`right-whale-2nd`: the system that came second in the Right Whale competition of 2015, as one command.

An aligner finds bonnet and blowhead and averages what it finds in many views of the photo; thin networks
see a window of 2d x d, turned so that the bonnet lies to the right; their probabilities are averaged, which
is the author's simpler way of blending (his last step was a logistic regression on their pooled features).

What is done differently, and why: one fold for every stage, where the author had a random split for each
and wrote that it misled him; windows that do not fit are counted; the aligner leaves out the views that were
seen twice (0 and 360 degrees); AdamW with one cosine and averaged weights instead of early stopping; the
aligner's cells vote for the points instead of one dense layer over all of them.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from whalebench.benchmarks.photos import Photos
from whalebench.methods.aligned import AlignedConfig
from whalebench.methods.parts.ensemble import Ensemble
from whalebench.methods.parts.recipe import RecipeConfig
from whalebench.methods.softmax import Softmax, SoftmaxConfig

SIX = "lau_vgg19+lau_vgg19_thin+lau_vgg19_wide+lau_resnet31+lau_resnet37+lau_resnet67"
"""The networks of the author's last ensemble."""


class RightWhale2ndConfig(RecipeConfig, AlignedConfig):
    """Fields of `right-whale-2nd`: those of `aligned`, with several networks at two scales."""

    scales: ClassVar = {
        "full": {
            "size": "256",
            "epochs": "300",
            "learning_rate": "0.001",
            "dropout": "0.8",
            "grid": "1",
            "augment": "heavy",
            "aligner": {
                "size": "256",
                "epochs": "150",
                "augment": "turned",
                "learning_rate": "0.001",
                "turns": "8",
                "zooms": "3",
                "shears": "3",
                "shifts": "3",
            },
        },
        "small": {
            "backbone": "lau_vgg19_thin+lau_resnet19",
            "size": "64",
            "epochs": "30",
            "learning_rate": "0.003",
            "dropout": "0.2",
            "grid": "1",
        },
    }

    backbone: str = SIX
    """Networks whose probabilities are averaged, joined by +; each as for `softmax`."""

    def members(self) -> list[SoftmaxConfig]:
        """The configuration of each network."""
        own = {name: getattr(self, name) for name in SoftmaxConfig.model_fields}
        # The crop is cut once for all of them.
        own |= {"crop": "none", "oracle": False}
        return [SoftmaxConfig.model_validate(own | {"backbone": name}) for name in self.backbone.split("+")]


class RightWhale2nd(Ensemble):
    """Several classifiers of the aligned animal, their probabilities averaged."""

    name = "right-whale-2nd"
    summary = "recipe: aligned by two points, six thin networks, averaged"
    source = "Lau 2016, Right Whale Recognition, 2nd place"
    published = "validation log loss 0.976, top-1 0.819 with a logistic regression on all features"
    Config = RightWhale2ndConfig
    config: RightWhale2ndConfig

    def __init__(self, config: RightWhale2ndConfig) -> None:
        super().__init__(config)
        self.members = [Softmax(member) for member in config.members()]

    def score(self, photos: Photos) -> NDArray[np.float32]:
        """Logarithms (photos, identities) of the mean probability."""
        each = np.stack([member.score(photos) for member in self.members]).astype(np.float64)
        mean: NDArray[np.float32] = (logsumexp(each, axis=0) - np.log(len(each))).astype(np.float32)
        return mean
