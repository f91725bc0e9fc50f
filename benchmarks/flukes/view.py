"""Where things are in a photo: a flat fluke bent, turned, cut by the water and seen by a camera.

`pose` leads from the whole numbers of a scene to the view of its fluke, with its box and landmarks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from whalebench.benchmarks.flukes.individual import SPAN, Individual, Outline, outline_of
from whalebench.benchmarks.flukes.population import Encounter, Scene, Shot

Array = NDArray[np.float64]
Points = tuple[Array, Array]


@dataclass(frozen=True)
class View:
    """A fluke posed before a camera; its columns stay straight, so that a pixel finds its place."""

    across: Array
    """Where each column of SPAN lies along the fluke's own axis, rising."""
    gain: Array
    """How much each column is stretched."""
    lift: Array
    """How far each column is raised."""
    turn: float
    """Turn of the fluke against the water, in radians."""
    tilt: float
    """Turn of the camera."""
    ripple: tuple[int, ...]
    water: float = 0.0
    """Height of the water in half widths of the fluke."""
    scale: float = 1.0
    """Pixels to a half width."""
    centre: tuple[float, float] = (0.0, 0.0)
    """The pixel of the upright frame's origin, where the fluke's axis crosses its middle."""
    box: tuple[int, ...] = (0, 0, 0, 0)
    """Around the visible fluke in whole pixels, rounded outward; x1 and y1 exclusive."""
    landmarks: tuple[tuple[float, float], ...] = ()
    """Left tip, notch, right tip and bottom in pixels, rounded to a tenth."""

    def upright(self, heights: Array) -> Points:
        """Points of the posed columns at flat heights, in the upright frame: x to the right, y up."""
        cos, sin, height = np.cos(self.turn), np.sin(self.turn), heights * self.gain + self.lift
        return self.across * cos - height * sin, self.across * sin + height * cos

    def pixels(self, x: Array, y: Array) -> Points:
        """Points of the upright frame in pixels of the photo, y down."""
        cos, sin = np.cos(self.tilt), np.sin(self.tilt)
        return (
            self.centre[0] + self.scale * (x * cos - y * sin),
            self.centre[1] - self.scale * (x * sin + y * cos),
        )

    def row_of_water(self) -> int:
        """The row of the photo, not cut to it, where the water stands in the fluke's middle."""
        return int(self.centre[1] - self.scale * self.water * np.cos(self.tilt))

    def waterline(self, x: Array) -> Array:
        """Height of the water before the fluke at each x of the upright frame."""
        size, first, second, third = (number / 1000 for number in self.ripple)
        waves = np.sin(7 * x + first) + 0.6 * np.sin(17 * x + second) + 0.4 * np.sin(37 * x + third)
        return np.asarray(self.water + size * waves)

    def visible(self, outline: Outline) -> tuple[Points, Points, NDArray[np.bool_]]:
        """Upper and lower ends of the columns in the upright frame, cut at the water; which are seen."""
        top, low = self.upright(outline.top), self.upright(outline.low)
        drop, part = np.maximum(top[1] - low[1], 1e-9), np.ones(top[0].size)
        for _ in range(2):  # the water's height depends on x, which moves a little along a turned column
            level = self.waterline(top[0] + part * (low[0] - top[0]))
            part = np.clip((top[1] - level) / drop, 0.0, 1.0)
        low = top[0] + part * (low[0] - top[0]), top[1] + part * (low[1] - top[1])
        return top, low, part > 0


LANDMARKS = ("left_tip", "notch", "right_tip", "bottom")

_MARGIN = 0.015
"""Share of the photo's sides that the fluke keeps away from them."""
_TALLEST = 0.88
_MIDDLE = SPAN.size // 2


def pose(scene: Scene) -> View:
    """The view of one photo, the fluke whole inside the picture and both tips above the water."""
    outline = outline_of(scene.individual)
    view = _bent(scene.individual, scene.shot)
    view = replace(view, water=_water(view, outline, scene.individual.chord, scene.shot.depth))
    return _framed(view, outline, scene.encounter, scene.shot)


def _bent(individual: Individual, shot: Shot) -> View:
    """The fluke bent and turned, before there is water or a picture."""
    yaw, side, out = shot.yaw / 1000, (SPAN > 0).astype(int), np.abs(SPAN)
    curl, twist, lift = (np.array(pair)[side] / 1000 for pair in (shot.curls, shot.twists, shot.lifts))
    lengths = np.array([individual.left.length, individual.right.length])[side] / 1000
    near = 1 + 0.25 * yaw * SPAN  # the farther wing is the smaller
    return View(
        across=SPAN * lengths * (1 - curl * out**2 / 2.5) * np.cos(yaw + 0.35 * yaw * SPAN) / near,
        gain=shot.pitch / 1000 * (1 + twist * out) / near,
        lift=lift * out**1.7 / near,
        turn=shot.roll / 1000,
        tilt=shot.tilt / 1000,
        ripple=shot.ripple,
    )


def _water(view: View, outline: Outline, chord: int, depth: int) -> float:
    """Height of the water: about the base of the fluke, below both tips and the notch."""
    heights = view.upright(outline.top)[1]
    base = -chord / 1000 * view.gain[_MIDDLE]
    wish = base * (1 + depth / 1000) if depth < 0 else base - depth / 1000
    return float(min(wish, heights[0] - 0.1, heights[-1] - 0.1, heights[_MIDDLE] - 0.14))


def _framed(view: View, outline: Outline, encounter: Encounter, shot: Shot) -> View:
    """The view at the distance and the place in the picture that the photo wants, as far as it fits."""
    top, low, seen = view.visible(outline)
    (top_x, top_y), (low_x, low_y) = view.pixels(*top), view.pixels(*low)
    x, y = np.concatenate([top_x[seen], low_x[seen]]), np.concatenate([top_y[seen], low_y[seen]])
    size, least = np.array([np.ptp(x), np.ptp(y)]), np.array([x.min(), y.min()])
    photo = np.array([encounter.width, encounter.height])
    scale = float(min(shot.share / 1000 * photo[0] / size[0], _TALLEST * photo[1] / size[1]))
    corner = photo * _MARGIN + (photo * (1 - 2 * _MARGIN) - scale * size) * np.array(shot.place) / 1000
    centre = corner - scale * least
    marks = np.array([[top_x[0], top_y[0]], [top_x[_MIDDLE], top_y[_MIDDLE]], [top_x[-1], top_y[-1]],
                      [low_x[_MIDDLE], low_y[_MIDDLE]]])  # fmt: skip
    return replace(
        view,
        scale=scale,
        centre=(float(centre[0]), float(centre[1])),
        box=tuple(map(int, (*np.floor(corner), *np.ceil(corner + scale * size)))),
        landmarks=tuple((round(float(x), 1), round(float(y), 1)) for x, y in centre + scale * marks),
    )
