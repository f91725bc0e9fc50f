"""Who is photographed, when and how often: the plan of the benchmark before anything is drawn.

A photo is a scene: one individual at one encounter, whose photos share sea, light and view, in one shot with
its own pose and camera. `pose` says where its fluke lies in the photo: bent, turned, cut by the water and
seen by a camera, with its box and landmarks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from whalebench import WhalebenchError
from whalebench.benchmarks.flukes.individual import SPAN, Individual, Outline, draw_individual, outline_of
from whalebench.benchmarks.flukes.integers import Stream, drawn

Colour = tuple[int, int, int]
Array = NDArray[np.float64]
Points = tuple[Array, Array]

_WATERS: tuple[Colour, ...] = (
    (18, 42, 66), (10, 52, 84), (22, 58, 62), (44, 58, 66), (30, 74, 110), (52, 66, 62), (14, 30, 48),
    (62, 76, 88),
)  # fmt: skip
_SKIES: tuple[Colour, ...] = (
    (196, 214, 232), (168, 196, 224), (206, 208, 210), (232, 214, 190), (150, 172, 196), (222, 226, 228),
)  # fmt: skip
SIZES = ((320, 192), (320, 200), (328, 184), (312, 208))
DRAWING_VERSION = 1
"""Raise it with every change of how scenes are drawn: it is part of each photo's content digest."""

PHOTOS, FEWEST = 1200, 20

_SIZES = {
    1: 60, 2: 18, 3: 12, 4: 10, 5: 8, 6: 6, 8: 6, 10: 5, 13: 5, 16: 4, 20: 4, 25: 3, 30: 3, 34: 1,
    38: 3, 42: 1, 50: 1,
}  # fmt: skip
"""Photos of an individual -> individuals with so many: 150 of them, 960 photos, a long tail."""

_YEARS, _SEASON = (2015, 2022), (150, 300)
"""Years, and days of a year, in which whales are met."""
LANDMARKS = ("left_tip", "notch", "right_tip", "bottom")

_MARGIN = 0.015
"""Share of the photo's sides that the fluke keeps away from them."""
_TALLEST = 0.88
_MIDDLE = SPAN.size // 2


@dataclass(frozen=True)
class Plan:
    """One photo to be drawn: its names and what is in it."""

    image: str
    identity: str
    encounter: str
    day: str
    life: str
    """The name the individual goes by while it is drawn, also where it is nobody's in the catalog."""
    scene: Scene


@dataclass(frozen=True)
class Scene:
    """All that is in a photo, in whole numbers."""

    individual: Individual
    encounter: Encounter
    shot: Shot

    @property
    def digest(self) -> str:
        """SHA-256 of what is drawn, the same on every machine whatever its rounding and JPEG encoder."""
        parts = [
            f'{{"version":{DRAWING_VERSION}}}',
            *map(_canonical, (self.individual, self.encounter, self.shot)),
        ]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@lru_cache(maxsize=8)
def _canonical(part: Individual | Encounter | Shot) -> str:
    """The numbers of a part of a scene as JSON with sorted keys and no spaces."""
    return json.dumps(vars(part), default=vars, sort_keys=True, separators=(",", ":"))


def _draw_motion(stream: Stream) -> int:
    return stream.between(1, 2) if stream.chance(120) else 0


@dataclass(frozen=True)
class Encounter:
    """One meeting with one whale: a day, a sea, a light and a place to stand."""

    width: int
    height: int
    water: Colour
    sky: Colour
    swell: int = drawn(Stream.between, (150, 1000))
    chop: int = drawn(Stream.between, (200, 1000))
    wave: int = drawn(Stream.between, (250, 750))
    direction: int = drawn(Stream.bell, (-50, 50))
    flat: int = drawn(Stream.between, (110, 260))
    horizon: int = drawn(Stream.either, (160, (350, 650), (800, 4000)))
    glint: int = drawn(Stream.positive, (-600, 1000))
    light: int = drawn(Stream.between, (-1000, 1000))
    ambient: int = drawn(Stream.between, (150, 1000))
    warmth: int = drawn(Stream.between, (-400, 600))
    haze: int = drawn(Stream.positive, (-300, 360))
    film: int = drawn(Stream.positive, (-500, 500))
    yaw: int = drawn(Stream.bell, (-600, 600))
    pitch: int = drawn(Stream.bell, (380, 1140))
    lift: int = drawn(Stream.bell, (-190, 370))
    share: int = drawn(Stream.bell, (600, 1000))
    tilt: int = drawn(Stream.bell, (-90, 90))
    depth: int = drawn(Stream.bell, (-500, 150))
    sea: int = drawn(Stream.seed)


