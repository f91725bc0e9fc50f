"""Where landmarks shall come to lie in an aligned window, and the maps that bring them there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from whalebench import WhalebenchError
from whalebench.methods.parts.transforms.geometry import compose, fit_affine, fit_similarity

Fit = Literal["auto", "similarity", "affine"]
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

    def maps(self, landmarks: Tensor, shapes: Tensor) -> Tensor:
        """Maps (photos, 2, 3) from whole photos to windows, both in frame units.

        landmarks (photos, landmarks, 2) are shares of photos of shapes (photos, 2; height, width) in pixels.
        """
        if self.fit == "affine":
            return fit_affine(2 * landmarks - 1, 2 * self.places - 1)
        # A similarity is one in pixels: heights are the unit on both sides, and frame units come after.
        aspects = shapes[:, 1] / shapes[:, 0]
        photo = _stretches(aspects)
        window = _stretches(torch.full_like(aspects, self.aspect))
        targets = (2 * self.places - 1) * window[0, :, :2].diagonal()
        points = (2 * landmarks - 1) * photo[:, :, :2].diagonal(dim1=1, dim2=2)[:, None]
        back = _stretches(torch.full_like(aspects, 1 / self.aspect))
        return compose(compose(photo, fit_similarity(points, targets)), back)


def build_reference(
    places: str, names: tuple[str, ...], landmarks: NDArray[np.float32], shapes: NDArray[np.int64],
    *, aspect: float | None, fit: Fit,
) -> Reference:  # fmt: skip
    """The reference as configured; "auto" takes a published one by the landmarks' names, else the mean shape.

    landmarks (photos, landmarks, 2) are shares of photos of shapes (photos, 2). Raises WhalebenchError where
    the places do not name the landmarks there are.
    """
    if fit == "affine" and len(names) < 3:
        raise WhalebenchError(
            f"aligner.fit=affine needs three landmarks, the photos have {len(names)}: set fit=similarity."
        )
    named = _published(names) if places == "auto" else _parsed(places)
    published = named if places == "auto" else None
    wanted: Literal["similarity", "affine"] = (
        ("affine" if len(names) > 2 else "similarity") if fit == "auto" else fit
    )
    if named is None:
        shape, own_aspect = _mean_shape(landmarks, shapes)
        return Reference(shape, aspect or own_aspect, wanted)
    if set(named) != set(names):
        raise WhalebenchError(
            f"aligner.reference names the landmarks {', '.join(named)}, the photos have {', '.join(names)}: "
            f"name each of these once, as {names[0]}:0.3,0.5."
        )
    own_aspect = RIGHT_WHALE_ASPECT if published == RIGHT_WHALE else 1.0
    rows = [named[name] for name in names]
    return Reference(torch.tensor(rows, dtype=torch.float64), aspect or own_aspect, wanted)


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
    """The mean of all shapes turned, zoomed and shifted onto each other, with room, and its aspect."""
    points = torch.from_numpy(landmarks * shapes[:, None, ::-1]).double()
    points = points[points.isfinite().flatten(1).all(dim=1)]
    if not len(points):
        raise WhalebenchError(
            "No training photo has all of its landmarks, so there is no mean shape to align to: "
            "say where they belong with aligner.reference."
        )
    mean = points[0]
    for _ in range(5):
        maps = fit_similarity(points, mean)
        usable = maps.isfinite().flatten(1).all(dim=1)
        moved = points[usable] @ maps[usable][:, :, :2].mT + maps[usable][:, None, :, 2]
        mean = moved.mean(dim=0)
    low, high = mean.amin(dim=0), mean.amax(dim=0)
    side = (high - low).clamp(min=float((high - low).max()) / 4)
    places = ((mean - (low + high) / 2) / side) * (1 - 2 * ROOM) + 0.5
    return places, float(side[0] / side[1])


def _stretches(aspects: Tensor) -> Tensor:
    """Maps (photos, 2, 3) that widen by the aspect."""
    zeros = torch.zeros_like(aspects)
    rows = [aspects, zeros, zeros, zeros, torch.ones_like(aspects), zeros]
    return torch.stack(rows, dim=1).reshape(-1, 2, 3)
