"""The aligner: finds landmarks, and turns, zooms and shifts the photo so that they lie where they belong.

Where they belong is the reference: a published one, one that is typed, or the mean shape of the train photos.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import product
from typing import Annotated, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor, nn

from whalebench import WhalebenchError
from whalebench.benchmarks.core.photos import Batch, Photos
from whalebench.methods.method import Located
from whalebench.methods.parts import geometry
from whalebench.methods.parts.augment import Augmentation
from whalebench.methods.parts.crops.finder import (
    Crop,
    Finder,
    PositionConfig,
    PositionNetwork,
    Windows,
    annotated_values,
    whole_where,
)
from whalebench.methods.parts.training.trainer import predict

Fit = Literal["auto", "similarity", "affine"]
Head = Literal["votes", "anchors"]
Places = dict[str, tuple[float, float]]

RIGHT_WHALE: Places = {"bonnet": (0.8, 0.5), "blowhead": (0.3, 0.5)}
"""Right Whale, 2nd place: a window of 2d x d for landmarks d apart, the bonnet to the right."""
RIGHT_WHALE_ASPECT = 2.0
FLUKE: Places = {
    "left_tip": (29.27 / 320, 54.37 / 320),
    "notch": (158.69 / 320, 164.33 / 320),
    "right_tip": (290.02 / 320, 59.29 / 320),
    "bottom": (157.62 / 320, 276.19 / 320),
}
"""Humpback, 3rd place."""
ROOM = 0.15
"""Space on each side of the mean shape, as a share of the window."""


@dataclass(frozen=True)
class Reference:
    """Where each landmark belongs in the window."""

    places: Tensor
    """(landmarks, 2), float64, shares of the window's width and height."""
    aspect: float
    """Width over height of the window, in pixels of the photo; an affine fit does not heed it."""
    fit: Literal["similarity", "affine"]

    def matrices(self, landmarks: Tensor, shapes: Tensor) -> Tensor:
        """Matrices (photos, 2, 3) from whole photos to windows, both in normalised coordinates.

        landmarks (photos, landmarks, 2) are shares of photos of shapes (photos, 2; height, width) in pixels.
        """
        if self.fit == "affine":
            return geometry.fit_affine(2 * landmarks - 1, 2 * self.places - 1)
        # A similarity is one in pixels: both sides are stretched so that their height is the unit, and back.
        aspects = shapes[:, 1] / shapes[:, 0]
        stretch, back = _stretches(aspects), _stretches(torch.full_like(aspects, 1 / self.aspect))
        targets = (2 * self.places - 1) * self.places.new_tensor([self.aspect, 1.0])
        similarity = geometry.fit_similarity(geometry.transform_points(2 * landmarks - 1, stretch), targets)
        return geometry.compose(geometry.compose(stretch, similarity), back)


def build_reference(
    config: AlignerConfig, names: tuple[str, ...], landmarks: NDArray[np.float32], shapes: NDArray[np.int64]
) -> Reference:
    """The reference as configured; auto is the published one for these names, else the mean shape.

    landmarks (photos, landmarks, 2) are shares of photos of shapes (photos, 2). Raises WhalebenchError where
    the places do not name the landmarks there are.
    """
    if config.fit == "affine" and len(names) < 3:
        raise WhalebenchError(
            f"aligner.fit=affine needs three landmarks, the photos have {len(names)}: set fit=similarity."
        )
    kind: Literal["similarity", "affine"] = "affine" if len(names) > 2 else "similarity"
    if config.fit != "auto":
        kind = config.fit
    named = _published(names) if config.reference == "auto" else _parsed(config.reference)
    if named is None:
        mean, mean_aspect = _mean_shape(landmarks, shapes)
        return Reference(mean, config.aspect or mean_aspect, kind)
    if set(named) != set(names):
        raise WhalebenchError(
            f"aligner.reference names the landmarks {', '.join(named)}, the photos have {', '.join(names)}: "
            f"name each of these once, as {names[0]}:0.3,0.5."
        )
    usual = RIGHT_WHALE_ASPECT if named is RIGHT_WHALE else 1.0
    rows = [named[name] for name in names]
    return Reference(torch.tensor(rows, dtype=torch.float64), config.aspect or usual, kind)


