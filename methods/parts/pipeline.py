"""What a run trains and asks: a method behind its crop, once for each cycle of its schedule.

Crop and schedule are fields of every method that trains a network to tell individuals apart.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper
from typing import Any, ClassVar, Concatenate, Literal, NamedTuple, ParamSpec, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import model_validator

from whalebench import RunFailedError, one_line
from whalebench.benchmarks.core.arrays import normalise
from whalebench.benchmarks.core.photos import UNKNOWN, LabelledPhotos, Photos, Size
from whalebench.methods.guests import guest
from whalebench.methods.method import (
    Components,
    FieldValue,
    Harness,
    Located,
    Method,
    MethodConfig,
    PartConfig,
    Restorable,
    attribute,
)
from whalebench.methods.parts.augment import STRENGTHS, Augmentation, Strength
from whalebench.methods.parts.crops.aligner import AlignerConfig
from whalebench.methods.parts.crops.anchors import build_aligner
from whalebench.methods.parts.crops.cropping import Cropping, FixedWindow, WindowSides
from whalebench.methods.parts.crops.finder import Finder
from whalebench.methods.parts.crops.localizer import Localizer, LocalizerConfig, PartLocalizer
from whalebench.methods.parts.crops.segmenter import Segmenter, SegmenterConfig
from whalebench.methods.parts.fusion import OutOfFold, average_scores, side_by_side, voted
from whalebench.methods.parts.retrieval import Gallery, GalleryConfig
from whalebench.methods.parts.training.config import BestBy, PhotoSize, ScheduleConfig, TrainingConfig
from whalebench.methods.parts.training.starting import StartConfig, beside
from whalebench.methods.parts.training.trainer import CarryOver, Ended

P = ParamSpec("P")
R = TypeVar("R")
CropName = Literal["none", "box", "mask", "aligned", "part", "window"]
FINDERS: dict[str, tuple[str, Callable[[Any], Finder]]] = {
    "box": ("localizer", Localizer),
    "part": ("localizer", PartLocalizer),
    "aligned": ("aligner", build_aligner),
    "mask": ("segmenter", Segmenter),
}
"""By crop: the field with the finder's configuration, and the finder."""