@dataclass(frozen=True)
class Shot:
    """One photo of an encounter: the pose of that moment and the camera's doing.

    Six fields are drawn as offsets from the encounter's, which `draw_shot` adds.
    """

    yaw: int = drawn(Stream.bell, (-130, 130))
    pitch: int = drawn(Stream.bell, (-160, 160))
    lifts: tuple[int, int] = drawn(Stream.bell, (-160, 160), (-160, 160))
    curls: tuple[int, int] = drawn(Stream.bell, (-80, 340), (-80, 340))
    twists: tuple[int, int] = drawn(Stream.bell, (-380, 380), (-380, 380))
    roll: int = drawn(Stream.bell, (-220, 220))
    tilt: int = drawn(Stream.bell, (-40, 40))
    share: int = drawn(Stream.bell, (-100, 100))
    place: tuple[int, int] = drawn(Stream.bell, (0, 1000), (100, 900))
    depth: int = drawn(Stream.bell, (-120, 120))
    ripple: tuple[int, ...] = drawn(Stream.between, (3, 18), (0, 6283), (0, 6283), (0, 6283))
    drift: tuple[int, int] = drawn(Stream.between, (0, 9999), (0, 9999))
    splash: int = drawn(Stream.positive, (-300, 1000))
    drips: int = drawn(Stream.positive, (-1600, 1000))
    exposure: int = drawn(Stream.bell, (640, 1360))
    contrast: int = drawn(Stream.bell, (820, 1180))
    balance: tuple[int, int, int] = drawn(Stream.bell, (930, 1070), (960, 1040), (930, 1070))
    blur: int = drawn(Stream.either, (680, (0, 500), (500, 1500)))
    motion: int = drawn(_draw_motion)
    noise: int = drawn(Stream.between, (2, 24))
    quality: int = drawn(Stream.between, (62, 95))
    seed: int = drawn(Stream.seed)


def plan_photos(photos: int | None = None) -> list[Plan]:
    """Every photo of the benchmark, sorted by image; with `photos`, a smaller benchmark of that many."""
    total = PHOTOS if photos is None else photos
    if not FEWEST <= total <= PHOTOS:
        raise WhalebenchError(f"flukes cannot have {total} photos: ask for {FEWEST} to {PHOTOS}.")
    stream = Stream("flukes", "population")
    plans: list[Plan] = []
    numbers = stream.shuffled(range(1, 1000))
    for number, size in zip(numbers, _named_sizes(total), strict=False):
        plans += _photos_of(f"hw_{number:04d}", f"hw_{number:04d}", size)
    for count, size in enumerate(_new_sizes(total - len(plans))):
        plans += _photos_of(f"new {count}", "", size)
    return sorted(plans, key=lambda plan: plan.image)


