"""The review page: new photos beside their candidates, for a person to decide who it is.

The page is one file that fetches nothing; decisions are kept in the browser and downloaded as a CSV, which
`whalebench data correct` takes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import isnan
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import pandas as pd

from whalebench import __version__
from whalebench.benchmarks.core.catalog import NOT_IDENTIFIED, Catalog, build_catalog
from whalebench.benchmarks.core.files import digest_text
from whalebench.benchmarks.core.progress import SILENT, Progress
from whalebench.benchmarks.core.record import RunRecord
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.reports.metrics.ranking import NEW
from whalebench.reports.page.answers import WINDOW, PhotoFacts, Photos, open_photos
from whalebench.reports.page.galleries import Photo, window_of
from whalebench.reports.page.render import render
from whalebench.reports.page.thumbnails import Album, Thumbnail
from whalebench.reports.runs import without_paths

By = Literal["photo", "encounter"]
ASKED, EXAMPLES = 4, 3
"""Photos of an encounter, and of a candidate, that are shown."""
MOST = 1000
"""Photos or encounters that a page shows: more would be slow to open, and to look at."""
RULE = (
    "First comes what is worth a look most: by the calibrated probabilities, the number of photos that get "
    "their name for each candidate that is looked at."
)


class Predicted(Protocol):
    """What a run says of new photos, as `benchmarks.predicting` has it."""

    @property
    def record(self) -> RunRecord:
        """Of the run."""

    @property
    def photos(self) -> pd.DataFrame:
        """A row a photo: photo, path, file_digest, encounter, viewpoint, and WINDOW where not all is seen."""

    @property
    def gallery(self) -> pd.DataFrame:
        """A row a photo that they are compared with: image, identity, path, file_digest, viewpoint."""

    @property
    def problems(self) -> list[str]:
        """A sentence for each photo that could not be used."""

    def table(self, by: By | None = None) -> pd.DataFrame:
        """Rows of photo, encounter, place, candidate, probability, in_set, new and nearest."""


class Asked(NamedTuple):
    """A photo of which it is asked who it shows."""

    photo: Photo
    crop: str
    """Key of what the method saw; "" where it saw all."""


class Choice(NamedTuple):
    """An individual that it may be."""

    name: str
    probability: float | None
    """Calibrated, of all it may be, *new* among them where that is known; None where nothing is known."""
    in_set: bool
    """Whether it is on the list that holds the right one in 95 % of known photos."""
    photos: tuple[Photo, ...]
    """Of it, the one first that the run found nearest."""
    matched: bool
    """Whether there is such a one."""


class Look(NamedTuple):
    """A photo, or all photos of an encounter, to be looked at beside candidates."""

    title: str
    photos: tuple[str, ...]
    """Their names."""
    encounter: str
    new: float | None
    """The chance that it is none of them; None where that is not known."""
    worth: float
    """See `worth_of`."""
    asked: tuple[Asked, ...] = ()
    """Those of the photos that are shown."""
    choices: tuple[Choice, ...] = ()

    @property
    def key(self) -> str:
        """By which the browser keeps what is decided on it."""
        return digest_text(json.dumps(self.photos))[:16]


@dataclass(frozen=True)
class Review:
    """What the template is given."""

    run: str
    name: str
    """Of the benchmark, with which the file of decisions is called."""
    facts: tuple[str, ...]
    sentence: str
    looks: tuple[Look, ...]
    pictures: Mapping[str, Thumbnail]
    problems: tuple[str, ...]
    credits: tuple[str, ...]
    version: str
    made: str

    def uris(self) -> dict[str, str]:
        """The pictures, each once, by the key under which it is shown."""
        return {key: picture.uri for key, picture in self.pictures.items()}

    def data(self) -> dict[str, Any]:
        """What the page's script reads: of each look the photos, and the candidates in their order."""
        looks = [
            {"id": look.key, "photos": look.photos, "encounter": look.encounter, "new": look.new}
            | {"choices": [{"name": one.name, "probability": one.probability} for one in look.choices]}
            for look in self.looks
        ]
        key = digest_text(json.dumps([self.run, sorted(look.key for look in self.looks)]))
        return {"key": key[:16], "run": self.run, "name": self.name, "looks": looks}


def worth_of(probabilities: Sequence[float], photos: int) -> float:
    """How many photos are named for each candidate that is looked at, as probabilities promise.

    The candidates' (places,), in their order, are looked at one by one until it is found, and no further than
    to the one up to which this number is largest. An answer names all `photos` of an encounter.

    >>> worth_of([0.5, 0.25], 4), worth_of([0.5, 0.5], 1), worth_of([], 1)
    (2.0, 0.6666666666666666, 0.0)
    """
    found = np.cumsum(np.nan_to_num(np.asarray(probabilities, np.float64)))
    looks = np.cumsum(1 - np.concatenate([[0.0], found[:-1]]))
    return float((photos * found / np.maximum(looks, 1.0)).max(initial=0.0))


def in_order(looks: Sequence[Look]) -> list[Look]:
    """The looks as a page shows them: those that are worth most first, equal ones as they came."""
    return sorted(looks, key=lambda look: -look.worth)