class NetworkMethodConfig(StartConfig, MethodConfig):
    """Fields of every method that trains a network to tell individuals apart."""

    after_first_cycle: ClassVar[dict[str, Any]] = {"warm_up": 0.0, "start_from": "", "pretrain": "none"}
    """What grows at the beginning of a training, or is done once: its fields in all cycles but the first."""

    crop: CropName = "none"
    """What the network sees: the whole photo, the animal's box, its mask's box, the aligned animal, the
    `part` of it round its landmarks, or the same `window` of every photo."""
    window: WindowSides | None = None
    """x0,y0,x1,y1 as shares of width and height, for crop=window: where photos are aligned already."""
    crop_source: PhotoSize | None = None
    """Height x width at which photos are kept to cut crops out of them; twice `size` unless given."""
    oracle: bool = False
    """Crop by the annotations of test photos instead of finding the animal; ranked apart."""
    localizer: LocalizerConfig = LocalizerConfig()
    """Finds the box, for crop=box and part."""
    aligner: AlignerConfig = AlignerConfig()
    """Finds the landmarks, for crop=aligned."""
    segmenter: SegmenterConfig = SegmenterConfig()
    """Finds the mask, for crop=mask."""
    schedule: ScheduleConfig = ScheduleConfig()
    """In how many cycles the network is trained, and what is kept of each."""

    @model_validator(mode="after")
    def _something_to_crop_by(self) -> Self:
        if self.oracle and self.crop in ("none", "window"):
            raise ValueError(
                f"oracle=true has nothing to crop by with crop={self.crop}; set crop=box, mask, part or "
                f"aligned"
            )
        if (self.crop == "window") != (self.window is not None):
            raise ValueError(
                "crop=window and window=x0,y0,x1,y1 need each other; set both, as window=0.2,0.3,0.9,0.7"
            )
        return self

    @model_validator(mode="after")
    def _one_start(self) -> Self:
        start = f"start_from={self.start_from}"
        if self.start_from and self.pretrained != "none":
            raise ValueError(f"{start} and pretrained={self.pretrained} are two starts; leave one out")
        if self.start_from and "+" in self.backbone:
            raise ValueError(f"{start} is of one network, and backbone={self.backbone} are several; give one")
        if self.start_from and self.bags > 1:
            raise ValueError(
                f"{start} has learned from photos that each of bags={self.bags} is chosen by; leave one out"
            )
        return self

    @model_validator(mode="after")
    def _epochs_for_every_cycle(self) -> Self:
        cycles, shortest = self.schedule.cycles, self.schedule.shares(self.epochs)[-1]
        if cycles == 1:
            return self
        if not shortest:
            raise ValueError(
                f"epochs={self.epochs} cannot be shared out to schedule.cycles={cycles}; set fewer cycles"
            )
        if self.average == "checkpoints" and self.checkpoints > shortest:
            raise ValueError(
                f"average=checkpoints cannot take checkpoints={self.checkpoints} of a cycle of {shortest} "
                f"epochs; lower checkpoints, or set fewer cycles"
            )
        if self.schedule.joined == "embeddings" and self.cycle_gallery() is None:
            raise ValueError(
                "schedule.joined=embeddings needs a gallery to compare them with, and there is none; set "
                "scores or votes"
            )
        return self

    def tunable(self) -> dict[str, FieldValue]:
        """The fields worth tuning, without those of finders that are not used."""
        used = None if self.oracle or self.crop not in FINDERS else FINDERS[self.crop][0]
        unused = {field for field, _ in FINDERS.values()} - {used}
        return {name: start for name, start in super().tunable().items() if name.split(".")[0] not in unused}

    def sees_annotations(self) -> bool:
        """Whether it is an oracle."""
        return self.oracle

    def inner_folds_within(self) -> frozenset[tuple[int, ...]]:
        """Those of the segmenter where one learns."""
        learns = self.crop == "mask" and not self.oracle and self.segmenter.bags > 1
        return super().inner_folds_within().union({(self.segmenter.bags,)} if learns else ())

    def adapts_by(self) -> str:
        """Its own pre-training on test photos, and the students of a segmenter that learns."""
        if self.pretrain == "test":
            return "pretrain=test"
        if self.crop == "mask" and self.segmenter.students and not self.oracle:
            return f"segmenter.students={self.segmenter.students}"
        return super().adapts_by()

    def source(self) -> Size:
        """Height and width at which photos are kept to cut crops out of them."""
        return self.crop_source or (2 * self.size[0], 2 * self.size[1])

    def channels(self) -> int:
        """Of what the network sees: colours, and the mask where it is shown."""
        return 4 if self.crop == "mask" and self.segmenter.channel else 3

    def first_kept(self) -> int | None:
        """As the schedule says."""
        return self.schedule.first_kept(self.epochs)

    def best_by(self) -> BestBy:
        """As the schedule says."""
        return self.schedule.best_by

    def in_cycle(self, number: int) -> Self:
        """The configuration of one of the schedule's cycles, counted from 0."""
        changed: dict[str, Any] = {"schedule": self.schedule.of_one_cycle()}
        for name, value in self.after_first_cycle.items() if number else ():
            part = getattr(self, name)
            changed[name] = part.model_copy(update=value) if isinstance(part, PartConfig) else value
        shares = self.schedule.shares(self.epochs)
        return self.in_share(shares, number).model_copy(update=changed)

    def of_each_network(self) -> list[Self]:
        """The configuration of each network where backbone joins several by +; they see one crop together."""
        seen = {"crop": "none", "oracle": False, "augment": self.strength()}
        return [self.model_copy(update=seen | {"backbone": name}) for name in self.backbone.split("+")]

    def cycle_gallery(self) -> GalleryConfig | None:
        """The gallery that embeddings of several cycles can be compared with; None where there is none."""
        return None

    def augmentation(self) -> Augmentation:
        """How much each photo is changed at every step: steady behind a crop unless said otherwise.

        What is turned and shifted after it has been aligned was aligned for nothing.
        """
        return STRENGTHS[self.strength()]

    def strength(self) -> Strength:
        """How much photos are changed, auto resolved: what a recipe hands to members that see its crop."""
        if self.augment != "auto":
            return self.augment
        return "heavy" if self.crop == "none" else "steady"

    def finder(self) -> Finder | None:
        """What finds the animal, or None where the whole photo is seen."""
        if self.window is not None:
            return FixedWindow(self.window)
        return FINDERS[self.crop][1](self.finder_config()) if self.crop in FINDERS else None

    def finder_config(self) -> TrainingConfig | None:
        """The configuration of the network that finds the animal, or None where there is none."""
        return getattr(self, FINDERS[self.crop][0]) if self.crop in FINDERS else None


