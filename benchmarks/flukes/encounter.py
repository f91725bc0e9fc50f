"""An encounter and a shot: what the photos of one meeting share, and what each has for itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whalebench.benchmarks.flukes.integers import Stream

Colour = tuple[int, int, int]

_WATERS: tuple[Colour, ...] = (
    (18, 42, 66), (10, 52, 84), (22, 58, 62), (44, 58, 66), (30, 74, 110), (52, 66, 62), (14, 30, 48),
    (62, 76, 88),
)  # fmt: skip
_SKIES: tuple[Colour, ...] = (
    (196, 214, 232), (168, 196, 224), (206, 208, 210), (232, 214, 190), (150, 172, 196), (222, 226, 228),
)  # fmt: skip
SIZES = ((320, 192), (320, 200), (328, 184), (312, 208))


@dataclass(frozen=True)
class Encounter:
    """One meeting with one whale: a day, a sea, a light and a place to stand."""

    width: int
    height: int
    water: Colour
    sky: Colour
    swell: int
    chop: int
    wave: int
    direction: int
    flat: int
    horizon: int
    glint: int
    light: int
    ambient: int
    warmth: int
    haze: int
    film: int
    yaw: int
    pitch: int
    lift: int
    share: int
    tilt: int
    depth: int
    sea: int


@dataclass(frozen=True)
class Shot:
    """One photo of an encounter: the pose of that moment and the camera's doing."""

    yaw: int
    pitch: int
    lifts: tuple[int, int]
    curls: tuple[int, int]
    twists: tuple[int, int]
    roll: int
    tilt: int
    share: int
    place: tuple[int, int]
    depth: int
    ripple: tuple[int, ...]
    drift: tuple[int, int]
    splash: int
    drips: int
    exposure: int
    contrast: int
    balance: Colour
    blur: int
    motion: int
    noise: int
    quality: int
    seed: int


def planes(colour: Colour) -> NDArray[np.float32]:
    """The colour as light in [0, 1], one value for each of three planes."""
    return np.array(colour, dtype=np.float32)[:, None, None] / np.float32(255)


def draw_encounter(name: str) -> Encounter:
    """The encounter of that name, always the same."""
    stream = Stream("encounter", name)
    width, height = SIZES[stream.between(0, len(SIZES) - 1)]
    water, sky = _WATERS[stream.between(0, len(_WATERS) - 1)], _SKIES[stream.between(0, len(_SKIES) - 1)]
    return Encounter(
        width=width,
        height=height,
        water=_near(stream, water, 10),
        sky=_near(stream, sky, 14),
        swell=stream.between(150, 1000),
        chop=stream.between(200, 1000),
        wave=stream.between(250, 750),
        direction=stream.bell(-50, 50),
        flat=stream.between(110, 260),
        horizon=stream.between(350, 650) if stream.chance(160) else stream.between(800, 4000),
        glint=max(0, stream.between(-600, 1000)),
        light=stream.between(-1000, 1000),
        ambient=stream.between(150, 1000),
        warmth=stream.between(-400, 600),
        haze=max(0, stream.between(-300, 360)),
        film=max(0, stream.between(-500, 500)),
        yaw=stream.bell(-600, 600),
        pitch=stream.bell(380, 1140),
        lift=stream.bell(-190, 370),
        share=stream.bell(600, 1000),
        tilt=stream.bell(-90, 90),
        depth=stream.bell(-500, 150),
        sea=stream.seed(),
    )


def draw_shot(name: str, encounter: Encounter) -> Shot:
    """The photo of that name in its encounter: near its fellows, never the same."""
    stream = Stream("shot", name)
    return Shot(
        yaw=min(650, max(-650, encounter.yaw + stream.bell(-130, 130))),
        pitch=min(1150, max(400, encounter.pitch + stream.bell(-160, 160))),
        lifts=(encounter.lift + stream.bell(-160, 160), encounter.lift + stream.bell(-160, 160)),
        curls=(stream.bell(-80, 340), stream.bell(-80, 340)),
        twists=(stream.bell(-380, 380), stream.bell(-380, 380)),
        roll=stream.bell(-220, 220),
        tilt=encounter.tilt + stream.bell(-40, 40),
        share=min(960, max(500, encounter.share + stream.bell(-100, 100))),
        place=(stream.bell(0, 1000), stream.bell(100, 900)),
        depth=encounter.depth + stream.bell(-120, 120),
        ripple=(stream.between(3, 18), *(stream.between(0, 6283) for _ in range(3))),
        drift=(stream.between(0, 9999), stream.between(0, 9999)),
        splash=max(0, stream.between(-300, 1000)),
        drips=max(0, stream.between(-1600, 1000)),
        exposure=stream.bell(640, 1360),
        contrast=stream.bell(820, 1180),
        balance=(stream.bell(930, 1070), stream.bell(960, 1040), stream.bell(930, 1070)),
        blur=stream.between(0, 500) if stream.chance(680) else stream.between(500, 1500),
        motion=stream.between(1, 2) if stream.chance(120) else 0,
        noise=stream.between(2, 24),
        quality=stream.between(62, 95),
        seed=stream.seed(),
    )


def _near(stream: Stream, colour: Colour, reach: int) -> Colour:
    red, green, blue = (max(0, c + stream.between(-reach, reach)) for c in colour)
    return red, green, blue
