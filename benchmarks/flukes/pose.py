"""A pose: from the whole numbers of a photo to the view of its fluke, with its box and landmarks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from whalebench.benchmarks.flukes.encounter import Encounter, Shot
from whalebench.benchmarks.flukes.individual import Individual
from whalebench.benchmarks.flukes.outline import SPAN, Outline, outline_of
from whalebench.benchmarks.flukes.scene import Scene
from whalebench.benchmarks.flukes.view import View

LANDMARKS = ("left_tip", "notch", "right_tip", "bottom")

_MARGIN = 0.015
"""Share of the photo's sides that the fluke keeps away from them."""
_TALLEST = 0.88
_MIDDLE = SPAN.size // 2


def pose(scene: Scene) -> View:
    """The view of one photo, the fluke whole inside the picture and both tips above the water."""
    outline = outline_of(scene.individual)
    view = _bent(scene.individual, scene.shot)
    view = replace(view, water=_water(view, outline, scene.individual.chord, scene.shot.depth))
    return _framed(view, outline, scene.encounter, scene.shot)


def _bent(individual: Individual, shot: Shot) -> View:
    """The fluke bent and turned, before there is water or a picture."""
    yaw, side, out = shot.yaw / 1000, (SPAN > 0).astype(int), np.abs(SPAN)
    curl, twist, lift = (np.array(pair)[side] / 1000 for pair in (shot.curls, shot.twists, shot.lifts))
    lengths = np.array([individual.left.length, individual.right.length])[side] / 1000
    near = 1 + 0.25 * yaw * SPAN  # the farther wing is the smaller
    return View(
        across=SPAN * lengths * (1 - curl * out**2 / 2.5) * np.cos(yaw + 0.35 * yaw * SPAN) / near,
        gain=shot.pitch / 1000 * (1 + twist * out) / near,
        lift=lift * out**1.7 / near,
        turn=shot.roll / 1000,
        tilt=shot.tilt / 1000,
        ripple=shot.ripple,
    )


def _water(view: View, outline: Outline, chord: int, depth: int) -> float:
    """Height of the water: about the base of the fluke, below both tips and the notch."""
    heights = view.upright(outline.top)[1]
    base = -chord / 1000 * view.gain[_MIDDLE]
    wish = base * (1 + depth / 1000) if depth < 0 else base - depth / 1000
    return float(min(wish, heights[0] - 0.1, heights[-1] - 0.1, heights[_MIDDLE] - 0.14))


def _framed(view: View, outline: Outline, encounter: Encounter, shot: Shot) -> View:
    """The view at the distance and the place in the picture that the photo wants, as far as it fits."""
    top, low, seen = view.visible(outline)
    (top_x, top_y), (low_x, low_y) = view.pixels(*top), view.pixels(*low)
    x, y = np.concatenate([top_x[seen], low_x[seen]]), np.concatenate([top_y[seen], low_y[seen]])
    size, least = np.array([np.ptp(x), np.ptp(y)]), np.array([x.min(), y.min()])
    photo = np.array([encounter.width, encounter.height])
    scale = float(min(shot.share / 1000 * photo[0] / size[0], _TALLEST * photo[1] / size[1]))
    corner = photo * _MARGIN + (photo * (1 - 2 * _MARGIN) - scale * size) * np.array(shot.place) / 1000
    centre = corner - scale * least
    marks = np.array([[top_x[0], top_y[0]], [top_x[_MIDDLE], top_y[_MIDDLE]], [top_x[-1], top_y[-1]],
                      [low_x[_MIDDLE], low_y[_MIDDLE]]])  # fmt: skip
    return replace(
        view,
        scale=scale,
        centre=(float(centre[0]), float(centre[1])),
        box=(*_whole(np.floor(corner)), *_whole(np.ceil(corner + scale * size))),
        landmarks=tuple((round(float(x), 1), round(float(y), 1)) for x, y in centre + scale * marks),
    )


def _whole(point: np.ndarray[tuple[int], np.dtype[np.float64]]) -> tuple[int, int]:
    return int(point[0]), int(point[1])
