"""Drawing the benchmark: photos and masks into a folder, rows of the catalog out.

One photo is painted as light (sea, fluke and foam), then as what the camera makes of it.
"""

from __future__ import annotations

import hashlib
import io
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from whalebench.benchmarks.core.machine import end_with_parent
from whalebench.benchmarks.flukes.individual import (
    COLUMNS,
    ROWS,
    SPAN,
    Individual,
    outline_of,
    smooth,
    texture,
)
from whalebench.benchmarks.flukes.integers import uniform
from whalebench.benchmarks.flukes.population import (
    LANDMARKS,
    Encounter,
    Plan,
    Scene,
    Shot,
    View,
    plan_photos,
    planes,
    pose,
)

if TYPE_CHECKING:
    import pandas as pd

Image32 = NDArray[np.float32]
Image8 = NDArray[np.uint8]
Numbers = NDArray[np.floating[Any]]

SPECIES = "Megaptera novaeangliae"
_CHUNK = 24
"""Photos that one process draws at a time."""
_AROUND = 3
"""Pixels around the fluke's box that its soft edge and the water running off it may touch."""
_SEEN = 0.25
"""Share of a pixel that makes it part of the mask: low, for a tip is thinner than a pixel at its end."""
_FINE = 4096
"""Columns of the table that undoes the pose: several to a pixel, so the nearest is near enough."""
_TILE = 256
"""Side in pixels of the piece of water that is repeated without end."""
_FROTH = 512
"""Side in pixels of the sheet of froth that pieces are cut from."""
_STEPS, _BRIGHTEST = 2048, 2.0
"""Entries of the table from light to grey values, and the light of its end."""


def draw_flukes(
    folder: Path,
    *,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
    photos: int | None = None,
) -> pd.DataFrame:
    """The catalog rows of the benchmark, its photos and masks drawn under `folder`.

    `progress(done, total)` is called as photos are drawn; with `photos` the benchmark has that many. Files
    are written where they will stay, so give a temporary folder and move it into place when all is drawn.
    """
    plans = sorted(plan_photos(photos), key=lambda plan: (plan.life, plan.image))
    chunks = [plans[start : start + _CHUNK] for start in range(0, len(plans), _CHUNK)]
    for name in ("photos", "masks"):
        (folder / name).mkdir(exist_ok=True)
    digests: dict[str, tuple[str, str]] = {}
    spawn = multiprocessing.get_context("spawn")
    workers = min(workers, len(chunks))
    drawers = ProcessPoolExecutor(workers, spawn, end_with_parent) if workers > 1 else ThreadPoolExecutor(1)
    with drawers as pool:
        drawn = [pool.submit(_draw_chunk, chunk, folder) for chunk in chunks]
        rows = catalog_rows(plans)  # meanwhile
        for future in as_completed(drawn):
            digests |= future.result()
            if progress:
                progress(len(digests), len(plans))
    for place, column in enumerate(("file_digest", "mask_file_digest")):
        rows[column] = [digests[image][place] for image in rows["image"]]
    return rows


def catalog_rows(plans: list[Plan]) -> pd.DataFrame:
    """The catalog rows of planned photos, sorted by image, without digests of files: nothing is drawn."""
    import pandas as pd

    table = pd.DataFrame([_row(plan) for plan in sorted(plans, key=lambda plan: plan.life)])
    return table.sort_values("image", ignore_index=True)


def _row(plan: Plan) -> dict[str, str | int | float]:
    view, yaw, encounter = pose(plan.scene), plan.scene.shot.yaw, plan.scene.encounter
    marks = [f"{name}_{axis}" for name in LANDMARKS for axis in "xy"]
    places = zip(("x0", "y0", "x1", "y1", *marks), (*view.box, *chain(*view.landmarks)), strict=True)
    return {
        "image": plan.image,
        "path": f"photos/{plan.image}",
        "identity": plan.identity,
        "encounter": plan.encounter,
        "date": plan.day,
        "viewpoint": "left" if yaw < -150 else "right" if yaw > 150 else "straight",
        "species": SPECIES,
        **dict(places),
        "mask": f"masks/{Path(plan.image).stem}.png",
        "width": encounter.width,
        "height": encounter.height,
        "content_digest": plan.scene.digest,
    }


