"""Finds named landmarks, and turns, zooms and shifts the photo so that they lie where they belong."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from whalebench.benchmarks.photos import Batch, Photos, Size
from whalebench.methods.method import Harness, Located
from whalebench.methods.parts.crops.finder import Finder, Windows, annotated_values, whole_where
from whalebench.methods.parts.crops.lens import Crop
from whalebench.methods.parts.crops.positions import PositionConfig, PositionNetwork
from whalebench.methods.parts.crops.reference import Fit, Reference, build_reference
from whalebench.methods.parts.training.config import PhotoSize
from whalebench.methods.parts.training.inference import predict
from whalebench.methods.parts.training.loop import train_network
from whalebench.methods.parts.transforms.augment import Augmentation
from whalebench.methods.parts.transforms.geometry import affine_maps, flattens, invert, move, to_frame_units

Views = Annotated[int, Field(ge=1, le=36)]


class AlignerConfig(PositionConfig):
    """Fields of the aligner."""

    size: PhotoSize = (80, 128)
    """Height x width in pixels at which it looks at whole photos."""
    epochs: Annotated[int, Field(ge=0)] = 15
    """Passes over the annotated training photos."""
    turns: Views = 3
    """Views by turning the photo within the range of `augment`, when landmarks are found."""
    zooms: Views = 3
    """Views by zooming; all combinations of turns, zooms, shears and shifts are averaged."""
    shears: Views = 1
    """Views by shearing."""
    shifts: Views = 1
    """Views by shifting, the same way across and down."""
    reference: str = "auto"
    """Where landmarks belong, as bonnet:0.8,0.5 blowhead:0.3,0.5; auto: as published, or the mean shape."""
    aspect: Annotated[float, Field(gt=0)] | None = None
    """Width over height of the window in pixels of the photo, for a similarity; none: the reference's."""
    fit: Fit = "auto"
    """similarity, affine (least squares), or auto: an affine map for three landmarks and more."""
    inside: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Where less than this share of the window is inside the photo, the whole photo is used."""

    def augmentation(self) -> Augmentation:
        """How photos are changed in training: as configured, but nothing hidden and nothing mirrored in."""
        return replace(super().augmentation(), erase=0.0, outside="zeros")


class Aligner(Finder):
    """A network that answers with landmarks as seen in several views of the photo, averaged."""

    artefact, needs = "aligner", "landmarks"

    config: AlignerConfig

    def annotated(self, photos: Photos) -> NDArray[np.bool_]:
        """Which photos have a landmark."""
        values = annotated_values(photos, "landmarks").reshape(len(photos), -1)
        return np.asarray(np.isfinite(values).any(axis=1))

    def lacking(self, photos: Photos) -> str:
        """Landmarks, or a second one: there is no turning round a single point."""
        names = photos.annotations.landmark_names if photos.annotations else ()
        return super().lacking(photos) or ("second landmark" if len(names) < 2 else "")

    def prepare(self, train: Photos) -> None:
        """Fixes where landmarks belong."""
        assert train.annotations is not None
        landmarks = annotated_values(train, "landmarks")
        reference = build_reference(
            self.config.reference,
            train.annotations.landmark_names,
            landmarks,
            train.shapes,
            aspect=self.config.aspect,
            fit=self.config.fit,
        )
        self.constants = {
            "places": reference.places,
            "aspect": torch.tensor(reference.aspect, dtype=torch.float64),
            "affine": torch.tensor(reference.fit == "affine"),
        }

    def build(self) -> nn.Module:
        """The network, with a point for each landmark."""
        return PositionNetwork(self.config, len(self.constants["places"]))

    def learn(self, train: Photos, valid: Photos, harness: Harness) -> None:
        """Trains on the landmarks of train."""
        del valid
        self.device = harness.device
        self.network, _ = train_network(
            self.build(),
            LandmarkRegression(),
            train,
            self.config,
            harness,
            lambda network, loss: None,
            target=_landmarks,
            artefact=self.artefact,
        )

    def locate(self, photos: Photos) -> Located:
        """Landmarks as shares of the photo: found in every view, moved back and averaged."""
        found = [self._seen_through(photos, view) for view in self.views()]
        return Located(landmarks=((torch.stack(found).mean(dim=0) + 1) / 2).float().numpy())

    def read(self, photos: Photos) -> Located:
        """The annotated landmarks."""
        return Located(landmarks=annotated_values(photos, "landmarks"))

    def windows(self, located: Located, photos: Photos) -> Windows:
        """The window in which landmarks lie where they belong; the whole photo where it makes no sense."""
        assert located.landmarks is not None
        landmarks = torch.from_numpy(located.landmarks).double()
        unsaid = ~landmarks.isfinite().flatten(1).all(dim=1)
        landmarks = torch.where(unsaid[:, None, None], 0.0, landmarks)
        maps = self._reference().maps(landmarks, torch.from_numpy(photos.shapes).double())
        bad = unsaid | flattens(maps)
        eye = torch.eye(2, 3, dtype=maps.dtype)
        bad |= _share_inside(torch.where(bad[:, None, None], eye, maps)) < self.config.inside
        return whole_where(bad.numpy(), maps)

    def sizes(self) -> tuple[Size, ...]:
        """The sizes at which it looks at whole photos."""
        return self.config.sizes()

    def views(self) -> Tensor:
        """Maps (views, 2, 3) of a photo's frame, every combination of turns, zooms, shears and shifts."""
        by, config = self.config.augmentation(), self.config
        # A full turn ends where it began.
        turns = _steps(math.radians(by.rotation), config.turns, around=by.rotation >= 180)
        steps = product(
            turns,
            _steps(math.radians(by.shear), config.shears),
            _steps(by.scale, config.zooms),
            _steps(by.shift, config.shifts),
        )
        angle, shear, zoom, shift = torch.tensor(list(steps), dtype=torch.float64).T
        height, width = config.size
        both = zoom.exp()
        return affine_maps(angle, shear, both, both, torch.stack([2 * shift] * 2, dim=1), width / height)

    def _seen_through(self, photos: Photos, view: Tensor) -> Tensor:
        """Landmarks (photos, landmarks, 2) in frame units of the whole photo, as found in one view of it."""
        maps = view.expand(len(photos), 2, 3)
        seen = photos.bare().through(Crop(maps, self.config.size, outside="zeros"))
        answers = predict(self.network, seen, self.config, self.device)
        return move(torch.from_numpy(answers).double(), invert(maps))

    def _reference(self) -> Reference:
        kept = self.constants
        return Reference(kept["places"], float(kept["aspect"]), "affine" if kept["affine"] else "similarity")


