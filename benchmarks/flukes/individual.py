"""An individual: all that stays the same from one photo of a whale to the next, in whole thousandths.

From these numbers come the outline of its flat fluke (trailing edge above, leading edge and peduncle below)
and the texture of its underside: pigment, scars and barnacles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from whalebench.benchmarks.flukes.integers import Stream, drawn, uniform

Mark = tuple[int, ...]
Array = NDArray[np.float64]
Image32 = NDArray[np.float32]

SPAN = np.linspace(-1.0, 1.0, 1281)
"""Places across the fluke, from the left tip (-1) over the notch (0) to the right tip (1)."""

_OUT = SPAN[SPAN.size // 2 :]
"""Places along one wing, from the notch to its tip."""
COLUMNS, ROWS = 512, 128
"""The texture's size: columns from tip to tip, rows from the trailing edge (top) to the leading edge."""


def _draw_length(stream: Stream) -> int:
    return 1000 - stream.either(120, (40, 160), (0, 30))


def _draw_nicks(stream: Stream) -> tuple[Mark, ...]:
    return tuple(_nick(stream) for _ in range(max(0, stream.between(-1, 5))))


def _nick(stream: Stream) -> Mark:
    depth = stream.either(350, (50, 130), (18, 50))
    return stream.between(90, 960), stream.between(10, 26) + depth // 4, depth, stream.between(-500, 500)


@dataclass(frozen=True)
class Wing:
    """One half of a fluke; lengths are thousandths of the half width, from the notch to the tip.

    What both wings have in common is added to some fields by `draw_individual`.
    """

    length: int = drawn(_draw_length)
    sweep: int = drawn(Stream.between, (-20, 20))
    bump: int = drawn(Stream.between, (-25, 25))
    hook: int = drawn(Stream.between, (-40, 40))
    power: int = drawn(Stream.between, (-80, 80))
    tip: int = drawn(Stream.between, (-3, 3))
    drop: int = drawn(Stream.between, (-20, 20))
    scallop: int = drawn(Stream.between, (-3, 3))
    seed: int = drawn(Stream.seed)
    nicks: tuple[Mark, ...] = drawn(_draw_nicks)
    """Position, width, depth and lean of each cut in the trailing edge."""
    white: int = drawn(Stream.between, (-180, 180))
    centre: int = drawn(Stream.between, (60, 420))
    trailing: int = drawn(Stream.between, (10, 220))
    leading: int = drawn(Stream.between, (0, 260))
    end: int = drawn(Stream.between, (0, 200))


@dataclass(frozen=True)
class Individual:
    """A fluke: its outline, its pigment, and what the years have left on it."""

    chord: int
    notch_depth: int
    notch_width: int
    peduncle: int
    left: Wing
    right: Wing
    pattern: int
    mirrored: int
    coarse: int
    soft: int
    tone: int
    blotches: tuple[Mark, ...]
    """Place x and y, radii along and across, turn (degrees) and gain of each patch of other colour."""
    scars: tuple[Mark, ...]
    """Place, turn, length, bend, width and brightness of each line."""
    barnacles: tuple[Mark, ...]
    """Place, radius and whether it is a ring."""


def draw_individual(name: str) -> Individual:
    """The individual of that name, always the same."""
    stream = Stream("individual", name)
    common = {"white": stream.between(-1000, 1000)}
    common |= {"sweep": stream.bell(30, 280), "bump": stream.bell(0, 210), "hook": stream.bell(-60, 140)}
    common |= {"power": stream.between(1000, 2000), "tip": stream.between(14, 40)}
    common |= {"drop": stream.bell(110, 330), "scallop": stream.between(3, 18)}
    return Individual(
        chord=stream.bell(360, 640),
        notch_depth=stream.bell(20, 170),
        notch_width=stream.between(12, 90),
        peduncle=stream.between(110, 200),
        left=_wing(stream, common),
        right=_wing(stream, common),
        pattern=stream.seed(),
        mirrored=stream.between(350, 800),
        coarse=stream.between(5, 11),
        soft=stream.between(40, 220),
        tone=stream.between(720, 950),
        blotches=tuple(_draw_blotch(stream) for _ in range(stream.between(3, 9))),
        scars=_scars(stream, common["white"]),
        barnacles=_barnacles(stream),
    )


def _wing(stream: Stream, common: Mapping[str, int]) -> Wing:
    wing = stream.fill(Wing)
    values: dict[str, Any] = {name: value + getattr(wing, name) for name, value in common.items()}
    values |= {"tip": max(5, values["tip"]), "scallop": max(2, values["scallop"])}
    return replace(wing, **values)


def _draw_blotch(stream: Stream) -> Mark:
    place = stream.between(-950, 950), stream.between(0, 1000)
    radii = stream.between(30, 200), stream.between(60, 350)
    gain = stream.between(500, 1600) * (1 if stream.chance(560) else -1)
    return *place, *radii, stream.between(0, 179), gain