def _named_sizes(total: int) -> list[int]:
    """How many photos each named individual has in a benchmark of `total` photos, a fifth of them *new*."""
    deck = Stream("flukes", "sizes").shuffled([size for size, count in _SIZES.items() for _ in range(count)])
    room, sizes = total - total // 5, []
    for size in deck:
        sizes.append(min(size, room, max(2, total // 12)))
        room -= sizes[-1]
        if not room:
            break
    return sizes


def _new_sizes(total: int) -> list[int]:
    stream, sizes = Stream("flukes", "new"), []
    while total:
        sizes.append(min(total, (1, 1, 1, 2, 2, 2, 3, 4)[stream.between(0, 7)]))
        total -= sizes[-1]
    return sizes


def _photos_of(name: str, identity: str, size: int) -> list[Plan]:
    """The photos of one individual, dealt to encounters of one to four photos on different days."""
    stream, individual = Stream("life", name), draw_individual(name)
    sizes = _encounter_sizes(stream, size, bool(identity))
    plans: list[Plan] = []
    for meeting, (count, day) in enumerate(zip(sizes, _days(stream), strict=False)):
        label = f"{name}/{meeting}"
        encounter, code = draw_encounter(label), f"e{_opaque('encounter', label, 7)}"
        for key in (f"{label}/{number}" for number in range(count)):
            image = f"{_opaque('image', key, 8)}.jpg"
            scene = Scene(individual, encounter, draw_shot(key, encounter))
            plans.append(Plan(image, identity, code, day.isoformat(), name, scene))
    return plans


def _days(stream: Stream) -> Iterator[date]:
    """Days of the seasons without end, none twice."""
    seen: set[date] = set()
    while True:
        day = date(stream.between(*_YEARS), 1, 1) + timedelta(days=stream.between(*_SEASON))
        if day not in seen:
            seen.add(day)
            yield day


def _encounter_sizes(stream: Stream, size: int, named: bool) -> list[int]:
    """Photos in each encounter: one to four; named individuals are nearly always met again."""
    again = stream.chance(900 if named else 100) or (named and size > 2)
    sizes: list[int] = []
    while size:
        most = min(4, size - 1 if again and not sizes and size > 1 else size)
        sizes.append(stream.between(1, most) if named or (again and not sizes) else most)
        size -= sizes[-1]
    return sizes


def _opaque(kind: str, key: str, digits: int) -> str:
    """A name that tells neither the individual nor the order."""
    return hashlib.sha256(f"flukes {kind} {key}".encode()).hexdigest()[:digits]


def draw_encounter(name: str) -> Encounter:
    """The encounter of that name, always the same."""
    stream = Stream("encounter", name)
    width, height = SIZES[stream.between(0, len(SIZES) - 1)]
    water, sky = _WATERS[stream.between(0, len(_WATERS) - 1)], _SKIES[stream.between(0, len(_SKIES) - 1)]
    return stream.fill(
        Encounter, width=width, height=height, water=_near(stream, water, 10), sky=_near(stream, sky, 14)
    )


def draw_shot(name: str, encounter: Encounter) -> Shot:
    """The photo of that name in its encounter: near its fellows, never the same."""
    shot = Stream("shot", name).fill(Shot)
    return replace(
        shot,
        yaw=min(650, max(-650, encounter.yaw + shot.yaw)),
        pitch=min(1150, max(400, encounter.pitch + shot.pitch)),
        lifts=(encounter.lift + shot.lifts[0], encounter.lift + shot.lifts[1]),
        tilt=encounter.tilt + shot.tilt,
        share=min(960, max(500, encounter.share + shot.share)),
        depth=encounter.depth + shot.depth,
    )


def _near(stream: Stream, colour: Colour, reach: int) -> Colour:
    red, green, blue = (max(0, c + stream.between(-reach, reach)) for c in colour)
    return red, green, blue


def planes(colour: Colour) -> NDArray[np.float32]:
    """The colour as light in [0, 1], one value for each of three planes."""
    return np.array(colour, dtype=np.float32)[:, None, None] / np.float32(255)


@dataclass(frozen=True)
class View:
    """A fluke posed before a camera; its columns stay straight, so that a pixel finds its place."""

    across: Array
    """Where each column of SPAN lies along the fluke's own axis, rising."""
    gain: Array
    """How much each column is stretched."""
    lift: Array
    """How far each column is raised."""
    turn: float
    """Turn of the fluke against the water, in radians."""
    tilt: float
    """Turn of the camera."""
    ripple: tuple[int, ...]
    water: float = 0.0
    """Height of the water in half widths of the fluke."""
    scale: float = 1.0
    """Pixels to a half width."""
    centre: tuple[float, float] = (0.0, 0.0)
    """The pixel of the upright frame's origin, where the fluke's axis crosses its middle."""
    box: tuple[int, ...] = (0, 0, 0, 0)
    """Around the visible fluke in whole pixels, rounded outward; x1 and y1 exclusive."""
    landmarks: tuple[tuple[float, float], ...] = ()
    """Left tip, notch, right tip and bottom in pixels, rounded to a tenth."""

    def upright(self, heights: Array) -> Points:
        """Points of the posed columns at flat heights, in the upright frame: x to the right, y up."""
        cos, sin, height = np.cos(self.turn), np.sin(self.turn), heights * self.gain + self.lift
        return self.across * cos - height * sin, self.across * sin + height * cos

    def pixels(self, x: Array, y: Array) -> Points:
        """Points of the upright frame in pixels of the photo, y down."""
        cos, sin = np.cos(self.tilt), np.sin(self.tilt)
        return (
            self.centre[0] + self.scale * (x * cos - y * sin),
            self.centre[1] - self.scale * (x * sin + y * cos),
        )

    def row_of_water(self) -> int:
        """The row of the photo, not cut to it, where the water stands in the fluke's middle."""
        return int(self.centre[1] - self.scale * self.water * np.cos(self.tilt))

    def waterline(self, x: Array) -> Array:
        """Height of the water before the fluke at each x of the upright frame."""
        size, first, second, third = (number / 1000 for number in self.ripple)
        waves = np.sin(7 * x + first) + 0.6 * np.sin(17 * x + second) + 0.4 * np.sin(37 * x + third)
        return np.asarray(self.water + size * waves)

    def visible(self, outline: Outline) -> tuple[Points, Points, NDArray[np.bool_]]:
        """Upper and lower ends of the columns in the upright frame, cut at the water; which are seen."""
        top, low = self.upright(outline.top), self.upright(outline.low)
        drop, part = np.maximum(top[1] - low[1], 1e-9), np.ones(top[0].size)
        for _ in range(2):  # the water's height depends on x, which moves a little along a turned column
            level = self.waterline(top[0] + part * (low[0] - top[0]))
            part = np.clip((top[1] - level) / drop, 0.0, 1.0)
        low = top[0] + part * (low[0] - top[0]), top[1] + part * (low[1] - top[1])
        return top, low, part > 0


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
        box=tuple(map(int, (*np.floor(corner), *np.ceil(corner + scale * size)))),
        landmarks=tuple((round(float(x), 1), round(float(y), 1)) for x, y in centre + scale * marks),
    )
