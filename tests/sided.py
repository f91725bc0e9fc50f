"""Drawn animals with two sides that look different, met in encounters of tens of photos, as nyalas are.

Photos of an encounter share their background and their light; each shows one side of one animal. So a photo's
nearest neighbour is another of its encounter, where a split lets it: that is what a random split rewards.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from whalebench.methods.frozen import Frozen

SIDES = ("left", "right")
HIGH, WIDE = 32, 48
GREY, COAT, NOISE = 110, 12, 12
"""So faint a coat that a background which comes back is the easier thing to go by."""
Pixels = NDArray[np.float64]


def draw_sided(folder: Path, *, individuals: int = 12, encounters: int = 3, photos: int = 20) -> Path:
    """A table beside the photos of individuals met so often, with so many photos each time, half a side."""
    (folder / "photos").mkdir(parents=True)
    rng = np.random.default_rng(17)
    rows = []
    for individual in range(individuals):
        coats = {side: rng.uniform(-1, 1, (4, 6)) for side in SIDES}
        for encounter in range(encounters):
            background, light = rng.uniform(20, 200, (4, 6)), rng.uniform(0.7, 1.3)
            for photo in range(photos):
                side, image = SIDES[photo % 2], f"n{individual:02d}e{encounter}p{photo:02d}.png"
                pixels = _photo(coats[side], background, light, rng)
                Image.fromarray(pixels).save(folder / "photos" / image)
                name = f"nyala{individual:02d}"
                rows.append((image, f"photos/{image}", name, f"{individual}-{encounter}", side))
    columns = ["image", "path", "identity", "encounter", "viewpoint"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"


def _photo(coat: Pixels, background: Pixels, light: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """An animal of 24 x 36 pixels before its background, somewhere near the middle."""
    photo = np.kron(background, np.ones((HIGH // 4, WIDE // 6)))
    top, left = rng.integers(3, 6), rng.integers(5, 8)
    photo[top : top + 24, left : left + 36] = GREY + COAT * np.kron(coat, np.ones((6, 6)))
    return (light * photo + rng.normal(0, NOISE, photo.shape)).clip(0, 255).astype(np.uint8)


class Blurred(nn.Module):
    """A small grey picture, the mean taken away, as an embedding."""

    def forward(self, pixels: Tensor) -> Tensor:
        """Embeddings (photos, cells) of pixels (photos, 3, height, width)."""
        small = nn.functional.avg_pool2d(pixels.mean(dim=1, keepdim=True), 4).flatten(1)
        return small - small.mean(dim=1, keepdim=True)


class NearestPixels(Frozen):
    """A gallery of pixels: what is to be had without any network."""

    name = "nearest-pixels"
    source = "this test"

    def build_network(self, config: Any) -> nn.Module:
        """Nothing that learns."""
        del config
        return Blurred()
