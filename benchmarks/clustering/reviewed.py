"""What a person said of pairs of photos: who is together, who is not, and how many individuals there are.

The number of individuals is the number of photos that are the *first* of theirs, in any order of all photos.
In an order that begins with one photo of each group there are two strata: of those, the ones that are not
first are groups torn apart; of all others, the ones that are first are strangers in a group. Of each stratum
photos are drawn at random, and each is held against the earlier photos that resemble it most, that of its
group first. So reviewed pairs give a number without bias, with an interval by two proportions (Wilson, 1927;
Zou and Donner, 2008). Perez et al. (ECCV 2024) count by reviewed pairs, too, by the number of photos that show
the individual of a drawn one, an estimate whose bias falls with the pairs of each photo.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import sqrt
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from whalebench import WhalebenchError, one_line
from whalebench.benchmarks.clustering.groups import Places
from whalebench.benchmarks.core.arrays import columns_of, normalise, rows_by_label, top_columns
from whalebench.benchmarks.core.files import digest_text

CANDIDATES = 10
"""How many earlier photos a drawn one is held against; one that is missed beyond them makes the count higher."""
Z = 1.959964
"""For intervals of 95 %."""
WORDS = ("same", "different", "new", "unsure", "")
MOST_LINES = 6
"""How many lines that contradict each other are named."""


class Decision(Protocol):
    """One line of a table of decisions."""

    photo: str
    decision: str
    """same, different, new, unsure, or empty."""
    individual: str
    """Another photo, or an individual that the run knows."""
    place: str
    """The file and the line."""


class _Link(NamedTuple):
    """What a line says of two nodes: the photos come first, then individuals by name."""

    one: int
    other: int
    place: str


@dataclass(frozen=True)
class Said:
    """Everything that decisions say of photos, none of it in contradiction."""

    component: Places
    """A number for each photo: photos with one number are one individual."""
    apart: frozenset[tuple[int, int]] = frozenset()
    """Pairs of such numbers, rising, that are two individuals."""
    unsure: frozenset[tuple[int, int]] = frozenset()
    """Pairs of photos, rising, that a person could not tell."""

    @classmethod
    def nothing(cls, photos: int) -> Said:
        """Where nobody has decided anything."""
        return cls(np.arange(photos))

    def same(self, one: int, other: int) -> bool | None:
        """Whether two photos show one individual; None where nothing says so."""
        ours, theirs = int(self.component[one]), int(self.component[other])
        if ours == theirs:
            return True
        return False if (min(ours, theirs), max(ours, theirs)) in self.apart else None

    def together(self) -> list[Places]:
        """The photos of each component that has several."""
        return [places for places in rows_by_label(self.component).values() if len(places) > 1]

    def divided(self) -> list[tuple[Places, Places]]:
        """The photos of the two components of each pair that is apart."""
        rows = rows_by_label(self.component)
        return [
            (rows[one], rows[other]) for one, other in sorted(self.apart) if one in rows and other in rows
        ]


def read_said(decisions: Sequence[Decision], photos: Sequence[str], individuals: Sequence[str] = ()) -> Said:
    """What the decisions say of these photos; `individuals` are those that the run knows, no two of them one.

    Same and different are said of a photo and another photo, or an individual. New is none of the known ones;
    where it is named it is the individual of that name. Raises WhalebenchError, which names the lines, for
    photos and individuals that are not there, for other words, and for decisions that contradict each other.
    """
    reading = _Reading(columns_of(photos), frozenset(individuals))
    for line in decisions:
        reading.take(line)
    return reading.said()


class _Reading:
    """Decisions as links between photos, and individuals by name, which are numbered behind the photos."""

    def __init__(self, photos: dict[str, int], known: frozenset[str]) -> None:
        self.photos, self.known = photos, known
        self.names: dict[str, int] = {}
        self.same: list[_Link] = []
        self.different: list[_Link] = []
        self.unsure: set[tuple[int, int]] = set()
        self.new: list[tuple[int, str]] = []

    def take(self, line: Decision) -> None:
        """Takes one line in."""
        if line.decision not in WORDS:
            raise WhalebenchError(
                f"{line.place}: the decision {one_line(line.decision, 30)!r} is none of same, different, new "
                f"and unsure; correct it."
            )
        if line.photo not in self.photos:
            raise WhalebenchError(
                f"{line.place}: there is no photo {one_line(line.photo, 60)!r} among those that are grouped; "
                f"give it, too, or remove the line."
            )
        one = self.photos[line.photo]
        if line.decision == "new" and not line.individual:
            self.new.append((one, line.place))
        elif line.decision == "unsure" and line.individual in self.photos:
            self.unsure.add(_rising(one, self.photos[line.individual]))
        elif line.decision in ("same", "new"):
            self.same.append(_Link(one, self._other(line), line.place))
        elif line.decision == "different":
            self.different.append(_Link(one, self._other(line), line.place))

    def _other(self, line: Decision) -> int:
        """The number of the photo or the individual that a line holds a photo against."""
        name = line.individual
        if name in self.photos and line.decision != "new":
            return self.photos[name]
        if name not in self.known and line.decision != "new" and name not in self.names:
            raise WhalebenchError(
                f"{line.place}: {one_line(name, 60)!r} is no photo that is grouped and no individual that "
                f"the run knows; correct it, or remove the line."
            )
        return self.names.setdefault(name, len(self.photos) + len(self.names))

    def said(self) -> Said:
        """All that follows; raises WhalebenchError for what contradicts itself."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        size = len(self.photos) + len(self.names)
        ends = [link.one for link in self.same], [link.other for link in self.same]
        graph = coo_array((np.ones(len(self.same)), ends), (size, size))
        component: Places = connected_components(graph, directed=False)[1]
        apart = [*self.different, *self._of_names()]
        for link in apart:
            if component[link.one] == component[link.other]:
                raise self._contradiction(link)
        pairs = {_rising(int(component[link.one]), int(component[link.other])) for link in apart}
        return Said(component[: len(self.photos)], frozenset(pairs), frozenset(self.unsure))

    def _of_names(self) -> Iterator[_Link]:
        """That individuals of two names are two, and photos of a new one none of the known."""
        for one, other in combinations(self.names.values(), 2):
            yield _Link(one, other, "")
        for photo, place in self.new:
            yield from (_Link(photo, self.names[name], place) for name in self.names if name in self.known)

    def _contradiction(self, link: _Link) -> WhalebenchError:
        """The error of two nodes that are apart, and the same by the shortest way over other lines."""
        lines = _way(self.same, link.one, link.other)
        names = [*self.photos, *self.names]
        one, other = (one_line(names[node], 40) for node in link[:2])
        what = f"{link.place}: {one!r} is not {other!r}" if link.place else f"{one!r} and {other!r} are two"
        more = f" and {len(lines) - MOST_LINES} more" if len(lines) > MOST_LINES else ""
        return WhalebenchError(
            f"{what}, but they are one by {', '.join(lines[:MOST_LINES])}{more}: correct one of these lines."
        )