def _published(names: tuple[str, ...]) -> Places | None:
    return next((known for known in (RIGHT_WHALE, FLUKE) if set(known) == set(names)), None)


def _parsed(text: str) -> Places:
    """Places from "bonnet:0.8,0.5 blowhead:0.3,0.5"."""
    places: Places = {}
    for part in text.split():
        name, colon, numbers = part.partition(":")
        try:
            x, y = (float(number) for number in numbers.split(","))
        except ValueError as error:
            raise WhalebenchError(
                f"aligner.reference has {part!r}: write name:x,y as shares of the window, as bonnet:0.8,0.5."
            ) from error
        if not colon or name in places or not (0 <= x <= 1 and 0 <= y <= 1):
            raise WhalebenchError(
                f"aligner.reference has {part!r}: name each landmark once, with shares from 0 to 1."
            )
        places[name] = (x, y)
    return places


def _mean_shape(landmarks: NDArray[np.float32], shapes: NDArray[np.int64]) -> tuple[Tensor, float]:
    """The mean of all shapes turned, zoomed and shifted onto each other, with ROOM around, and its aspect."""
    points = torch.from_numpy(landmarks * shapes[:, None, ::-1]).double()
    points = points[points.isfinite().flatten(1).all(dim=1)]
    if not len(points):
        raise WhalebenchError(
            "No training photo has all of its landmarks, so there is no mean shape to align to: "
            "say where they belong with aligner.reference."
        )
    mean = points[0]
    for _ in range(5):
        matrices = geometry.fit_similarity(points, mean)
        usable = matrices.isfinite().flatten(1).all(dim=1)
        mean = geometry.transform_points(points[usable], matrices[usable]).mean(dim=0)
    low, high = mean.amin(dim=0), mean.amax(dim=0)
    side = (high - low).clamp(min=float((high - low).max()) / 4)
    places = ((mean - (low + high) / 2) / side) * (1 - 2 * ROOM) + 0.5
    return places, float(side[0] / side[1])


def _stretches(aspects: Tensor) -> Tensor:
    """Matrices (photos, 2, 3) that widen by the aspect."""
    zeros = torch.zeros_like(aspects)
    rows = [aspects, zeros, zeros, zeros, torch.ones_like(aspects), zeros]
    return torch.stack(rows, dim=1).reshape(-1, 2, 3)


Views = Annotated[int, Field(ge=1, le=36)]


class AlignerConfig(PositionConfig):
    """Fields of the aligner."""

    head: Head = "votes"
    """How its network answers: all cells vote for each landmark; or anchors, boxes of nine shapes at each
    cell of which the best one answers, with a box and all landmarks (Humpback, 3rd place)."""
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

    @model_validator(mode="after")
    def _votes_that_are_counted(self) -> Self:
        if self.head == "anchors" and self.width != type(self).model_fields["width"].default:
            raise ValueError(f"width={self.width} is of votes, which head=anchors does without; leave it out")
        return self

    def augmentation(self) -> Augmentation:
        """The augmentation in training: as configured, nothing erased or shuffled, black where photos end."""
        return replace(super().augmentation(), erase=0.0, grid_shuffle=0.0, outside="zeros")


