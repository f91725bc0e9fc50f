"""Galleries: which test photos of a run a page shows beside their candidates, and what it says of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from math import isnan
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whalebench import WhalebenchError
from whalebench.benchmarks.core.files import digest_text
from whalebench.benchmarks.core.record import RunRecord
from whalebench.benchmarks.core.saliency import Saliency, read_saliency
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.reports.board import Row, Table
from whalebench.reports.metrics.ranking import NEW
from whalebench.reports.page.answers import (
    CANDIDATE,
    NEAREST,
    PROBABILITY,
    SCORE,
    WINDOW,
    Photos,
    open_photos,
    read_answers,
)
from whalebench.reports.page.thumbnails import Album, View, Window

Wanted = Literal["none", "few", "all"]
"""How many photos a page shows."""
A_SET: dict[Wanted, int] = {"none": 6, "few": 6, "all": 24}
"""Queries of each set; with none their photos are left out, not what is said of them."""
FARTHEST = 1e5
"""A window with larger numbers is none."""
Verdict = Literal["right", "wrong", "new_taken_for_known", "known_taken_for_new"]
Places = NDArray[np.int64]
"""Rows of a table of answers, from 0."""
MARKS: dict[Verdict, str] = {
    "right": "✓",
    "wrong": "✗",
    "new_taken_for_known": "★",
    "known_taken_for_new": "?",
}
"""By which a verdict is known without colour."""


class Photo(NamedTuple):
    """A photo on a page; texts are "" where nothing is known."""

    image: str
    picture: str = ""
    """Its key in the album; "" where none is wanted, or its catalog is not there."""
    viewpoint: str = ""
    encounter: str = ""
    date: str = ""
    credit: str = ""
    """Whose it is, and its licence."""


class Candidate(NamedTuple):
    """What a run answers, one of the five."""

    place: int
    """From 1."""
    name: str
    """The individual, or *new*."""
    is_new: bool
    is_right: bool
    probability: float | None
    """Calibrated; None for *new*, and where the run says nothing of it."""
    score: float
    photo: Photo | None
    """A photo of it; None for *new*, and where there is none."""
    matched: bool
    """Whether that is the one that the run found nearest to the query, and not just another photo of it."""


class Query(NamedTuple):
    """A test photo with a run's answer."""

    anchor: str
    """Its name on the page: run, set, and row of the predictions."""
    photo: Photo
    crop: str
    """Key of what the method saw; "" where it saw whole photos, or that is not known."""
    saliency: str
    """Key of the photo under the heat of what hiding a place costs; "" where that is not known."""
    followed: str
    """The individual whose probability that heat is about."""
    label: str
    """The individual by the catalog; "" for one of unknown name."""
    truth: str
    """The individual, or *new* for one that train does not show."""
    verdict: Verdict
    mark: str
    words: str
    """The verdict, a part of a sentence."""
    rank: float | None
    """Of the truth, from 1; None where it is no candidate."""
    confidence: float | None
    """The calibrated probability of the best individual."""
    probability: float | None
    """The same of the true one; None for *new*."""
    candidates: tuple[Candidate, ...]
    answer: Photo | None
    """A photo of the true individual, where it is none of the candidates; None for *new*."""


class QuerySet(NamedTuple):
    """Queries of a kind."""

    name: str
    title: str
    sentence: str
    """What is in it, and in which order."""
    queries: tuple[Query, ...]
    of: int
    """How many of the kind there are."""


class Gallery(NamedTuple):
    """The queries of a run that are shown."""

    run: str
    contestant: str
    fold: int
    seed: int
    sets: tuple[QuerySet, ...] = ()
    """Those that hold a query."""
    sentence: str = ""
    """Why it shows no photo, or nothing; else empty."""


class Disagreement(NamedTuple):
    """Test photos on which one of two runs is right and the other is wrong."""

    first: str
    second: str
    """The runs."""
    contestants: tuple[str, str]
    fold: int
    only_first: tuple[tuple[Query, Query], ...]
    """Those on which the first is right, each with its query and the second's."""
    only_second: tuple[tuple[Query, Query], ...]
    of: tuple[int, int]
    """How many of both kinds there are."""


