"""The crop, the first step of a run: a finder learns where the animal is, and only that window is seen.

Where all animals lie in one place already the window is fixed, and nothing is learned.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field

from whalebench.benchmarks.core.photos import LabelledPhotos, Photos, Size
from whalebench.methods.method import Harness, Located
from whalebench.methods.parts.crops.finder import Crop, Finder
from whalebench.methods.parts.geometry import frame_in_shares
from whalebench.methods.parts.training.config import TrainingConfig


def _read_window(value: object) -> object:
    """Four shares from 0.2,0.3,0.9,0.7, as they are typed; other types are left to be refused."""
    if not isinstance(value, str):
        return value
    try:
        sides = tuple(float(part) for part in value.split(","))
    except ValueError as error:
        raise ValueError("write four shares of the photo, x0,y0,x1,y1, as 0.2,0.3,0.9,0.7") from error
    if len(sides) != 4 or not (sides[0] < sides[2] and sides[1] < sides[3]):
        raise ValueError("write x0,y0,x1,y1 with x0 below x1 and y0 below y1, as 0.2,0.3,0.9,0.7")
    return sides


Share = Annotated[float, Field(ge=0, le=1)]
WindowSides = Annotated[tuple[Share, Share, Share, Share], BeforeValidator(_read_window)]
"""x0, y0, x1, y1 as shares of a photo's width and height; typed as 0.2,0.3,0.9,0.7."""


class FixedWindow(Finder):
    """Looks for nothing and learns nothing: the window is known beforehand."""

    artefact, needs = "window", ""
    looks = False

    def __init__(self, sides: tuple[float, float, float, float]) -> None:
        super().__init__(TrainingConfig())
        self.sides = sides

    def annotated(self, photos: Photos) -> NDArray[np.bool_]:
        """Every photo: nothing has to be annotated."""
        return np.ones(len(photos), np.bool_)

    def locate(self, photos: Photos) -> Located:
        """The window as the box of each photo."""
        return Located(boxes=np.tile(np.array(self.sides, np.float32), (len(photos), 1)))

    def read(self, photos: Photos) -> Located:
        """The window as the box of each photo, whatever is annotated."""
        return self.locate(photos)


REMEMBERED = 4
"""How many sets of photos are kept with their windows, because each is embedded, scored and located."""


Seen = TypeVar("Seen", bound=Photos)


