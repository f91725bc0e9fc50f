"""What a board says of its photos: labels that may be wrong, and the individuals that are hardest to tell."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from whalebench import WhalebenchError, table_cell, visible
from whalebench.reports.board import Row, Table
from whalebench.reports.metrics.ranking import NEW, Floats
from whalebench.reports.page.answers import CANDIDATE, PROBABILITY
from whalebench.reports.page.galleries import Answers, Galleries, Photo

KNOWN_FROM, NEW_FROM = 0.95, 0.99
"""Pooled probability of another individual from which a label is doubted, one that names an individual, and
*new*: probabilities are those among known individuals, and somebody new may look much like one of them."""
FEWEST = 2
"""Contestants that have to name the other individual."""
LEAST = 1e-4
"""A probability is taken to be no nearer to 0 and 1: one answer alone settles nothing."""
RULE = (
    "A label is doubted where two contestants or more, and at least half of all, name one other individual "
    f"first, and its pooled probability is {KNOWN_FROM:g} or more, {NEW_FROM:g} where the label is new: the "
    "geometric mean of its calibrated odds over the surest majority of contestants."
)
HARDEST = 12
"""Individuals that are listed."""


class Suspect(NamedTuple):
    """A test photo whose label may be wrong."""

    photo: Photo
    label: str
    """The individual, or *new*."""
    says: str
    """The individual that is named instead."""
    agree: int
    """Runs that name it first."""
    runs: int
    """Runs that were asked."""
    contestants: tuple[str, ...]
    """Those a run of which names it first."""
    confidence: float
    """Mean probability of it by the runs that name it."""
    probability: float
    """Pooled, see RULE."""
    folds: tuple[int, ...]
    example: Photo | None
    """A photo of the individual that is named."""


class Doubts(NamedTuple):
    """The labels of a table that may be wrong."""

    rule: str
    suspects: tuple[Suspect, ...]
    """The strongest first."""
    photos: int
    """Test photos that were looked at: those that at least two contestants answered."""


class HardIndividual(NamedTuple):
    """An individual that contestants do badly on."""

    name: str
    map_at_5: float
    """The mean over contestants, of each over its runs' photos of it."""
    photos: int
    """Test photos of it."""
    contestants: int
    sides: tuple[str, ...]
    """From which the test photos show it."""
    taken_for: tuple[tuple[str, int], ...]
    """Who is named first instead, *new* among them, and how often, the most frequent first."""
    photo: Photo | None
    """One of its test photos."""


def suspected_labels(table: Table, galleries: Galleries) -> Doubts:
    """The test photos of a table whose labels may be wrong, by RULE."""
    answered = _answered(table, galleries)
    if answered.empty:
        return Doubts(RULE, (), 0)
    asked = answered.groupby("image")["number"].nunique()
    claims = answered[answered["verdict"].isin(("wrong", "new_taken_for_known"))]
    named = claims.groupby(["image", "candidate_1"])["number"].nunique()
    needed = np.maximum(FEWEST, asked.loc[named.index.get_level_values(0)].to_numpy() / 2)
    photos = dict(iter(answered.groupby("image", sort=False)))
    suspects = (_suspect(photos[image], says) for image, says in named[named >= needed].index)
    found = sorted(filter(None, suspects), key=lambda one: (-one.probability, one.photo.image))
    return Doubts(RULE, tuple(_with_photos(found, table, galleries)), int((asked >= FEWEST).sum()))


def _answered(table: Table, galleries: Galleries) -> pd.DataFrame:
    """All answers of a table's contestants, floors left out, with contestant, its number, and fold."""
    parts = []
    for number, one in enumerate(table.contestants):
        for row in () if one.untrained else _rows(one.newest.values()):
            try:
                answers = galleries.answers(row)
            except WhalebenchError:  # its row says why
                continue
            parts.append(answers.table.assign(contestant=one.name, number=number, fold=row.record.fold))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _rows(seeds: Iterable[dict[int, Row]]) -> Iterator[Row]:
    return (row for part in seeds for row in part.values())


