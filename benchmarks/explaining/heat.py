"""The picture of where a method looks: each photo, and beside it what hiding each place does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from whalebench import WhalebenchError
from whalebench.benchmarks.inspection import MAX_PIXELS, pixel_limit
from whalebench.benchmarks.sheet import SUFFIXES
from whalebench.benchmarks.store import decode
from whalebench.benchmarks.workspace import atomic_path

PAPER, INK, PALE = "#f7f5f0", "#1d2b36", "#6d7a83"
FALLS, RISES = (214, 40, 24), (32, 92, 200)
"""Red where hiding costs, blue where it helps."""
WIDE, HIGH, GAP, TITLE, CAPTION = 460, 330, 14, 46, 46


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


def check_picture(file: Path) -> None:
    """Nothing, when a picture can be written under this name."""
    if file.suffix.lower() not in SUFFIXES:
        raise WhalebenchError(
            f"A picture cannot be written as {file.name!r}: give a name that ends in .png or .jpg."
        )


def draw_heat(photos: list[HeatPhoto], file: Path, title: str) -> None:
    """Nothing; the picture stands at `file`, a row a photo; raises WhalebenchError where it cannot."""
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
    try:
        with atomic_path(file) as part:
            page.save(part, SUFFIXES[file.suffix.lower()])
    except OSError as error:
        raise WhalebenchError(
            f"The picture cannot be written to {file} ({error.strerror}): name a writable folder."
        ) from error


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
