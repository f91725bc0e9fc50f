"""Decisions of people who looked at photos and candidates: what they say one by one, and together.

A decision says of a photo and an individual whether they are one animal, or of a photo that it shows a new
one. Labels and decisions together say which photos and individuals are the same animal; what contradicts
itself is refused by line.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import pandas as pd

from whalebench import CONTROLS, WhalebenchError, cell_text, did_you_mean, one_line
from whalebench.benchmarks.core.catalog import NAMELESS, NOT_IDENTIFIED
from whalebench.benchmarks.importing.nobody import identity_of
from whalebench.benchmarks.importing.tables import LETTERS, Problem, TextTable, problem, read_table, refuse

COLUMNS = ("photo", "encounter", "decision", "individual", "probability", "run", "when")
"""Of a file of decisions, as the page of `predict --html` saves it. The first four say it all."""
Word = Literal["same", "different", "new", "unsure"]
Node = tuple[Literal["photo", "individual"], str]
Edges = Mapping[Node, Sequence[tuple[Node, "Decision | None"]]]
"""Photos and individuals that are one animal, each pair with the decision that says so; None: a label."""


class Decision(NamedTuple):
    """What somebody decided on a photo and an individual."""

    photo: str
    """"" where it is on all photos of the encounter."""
    encounter: str
    decision: Word
    individual: str
    """Of a new animal the name that it is given, or ""."""
    run: str
    """Whose candidate it was; "" where nobody said."""
    place: str
    """Where it stands in its file, as "line 3"."""

    @property
    def about(self) -> tuple[str, str, str]:
        """What there is one decision on: a photo or an encounter, and an individual, "" for a new one."""
        return self.photo, "" if self.photo else self.encounter, self.individual * (self.decision != "new")


def read_decisions(file: Path, *, open_rows: bool = False) -> tuple[Decision, ...]:
    """The decisions of a table with the COLUMNS, in its order; with `open_rows` some may have none yet.

    Raises WhalebenchError for a table without photo, decision and individual, for a row that says nothing
    clear, and for two decisions on one pair, all of them by line.
    """
    table = read_table(file, COLUMNS)
    if absent := {"photo", "decision", "individual"} - set(table.columns):
        raise WhalebenchError(
            f"{file} has no column {min(absent)}: give the CSV that the page of `predict --html` saves, or "
            f"one with the columns photo, decision and individual."
        )
    decisions, problems = [], list[Problem]()
    first: dict[tuple[str, str, str], Decision] = {}
    for index, (row, place) in enumerate(zip(table.rows, table.places, strict=True)):
        cells = {column: cell_text(row.get(column, "")) for column in COLUMNS}
        word: Any = cells["decision"].lower()
        if open_rows and not word:
            continue
        one = Decision(cells["photo"], cells["encounter"], word, cells["individual"], cells["run"], place)
        before = first.setdefault(one.about, one)
        problems += [(index, text) for text in _unclear(one, before)]
        decisions.append(one)
    refuse(file, table, problems)
    return tuple(dict.fromkeys(decisions))


def _unclear(one: Decision, before: Decision) -> Iterator[str]:
    """What is wrong with a decision by itself, or beside the first one that is about the same."""
    if one.decision not in get_args(Word):
        text = f"it is none of {', '.join(get_args(Word))}; write one of them"
        yield problem("decision", one.decision, text)
    if not one.photo and not one.encounter:
        yield problem("photo", "", "no photo and no encounter is named; fill one of the cells")
    if one.decision in ("same", "different") and not one.individual:
        yield problem("individual", "", f"nobody can be {one.decision} without a name; fill the cell")
    if (
        one.decision == "new"
        and one.individual
        and (
            identity_of(one.individual) != one.individual
            or CONTROLS.search(one.individual)
            or len(one.individual) > LETTERS
        )
    ):
        yield problem("individual", one.individual, "this is no name for an animal; give another, or none")
    if (one.decision, one.individual) != (before.decision, before.individual):
        words = f"{before.place} says {before.decision} {one_line(before.individual, 40)}".rstrip()
        yield problem("decision", one.decision, f"{words} of the same photo and individual; keep one of them")


def on_photos(file: Path, decisions: Sequence[Decision], table: pd.DataFrame) -> tuple[Decision, ...]:
    """The decisions with one for each photo of those that are on an encounter of a catalog's table.

    Raises WhalebenchError for photos and encounters that are not in the table, and for an encounter whose
    photos show several individuals, since nobody knows which of them was meant.
    """
    label = dict(labels_of(table))
    images_of: dict[str, list[str]] = defaultdict(list)
    for image, encounter in zip(table["image"], table["encounter"], strict=True):
        images_of[encounter].append(image)
    single: list[Decision] = []
    problems: list[Problem] = []
    for index, one in enumerate(decisions):
        images = [one.photo] if one.photo else images_of.get(one.encounter, [])
        if not set(images) <= label.keys() or not images:
            what = "photo" if one.photo else "encounter"
            text = "there is none of that name in the benchmark; give new photos with --photos, or correct it"
            problems.append((index, problem(what, one.photo or one.encounter, text)))
            continue
        shown = sorted({label[image] for image in images}.difference(NAMELESS))
        if len(shown) > 1:
            text = f"it shows {_and(shown)}, so nobody knows who is meant; give a row for each photo"
            problems.append((index, problem("encounter", one.encounter, text)))
        single += [one._replace(photo=image) for image in images]
    refuse_decisions(file, decisions, problems)
    return tuple(single)


@dataclass(frozen=True)
class Settled:
    """Whom photos show by labels and decisions together."""

    names: Mapping[str, str]
    """The individual of each photo that was decided on; NOT_IDENTIFIED where it is now nobody's."""
    merged: Mapping[str, str] = field(default_factory=dict)
    """Individuals that are another one, each with the name that stays."""
    new: tuple[str, ...] = ()
    """Individuals that were in no label before."""

    def name_of(self, image: str, label: str) -> str:
        """The individual of a photo that has this label."""
        return self.names.get(image, self.merged.get(label, label))