def _scars(stream: Stream, white: int) -> tuple[Mark, ...]:
    """Single lines, and rakes: the parallel lines that teeth leave."""
    scars: list[Mark] = []
    for _ in range(stream.between(2, 7) + (3 if white < -300 else 0)):
        place = stream.between(-900, 900), stream.between(50, 950)
        scars.append((*place, stream.between(0, 179), stream.between(60, 420), stream.between(-300, 300),
                      stream.between(5, 14), stream.between(-250, 1000)))  # fmt: skip
    for _ in range(stream.between(0, 2)):
        x, y, turn = stream.between(-850, 850), stream.between(100, 900), stream.between(20, 160)
        length, gap, bend = stream.between(60, 200), stream.between(18, 36), stream.between(-150, 150)
        scars += [(x + k * gap, y, turn, length, bend, 6, 800) for k in range(stream.between(3, 5))]
    return tuple(scars)


def _barnacles(stream: Stream) -> tuple[Mark, ...]:
    """Some alone, some in a cluster as they settle."""
    marks = [_barnacle(stream, stream.between(-960, 960), stream.between(30, 970))
             for _ in range(stream.between(0, 14))]  # fmt: skip
    for _ in range(stream.between(0, 2)):
        x, y = stream.between(-950, 950), stream.between(100, 900)
        marks += [_barnacle(stream, x + stream.between(-60, 60), y + stream.between(-150, 150))
                  for _ in range(stream.between(4, 10))]  # fmt: skip
    return tuple(marks)


def _barnacle(stream: Stream, x: int, y: int) -> Mark:
    return x, y, stream.between(7, 20), stream.between(0, 1)


@dataclass(frozen=True)
class Outline:
    """Edges of a fluke over SPAN, in half widths above the notch."""

    top: Array
    """The trailing edge: S-curved, scalloped and nicked."""
    low: Array
    """The leading edge with the peduncle, which goes down into the water."""
    lead: Array
    """The leading edge of the wings alone."""


@lru_cache(maxsize=16)
def outline_of(individual: Individual) -> Outline:
    """The outline of an individual's fluke, flat and straight before the eye."""
    depth, width = individual.notch_depth / 1000, individual.notch_width / 1000
    left, right = _trailing(individual.left), _trailing(individual.right)
    top = np.concatenate([left[::-1], right[1:]])
    top += depth * (1 - np.exp(-np.abs(SPAN) / width))
    chord = individual.chord / 1000
    left, right = _leading(individual.left, chord, top[0]), _leading(individual.right, chord, top[-1])
    lead = np.minimum(np.concatenate([left[::-1], right[1:]]), top)
    stock = np.exp(-((np.abs(SPAN) / (individual.peduncle / 1000)) ** 3))
    return Outline(top, lead - 1.1 * stock, lead)


def _trailing(wing: Wing) -> Array:
    edge = wing.sweep / 1000 * _OUT + wing.bump / 1000 * np.sin(np.pi * np.minimum(_OUT * 1.08, 1.0)) ** 1.3
    edge += wing.hook / 1000 * np.clip((_OUT - 0.8) / 0.2, 0, 1) ** 2
    # Small teeth, coarse and fine, strongest in the middle of the wing.
    coarse, fine = (
        np.interp(_OUT, np.linspace(0, 1, knots.size), knots)
        for knots in (uniform(wing.seed, 23), uniform(wing.seed + 1, 71))
    )
    teeth = 2.2 * coarse + fine - 1.6
    edge += wing.scallop / 1000 * teeth * np.sin(np.pi * np.clip(_OUT, 0.02, 0.98)) ** 0.5
    for place, width, depth, lean in wing.nicks:
        offset = (_OUT - place / 1000) / (width / 1000)
        offset = offset / (1 + lean / 1000 * np.sign(offset))
        edge -= depth / 1000 * np.clip(1.15 - np.abs(offset), 0, 1) ** 0.8
    return edge


def _leading(wing: Wing, chord: float, tip: float) -> Array:
    rise = -chord * (1 - _OUT ** (wing.power / 1000)) + (tip - wing.drop / 1000) * _OUT**2
    corner = _OUT**wing.tip
    return rise * (1 - corner) + tip * corner


@lru_cache(maxsize=4)
def texture(individual: Individual) -> Image32:
    """Lightness in [0, 1] over the fluke, ROWS x COLUMNS."""
    white = _white(individual)
    fine = smooth(individual.pattern + 9, 64, 128)
    skin = 0.05 + individual.tone / 1000 * white * (0.9 + 0.12 * (fine - 0.5)) + 0.03 * fine
    return _marked(individual, skin.astype(np.float32))


def smooth(seed: int, rows: int, columns: int, shape: tuple[int, int] = (ROWS, COLUMNS)) -> Image32:
    """Smooth noise in [0, 1]: a grid of rows x columns random values, enlarged to `shape`."""
    grid = Image.fromarray(uniform(seed, rows, columns))
    return np.asarray(grid.resize(shape[::-1], Image.Resampling.BICUBIC), dtype=np.float32).clip(0, 1)