def _suspect(answers: pd.DataFrame, says: str) -> Suspect | None:
    """The suspicion that a photo, all answers to which are given, shows that other individual."""
    agrees, label = (answers["candidate_1"] == says).to_numpy(), answers["truth"].iloc[0]
    _, number = np.unique(answers["number"], return_inverse=True)
    runs, given = np.bincount(number), _probability_of(answers, says)
    probability = pooled(np.bincount(number, given) / runs)
    if not probability >= (NEW_FROM if label == NEW else KNOWN_FROM):
        return None
    return Suspect(
        photo=Photo(str(answers["image"].iloc[0])),
        label=label,
        says=says,
        agree=int(agrees.sum()),
        runs=len(answers),
        contestants=tuple(dict.fromkeys(answers["contestant"][agrees])),
        confidence=float(given[agrees].mean()),
        probability=probability,
        folds=tuple(sorted(set(answers["fold"].tolist()))),
        example=None,
    )


def _probability_of(answers: pd.DataFrame, name: str) -> Floats:
    """What each answer gives an individual; where that is none of the five, what the last of them got."""
    given = answers[list(PROBABILITY)].to_numpy(np.float64)
    is_it = answers[list(CANDIDATE)].to_numpy() == name
    found: Floats = np.where(is_it, given, 0.0).sum(axis=1)
    return np.asarray(np.where(is_it.any(axis=1), found, np.fmin.reduce(given, axis=1)), np.float64)


def pooled(probabilities: Floats) -> float:
    """The geometric mean of the odds of the surest majority, as a probability; NaN where one is not known.

    >>> round(pooled(np.array([0.5, 0.9, 0.1])), 3)
    0.75
    """
    surest = np.sort(np.clip(probabilities, LEAST, 1 - LEAST))[::-1][: len(probabilities) // 2 + 1]
    odds = np.log(surest / (1 - surest)).mean() if not np.isnan(probabilities).any() else np.nan
    return float(1 / (1 + np.exp(-odds)))


def _with_photos(suspects: Iterable[Suspect], table: Table, galleries: Galleries) -> Iterator[Suspect]:
    """The suspects with their photos, and one of who they are said to show."""
    of_image = _one_answer(table, galleries)
    for place, one in enumerate(suspects):
        answers = of_image[one.photo.image]
        photo = galleries.photo(answers.photos, one.photo.image, place)
        example = galleries.another(answers, one.says, photo.viewpoint, place)
        yield one._replace(photo=photo, example=example)


def _one_answer(table: Table, galleries: Galleries) -> dict[str, Answers]:
    """By test photo, a run that was tested on it."""
    found: dict[str, Answers] = {}
    for one in table.contestants:
        for row in _rows(one.newest.values()):
            try:
                answers = galleries.answers(row)
            except WhalebenchError:
                continue
            found |= dict.fromkeys(answers.tested - found.keys(), answers)
    return found


def doubts_csv(doubts: Doubts) -> str:
    """The suspects as CSV, a row each, texts as `table_cell` keeps them."""
    names = ("image", "label", "says", "probability", "agree", "runs", "confidence", "contestants", "folds")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for one in doubts.suspects:
        numbers = f"{one.probability:.4f}", one.agree, one.runs, f"{one.confidence:.4f}"
        several = " ".join(one.contestants), " ".join(map(str, one.folds))
        texts = (one.photo.image, one.label, one.says)
        cells = [table_cell(visible(cell)) if isinstance(cell, str) else cell for cell in (*texts, *several)]
        writer.writerow([*cells[:3], *numbers, *cells[3:]])
    return text.getvalue()


def hardest_individuals(
    table: Table, galleries: Galleries, most: int = HARDEST
) -> tuple[HardIndividual, ...]:
    """The known individuals that a table's contestants do worst on, floors left out, the worst first."""
    answered = _answered(table, galleries)
    if answered.empty:
        return ()
    known = answered[answered["truth"] != NEW]
    by_contestant = known.groupby(["truth", "number"])["average_precision_at_5"].mean()
    worth = by_contestant.groupby(level="truth").mean()
    order = sorted(worth.index, key=lambda name: (worth[name], name))[:most]
    of_image, parts = _one_answer(table, galleries), known[known["truth"].isin(order)].groupby("truth")
    found = []
    for place, name in enumerate(order):
        part = parts.get_group(name)
        wrong = part["candidate_1"][part["verdict"] != "right"]
        image = str(min(part["image"]))
        answers = of_image[image]
        found.append(
            HardIndividual(
                str(name),
                float(worth[name]),
                part["image"].nunique(),
                part["number"].nunique(),
                tuple(sorted(set(part["viewpoint"]) - {""})),
                tuple(sorted(Counter(wrong).items(), key=lambda item: (-item[1], item[0]))),
                galleries.photo(answers.photos, image, place),
            )
        )
    return tuple(found)
