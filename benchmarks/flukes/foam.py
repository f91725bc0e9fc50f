"""Where fluke and water meet: the dark image in the water, foam, spray and white water."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from whalebench.benchmarks.flukes.encounter import Shot, planes
from whalebench.benchmarks.flukes.integers import uniform
from whalebench.benchmarks.flukes.scene import Scene
from whalebench.benchmarks.flukes.view import View

Image32 = NDArray[np.float32]

_SIDE = 512


def add_shadow(light: Image32, view: View, x: Image32, y: Image32) -> None:
    """Nothing; the sea in `light` is darkened where the fluke is mirrored in it."""
    first = int(np.argmax(y.min(1) < view.water))  # nothing above this row is under water
    under = view.water - y[first:]
    near = np.exp(under * -4) * np.exp(-np.square(np.square(x[first:] / 0.8)))
    light[:, first:] *= 1 - 0.38 * near * (under > 0)


def add_foam(light: Image32, scene: Scene, scale: float, x: Image32, above: Image32) -> None:
    """Nothing; foam along the waterline and white water before it are painted over `light`.

    `above` is the height of each pixel above the water, in pixels.
    """
    shot = scene.shot
    if shot.splash < 60:
        return
    strength = shot.splash / 1000
    first = int(np.argmax(above.min(1) < 0.3 * scale))
    off, x = above[first:] / scale, x[first:]
    rough = _froth(shot, *off.shape)
    aside = np.square(np.square(x / (0.35 + 0.4 * strength)))
    high = 0.05 + 0.06 * strength + (off > 0).astype(np.float32) * (0.03 * strength - 0.03)
    band = np.exp(-np.square(off / high) - aside) * (0.75 + 0.35 * strength)
    wash = np.exp(-np.square((off + 0.2) / 0.15) - np.square(np.square(x / 0.95)))
    foam = ((np.maximum(band, wash * 0.62 * strength) + rough - 1) * 3).clip(0, 1)
    white = (0.55 + 0.45 * planes(scene.encounter.sky)) * (0.7 + 0.3 * scene.encounter.ambient / 1000)
    shade = (0.62 + 0.5 * rough) * foam
    here = light[:, first:]
    here *= 1 - foam
    here += white * shade


def _froth(shot: Shot, rows: int, columns: int) -> Image32:
    """A piece of the froth, its place and size by the photo."""
    left, upper = shot.drift[0] % (_SIDE - columns), shot.drift[1] % (_SIDE - rows)
    return _sheet()[upper : upper + rows, left : left + columns]


@lru_cache(maxsize=1)
def _sheet() -> Image32:
    """Froth: noise of several sizes, with ridges as of bubbles and threads, in about [0, 1]."""
    total = np.zeros((_SIDE, _SIDE), dtype=np.float32)
    for octave, (cells, share) in enumerate(((24, 0.30), (60, 0.28), (130, 0.26), (300, 0.24))):
        grid = Image.fromarray(uniform(900 + octave, cells, cells))
        noise = np.asarray(grid.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC))
        total += share * (1 - np.abs(2 * noise - 1) * 1.3)
    return np.asarray((total - total.min()) / (total.max() - total.min()) * 1.15, dtype=np.float32)