class UntrainedConfig(NetworkMethodConfig):
    """Fields of a method that trains no network: epochs and the like have no effect, but a finder's own.

    They are there because every method that crops has them; those of the finder begin with localizer, aligner
    or segmenter and a dot.
    """

    no_schedule: ClassVar[str]
    """Why there is nothing to schedule, and what to do."""

    @model_validator(mode="after")
    def _nothing_to_schedule(self) -> Self:
        if self.schedule != ScheduleConfig():
            raise ValueError(f"schedule is that of a network that is trained, and {self.no_schedule}")
        return self

    @model_validator(mode="after")
    def _one_start(self) -> Self:  # in place of the question which start it is
        for name in ("start_from", "pretrain", "watch_train"):
            if (value := getattr(self, name)) != type(self).model_fields[name].default:
                raise ValueError(f"{name}={value} is for a network that is trained, and {self.no_schedule}")
        return self

    def tunable(self) -> dict[str, FieldValue]:
        """The fields worth tuning, of networks those of the finder alone, where there is one."""
        unused = TrainingConfig.model_fields
        return {name: start for name, start in super().tunable().items() if name not in unused}


class SeenWindows(NamedTuple):
    """What a method sees of photos."""

    matrices: NDArray[np.float64]
    """(photos, 2, 3), from the unit square of the window (x right, y down) to shares of width and height."""
    size: Size
    """Height and width in pixels at which the windows are seen."""


def _galleries(part: Restorable) -> dict[str, Gallery]:
    found: dict[str, Gallery] = {}
    for name, component in part.components().items():
        if isinstance(component, Gallery):
            found[name] = component
        elif isinstance(component, Restorable):
            found |= {".".join((name, key)): gallery for key, gallery in _galleries(component).items()}
    return found


BEST = "best_cycle"
"""The name of the best cycle's place among the weights, and of its number in the record."""


