"""`happywhale-26th`: the system that came 26th of 1588 in Happywhale of 2022, as one command.

The animal's box is cut out; several networks with generalised-mean pooling are trained as by `arcface`, their
embeddings put side by side, and an individual scores as its nearest photo among the nearest of the gallery.
*New* is first where that is too far away, else second.

What is done differently, and why: all networks learn from one fold, where the author chose nine by their
score on photos that most of them had learned from; so there is one of each kind here, instead of two, four
and three. One cosine over the whole training: the author's schedule was stepped every batch but counted in
epochs, and swung up and down. Photos without a box are seen whole, where they got the crop of the photo
before them. Embeddings are at length 1 before they are joined, so that none counts more by its length alone;
batch normalisation follows the linear layer. Fewer candidates are not filled up with frequent individuals:
every individual has a score. The weights of the last steps' average are kept, not those of least loss.

At scale=full the author's 32 photos of 768 px in a batch take some 80 GiB of a GPU with its largest network;
`--set batch_size=8` makes do with a quarter."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from whalebench.benchmarks.core.photos import Photos
from whalebench.methods.arcface import ArcFace, ArcFaceRecipeConfig
from whalebench.methods.parts.ensemble import Ensemble
from whalebench.methods.parts.recipe import typed
from whalebench.methods.parts.retrieval import Gallery

THREE = "tf_efficientnet_b6.ns_jft_in1k+tf_efficientnetv2_l.in21k+eca_nfnet_l2.ra3_in1k"
"""The networks of the author's last ensemble, by timm's names for their weights."""
COMMON = "crop=box grid=1 new_rule=second new_share=0.15 "


class Happywhale26thConfig(ArcFaceRecipeConfig):
    """Fields of `happywhale-26th`; backbone holds the networks' names, joined by +."""

    scales: ClassVar = {
        "full": typed(
            COMMON + f"backbone={THREE} pretrained=timm size=768 augment=heavy crop_source=1024 epochs=25 "
            "learning_rate=0.0001 dimensions=512 head.scale=30 head.margin=0.3 gallery.rule=knn_max "
            "gallery.neighbours=850 localizer.backbone=resnet34 localizer.pretrained=timm localizer.size=256 "
            "localizer.epochs=60 localizer.learning_rate=0.0005"
        ),
        "small": typed(
            COMMON
            + "backbone=narrow_resnet10+narrow_resnet10 epochs=15 augment=steady grid=2x3 head.scale=20 "
            "head.margin=0.3 head.margin_warm_up=0.4 gallery.rule=knn_max gallery.neighbours=100"
        ),
    }


class Happywhale26th(Ensemble):
    """Several ArcFace networks on the animal's box; k nearest photos by their joined embeddings."""

    name = "happywhale-26th"
    summary = "recipe: EfficientNets and NFNet with ArcFace on boxes, embeddings joined, nearest of k photos"
    source = "Cheng et al., Happywhale 2022, 26th place"
    published = "MAP@5 0.858 on the public leaderboard (Happywhale), nine networks"
    Config = Happywhale26thConfig
    config: Happywhale26thConfig

    members: list[ArcFace]

    def __init__(self, config: Happywhale26thConfig) -> None:
        super().__init__(config)
        self.members = [ArcFace(member) for member in config.members()]

    def score(self, photos: Photos) -> NDArray[np.float32]:
        """Cosines (photos, identities) of the joined embeddings by the gallery's rule."""
        embeddings, each = self.embed(photos), [member.gallery for member in self.members]
        assert embeddings is not None
        gallery = Gallery(self.config.gallery)
        joined = np.concatenate([one.embeddings for one in each], axis=1)
        gallery.fill(joined, each[0].labels, each[0].identities, each[0].viewpoints)
        return gallery.scores(embeddings, photos.viewpoints)
