"""Drawn photos, half of them plain sea, and twins of some of them, for the tests of the audit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

CHANGES = ("turned", "mirrored", "cropped", "recompressed", "brighter", "format", "turned mirrored")
WIDE, HIGH = 240, 160


@dataclass(frozen=True)
class Planted:
    """Files, and which two of them show one picture."""

    paths: list[str]
    twins: dict[tuple[int, int], str]
    """By pair, how the second was changed."""


def draw_sea(rng: np.random.Generator, size: tuple[int, int] = (WIDE, HIGH)) -> Image.Image:
    """Plain sea: one colour, lighter towards the horizon, and noise as a camera's and small waves' is."""
    wide, high = size
    base = np.array([40, 80, 110]) + rng.integers(-15, 16, 3)
    light = np.linspace(rng.uniform(0, 40), 0, high)[:, None]
    noise = rng.normal(0, 6, (high, wide))
    waves = Image.fromarray(noise.astype(np.float32)).filter(ImageFilter.BoxBlur(0)).resize((wide, high))
    grey = light + np.asarray(waves)
    pixels = base + grey[:, :, None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def draw_animal(rng: np.random.Generator, size: tuple[int, int] = (WIDE, HIGH)) -> Image.Image:
    """The same sea with an animal of some blobs in it."""
    photo = draw_sea(rng, size)
    pen = ImageDraw.Draw(photo)
    wide, high = size
    for _ in range(rng.integers(5, 12)):
        x, y = rng.uniform(0.1, 0.8) * wide, rng.uniform(0.1, 0.8) * high
        across, down = rng.uniform(0.05, 0.3) * wide, rng.uniform(0.05, 0.3) * high
        pen.ellipse((x, y, x + across, y + down), tuple(rng.integers(10, 220, 3).tolist()))
    return photo


def change(photo: Image.Image, how: str, rng: np.random.Generator) -> tuple[Image.Image, str, dict[str, int]]:
    """The changed photo, the suffix of its file, and how to save it."""
    wide, high = photo.size
    if how == "turned":
        quarter = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)
        photo = photo.transpose(quarter[rng.integers(3)])
    elif how == "mirrored":
        photo = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    elif how == "turned mirrored":
        photo = photo.transpose(Image.Transpose.TRANSPOSE)
    elif how == "cropped":
        left, upper = rng.uniform(0, 0.1, 2) if rng.random() < 0.5 else (0.1, 0.1)
        right, lower = (0.9 + left, 0.9 + upper) if rng.random() < 0.5 else (0.9, 0.9)
        photo = photo.crop(
            (round(left * wide), round(upper * high), round(right * wide), round(lower * high))
        )
    elif how == "brighter":
        photo = ImageEnhance.Brightness(photo).enhance(1.3)
    elif how == "format":
        return photo, ".webp", {"quality": 80}
    return photo, ".jpg", {"quality": 60 if how == "recompressed" else 85}


def plant(
    folder: Path, originals: int, twins: int, seed: int, size: tuple[int, int] = (WIDE, HIGH)
) -> Planted:
    """Photos in a folder: so many originals, half of them plain sea, and changed copies of the first ones."""
    rng = np.random.default_rng(seed)
    paths, pairs = [], {}
    photos = [(draw_sea if place % 2 else draw_animal)(rng, size) for place in range(originals)]
    for place, photo in enumerate(photos):
        paths.append(str(folder / f"photo-{place:04}.jpg"))
        photo.save(paths[-1], quality=90)
    for place in range(twins):
        how = CHANGES[place // 2 % len(CHANGES)]
        with Image.open(paths[place]) as original:
            changed, suffix, options = change(original.convert("RGB"), how, rng)
        paths.append(str(folder / f"twin-{place:04}{suffix}"))
        changed.save(paths[-1], **options)
        pairs[place, originals + place] = how
    return Planted(paths, pairs)


def as_pairs(larger: NDArray[np.int64], smaller: NDArray[np.int64]) -> set[tuple[int, int]]:
    """Pairs in ascending order."""
    return {(min(pair), max(pair)) for pair in zip(larger.tolist(), smaller.tolist(), strict=True)}
