"""The sea behind and before a fluke: waves in perspective, sky in the water, glints, a horizon at times."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from whalebench.benchmarks.flukes.encounter import Encounter, Shot, planes
from whalebench.benchmarks.flukes.integers import uniform
from whalebench.benchmarks.flukes.scene import Scene
from whalebench.benchmarks.flukes.view import View

Image32 = NDArray[np.float32]
Numbers = NDArray[np.floating[Any]]

TILE = 256


def paint_sea(scene: Scene, view: View, x: Image32, y: Image32) -> Image32:
    """The sea and sky as light in [0, 1] and beyond, in three planes; x and y are in the upright frame."""
    encounter = scene.encounter
    wide = encounter.width / view.scale
    horizon = view.water + encounter.horizon / 1000 * wide
    below = np.maximum(horizon - y, 0.01 * wide)
    depth = (horizon - view.water) / below  # 1 at the fluke, more behind it
    slope = _slope(encounter, scene.shot, x, depth, wide)
    sky, water = planes(encounter.sky), planes(encounter.water)
    mirror = (0.24 + 0.1 * np.log(depth) + 0.5 * slope).clip(0, 1)
    light = water * (0.55 + 0.9 * mirror) + sky * (0.75 * mirror * np.sqrt(mirror))
    if encounter.glint:
        path = np.exp(-np.square((x - encounter.light / 1000 * 0.8 * wide) / (0.45 * wide)))
        light += (slope * 2.4 - 1.1).clip(0, 1) * path * (encounter.glint / 1000)
    _add_sky(light, sky, water, (y - horizon) / wide, view.scale * wide)
    return np.asarray(light, dtype=np.float32)


def _add_sky(light: Image32, sky: Image32, water: Image32, rise: Image32, pixels: float) -> None:
    """Paint over `light` what rises above the horizon, `rise` being in widths of the photo."""
    above = (rise * pixels + 0.5).clip(0, 1)
    rows = int(np.count_nonzero(above.any(1)))
    if rows:
        air = sky * (1.02 - 0.5 * rise[:rows].clip(0, 1) * (1 - water))
        light[:, :rows] += above[:rows] * (air - light[:, :rows])


def _slope(encounter: Encounter, shot: Shot, x: Image32, depth: Image32, wide: float) -> Image32:
    """How far each place of the water leans away: swell, chop and ripples, the small ones near."""
    flat = encounter.flat / 1000
    away = depth * (encounter.horizon / 1000 / flat) * wide
    right = x * depth
    turn = np.radians(encounter.direction)
    cos, sin = float(np.cos(turn)), float(np.sin(turn))
    base = 40.0 / (encounter.wave / 1000)
    total = np.zeros_like(x)
    tile = _tile(encounter.sea % 3)
    for octave, (finer, share) in enumerate(((0.35, encounter.swell), (1.0, encounter.chop), (2.3, 700))):
        step = 2 if finer <= 1 else 1  # long waves need no more than every second pixel
        near, along, deep = (part[::step, ::step] for part in (right, away, depth))
        size = base * finer / 2
        u = (near * cos - along * sin) * size + shot.drift[0] * (octave + 1) / 10
        v = (near * sin + along * cos) * size + shot.drift[1] * (octave + 1) / 10
        fade = 1 / (1 + np.square(deep * finer * base / 90))
        total += _enlarged(fade * _sample(tile, u, v), x.shape) * (share / 1000 * 0.42)
    return total


def _enlarged(part: Numbers, shape: tuple[int, ...]) -> Image32:
    """The part as float32 at the size of the whole."""
    if part.shape == shape:
        return np.asarray(part, dtype=np.float32)
    whole = Image.fromarray(part.astype(np.float32)).resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
    return np.asarray(whole, dtype=np.float32)


def _sample(tile: Image32, u: Numbers, v: Numbers) -> Image32:
    """The tile's values at u, v (in its pixels), between its pixels in proportion, repeated without end."""
    left, upper = np.floor(u), np.floor(v)
    part_u, part_v = u - left, v - upper
    column, row = left.astype(np.int32) & (TILE - 1), upper.astype(np.int32) & (TILE - 1)
    after, under = (column + 1) & (TILE - 1), ((row + 1) & (TILE - 1)) * TILE
    row = row * TILE
    flat = tile.ravel()
    top = flat[row + column] * (1 - part_u) + flat[row + after] * part_u
    low = flat[under + column] * (1 - part_u) + flat[under + after] * part_u
    return np.asarray(top * (1 - part_v) + low * part_v, dtype=np.float32)


@lru_cache(maxsize=3)
def _tile(number: int) -> Image32:
    """Slopes of a wind sea that repeats after TILE pixels, with standard deviation one."""
    frequency = np.fft.fftfreq(TILE) * TILE
    fx, fy = frequency[None, :], frequency[:, None]
    size = np.hypot(fx, fy) + 1e-9
    wind = np.abs(fy / size) ** (1.0 + 0.7 * number)
    power = np.exp(-((7 / size) ** 2)) * size**-1.9 * (wind + 0.12) * np.exp(-((size / 60) ** 2))
    phase = np.exp(2j * np.pi * uniform(700 + number, TILE, TILE))
    height = np.fft.ifft2(power * phase).real
    height /= height.std()
    crest = np.exp(0.45 * height)  # sharp crests, flat troughs
    slope = np.roll(crest, -1, 0) - np.roll(crest, 1, 0)
    return np.asarray(slope / slope.std(), dtype=np.float32)
