"""What every method that trains a network on photos of individuals can be told: training, and the crop."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from whalebench.benchmarks.core.photos import Size
from whalebench.methods.method import FieldValue, Method, MethodConfig
from whalebench.methods.parts.augment import STRENGTHS, Augmentation, Strength
from whalebench.methods.parts.crops.aligner import Aligner, AlignerConfig
from whalebench.methods.parts.crops.cropping import Cropping, FixedWindow, WindowSides
from whalebench.methods.parts.crops.finder import Finder
from whalebench.methods.parts.crops.localizer import Localizer, LocalizerConfig
from whalebench.methods.parts.crops.segmenter import Segmenter, SegmenterConfig
from whalebench.methods.parts.cycles import ScheduleConfig, SnapshotEnsemble
from whalebench.methods.parts.retrieval import GalleryConfig
from whalebench.methods.parts.training.config import PhotoSize, TrainingConfig

CropName = Literal["none", "box", "mask", "aligned", "window"]


class NetworkMethodConfig(TrainingConfig, MethodConfig):
    """Fields of every method that trains a network to tell individuals apart."""

    crop: CropName = "none"
    """What the network sees: the whole photo, the animal's box, its mask's box, the aligned animal, or the
    same `window` of every photo."""
    window: WindowSides | None = None
    """x0,y0,x1,y1 as shares of width and height, for crop=window: where photos are aligned already."""
    crop_source: PhotoSize | None = None
    """Height x width at which photos are kept to cut crops out of them; twice `size` unless given."""
    oracle: bool = False
    """Crop by the annotations of test photos instead of finding the animal; ranked apart."""
    localizer: LocalizerConfig = LocalizerConfig()
    """Finds the box, for crop=box."""
    aligner: AlignerConfig = AlignerConfig()
    """Finds the landmarks, for crop=aligned."""
    segmenter: SegmenterConfig = SegmenterConfig()
    """Finds the mask, for crop=mask."""
    schedule: ScheduleConfig = ScheduleConfig()
    """In how many cycles the network is trained, and what is kept of each."""

    @model_validator(mode="after")
    def _oracle_of_something(self) -> Self:
        if self.oracle and self.crop in ("none", "window"):
            raise ValueError(
                f"oracle=true has nothing to crop by with crop={self.crop}; set crop=box, mask or aligned"
            )
        return self

    @model_validator(mode="after")
    def _window_to_crop_by(self) -> Self:
        if (self.crop == "window") != (self.window is not None):
            raise ValueError(
                "crop=window and window=x0,y0,x1,y1 need each other; set both, as window=0.2,0.3,0.9,0.7"
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
        """As for every method, without the finders that are not used."""
        finders = {"box": "localizer", "aligned": "aligner", "mask": "segmenter"}
        unused = set(finders.values()) - {finders.get("none" if self.oracle else self.crop)}
        return {name: start for name, start in super().tunable().items() if name.split(".")[0] not in unused}

    def sees_annotations(self) -> bool:
        """Whether it is an oracle."""
        return self.oracle

    def source(self) -> Size:
        """Height and width at which photos are kept to cut crops out of them."""
        return self.crop_source or (2 * self.size[0], 2 * self.size[1])

    def channels(self) -> int:
        """Of what the network sees: colours, and the mask where it is shown."""
        return 4 if self.crop == "mask" and self.segmenter.channel else 3

    def track(self) -> str:
        """As for every network, the cycles, and the weights from elsewhere that only a finder starts from.

        Cycles see no more photos while they learn, but several networks look at each photo that is scored.
        """
        track, cycles = super().track(), self.schedule.cycles
        if cycles > 1:
            track += f", in {cycles} cycles"
        finder = None if self.oracle else self._finder_config()
        if finder is None or finder.pretrained in ("none", self.pretrained):
            return track
        return f"{track}, finder from {finder.starting_weights()}"

    def first_kept(self) -> int | None:
        """As the schedule says."""
        return self.schedule.first_kept(self.epochs)

    def in_cycle(self, number: int) -> Self:
        """The configuration of one of the schedule's cycles, counted from 0.

        Whatever grows at the beginning of a training, as the learning rate, does so in the first cycle only.
        A subclass says what else is not begun anew.
        """
        shares = self.schedule.shares(self.epochs)
        small = max(0, min(self.small_epochs - sum(shares[:number]), shares[number]))
        own = {"epochs": shares[number], "small_epochs": small, "schedule": self.schedule.of_one_cycle()}
        return self.model_copy(update=own | ({"warm_up": 0.0} if number else {}))

    def cycle_gallery(self) -> GalleryConfig | None:
        """The gallery that embeddings of several cycles can be compared with; None where there is none."""
        return None

    def augmentation(self) -> Augmentation:
        """As for every network, but steady behind a crop unless told otherwise.

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
        match self.crop:
            case "box":
                return Localizer(self.localizer)
            case "aligned":
                return Aligner(self.aligner)
            case "mask":
                return Segmenter(self.segmenter)
            case "window":
                assert self.window is not None
                return FixedWindow(self.window)
        return None

    def _finder_config(self) -> TrainingConfig | None:
        return {"box": self.localizer, "aligned": self.aligner, "mask": self.segmenter}.get(self.crop)


def build_method(method: Method) -> Method:
    """The method itself, or in cycles and on crops where its configuration asks for them."""
    config = method.config
    if not isinstance(config, NetworkMethodConfig):
        return method
    if config.schedule.cycles > 1:
        cycles = [type(method)(config.in_cycle(number)) for number in range(config.schedule.cycles)]
        method = SnapshotEnsemble(method, cycles, config.schedule.joined, config.cycle_gallery())
    finder = config.finder()
    if finder is None:
        return method
    return Cropping(method, finder, config.source(), oracle=config.oracle)