class LandmarkRegression(nn.Module):
    """How far points are from landmarks, both (photos, landmarks, 2) in frame units."""

    def forward(self, points: Tensor, landmarks: Tensor) -> Tensor:
        """Mean smooth-L1 loss over the coordinates that are annotated."""
        said = landmarks.isfinite()
        each = nn.functional.smooth_l1_loss(points, landmarks.nan_to_num(), beta=0.1, reduction="none")
        return (each * said).sum() / said.sum().clamp(min=1)


def _landmarks(batch: Batch) -> Tensor:
    landmarks = to_frame_units(batch).landmarks
    assert landmarks is not None
    return landmarks


def _steps(reach: float, count: int, *, around: bool = False) -> list[float]:
    """Evenly from -reach to reach, 0 alone for one; around a circle without its end."""
    if count == 1:
        return [0.0]
    if around:
        return [2 * reach * step / count for step in range(count)]
    return [reach * (2 * step / (count - 1) - 1) for step in range(count)]


def _share_inside(maps: Tensor, steps: int = 11) -> Tensor:
    """The share (photos,) of each window that is inside its photo, on a lattice of points."""
    ticks = (torch.arange(steps, dtype=maps.dtype) + 0.5) / steps * 2 - 1
    lattice = torch.cartesian_prod(ticks, ticks).expand(len(maps), -1, -1)
    return (move(lattice, invert(maps)).abs() <= 1).all(dim=2).double().mean(dim=1)