def settle(file: Path, decisions: Sequence[Decision], table: pd.DataFrame) -> Settled:
    """Whom each photo of a catalog's table shows, by its labels and the decisions on single photos.

    A label holds unless it is *different* or *new*. Individuals that a photo is both of are one animal, and
    bear the name of the one with most photos. Raises WhalebenchError, by line, for unknown individuals and
    for decisions that say together what another one denies.
    """
    label, photos = dict(labels_of(table)), Counter(table["identity"])
    named = _new_names(decisions, photos)
    refuse_decisions(file, decisions, list(_unknown(decisions, photos, {*named.values()})))
    edges = _edges(decisions, label, named)
    typed_first = sorted(named, key=lambda one: not one.individual)
    order = [*sorted(set(photos) - {*NAMELESS}, key=lambda name: (-photos[name], name))]
    place = {name: number for number, name in enumerate([*order, *(named[one] for one in typed_first)])}
    problems, names, merged = list[Problem](), dict[str, str](), dict[str, str]()
    for index, one in enumerate(decisions):
        reached = _reach(edges, ("photo", one.photo))
        problems += [(index, text) for text in _denied(one, reached, photos)]
        animals = sorted((name for kind, name in reached if kind == "individual"), key=place.__getitem__)
        merged |= {name: animals[0] for name in animals[1:] if name in photos}
        was = label[one.photo]
        names[one.photo] = animals[0] if animals else was if was in NAMELESS else NOT_IDENTIFIED
    refuse_decisions(file, decisions, problems)
    new = sorted(set(names.values()) - photos.keys() - {*NAMELESS})
    return Settled(names, merged, tuple(new))


