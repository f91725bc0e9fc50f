"""`happywhale-26th`: the system that came 26th of 1588 in Happywhale of 2022, as one command.

The animal's box is cut out; several networks with generalised-mean pooling are trained as by `arcface`, of
each as many as there are inner folds (`bags`), and the `best` of all by their own inner folds answer: their
embeddings are put side by side, and an individual scores as its nearest photo among the nearest of the
gallery. *New* is first where that is too far away, else second.

What is done differently, and why: the author chose nine of fifteen by their score on photos that most of them
had learned from; here a network is judged by the inner fold that it did not learn from, and the nine may be
others than two, three and four of a kind. One cosine over the whole training: the author's schedule was
stepped every batch but counted in epochs, and swung up and down. Photos without a box are seen whole, where
they got the crop of the photo before them. Embeddings are at length 1 before they are joined, so that none
counts more by its length alone; batch normalisation follows the linear layer. Fewer candidates are not filled
up with frequent individuals: every individual has a score. The epoch of the least log loss on valid is kept,
of scores without the margin at the best temperature, where the author's loss had the margin; it is of the
running average of the weights. The back fins were a data set of their own there; here a run with `crop=part`
looks at them, where the import found both boxes, and `whalebench ensemble BODY FIN --rule knn` puts both
looks side by side.

At scale=full the author's 32 photos of 768 px in a batch take some 80 GiB of a GPU with its largest network;
`--set batch_size=8` makes do with a quarter. `whalebench sweep --plan happywhale-ladder` runs the author's
steps, from one EfficientNet-B0 on. At scale=small there are two networks, and no bags unless they are set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from whalebench.benchmarks.core.photos import UNKNOWN, LabelledPhotos, Photos
from whalebench.methods.arcface import ArcFace, ArcFaceRecipeConfig
from whalebench.methods.method import Components, Harness, Rung, attribute
from whalebench.methods.parts.bagging import Bagged
from whalebench.methods.parts.ensemble import Ensemble
from whalebench.methods.parts.fusion import JOINT_GALLERY, side_by_side
from whalebench.methods.parts.pipeline import Pipeline
from whalebench.methods.parts.recipe import typed
from whalebench.methods.parts.retrieval import Gallery, GalleryConfig

THREE = "tf_efficientnet_b6.ns_jft_in1k+tf_efficientnetv2_l.in21k+eca_nfnet_l2.ra3_in1k"
"""The networks of the author's last ensemble, by timm's names for their weights."""
COMMON = "crop=box grid=1 new_rule=second new_share=0.15 "
MAP_AT_5 = "MAP@5 {} public (Happywhale)"
B0 = "backbone=tf_efficientnet_b0.ns_jft_in1k size=512 augment=heavy bags=1"


class Happywhale26thConfig(ArcFaceRecipeConfig):
    """Fields of `happywhale-26th`; backbone holds the networks' names, joined by +."""

    scales: ClassVar = {
        "full": typed(
            COMMON + f"backbone={THREE} pretrained=timm size=768 augment=shuffled crop_source=1024 epochs=25 "
            "bags=5 best=9 schedule.tail=1 schedule.best_by=log_loss learning_rate=0.0001 dimensions=512 "
            "head.scale=30 head.margin=0.3 gallery.rule=knn_max gallery.neighbours=850 "
            "localizer.backbone=resnet34 localizer.pretrained=timm localizer.size=256 "
            "localizer.epochs=60 localizer.learning_rate=0.0005"
        ),
        "small": typed(
            COMMON
            + "backbone=narrow_resnet10+narrow_resnet10 epochs=15 augment=steady grid=2x3 head.scale=20 "
            "head.margin=0.3 head.margin_warm_up=0.4 gallery.rule=knn_max gallery.neighbours=100"
        ),
    }

    bags_joined: Literal["embeddings", "scores", "votes"] = "embeddings"  # type: ignore[assignment]
    """How bags answer together: by their embeddings side by side, compared with one gallery, by their mean
    scores, or by votes of 1 / rank."""
    best: Annotated[int, Field(ge=1)] | None = None
    """How many networks are kept at most, those of all bags together: the best by MAP@5 on valid, or with
    bags on their own inner folds; all unless given."""

    @model_validator(mode="after")
    def _bags_of_cycles(self) -> Self:
        cycles, networks = self.schedule.cycles, len(self.backbone.split("+"))
        every = self.bags * cycles * networks
        if min(self.bags, cycles) == 1:
            return self
        if self.best is not None and self.best < every:
            raise ValueError(
                f"best={self.best} of the {every} networks of bags={self.bags} and schedule.cycles={cycles} "
                f"may leave a cycle without any; set schedule.cycles=1, or best={every}"
            )
        if self.schedule.joined == self.bags_joined == "embeddings":
            raise ValueError(
                f"schedule.joined=embeddings has the mean of each bag's cycles={cycles}, and "
                f"bags_joined=embeddings compares every network; set schedule.joined=scores"
            )
        return self