class Answers(NamedTuple):
    """What a run answered, with its photos."""

    record: RunRecord
    table: pd.DataFrame
    """See `read_answers`, with its `verdict`."""
    photos: Photos
    tested: frozenset[str]
    """Its test photos."""
    heats: dict[str, Saliency]
    """By photo, as far as it was explained."""


@dataclass
class Galleries:
    """Chooses queries, and asks an album for their pictures."""

    workspace: Workspace
    album: Album
    photos: Wanted = "few"
    credits: dict[str, None] = field(default_factory=dict)
    """Whose photos were asked for, under which licence, each once."""
    problems: dict[str, None] = field(default_factory=dict)
    """Why photos are not shown, sentences, each once."""
    _photos: dict[tuple[str, str], Photos] = field(default_factory=dict)
    _answers: dict[str, Answers] = field(default_factory=dict)

    def of(self, row: Row, *, every: bool = False) -> Gallery:
        """The gallery of a run; with `every`, where all photos are wanted, its queries as one more set."""
        record = row.record
        gallery = Gallery(record.run, row.contestant, record.fold, record.seed)
        try:
            answers = self.answers(row)
        except WhalebenchError as error:
            return gallery._replace(sentence=str(error))
        sets = [self._set(answers, *kind, A_SET[self.photos]) for kind in _kinds(answers)]
        if every and self.photos == "all":
            everything = np.arange(len(answers.table))
            kind = "every", "Every test photo", "All test photos of the fold, by name.", everything
            sets.append(self._set(answers, *kind, len(everything)))
        return gallery._replace(sets=tuple(one for one in sets if one.of), sentence=answers.photos.problem)

    def disagreements(self, first: Row, second: Row) -> Disagreement | None:
        """Where just one of two runs is right, the surest errors first; None for runs on other photos."""
        try:
            sides = self.answers(first), self.answers(second)
        except WhalebenchError:
            return None
        if sides[0].tested != sides[1].tested or len({side.record.catalog_digest for side in sides}) > 1:
            return None
        # Both in the order of names, row by row.
        orders = [np.argsort(side.table["image"].to_numpy(), kind="stable") for side in sides]
        right = [
            side.table["verdict"].to_numpy()[order] == "right"
            for side, order in zip(sides, orders, strict=True)
        ]
        runs = first.record.run, second.record.run
        parts: list[Any] = []
        numbers: list[int] = []
        for is_right, other in ((0, 1), (1, 0)):
            confidence = sides[other].table["confidence"].to_numpy()[orders[other]]
            chosen = np.flatnonzero(right[is_right] & ~right[other])
            shown = chosen[np.argsort(-confidence[chosen], kind="stable")][: A_SET[self.photos]]
            queries = [
                self._queries(side, order[shown], f"beside-{beside}")
                for side, order, beside in zip(sides, orders, reversed(runs), strict=True)
            ]
            parts.append(tuple(zip(*queries, strict=True)))
            numbers.append(len(chosen))
        return Disagreement(
            first=runs[0],
            second=runs[1],
            contestants=(first.contestant, second.contestant),
            fold=first.record.fold,
            only_first=parts[0],
            only_second=parts[1],
            of=(numbers[0], numbers[1]),
        )

    def best_pairs(self, table: Table) -> tuple[Disagreement, ...]:
        """Where the two best contestants of each group disagree, on their first fold and seed in common."""
        found = []
        for group in table.groups:
            best = [one for one in table.contestants if one.group is group][:2]
            for first, second in combinations(best, 2):
                fold = min(set(first.folds) & set(second.folds))
                seeds = set(first.newest[fold]) & set(second.newest[fold])
                if seeds:
                    rows = (one.newest[fold][min(seeds)] for one in (first, second))
                    found.append(self.disagreements(*rows))
        return tuple(one for one in found if one)

    def answers(self, row: Row) -> Answers:
        """What a run answered, read once; raises WhalebenchError for a run that has no answers to trust."""
        record = row.record
        if record.run not in self._answers:
            if row.queries is None:
                raise WhalebenchError(row.problem or record.unfit or "It has no answers.")
            folder = self.workspace.runs / record.run
            table = read_answers(folder, record)
            table["verdict"] = _verdicts(table)
            photos = self.photos_of(record)
            heats = self._heats(folder) if photos.catalog else {}
            self._answers[record.run] = Answers(record, table, photos, frozenset(table["image"]), heats)
        return self._answers[record.run]

    def photos_of(self, record: RunRecord) -> Photos:
        """The photos of a run's benchmark, read once."""
        which = record.benchmark.partition("@")[0], record.catalog_digest
        if which not in self._photos:
            self._photos[which] = photos = open_photos(self.workspace.benchmarks, record)
            self.problems |= {photos.problem: None} if photos.problem else {}
        return self._photos[which]

    def photo(self, photos: Photos, image: str, place: int = 0) -> Photo:
        """A photo with what is known of it, its picture asked for where pictures are wanted."""
        facts = photos.facts(image)
        picture = self._ask(photos.view(image), place)
        if picture and facts.credit:
            self.credits[facts.credit] = None
        return Photo(image, picture, *facts[1:])

    def another(self, answers: Answers, individual: str, viewpoint: str, place: int) -> Photo | None:
        """A photo of an individual that is no test photo, of that viewpoint where one is; None without."""
        photos = answers.photos
        known = [image for image in photos.of(individual) if image not in answers.tested]
        alike = [image for image in known if viewpoint and photos.facts(image).viewpoint == viewpoint]
        return self.photo(photos, (alike or known)[0], place) if known else None

    def _heats(self, folder: Path) -> dict[str, Saliency]:
        try:
            return read_saliency(folder)
        except WhalebenchError as error:
            self.problems[str(error)] = None
            return {}

    def _ask(self, view: View | None, place: int) -> str:
        return self.album.ask(view, place) if view and self.photos != "none" else ""

    def _set(
        self, answers: Answers, name: str, title: str, sentence: str, places: Places, most: int
    ) -> QuerySet:
        return QuerySet(name, title, sentence, self._queries(answers, places[:most], name), len(places))

    def _queries(self, answers: Answers, places: Places, name: str) -> tuple[Query, ...]:
        columns = {name: answers.table[name].to_numpy()[places].tolist() for name in answers.table}
        rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
        numbered = enumerate(zip(places.tolist(), rows, strict=True))
        anchor = f"{answers.record.run}-{name}"
        return tuple(
            self._query(answers, f"{anchor}-{number}", row, place) for place, (number, row) in numbered
        )

    def _query(self, answers: Answers, anchor: str, row: dict[Any, Any], place: int) -> Query:
        """The query of a row of answers; pictures of the first places come first where a page is full."""
        image, photos, window = row["image"], answers.photos, window_of(row)
        followed, heat = answers.heats.get(image, ("", None))
        photo = self.photo(photos, image, place)
        viewpoint, truth = photo.viewpoint or row["viewpoint"], row["truth"]
        candidates = tuple(self._candidates(answers, row, viewpoint, place))
        is_found = truth == NEW or any(one.is_right for one in candidates)
        return Query(
            anchor=anchor,
            photo=photo._replace(viewpoint=viewpoint),
            crop=self._ask(photos.view(image, window), place) if window else "",
            saliency=self._ask(photos.view(image, heat=heat), place) if followed else "",
            followed=followed,
            label=row["identity"],
            truth=truth,
            verdict=row["verdict"],
            mark=MARKS[row["verdict"]],
            words=_words(row),
            rank=_defined(row["rank"]),
            confidence=_defined(row["confidence"]),
            probability=_defined(row["probability"]),
            candidates=candidates,
            answer=None if is_found else self.another(answers, truth, viewpoint, place),
        )

    def _candidates(
        self, answers: Answers, row: dict[Any, Any], viewpoint: str, place: int
    ) -> Iterable[Candidate]:
        for number, columns in enumerate(zip(CANDIDATE, PROBABILITY, SCORE, NEAREST, strict=True), 1):
            name, probability, score, nearest = (row[column] for column in columns)
            if not name:
                return
            matched = bool(nearest) and answers.photos.view(nearest) is not None
            photo = (
                None
                if name == NEW
                else self.photo(answers.photos, nearest, place)
                if matched
                else self.another(answers, name, viewpoint, place)
            )
            is_right = name == row["truth"]
            yield Candidate(number, name, name == NEW, is_right, _defined(probability), score, photo, matched)