def _new_names(decisions: Sequence[Decision], known: Mapping[str, int]) -> dict[Decision, str]:
    """The name of each new animal: what was typed, or the next free one of new-1, new-2 and so on."""
    taken = {*known, *(one.individual for one in decisions)}
    free = (name for number in count(1) if (name := f"new-{number}") not in taken)
    new = [one for one in decisions if one.decision == "new"]
    of_row = {one.place: one.individual for one in new}  # on an encounter it is one animal
    of_row = {place: name or next(free) for place, name in of_row.items()}
    return {one: of_row[one.place] for one in new}


def _unknown(decisions: Sequence[Decision], known: Mapping[str, int], new: set[str]) -> Iterator[Problem]:
    """Decisions on individuals that there are not, and new ones by the name of one that there is."""
    there = set(known) - {*NAMELESS}
    for index, one in enumerate(decisions):
        text = ""
        if one.decision == "new" and one.individual in there:
            text = "there is one of that name; write same, or give another"
        elif one.decision != "new" and one.individual and one.individual not in there | new:
            hint = did_you_mean(one.individual, there, "`whalebench benchmarks NAME` shows the benchmark")
            text = f"there is no such individual: {hint}"
        if text:
            yield index, problem("individual", one.individual, text)


def _edges(decisions: Sequence[Decision], label: Mapping[str, str], named: Mapping[Decision, str]) -> Edges:
    """Whom photos are said to show, by decisions and by the labels that no decision takes from them."""
    edges: dict[Node, list[tuple[Node, Decision | None]]] = defaultdict(list)

    def join(photo: str, individual: str, because: Decision | None) -> None:
        edges["photo", photo].append((("individual", individual), because))
        edges["individual", individual].append((("photo", photo), because))

    for one in decisions:
        if one.decision in ("same", "new"):
            join(one.photo, named.get(one, one.individual), one)
    taken = {
        one.photo
        for one in decisions
        if one.decision == "new" or (one.decision == "different" and one.individual == label[one.photo])
    }
    for photo in dict.fromkeys(one.photo for one in decisions):
        if label[photo] not in NAMELESS and photo not in taken:
            join(photo, label[photo], None)
    return edges


def _reach(edges: Edges, start: Node) -> dict[Node, tuple[Decision, ...]]:
    """All that is the same animal as a node, the nearest first, each with the decisions that say so."""
    reached: dict[Node, tuple[Decision, ...]] = {start: ()}
    waiting = deque([start])
    while waiting:
        here = waiting.popleft()
        for node, because in edges.get(here, ()):
            if node not in reached:
                reached[node] = reached[here] + ((because,) if because else ())
                waiting.append(node)
    return reached


def _denied(
    one: Decision, reached: Mapping[Node, tuple[Decision, ...]], known: Mapping[str, int]
) -> Iterator[str]:
    """How the others say together what a decision denies."""
    photo = one_line(one.photo, 40)
    for (kind, name), because in reached.items():
        is_other = one.decision == "new" and name in known
        if kind == "individual" and (is_other or (one.decision == "different" and name == one.individual)):
            lines = [each.place for each in because if each is not one] or ["its label"]
            says = "say" if len(lines) > 1 else "says"
            yield (
                f"{photo} is {one.decision if is_other else 'not ' + one_line(name, 40)} here, but "
                f"{_and(lines)} {says} that it is {one_line(name, 40)}; take one of them out"
            )
            return


def _and(words: Sequence[str]) -> str:
    """The first few words with "and" before the last.

    >>> _and(["line 2"]), _and(["line 2", "line 5", "line 9"])
    ('line 2', 'line 2, line 5 and line 9')
    """
    shown = [one_line(word, 40) for word in words[:4]]
    return f"{', '.join(shown[:-1])} and {shown[-1]}" if len(shown) > 1 else shown[0]


def refuse_decisions(file: Path, decisions: Sequence[Decision], problems: list[Problem]) -> None:
    """Raises one error for all problems of decisions, which are named by their places."""
    refuse(file, TextTable((), (), tuple(one.place for one in decisions)), problems)


def labels_of(table: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Image and identity of each row."""
    return zip(table["image"].tolist(), table["identity"].tolist(), strict=True)
