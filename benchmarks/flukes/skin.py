"""The fluke in a photo: which pixels it covers, and its wet skin in the light of the day."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from whalebench.benchmarks.flukes.encounter import Encounter, Shot, planes
from whalebench.benchmarks.flukes.individual import Individual
from whalebench.benchmarks.flukes.integers import uniform
from whalebench.benchmarks.flukes.outline import outline_of
from whalebench.benchmarks.flukes.pigment import COLUMNS, ROWS, smooth, texture
from whalebench.benchmarks.flukes.scene import Scene
from whalebench.benchmarks.flukes.view import View

Image32 = NDArray[np.float32]

_FINE = 4096
"""Columns of the table that undoes the pose: several to a pixel, so the nearest is near enough."""


def paint_fluke(scene: Scene, view: View, x: Image32, y: Image32) -> tuple[Image32, Image32, Image32]:
    """Share of each pixel the fluke covers, share that water running off it covers, and its colour."""
    cos, sin = float(np.cos(view.turn)), float(np.sin(view.turn))
    across, height = x * cos + y * sin, y * cos - x * sin
    table, start, step = _undo(scene.individual, view)
    column = ((across - start) / step).clip(0, _FINE - 1).astype(np.int32)
    place, top, low, lead, top_lean, low_lean = (row[column] for row in table)
    inside = np.minimum((top - height) * top_lean, (height - low) * low_lean)
    ends = np.minimum(across - start, (start + _FINE * step) - across)
    cover = (np.minimum(inside, ends) * view.scale + 0.5).clip(0, 1)
    share = ((height - lead) / np.maximum(top - lead, 1e-3)).clip(-1, 1)
    skin = _look_up(texture(scene.individual), place, share.clip(0, 1))
    stock = (share * -6).clip(0, 1)  # below the wings the peduncle is dark
    skin += stock * (0.07 - skin)
    colour = _lit(skin, place, share, scene.encounter, scene.shot)
    return cover, _veil(place, low - height, scene.shot) * (ends > 0), colour


def _undo(individual: Individual, view: View) -> tuple[Image32, float, float]:
    """Tables over even steps along the fluke's axis: flat place, edges, and how steep the edges are."""
    start, stop = float(view.across[0]), float(view.across[-1])
    even = np.linspace(start, stop, _FINE)
    outline = outline_of(individual)
    rows = [np.interp(even, view.across, np.linspace(-1, 1, view.across.size))]
    edges = [
        np.interp(even, view.across, edge * view.gain + view.lift)
        for edge in (outline.top, outline.low, outline.lead)
    ]
    step = (stop - start) / _FINE
    leans = [1 / np.sqrt(1 + np.gradient(edge, step) ** 2) for edge in edges[:2]]
    return np.array([*rows, *edges, *leans], dtype=np.float32), start, step


def _look_up(skin: Image32, place: Image32, share: Image32) -> Image32:
    u = (place + 1) * ((COLUMNS - 1) / 2)
    v = (1 - share) * (ROWS - 1)
    left, upper = np.minimum(u.astype(np.int32), COLUMNS - 2), np.minimum(v.astype(np.int32), ROWS - 2)
    part_u, part_v, flat = u - left.astype(np.float32), v - upper.astype(np.float32), skin.ravel()
    index = upper * COLUMNS + left
    top = flat[index] * (1 - part_u) + flat[index + 1] * part_u
    low = flat[index + COLUMNS] * (1 - part_u) + flat[index + COLUMNS + 1] * part_u
    return np.asarray(top * (1 - part_v) + low * part_v, dtype=np.float32)


def _lit(skin: Image32, place: Image32, share: Image32, encounter: Encounter, shot: Shot) -> Image32:
    """Colour of wet skin: daylight from one side, the wing's round, the keel in the middle, and a sheen."""
    side, ambient = (encounter.light / 1000), encounter.ambient / 1000
    sides = np.tanh(place * 6) * side
    keel = np.exp(-np.square(place / 0.07)) * np.sign(place) * (1.2 - share).clip(0, 1)
    lean = 0.30 * sides + 0.22 * (share - 0.45) - 0.25 * side * keel - 0.3 * (-share).clip(0, 1)
    day = skin * (1 + lean) * (0.52 + 0.42 * ambient)
    streak = smooth(shot.seed, 10, 40, (64, 256)).ravel()
    wet = streak[((1 - share) * 30 + 1).astype(np.int32) * 256 + ((place + 1) * 127).astype(np.int32)]
    sheen = (wet + 0.25 * sides - 0.45).clip(0, 1) * np.exp(-np.square((share - 0.62) / 0.3))
    gloss = sheen * (0.12 + 0.18 * encounter.glint / 1000) + (0.05 + 0.04 * ambient)
    sky = planes(encounter.sky)
    warm = np.array([1 + 0.10 * encounter.warmth / 1000, 1.0, 1 - 0.12 * encounter.warmth / 1000])
    film = np.array([1.0, 0.93, 0.78]) ** (encounter.film / 500)  # diatoms stain the skin of some seasons
    white = (0.65 + 0.35 * sky) * (warm * film).astype(np.float32)[:, None, None]
    return np.asarray(day * white + gloss * (0.75 * sky + 0.25 * planes(encounter.water)), dtype=np.float32)


def _veil(place: Image32, under: Image32, shot: Shot) -> Image32:
    """Water that runs off the lower edge in threads, `under` being the depth below that edge."""
    if not shot.drips:
        return np.zeros_like(place)
    threads = uniform(shot.seed + 5, 97) ** 3 * (0.28 * shot.drips / 1000)
    length = np.interp((np.arange(512) + 0.5) / 512 * 96, np.arange(97), threads).astype(np.float32)
    reach = length[((place + 1) * 255.5).astype(np.int32)]
    return np.asarray(((reach - under) * 6).clip(0, 0.28) * (under > 0), dtype=np.float32)
