"""One photo painted: sea, fluke and foam as light, then what the camera makes of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from whalebench.benchmarks.flukes.camera import develop
from whalebench.benchmarks.flukes.encounter import planes
from whalebench.benchmarks.flukes.foam import add_foam, add_shadow
from whalebench.benchmarks.flukes.pose import pose
from whalebench.benchmarks.flukes.scene import Scene
from whalebench.benchmarks.flukes.sea import paint_sea
from whalebench.benchmarks.flukes.skin import paint_fluke
from whalebench.benchmarks.flukes.view import View

Image32 = NDArray[np.float32]
Image8 = NDArray[np.uint8]

_AROUND = 3
"""Pixels around the fluke's box that its soft edge and the water running off it may touch."""
_SEEN = 0.25
"""Share of a pixel that makes it part of the mask: low, for a tip is thinner than a pixel at its end."""


def paint(scene: Scene) -> tuple[Image8, Image8]:
    """A photo (height x width x 3) and the mask of its visible fluke (height x width, 0 or 255)."""
    view = pose(scene)
    encounter = scene.encounter
    x, y = upright_grid(encounter.width, encounter.height, view)
    light = paint_sea(scene, view, x, y)
    row = min(max(view.row_of_water(), 0), encounter.height - 1)
    above_water = (y - view.waterline(x[row]).astype(np.float32)) * view.scale
    add_shadow(light, view, x, y)
    mask = np.zeros(x.shape, dtype=np.uint8)
    x0, y0, x1, y1 = view.box
    part = slice(max(0, y0 - _AROUND), y1 + _AROUND), slice(max(0, x0 - _AROUND), x1 + _AROUND)
    cover, veil, skin = paint_fluke(scene, view, x[part], y[part])
    dry = np.clip(above_water[part] + 0.5, 0, 1)
    here = light[:, *part]
    here += (dry * cover) * (skin - here)
    here += (dry * veil * (1 - cover)) * (planes(encounter.sky) - here)
    mask[part] = np.where(cover * dry > _SEEN, 255, 0)
    add_foam(light, scene, view.scale, x, above_water)
    return develop(light, scene), mask


def upright_grid(width: int, height: int, view: View) -> tuple[Image32, Image32]:
    """Place of each pixel's middle in the upright frame, in half widths of the fluke."""
    right = ((np.arange(width) + 0.5 - view.centre[0]) / view.scale)[None, :]
    up = ((view.centre[1] - np.arange(height) - 0.5) / view.scale)[:, None]
    cos, sin = np.cos(view.tilt), np.sin(view.tilt)
    return (right * cos + up * sin).astype(np.float32), (up * cos - right * sin).astype(np.float32)