def _rising(one: int, other: int) -> tuple[int, int]:
    return min(one, other), max(one, other)


def _way(links: Sequence[_Link], start: int, end: int) -> list[str]:
    """The places of the fewest links that lead from one node to another."""
    beside = defaultdict(list)
    for one, other, place in links:
        beside[one].append((other, place))
        beside[other].append((one, place))
    ways: dict[int, list[str]] = {start: []}
    waiting = deque([start])
    while end not in ways:
        node = waiting.popleft()
        for other, place in beside[node]:
            if other not in ways:
                ways[other] = [*ways[node], place]
                waiting.append(other)
    return ways[end]


class Look(NamedTuple):
    """A photo that was drawn, and the earlier photos that it is to be held against, the likeliest first."""

    photo: int
    first_of_group: bool
    """Whether it stands for its group; else it is one of the others."""
    earlier: tuple[int, ...]


@dataclass(frozen=True)
class Review:
    """Photos in the order in which their individuals are counted, and in which they are drawn."""

    embeddings: NDArray[np.float32]
    groups: Places
    """Made without any decision, so that a sample stays one whatever is decided."""
    names: tuple[str, ...]
    """Of the photos; they decide which are drawn first, whatever the order of the photos."""

    def looks(self) -> Iterator[Look]:
        """All photos as they are drawn: those that stand for a group in turns with the others."""
        unit = normalise(self.embeddings)
        first = np.array([self._middle(unit, rows) for rows in rows_by_label(self.groups).values()], np.int64)
        stands_for = np.zeros(len(unit), bool)
        stands_for[first] = True
        order = np.concatenate([first, np.flatnonzero(~stands_for)])
        rank = np.argsort(order)
        drawn = sorted(range(len(unit)), key=lambda row: digest_text(self.names[row]))
        turns = [[row for row in drawn if stands_for[row] == is_first] for is_first in (True, False)]
        for turn in range(max(map(len, turns), default=0)):
            for row in (rows[turn] for rows in turns if turn < len(rows)):
                yield Look(row, bool(stands_for[row]), self._earlier(unit, row, first, order[: rank[row]]))

    def _earlier(
        self, unit: NDArray[np.float32], row: int, first: Places, earlier: Places
    ) -> tuple[int, ...]:
        """The photo that stands for the group of another one, then those most like it: at most CANDIDATES."""
        own = first[self.groups[row]]
        nearest = earlier[top_columns((unit[earlier] @ unit[row])[None], CANDIDATES)[0]].tolist()
        return tuple(dict.fromkeys(([int(own)] if own != row else []) + nearest))[:CANDIDATES]

    @staticmethod
    def _middle(unit: NDArray[np.float32], rows: Places) -> int:
        """The photo of a group that is most like all of it."""
        return int(rows[np.argmax(unit[rows] @ unit[rows].sum(axis=0))])

    def is_first(self, look: Look, said: Said) -> bool | None:
        """Whether no earlier photo shows the individual of a drawn one; None where that is not decided."""
        answers = [said.same(look.photo, other) for other in look.earlier]
        return False if True in answers else None if None in answers else True

    def is_unsure(self, look: Look, said: Said) -> bool:
        """Whether a person could not tell whom a drawn photo shows."""
        return any(_rising(look.photo, other) in said.unsure for other in look.earlier)

    def open_looks(self, said: Said, most: int) -> list[Look]:
        """The next looks that nobody has decided, each with the photos that are left to hold it against."""
        undecided = (look for look in self.looks() if self.is_first(look, said) is None)
        waiting = (look for look in undecided if not self.is_unsure(look, said))
        return [
            look._replace(earlier=tuple(x for x in look.earlier if said.same(look.photo, x) is None))
            for look, _ in zip(waiting, range(most), strict=False)
        ]


