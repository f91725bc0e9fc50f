"""Where a method looks: a grey box slides over a photo, and the score of one individual falls or rises.

Zeiler & Fergus 2014. This is how Lau (2016) found his first whale network looking at the waves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from whalebench.benchmarks.explaining.altered import Occluded
from whalebench.benchmarks.explaining.regions import Regions, covered_by
from whalebench.benchmarks.judging.calibration import Calibration
from whalebench.benchmarks.photos import Photos
from whalebench.methods.method import Method

CLIP = 1e-15
"""As in log loss."""
MAP_SIZE = (120, 180)
"""Height and width of a heat map, over the whole photo."""

Heat = NDArray[np.float64]


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
    method: Method, photo: Photos, follow: int, calibration: Calibration, *, side: float, region: Regions
) -> Occlusion:
    """What hiding parts of a photo does to the probability of the individual in column `follow`.

    photo is one photo as the method may see it; the box is `side` of its width wide and of its height high,
    and moves by at most half of that. The method looks at every altered photo from the beginning, so a finder
    that is misled counts.
    """
    boxes = sliding_boxes(side)
    # The photo as it is comes first, under a box of no size.
    shown = np.concatenate([np.zeros((1, 4), np.float32), boxes])
    altered = photo.select(np.zeros(len(shown), np.int64)).through(Occluded(shown))
    chances = calibration.probabilities(np.asarray(method.score(altered), np.float32))[:, follow]
    logs = np.log(np.clip(chances, CLIP, None))
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
