"""The underside of a fluke: how light each place of it is, pigment, scars and barnacles together."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from whalebench.benchmarks.flukes.individual import Individual, Mark
from whalebench.benchmarks.flukes.integers import uniform
from whalebench.benchmarks.flukes.outline import SPAN, outline_of

Image32 = NDArray[np.float32]

COLUMNS, ROWS = 512, 128
"""The texture's size: columns from tip to tip, rows from the trailing edge (top) to the leading edge."""


@lru_cache(maxsize=4)
def texture(individual: Individual) -> Image32:
    """Lightness in [0, 1] over the fluke, ROWS x COLUMNS."""
    white = _white(individual)
    fine = smooth(individual.pattern + 9, 64, 128)
    skin = 0.05 + individual.tone / 1000 * white * (0.9 + 0.12 * (fine - 0.5)) + 0.03 * fine
    return _marked(individual, skin.astype(np.float32))


def smooth(seed: int, rows: int, columns: int, shape: tuple[int, int] = (ROWS, COLUMNS)) -> Image32:
    """Smooth noise in [0, 1]: a grid of rows x columns random values, enlarged to `shape`."""
    grid = Image.fromarray(uniform(seed, rows, columns))
    return np.asarray(grid.resize(shape[::-1], Image.Resampling.BICUBIC), dtype=np.float32).clip(0, 1)


def _white(individual: Individual) -> Image32:
    """The share of white at each place: from borders, patches and noise, partly the same on both wings."""
    x = np.linspace(-1, 1, COLUMNS, dtype=np.float32)[None, :]
    y = np.linspace(1, 0, ROWS, dtype=np.float32)[:, None]  # 1 at the trailing edge
    out = np.abs(x)
    wings = (individual.left, individual.right)
    white, centre, trailing, leading, end = (
        np.where(x < 0, *(np.float32(getattr(wing, field) / 1000) for wing in wings))
        for field in ("white", "centre", "trailing", "leading", "end")
    )
    field = 1.1 * white + 0.25
    field = field - 1.6 * np.exp(-((out / (0.05 + centre)) ** 2)) * (1.1 - white)
    field = (
        field - 1.8 * np.exp(-(1 - y) / (0.015 + 0.4 * trailing)) - 1.5 * np.exp(-y / (0.015 + 0.4 * leading))
    )
    field = field - 1.6 * np.exp(-(1 - out) / (0.02 + end))
    field = field + 1.7 * (_clouds(individual) - 0.5)
    for blotch in individual.blotches:
        field = field + _blotch(blotch, x, y)
    return np.asarray(0.5 + 0.5 * np.tanh(field * (500 / individual.soft)), dtype=np.float32)


def _clouds(individual: Individual) -> Image32:
    seed, columns, share = individual.pattern, individual.coarse, individual.mirrored / 1000
    both = smooth(seed, 3, columns) + 0.5 * smooth(seed + 1, 8, 3 * columns)
    both = (both + both[:, ::-1]) / 2
    own = smooth(seed + 2, 3, columns) + 0.5 * smooth(seed + 3, 8, 3 * columns)
    rough = smooth(seed + 4, 40, 160) - 0.5
    return np.asarray((share * both + (1 - share) * own) / 1.5 + 0.35 * rough, dtype=np.float32)


def _blotch(blotch: Mark, x: Image32, y: Image32) -> Image32:
    place_x, place_y, along, across, turn, gain = blotch
    dx, dy = x - (place_x / 1000), (y - (place_y / 1000)) * 0.5
    cos, sin = float(np.cos(np.radians(turn))), float(np.sin(np.radians(turn)))
    far = ((dx * cos + dy * sin) / (along / 1000)) ** 2 + ((dy * cos - dx * sin) / (across / 2000)) ** 2
    return np.asarray(gain / 1000 * np.exp(-(far**2)), dtype=np.float32)


def _marked(individual: Individual, skin: Image32) -> Image32:
    """The skin with scars and barnacles drawn over it, at twice the size and then reduced."""
    big = Image.fromarray(skin).resize((2 * COLUMNS, 2 * ROWS), Image.Resampling.BILINEAR)
    pen = ImageDraw.Draw(big)
    for scar in individual.scars:
        _scar(pen, individual, scar)
    for x, y, radius, ring in individual.barnacles:
        left, upper = _place(individual, x / 1000, y / 1000)
        wide, high = radius / 1000 * COLUMNS, radius / 1000 * COLUMNS * _squeeze(individual, x / 1000)
        box = (left - wide, upper - high, left + wide, upper + high)
        pen.ellipse(box, outline=0.1 if ring else 0.62, fill=None if ring else 0.14, width=2)
    return np.asarray(big.resize((COLUMNS, ROWS), Image.Resampling.BOX), dtype=np.float32)


def _scar(pen: ImageDraw.ImageDraw, individual: Individual, scar: Mark) -> None:
    x, y, turn, length, bend, width, tone = scar
    angle = np.radians(turn)
    steps = np.linspace(-0.5, 0.5, 9)
    points = []
    for step in steps:
        along, aside = step * length / 1000, bend / 1000 * step * step * length / 250
        px = x / 1000 + along * np.cos(angle) - aside * np.sin(angle)
        dy = along * np.sin(angle) + aside * np.cos(angle)
        points.append(_place(individual, px, y / 1000, float(dy)))
    level = 0.08 if tone < 0 else 0.45 + 0.45 * tone / 1000
    pen.line(points, fill=level, width=max(1, round(width / 1000 * COLUMNS / 2)))


def _place(individual: Individual, x: float, y: float, rise: float = 0.0) -> tuple[float, float]:
    """Pixel of the doubled texture for a place across (-1 to 1), a share of the chord and a rise above."""
    return (x + 1) * COLUMNS, (1 - y) * 2 * ROWS - rise * COLUMNS * _squeeze(individual, x)


def _squeeze(individual: Individual, x: float) -> float:
    """Rows of texture for a length that takes one column, at a place across."""
    outline = outline_of(individual)
    at = int(np.clip((x + 1) / 2 * (SPAN.size - 1), 0, SPAN.size - 1))
    return float(2 * ROWS / COLUMNS / max(0.15, outline.top[at] - outline.lead[at]))