class Stratum(NamedTuple):
    """Photos of one kind, how many of them were drawn and decided, and how many of those were first."""

    photos: int
    decided: int
    first: int

    def total(self) -> tuple[float, float, float]:
        """How many photos of it are first, with the ends of an interval; some must be decided, or none there."""
        size, n, x = self
        if n == size:
            return float(x), float(x), float(x)
        share, effective = x / n, n * (size - 1) / (size - n)
        centre = (share + Z**2 / (2 * effective)) / (1 + Z**2 / effective)
        half = sqrt(share * (1 - share) / effective + (Z / (2 * effective)) ** 2) * Z / (1 + Z**2 / effective)
        return size * share, max(size * (centre - half), x), min(size * (centre + half), size - (n - x))


class Count(NamedTuple):
    """How many individuals there are; the ends of its interval are None where no pairs were reviewed."""

    value: float
    low: float | None = None
    high: float | None = None
    photos: int = 0
    """How many drawn photos were decided."""


def count_individuals(review: Review, said: Said) -> Count:
    """How many individuals the photos show, by what was said of those that were drawn, with a 95 % interval.

    Taken are the drawn photos of each stratum up to the first that nobody has looked at; those that a person
    could not tell are left out, as if they had not been drawn. Without one of either stratum the count is the
    number of groups, without an interval.
    """
    groups = len(set(review.groups.tolist()))
    sizes = {True: groups, False: len(review.groups) - groups}
    decided: dict[bool, list[bool]] = {True: [], False: []}
    ended: set[bool] = set()
    for look in review.looks():
        kind, answer = look.first_of_group, review.is_first(look, said)
        if answer is None and not review.is_unsure(look, said):
            ended.add(kind)
        elif answer is not None and kind not in ended:
            decided[kind].append(answer)
        if len(ended) == len(sizes):
            break
    strata = [Stratum(size, len(decided[kind]), sum(decided[kind])) for kind, size in sizes.items()]
    if any(stratum.photos and not stratum.decided for stratum in strata):
        return Count(float(groups))
    return combined(strata)


def combined(strata: Sequence[Stratum]) -> Count:
    """The photos of all strata that are first, with an interval from theirs (Zou and Donner, 2008).

    >>> combined([Stratum(40, 20, 18), Stratum(100, 25, 1)]).value
    40.0
    """
    totals = [stratum.total() for stratum in strata]
    value = sum(total for total, _, _ in totals)
    below, above = (sqrt(sum((total[0] - total[end]) ** 2 for total in totals)) for end in (1, 2))
    return Count(value, value - below, value + above, sum(stratum.decided for stratum in strata))