def _defined(value: float) -> float | None:
    return None if isnan(value) else float(value)


def window_of(row: Mapping[Any, Any]) -> Window | None:
    """Through which the method saw the photo of a row; None where it saw all of it, or that is not known."""
    numbers = [row[column] for column in WINDOW]
    if not np.abs(numbers).max() < FARTHEST or min(numbers[6:]) < 1:
        return None
    return Window(tuple(numbers[:6]), (int(numbers[6]), int(numbers[7])))


def _verdicts(table: pd.DataFrame) -> NDArray[np.object_]:
    """A Verdict a row, by its first candidate."""
    first, truth = table["candidate_1"].to_numpy(), table["truth"].to_numpy()
    names = ["right", "new_taken_for_known", "known_taken_for_new"]
    return np.select([first == truth, truth == NEW, first == NEW], names, "wrong").astype(object)


def _words(row: dict[Any, Any]) -> str:
    """The verdict on an answer, a part of a sentence."""
    first, truth, verdict = row["candidate_1"], row["truth"], row["verdict"]
    if verdict == "right":
        return "right: nobody that train shows" if truth == NEW else "right"
    if verdict == "new_taken_for_known":
        return f"new, taken for {first}"
    found = next((place for place, name in enumerate(CANDIDATE, 1) if row[name] == truth), 0)
    rank = "is no candidate" if isnan(row["rank"]) else f"has rank {row['rank']:g}"
    where = f"{truth} is candidate {found}" if found else f"{truth} {rank}"
    return f"taken for new: {where}" if verdict == "known_taken_for_new" else f"wrong: {where}"


