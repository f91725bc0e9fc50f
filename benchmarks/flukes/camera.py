"""What air and camera make of the light: haze, exposure, contrast, blur, grain."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from whalebench.benchmarks.flukes.encounter import Encounter, Shot
from whalebench.benchmarks.flukes.integers import uniform
from whalebench.benchmarks.flukes.scene import Scene

Image32 = NDArray[np.float32]
Image8 = NDArray[np.uint8]

_STEPS = 2048
_BRIGHTEST = 2.0


def develop(light: Image32, scene: Scene) -> Image8:
    """The photo (height x width x 3) of light in three planes, 1 being white paper in full daylight."""
    shot = scene.shot
    index = (light * (_STEPS / _BRIGHTEST)).clip(0, _STEPS - 1).astype(np.int32)
    curves = _curves(scene.encounter, shot)
    flat = np.empty((*light.shape[1:], 3), dtype=np.uint8)
    for channel in range(3):
        flat[..., channel] = curves[channel][index[channel]]
    if shot.motion:
        flat = np.asarray(Image.fromarray(flat).filter(_shaken(shot.motion)))
    if shot.blur > 200:
        flat = np.asarray(Image.fromarray(flat).filter(ImageFilter.BoxBlur(shot.blur / 1000)))
    start = shot.seed % (_grain().size - flat.size)
    grain = _grain()[start : start + flat.size].reshape(flat.shape)
    noisy = flat + ((grain * np.int16(round(2.55 * shot.noise))) >> 7)
    return np.asarray(noisy.clip(0, 255), dtype=np.uint8)


def _curves(encounter: Encounter, shot: Shot) -> Image8:
    """Light to grey value for each channel: haze, exposure, white balance, shoulder and contrast in one."""
    light = np.linspace(0, _BRIGHTEST, _STEPS)[None, :]
    haze = encounter.haze / 1000
    light = light * (1 - haze) + haze * 0.85 * np.array(encounter.sky)[:, None] / 255
    tone = light * shot.exposure / 1000 * np.array(shot.balance)[:, None] / 1000
    tone = tone / (1 + 0.18 * tone**3) ** (1 / 3)
    tone = 0.45 + (np.clip(tone, 0, 1) ** 0.8 - 0.45) * shot.contrast / 1000
    return np.asarray(np.clip(tone, 0, 1) * 255 + 0.5, dtype=np.uint8)


def _shaken(reach: int) -> ImageFilter.Kernel:
    """The blur of a camera that moves sideways by one or two pixels to each side."""
    row = [int(abs(place) <= reach) for place in range(-2, 3)]
    return ImageFilter.Kernel((5, 5), [0] * 10 + row + [0] * 10)


@lru_cache(maxsize=1)
def _grain() -> NDArray[np.int16]:
    """Noise with standard deviation 12.8, enough for any photo, mostly the same in the three channels."""
    grey = np.repeat(uniform(41, 2, 1 << 18).sum(0) - 1, 3)
    return np.asarray((grey + 0.5 * (uniform(42, 2, 3 << 18).sum(0) - 1)) * 28, dtype=np.int16)
