"""A benchmark's photos to look at before anything is trained: `data show --html`.

How many photos individuals have, how large and how coloured photos are, when they were taken and individuals
met, and photos of individuals with few, some and many. Nothing here looks at a split or at a run.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whalebench import one_line
from whalebench.benchmarks.core.catalog import NAMELESS, Catalog, regions_of
from whalebench.benchmarks.core.files import digest_text
from whalebench.benchmarks.core.machine import cores
from whalebench.benchmarks.core.progress import SILENT, Progress
from whalebench.benchmarks.core.store import MAX_PIXELS, pixel_limit, read_photo
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.reports.drawings.catalogs import bars, colours, sizes
from whalebench.reports.drawings.theme import Picture
from whalebench.reports.page.answers import Photos
from whalebench.reports.page.galleries import Galleries, Wanted
from whalebench.reports.page.page import page_of_topics
from whalebench.reports.page.thumbnails import Album
from whalebench.reports.page.topics import Sample, Topic, anchor_of

BUCKETS: Mapping[str, tuple[int, float]] = {
    "1 photo": (1, 1),
    "2 photos": (2, 2),
    "3 to 5 photos": (3, 5),
    "6 to 10 photos": (6, 10),
    "11 to 20 photos": (11, 20),
    "more than 20 photos": (21, float("inf")),
}
"""By their names, from how many to how many photos the individuals in them have."""
INDIVIDUALS, EACH = {"none": 3, "few": 3, "all": 12}, 6
"""Individuals of a bucket that are shown, and photos of one."""
LOOKED_AT = 300
"""Photos that are decoded for their colours."""
MONTH, YEAR = len("2026-01"), len("2026")
PERIODS = {"month": MONTH, "year": YEAR, "decade": YEAR - 1}
"""What photos and encounters are counted by, and the letters of a date that say it."""
MOST_BARS = {"month": 60, "year": 150, "decade": 1000}
"""With more bars the next of PERIODS is taken."""


def catalog_page(
    catalog: Catalog,
    facts: Mapping[str, Any],
    workspace: Workspace,
    photos: Wanted = "few",
    progress: Progress = SILENT,
) -> str:
    """The page of a catalog; `facts` are what is told of it in numbers."""
    album = Album(workspace.cache, progress=progress)
    galleries = Galleries(workspace, album, photos)
    explored = _Explored(catalog, galleries, progress)
    topics = [*explored.topics(facts)]
    album.make()
    return page_of_topics(f"{catalog.name}: its photos", (), (), topics, workspace, galleries, album)


def _short(low: int, high: float) -> str:
    """A bucket below its bar.

    >>> _short(1, 1), _short(3, 5), _short(21, float("inf"))
    ('1', '3-5', '> 20')
    """
    return f"> {low - 1}" if high == float("inf") else f"{low}" if low == high else f"{low}-{high:g}"


def _month(date: str) -> str:
    """The year of a date of ISO 8601, and its month where it is known.

    >>> _month("2024"), _month("2024-05"), _month("20240531"), _month("2024-05-31T10:00")
    ('2024', '2024-05', '2024-05', '2024-05')
    """
    if re.fullmatch(r"\d{4}(-\d\d)?", date):
        return date
    return datetime.fromisoformat(date).isoformat()[:MONTH]


def _between(first: str, last: str) -> list[str]:
    """All months, years or decades from the first to the last.

    >>> _between("2019-12", "2020-02"), _between("2019", "2021"), _between("199", "200")
    (['2019-12', '2020-01', '2020-02'], ['2019', '2020', '2021'], ['199', '200'])
    """
    if len(first) < MONTH:
        return [f"{place:0{len(first)}d}" for place in range(int(first), int(last) + 1)]
    begin, end = (12 * int(each[:YEAR]) + int(each[YEAR + 1 :]) - 1 for each in (first, last))
    return [f"{place // 12:04d}-{place % 12 + 1:02d}" for place in range(begin, end + 1)]


def _periods(dates: Sequence[str]) -> tuple[str, int, list[str]]:
    """By what to count: its name, the letters of a date that say it, and all from the first to the last."""
    first, last, known = min(dates), max(dates), min(map(len, dates))
    ways = [
        (name, letters, _between(first[:letters], last[:letters]))
        for name, letters in PERIODS.items()
        if letters <= known
    ]
    return next((way for way in ways if len(way[2]) <= MOST_BARS[way[0]]), ways[-1])


def _by_time(dated: Sequence[tuple[str, str]]) -> Iterable[Picture]:
    """Photos and encounters in each period from the first to the last that has any, of dates and encounters.

    An encounter counts in each period that has a photo of it.
    """
    period, letters, every = _periods([date for date, _ in dated])
    met = {(date[:letters], encounter) for date, encounter in dated if encounter}
    counted = {
        "photos": Counter(date[:letters] for date, _ in dated),
        "encounters": Counter(at for at, _ in met),
    }
    for what, counts in counted.items():
        if counts:
            named = {f"{each}0s" if period == "decade" else each: counts[each] for each in every}
            yield bars(f"{what.capitalize()} by {period}", named, period, what)
    months = Counter(date[YEAR + 1 :] for date, _ in dated if len(date) == MONTH)
    if months:
        of_year = {month: months[month] for month in (f"{number:02d}" for number in range(1, 13))}
        yield bars("Photos by month of the year", of_year, "month")


@dataclass(frozen=True)
class _Explored:
    """What a page says of a catalog, subject by subject."""

    catalog: Catalog
    galleries: Galleries
    progress: Progress

    def topics(self, facts: Mapping[str, Any]) -> Iterable[Topic]:
        """In the order in which they are read."""
        said = {name: one_line(value, 300) for name, value in facts.items() if value not in ("", None)}
        yield Topic("catalog", "What is in it", facts=said)
        if self.photos_of:
            yield self._individuals()
        yield self._sizes()
        yield from filter(None, [self._colours(), self._times()])
        if self.photos_of:
            yield self._samples()

    @cached_property
    def photos_of(self) -> dict[str, list[str]]:
        """The photos of each individual in an order by their names' digests, those with most photos first."""
        table = self.catalog.table
        found: dict[str, list[str]] = defaultdict(list)
        for image, identity in zip(table["image"], table["identity"], strict=True):
            if identity not in NAMELESS:
                found[identity].append(image)
        order = sorted(found, key=lambda name: (-len(found[name]), digest_text(name)))
        return {name: sorted(found[name], key=digest_text) for name in order}

    def _individuals(self) -> Topic:
        numbers = list(map(len, self.photos_of.values()))
        of_each = {
            name: sum(low <= number <= high for number in numbers) for name, (low, high) in BUCKETS.items()
        }
        counts = {_short(*BUCKETS[name]): count for name, count in of_each.items()}
        half, held = 0, 0
        while 2 * held < sum(numbers):
            held += numbers[half]
            half += 1
        sentence = (
            f"{len(numbers):,} individuals have {sum(numbers):,} photos, {np.median(numbers):g} each by the "
            f"median; half of the photos are of {half:,} of them."
        )
        picture = bars("Individuals by how many photos they have", counts, "photos", "individuals")
        return Topic("individuals", "Photos of individuals", (sentence,), pictures=(picture,))

    def _sizes(self) -> Topic:
        table = self.catalog.table
        picture = sizes(table["width"].tolist(), table["height"].tolist())
        shapes = (table["width"] / table["height"]).to_numpy(np.float64)
        tall = int((shapes < 1).sum())
        sentence = (
            f"Photos are {np.median(table['width']):.0f} x {np.median(table['height']):.0f} pixels by the "
            f"median; {tall:,} of {len(table):,} are taller than wide."
        )
        return Topic("sizes", "Sizes", (sentence,), pictures=(picture,))

    def _colours(self) -> Topic | None:
        means = self._mean_colours()
        if not len(means):
            return None
        which = (
            f"all {len(means):,} photos"
            if len(means) == len(self.catalog.table)
            else f"{len(means):,} photos"
        )
        small = (
            f"Of {which}, each a dot in its mean colour; a photo without colour lies at 0. ◆ is the median."
        )
        return Topic("colours", "Colours", small=(small,), pictures=(colours(means),))

    def _mean_colours(self) -> NDArray[np.float64]:
        """Mean red, green and blue (photos, 3) of LOOKED_AT photos by their names' digests; readable ones."""
        table = self.catalog.table
        paths, regions = table["path"].tolist(), regions_of(table)
        chosen = sorted(range(len(table)), key=lambda row: digest_text(table["image"].iloc[row]))[:LOOKED_AT]

        def mean(row: int) -> NDArray[np.float64] | None:
            try:
                photo = read_photo(Path(paths[row]), "RGB", (64, 64), regions[row])
            except Exception:  # a decoder fed with broken bytes may raise anything; `data check` says which
                return None
            photo.thumbnail((64, 64), reducing_gap=2.0)
            red_green_blue: NDArray[np.float64] = np.asarray(photo, np.float64).mean(axis=(0, 1)) / 255
            return red_green_blue

        self.progress.stage("colours")
        with pixel_limit(MAX_PIXELS), ThreadPoolExecutor(cores()) as pool:
            found = [each for each in pool.map(mean, chosen) if each is not None]
        return np.array(found).reshape(-1, 3)

    def _times(self) -> Topic | None:
        """Photos and encounters over time; None where no photo has a date and none an encounter."""
        table = self.catalog.table
        dated = [
            (_month(date), encounter)
            for date, encounter in zip(table["date"], table["encounter"], strict=True)
            if date
        ]
        pictures = [*_by_time(dated)] if dated else []
        encounters = Counter(each for each in table["encounter"] if each)
        if encounters:
            numbers = Counter(encounters.values())
            few = {str(size): numbers[size] for size in sorted(numbers) if size <= 10}
            more = sum(count for size, count in numbers.items() if size > 10)
            pictures.append(
                bars(
                    "Encounters by their photos",
                    few | ({"> 10": more} if more else {}),
                    "photos",
                    "encounters",
                )
            )
        if not pictures:
            return None
        said = [f"{len(dated):,} of {len(table):,} photos have a date."] if dated else []
        said += [f"{len(encounters):,} encounters have {encounters.total():,} photos."] if encounters else []
        return Topic("times", "Encounters over time", tuple(said), pictures=tuple(pictures))

    def _samples(self) -> Topic:
        photos = Photos(self.catalog)
        samples = []
        for place, (title, (low, high)) in enumerate(BUCKETS.items()):
            inside = [name for name, images in self.photos_of.items() if low <= len(images) <= high]
            chosen = sorted(inside, key=digest_text)[: INDIVIDUALS[self.galleries.photos]]
            shown = tuple(
                (
                    name,
                    len(self.photos_of[name]),
                    tuple(
                        self.galleries.photo(photos, image, place) for image in self.photos_of[name][:EACH]
                    ),
                )
                for name in chosen
            )
            if shown:
                samples.append(Sample(anchor_of(title), f"{title}: {len(shown)} of {len(inside):,}", shown))
        return Topic(
            "samples",
            "A sample of each",
            ("Drawn by names, so the same every time.",),
            samples=tuple(samples),
        )