class Cropping:
    """The step before a method: it learns from annotated windows, and chooses and scores by found ones.

    In an oracle's run the annotated windows are used throughout and no finder is trained.
    """

    def __init__(self, finder: Finder, read_at: Size, *, oracle: bool) -> None:
        self.finder, self.read_at, self.oracle = finder, read_at, oracle
        self._seen: dict[tuple[object, ...], tuple[Photos, Located]] = {}

    def missing(self, train: Photos, queries: Photos) -> str:
        """The annotations that train lacks, or the queries of an oracle; empty where there are enough."""
        if missing := self.finder.missing(train):
            return missing
        if self.oracle and (missing := self.finder.missing(queries)):
            return f"{missing} of test photos"
        return ""

    def sizes(self) -> tuple[Size, ...]:
        """The whole photos that windows are cut from, and those the finder looks at."""
        # Boxes and landmarks are numbers, but annotated masks are looked at, even by an oracle.
        looks = not self.oracle or self.finder.needs == "masks"
        return (self.read_at, *(self.finder.sizes() if looks else ()))

    def learn(self, train: LabelledPhotos, valid: LabelledPhotos, harness: Harness) -> None:
        """The finder learns from annotated photos of train."""
        self.forget()
        annotated = self._annotated_of(train)
        self.finder.prepare(annotated)
        if self.oracle:
            return
        harness.stage(self.finder.artefact)
        if self.finder.looks:
            if self.finder.config.watch_train:
                self.finder.watched = self._annotated_of(valid)
            self.finder.learn(annotated, harness, valid)

    def adapt(
        self, unlabelled: Photos, train: LabelledPhotos, valid: LabelledPhotos, harness: Harness
    ) -> None:
        """The finder goes on to learn from bare test photos, where it is configured to."""
        self.forget()
        if not self.oracle:
            self.finder.adapt(unlabelled.bare(), self._annotated_of(train), harness, valid)

    def show(
        self, train: LabelledPhotos, valid: LabelledPhotos, harness: Harness
    ) -> tuple[LabelledPhotos, LabelledPhotos]:
        """Train and valid as the method sees them, once the finder has learned."""
        harness.stage("crop")
        chosen_by = self.see(valid if self.oracle else valid.bare())
        learned_from = self.see_annotated(train)
        assert chosen_by.lens is not None
        # Annotations have done their work: the method sees windows with labels.
        return learned_from.labelled(), valid.labelled().through(chosen_by.lens)

    def forget(self) -> None:
        """Drops the windows that are remembered, as the finder is about to change."""
        self._seen.clear()

    def see(self, photos: Photos) -> Photos:
        """The photos through their windows: annotated ones for an oracle, found ones for everybody else."""
        return self._cropped(photos)[0]

    def see_annotated(self, photos: Seen) -> Seen:
        """The photos through annotated windows; without one as found, or whole in an oracle's run."""
        return self._annotated(photos)[0]

    def locate(self, photos: Photos) -> Located | None:
        """Where the finder says the animals are, and where the whole photo had to do; None if it does not."""
        return self._cropped(photos)[1] if self.finder.looks and self.finder.judged else None

    def windows(self, photos: Photos) -> NDArray[np.float64]:
        """The window of each photo: matrices (photos, 2, 3) from its unit square to shares of the photo."""
        lens = self.see(photos).lens
        assert isinstance(lens, Crop)
        windows: NDArray[np.float64] = frame_in_shares(lens.windows).numpy()
        return windows

    def cut(self, photos: Seen, located: Located) -> tuple[Seen, Located]:
        """The photos through the windows of what is located in them; and where the whole photo has to do."""
        windows = self.finder.windows(located, photos)
        masks = None
        if located.masks is not None:
            masks = np.round(255 * np.nan_to_num(located.masks)).astype(np.uint8)
            if self.finder.background != "kept":
                # Where the whole photo has to do, nothing of it is background.
                masks[windows.fallback] = 255
        crop = Crop(windows.matrices, self.read_at, masks, self.finder.background, self.finder.mask_channel)
        return photos.through(crop), replace(located, fallback=windows.fallback)

    def _annotated_of(self, photos: LabelledPhotos) -> LabelledPhotos:
        return photos.select(np.flatnonzero(self.finder.annotated(photos)))

    def _cropped(self, photos: Photos) -> tuple[Photos, Located]:
        key = (photos.images, photos.lens, photos.annotations is None)
        if key not in self._seen:
            while len(self._seen) >= REMEMBERED:
                self._seen.pop(next(iter(self._seen)))
            self._seen[key] = (
                self._annotated(photos)
                if self.oracle
                else self.cut(photos, self.finder.locate(photos.bare()))
            )
        return self._seen[key]

    def _annotated(self, photos: Seen) -> tuple[Seen, Located]:
        located = self.finder.read(photos)
        missing = np.flatnonzero(_incomplete(located))
        if len(missing) and not self.oracle:
            located = _filled(located, self.finder.locate(photos.select(missing).bare()), missing)
        return self.cut(photos, located)


def _incomplete(located: Located) -> NDArray[np.bool_]:
    """The photos (photos,) in which something is not located."""
    given = [values for values in vars(located).values() if values is not None]
    missing = [np.isnan(values.reshape(len(values), -1)).any(axis=1) for values in given]
    return np.asarray(np.any(missing, axis=0))


def _filled(located: Located, predicted: Located, missing: NDArray[np.int64]) -> Located:
    """What is annotated, and in photos that lack something what was found there, value by value."""
    kept = {}
    for name, values in vars(located).items():
        if values is not None:
            kept[name] = values.copy()
            guess = getattr(predicted, name)
            kept[name][missing] = np.where(np.isnan(values[missing]), guess, values[missing])
    return Located(**kept)