def hosted(verb: Callable[Concatenate[Pipeline, P], R]) -> Callable[Concatenate[Pipeline, P], R]:
    """The verb, with the method at work in it as a guest: here alone is it called."""

    def call(self: Pipeline, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with guest(self.name):
            return verb(self, *args, **kwargs)

    update_wrapper(call, verb)
    return call


def _is_size(size: object) -> bool:
    """Whether it is a pair of whole numbers above 0."""
    if not isinstance(size, tuple | list) or len(size) != 2:
        return False
    return all(type(side) is int and side > 0 for side in size)


class Pipeline(Restorable):
    """A method behind its crop and in its cycles, with the verbs of a method; a run trains and asks no other.

    The crop, if there is one, says what the method is shown. Where the schedule has several cycles, the
    method learns anew in each, its trainings from where those of the cycle before ended, and what is kept of
    all cycles answers together.
    """

    def __init__(self, kind: type[Method], config: MethodConfig) -> None:
        self.name, self.config = kind.name, config
        self.crop: Cropping | None = None
        self.gallery: Gallery | None = None
        """Of the cycles' mean embeddings, where these are what is joined."""
        self.best = 0
        """The place of the cycle that is best on valid."""
        self.waiting: tuple[LabelledPhotos, LabelledPhotos] | None = None
        """Train and valid, until test photos are there to learn from first."""
        self.out_of_fold: OutOfFold | None = None
        """Of a bagged one that has just learned."""
        if not isinstance(config, NetworkMethodConfig):
            self.cycles, self.joined = [kind(config)], "scores"
            return
        if finder := config.finder():
            self.crop = Cropping(finder, config.source(), oracle=config.oracle)
        count, self.joined = config.schedule.cycles, config.schedule.joined
        self.cycles = [kind(config.in_cycle(place) if count > 1 else config) for place in range(count)]
        gallery = config.cycle_gallery()
        if self.joined == "embeddings" and gallery is not None:
            self.gallery = Gallery(gallery)

    @property
    def transductive(self) -> bool:
        """Whether a photo's score depends on other test photos."""
        return self.cycles[0].transductive or bool(self.config.adapts_by())

    @property
    def scores_alone(self) -> bool:
        """Whether it depends on no photo that it is scored with."""
        return self.cycles[0].scores_alone or not self.cycles[0].transductive

    def _pretrains_on(self) -> str:
        """The part whose photos its network learns from first, without labels; none where it does not."""
        return self.config.pretrain if isinstance(self.config, NetworkMethodConfig) else "none"

    @property
    def embeds(self) -> bool:
        """Whether it may have embeddings: the base class's are none."""
        return type(self.cycles[0]).embed is not Method.embed

    @hosted
    def missing_requirement(self, train: LabelledPhotos, queries: Photos) -> str:
        """What the photos lack that the crop or else the method cannot do without; empty where it fits."""
        missing = self.crop.missing(train, queries) if self.crop else ""
        if self.config.sees_viewpoints() and (train.viewpoints is None or train.viewpoints.max() == UNKNOWN):
            missing = missing or "viewpoints in train"
        missing = missing or self.cycles[0].missing_requirement(train, queries)
        if not isinstance(missing, str):
            raise self._wrong("missing_requirement", missing, "a text, empty where nothing is missing, is")
        return missing

    @hosted
    def sizes(self) -> tuple[Size, ...]:
        """The photo sizes (height, width) it will ask for; a crop cuts windows of any size."""
        if self.crop:
            return self.crop.sizes()
        given = [method.sizes() for method in self.cycles]
        for sizes in given:
            if not isinstance(sizes, tuple | list) or not all(map(_is_size, sizes)):
                raise self._wrong("sizes", sizes, "pairs of height and width in pixels are")
        return tuple(dict.fromkeys((size[0], size[1]) for sizes in given for size in sizes))

    @hosted
    def learn(self, train: LabelledPhotos, valid: LabelledPhotos, harness: Harness) -> None:
        """The crop learns from train, then the method from what it is shown; both choose on valid."""
        if self.crop:
            self.crop.learn(train, valid, harness)
        if isinstance(self.config, NetworkMethodConfig) and self.config.adapts_by():
            self.waiting = train, valid
        else:
            self._learn_beside((), train, valid, harness)

    @hosted
    def adapt(self, unlabelled: Photos, harness: Harness) -> None:
        """The crop, then the method, learn or go on to learn from the bare test photos."""
        if self.waiting is not None:
            train, valid = self.waiting
            if self.crop:
                self.crop.adapt(unlabelled, train, valid, harness)
            others = (self._shown(unlabelled),) if self._pretrains_on() == "test" else ()
            self._learn_beside(others, train, valid, harness)
            self.waiting = None
        if self.cycles[0].transductive:
            for method in self.cycles:
                method.adapt(self._shown(unlabelled), harness)

    @hosted
    def score(self, photos: Photos) -> NDArray[np.float32]:
        """Scores (photos, identities); of several cycles put together as the schedule says."""
        shown = self._shown(photos)
        if len(self.cycles) == 1:
            return self.cycles[0].score(shown)
        if self.gallery is not None:
            return self.gallery.scores(self._mean_embedding(shown), shown.viewpoints)
        scores = [method.score(shown) for method in self.cycles]
        return voted(scores) if self.joined == "votes" else average_scores(scores)

    @hosted
    def variants(self, photos: Photos) -> dict[str, NDArray[np.float32]]:
        """The method's other scores; of several cycles, those of the best on valid and of the last."""
        shown = self._shown(photos)
        if len(self.cycles) == 1:
            return self.cycles[0].variants(shown)
        alone = {"best cycle": self.cycles[self.best], "last cycle": self.cycles[-1]}
        return {name: method.score(shown) for name, method in alone.items()}

    @hosted
    def embed(self, photos: Photos) -> NDArray[np.float32] | None:
        """Embeddings (photos, dimensions); of several cycles their mean if it scores, else side by side."""
        shown = self._shown(photos)
        if len(self.cycles) == 1:
            return self.cycles[0].embed(shown)
        if self.gallery is not None:
            return self._mean_embedding(shown)
        every = [embedded for method in self.cycles if (embedded := method.embed(shown)) is not None]
        return side_by_side(every) if every else None

    @hosted
    def score_and_embed(self, photos: Photos) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """What `score` and `embed` give, by one look where the method needs no more."""
        shown = self._shown(photos)
        if len(self.cycles) == 1:
            return self.cycles[0].score_and_embed(shown)
        if self.gallery is not None:
            mean = self._mean_embedding(shown)
            return self.gallery.scores(mean, shown.viewpoints), mean
        scores, embeddings = zip(*(method.score_and_embed(shown) for method in self.cycles), strict=True)
        every = [embedded for embedded in embeddings if embedded is not None]
        joined = voted(scores) if self.joined == "votes" else average_scores(scores)
        return joined, side_by_side(every) if every else None

    @hosted
    def extend(self, photos: LabelledPhotos) -> None:
        """The galleries of all cycles, and that of their mean embeddings, take in the photos as shown.

        Raises NotImplementedError for a method without a gallery.
        """
        lens = self.crop.see(photos.unlabelled()).lens if self.crop else None
        shown = photos if lens is None else photos.through(lens)
        for method in self.cycles:
            method.extend(shown)
        if self.gallery is not None:
            embeddings = self._mean_embedding(shown)
            self.gallery.add(embeddings, photos.labels, len(photos.identities), photos.viewpoints)

    def galleries(self) -> dict[str, Gallery]:
        """Every gallery in it by the names that lead there."""
        return _galleries(self)

    @hosted
    def locate(self, photos: Photos) -> Located | None:
        """Where the crop, or else the method in its best cycle, says the animals are; None if it does not."""
        return self.crop.locate(photos) if self.crop else self.cycles[self.best].locate(photos)

    @hosted
    def windows(self, photos: Photos) -> SeenWindows | None:
        """What the crop shows of the photos; None where whole photos, or windows of its own, are seen."""
        if self.crop is None or not isinstance(self.config, NetworkMethodConfig):
            return None
        return SeenWindows(self.crop.windows(photos), self.config.size)

    def components(self) -> Components:
        """The finder by its name, and the method; of several cycles each by its number from 0."""
        finder = {self.crop.finder.artefact: self.crop.finder} if self.crop else {}
        if len(self.cycles) == 1:
            return {**finder, "": self.cycles[0]}
        cycles = {str(place): method for place, method in enumerate(self.cycles)}
        joined = {} if self.gallery is None else {"": self.gallery}
        return {**finder, **cycles, BEST: attribute(self, "best"), **joined}

    weights = hosted(Restorable.weights)
    restore = hosted(Restorable.restore)

    def rebuild(self, identities: int, device: torch.device) -> None:
        """Has the crop forget what it saw, and its finder look on the device."""
        if self.crop:
            self.crop.forget()
            self.crop.finder.device = device
        if self.gallery is not None:
            self.gallery.identities = identities

    def _wrong(self, verb: str, given: object, due: str) -> RunFailedError:
        shown = one_line(repr(given), 60)
        return RunFailedError(f"{self.name} gave {shown} by {verb}(), where {due} due: mend the method.")

    def _shown(self, photos: Photos) -> Photos:
        """The photos as the method sees them."""
        return self.crop.see(photos) if self.crop else photos

    def _learn_beside(
        self, others: tuple[Photos, ...], train: LabelledPhotos, valid: LabelledPhotos, harness: Harness
    ) -> None:
        """The method learns from what it is shown, at first perhaps without labels from that and others."""
        if self.crop:
            train, valid = self.crop.show(train, valid, harness)
        before = harness.unlabelled
        if self._pretrains_on() != "none":
            harness.unlabelled = beside(train, *others)
        if len(self.cycles) == 1:
            self.cycles[0].learn(train, valid, harness)
        else:
            self._learn_in_cycles(train, valid, harness)
        harness.unlabelled = before

    def _learn_in_cycles(self, train: LabelledPhotos, valid: LabelledPhotos, harness: Harness) -> None:
        ended: Ended = {}
        results = []
        for number, method in enumerate(self.cycles, 1):
            cycle = CarryOver(ended)
            with harness.scope(f"cycle_{number}", cycle):
                method.learn(train, valid, harness)
            ended = cycle.ended
            if not ended:
                raise RunFailedError(
                    f"{self.name} leaves nothing for the next cycle to go on from: have it learn by "
                    f"train_network, or leave schedule.cycles out."
                )
            results.append(harness.valid_map_at_5(method.score(valid)))
        self.best = int(np.argmax(results))
        harness.choose(BEST, self.best + 1)
        if self.gallery is not None:
            known = train.known().labelled()
            embeddings, identities = self._mean_embedding(known), len(known.identities)
            self.gallery.fill(embeddings, known.labels, identities, known.viewpoints)

    def _mean_embedding(self, shown: Photos) -> NDArray[np.float32]:
        """Embeddings (photos, dimensions) of length 1: the mean over the cycles, each at length 1 before."""
        each = (method.embed(shown) for method in self.cycles)
        return normalise(np.sum([normalise(found) for found in each if found is not None], axis=0))
