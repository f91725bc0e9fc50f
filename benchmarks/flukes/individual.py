"""An individual: all that stays the same from one photo of a whale to the next, in whole thousandths."""

from __future__ import annotations

from dataclasses import dataclass

from whalebench.benchmarks.flukes.integers import Stream

Mark = tuple[int, ...]


@dataclass(frozen=True)
class Wing:
    """One half of a fluke; lengths are thousandths of the half width, from the notch to the tip."""

    length: int
    sweep: int
    bump: int
    hook: int
    power: int
    tip: int
    drop: int
    scallop: int
    seed: int
    nicks: tuple[Mark, ...]
    """Position, width, depth and lean of each cut in the trailing edge."""
    white: int
    centre: int
    trailing: int
    leading: int
    end: int


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
    white = stream.between(-1000, 1000)
    sweep, bump, hook = stream.bell(30, 280), stream.bell(0, 210), stream.bell(-60, 140)
    power, tip, drop = stream.between(1000, 2000), stream.between(14, 40), stream.bell(110, 330)
    common = (sweep, bump, hook, power, tip, drop, stream.between(3, 18))
    return Individual(
        chord=stream.bell(360, 640),
        notch_depth=stream.bell(20, 170),
        notch_width=stream.between(12, 90),
        peduncle=stream.between(110, 200),
        left=_wing(stream, common, white),
        right=_wing(stream, common, white),
        pattern=stream.seed(),
        mirrored=stream.between(350, 800),
        coarse=stream.between(5, 11),
        soft=stream.between(40, 220),
        tone=stream.between(720, 950),
        blotches=tuple(_blotch(stream) for _ in range(stream.between(3, 9))),
        scars=_scars(stream, white),
        barnacles=_barnacles(stream),
    )


def _wing(stream: Stream, common: tuple[int, ...], white: int) -> Wing:
    sweep, bump, hook, power, tip, drop, scallop = common
    return Wing(
        length=1000 - (stream.between(40, 160) if stream.chance(120) else stream.between(0, 30)),
        sweep=sweep + stream.between(-20, 20),
        bump=bump + stream.between(-25, 25),
        hook=hook + stream.between(-40, 40),
        power=power + stream.between(-80, 80),
        tip=max(5, tip + stream.between(-3, 3)),
        drop=drop + stream.between(-20, 20),
        scallop=max(2, scallop + stream.between(-3, 3)),
        seed=stream.seed(),
        nicks=tuple(_nick(stream) for _ in range(max(0, stream.between(-1, 5)))),
        white=white + stream.between(-180, 180),
        centre=stream.between(60, 420),
        trailing=stream.between(10, 220),
        leading=stream.between(0, 260),
        end=stream.between(0, 200),
    )


def _nick(stream: Stream) -> Mark:
    deep = stream.chance(350)
    depth = stream.between(50, 130) if deep else stream.between(18, 50)
    return stream.between(90, 960), stream.between(10, 26) + depth // 4, depth, stream.between(-500, 500)


def _blotch(stream: Stream) -> Mark:
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