def review_page(
    predictions: Predicted, workspace: Workspace, *, by: By = "photo", progress: Progress = SILENT
) -> str:
    """The page on which a person decides who is on new photos, each alone or those of an encounter together.

    Photos that cannot be read are said to be absent.
    """
    record, album = predictions.record, Album(workspace.cache, progress=progress)
    shown = _Shown(predictions, workspace, album)
    ordered = _sorted(looks_of(predictions, by))
    looks = [shown.complete(*look, place) for place, look in enumerate(ordered[:MOST])]
    if left := len(ordered) - len(looks):
        shown.problems.append(
            f"{left:,} that are worth less are not on this page: decide, correct, predict again."
        )
    album.make()
    credits = (f"Photos: {', '.join(shown.credits)}.",) if shown.credits else ()
    made, name = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), record.benchmark.partition("@")[0]
    photos = len(predictions.photos)
    here = [f"{folder}{os.sep}" for folder in (workspace.root, Path.home())]
    together = f"{len(looks):,} encounters" if by == "encounter" else "each alone"
    page = Review(
        run=record.run,
        name=name,
        facts=(made, f"benchmark {record.benchmark}", f"run {record.run}", f"{photos:,} photos, {together}"),
        sentence=RULE,
        looks=tuple(looks),
        pictures=album.pictures,
        problems=tuple(without_paths([*predictions.problems, *shown.problems, *album.sentences], here)),
        credits=credits,
        version=__version__,
        made=made,
    )
    return render("review.html", page=page)


Rows = list[dict[Any, Any]]
"""Of the table of candidates."""


def looks_of(predictions: Predicted, by: By) -> list[tuple[Look, Rows]]:
    """What is to be looked at, with its candidates, in the order of the predictions; nothing is shown yet.

    A photo without an encounter is one by itself.
    """
    names = dict(zip(predictions.photos["photo"], predictions.photos["encounter"], strict=True))

    def key_of(photo: str, encounter: str) -> tuple[str, str]:
        return ("", encounter) if by == "encounter" and encounter else (photo, "")

    photos_of: dict[tuple[str, str], list[str]] = {}
    for photo, encounter in names.items():
        photos_of.setdefault(key_of(photo, encounter), []).append(photo)
    rows_of: dict[tuple[str, str], Rows] = {key: [] for key in photos_of}
    for row in predictions.table(by).to_dict("records"):
        rows_of[key_of(row["photo"], names[row["photo"]])].append(row)
    looks = []
    for key, photos in photos_of.items():
        rows = rows_of[key]
        new = _defined(rows[0]["new"]) if rows else None
        named = [row for row in rows if row["candidate"] != NEW]
        for row in named:
            row["probability"] = row["probability"] * (1 - (new or 0.0))
        worth = worth_of([row["probability"] for row in named], len(photos))
        looks.append((Look(max(key), tuple(photos), names[photos[0]], new, worth), named))
    return looks


def _sorted(looks: list[tuple[Look, Rows]]) -> list[tuple[Look, Rows]]:
    rows = {look.key: rows for look, rows in looks}
    return [(look, rows[look.key]) for look in in_order([look for look, _ in looks])]


class _Shown:
    """The photos of a review page, asked for from its album."""

    def __init__(self, predictions: Predicted, workspace: Workspace, album: Album) -> None:
        self.album = album
        self.credits: dict[str, None] = {}
        self._catalogued = open_photos(workspace.benchmarks, predictions.record)
        self.problems = [self._catalogued.problem] if self._catalogued.problem else []
        self._gallery = Photos(_catalog_of(predictions.gallery))
        new = predictions.photos.rename(columns={"photo": "image"})
        self._new = Photos(_catalog_of(new.assign(identity=NOT_IDENTIFIED)))
        seen = [name for name in WINDOW if name in new]
        rows = new[seen].to_dict("records") if len(seen) == len(WINDOW) else []
        self._windows = dict(zip(new["image"], map(window_of, rows), strict=False))
        self._later = len(new)

    def complete(self, look: Look, rows: Rows, place: int) -> Look:
        """The look with its photos; where a page is full, those of the last places are left out."""
        asked = tuple(self._asked(image, place) for image in look.photos[:ASKED])
        viewpoint = asked[0].photo.viewpoint
        choices = tuple(self._choice(row, viewpoint, place) for row in rows)
        return look._replace(asked=asked, choices=choices)

    def _asked(self, image: str, place: int) -> Asked:
        window = self._windows.get(image)
        crop = self._new.view(image, window) if window else None
        return Asked(self._photo(self._new, image, place), self.album.ask(crop, place) if crop else "")

    def _choice(self, row: dict[Any, Any], viewpoint: str, place: int) -> Choice:
        name, nearest = row["candidate"], row["nearest"]
        known = self._gallery.of(name)
        matched = nearest in known
        # Photos of the same side tell most: what the other one looks like is of little use.
        others = [image for image in known if image != nearest]
        others.sort(key=lambda image: self._gallery.facts(image).viewpoint != viewpoint)
        images = [nearest, *others][:EXAMPLES] if matched else others[:EXAMPLES]
        photos = [
            self._photo(self._gallery, image, place + bool(number) * self._later)
            for number, image in enumerate(images)
        ]
        in_set = not pd.isna(row["in_set"]) and bool(row["in_set"])
        return Choice(name, _defined(row["probability"]), in_set, tuple(photos), matched)

    def _photo(self, photos: Photos, image: str, place: int) -> Photo:
        facts, view = photos.facts(image), photos.view(image)
        credit = self._catalogued.facts(image).credit if photos is self._gallery else facts.credit
        if credit:
            self.credits[credit] = None
        facts = PhotoFacts(*facts[:-1], credit)
        return Photo(image, self.album.ask(view, place) if view else "", *facts[1:])


def _catalog_of(photos: pd.DataFrame) -> Catalog:
    return build_catalog(photos, "photos of a page")


def _defined(value: float) -> float | None:
    return None if isnan(value) else float(value)