def _draw_chunk(plans: list[Plan], folder: Path) -> dict[str, tuple[str, str]]:
    """SHA-256 of each photo's and mask's file, as they were written, by image."""
    digests = {}
    for plan in plans:
        photo, mask = paint(plan.scene)
        of_photo, of_mask = io.BytesIO(), io.BytesIO()
        Image.fromarray(photo).save(of_photo, "JPEG", quality=plan.scene.shot.quality)
        Image.fromarray(mask).save(of_mask, "PNG", compress_level=1)
        (folder / "photos" / plan.image).write_bytes(of_photo.getvalue())
        (folder / "masks" / f"{Path(plan.image).stem}.png").write_bytes(of_mask.getvalue())
        one, other = (hashlib.sha256(data.getvalue()).hexdigest() for data in (of_photo, of_mask))
        digests[plan.image] = one, other
    return digests


def paint(scene: Scene) -> tuple[Image8, Image8]:
    """A photo (height x width x 3) and the mask of its visible fluke (height x width, 0 or 255)."""
    view = pose(scene)
    encounter = scene.encounter
    x, y = upright_grid(encounter.width, encounter.height, view)
    light = paint_sea(scene, view, x, y)
    row = min(max(view.row_of_water(), 0), encounter.height - 1)
    above_water = (y - view.waterline(x[row]).astype(np.float32)) * view.scale
    add_shadow(light, view, x, y)
    mask = np.zeros(x.shape, dtype=np.uint8)
    x0, y0, x1, y1 = view.box
    part = slice(max(0, y0 - _AROUND), y1 + _AROUND), slice(max(0, x0 - _AROUND), x1 + _AROUND)
    cover, veil, skin = paint_fluke(scene, view, x[part], y[part])
    dry = np.clip(above_water[part] + 0.5, 0, 1)
    here = light[:, *part]
    here += (dry * cover) * (skin - here)
    here += (dry * veil * (1 - cover)) * (planes(encounter.sky) - here)
    mask[part] = np.where(cover * dry > _SEEN, 255, 0)
    add_foam(light, scene, view.scale, x, above_water)
    return develop(light, scene), mask


def upright_grid(width: int, height: int, view: View) -> tuple[Image32, Image32]:
    """Place of each pixel's middle in the upright frame, in half widths of the fluke."""
    right = ((np.arange(width) + 0.5 - view.centre[0]) / view.scale)[None, :]
    up = ((view.centre[1] - np.arange(height) - 0.5) / view.scale)[:, None]
    cos, sin = np.cos(view.tilt), np.sin(view.tilt)
    return (right * cos + up * sin).astype(np.float32), (up * cos - right * sin).astype(np.float32)


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
    rise = (y - horizon) / wide
    above = (rise * (view.scale * wide) + 0.5).clip(0, 1)
    if rows := int(np.count_nonzero(above.any(1))):
        air = sky * (1.02 - 0.5 * rise[:rows].clip(0, 1) * (1 - water))
        light[:, :rows] += above[:rows] * (air - light[:, :rows])
    return np.asarray(light, dtype=np.float32)


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
    whole = Image.fromarray(part.astype(np.float32)).resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
    return np.asarray(whole, dtype=np.float32)


def _sample(tile: Image32, u: Numbers, v: Numbers) -> Image32:
    """The tile's values at u, v (in its pixels), between its pixels in proportion, repeated without end."""
    left, upper = np.floor(u), np.floor(v)
    part_u, part_v = u - left, v - upper
    column, row = left.astype(np.int32) & (_TILE - 1), upper.astype(np.int32) & (_TILE - 1)
    after, under = (column + 1) & (_TILE - 1), ((row + 1) & (_TILE - 1)) * _TILE
    row = row * _TILE
    flat = tile.ravel()
    top = flat[row + column] * (1 - part_u) + flat[row + after] * part_u
    low = flat[under + column] * (1 - part_u) + flat[under + after] * part_u
    return np.asarray(top * (1 - part_v) + low * part_v, dtype=np.float32)


@lru_cache(maxsize=3)
def _tile(number: int) -> Image32:
    """Slopes of a wind sea that repeats after _TILE pixels, with standard deviation one."""
    frequency = np.fft.fftfreq(_TILE) * _TILE
    fx, fy = frequency[None, :], frequency[:, None]
    size = np.hypot(fx, fy) + 1e-9
    wind = np.abs(fy / size) ** (1.0 + 0.7 * number)
    power = np.exp(-((7 / size) ** 2)) * size**-1.9 * (wind + 0.12) * np.exp(-((size / 60) ** 2))
    phase = np.exp(2j * np.pi * uniform(700 + number, _TILE, _TILE))
    height = np.fft.ifft2(power * phase).real
    height /= height.std()
    crest = np.exp(0.45 * height)  # sharp crests, flat troughs
    slope = np.roll(crest, -1, 0) - np.roll(crest, 1, 0)
    return np.asarray(slope / slope.std(), dtype=np.float32)


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
    even, outline = np.linspace(start, stop, _FINE), outline_of(individual)
    edges = [outline.top, outline.low, outline.lead]
    place, *edges = (
        np.interp(even, view.across, values)
        for values in (SPAN, *(edge * view.gain + view.lift for edge in edges))
    )
    step = (stop - start) / _FINE
    leans = [1 / np.sqrt(1 + np.gradient(edge, step) ** 2) for edge in edges[:2]]
    return np.array([place, *edges, *leans], dtype=np.float32), start, step


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


