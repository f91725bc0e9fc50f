"""Where things are in a photo: a flat fluke bent, turned, cut by the water and seen by a camera."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whalebench.benchmarks.flukes.outline import Outline

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
    box: tuple[int, int, int, int] = (0, 0, 0, 0)
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