class Happywhale26th(Ensemble):
    """Several ArcFace networks on the animal's box; k nearest photos by their joined embeddings."""

    name = "happywhale-26th"
    summary = "recipe: EfficientNets and NFNet with ArcFace on boxes, embeddings joined, nearest of k photos"
    source = "Cheng et al., Happywhale 2022, 26th place"
    published = "MAP@5 0.858 on the public leaderboard (Happywhale), nine networks"
    ladder = (
        Rung(
            "EfficientNet-B0, 512 px, ArcFace, nearest photos",
            MAP_AT_5.format("0.729"),
            f"{B0} new_rule=column",
        ),
        Rung("*new* first or second", MAP_AT_5.format("0.742"), B0),
        Rung(
            "768 px, augmentation", MAP_AT_5.format("0.770"), "backbone=tf_efficientnet_b0.ns_jft_in1k bags=1"
        ),
        Rung("EfficientNet-B6", MAP_AT_5.format("0.832"), "backbone=tf_efficientnet_b6.ns_jft_in1k bags=1"),
        Rung("EfficientNetV2-L", MAP_AT_5.format("0.843"), "backbone=tf_efficientnetv2_l.in21k bags=1"),
        Rung("NFNet-L2", MAP_AT_5.format("0.854"), "backbone=eca_nfnet_l2.ra3_in1k bags=1"),
        Rung("five folds of the three, the best nine", MAP_AT_5.format("0.858"), "bags=5 best=9"),
        Rung("all of these as one sweep", "", "whalebench sweep --plan happywhale-ladder"),
        Rung(
            "steps like these on two cores",
            "",
            "whalebench sweep --plan happywhale-small; whalebench compare --plan happywhale-small",
        ),
        Rung("back fins as a second data set", "", "crop=part; whalebench ensemble BODY FIN --rule knn"),
    )
    Config = Happywhale26thConfig
    config: Happywhale26thConfig

    members: list[ArcFace]

    def __init__(self, config: Happywhale26thConfig) -> None:
        super().__init__(config)
        self.members = [ArcFace(member) for member in config.members()]
        self.kept = tuple(range(len(self.members)))
        """The places of the members among the networks configured."""
        self.worths: dict[int, float] = {}
        """By place, what a network is worth on valid; where the best are to be kept, once it has learned."""

    def learn(self, train: LabelledPhotos, valid: LabelledPhotos, harness: Harness) -> None:
        """Trains one network after the other; with `best` those that are best on valid stay."""
        super().learn(train, valid, harness)
        if self.config.best is None:
            return
        for place, member in zip(self.kept, self.members, strict=True):
            self.worths[place] = harness.valid_map_at_5(member.score(valid))
            harness.choose(f"network_{place + 1}_valid_map_at_5", self.worths[place])
        keep_best([self], self.config.best)

    def keep(self, places: Sequence[int]) -> None:
        """Drops the networks of all other places."""
        held = dict(zip(self.kept, self.members, strict=True))
        self.kept, self.members = tuple(places), [held[place] for place in places]

    def score(self, photos: Photos) -> NDArray[np.float32]:
        """Cosines (photos, identities) of the joined embeddings by the gallery's rule."""
        embeddings = self.embed(photos)
        assert embeddings is not None
        return joined_gallery(self.members, self.config.gallery).scores(embeddings, photos.viewpoints)

    def components(self) -> Components:
        """Each network by its number, and where some may be dropped, the places of those kept."""
        kept = {} if self.config.best is None else {"kept": attribute(self, "kept", torch.int64)}
        return {**super().components(), **kept}

    def restore(
        self, weights: Mapping[str, Tensor], identities: tuple[str, ...], device: torch.device
    ) -> None:
        """Takes up the networks that were kept."""
        if "kept" in weights:
            self.keep(weights["kept"].tolist())
        super().restore(weights, identities, device)


