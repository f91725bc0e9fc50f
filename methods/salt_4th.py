"""`salt-4th`: what carries over of the system that came fourth in TGS Salt of 2018, as one command.

A U-Net finds the animal's mask and cuts it out, the background removed; a classifier of what is left is
trained in cycles, the learning rate starting anew in each; of each cycle the best epoch of its tail is kept,
and the cycles vote. Then all of it is taught twice more, each time with half of the test photos that it was
sure of, and each model answers for the other half (`pseudo`).

What is done differently, and why: the salt was the answer there, and here it is what is looked at, so the
segmenter finds it and the cycles are the classifier's. Majorities of pixels have become votes of 1 / rank for
individuals. One cosine a cycle from the peak to zero, by AdamW, the first one after a short rise, instead of
SGD from .01 to .001 after ten epochs by another loss. Each epoch of the tail is tried on valid, not every
fifth. The models of ten folds voted on the same photos there; here a fold has test photos of its own. Nothing
is mirrored, because the sides of an animal differ. The rules for neighbouring tiles of the mosaic have no
counterpart, and the published voting let every model judge every photo, where each was meant to judge the
half that it had not learned from."""

from __future__ import annotations

from typing import Any, ClassVar

from whalebench.methods.parts.recipe import RecipeConfig
from whalebench.methods.pseudo import Pseudo, PseudoConfig

FULL = (
    "backbone=resnet34,pretrained=timm,size=224,batch_size=16,epochs=360,learning_rate=0.0005,head_rate=5,"
    "schedule.cycles=7,schedule.joined=votes,segmenter.background=removed,segmenter.backbone=resnet34,"
    "segmenter.pretrained=timm,segmenter.size=128,segmenter.epochs=60,segmenter.batch_size=16,"
    "segmenter.learning_rate=0.0005"
)
SMALL = "schedule.cycles=3,schedule.joined=votes,segmenter.background=removed"


class Salt4thConfig(RecipeConfig, PseudoConfig):
    """Fields of `salt-4th`: those of `pseudo`, round `mask`; of_settings replaces all of the scale's."""

    scales: ClassVar[dict[Any, Any]] = {
        "full": {"of": "mask", "of_settings": FULL},
        "small": {"of": "mask", "of_settings": SMALL},
    }


class Salt4th(Pseudo):
    """A classifier of the animal cut out by its mask, in cycles that vote, taught again in two halves."""

    name = "salt-4th"
    summary = (
        "recipe: animal cut out by its mask, cycles that vote, pseudo-labels in two halves (transductive)"
    )
    source = "SeuTao, TGS Salt Identification Challenge 2018, 4th place"
    published = (
        "mean precision of masks 0.887 public, 0.895 private (TGS Salt), which says nothing of individuals"
    )
    Config = Salt4thConfig
    config: Salt4thConfig
