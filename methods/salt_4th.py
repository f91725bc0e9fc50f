"""`salt-4th`: what carries over of the system that came fourth in TGS Salt of 2018, as one command.

A U-Net finds the animal's mask and cuts it out, the background removed; a classifier of what is left is
trained in cycles, the learning rate starting anew in each; of each cycle the best epoch of its tail is kept,
and the cycles vote.

What is done differently, and why: the salt was the answer there, and here it is what is looked at, so one
segmenter finds it and the cycles are the classifier's. Majorities of pixels have become votes of 1 / rank for
individuals. One cosine a cycle from the peak to zero, by AdamW, the first one after a short rise, instead of
SGD from .01 to .001 after ten epochs by another loss. Each epoch of the tail is tried on valid, not every
fifth. The models of ten folds voted on the same photos there; here a fold has test photos of its own. Nothing
is mirrored, because the sides of an animal differ. The rules for neighbouring tiles of the mosaic have no
counterpart.

Its last step, distillation in two halves, is transductive, and a method round this one.
"""

from __future__ import annotations

from typing import Any, ClassVar

from whalebench.methods.mask import MaskConfig
from whalebench.methods.parts.recipe import RecipeConfig
from whalebench.methods.softmax import Softmax

CUT_OUT = {"background": "removed"}


class Salt4thConfig(RecipeConfig, MaskConfig):
    """Fields of `salt-4th`: those of `mask`, at two scales."""

    scales: ClassVar[dict[Any, Any]] = {
        "full": {
            "backbone": "resnet34",
            "pretrained": "timm",
            "size": "224",
            "batch_size": "16",
            "epochs": "360",
            "learning_rate": "0.0005",
            "head_rate": "5",
            "schedule": {"cycles": "7", "joined": "votes"},
            "segmenter": CUT_OUT
            | {
                "backbone": "resnet34",
                "pretrained": "timm",
                "size": "128",
                "epochs": "60",
                "batch_size": "16",
                "learning_rate": "0.0005",
            },
        },
        "small": {"schedule": {"cycles": "3", "joined": "votes"}, "segmenter": CUT_OUT},
    }


class Salt4th(Softmax):
    """A classifier of the animal cut out by its mask, in cycles that vote."""

    name = "salt-4th"
    summary = "recipe: the animal cut out by its mask, a classifier in seven cycles, best of each tail, votes"
    source = "SeuTao, TGS Salt Identification Challenge 2018, 4th place"
    published = (
        "mean precision of masks 0.887 public, 0.895 private (TGS Salt), which says nothing of individuals"
    )
    Config = Salt4thConfig
    config: Salt4thConfig