class Aligner(Finder):
    """Finds landmarks in several views of a photo, averaged, and aligns the photo by them."""

    artefact, needs = "aligner", "landmarks"

    config: AlignerConfig

    def annotated(self, photos: Photos) -> NDArray[np.bool_]:
        """Whether each photo has a landmark."""
        values = annotated_values(photos, "landmarks").reshape(len(photos), -1)
        return np.asarray(np.isfinite(values).any(axis=1))

    def missing(self, photos: Photos) -> str:
        """What photos lack: landmarks, or a second one, as a single point says nothing of turn and size."""
        names = photos.annotations.landmark_names if photos.annotations else ()
        return super().missing(photos) or ("second landmark" if len(names) < 2 else "")

    def prepare(self, train: Photos) -> None:
        """Settles where landmarks belong, by the landmarks of train."""
        assert train.annotations is not None
        names, landmarks = train.annotations.landmark_names, annotated_values(train, "landmarks")
        reference = build_reference(self.config, names, landmarks, train.shapes)
        self.constants = {
            "places": reference.places,
            "aspect": torch.tensor(reference.aspect, dtype=torch.float64),
            "affine": torch.tensor(reference.fit == "affine"),
        }

    def build(self) -> nn.Module:
        """The network, with a point for each landmark."""
        return PositionNetwork(self.config, len(self.constants["places"]))

    def loss(self) -> nn.Module:
        """The distance from the landmarks."""
        return LandmarkRegression()

    def target(self, batch: Batch) -> Tensor:
        """The annotated landmarks."""
        return geometry.normalised_landmarks(batch)

    def points(self, pixels: Tensor) -> Tensor:
        """Landmarks (photos, landmarks, 2) in normalised coordinates, of pixels (photos, 3, h, w)."""
        points: Tensor = self.network(pixels)
        return points

    def locate(self, photos: Photos) -> Located:
        """Landmarks as shares of the photo, the mean of what is found in every view."""
        each = torch.stack([self._landmarks_in(photos, view) for view in self.views()])
        return Located(landmarks=((each.mean(dim=0) + 1) / 2).float().numpy())

    def windows(self, located: Located, photos: Photos) -> Windows:
        """The window in which landmarks lie where they belong; the whole photo where it makes no sense."""
        assert located.landmarks is not None
        landmarks = torch.from_numpy(located.landmarks).double()
        bad = ~landmarks.isfinite().flatten(1).all(dim=1)
        landmarks = torch.where(bad[:, None, None], 0.0, landmarks)
        matrices = self._reference().matrices(landmarks, torch.from_numpy(photos.shapes).double())
        bad |= geometry.is_degenerate(matrices)
        bad |= _share_inside(whole_where(bad.numpy(), matrices).matrices) < self.config.inside
        return whole_where(bad.numpy(), matrices)

    def views(self) -> Tensor:
        """Matrices (views, 2, 3), one for every combination of turns, zooms, shears and shifts."""
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
        scale, both_ways = zoom.exp(), torch.stack([2 * shift] * 2, dim=1)
        return geometry.affine_matrices(angle, shear, scale, scale, both_ways, width / height)

    def _landmarks_in(self, photos: Photos, view: Tensor) -> Tensor:
        """Landmarks (photos, landmarks, 2) found in one view, in normalised coordinates of whole photos."""
        matrices = view.expand(len(photos), 2, 3)
        seen = photos.bare().through(Crop(matrices, self.config.size, outside="zeros"))
        answers = predict(self.points, seen, self.config, self.device)
        return geometry.transform_points(torch.from_numpy(answers).double(), geometry.invert(matrices))

    def _reference(self) -> Reference:
        kept = self.constants
        return Reference(kept["places"], float(kept["aspect"]), "affine" if kept["affine"] else "similarity")


class LandmarkRegression(nn.Module):
    """The distance of points from landmarks, both (photos, landmarks, 2) in normalised coordinates."""

    def forward(self, points: Tensor, landmarks: Tensor) -> Tensor:
        """Mean smooth-L1 loss over the coordinates that are annotated."""
        annotated = landmarks.isfinite()
        each = nn.functional.smooth_l1_loss(points, landmarks.nan_to_num(), beta=0.1, reduction="none")
        return (each * annotated).sum() / annotated.sum().clamp(min=1)


def _steps(reach: float, count: int, *, around: bool = False) -> list[float]:
    """So many amounts evenly from -reach to reach; a single one is 0, and a circle is left open."""
    if count == 1:
        return [0.0]
    if around:
        return [2 * reach * step / count for step in range(count)]
    return [reach * (2 * step / (count - 1) - 1) for step in range(count)]


def _share_inside(matrices: Tensor, steps: int = 11) -> Tensor:
    """The share (photos,) of each window that is inside its photo, on a lattice of points."""
    ticks = (torch.arange(steps, dtype=matrices.dtype) + 0.5) / steps * 2 - 1
    lattice = torch.cartesian_prod(ticks, ticks).expand(len(matrices), -1, -1)
    inside = geometry.transform_points(lattice, geometry.invert(matrices)).abs() <= 1
    return inside.all(dim=2).double().mean(dim=1)