def add_shadow(light: Image32, view: View, x: Image32, y: Image32) -> None:
    """Darkens the sea in `light` where the fluke is mirrored in it."""
    first = int(np.argmax(y.min(1) < view.water))  # nothing above this row is under water
    under = view.water - y[first:]
    near = np.exp(under * -4) * np.exp(-np.square(np.square(x[first:] / 0.8)))
    light[:, first:] *= 1 - 0.38 * near * (under > 0)


def add_foam(light: Image32, scene: Scene, scale: float, x: Image32, above: Image32) -> None:
    """Paints foam along the waterline and white water before it over `light`.

    `above` is the height of each pixel above the water, in pixels.
    """
    shot = scene.shot
    if shot.splash < 60:
        return
    strength = shot.splash / 1000
    first = int(np.argmax(above.min(1) < 0.3 * scale))
    off, x = above[first:] / scale, x[first:]
    rows, columns = off.shape
    left, upper = shot.drift[0] % (_FROTH - columns), shot.drift[1] % (_FROTH - rows)
    rough = _sheet()[upper : upper + rows, left : left + columns]
    aside = np.square(np.square(x / (0.35 + 0.4 * strength)))
    high = 0.05 + 0.06 * strength + (off > 0).astype(np.float32) * (0.03 * strength - 0.03)
    band = np.exp(-np.square(off / high) - aside) * (0.75 + 0.35 * strength)
    wash = np.exp(-np.square((off + 0.2) / 0.15) - np.square(np.square(x / 0.95)))
    foam = ((np.maximum(band, wash * 0.62 * strength) + rough - 1) * 3).clip(0, 1)
    white = (0.55 + 0.45 * planes(scene.encounter.sky)) * (0.7 + 0.3 * scene.encounter.ambient / 1000)
    shade = (0.62 + 0.5 * rough) * foam
    here = light[:, first:]
    here *= 1 - foam
    here += white * shade


@lru_cache(maxsize=1)
def _sheet() -> Image32:
    """Froth: noise of several sizes, with ridges as of bubbles and threads, in about [0, 1]."""
    total = np.zeros((_FROTH, _FROTH), dtype=np.float32)
    for octave, (cells, share) in enumerate(((24, 0.30), (60, 0.28), (130, 0.26), (300, 0.24))):
        grid = Image.fromarray(uniform(900 + octave, cells, cells))
        noise = np.asarray(grid.resize((_FROTH, _FROTH), Image.Resampling.BICUBIC))
        total += share * (1 - np.abs(2 * noise - 1) * 1.3)
    return np.asarray((total - total.min()) / (total.max() - total.min()) * 1.15, dtype=np.float32)


def develop(light: Image32, scene: Scene) -> Image8:
    """The photo (height x width x 3) of light in three planes, 1 being white paper in full daylight."""
    shot = scene.shot
    index = (light * (_STEPS / _BRIGHTEST)).clip(0, _STEPS - 1).astype(np.int32)
    flat = np.stack([curve[at] for curve, at in zip(_curves(scene.encounter, shot), index, strict=True)], -1)
    if shot.motion:
        # The camera moves sideways by one or two pixels to each side.
        row = [int(abs(place) <= shot.motion) for place in range(-2, 3)]
        shaken = ImageFilter.Kernel((5, 5), [0] * 10 + row + [0] * 10)
        flat = np.asarray(Image.fromarray(flat).filter(shaken))
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


@lru_cache(maxsize=1)
def _grain() -> NDArray[np.int16]:
    """Noise with standard deviation 12.8, enough for any photo, mostly the same in the three channels."""
    grey = np.repeat(uniform(41, 2, 1 << 18).sum(0) - 1, 3)
    return np.asarray((grey + 0.5 * (uniform(42, 2, 3 << 18).sum(0) - 1)) * 28, dtype=np.int16)
