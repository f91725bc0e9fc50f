"""Who is photographed, when and how often: the plan of the benchmark before anything is drawn."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta

from whalebench import WhalebenchError
from whalebench.benchmarks.flukes.encounter import draw_encounter, draw_shot
from whalebench.benchmarks.flukes.individual import draw_individual
from whalebench.benchmarks.flukes.integers import Stream
from whalebench.benchmarks.flukes.scene import Scene

PHOTOS, FEWEST = 1200, 20

_SIZES = {
    1: 60, 2: 18, 3: 12, 4: 10, 5: 8, 6: 6, 8: 6, 10: 5, 13: 5, 16: 4, 20: 4, 25: 3, 30: 3, 34: 1,
    38: 3, 42: 1, 50: 1,
}  # fmt: skip
"""Photos of an individual -> individuals with so many: 150 of them, 960 photos, a long tail."""

_YEARS, _SEASON = (2015, 2022), (150, 300)
"""Years, and days of a year, in which whales are met."""


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


def plan_photos(photos: int | None = None) -> list[Plan]:
    """Every photo of the benchmark, sorted by image; with `photos`, a smaller benchmark of that many."""
    total = PHOTOS if photos is None else photos
    if not FEWEST <= total <= PHOTOS:
        raise WhalebenchError(f"flukes cannot have {total} photos: ask for {FEWEST} to {PHOTOS}.")
    stream = Stream("flukes", "population")
    plans: list[Plan] = []
    numbers = stream.shuffled(range(1, 1000))
    for number, size in zip(numbers, named_sizes(total), strict=False):
        plans += _photos_of(f"hw_{number:04d}", f"hw_{number:04d}", size)
    for count, size in enumerate(_new_sizes(total - len(plans))):
        plans += _photos_of(f"new {count}", "", size)
    return sorted(plans, key=lambda plan: plan.image)


def named_sizes(total: int) -> list[int]:
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