def keep_best(recipes: Sequence[Happywhale26th], best: int) -> int:
    """Has the recipes drop all networks but so many of all of them, the best on valid; how many are kept.

    Of equally good ones the first.
    """
    every = [(number, place) for number, recipe in enumerate(recipes) for place in recipe.kept]
    ranked = sorted(every, key=lambda one: -recipes[one[0]].worths[one[1]])
    chosen = set(ranked[:best])
    for number, recipe in enumerate(recipes):
        recipe.keep([place for place in recipe.kept if (number, place) in chosen])
    return len(chosen)


def joined_gallery(networks: Sequence[ArcFace], config: GalleryConfig) -> Gallery:
    """A gallery of the embeddings, side by side, of networks whose own galleries have the same photos."""
    each = [network.gallery for network in networks]
    gallery = Gallery(config)
    joined = np.concatenate([one.embeddings for one in each], axis=1)
    gallery.fill(joined, each[0].labels, each[0].identities, each[0].viewpoints)
    return gallery


class BestOfBags(Bagged):
    """The best networks of all bags, each by its own inner fold, whose embeddings share one gallery."""

    config: Happywhale26thConfig

    def learn_each(self, train: LabelledPhotos, unlabelled: Photos | None, harness: Harness) -> None:
        """The bags learn; of all their networks the best stay, their galleries in the order of train."""
        super().learn_each(train, unlabelled, harness)
        held = harness.inner_folds(self.config.bags)
        inner = np.array([held.get(image, -1) for image in train.images], np.int64)
        for number, bag in enumerate(self.members):
            # A gallery has the photos that were learned from, and behind them those of the inner fold.
            order = np.concatenate([np.flatnonzero(inner != number), np.flatnonzero(inner == number)])
            rising = np.argsort(order[train.labels[order] != UNKNOWN])
            for gallery in bag.galleries().values():
                _reorder(gallery, rising)
        harness.fitted(JOINT_GALLERY, train.known())
        if self.config.best is not None:
            kept = keep_best([recipe for bag in self.members for recipe in _recipes(bag)], self.config.best)
            harness.choose("networks_kept", kept)

    def score(self, photos: Photos) -> NDArray[np.float32]:
        """Cosines (photos, identities) by one gallery, or the bags' scores or votes as configured."""
        if self.config.bags_joined != "embeddings":
            return self._joined([bag.score(photos) for bag in self._answering()])
        return self._by_gallery(self.embed(photos), photos)

    def embed(self, photos: Photos) -> NDArray[np.float32]:
        """The networks' embeddings side by side (photos, dimensions), all of the same weight."""
        bags = self._answering()
        each = [found for bag in bags if (found := bag.embed(photos)) is not None]
        return side_by_side(each, [len(_networks(bag)) for bag in bags])

    def score_and_embed(self, photos: Photos) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """What `score` and `embed` give, by one look of each network where the gallery scores."""
        embeddings = self.embed(photos)
        if self.config.bags_joined != "embeddings":
            return self.score(photos), embeddings
        return self._by_gallery(embeddings, photos), embeddings

    def variants(self, photos: Photos) -> dict[str, NDArray[np.float32]]:
        """The scores of the first bag with a network: what the others are worth."""
        return {"one of the bags": self._answering()[0].score(photos)}

    def _answering(self) -> list[Pipeline]:
        """The bags of which a network is kept."""
        return [bag for bag in self.members if _networks(bag)]

    def _by_gallery(self, embeddings: NDArray[np.float32], photos: Photos) -> NDArray[np.float32]:
        networks = [network for bag in self._answering() for network in _networks(bag)]
        return joined_gallery(networks, self.config.gallery).scores(embeddings, photos.viewpoints)


def _recipes(bag: Pipeline) -> list[Happywhale26th]:
    return [recipe for recipe in bag.cycles if isinstance(recipe, Happywhale26th)]


def _networks(bag: Pipeline) -> list[ArcFace]:
    return [network for recipe in _recipes(bag) for network in recipe.members]


def _reorder(gallery: Gallery, rows: NDArray[np.int64]) -> None:
    """Puts the photos of the gallery in the order of these rows."""
    viewpoints = None if gallery.viewpoints is None else gallery.viewpoints[rows]
    gallery.fill(gallery.embeddings[rows], gallery.labels[rows], gallery.identities, viewpoints)


Happywhale26th.bagged = BestOfBags
