"""`salt-4th`: what carries over of the system that came fourth in TGS Salt of 2018, as one command.

A U-Net finds the animal's mask and cuts it out, the background removed: one of every inner fold and cycle,
and all of them vote on every pixel. The masks that they find on bare test photos teach three others of every
inner fold and cycle, twice, each time with half of these photos, and what so learned from a half answers for
the other (`segmenter.students`). A classifier of what is left is trained in cycles, the learning rate
starting anew in each; of each cycle the best epoch of its tail is kept, and the cycles vote. Then all of it
is taught twice more, each time with half of the test photos that it was sure of, and each model names those
of the other half (`pseudo`).

What is done differently, and why: the salt was the answer there, and here it is what is looked at, so
majorities of pixels find the animal and votes of 1 / rank name it, and who the animal is is distilled, too.
The segmenter's schedule is the published one, SGD from .01 to .001 seven times, but for its first ten epochs,
whose other loss falls into the first cycle, and for its snapshots, which are the ends of the cycles and not
the best of their tails; the second loss, of photos that are empty, has nothing to learn from here, and a
photo on which no animal is found teaches nobody. One network teaches where six did, of which
`segmenter.backbone` takes the names. The classifier goes by AdamW from its peak to zero, and each epoch of
its tail is tried on valid, not every fifth. It sees nothing mirrored, because the sides of an animal differ.
Of the handcraft rules those for neighbouring tiles of the mosaic have no counterpart; `segmenter.tidy` keeps
a mask's largest part and fills its holes. There is one classifier of every cycle; `bags=10` at the end of
of_settings makes it one of every inner fold and cycle. As each inner fold then has segmenters of its own,
that takes ten times as long, so it is left to ask for. The published voting let every model judge every
photo, where each was meant to judge the half that it had not learned from. At scale=small one network finds
the masks and teaches no other."""

from __future__ import annotations

from typing import Any, ClassVar

from whalebench.methods.method import Rung
from whalebench.methods.parts.recipe import RecipeConfig
from whalebench.methods.pseudo import Pseudo, PseudoConfig

ENCODERS = "resnet34+seresnext50_32x4d+resnext101_32x4d+legacy_seresnet101+legacy_seresnet152+senet154"
"""Those of the six networks as timm has them; of ResNeXt-101 it has none with IBN-a, so this one is plain."""
DISTILLED = "resnet34+seresnext50_32x4d+resnext101_32x4d"
"""The three that were taught anew."""
MASKS = (
    "segmenter.background=removed,segmenter.backbone=resnet34,segmenter.pretrained=timm,segmenter.size=128,"
    "segmenter.batch_size=16,segmenter.epochs=360,segmenter.cycles=7,segmenter.bags=10,"
    "segmenter.lovasz_from=0.0278,segmenter.optimizer=sgd,segmenter.learning_rate=0.01,"
    "segmenter.weight_decay=0.0002,segmenter.floor=0.1,segmenter.warm_up=0,segmenter.ema=0,"
    f"segmenter.mirrored=true,segmenter.students={DISTILLED}"
)
FULL = (
    "backbone=resnet34,pretrained=timm,size=224,batch_size=16,epochs=360,learning_rate=0.0005,head_rate=5,"
    f"schedule.cycles=7,schedule.joined=votes,{MASKS}"
)
SMALL = "schedule.cycles=3,schedule.joined=votes,segmenter.background=removed"

PRECISION = "mean precision {} public, {} private"


class Salt4thConfig(RecipeConfig, PseudoConfig):
    """Fields of `salt-4th`: those of `pseudo`, round `mask`; of_settings replaces all of the scale's."""

    scales: ClassVar[dict[Any, Any]] = {
        "full": {"of": "mask", "of_settings": FULL},
        "small": {"of": "mask", "of_settings": SMALL},
    }


class Salt4th(Pseudo):
    """A classifier of the animal cut out by its mask, in cycles that vote; both are taught in halves."""

    name = "salt-4th"
    summary = (
        "recipe: animal cut out by its mask, cycles that vote, pseudo-labels in two halves (transductive)"
    )
    source = "SeuTao, TGS Salt Identification Challenge 2018, 4th place"
    published = (
        "mean precision of masks 0.887 public, 0.895 private (TGS Salt), which says nothing of individuals"
    )
    ladder = (
        Rung("one network", "", "mask --set segmenter.backbone=resnet34 --set segmenter.pretrained=timm"),
        Rung("seven cycles of it vote", "", "… --set segmenter.cycles=7"),
        Rung(
            "of ten folds each", PRECISION.format("0.868-0.873", "0.888-0.891"), "… --set segmenter.bags=10"
        ),
        Rung("of six networks", PRECISION.format("0.874", "0.892"), f"… --set segmenter.backbone={ENCODERS}"),
        Rung(
            "handcraft rules of the mosaic",
            PRECISION.format("0.884", "0.893"),
            "… --set segmenter.tidy=true, one part without holes: there are no tiles here",
        ),
        Rung(
            "distillation in two halves, one network",
            PRECISION.format("0.877-0.880", "0.893-0.895"),
            "… --set segmenter.students=resnet34",
        ),
        Rung(
            "with three networks, and rules",
            PRECISION.format("0.887", "0.895"),
            f"… --set segmenter.students={DISTILLED}",
        ),
        Rung(
            "steps like these on two cores",
            "",
            "whalebench sweep --plan salt-small; whalebench compare --plan salt-small --by mask_precision",
        ),
    )
    Config = Salt4thConfig
    config: Salt4thConfig