def _kinds(answers: Answers) -> list[tuple[str, str, str, Places]]:
    """Name, title, sentence and rows of each set, in the order in which they are shown."""
    table, places = answers.table, np.arange(len(answers.table))
    verdict, rank, probability, confidence, new_score = (
        table[name].to_numpy() for name in ("verdict", "rank", "probability", "confidence", "new_score")
    )
    wrong = places[verdict != "right"]
    hardest = wrong[np.lexsort((probability[wrong], -rank[wrong]))]

    def of(kind: Verdict, by: NDArray[np.float64]) -> Places:
        chosen: Places = places[verdict == kind]
        return chosen[np.argsort(-by[chosen], kind="stable")]

    drawn = [digest_text(f"{answers.record.catalog_digest} {image}") for image in table["image"]]
    return [
        ("hardest", "Hardest", "Wrong answers, the worst rank of the truth first.", hardest),
        (
            "confident",
            "Most confident errors",
            "Known individuals taken for others, the surest answer first.",
            of("wrong", confidence),
        ),
        (
            "new_for_known",
            "New, taken for known",
            "Individuals that train does not show, taken for one that it shows, the surest answer first.",
            of("new_taken_for_known", confidence),
        ),
        (
            "known_for_new",
            "Known, taken for new",
            "Individuals that train shows, taken for new ones, the surest answer first.",
            of("known_taken_for_new", new_score),
        ),
        (
            "random",
            "Random",
            "Drawn by the photos' names, the same in all runs of a fold.",
            np.argsort(drawn),
        ),
    ]
