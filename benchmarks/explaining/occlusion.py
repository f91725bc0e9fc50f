"""Where a method looks: a grey box slides over a photo, and the score of one individual falls or rises.

Zeiler & Fergus 2014. This is how Lau (2016) found his first whale network looking at the waves. The picture
shows each photo, and beside it what hiding each place does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from whalebench.benchmarks.core.photos import Photos
from whalebench.benchmarks.core.store import MAX_PIXELS, decode, pixel_limit
from whalebench.benchmarks.explaining.altered import Occluded, Regions, covered_by
from whalebench.benchmarks.running.calibration import Calibration
from whalebench.benchmarks.sheet import INK, PALE, PAPER, save_picture
from whalebench.methods.parts.pipeline import Pipeline

CLIP = 1e-15
"""As in log loss."""
MAP_SIZE = (120, 180)
"""Height and width of a heat map, over the whole photo."""

Heat = NDArray[np.float64]
FALLS, RISES = (214, 40, 24), (32, 92, 200)
"""Red where hiding costs, blue where it helps."""
WIDE, HIGH, GAP, TITLE, CAPTION = 460, 330, 14, 46, 46


@dataclass(frozen=True)
class Occlusion:
    """What hiding each part of one photo does to the log probability of one individual."""

    heat: Heat
    """(height, width) over the whole photo: how much it falls when that place is hidden, in nats."""
    largest: float
    """The largest fall at any place of the box."""
    on_animal: float | None
    """Share of all falls that is on the animal, in [0, 1]; None where the animal is not annotated."""
    animal: float | None
    """Share of the photo that is the animal: what `on_animal` would be by chance."""


def occlude(
    method: Pipeline, photo: Photos, column: int, calibration: Calibration, *, side: float, region: Regions
) -> Occlusion:
    """What hiding parts of a photo does to the probability of the individual in a column of the scores.

    photo is one photo as the method may see it; the box is `side` of its width wide and of its height high
    and moves by at most half of that. Every altered photo is scored from the beginning, crop and all, so a
    finder that is misled counts.
    """
    boxes = sliding_boxes(side)
    # The photo as it is comes first, under a box of no size.
    shown = np.concatenate([np.zeros((1, 4), np.float32), boxes])
    altered = photo.select(np.zeros(len(shown), np.int64)).through(Occluded(shown))
    probabilities = calibration.probabilities(np.asarray(method.score(altered), np.float32))[:, column]
    logs = np.log(np.clip(probabilities, CLIP, None))
    drops = logs[0] - logs[1:]
    heat = spread(drops, boxes)
    falls = heat.clip(0, None)
    animal = region.shares(np.zeros(1, np.int64), MAP_SIZE)[0, 0].numpy()
    known = region.kinds[0] != "none" and animal.any()
    on_animal = float((falls * animal).sum() / falls.sum()) if known and falls.sum() > 0 else None
    return Occlusion(heat, float(drops.max()), on_animal, float(animal.mean()) if known else None)


def sliding_boxes(side: float) -> NDArray[np.float32]:
    """Boxes (places, 4), x0, y0, x1, y1 as shares, that cover a photo from edge to edge, half overlapping.

    >>> sliding_boxes(0.5)[:3, 0]
    array([0.  , 0.25, 0.5 ], dtype=float32)
    """
    starts = np.linspace(0, 1 - side, math.ceil((1 - side) / (side / 2) - 1e-9) + 1)
    upper, left = (each.ravel() for each in np.meshgrid(starts, starts, indexing="ij"))
    return np.stack([left, upper, left + side, upper + side], axis=1).astype(np.float32)


def spread(drops: Heat, boxes: NDArray[np.float32]) -> Heat:
    """The mean drop (height, width) of all boxes (places, 4) over each pixel of the map."""
    covered = covered_by(torch.from_numpy(boxes), MAP_SIZE)[:, 0].double().numpy()
    heat: Heat = np.tensordot(drops, covered, axes=1) / covered.sum(axis=0).clip(1e-9)
    return heat


@dataclass(frozen=True)
class HeatPhoto:
    """One row of the picture."""

    path: str
    shape: tuple[int, int]
    """Height and width of the photo."""
    heat: NDArray[np.float64]
    """(height, width) of any one size, over the whole photo."""
    title: str
    caption: str


def draw_heat(photos: list[HeatPhoto], file: Path, title: str) -> None:
    """Writes the picture, a row a photo; raises WhalebenchError where it cannot be written."""
    fitted = [_fit(photo.shape) for photo in photos]
    page = Image.new(
        "RGB",
        (2 * WIDE + 3 * GAP, TITLE + sum(high + CAPTION + GAP for high, _ in fitted)),
        PAPER,
    )
    pen, upper = ImageDraw.Draw(page), TITLE
    _write(pen, 12, title, INK, 18)
    for photo, (high, wide) in zip(photos, fitted, strict=True):
        _write(pen, upper, photo.title, INK, 15)
        _write(pen, upper + 21, photo.caption, PALE, 13)
        with pixel_limit(MAX_PIXELS):
            pixels = decode(photo.path, (high, wide, 3))
        page.paste(Image.fromarray(pixels), (GAP, upper + CAPTION - 4))
        page.paste(Image.fromarray(_heated(pixels, photo.heat)), (2 * GAP + WIDE, upper + CAPTION - 4))
        upper += high + CAPTION + GAP
    save_picture(page, file)


def _heated(pixels: NDArray[np.uint8], heat: NDArray[np.float64]) -> NDArray[np.uint8]:
    """The photo in grey under its heat: the stronger the colour, the more hiding that place does."""
    high, wide = pixels.shape[:2]
    strength = heat / max(float(np.abs(heat).max()), 1e-9)
    smooth = Image.fromarray(strength.astype(np.float32)).resize((wide, high), Image.Resampling.BILINEAR)
    strength = np.asarray(smooth)[:, :, None]
    grey = pixels.mean(axis=2, keepdims=True)
    colour = np.where(strength > 0, FALLS, RISES)
    mixed = grey + (colour - grey) * 0.8 * np.abs(strength)
    return np.broadcast_to(mixed, pixels.shape).round().astype(np.uint8)


def _fit(shape: tuple[int, int]) -> tuple[int, int]:
    """Height and width at which a photo fits its cell."""
    high, wide = shape
    scale = min(WIDE / wide, HIGH / high)
    return max(1, round(high * scale)), max(1, round(wide * scale))


def _write(pen: ImageDraw.ImageDraw, upper: int, text: str, colour: str, size: int) -> None:
    pen.text((GAP, upper), text, colour, ImageFont.load_default(size))