def _white(individual: Individual) -> Image32:
    """The share of white at each place: from borders, patches and noise, partly the same on both wings."""
    x = np.linspace(-1, 1, COLUMNS, dtype=np.float32)[None, :]
    y = np.linspace(1, 0, ROWS, dtype=np.float32)[:, None]  # 1 at the trailing edge
    out = np.abs(x)
    wings = (individual.left, individual.right)
    white, centre, trailing, leading, end = (
        np.where(x < 0, *(np.float32(getattr(wing, field) / 1000) for wing in wings))
        for field in ("white", "centre", "trailing", "leading", "end")
    )
    field = 1.1 * white + 0.25
    field = field - 1.6 * np.exp(-((out / (0.05 + centre)) ** 2)) * (1.1 - white)
    field = (
        field - 1.8 * np.exp(-(1 - y) / (0.015 + 0.4 * trailing)) - 1.5 * np.exp(-y / (0.015 + 0.4 * leading))
    )
    field = field - 1.6 * np.exp(-(1 - out) / (0.02 + end))
    field = field + 1.7 * (_clouds(individual) - 0.5)
    for blotch in individual.blotches:
        field = field + _blotch(blotch, x, y)
    return np.asarray(0.5 + 0.5 * np.tanh(field * (500 / individual.soft)), dtype=np.float32)


def _clouds(individual: Individual) -> Image32:
    seed, columns, share = individual.pattern, individual.coarse, individual.mirrored / 1000
    both = smooth(seed, 3, columns) + 0.5 * smooth(seed + 1, 8, 3 * columns)
    both = (both + both[:, ::-1]) / 2
    own = smooth(seed + 2, 3, columns) + 0.5 * smooth(seed + 3, 8, 3 * columns)
    rough = smooth(seed + 4, 40, 160) - 0.5
    return np.asarray((share * both + (1 - share) * own) / 1.5 + 0.35 * rough, dtype=np.float32)


def _blotch(blotch: Mark, x: Image32, y: Image32) -> Image32:
    place_x, place_y, along, across, turn, gain = blotch
    dx, dy = x - (place_x / 1000), (y - (place_y / 1000)) * 0.5
    cos, sin = float(np.cos(np.radians(turn))), float(np.sin(np.radians(turn)))
    far = ((dx * cos + dy * sin) / (along / 1000)) ** 2 + ((dy * cos - dx * sin) / (across / 2000)) ** 2
    return np.asarray(gain / 1000 * np.exp(-(far**2)), dtype=np.float32)


def _marked(individual: Individual, skin: Image32) -> Image32:
    """The skin with scars and barnacles drawn over it, at twice the size and then reduced."""
    big = Image.fromarray(skin).resize((2 * COLUMNS, 2 * ROWS), Image.Resampling.BILINEAR)
    pen = ImageDraw.Draw(big)
    for scar in individual.scars:
        _scar(pen, individual, scar)
    for x, y, radius, ring in individual.barnacles:
        left, upper = _place(individual, x / 1000, y / 1000)
        wide, high = radius / 1000 * COLUMNS, radius / 1000 * COLUMNS * _squeeze(individual, x / 1000)
        box = (left - wide, upper - high, left + wide, upper + high)
        pen.ellipse(box, outline=0.1 if ring else 0.62, fill=None if ring else 0.14, width=2)
    return np.asarray(big.resize((COLUMNS, ROWS), Image.Resampling.BOX), dtype=np.float32)


def _scar(pen: ImageDraw.ImageDraw, individual: Individual, scar: Mark) -> None:
    x, y, turn, length, bend, width, tone = scar
    angle = np.radians(turn)
    steps = np.linspace(-0.5, 0.5, 9)
    points = []
    for step in steps:
        along, aside = step * length / 1000, bend / 1000 * step * step * length / 250
        px = x / 1000 + along * np.cos(angle) - aside * np.sin(angle)
        dy = along * np.sin(angle) + aside * np.cos(angle)
        points.append(_place(individual, px, y / 1000, float(dy)))
    level = 0.08 if tone < 0 else 0.45 + 0.45 * tone / 1000
    pen.line(points, fill=level, width=max(1, round(width / 1000 * COLUMNS / 2)))


def _place(individual: Individual, x: float, y: float, rise: float = 0.0) -> tuple[float, float]:
    """Pixel of the doubled texture for a place across (-1 to 1), a share of the chord and a rise above."""
    return (x + 1) * COLUMNS, (1 - y) * 2 * ROWS - rise * COLUMNS * _squeeze(individual, x)


def _squeeze(individual: Individual, x: float) -> float:
    """Rows of texture for a length that takes one column, at a place across."""
    outline = outline_of(individual)
    at = int(np.clip((x + 1) / 2 * (SPAN.size - 1), 0, SPAN.size - 1))
    return float(2 * ROWS / COLUMNS / max(0.15, outline.top[at] - outline.lead[at]))
